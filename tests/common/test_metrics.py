"""The measures, against utilsforecast's implementation and against rules that hold for all data."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.stats import poisson

from trend_common import metrics
from trend_common.forecasts import LEVELS, Forecast, level_name
from trend_common.metrics import coverage, pit_coverage

Array = np.ndarray


def sample(seed: int, series: int = 4, horizon: int = 6, missing: float = 0.2) -> tuple[Array, Forecast, Array]:
    """Truth [S, H] with gaps, a forecast of it and histories [S, T]."""
    rng = np.random.default_rng(seed)
    level = rng.uniform(5, 50, (series, 1))
    history = level + rng.normal(0, 3, (series, 40))
    y = level + rng.normal(0, 3, (series, horizon))
    y[rng.random(y.shape) < missing] = np.nan
    y[:, 0] = level[:, 0]
    quantiles = level[..., None] + rng.normal(0, 2, (series, horizon, len(LEVELS)))
    dates = pd.date_range("2024-01-01", periods=horizon)
    return y, Forecast.repaired(list("abcdefgh"[:series]), dates, quantiles, quantiles.mean(axis=-1)), history


def scaled(forecast: Forecast, factor: float) -> Forecast:
    return Forecast(forecast.ids, forecast.ds, forecast.levels, forecast.quantiles * factor, forecast.mean * factor)


@pytest.mark.parametrize("seed", range(5))
def test_they_agree_with_utilsforecast(seed: int) -> None:
    losses = pytest.importorskip("utilsforecast.losses")
    y, forecast, history = sample(seed)
    frame = forecast.to_frame(pd.DataFrame(columns=["store", "product"])).assign(y=y.reshape(-1)).dropna()
    frame["median"] = frame["q50"]
    ids = np.repeat(np.array(forecast.ids), history.shape[1])
    dates = np.tile(pd.date_range(end="2023-12-31", periods=history.shape[1]).to_numpy(), len(forecast))
    train = pd.DataFrame({"unique_id": ids, "ds": dates, "y": history.reshape(-1)})
    scale = metrics.seasonal_error(history, 7)

    theirs = losses.mase(frame, ["median"], seasonality=7, train_df=train)["median"].mean()
    assert_allclose(metrics.mase(y, forecast.median, scale), theirs)
    theirs = losses.rmsse(frame, ["mean"], seasonality=7, train_df=train)["mean"].mean()
    assert_allclose(metrics.rmsse(y, forecast.mean, scale), theirs)
    names = [level_name(level) for level in metrics.SCORED_LEVELS]
    quantiles = np.array(metrics.SCORED_LEVELS)
    theirs = losses.scaled_mqloss(frame, {"m": names}, quantiles=quantiles, seasonality=7, train_df=train)["m"].mean()
    assert_allclose(metrics.sql(y, forecast, scale), 2 * theirs)
    per_series = losses.mqloss(frame, {"m": names}, quantiles=quantiles)["m"].to_numpy()
    assert_allclose(metrics.series_losses(y, forecast, scale), 2 * per_series / scale.absolute)
    count = (~np.isnan(y)).sum(axis=1)
    assert_allclose(metrics.wql(y, forecast), (2 * per_series * count).sum() / np.nansum(np.abs(y)))
    everything = frame.assign(unique_id="all")
    assert_allclose(metrics.wape(y, forecast.median), losses.nd(everything, ["median"])["median"].item())
    assert_allclose(metrics.rmse(y, forecast.mean), np.sqrt(losses.mse(everything, ["mean"])["mean"].item()))
    inside = frame.assign(**{"m-lo-80": frame["q10"], "m-hi-80": frame["q90"]}).assign(unique_id="all")
    assert_allclose(metrics.coverage(y, forecast, 0.8), losses.coverage(inside, ["m"], level=80)["m"].item())


@given(st.integers(0, 10_000), st.floats(0.01, 1e4))
@settings(max_examples=30)
def test_the_unit_of_sales_changes_nothing_but_rmse(seed: int, factor: float) -> None:
    y, forecast, history = sample(seed)
    scale, bigger = metrics.seasonal_error(history, 7), metrics.seasonal_error(history * factor, 7)
    times = scaled(forecast, factor)
    assert_allclose(metrics.wape(y * factor, times.median), metrics.wape(y, forecast.median))
    assert_allclose(metrics.wql(y * factor, times), metrics.wql(y, forecast))
    assert_allclose(metrics.mase(y * factor, times.median, bigger), metrics.mase(y, forecast.median, scale))
    assert_allclose(metrics.rmsse(y * factor, times.mean, bigger), metrics.rmsse(y, forecast.mean, scale))
    assert_allclose(metrics.sql(y * factor, times, bigger), metrics.sql(y, forecast, scale))
    assert_allclose(metrics.rmse(y * factor, times.mean), factor * metrics.rmse(y, forecast.mean))


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_a_perfect_forecast_loses_nothing_and_covers_all(seed: int) -> None:
    y, forecast, history = sample(seed, missing=0.0)
    perfect = Forecast(forecast.ids, forecast.ds, LEVELS, np.repeat(y[..., None], len(LEVELS), axis=-1), y)
    scale = metrics.seasonal_error(history, 7)
    values = [
        metrics.wape(y, perfect.median),
        metrics.mase(y, y, scale),
        metrics.rmsse(y, y, scale),
        metrics.rmse(y, y),
    ]
    assert_allclose([*values, metrics.sql(y, perfect, scale), metrics.wql(y, perfect)], 0, atol=1e-12)
    assert metrics.coverage(y, perfect, 0.8) == 1


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_an_unknown_step_counts_nowhere(seed: int) -> None:
    """The same as if the window were shorter: the forecast of a step without truth may be anything."""
    y, forecast, history = sample(seed, missing=0.0)
    y[:, -1] = np.nan
    wild = forecast.quantiles.copy()
    wild[:, -1] += 1e9
    changed = Forecast(forecast.ids, forecast.ds, LEVELS, wild, forecast.mean)
    scale = metrics.seasonal_error(history, 7)
    assert metrics.sql(y, changed, scale) == metrics.sql(y, forecast, scale)
    assert metrics.wql(y, changed) == metrics.wql(y, forecast)
    assert metrics.coverage(y, changed, 0.9) == metrics.coverage(y, forecast, 0.9)


def test_a_flat_quantile_forecast_has_the_point_loss() -> None:
    """With all quantiles equal, twice the pinball loss averaged over symmetric levels is the absolute error."""
    y, forecast, history = sample(3)
    flat = Forecast(
        forecast.ids, forecast.ds, LEVELS, np.repeat(forecast.mean[..., None], len(LEVELS), axis=-1), forecast.mean
    )
    scale = metrics.seasonal_error(history, 7)
    assert_allclose(metrics.sql(y, flat, scale), metrics.mase(y, flat.mean, scale))
    assert_allclose(metrics.wql(y, flat), metrics.wape(y, flat.mean))


def test_series_without_a_yardstick_are_left_out_not_divided_by_zero() -> None:
    y, forecast, history = sample(1)
    history[0] = 5.0  # Repeats itself: scale 0.
    history[1] = np.nan  # Unknown: no scale.
    scale = metrics.seasonal_error(history, 7)
    assert scale.usable.tolist() == [False, False, True, True]
    kept = [2, 3]
    part = forecast.select([forecast.ids[row] for row in kept])
    scale_part = metrics.seasonal_error(history[kept], 7)
    assert_allclose(metrics.sql(y, forecast, scale), metrics.sql(y[kept], part, scale_part))
    assert_allclose(metrics.mase(y, forecast.median, scale), metrics.mase(y[kept], part.median, scale_part))
    assert np.isnan(metrics.series_losses(y, forecast, scale)[:2]).all()


def test_the_seasonal_error_skips_gaps() -> None:
    history = np.array([[1.0, 2.0, np.nan, 6.0, 5.0]])
    scale = metrics.seasonal_error(history, 2)
    assert_allclose(scale.absolute, [4.0])  # Only 2 → 6 is known on both sides.
    assert_allclose(scale.squared, [16.0])
    assert np.isnan(metrics.seasonal_error(history, 5).absolute).all()


def test_nothing_known_is_nan_without_a_warning() -> None:
    _, forecast, history = sample(0)
    y = np.full(forecast.mean.shape, np.nan)
    scale = metrics.seasonal_error(history, 7)
    values = [
        metrics.wape(y, forecast.median),
        metrics.mase(y, forecast.median, scale),
        metrics.rmse(y, forecast.mean),
    ]
    values += [metrics.sql(y, forecast, scale), metrics.wql(y, forecast), metrics.coverage(y, forecast, 0.8)]
    assert np.isnan(values).all()


def test_quantile_losses_are_averaged_over_the_nine_deciles() -> None:
    assert_allclose(metrics.SCORED_LEVELS, np.arange(1, 10) / 10)


def test_the_example_in_the_docstring() -> None:
    assert metrics.wape(np.array([[10.0, 0.0, 30.0]]), np.array([[12.0, 1.0, 27.0]])) == pytest.approx(0.15)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.2, 1.0, 4.0]))
def test_counts_are_covered_by_their_place_as_often_as_they_should_be(seed: int, rate: float) -> None:
    """The true distribution of sparse counts: its intervals hold more than nominal, its places nominal."""
    rng = np.random.default_rng(seed)
    fine = tuple(np.arange(1, 200) / 200)
    y = rng.poisson(rate, (1, 4000)).astype(float)
    dates = np.datetime64("2024-01-01", "D") + np.arange(4000)
    quantiles = np.broadcast_to(poisson.ppf(fine, rate), (1, 4000, len(fine))).copy()
    right = Forecast(("s",), dates[None], fine, quantiles, np.full((1, 4000), rate))
    assert abs(pit_coverage(y, right, 0.8) - 0.8) < 0.03
    assert coverage(y, right, 0.8) > pit_coverage(y, right, 0.8) + 0.03
    assert pit_coverage(y + 3, right, 0.8) < 0.6, "one that is wrong is found out"


def test_a_place_is_a_stretch_where_values_tie() -> None:
    """Levels .2, .5, .8: nothing sold up to .5, then 10."""
    dates = np.datetime64("2024-01-01", "D") + np.arange(4)
    quantiles = np.tile([0.0, 0.0, 10.0], (1, 4, 1))
    made = Forecast(("s",), dates[None], (0.2, 0.5, 0.8), quantiles, np.zeros((1, 4)))
    at = [pit_coverage(np.array([[y, np.nan, np.nan, np.nan]]), made, 0.6) for y in (0.0, 5.0, 10.0, 11.0)]
    assert at == pytest.approx([0.3 / 0.5, 1.0, 1.0, 0.0])
    assert np.isnan(pit_coverage(np.full((1, 4), np.nan), made, 0.6))
    closed = Forecast(("s",), dates[None], (0.2, 0.5, 0.8), np.zeros((1, 4, 3)), np.zeros((1, 4)))
    assert pit_coverage(np.zeros((1, 4)), closed, 0.6) == pytest.approx(0.6), "a known closed day counts as nominal"
