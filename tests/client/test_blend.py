"""Choices over several windows: blends, methods that lack windows, calibration, and the promise of all of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from trend_client.contest import calibrated
from trend_client.gate import CHOSEN, Window, choose
from trend_client.weighing import pruned
from trend_common.calibration import Calibration
from trend_common.forecasts import LEVELS, Forecast
from trend_common.metrics import SeasonalError, coverage, series_losses

DATES = pd.date_range("2024-01-01", periods=4)
Z = np.array([-2.3, -1.64, -1.28, -0.84, -0.52, -0.25, 0, 0.25, 0.52, 0.84, 1.28, 1.64, 2.3])


def around(mean: np.ndarray, spread: float = 1.0) -> Forecast:
    """Normal forecasts of [S, 4] means."""
    ids = [f"s{row}" for row in range(len(mean))]
    return Forecast.repaired(ids, DATES, mean[..., None] + spread * Z, mean)


def ones(count: int) -> SeasonalError:
    return SeasonalError(np.ones(count), np.ones(count))


def windows(
    rng: np.random.Generator, series: int, count: int, misses: dict[str, float], late: tuple[str, ...] = ()
) -> list[Window]:
    """Methods with errors of the given size; those of ``late`` are in the last window alone."""
    found = []
    for number in range(count):
        truth = rng.uniform(20, 60, (series, 4))
        made = {
            name: around(truth + rng.normal(0, 1, (series, 4)) * miss)
            for name, miss in misses.items()
            if name not in late or number == count - 1
        }
        found.append(Window(truth, made))
    return found


def mean_loss(window: Window, forecast: Forecast) -> float:
    return float(np.nanmean(series_losses(window.y, forecast, ones(len(forecast)))))


@given(st.integers(0, 100_000), st.integers(1, 12), st.integers(1, 4), st.sampled_from(["choice", "blend"]))
@settings(max_examples=60, deadline=None)
def test_no_style_is_worse_than_an_old_method_over_all_windows(
    seed: int, series: int, count: int, style: str
) -> None:
    rng = np.random.default_rng(seed)
    misses = {name: float(rng.uniform(0, 6)) for name in ("old", "older", "model", "late")}
    made = windows(rng, series, count, misses, late=("late",))
    for window in made[:-1]:
        window.y[rng.random(series) < 0.2] = np.nan
    found = choose(made, ones(series), incumbents=["old", "older"], style=style)  # type: ignore[arg-type]
    ids = tuple(f"s{row}" for row in range(series))
    losses = {
        name: np.stack([series_losses(w.y, made_by(w), ones(series)) for w in made])
        for name, made_by in {
            "chosen": lambda w: found.apply(w.forecasts).select(ids),
            "old": lambda w: w.forecasts["old"],
            "older": lambda w: w.forecasts["older"],
        }.items()
    }
    means = {name: float(np.mean(np.nanmean(one, axis=0))) for name, one in losses.items()}
    assert means["chosen"] <= min(means["old"], means["older"]) * (1 + 1e-6)
    assert found.losses[CHOSEN] == pytest.approx(means["chosen"])


def test_a_blend_of_two_equals_beats_both_on_the_next_window() -> None:
    """Their errors are independent, so each gets about half, and half of the noise goes."""
    rng = np.random.default_rng(1)
    made = windows(rng, 40, 4, {"old": 3.0, "model": 3.0, "poor": 12.0})
    found = choose(made, ones(40), incumbents=["old", "poor"], style="blend")
    assert found.style == "blend"
    assert set(found.panel) == {"old", "model"}
    assert found.panel["model"] == pytest.approx(0.5, abs=0.2)
    later = windows(rng, 40, 1, {"old": 3.0, "model": 3.0, "poor": 12.0})[0]
    combined = mean_loss(later, found.apply(later.forecasts))
    assert combined < 0.93 * min(mean_loss(later, later.forecasts[name]) for name in ("old", "model"))


def test_a_series_shifts_weight_to_what_was_better_on_it() -> None:
    rng = np.random.default_rng(2)
    made = windows(rng, 30, 4, {"old": 3.0, "model": 3.0})
    for window in made:
        truth = window.y[:1]
        window.forecasts["old"].mean[:1] = truth
        window.forecasts["old"].quantiles[:1] = truth[..., None] + 0.1 * Z
    found = choose(made, ones(30), incumbents=["old"], style="blend")
    assert found.weights["s0"]["old"] > found.panel["old"] + 0.2
    assert sum(found.weights["s0"].values()) == pytest.approx(1.0)
    assert found.methods["s0"] == "old"


def test_a_method_of_one_window_is_judged_there_and_lends_its_weight_elsewhere() -> None:
    rng = np.random.default_rng(3)
    made = windows(rng, 40, 4, {"old": 5.0, "model": 3.0, "personal": 0.5}, late=("personal",))
    found = choose(made, ones(40), incumbents=["old"], style="blend")
    assert found.panel["personal"] > 0.3, "it was much the best where it could be seen"
    early = found.apply(made[0].forecasts)
    rest = {name: weight for name, weight in found.weights["s3"].items() if name != "personal"}
    expected = sum(w * made[0].forecasts[name].mean[3] for name, w in rest.items()) / sum(rest.values())
    assert_allclose(early.mean[3], expected)


def test_one_window_is_believed_less_than_four() -> None:
    rng = np.random.default_rng(4)
    made = windows(rng, 40, 4, {"old": 3.0, "model": 3.0})
    one, four = (choose(some, ones(40), incumbents=["old"], style="blend") for some in (made[:1], made))
    assert max(one.panel.values()) >= 0.5 + 0.5 * 0.25
    assert max(four.panel.values()) < max(one.panel.values())


def test_new_products_get_the_panel_s_weights() -> None:
    rng = np.random.default_rng(5)
    made = windows(rng, 30, 3, {"old": 3.0, "model": 3.0})
    found = choose(made, ones(30), incumbents=["old"], style="blend")
    launched = {name: around(np.full((1, 4), level)) for name, level in (("old", 10.0), ("model", 20.0))}
    launched = {
        name: Forecast(("new",), one.ds, one.levels, one.quantiles, one.mean) for name, one in launched.items()
    }
    expected = 10 * found.panel["old"] + 20 * found.panel["model"]
    assert_allclose(found.apply(launched).mean, expected)


def test_calibration_widens_what_was_too_sure_and_leaves_the_median() -> None:
    rng = np.random.default_rng(6)
    made = []
    for _ in range(4):
        truth = rng.uniform(20, 60, (60, 4))
        made.append(Window(truth, {"old": around(truth + rng.normal(0, 5, truth.shape), spread=1.0)}))
    plain = choose(made, ones(60), incumbents=["old"], style="blend")
    assert plain.calibration == Calibration()
    found = calibrated(plain, made, ones(60))
    before, after = (coverage(made[0].y, one.apply(made[0].forecasts), 0.8) for one in (plain, found))
    assert before < 0.4
    assert before + 0.15 < after < 0.95
    assert (found.apply(made[0].forecasts).median == plain.apply(made[0].forecasts).median).all()


def test_a_window_says_nothing_of_a_model_that_is_not_in_it() -> None:
    """Earlier windows hold an old method that is far too sure; the model that forecasts is not in them."""
    rng = np.random.default_rng(7)
    made = []
    for number in range(4):
        truth = rng.uniform(20, 60, (60, 4))
        forecasts = {"old": around(truth + rng.normal(0, 30, truth.shape), spread=0.5)}
        if number == 3:
            forecasts["personal"] = around(truth + rng.normal(0, 1, truth.shape), spread=1.0)
        made.append(Window(truth, forecasts))
    choice = choose(made, ones(60), incumbents=["old"])
    assert choice.counts == {"personal": 60}
    assert 0.7 < calibrated(choice, made, ones(60)).calibration.above < 1.4


def test_small_weights_are_left_out_and_the_largest_stays() -> None:
    assert_allclose(pruned(np.array([0.5, 0.49, 0.01])), [0.5 / 0.99, 0.49 / 0.99, 0])
    assert_allclose(pruned(np.full(50, 0.02)), np.full(50, 0.02))


def test_levels_are_the_ones_that_the_tests_assume() -> None:
    assert len(LEVELS) == len(Z)


@pytest.mark.parametrize("style", ["choice", "blend"])
def test_a_model_that_nothing_was_trained_for_has_no_weight_of_its_own(style: str) -> None:
    rng = np.random.default_rng(5)
    made = windows(rng, 40, 3, {"old": 4.0, "zero-shot": 3.0})
    plain = choose(made, ones(40), incumbents=["old"], style=style)  # type: ignore[arg-type]
    for window in made[-2:]:  # like a personal model, it may be scored after its training alone
        window.forecasts["personal"] = window.forecasts["zero-shot"]  # type: ignore[index]
    found = choose(made, ones(40), incumbents=["old"], style=style)  # type: ignore[arg-type]
    assert "personal" not in found.shares
    assert "personal" not in found.used
    assert found.shares == plain.shares
    assert found.losses["personal"] == found.losses["zero-shot"]
    assert set(found.ranking) == {"old", "zero-shot", "personal"}


def test_a_model_that_differs_for_a_single_series_is_no_twin() -> None:
    rng = np.random.default_rng(6)
    made = windows(rng, 40, 3, {"old": 4.0, "zero-shot": 3.0})
    window = made[-1]
    mean = window.forecasts["zero-shot"].mean.copy()
    mean[0] = window.y[0]
    window.forecasts["personal"] = around(mean)  # type: ignore[index]
    found = choose(made, ones(40), incumbents=["old"], style="blend")
    assert found.losses["personal"] < found.losses["zero-shot"]
    assert found.shares["personal"] > 0
