"""The old methods must be as strong as they really are, or beating them would mean nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from trend_common import baselines
from trend_common.baselines import baseline_forecast, fill_forward
from trend_common.forecasts import LEVELS
from trend_common.panel import SalesPanel
from trend_common.scoring import next_origin, panel_before

LEVELS_PERCENT = [20, 40, 60, 80, 90]


def panel_of(values: dict[str, np.ndarray], *, freq: str = "D", offset: str = "D") -> SalesPanel:
    parts = [
        pd.DataFrame(
            {
                "unique_id": name,
                "ds": pd.date_range("2022-01-07", periods=len(y), freq=offset),
                "y": y,
                "closed": False,
            }
        )
        for name, y in values.items()
    ]
    frame = pd.concat(parts, ignore_index=True)
    static = pd.DataFrame(
        {"store": "s", "product": list(values), "category": "", "description": ""}, index=list(values)
    )
    return SalesPanel("test", freq, offset, frame, frame.loc[[], ["unique_id", "ds"]], static, {}, (), len(frame))  # type: ignore[arg-type]


def sales(seed: int, length: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 50 + 20 * np.sin(2 * np.pi * np.arange(length) / 7) + rng.normal(0, 4, length)


def theirs(model: str, y: np.ndarray, horizon: int, **settings: Any) -> dict[str, np.ndarray]:
    models = pytest.importorskip("statsforecast.models")
    result: dict[str, np.ndarray] = getattr(models, model)(**settings).forecast(y, horizon, level=LEVELS_PERCENT)
    return result


@pytest.mark.parametrize("length", [50, 53, 200])
def test_the_naive_ones_agree_with_statsforecast(length: int) -> None:
    y = sales(0, length)
    panel = panel_of({"a": y})
    ours = baseline_forecast(["naive", "seasonal-naive"], panel, next_origin(panel), 10)
    for name, result in (
        ("naive", theirs("Naive", y, 10)),
        ("seasonal-naive", theirs("SeasonalNaive", y, 10, season_length=7)),
    ):
        assert_allclose(ours[name].mean[0], result["mean"])
        for level, key in ((0.05, "lo-90"), (0.1, "lo-80"), (0.4, "lo-20"), (0.8, "hi-60"), (0.95, "hi-90")):
            assert_allclose(ours[name].quantile(level)[0], np.maximum(result[key], 0))


def test_ets_and_theta_are_statsforecasts_own() -> None:
    y = sales(1, 120)
    panel = panel_of({"b": y, "a": y + 5})
    ours = baseline_forecast(["auto-ets", "auto-theta"], panel, next_origin(panel), 7)
    for name, model in (("auto-ets", "AutoETS"), ("auto-theta", "AutoTheta")):
        result = theirs(model, y, 7, season_length=7)
        mine = ours[name].select(["b"])
        assert_allclose(mine.mean[0], result["mean"])
        assert_allclose(mine.quantile(0.9)[0], result["hi-80"])
        assert_allclose(mine.quantile(0.05)[0], result["lo-90"])
        assert_allclose(mine.median[0], result["mean"])


@pytest.mark.parametrize(("length", "lag"), [(103, 1), (104, 52), (150, 52)])
def test_weekly_data_repeat_the_year_once_there_are_two(length: int, lag: int) -> None:
    y = np.arange(float(length))
    panel = panel_of({"a": y}, freq="W", offset="W-FRI")
    ours = baseline_forecast(["seasonal-naive"], panel, next_origin(panel), 8)["seasonal-naive"]
    assert_allclose(ours.mean[0], y[-lag:][np.arange(8) % lag])


def test_the_mean_of_equal_weekdays_passes_over_gaps() -> None:
    y = np.tile(np.arange(7.0), 12)
    y[-7] = np.nan  # The last value of phase 0 is unknown; the eight before it are all 0.
    y[-1] = 14.0  # Phase 6: seven sixes and a fourteen.
    panel = panel_of({"a": y})
    ours = baseline_forecast(["same-phase-mean"], panel, next_origin(panel), 14)["same-phase-mean"]
    assert_allclose(ours.mean[0], np.tile([0, 1, 2, 3, 4, 5, 7], 2))
    four = baseline_forecast(["same-phase-mean-4"], panel, next_origin(panel), 14)["same-phase-mean-4"]
    assert_allclose(four.mean[0], np.tile([0, 1, 2, 3, 4, 5, 8], 2))
    assert ours.quantile(0.95)[0, 0] == 0, "its residuals are all zero but one"


def test_the_quantiles_of_the_mean_are_its_own_residuals() -> None:
    rng = np.random.default_rng(0)
    y = 100 + rng.normal(0, 10, 700)
    panel = panel_of({"a": y})
    ours = baseline_forecast(["same-phase-mean"], panel, next_origin(panel), 1)["same-phase-mean"]
    low, high = ours.interval(0.8)
    assert float(high[0, 0] - low[0, 0]) == pytest.approx(2 * 1.2816 * 10 * np.sqrt(1 + 1 / 8), rel=0.1)


@pytest.mark.parametrize("name", baselines.BASELINES)
def test_no_method_looks_past_the_origin(name: str) -> None:
    y = sales(2, 90)
    origin = pd.Timestamp("2022-01-07") + pd.Timedelta(days=70)
    spoiled = np.where(np.arange(90) < 70, y, 1e6)
    results = [
        baseline_forecast([name], panel, origin, 7)[name]
        for panel in (panel_of({"a": y}), panel_of({"a": spoiled}), panel_before(panel_of({"a": y}), origin))
    ]
    for result in results[1:]:
        assert_array_equal(result.quantiles, results[0].quantiles)
    assert results[0].ds[0, 0] == np.datetime64(origin, "ns")


@pytest.mark.parametrize("name", baselines.BASELINES)
def test_hard_series_still_get_a_sane_forecast(name: str) -> None:
    """Gaps, one value, all zeros, an early end, a giant outlier: a retailer has them all in one file."""
    gaps = sales(3, 80)
    gaps[[5, 20, 21, 22, 79]] = np.nan
    cases = {
        "gaps": gaps,
        "one": np.r_[np.full(79, np.nan), 3.0],
        "zeros": np.zeros(80),
        "ended": np.r_[sales(4, 40), np.full(40, np.nan)],
        "outlier": np.r_[np.ones(60), 1e5, np.ones(19)],
        "never": np.full(80, np.nan),
        "short": np.array([1.0, 2.0, 3.0]),
    }
    panel = panel_of(cases)
    # A window shorter than the time since "ended" and "short" stopped.
    ours = baseline_forecast([name], panel, next_origin(panel), 9, max_history=30)[name]
    assert ours.ids == ("ended", "gaps", "one", "outlier", "short", "zeros")
    assert ours.quantiles.min() >= 0
    assert_allclose(ours.select(["zeros"]).quantiles, 0, atol=1e-6)
    assert_allclose(ours.select(["one"]).mean, 3)
    assert ours.select(["gaps"]).mean.max() < 100


def test_a_shop_silent_before_the_origin_keeps_its_weekdays() -> None:
    """The phase counts from the origin, not from the last row of the file."""
    y = np.tile(np.arange(7.0), 10)
    panel = panel_of({"a": y})
    later = next_origin(panel) + pd.Timedelta(days=3)
    ours = baseline_forecast(["seasonal-naive", "same-phase-mean"], panel, later, 4)
    for forecast in ours.values():
        assert_allclose(forecast.mean[0], [3, 4, 5, 6])


def test_a_model_that_runs_away_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    y = sales(5, 60)
    panel = panel_of({"a": y, "b": y, "c": y})

    def wild(names: list[str], filled: np.ndarray, season: int, horizon: int) -> dict[str, Any]:
        mean = np.repeat([[10.0], [1e7], [np.nan]], horizon, axis=1)
        return {names[0]: (np.repeat(mean[..., None], len(LEVELS), axis=-1), mean)}

    monkeypatch.setattr(baselines, "_statsforecast", wild)
    result = baseline_forecast(["auto-ets", "seasonal-naive"], panel, next_origin(panel), 7)
    assert_allclose(result["auto-ets"].mean[0], 10)
    assert_allclose(result["auto-ets"].quantiles[1:], result["seasonal-naive"].quantiles[1:])


def test_gaps_are_filled_by_the_season_and_else_by_the_last_value() -> None:
    nan = np.nan
    assert_allclose(fill_forward(np.array([[nan, 1, nan, 4, nan, nan]]), 2), [[nan, 1, 1, 4, 1, 4]])


def test_an_unknown_name_is_refused() -> None:
    panel = panel_of({"a": sales(0, 30)})
    with pytest.raises(ValueError, match="'arima'"):
        baseline_forecast(["arima"], panel, next_origin(panel), 7)
