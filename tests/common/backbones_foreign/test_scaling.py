"""A window by itself: scale, gaps, the simple forecast, and quantiles read at other levels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from trend_common.backbones import LEVELS, Batch
from trend_common.backbones.heads import steps_to_patches
from trend_common.backbones.scaling import (
    ScaledWindow,
    finish,
    normal_scores,
    quantile_mean,
    read_levels,
    window_losses,
)
from trend_common.backbones.synthetic import random_batch
from trend_common.covariates import CHANNELS

quick = settings(max_examples=30, deadline=None)
NINE = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])


def window_of(values: list[float], *, horizon: int = 7, hint: float = 0.0, freq: int = 0) -> ScaledWindow:
    """One window; NaN is unknown."""
    raw = torch.tensor([values])
    known = (~raw.isnan()).float()
    empty = torch.zeros(1, len(values), len(CHANNELS)), torch.zeros(1, horizon, len(CHANNELS))
    return ScaledWindow.of(
        Batch(
            past_values=raw.nan_to_num(),
            past_mask=known,
            past_cov=empty[0],
            future_cov=empty[1],
            freq=torch.tensor([freq]),
            text=torch.zeros(1, 4),
            static_ids=torch.zeros(1, 3, dtype=torch.int64),
            level_hint=torch.tensor([hint]),
        )
    )


NAN = float("nan")


def test_the_scale_is_the_mean_of_what_is_known() -> None:
    assert float(window_of([2.0, NAN, 4.0]).scale) == 3.0
    assert float(window_of([2.0, NAN, 4.0], hint=9.0).scale) == 5.0, "one pseudo-value"
    assert float(window_of([NAN, NAN], hint=9.0).scale) == 9.0
    assert float(window_of([NAN, NAN]).scale) > 0
    assert float(window_of([0.0, 0.0]).scale) > 0


def test_the_simple_forecast_is_the_mean_of_the_same_weekdays() -> None:
    week = [7.0, 1.0, 1.0, 2.0, 3.0, 4.0, 10.0]
    found = window_of(week * 5, horizon=9)
    expected = torch.tensor([*week, *week[:2]])
    torch.testing.assert_close(torch.sinh(found.base[0]) * found.scale, expected)
    assert float(found.spread) == pytest.approx(0.01), "a perfect repetition is as calm as can be"


def test_it_falls_back_to_the_level_and_then_to_the_scale() -> None:
    short = window_of([4.0, 4.0, NAN], horizon=3)
    torch.testing.assert_close(torch.sinh(short.base[0]) * short.scale, torch.full((3,), 4.0))
    for nothing in (window_of([NAN] * 5, hint=6.0), window_of([], hint=6.0)):
        torch.testing.assert_close(torch.sinh(nothing.base[0]) * nothing.scale, torch.full((7,), 6.0))
        assert float(nothing.spread) == 0.5


def test_gaps_take_the_season_before_then_the_last_value_then_the_mean() -> None:
    season = torch.tensor([3])
    found = window_of([NAN, 2.0, NAN, 6.0, NAN, NAN, NAN])
    scale = float(found.scale)
    assert (found.filled(season)[0] * scale).tolist() == pytest.approx([scale, 2.0, 2.0, 6.0, 2.0, 6.0, 6.0])
    assert window_of([]).filled(season).shape == (1, 0)


@given(seed=st.integers(0, 1000), freq=st.sampled_from("DWM"))
@quick
def test_a_window_is_scaled_by_itself_alone(seed: int, freq: str) -> None:
    batch = random_batch(4, context=40, horizon=10, freq=freq, seed=seed)
    whole, alone = ScaledWindow.of(batch), ScaledWindow.of(batch.rows(slice(2, 3)))
    for name in ("scale", "values", "known", "base", "spread"):
        assert torch.equal(getattr(whole, name)[2:3], getattr(alone, name))


@given(
    location=st.floats(-5, 5),
    width=st.floats(0.01, 5),
    given_levels=st.lists(st.integers(1, 99), min_size=1, max_size=8, unique=True),
)
@quick
def test_a_normal_distribution_is_read_exactly(location: float, width: float, given_levels: list[int]) -> None:
    """Whatever levels a core gives, on both sides of the median."""
    given_ = sorted({5, *given_levels, 90})
    levels = torch.tensor(given_, dtype=torch.float64) / 100
    wanted = torch.tensor(LEVELS, dtype=torch.float64)
    found = read_levels(location + width * normal_scores(levels)[None], levels, wanted)[0]
    np.testing.assert_allclose(found, norm.ppf(LEVELS, location, width), rtol=1e-6, atol=1e-6)


@given(values=st.lists(st.floats(-3, 3), min_size=9, max_size=9))
@quick
def test_quantiles_that_are_given_are_kept_and_order_stays(values: list[float]) -> None:
    quantiles = torch.tensor(sorted(values))
    found = read_levels(quantiles, NINE, torch.tensor(LEVELS))
    torch.testing.assert_close(found[2:-2], quantiles, rtol=1e-4, atol=1e-4)
    assert (found.diff() >= -1e-4).all()
    assert torch.isfinite(found).all()


def test_the_mean_of_quantiles() -> None:
    levels = torch.tensor(LEVELS)
    assert float(quantile_mean(torch.full((len(LEVELS),), 4.0), levels)) == pytest.approx(4.0)
    symmetric = 5 + normal_scores(levels)
    assert float(quantile_mean(symmetric, levels)) == pytest.approx(5.0, abs=1e-4)


def test_the_best_quantiles_have_the_least_loss() -> None:
    batch = random_batch(400, context=70, horizon=7, seed=1, ragged=False)
    window, levels = ScaledWindow.of(batch), torch.tensor(LEVELS)
    assert batch.future_values is not None
    # The targets are drawn around twice the window's mean with a known spread.
    generator = torch.Generator().manual_seed(0)
    z = 1.4 + 0.2 * torch.randn(400, 7, generator=generator)
    target = torch.sinh(z) * window.scale[:, None]
    from dataclasses import replace

    drawn = replace(batch, future_values=target)
    losses = {}
    for shift in (-0.1, 0.0, 0.1):
        for stretch in (0.5, 1.0, 2.0):
            scaled = (1.4 + shift + 0.2 * stretch * normal_scores(levels)).expand(400, 7, -1)
            found = window_losses(drawn, window, scaled, levels)
            assert found is not None
            losses[shift, stretch] = float(found.mean())
    assert min(losses, key=lambda key: losses[key]) == (0.0, 1.0)


def test_forecasts_are_bounded_sorted_and_in_the_series_units() -> None:
    batch = random_batch(1, context=28, horizon=2, seed=1, ragged=False)
    window = ScaledWindow.of(batch)
    scaled = torch.linspace(50, -5, len(LEVELS)).expand(1, 2, -1)
    out = finish(window, scaled, torch.tensor(LEVELS), None)
    assert torch.isfinite(out.quantiles).all()
    assert (out.quantiles >= 0).all()
    assert (out.quantiles.diff(dim=-1) >= 0).all()
    assert out.loss_per_sample is None


@given(steps=st.integers(0, 40), patch=st.integers(1, 14), front=st.booleans())
@quick
def test_patches_hold_every_step_once_and_the_origin_is_an_edge(steps: int, patch: int, front: bool) -> None:
    values = torch.arange(1, steps + 1, dtype=torch.float32)[None, :, None]
    found = steps_to_patches(values, patch, front=front)[0]
    assert found.shape == (-(-steps // patch), patch)
    flat = found.flatten().tolist()
    assert [value for value in flat if value] == values.flatten().tolist()
    if steps:
        assert flat[-1 if front else 0] == (steps if front else 1)
