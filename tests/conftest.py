"""What all tests share: quiet libraries, one thread, state folders of their own, a tiny backbone and small panels."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import pytest

from trend_common.panel import SalesPanel, from_frame


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test touches the state folder of the person who runs it."""
    monkeypatch.setenv("TREND_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("TREND_CLIENT_HOME", str(tmp_path / "client-home"))


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone of a few KB with random weights, saved and loaded by the real code."""
    import torch

    from trend_common.backbones.trend import TrendConfig, TrendModel

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("backbone") / "tiny"
    with torch.random.fork_rng():
        torch.manual_seed(1)
        TrendModel(TrendConfig(d_model=16, n_layers=1, n_heads=2, d_ff=32)).save_pretrained(folder)
    return folder


def sales_frame(
    n_products: int = 6, n_stores: int = 2, steps: int = 140, freq: str = "D", seed: int = 0
) -> pd.DataFrame:
    """Long sales with weekly seasonality, promotions and prices."""
    rng = np.random.default_rng(seed)
    dates = pd.date_range("2024-01-01", periods=steps, freq={"D": "D", "W": "W-MON", "M": "MS"}[freq])
    rows = []
    for store in range(n_stores):
        for product in range(n_products):
            level = float(np.exp(rng.normal(2.5, 0.6)))
            season = 1 + 0.4 * np.sin(2 * np.pi * np.arange(steps) / 7)
            promo = (rng.random(steps) < 0.1).astype(int)
            rows.append(
                pd.DataFrame(
                    {
                        "date": dates,
                        "store": f"s{store}",
                        "product": f"p{product}",
                        "units": rng.poisson(level * season * (1 + promo)),
                        "price": 2.0 - 0.4 * promo,
                        "promo": promo,
                        "category": f"c{product % 2}",
                        "description": f"product number {product}",
                    }
                )
            )
    return pd.concat(rows, ignore_index=True)


@pytest.fixture
def sales() -> pd.DataFrame:
    """Twelve daily series of 140 days."""
    return sales_frame()


@pytest.fixture
def panel(sales: pd.DataFrame) -> SalesPanel:
    """The same as a panel."""
    return from_frame(sales)


@pytest.fixture(scope="session")
def trend_data() -> Path:
    """The folder of real retail data, or a skip that says so."""
    folder = os.environ.get("TREND_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("TREND_DATA does not name a folder of retail data")
    return Path(folder)
