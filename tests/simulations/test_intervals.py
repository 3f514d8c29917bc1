"""The bootstrap: covers what it should, resamples retailers and seeds, and says nothing of too few."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trend_simulations.intervals import bootstrap, share_closed


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 12), st.integers(1, 4), st.integers(0, 1000), st.floats(-5, 5))
def test_the_mean_lies_inside_and_moves_with_the_values(clients: int, seeds: int, seed: int, shift: float) -> None:
    values = np.random.default_rng(seed).normal(size=(clients, seeds))
    found, moved = bootstrap(values), bootstrap(values + shift)
    assert found.low is not None
    assert found.high is not None
    assert moved.low is not None
    assert found.low <= found.mean <= found.high
    assert found.mean == pytest.approx(values.mean())
    assert moved.low == pytest.approx(found.low + shift)


def test_it_agrees_with_the_normal_interval_where_that_is_right() -> None:
    values = np.random.default_rng(0).normal(0, 1, (200, 1))
    found = bootstrap(values)
    assert found.low is not None
    assert found.high is not None
    expected = 2 * 1.96 * values.std() / math.sqrt(200)
    assert found.high - found.low == pytest.approx(expected, rel=0.1)


def test_it_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(100):
        found = bootstrap(rng.normal(0, 1, (20, 1)) + rng.normal(0, 0.3, (20, 3)))
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 0 <= found.high
    assert hits >= 86


def test_seeds_that_agree_do_not_make_more_of_few_retailers() -> None:
    values = np.random.default_rng(2).normal(size=(8, 1))
    one, many = bootstrap(values), bootstrap(np.repeat(values, 10, axis=1))
    assert one.low is not None
    assert many.low is not None
    assert many.low == pytest.approx(one.low, abs=0.15)


def test_a_common_effect_of_the_seed_widens_it() -> None:
    steady = np.zeros((30, 3)) + np.random.default_rng(3).normal(0, 0.01, (30, 1))
    shaken = steady + np.array([[-1.0, 0.0, 1.0]])
    narrow, wide = bootstrap(steady), bootstrap(shaken)
    assert narrow.low is not None
    assert narrow.high is not None
    assert wide.low is not None
    assert wide.high is not None
    assert wide.high - wide.low > 1.0 > 0.1 > narrow.high - narrow.low


def test_retailers_without_a_value_are_left_out() -> None:
    values = np.array([[1.0], [2.0], [np.nan], [3.0]])
    assert bootstrap(values).mean == pytest.approx(2.0)


def test_two_retailers_have_no_interval_and_none_no_mean() -> None:
    pair = bootstrap(np.array([[1.0], [3.0]]))
    assert (pair.mean, pair.low, pair.high) == (2.0, None, None)
    nothing = bootstrap(np.full((2, 2), np.nan))
    assert math.isnan(nothing.mean)
    assert nothing.to_json() == {"mean": None, "low": None, "high": None}


def test_the_share_of_a_way_is_a_ratio_of_means_and_is_not_said_where_there_is_no_way() -> None:
    rng = np.random.default_rng(4)
    local = rng.uniform(0.6, 0.9, (20, 2))
    central = local - rng.uniform(0.05, 0.15, (20, 2))
    half = (local + central) / 2
    found = share_closed(local, half, central)
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    for arm, share in ((local, 0.0), (central, 1.0)):
        one = share_closed(local, arm, central)
        assert one is not None
        assert one.mean == pytest.approx(share)
    noisy = share_closed(local, half + rng.normal(0, 0.05, half.shape), central)
    assert noisy is not None
    assert noisy.low is not None
    assert noisy.high is not None
    assert noisy.low < noisy.mean < noisy.high
    # Pooling everything is no better than training alone, or nobody knows.
    assert share_closed(local, half, local + rng.normal(0, 0.1, local.shape)) is None
    assert share_closed(central, half, local) is None
    assert share_closed(local, local, local - 0.001) is None, "sure, but too short"
    assert share_closed(local[:2], half[:2], central[:2]) is None
    holes = local.copy()
    holes[3:, 0] = np.nan
    assert share_closed(holes, half, central) is not None
