"""A message of the protocol as a Flower record, and back, with nothing else let through.

A message is a ``RecordDict`` of exactly one ConfigRecord, named ``body``, with

* ``body``: the model's canonical JSON, and
* ``tensors``, where the message carries any: the bytes of a safetensors file.

Not an ArrayRecord, because Flower fetches each array, and each part of it, in a request of its own: forty LoRA
tensors would be more than eighty requests each way, where this takes three. The bytes are what is stored and hashed,
and safetensors cannot carry code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict
from numpy.typing import NDArray

from trend_common.errors import PolicyError
from trend_common.protocol import ARRAYS_KEY, BODY_KEY, WireModel, parse

__all__ = ["pack", "reply", "tensors_from_bytes", "tensors_to_bytes", "unpack"]

Model = TypeVar("Model", bound=WireModel)

_DTYPES = (np.dtype("float32"), np.dtype("int8"), np.dtype("uint32"))
_HINT = "Both sides must run the same version of the software."


def tensors_to_bytes(tensors: Mapping[str, NDArray[np.generic]]) -> bytes:
    """Return ``tensors`` (float32, int8 or uint32) as a safetensors file; the same tensors give the same bytes.

    Raises:
        PolicyError: A tensor has another dtype.
    """
    from safetensors.numpy import save

    for name, value in tensors.items():
        if value.dtype not in _DTYPES:
            raise PolicyError(f"{name} has dtype {value.dtype}; only float32, int8 and uint32 travel.", "")
    data: bytes = save({name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)})
    return data


def tensors_from_bytes(data: bytes) -> dict[str, NDArray[np.generic]]:
    """Invert :func:`tensors_to_bytes`.

    Raises:
        PolicyError: The bytes are not a safetensors file of float32, int8 and uint32.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors: dict[str, NDArray[np.generic]] = load(data)
    except (SafetensorError, ValueError, KeyError, AttributeError, TypeError, OverflowError) as error:
        raise PolicyError("The tensors of a message cannot be read.", _HINT) from error
    for name, value in tensors.items():
        if value.dtype not in _DTYPES:
            raise PolicyError(f"{name} has dtype {value.dtype}; only float32, int8 and uint32 travel.", _HINT)
    return tensors


def pack(body: WireModel, tensors: Mapping[str, NDArray[np.generic]] | bytes | None = None) -> RecordDict:
    """Return ``body`` and, if there are any, ``tensors`` as a record.

    Args:
        body: The message.
        tensors: Named tensors, or the very bytes that :func:`tensors_to_bytes` made earlier.
    """
    record = ConfigRecord({BODY_KEY: body.canonical()})
    if tensors is not None:
        record[ARRAYS_KEY] = tensors if isinstance(tensors, bytes) else tensors_to_bytes(tensors)
    return RecordDict({BODY_KEY: record})


def unpack(
    content: RecordDict, model: type[Model], *, tensors: bool | None
) -> tuple[Model, dict[str, NDArray[np.generic]]]:
    """Read a record that :func:`pack` made.

    Args:
        content: What was received.
        model: The message that it must be.
        tensors: True if it must carry tensors, False if it must not, None if it may.

    Returns:
        The message and its tensors (empty without any).

    Raises:
        PolicyError: It is anything else: an unknown record, a missing one, a wrong type, a field too many.
    """
    record = content.get(BODY_KEY)
    if len(content) != 1 or not isinstance(record, ConfigRecord):
        raise PolicyError(f"A {model.__name__} is one record, but {sorted(map(str, content))[:5]} came.", _HINT)
    names = set(record.keys())
    allowed = {BODY_KEY} if tensors is False else {BODY_KEY, ARRAYS_KEY}
    needed = {BODY_KEY, ARRAYS_KEY} if tensors else {BODY_KEY}
    if not needed <= names <= allowed:
        raise PolicyError(
            f"A {model.__name__} holds {sorted(needed)}, but {sorted(map(str, names))[:5]} came.", _HINT
        )
    message = parse(model, record[BODY_KEY])
    if ARRAYS_KEY not in names:
        return message, {}
    data = record[ARRAYS_KEY]
    if not isinstance(data, bytes):
        raise PolicyError(f"The tensors of a {model.__name__} are not bytes.", _HINT)
    return message, tensors_from_bytes(data)


def reply(to: Message, body: WireModel, tensors: Mapping[str, NDArray[np.generic]] | bytes | None = None) -> Message:
    """Return the answer to a message, for a ClientApp to hand back."""
    return Message(pack(body, tensors), reply_to=to)
