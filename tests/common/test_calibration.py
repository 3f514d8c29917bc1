"""A calibration moves the quantiles about the median, as past windows say, and is never worse there."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from trend_common.calibration import NARROWEST, WIDEST, Calibration, spread_factor
from trend_common.forecasts import LEVELS, Forecast
from trend_common.metrics import coverage, pinball

Array = NDArray[np.float64]


def made(
    n: int, steps: int, rng: np.random.Generator, *, width: float = 1.0, first: int = 0
) -> tuple[Array, Forecast]:
    """Lognormal sales, and a forecast that is right but for its width."""
    level = np.exp(rng.normal(2, 1, (n, 1)))
    y = level * np.exp(0.4 * rng.standard_normal((n, steps)))
    draws = np.sort(np.exp(0.4 * rng.standard_normal(4001)))
    around = np.quantile(draws, LEVELS) - np.median(draws)
    quantiles = level[..., None] * (1 + width * around) * np.ones((n, steps, 1))
    dates = np.datetime64("2024-01-01", "D") + 7 * np.arange(steps)
    ids = [f"s{number + first}" for number in range(n)]
    return y, Forecast.repaired(ids, dates, quantiles, quantiles.mean(-1))


def loss(y: Array, forecast: Forecast, scale: Array) -> float:
    return float(np.nansum(pinball(y, forecast, LEVELS) / scale[:, None]))


@st.composite
def pasts(draw: st.DrawFn) -> tuple[list[tuple[Array, Forecast]], Array]:
    """Windows of a few series with any forecasts, gaps, zeros and scales."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, steps, windows = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    found = []
    for _ in range(windows):
        quantiles = np.exp(rng.normal(0, 2, (n, steps, len(LEVELS)))) * (rng.random((n, steps, 1)) < 0.9)
        quantiles *= rng.random((n, steps, len(LEVELS))) < draw(st.sampled_from([0.3, 1.0]))
        y = np.exp(rng.normal(0, 2, (n, steps))) * (rng.random((n, steps)) < 0.8)
        y[rng.random((n, steps)) < 0.2] = np.nan
        dates = np.datetime64("2024-01-01", "D") + np.arange(steps)
        found.append((y, Forecast.repaired([f"s{i}" for i in range(n)], dates, quantiles, quantiles.mean(-1))))
    return found, np.exp(rng.normal(0, 1, n))


@given(pasts(), st.booleans())
def test_on_its_own_windows_it_is_never_worse_than_no_calibration(
    past: tuple[list[tuple[Array, Forecast]], Array], own: bool
) -> None:
    windows, scale = past
    fitted = Calibration.fit(windows, scale, own=own)
    before = sum(loss(y, forecast, scale) for y, forecast in windows)
    after = sum(loss(y, fitted.apply(forecast), scale) for y, forecast in windows)
    assert after <= before * (1 + 1e-9) + 1e-12


@given(pasts(), st.floats(NARROWEST, WIDEST), st.floats(NARROWEST, WIDEST))
def test_quantiles_stay_ascending_medians_means_and_dates_stay_and_nothing_becomes_negative(
    past: tuple[list[tuple[Array, Forecast]], Array], below: float, above: float
) -> None:
    forecast = past[0][0][1]
    moved = Calibration(below=below, above=above, series={"s0": (above, below)}).apply(forecast)
    assert (np.diff(moved.quantiles, axis=-1) >= 0).all()
    assert (moved.quantiles >= 0).all()
    assert_array_equal(moved.median, forecast.median)
    assert_array_equal(moved.mean, forecast.mean)
    assert_array_equal(moved.ds, forecast.ds)
    assert moved.ids == forecast.ids


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.floats(0.01, 5), st.floats(0.01, 0.99)), min_size=1, max_size=12),
    st.floats(0, 6),
)
def test_the_factor_is_the_lowest_point_of_the_quantile_loss(
    values: list[tuple[float, float, float]], other: float
) -> None:
    ratio, weight, share = (np.array(column) for column in zip(*values, strict=True))

    def at(factor: float) -> float:
        error = ratio - factor
        return float((weight * np.maximum(share * error, (share - 1) * error)).sum())

    assert at(spread_factor(ratio, weight, share)) <= at(other) + 1e-9


def test_where_a_whole_stretch_is_best_the_least_change_is_taken() -> None:
    ratio, one, half = np.array([0.5, 2.0]), np.ones(2), np.full(2, 0.5)
    assert spread_factor(ratio, one, half) == 1.0
    assert spread_factor(ratio + 1, one, half) == 1.5
    assert spread_factor(ratio - 3, one, half) == 0.0, "quantiles never pass the median"
    assert spread_factor(np.array([]), np.array([]), np.array([])) == 1.0


@pytest.mark.parametrize("width", [0.5, 1.0, 1.8])
def test_later_windows_are_covered_as_often_as_they_should_be(width: float) -> None:
    rng = np.random.default_rng(3)
    past = [made(80, 8, rng, width=width) for _ in range(6)]
    later, forecast = made(80, 8, rng, width=width)
    fitted = Calibration.fit(past, np.ones(80))
    found = coverage(later, fitted.apply(forecast), 0.8)
    assert abs(found - 0.8) < 0.06
    if width != 1.0:
        assert abs(found - 0.8) < abs(coverage(later, forecast, 0.8) - 0.8) / 3
        assert loss(later, fitted.apply(forecast), np.ones(80)) < loss(later, forecast, np.ones(80))


def test_each_side_has_its_own_factor() -> None:
    y, forecast = made(60, 8, np.random.default_rng(4))
    middle = forecast.median[..., None]
    lopsided = np.where(forecast.quantiles > middle, middle + 0.5 * (forecast.quantiles - middle), forecast.quantiles)
    narrow = Forecast(forecast.ids, forecast.ds, forecast.levels, lopsided, forecast.mean)
    fitted = Calibration.fit([(y, narrow)] * 6, np.ones(60), own=False)
    assert fitted.above > 1.4
    assert 0.85 < fitted.below < 1.15


def test_one_window_in_which_all_sold_more_does_not_tilt_the_forecast() -> None:
    y, forecast = made(60, 8, np.random.default_rng(11))
    once = Calibration.fit([(1.5 * y, forecast)], np.ones(60))
    assert once.below == once.above
    twice = Calibration.fit([(1.5 * y, forecast)] * 2, np.ones(60))
    assert twice.above > 1.2 * twice.below


def test_little_evidence_changes_little() -> None:
    rng = np.random.default_rng(5)
    few = Calibration.fit([made(2, 8, rng, width=0.4)], np.ones(2), own=False)
    one = Calibration.fit([made(60, 8, rng, width=0.4)], np.ones(60), own=False)
    many = Calibration.fit([made(60, 8, rng, width=0.4) for _ in range(8)], np.ones(60), own=False)
    assert 1 < few.above < one.above < many.above
    assert many.windows == 8


def test_a_series_leaves_its_panel_with_its_own_windows_alone() -> None:
    rng = np.random.default_rng(6)
    windows = []
    for _ in range(6):
        (wild, narrow), (calm, right) = made(1, 8, rng, width=0.3), made(30, 8, rng, first=1)
        ids, quantiles = (*narrow.ids, *right.ids), np.concatenate([narrow.quantiles, right.quantiles])
        joined = Forecast.repaired(ids, right.ds[0], quantiles, quantiles.mean(-1))
        windows.append((np.concatenate([wild, calm]), joined))
    fitted = Calibration.fit(windows, np.ones(31))
    assert fitted.series["s0"][1] > 1.3 * fitted.above
    ordinary = [fitted.series[f"s{number}"][1] for number in range(1, 31)]
    assert max(ordinary) < fitted.series["s0"][1]
    assert not Calibration.fit(windows[:1], np.ones(31)).series, "one window says nothing about one series"
    unknown = Forecast(("new",), right.ds[:1], right.levels, right.quantiles[:1], right.mean[:1])
    expected = Calibration(below=fitted.below, above=fitted.above).apply(unknown)
    assert_array_equal(fitted.apply(unknown).quantiles, expected.quantiles)


def test_without_evidence_it_is_the_identity() -> None:
    y, forecast = made(3, 4, np.random.default_rng(7))
    nothing = Calibration.fit([], np.ones(3))
    assert nothing.changes_nothing
    assert nothing.windows == 0
    assert nothing.apply(forecast) is forecast
    unknown = Calibration.fit([(np.full_like(y, np.nan), forecast)], np.ones(3))
    assert unknown.changes_nothing
    unscaled = Calibration.fit([(y, forecast)], np.array([0.0, np.nan, 0.0]))
    assert unscaled.changes_nothing
    flat = Forecast.repaired(forecast.ids, forecast.ds, np.ones((3, 4, len(LEVELS))), np.ones((3, 4)))
    assert Calibration.fit([(y, flat)], np.ones(3)).changes_nothing, "no width to scale"


def test_series_weigh_by_their_scale_and_are_known_by_name() -> None:
    rng = np.random.default_rng(8)
    y, forecast = made(40, 8, rng, width=0.5)
    reversed_ = (y[::-1], forecast.select(forecast.ids[::-1]))
    scale = np.exp(rng.normal(0, 2, 40))
    there = Calibration.fit([(y, forecast), (y, forecast)], scale)
    back = Calibration.fit([(y, forecast), reversed_], scale)
    assert_allclose([there.below, there.above], [back.below, back.above])
    even = Calibration.fit([(y, forecast), (y, forecast)], np.ones(40))
    assert abs(even.above - there.above) > 1e-6


def test_it_is_kept_as_json_and_refuses_what_it_would_never_have_fitted() -> None:
    fitted = Calibration.fit([made(5, 4, np.random.default_rng(9), width=0.5)], np.ones(5))
    assert Calibration.model_validate_json(fitted.model_dump_json()) == fitted
    text = json.loads(fitted.model_dump_json())
    for change in ({"below": 0.0}, {"above": 99.0}, {"above": float("nan")}, {"series": {"a": [1.0]}}, {"x": 1}):
        with pytest.raises(ValueError, match="validation error"):
            Calibration.model_validate({**text, **change})


def test_what_does_not_fit_together_is_named() -> None:
    y, forecast = made(3, 4, np.random.default_rng(10))
    with pytest.raises(ValueError, match="scale"):
        Calibration.fit([(y, forecast)], np.ones(2))
    with pytest.raises(ValueError, match=r"y: shape"):
        Calibration.fit([(y[:2], forecast)], np.ones(3))


def test_days_without_a_sale_stay_inside_however_narrow_it_becomes() -> None:
    """Half of all days sell nothing, as forecast; the others are quieter than thought."""
    rng = np.random.default_rng(12)
    past = []
    for _ in range(6):
        y, forecast = made(40, 10, rng, width=2.5)
        sold = rng.random(y.shape) < 0.5
        quantiles = forecast.quantiles.copy()
        quantiles[..., np.asarray(LEVELS) <= 0.5] = 0.0
        past.append((y * sold, Forecast.repaired(forecast.ids, forecast.ds, quantiles, quantiles.mean(-1))))
    fitted = Calibration.fit(past[:5], np.ones(40))
    y, forecast = past[5]
    after = fitted.apply(forecast)
    assert fitted.above < 0.95
    assert_array_equal(after.quantiles == 0, forecast.quantiles == 0)
    y, forecast = made(40, 10, rng)
    quantiles = forecast.quantiles.copy()
    quantiles[..., np.asarray(LEVELS) <= 0.2] = 0.0
    few = Forecast.repaired(forecast.ids, forecast.ds, quantiles, forecast.mean)
    narrowed = Calibration(below=0.3).apply(few)
    assert_array_equal(narrowed.quantiles == 0, few.quantiles == 0)
    assert (narrowed.quantile(0.3) > few.quantile(0.3)).all()


def test_quantiles_of_zero_say_nothing_about_the_spread_below() -> None:
    y, forecast = made(40, 8, np.random.default_rng(13))
    quantiles = forecast.quantiles.copy()
    quantiles[..., np.asarray(LEVELS) < 0.5] = 0.0
    sparse = Forecast.repaired(forecast.ids, forecast.ds, quantiles, quantiles.mean(-1))
    fitted = Calibration.fit([(y, sparse)] * 6, np.ones(40), own=False)
    assert fitted.below == pytest.approx(1.0, abs=0.2), "with them it would be narrowed as far as is believed"
