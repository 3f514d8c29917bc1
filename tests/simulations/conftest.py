"""What the tests of simulations share."""

from __future__ import annotations

from pathlib import Path

import pytest

from trend_client.engine import Engine


@pytest.fixture(scope="module")
def engine(tiny_backbone: Path) -> Engine:
    """One for all tests of a module, as all clients of a simulation share one."""
    return Engine(str(tiny_backbone), device="cpu")
