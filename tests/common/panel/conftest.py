"""Files as retailers write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Writer = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Write text in an encoding to a new file and return its path."""

    def writer(text: str, *, encoding: str = "utf-8", name: str = "sales.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode(encoding))
        return path

    return writer
