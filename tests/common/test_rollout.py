"""Horizons beyond the backbone's longest: one block is asked for as ever, further ones go on from its quantiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from trend_common.backbones import LEVELS, load_backbone
from trend_common.backbones.base import Backbone
from trend_common.panel import SalesPanel, from_frame
from trend_common.predicting import predict
from trend_common.rollout import UNSURE, mixture, with_no_sale
from trend_common.windows import PanelWindows

STEPS = 300


@pytest.fixture(scope="module")
def shop() -> SalesPanel:
    """Two products with a strong week; the second one's shop is shut on Sundays."""
    dates = pd.date_range("2024-01-01", periods=STEPS)
    rng = np.random.default_rng(0)
    tables = []
    for store, sundays in (("open", True), ("shut", False)):
        level = 40 + 30 * (dates.weekday == 5)
        table = pd.DataFrame({"date": dates, "store": store, "product": "p", "units": rng.poisson(level)})
        tables.append(table if sundays else table[table["date"].dt.weekday != 6])
    return from_frame(pd.concat(tables), freq="D")


def windows_of(shop: SalesPanel, ahead: int) -> PanelWindows:
    return PanelWindows(shop, context=252, ahead=ahead)


def test_one_block_is_what_the_backbone_says(tiny_backbone: Path, shop: SalesPanel) -> None:
    backbone = load_backbone(str(tiny_backbone))
    short = predict(backbone, windows_of(shop, 56), origin=STEPS, horizon=56)
    long = predict(backbone, windows_of(shop, 130), origin=STEPS, horizon=130)
    np.testing.assert_allclose(long.quantiles[:, :56], short.quantiles, rtol=1e-5)
    assert long.horizon == 130
    assert len(np.unique(long.ds[0])) == 130


def test_a_hundred_days_keep_the_week_and_the_closed_sundays() -> None:
    backbone: Backbone = load_backbone("trend-small")
    dates = pd.date_range("2024-01-01", periods=STEPS)
    rows = [
        pd.DataFrame({"date": dates, "store": s, "product": "p", "units": 40.0 + 30 * (dates.weekday == 5)})
        for s in ("open", "shut")
    ]
    rows[1] = rows[1][rows[1]["date"].dt.weekday != 6]
    panel = from_frame(pd.concat(rows), freq="D")
    made = predict(backbone, windows_of(panel, 100), origin=STEPS, horizon=100)
    days = pd.DatetimeIndex(made.ds[0]).weekday.to_numpy()
    shut, opened = (made.select([f"{s}/p"]).median[0] for s in ("shut", "open"))
    assert shut[days == 6].max() == 0
    assert opened[days == 6].min() > 20
    late = np.arange(100) >= 56
    saturday, other = opened[late & (days == 5)].mean(), opened[late & (days < 5)].mean()
    assert 1.3 < saturday / other < 2.2
    assert 25 < other < 60


def test_uncertainty_goes_on_into_the_next_block(tiny_backbone: Path, shop: SalesPanel) -> None:
    backbone = load_backbone(str(tiny_backbone))
    made = predict(backbone, windows_of(shop, 112), origin=STEPS, horizon=112)
    low, high = made.interval(0.8)
    width = (high - low)[made.ids.index("open/p")]
    alone = predict(backbone, windows_of(shop, 56), origin=STEPS, horizon=56)
    first = (alone.quantile(0.9) - alone.quantile(0.1))[alone.ids.index("open/p")]
    assert width[56:].mean() > 0.99 * first.mean()


def test_the_mixture_of_equal_forecasts_is_the_forecast_and_of_unlike_ones_is_wider() -> None:
    levels = torch.tensor(LEVELS)
    one = (10 + 5 * levels).expand(2, 3, -1)
    same = mixture(torch.stack([one, one, one]))
    torch.testing.assert_close(same, one, atol=0.06, rtol=0)
    unlike = mixture(torch.stack([one, one + 20]))
    assert (unlike[..., 1] < 11).all()
    assert (unlike[..., -2] > 34).all()
    assert (unlike.diff(dim=-1) >= 0).all()


def test_quantiles_agree_with_the_probability_of_no_sale() -> None:
    quantiles = torch.arange(1.0, 1 + len(LEVELS)).expand(1, 4, -1)
    found = with_no_sale(quantiles, torch.tensor([[0.0, UNSURE, 0.3, 0.97]]))
    levels = torch.tensor(LEVELS)
    assert torch.equal(found[0, :2], quantiles[0, :2]), "too unlikely to be told from never"
    assert torch.equal(found[0, 2] == 0, levels <= 0.3)
    assert torch.equal(found[0, 3] == 0, levels <= 0.97)
    assert torch.equal(found[0, 2][levels > 0.3], quantiles[0, 2][levels > 0.3])


def test_a_product_that_hardly_sells_has_days_without_a_sale_in_its_interval() -> None:
    rng = np.random.default_rng(1)
    dates = pd.date_range("2024-01-01", periods=STEPS)
    units = rng.poisson(20, STEPS) * (rng.random(STEPS) < 0.25)
    panel = from_frame(pd.DataFrame({"date": dates, "store": "s", "product": "p", "units": units}), freq="D")
    made = predict(load_backbone("trend-small"), windows_of(panel, 28), origin=STEPS, horizon=28)
    assert (made.quantile(0.1) == 0).all()
    assert (made.median == 0).mean() > 0.5
    assert (made.mean > 0).all()
