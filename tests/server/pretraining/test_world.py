"""The synthetic world: what it draws, and that it stays the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trend_common.covariates import CHANNELS, INDEX, calendar_features
from trend_server.pretraining.world import LENGTHS, World


@pytest.mark.parametrize("freq", "DWM")
def test_batches_are_finite_and_in_range(freq: str) -> None:
    batch = World(1).batch(64, freq)
    longest, horizon = LENGTHS[freq]
    assert batch.past_values.shape[1] <= longest
    assert batch.future_cov.shape[1] <= horizon
    assert batch.past_cov.shape[-1] == len(CHANNELS)
    assert batch.future_values is not None
    for value in (batch.past_values, batch.past_cov, batch.future_cov, batch.future_values):
        assert torch.isfinite(value).all()
    assert float(batch.past_values.min()) >= 0
    assert float((batch.past_values * (1 - batch.past_mask)).abs().max()) == 0


def test_a_seed_is_a_world() -> None:
    one, same, other = (World(seed).batch(16, "D") for seed in (3, 3, 4))
    assert torch.equal(one.past_values, same.past_values)
    assert one.past_values.shape != other.past_values.shape or not torch.equal(one.past_values, other.past_values)


def test_promotions_sell_and_closed_days_do_not() -> None:
    batch = World(2).batch(512, "D")
    assert batch.future_values is not None
    closed = batch.future_cov[..., INDEX["closed"]] > 0
    assert closed.any()
    assert float(batch.future_values[closed].max()) == 0
    promo = batch.future_cov[..., INDEX["promo"]] > 0
    level = batch.future_values.mean(1, keepdim=True).clamp(min=0.1)
    relative = batch.future_values / level
    assert float(relative[promo].mean()) > 1.15 * float(relative[~promo & ~closed].mean())


def test_its_calendar_is_the_one_of_real_data() -> None:
    import pandas as pd

    world = World(5)
    calendar = world._draw_calendar(4, 60, "D")
    made = world._calendar_features(calendar, "D")
    dates = pd.to_datetime(calendar.day[0].numpy(), unit="D")
    real = calendar_features(pd.DatetimeIndex(dates), "D")
    # The week is the same to the last bit; the world's year starts on another day and its months have one length.
    np.testing.assert_allclose(made[0, :, :6].numpy(), real[:, :6], atol=1e-4)


def test_words_say_when_a_product_sells() -> None:
    """Products that are described as Christmas goods sell in December, whatever their own year does."""
    from trend_server.pretraining.lexicon import catalogue

    words = catalogue()
    assert torch.allclose(words.text.norm(dim=1), torch.ones(len(words)), atol=1e-5)
    december = ((words.peak > 335) & (words.peak < 352)).double()
    assert 0.02 < float(december.mean()) < 0.2
    # A linear reading of half of the descriptions tells the other half's December goods from the rest.
    half, text = len(words) // 2, words.text.double()
    gram = text[:half].T @ text[:half] + torch.eye(text.shape[1])
    told = text[half:] @ torch.linalg.solve(gram, text[:half].T @ december[:half])
    ours, others = told[december[half:] > 0], told[december[half:] == 0]
    assert float((ours[:, None] > others).double().mean()) > 0.85


def test_a_group_shares_its_level() -> None:
    batch = World(6).batch(512, "W")
    assert batch.future_values is not None
    level = torch.log(batch.future_values.mean(1).clamp(min=0.05)).view(-1, 8)
    within, between = float(level.var(1).mean()), float(level.mean(1).var())
    assert between > 0.3 * within
    few = batch.past_mask.sum(1) < 20
    assert (batch.level_hint[~few] == 0).all()


def test_shapes_follow_their_own_seed() -> None:
    first, second = (World(seed, shape_seed=9).batch(4) for seed in (1, 2))
    assert first.past_values.shape == second.past_values.shape
    assert not torch.equal(first.future_values, second.future_values)


@pytest.mark.parametrize(
    ("freq", "shapes", "sums"),
    [
        ("D", ((64, 98), (64, 56)), (98270.806, 56310.72, 5347.0, 10333.594)),
        ("W", ((64, 168), (64, 56)), (365764.817, 124833.863, 8462.0, 10648.634)),
        ("M", ((64, 84), (64, 28)), (593932.036, 235629.205, 4738.0, 6776.153)),
    ],
)
def test_it_is_the_world_that_the_shipped_weights_saw(
    freq: str, shapes: tuple[tuple[int, int], ...], sums: tuple[float, ...]
) -> None:
    """One draw more gives another world: then the weights, their card and their figures are not of this code."""
    batch = World(11).batch(64, freq)
    assert batch.future_values is not None
    assert (tuple(batch.past_values.shape), tuple(batch.future_values.shape)) == shapes
    tensors = (batch.past_values, batch.future_values, batch.past_mask, batch.future_cov)
    # Sums with a tolerance: exp and log differ by a last bit between processors.
    np.testing.assert_allclose([float(one.double().sum()) for one in tensors], sums, rtol=1e-3)
