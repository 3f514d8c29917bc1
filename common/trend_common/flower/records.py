"""A message of the protocol as a Flower record, and back, with nothing else let through.

A message is a ``RecordDict`` of exactly

* ``body``: a ConfigRecord of one text, the model's canonical JSON, and
* ``tensors``, where the message carries any: an ArrayRecord of one array of bytes, which is a safetensors file.

One array instead of one per tensor because Flower fetches every array in a request of its own: forty LoRA tensors
would be more than eighty requests. The bytes are what is stored and hashed, and safetensors cannot carry code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from numpy.typing import NDArray

from trend_common.errors import PolicyError
from trend_common.protocol import ARRAYS_KEY, BODY_KEY, WireModel, parse

__all__ = ["PACKED_KEY", "pack", "reply", "tensors_from_bytes", "tensors_to_bytes", "unpack"]

PACKED_KEY = "safetensors"
"""Name of the one array in the ArrayRecord."""

Model = TypeVar("Model", bound=WireModel)

_DTYPES = (np.dtype("float32"), np.dtype("int8"))
_HINT = "Both sides must run the same version of the software."


def tensors_to_bytes(tensors: Mapping[str, NDArray[np.generic]]) -> bytes:
    """Return ``tensors`` (float32 or int8) as a safetensors file; the same tensors give the same bytes.

    Raises:
        PolicyError: A tensor has another dtype.
    """
    from safetensors.numpy import save

    for name, value in tensors.items():
        if value.dtype not in _DTYPES:
            raise PolicyError(f"{name} has dtype {value.dtype}; only float32 and int8 travel.", "")
    data: bytes = save({name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)})
    return data


def tensors_from_bytes(data: bytes) -> dict[str, NDArray[np.generic]]:
    """Invert :func:`tensors_to_bytes`.

    Raises:
        PolicyError: The bytes are not a safetensors file of float32 and int8.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors: dict[str, NDArray[np.generic]] = load(data)
    except (SafetensorError, ValueError, KeyError, AttributeError, TypeError, OverflowError) as error:
        raise PolicyError("The tensors of a message cannot be read.", _HINT) from error
    for name, value in tensors.items():
        if value.dtype not in _DTYPES:
            raise PolicyError(f"{name} has dtype {value.dtype}; only float32 and int8 travel.", _HINT)
    return tensors


def pack(body: WireModel, tensors: Mapping[str, NDArray[np.generic]] | bytes | None = None) -> RecordDict:
    """Return ``body`` and, if there are any, ``tensors`` as a record.

    Args:
        body: The message.
        tensors: Named tensors, or the very bytes that :func:`tensors_to_bytes` made earlier.
    """
    content = RecordDict({BODY_KEY: ConfigRecord({BODY_KEY: body.canonical()})})
    if tensors is not None:
        data = tensors if isinstance(tensors, bytes) else tensors_to_bytes(tensors)
        content[ARRAYS_KEY] = ArrayRecord({PACKED_KEY: Array(np.frombuffer(data, dtype=np.uint8))})
    return content


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
    names = set(content.keys())
    allowed = {BODY_KEY} if tensors is False else {BODY_KEY, ARRAYS_KEY}
    needed = {BODY_KEY, ARRAYS_KEY} if tensors else {BODY_KEY}
    if not needed <= names <= allowed:
        raise PolicyError(
            f"A {model.__name__} holds {sorted(needed)}, but {sorted(map(str, names))[:5]} came.", _HINT
        )
    body = content[BODY_KEY]
    if not isinstance(body, ConfigRecord) or set(body.keys()) != {BODY_KEY}:
        raise PolicyError(f"The body of a {model.__name__} is not one text.", _HINT)
    message = parse(model, body[BODY_KEY])
    if ARRAYS_KEY not in names:
        return message, {}
    arrays = content[ARRAYS_KEY]
    if not isinstance(arrays, ArrayRecord) or set(arrays.keys()) != {PACKED_KEY}:
        raise PolicyError(f"The tensors of a {model.__name__} are not one packed array.", _HINT)
    try:
        packed = arrays[PACKED_KEY].numpy()
    except (ValueError, TypeError, EOFError, OSError) as error:
        raise PolicyError("The tensors of a message cannot be read.", _HINT) from error
    if packed.dtype != np.uint8 or packed.ndim != 1:
        raise PolicyError(f"The tensors of a {model.__name__} are not bytes.", _HINT)
    return message, tensors_from_bytes(packed.tobytes())


def reply(to: Message, body: WireModel, tensors: Mapping[str, NDArray[np.generic]] | bytes | None = None) -> Message:
    """Return the answer to a message, for a ClientApp to hand back."""
    return Message(pack(body, tensors), reply_to=to)
