"""The weighted mean of quantiles: what it keeps, and what happens where a method lacks a series."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from trend_common.blending import blend
from trend_common.forecasts import LEVELS, Forecast
from trend_common.metrics import pinball

DATES = pd.date_range("2024-01-01", periods=3)


def made(rng: np.random.Generator, ids: list[str]) -> Forecast:
    quantiles = np.sort(rng.gamma(2, 5, (len(ids), 3, len(LEVELS))), axis=-1)
    return Forecast.repaired(ids, DATES, quantiles, quantiles.mean(axis=-1))


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_the_loss_of_a_blend_is_never_above_the_mean_of_its_parts(seed: int, series: int, methods: int) -> None:
    rng = np.random.default_rng(seed)
    ids = [f"s{row}" for row in range(series)]
    parts = {f"m{number}": made(rng, ids) for number in range(methods)}
    weights = rng.random((series, methods)) + 1e-3
    y = rng.gamma(2, 5, (series, 3))
    found = blend(parts, ids, weights)
    share = weights / weights.sum(axis=1, keepdims=True)
    apart = sum(share[:, [column]] * pinball(y, one) for column, one in enumerate(parts.values()))
    assert (pinball(y, found) <= apart + 1e-9).all()
    assert (np.diff(found.quantiles, axis=-1) >= 0).all()


def test_the_weight_of_a_method_without_the_series_falls_to_the_others() -> None:
    rng = np.random.default_rng(0)
    whole, part = made(rng, ["a", "b"]), made(rng, ["b"])
    found = blend({"whole": whole, "part": part}, ["b", "a"], np.array([[1.0, 3.0], [1.0, 3.0]]))
    assert_allclose(found.quantiles[0], 0.25 * whole.quantiles[1] + 0.75 * part.quantiles[0])
    assert_allclose(found.mean[1], whole.mean[0])
    assert found.ids == ("b", "a")


def test_a_series_that_no_method_with_a_weight_has_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="'a'"):
        blend({"whole": made(rng, ["a", "b"]), "part": made(rng, ["b"])}, ["a"], np.array([[0.0, 1.0]]))
    with pytest.raises(ValueError, match="weights: shape"):
        blend({"whole": made(rng, ["a"])}, ["a"], np.ones((1, 2)))
