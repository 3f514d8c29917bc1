"""Named tensors as they travel: hashing, checking against a schema, and int8 with stochastic rounding.

Everything here is numpy, so that a server without torch and a reader without it can follow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from trend_common.errors import PolicyError

__all__ = [
    "SCALE_SUFFIX",
    "TensorSpec",
    "Tensors",
    "check_tensors",
    "decode_int8",
    "encode_int8",
    "tensors_sha256",
    "total_norm",
]

Tensors = dict[str, NDArray[np.float32]]
"""Name → float32 array. The unit of everything that is trained, sent, averaged and stored."""

SCALE_SUFFIX = ".scale"
_LEVELS = 127


class UniformSource(Protocol):
    """Where stochastic rounding takes its uniforms from (``privacy.noise.SecureGenerator`` is one)."""

    def uniform(self, size: int) -> NDArray[np.float64]:
        """Return ``size`` independent uniforms in the open interval (0, 1)."""
        ...


class TensorSpec(BaseModel):
    """Name and shape of one adapter tensor; the dtype is always float32 before encoding."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=200)
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))


def tensors_sha256(tensors: Mapping[str, NDArray[np.generic]]) -> str:
    """Hash names, dtypes, shapes and bytes, in the order of the names.

    The hash is over little-endian C-order bytes, so it is the same on every machine.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.asarray(tensors[name])
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        digest.update(f"{name}|{little.dtype.str}|{array.shape}|".encode())
        digest.update(little.tobytes())
    return digest.hexdigest()


def check_tensors(tensors: Mapping[str, NDArray[np.generic]], schema: Sequence[TensorSpec], what: str) -> Tensors:
    """Return ``tensors`` as float32, or raise with every difference from ``schema``.

    Args:
        tensors: What was received or is about to be sent.
        schema: The names and shapes that are allowed; nothing may be missing or be there besides.
        what: How to call it in the message, such as "the shared adapter".

    Raises:
        PolicyError: A name, shape or dtype differs, or a value is not finite.
    """
    wanted = {spec.name: spec.shape for spec in schema}
    problems = [f"{name} is missing" for name in sorted(wanted.keys() - tensors.keys())]
    problems += [f"{name} is not in the schema" for name in sorted(tensors.keys() - wanted.keys())]
    for name in sorted(wanted.keys() & tensors.keys()):
        array = np.asarray(tensors[name])
        if array.shape != wanted[name]:
            problems.append(f"{name} has shape {array.shape}, not {wanted[name]}")
        elif array.dtype != np.float32:
            problems.append(f"{name} has dtype {array.dtype}, not float32")
        elif not np.isfinite(array).all():
            problems.append(f"{name} holds values that are not finite")
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise PolicyError(
            f"The tensors of {what} do not fit the plan: {shown}.",
            "Only the adapter tensors that the plan names, with their shapes, as finite float32, may travel.",
        )
    return {name: np.asarray(tensors[name], dtype=np.float32) for name in wanted}


def total_norm(tensors: Mapping[str, NDArray[np.floating]]) -> float:
    """The Euclidean norm over all elements of all tensors."""
    return float(np.sqrt(sum(float(np.sum(np.square(value, dtype=np.float64))) for value in tensors.values())))


def encode_int8(tensors: Tensors, source: UniformSource) -> dict[str, NDArray[np.generic]]:
    """Round each tensor to 255 levels, up or down at random so that the expectation is the value itself.

    The scale is taken from the values themselves, so this may only be applied to values that already carry their
    noise: it is then post-processing and costs no privacy.

    Returns:
        For each name an int8 array of the same shape, and under ``name + ".scale"`` a float32 array of shape [1].
    """
    out: dict[str, NDArray[np.generic]] = {}
    for name, value in tensors.items():
        largest = float(np.max(np.abs(value))) if value.size else 0.0
        scale = np.float32(largest / _LEVELS) if largest > 0 else np.float32(1.0)
        exact = value.astype(np.float64) / float(scale)
        floor = np.floor(exact)
        up = source.uniform(value.size).reshape(value.shape) < exact - floor
        out[name] = np.clip(floor + up, -_LEVELS, _LEVELS).astype(np.int8)
        out[name + SCALE_SUFFIX] = np.array([scale], dtype=np.float32)
    return out


def decode_int8(encoded: Mapping[str, NDArray[np.generic]], schema: Sequence[TensorSpec]) -> Tensors:
    """Invert :func:`encode_int8`.

    Raises:
        PolicyError: A tensor or its scale is missing, has another shape or dtype, or the scale is not a finite
            positive number.
    """
    wanted = {spec.name for spec in schema} | {spec.name + SCALE_SUFFIX for spec in schema}
    if set(encoded) != wanted:
        raise PolicyError(
            f"The int8 message has {len(encoded)} arrays where the plan has {len(wanted)}.",
            "Each adapter tensor travels as one int8 array and one scale.",
        )
    out: Tensors = {}
    for spec in schema:
        value, scale = encoded[spec.name], encoded[spec.name + SCALE_SUFFIX]
        if value.dtype != np.int8 or value.shape != spec.shape:
            raise PolicyError(
                f"{spec.name} is {value.dtype} of shape {value.shape}, not int8 of shape {spec.shape}.",
                "Only the tensors that the plan names may travel.",
            )
        factor = float(scale.reshape(-1)[0]) if scale.dtype == np.float32 and scale.shape == (1,) else float("nan")
        if not (np.isfinite(factor) and factor > 0):
            raise PolicyError(f"The scale of {spec.name} is not a finite positive float32.", "Send it again.")
        out[spec.name] = (value.astype(np.float32) * np.float32(factor)).astype(np.float32)
    return out
