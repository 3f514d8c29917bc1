"""The synthetic world, and a pretraining that can be killed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import trend_server.pretraining.loop as loop
from trend_common.backbones.trend import TrendConfig
from trend_common.covariates import CHANNELS, INDEX, calendar_features
from trend_server.pretraining.loop import PretrainSettings, pretrain
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


def test_a_killed_pretraining_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "TrendConfig", lambda: TrendConfig(d_model=16, n_layers=1, n_heads=2, d_ff=32))
    monkeypatch.setattr(loop, "_validation_loss", lambda *_: 0.0)
    settings = PretrainSettings(out=tmp_path, minutes=0.03, batch=8, save_every_s=0.5)
    pretrain(settings)
    first = [json.loads(line) for line in (tmp_path / "training-log.jsonl").read_text().splitlines()]
    pretrain(PretrainSettings(out=tmp_path, minutes=0.06, batch=8, save_every_s=0.5))
    log = [json.loads(line) for line in (tmp_path / "training-log.jsonl").read_text().splitlines()]
    assert log[: len(first)] == first
    assert log[-1]["step"] > first[-1]["step"] > 0
    assert log[-1]["elapsed_s"] >= first[-1]["elapsed_s"]
