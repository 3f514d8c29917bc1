"""Small recipes, small sales files, and no validation unless a test wants it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import trend_server.pretraining.keeper as keeper
from trend_server.pretraining.recipe import ModelShape, Recipe

TINY = ModelShape(d_model=16, n_layers=1, n_heads=2, d_ff=32)


@pytest.fixture
def tiny() -> Callable[..., Recipe]:
    """A recipe of seconds; keywords change it."""

    def make(**changes: object) -> Recipe:
        values = {"model": TINY, "steps": 12, "batch": 8, "micro_batch": 4, "warmup": 2, "decay": 4, "bf16": False}
        return Recipe.model_validate({**values, **changes})

    return make


@pytest.fixture
def _no_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "validation_loss", lambda *_, **__: 0.0)


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    """The tiny recipe as a file."""
    path = tmp_path / "tiny.toml"
    path.write_text(
        "steps = 6\nbatch = 8\nmicro_batch = 4\nwarmup = 1\ndecay = 2\nbf16 = false\n"
        "[model]\nd_model = 16\nn_layers = 1\nn_heads = 2\nd_ff = 32\n"
    )
    return path


@pytest.fixture
def sales_file(tmp_path: Path) -> Callable[..., Path]:
    """A CSV of daily sales: a weekday profile with little noise; the last 84 days sell a thousandfold on demand."""

    def write(name: str = "sales.csv", *, days: int = 300, products: int = 8, marked: bool = False) -> Path:
        rng = np.random.default_rng(1)
        steps = np.arange(days)
        rows = []
        for product in range(products):
            profile = np.array([4, 4, 5, 6, 9, 12, 2])[(steps + product % 2) % 7]
            units = np.round(profile * (2 + product) * np.exp(rng.normal(0, 0.05, days)))
            if marked:
                units = np.where(steps >= days - 84, units * 1000, units)
            dates = pd.date_range("2023-01-02", periods=days)
            rows.append(pd.DataFrame({"date": dates, "product": f"p{product}", "store": "s", "units": units}))
        path = tmp_path / name
        pd.concat(rows).to_csv(path, index=False)
        return path

    return write
