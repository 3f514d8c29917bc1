"""Writing files so that a crash leaves either the old content or the new one, never half of either."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["fsync_directory", "private_directory", "replacing", "write_bytes", "write_json", "write_text"]


def fsync_directory(path: Path) -> None:
    """Make a rename in ``path`` durable; a no-op where directories cannot be opened (Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def private_directory(path: Path) -> Path:
    """Create ``path`` (and parents), readable by its owner alone; return it."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


@contextmanager
def replacing(path: Path, *, private: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on a clean exit fsync it and rename it over ``path``.

    On an exception the temporary file is removed and ``path`` is untouched.

    Args:
        path: The file to replace.
        private: Give the new file mode 0600.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix is kept last: writers such as pandas and matplotlib choose a format by it.
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=f".tmp{path.suffix}")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        if private:
            temporary.chmod(0o600)
        else:
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
        fsync_directory(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes, *, private: bool = False) -> None:
    """Replace ``path`` by ``data``, atomically and durably."""
    with replacing(path, private=private) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str, *, private: bool = False) -> None:
    """Replace ``path`` by ``text`` (UTF-8), atomically and durably."""
    write_bytes(path, text.encode("utf-8"), private=private)


def write_json(path: Path, value: Any, *, private: bool = False) -> None:
    """Replace ``path`` by ``value`` as indented JSON; NaN is refused since JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n", private=private)
