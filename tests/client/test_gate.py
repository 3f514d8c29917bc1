"""The gate's promise: on validation the choice is never worse than what the retailer had, whatever the data."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from trend_client.gate import CHOSEN, Gain, Window, choose, gain, verdict
from trend_common.forecasts import LEVELS, Forecast
from trend_common.metrics import SeasonalError, series_losses

DATES = pd.date_range("2024-01-01", periods=4)


def flat(values: np.ndarray, ids: list[str] | None = None) -> Forecast:
    """A forecast that is sure of one value a series."""
    mean = np.repeat(np.asarray(values, dtype=float)[:, None], 4, axis=1)
    names = ids or [f"s{row}" for row in range(len(mean))]
    return Forecast.repaired(names, DATES, np.repeat(mean[..., None], len(LEVELS), axis=-1), mean)


def ones(count: int) -> SeasonalError:
    return SeasonalError(np.ones(count), np.ones(count))


def window(truth: list[float], **errors: list[float]) -> Window:
    """Methods that miss the truth of each series by the given amounts."""
    y = np.repeat(np.array(truth)[:, None], 4, axis=1)
    return Window(y, {name: flat(np.array(truth) + np.array(miss)) for name, miss in errors.items()})


def mean_loss(one: Window, forecast: Forecast, scale: SeasonalError) -> float:
    losses = series_losses(one.y, forecast, scale)
    return float(np.nanmean(losses)) if (~np.isnan(losses)).any() else 0.0


@given(st.integers(0, 100_000), st.integers(1, 25), st.integers(1, 5), st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_the_choice_is_never_worse_than_any_single_method_on_validation(
    seed: int, series: int, methods: int, heaviness: int
) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.uniform(1, 50, series)
    y = np.repeat(truth[:, None], 4, axis=1) + rng.normal(0, 1, (series, 4))
    y[rng.random(y.shape) < 0.2] = np.nan
    scale = SeasonalError(np.where(rng.random(series) < 0.1, 0.0, rng.uniform(0.5, 2, series)), np.ones(series))
    made = {
        f"m{k}": flat(truth + rng.normal(0, 3, series) * np.abs(rng.standard_cauchy(series)) ** heaviness)
        for k in range(methods)
    }
    one = Window(y, made)
    choice = choose([one], scale, incumbents=["m0"])
    chosen = choice.apply(made)
    assert chosen.ids == made["m0"].ids
    if scale.usable.any():
        best = min(mean_loss(one, forecast, scale) for forecast in made.values())
        assert mean_loss(one, chosen, scale) <= best * (1 + 1e-12)


def test_the_best_method_overall_is_the_default() -> None:
    choice = choose([window([10.0] * 6, old=[2] * 6, new=[1] * 6)], ones(6), incumbents=["old"])
    assert choice.default == "new"
    assert choice.counts == {"new": 6}
    assert choice.ranking == ("new", "old")


def test_a_tie_goes_to_the_old_method_even_if_it_is_listed_last() -> None:
    choice = choose([window([10.0] * 6, new=[1] * 6, old=[1] * 6)], ones(6), incumbents=["old"])
    assert choice.counts == {"old": 6}


def test_one_series_must_differ_much_before_it_leaves_the_default() -> None:
    """One window counts for a third: a slight lead of another method is put down to chance."""
    slight = choose([window([10.0] * 6, a=[1] * 6, b=[2, 2, 2, 2, 2, 0.9])], ones(6))
    assert slight.counts == {"a": 6}
    clear = choose([window([10.0] * 6, a=[1] * 6, b=[2, 2, 2, 2, 2, 0.05])], ones(6))
    assert clear.methods["s5"] == "b"
    assert clear.counts == {"a": 5, "b": 1}
    assert clear.losses[CHOSEN] < clear.losses["a"]


def test_more_windows_trust_a_series_more() -> None:
    one = window([10.0] * 6, a=[1] * 6, b=[2, 2, 2, 2, 2, 0.35])
    assert choose([one], ones(6)).counts == {"a": 6}
    assert choose([one] * 3, ones(6)).methods["s5"] == "b"


@given(st.integers(0, 100_000), st.integers(2, 12))
@settings(max_examples=60, deadline=None)
def test_a_series_leaves_the_default_only_for_what_was_better_on_it(seed: int, series: int) -> None:
    rng = np.random.default_rng(seed)
    misses = {name: list(rng.gamma(0.5, 2, series) * (rng.random(series) < 0.8)) for name in "abc"}
    choice = choose([window([10.0] * series, **misses)], ones(series))
    for row in range(series):
        taken = choice.methods[f"s{row}"]
        assert taken == choice.default or misses[taken][row] < misses[choice.default][row]


def test_series_that_cannot_be_scaled_take_the_default() -> None:
    one = window([10.0] * 6, a=[1] * 6, b=[2, 2, 2, 2, 2, 0.0])
    blind = SeasonalError(np.array([1, 1, 1, 1, 1, 0.0]), np.ones(6))
    assert choose([one], blind).methods["s5"] == "a"
    nothing = SeasonalError(np.zeros(6), np.zeros(6))
    assert choose([one], nothing).default == "a", "without any scale, plain losses decide"


def test_a_window_without_any_known_value_leaves_the_old_method() -> None:
    one = window([10.0] * 3, new=[0] * 3, old=[1] * 3)
    unknown = Window(np.full((3, 4), np.nan), one.forecasts)
    assert choose([unknown], ones(3), incumbents=["old"]).counts == {"old": 3}


def test_new_products_take_the_best_ranked_method_that_has_them() -> None:
    choice = choose([window([10.0] * 6, old=[1] * 6, model=[2] * 6)], ones(6), incumbents=["old"])
    later = {"old": flat(np.array([1.0]), ["s0"]), "model": flat(np.array([5.0, 6.0]), ["s0", "launched"])}
    made = choice.apply(later)
    assert made.ids == ("s0", "launched")
    assert_allclose(made.mean[:, 0], [1, 6])


def test_choose_refuses_what_it_cannot_judge() -> None:
    with pytest.raises(ValueError, match="at least one window"):
        choose([], ones(1))
    with pytest.raises(ValueError, match="'nobody'"):
        choose([window([1.0], a=[1.0])], ones(1), incumbents=["nobody"])


@given(st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_the_gain_is_the_ratio_of_sums_inside_its_interval(seed: int) -> None:
    rng = np.random.default_rng(seed)
    old = rng.uniform(0.5, 2, 40)
    new = old * rng.uniform(0.7, 0.95, 40)
    found = gain(np.r_[new, np.nan], np.r_[old, 1.0], against="old")
    assert found.relative == pytest.approx(1 - new.sum() / old.sum())
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.relative < found.high
    assert found.outcome == "better"
    assert gain(old, new, against="old").outcome == "worse"
    assert found.series == 40


def test_few_series_give_no_interval_and_no_claim() -> None:
    found = gain(np.array([1.0, 1.0]), np.array([2.0, 2.0]), against="old")
    assert (found.low, found.outcome) == (None, "unclear")
    assert np.isnan(gain(np.array([np.nan]), np.array([1.0]), against="old").relative)


def test_the_verdict_says_what_is_used_and_by_how_much() -> None:
    choice = choose([window([10.0] * 6, old=[2] * 6, new=[1] * 6)], ones(6), incumbents=["old"])
    text = verdict(choice, Gain("old", 0.5, 0.4, 0.6, 6), Gain("old", 0.12, 0.05, 0.2, 6), names={"new": "The model"})
    assert text.startswith("The model is used for all 6 product series.")
    assert "50 % lower (95 % interval over series: 40 % lower to 60 % lower) than with old" in text
    assert "this figure flatters it" in text
    assert "12 % lower" in text
    assert text.endswith("The gain held.")


def test_the_verdict_does_not_hide_a_loss() -> None:
    choice = choose([window([10.0] * 6, old=[2] * 6, new=[1] * 6)], ones(6), incumbents=["old"])
    text = verdict(choice, Gain("old", 0.5, 0.4, 0.6, 6), Gain("old", -0.081, -0.12, -0.03, 6))
    assert "8.1 % higher" in text
    assert "The old method would have been better in those weeks." in text


def test_keeping_the_old_method_is_said_in_one_breath() -> None:
    choice = choose([window([10.0], old=[1], new=[2])], ones(1), incumbents=["old"])
    text = verdict(choice, Gain("old", 0.0, None, None, 1), Gain("old", 0.0, None, None, 1))
    assert text.startswith("old is used for the only product series. It is what a retailer could do before")
    assert "%" not in text
