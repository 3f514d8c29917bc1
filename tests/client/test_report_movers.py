"""Rises and falls: what is compared, and how far the interval of a sum may be believed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from trend_client.report.movers import Change, changes, movers
from trend_common.forecasts import LEVELS, Forecast
from trend_common.panel import SalesPanel

STEPS = 14


def panel_of(y: dict[str, np.ndarray], end: str = "2024-06-30") -> SalesPanel:
    frames = [
        pd.DataFrame({"unique_id": name, "ds": pd.date_range(end=end, periods=len(one)), "y": one, "closed": False})
        for name, one in y.items()
    ]
    frame = pd.concat(frames, ignore_index=True)
    static = pd.DataFrame({"store": "s", "product": list(y), "category": "", "description": ""}, index=list(y))
    return SalesPanel("Shop", "D", "D", frame, frame.loc[[], ["unique_id", "ds"]], static, {}, (), len(frame))


def forecast_of(means: dict[str, float], *, wide: float = 0.3) -> Forecast:
    """Each step alike, its quantiles normal about the mean."""
    from scipy.special import ndtri

    mean = np.repeat(np.array(list(means.values()))[:, None], STEPS, axis=1)
    quantiles = mean[..., None] * np.maximum(1 + wide * ndtri(np.array(LEVELS)), 0)
    return Forecast.repaired(tuple(means), pd.date_range("2024-07-01", periods=STEPS), quantiles, mean)


def test_the_largest_changes_in_units_come_first_and_each_on_its_side() -> None:
    means = {"up": 20.0, "more": 50.0, "same": 10.0, "down": 5.0, "less": 1.0}
    panel = panel_of({name: np.full(60, 10.0) for name in means})
    forecast = forecast_of(means)
    rises, falls = movers(changes(panel, forecast), 2, forecast)
    assert [one.series for one in rises] == ["more", "up"]
    assert [one.series for one in falls] == ["less", "down"]
    assert rises[0].before == 10.0 * STEPS
    assert rises[0].expected == pytest.approx(50.0 * STEPS)
    assert rises[0].relative == pytest.approx(4.0)


def test_only_series_known_in_all_steps_before_are_compared() -> None:
    gap = np.full(60, 10.0)
    gap[-3] = np.nan
    panel = panel_of({"whole": np.full(60, 10.0), "gap": gap, "young": np.full(STEPS - 1, 10.0)})
    found = changes(panel, forecast_of({"whole": 1.0, "gap": 1.0, "young": 1.0}))
    assert [one.series for one in found] == ["whole"]


def test_a_product_that_ended_long_ago_is_not_compared_with_its_last_days() -> None:
    panel = panel_of({"goes on": np.full(60, 10.0)})
    ended = panel.frame.assign(unique_id="ended", ds=panel.frame["ds"] - pd.Timedelta(days=90))
    static = pd.concat([panel.static, panel.static.rename(index={"goes on": "ended"})])
    both = replace(panel, frame=pd.concat([ended, panel.frame], ignore_index=True), static=static)
    assert [one.series for one in changes(both, forecast_of({"ended": 1.0, "goes on": 1.0}))] == ["goes on"]


def test_the_interval_of_a_sum_lies_between_independent_and_equal_steps() -> None:
    panel, forecast = panel_of({"a": np.full(60, 10.0)}), forecast_of({"a": 20.0})
    (rise,), _ = movers(changes(panel, forecast), 1, forecast)
    half = 1.2816 * 0.3 * 20.0  # of one step's 80 % interval
    assert rise.low < rise.expected < rise.high
    assert half * np.sqrt(STEPS) < rise.high - rise.expected < half * STEPS
    assert rise.clear, "20 a day is far from 10"
    assert not replace(rise, before=rise.expected + 1).clear


def test_errors_that_come_together_widen_the_interval(make_panel: Any, make_report: Any) -> None:
    data = make_report(make_panel())
    tested = data.backtest
    rng = np.random.default_rng(0)
    many = tuple(f"s{row}" for row in range(60))
    made = Forecast(
        many,
        np.repeat(tested.forecast.ds[:1], 60, axis=0),
        tested.forecast.levels,
        np.repeat(tested.forecast.quantiles[:1], 60, axis=0),
        np.repeat(tested.forecast.mean[:1], 60, axis=0),
    )

    def width(shared: float) -> float:
        noise = shared * rng.standard_normal((60, 1)) + np.sqrt(1 - shared**2) * rng.standard_normal(made.mean.shape)
        truth = replace(tested.actuals, ids=many, y=np.maximum(made.median * (1 + 0.3 * noise), 0))
        changed = replace(tested, forecast=made, actuals=truth)
        forecast = forecast_of({"a": 20.0})
        (rise,), _ = movers([Change("a", 1.0, 20.0 * STEPS)], 1, forecast, changed)
        return rise.high - rise.low

    assert width(0.95) > 1.5 * width(0.0)


def test_nothing_sold_before_has_no_share() -> None:
    assert Change("a", 0.0, 5.0).relative == float("inf")


def test_no_series_no_movers() -> None:
    forecast = forecast_of({"a": 1.0}).select([])
    assert movers([], 5, forecast) == ([], [])
