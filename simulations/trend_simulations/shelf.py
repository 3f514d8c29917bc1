"""Objects of many clients in files, each in memory only while it is used.

A federation of a thousand retailers has one at work at a time in each process. What the others need later (sales,
windows) lies in a folder meanwhile. Arrays can be taken out as views of the mapped file: nothing is copied, processes
share one page of it, and the system can drop what is not looked at.
"""

from __future__ import annotations

import mmap
import os
import pickle
import struct
from pathlib import Path
from typing import Any, Final

__all__ = ["Shelf"]

_ALIGNED: Final = 64
"""Bytes at whose multiples arrays begin, as numpy's own allocations do."""


class Shelf:
    """Pickled objects in a folder of this process, or of one that it forks.

    Args:
        folder: Made if it is missing. Whoever can write into it can run code here, so it must be this process's own
            (a temporary folder is).
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def put(self, name: str, value: object) -> None:
        """Write ``value``; one of the same name is replaced."""
        buffers: list[pickle.PickleBuffer] = []
        body = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        parts = [memoryview(body), *(buffer.raw() for buffer in buffers)]
        head = struct.pack(f"<{1 + len(parts)}Q", len(parts), *(part.nbytes for part in parts))
        path = self._folder / name
        writing = path.with_name(f"{name}.{os.getpid()}")
        with writing.open("wb") as file:
            file.write(head)
            for part in parts:
                file.write(bytes(-file.tell() % _ALIGNED))
                file.write(part)
        writing.replace(path)  # whoever has mapped the old one keeps it

    def has(self, name: str) -> bool:
        """Whether there is one of this name."""
        return (self._folder / name).exists()

    def take(self, name: str, *, mapped: bool = False) -> Any:
        """The object; ``mapped`` makes its arrays read-only views of the file, else they are copies of their own.

        Raises:
            FileNotFoundError: There is none of this name.
        """
        with (self._folder / name).open("rb") as file:
            if mapped:
                whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            else:
                whole = memoryview(bytearray(file.read()))
        (count,) = struct.unpack_from("<Q", whole)
        sizes = struct.unpack_from(f"<{count}Q", whole, 8)
        parts, place = [], 8 * (1 + count)
        for size in sizes:
            place += -place % _ALIGNED
            parts.append(whole[place : place + size])
            place += size
        return pickle.loads(parts[0], buffers=parts[1:])  # noqa: S301  This process wrote it.
