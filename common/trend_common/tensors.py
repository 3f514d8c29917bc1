"""Named tensors as they travel: hashing, checking against a schema, and int8 with stochastic rounding.

Everything here is numpy, so that a server without torch and a reader without it can follow.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from trend_common.errors import PolicyError

__all__ = [
    "INT8_KEY",
    "SCALE_KEY",
    "TensorSpec",
    "Tensors",
    "check_shapes",
    "check_tensors",
    "decode_int8",
    "encode_int8",
    "largest_value",
    "tensors_sha256",
    "total_norm",
]

Tensors = dict[str, NDArray[np.float32]]
"""Name → float32 array. The unit of everything that is trained, sent, averaged and stored."""

INT8_KEY: Final = "int8"
SCALE_KEY: Final = "scale"
_LEVELS: Final = 127
_TINY: Final = float(np.finfo(np.float32).tiny)


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
        return math.prod(self.shape)


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
    return check_shapes(tensors, {spec.name: spec.shape for spec in schema}, what)


def check_shapes(
    tensors: Mapping[str, NDArray[np.generic]], wanted: Mapping[str, tuple[int, ...]], what: str
) -> Tensors:
    """:func:`check_tensors` with name → shape for a schema."""
    problems = [f"{name} is missing" for name in sorted(wanted.keys() - tensors.keys())]
    problems += [f"{name} is not in the schema" for name in sorted(tensors.keys() - wanted.keys())]
    arrays = {name: np.asarray(tensors[name]) for name in sorted(wanted.keys() & tensors.keys())}
    for name, array in arrays.items():
        if array.shape != wanted[name]:
            problems.append(f"{name} has shape {array.shape}, not {wanted[name]}")
        elif array.dtype != np.float32:
            problems.append(f"{name} has dtype {array.dtype}, not float32")
    # All at once, and one by one only to say which.
    if problems or not np.isfinite(_flat(arrays)).all():
        problems += [
            f"{name} holds values that are not finite"
            for name, array in arrays.items()
            if array.dtype == np.float32 and not np.isfinite(array).all()
        ]
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise PolicyError(
            f"The tensors of {what} do not fit the plan: {shown}.",
            "Only the adapter tensors that the plan names, with their shapes, as finite float32, may travel.",
        )
    return {name: np.asarray(arrays[name], dtype=np.float32) for name in wanted}


def _flat(tensors: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """All elements of all tensors [D]."""
    return np.concatenate([value.reshape(-1) for value in tensors.values()]) if tensors else np.zeros(0, np.float32)


def total_norm(tensors: Mapping[str, NDArray[np.floating]]) -> float:
    """The Euclidean norm over all elements of all tensors."""
    return float(np.sqrt(np.sum(np.square(_flat(tensors), dtype=np.float64))))


def largest_value(tensors: Mapping[str, NDArray[np.floating]]) -> float:
    """The largest absolute value of all elements of all tensors; 0 where there is none."""
    return float(np.max(np.abs(_flat(tensors)), initial=0.0))


def encode_int8(tensors: Tensors, source: UniformSource) -> dict[str, NDArray[np.generic]]:
    """Round each tensor to 255 levels, up or down at random so that the expectation is the value itself.

    The scale is taken from the values themselves, so this may only be applied to values that already carry their
    noise: it is then post-processing and costs no privacy.

    Returns:
        ``int8`` [D], all tensors flattened in the order of their names, and ``scale`` float32 [number of tensors]:
        two arrays, since a name for each would be half of the message.
    """
    parts = [tensors[name].reshape(-1) for name in sorted(tensors)]
    largest = np.array([float(np.max(np.abs(part))) if part.size else 0.0 for part in parts])
    # The least normal number, so that the scale of subnormal values does not round to zero.
    scales = np.where(largest > 0, np.maximum(largest / _LEVELS, _TINY), 1.0).astype(np.float32)
    joined = np.concatenate(parts, dtype=np.float64) if parts else np.zeros(0)
    exact = joined / np.repeat(scales.astype(np.float64), [part.size for part in parts])
    floor = np.floor(exact)
    up = source.uniform(joined.size) < exact - floor
    return {INT8_KEY: np.clip(floor + up, -_LEVELS, _LEVELS).astype(np.int8), SCALE_KEY: scales}


def decode_int8(encoded: Mapping[str, NDArray[np.generic]], schema: Sequence[TensorSpec]) -> Tensors:
    """Invert :func:`encode_int8`.

    Raises:
        PolicyError: An array is missing, of another length or dtype, or a scale is not a finite positive number.
    """
    specs = sorted(schema, key=lambda spec: spec.name)
    wanted = {
        INT8_KEY: (np.dtype(np.int8), (sum(spec.size for spec in specs),)),
        SCALE_KEY: (np.dtype(np.float32), (len(specs),)),
    }
    found = {name: (value.dtype, value.shape) for name, value in encoded.items()}
    if found != wanted:
        shown = {name: (str(dtype), shape) for name, (dtype, shape) in list(found.items())[:4]}
        raise PolicyError(
            f"The int8 message holds {shown}, which is not what the plan's adapter needs.",
            f"It needs {INT8_KEY} of {wanted[INT8_KEY][1][0]} values and {SCALE_KEY} of {len(specs)}.",
        )
    scales = encoded[SCALE_KEY].astype(np.float32)
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        raise PolicyError("A scale of the int8 message is not a finite positive number.", "Send it again.")
    sizes = [spec.size for spec in specs]
    values = encoded[INT8_KEY].astype(np.float32) * np.repeat(scales, sizes)
    parts = np.split(values, np.cumsum(sizes)[:-1])
    return {spec.name: part.reshape(spec.shape) for spec, part in zip(specs, parts, strict=True)}
