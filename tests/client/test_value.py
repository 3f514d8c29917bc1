"""The gain in units and money."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from trend_client.value import Pricing, last_prices, value
from trend_common.errors import UsageError
from trend_common.forecasts import LEVELS, Forecast
from trend_common.panel import SalesPanel

DATES = pd.date_range("2024-01-01", periods=4)


def sure(mean: np.ndarray) -> Forecast:
    return Forecast.repaired(
        [f"s{row}" for row in range(len(mean))], DATES, np.repeat(mean[..., None], len(LEVELS), -1), mean
    )


def test_units_and_money_by_hand() -> None:
    y = np.array([[10.0, 10, 10, np.nan], [20, 20, 20, 20]])
    old, new = sure(np.full((2, 4), 16.0)), sure(np.array([[11.0] * 4, [19.0] * 4]))
    found = value(y, new, old, np.array([2.0, np.nan]), Pricing(), against="old")
    assert (found.units.old, found.units.new, found.units.saved) == (3 * 6 + 4 * 4, 3 + 4, 27)
    assert found.units.low is None, "two series say nothing of chance"
    assert found.money is not None
    assert (found.money.saved, found.money.series) == (2.0 * (18 - 3), 1), "only the first has a price"
    with_margin = value(y, new, old, np.array([2.0, np.nan]), Pricing(price=3.0, margin=0.25), against="old")
    assert with_margin.money is not None
    # 25 % of the price for each unit that lacks, 75 % for each that is left.
    assert_allclose(with_margin.money.old, 3 * (0.75 * 18 + 0.25 * 16))
    assert_allclose(with_margin.money.new, 3 * (0.75 * 3 + 0.25 * 4))


def test_the_interval_covers_the_sum_and_excludes_chance() -> None:
    rng = np.random.default_rng(0)
    y = rng.uniform(10, 20, (50, 4))
    found = value(y, sure(y + 1), sure(y + 3), np.ones(50), Pricing(), against="old")
    assert found.units.low is not None
    assert found.units.high is not None
    assert found.units.saved == pytest.approx(50 * 4 * 2)
    assert found.units.low - 1e-6 <= found.units.saved <= found.units.high + 1e-6
    same = value(
        y,
        sure(y + rng.normal(0, 1, y.shape)),
        sure(y + rng.normal(0, 1, y.shape)),
        np.ones(50),
        Pricing(),
        against="o",
    )
    assert same.units.low < 0 < same.units.high  # type: ignore[operator]


def test_no_prices_no_money() -> None:
    y = np.ones((6, 4))
    assert value(y, sure(y), sure(y + 1), np.full(6, np.nan), Pricing(margin=0.3), against="old").money is None


def test_prices_after_the_day_are_not_looked_at(panel: SalesPanel) -> None:
    day = pd.Timestamp("2024-03-01")
    later = panel.frame.assign(price=panel.frame["price"].where(panel.frame["ds"] < day, 99.0))
    frame = panel.frame
    assert_allclose(
        last_prices(panel, day, panel.ids),
        last_prices(type(panel)(**{**vars(panel), "frame": later}), day, panel.ids),
    )
    mine = frame[(frame["unique_id"] == panel.ids[0]) & (frame["ds"] < day)]["price"].iloc[-1]
    assert last_prices(panel, day, panel.ids)[0] == mine


@pytest.mark.parametrize(
    ("price", "margin", "said"), [(0.0, None, "--price"), (None, 30.0, "0.3 if 30"), (None, 0.0, "--margin")]
)
def test_a_wrong_price_or_margin_says_what_is_meant(price: float | None, margin: float | None, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        Pricing(price, margin)
    assert said in str(caught.value)
