"""Views of one window: each does what it says, and none looks at another row."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trend_client.augment import GROUPS, Augmenter, adversarial
from trend_client.finetune import FineTuneSettings
from trend_client.trainer import window_losses
from trend_common.backbones import load_backbone
from trend_common.backbones.base import Batch
from trend_common.backbones.synthetic import random_batch
from trend_common.covariates import CHANNELS, INDEX
from trend_common.windows import description_bytes, text_features

ROWS = np.arange(6)
TEXTS = [f"red mug number {row}" for row in ROWS]


@pytest.fixture
def batch() -> Batch:
    made = random_batch(len(ROWS), context=28, horizon=14, freq="D", seed=3)
    return replace(
        made,
        text=torch.from_numpy(text_features(TEXTS)),
        description=torch.from_numpy(description_bytes(TEXTS, 64).copy()),
        level_hint=torch.full((len(ROWS),), 5.0),
    )


def view(batch: Batch, texts: list[str] = TEXTS, **settings: Any) -> Batch:
    return Augmenter(FineTuneSettings(**settings), texts, np.random.default_rng(1))(ROWS, batch)


def unchanged(one: Batch, other: Batch, but: set[str]) -> None:
    for field in fields(Batch):
        if field.name not in but:
            assert torch.equal(getattr(one, field.name), getattr(other, field.name)), field.name


def test_without_options_a_window_is_left_alone(batch: Batch) -> None:
    assert view(batch) is batch


def test_a_level_moves_past_future_and_expectation_by_one_factor(batch: Batch) -> None:
    found = view(batch, jitter_level=0.5)
    assert found.future_values is not None
    assert batch.future_values is not None
    factor = found.level_hint / batch.level_hint
    assert len(set(factor.tolist())) == len(ROWS)
    torch.testing.assert_close(found.past_values, batch.past_values * factor[:, None])
    torch.testing.assert_close(found.future_values, batch.future_values * factor[:, None])
    unchanged(found, batch, {"past_values", "future_values", "level_hint"})


def test_a_swing_is_around_the_mean_and_leaves_zeros(batch: Batch) -> None:
    found = view(batch, jitter_scale=0.3)
    known = batch.past_mask > 0
    sold = known & (batch.past_values > 0)
    assert (found.past_values[known & ~sold] == 0).all()
    assert (found.past_values[~known] == 0).all()
    moved = 0
    for row in ROWS:
        centre = batch.past_values[row][known[row]].mean()
        inside = sold[row] & (found.past_values[row] > 0)
        ratio = (found.past_values[row] - centre)[inside] / (batch.past_values[row] - centre)[inside]
        if len(ratio):
            torch.testing.assert_close(ratio, ratio[0].expand_as(ratio), rtol=1e-3, atol=1e-3)
            moved += abs(float(ratio[0]) - 1) > 1e-3
    assert moved >= 4
    assert torch.equal(found.level_hint, batch.level_hint)


def test_a_dropped_covariate_loses_its_known_flag_past_and_future(batch: Batch) -> None:
    filled = replace(batch, past_cov=torch.ones_like(batch.past_cov), future_cov=torch.ones_like(batch.future_cov))
    found = view(filled, drop_covariates=0.5)
    seen = set()
    for names in GROUPS.values():
        channels = [INDEX[name] for name in names]
        assert any(name.endswith("_known") for name in names)
        for row in ROWS:
            values = torch.cat(
                [found.past_cov[row][:, channels].flatten(), found.future_cov[row][:, channels].flatten()]
            )
            assert values.unique().numel() == 1, "a covariate and its flag, past and future, go together"
            seen.add(float(values[0]))
    assert seen == {0.0, 1.0}
    kept = [i for i, name in enumerate(CHANNELS) if not any(name in names for names in GROUPS.values())]
    assert (found.past_cov[..., kept] == 1).all()
    assert (filled.past_cov == 1).all(), "the batch that was given is not written to"
    unchanged(found, filled, {"past_cov", "future_cov"})


def test_every_covariate_that_has_a_known_flag_can_be_dropped() -> None:
    flags = {name for name in CHANNELS if name.endswith("_known")} - {"closed_known"}
    assert flags == {name for names in GROUPS.values() for name in names if name.endswith("_known")}


def test_other_words_reach_features_and_bytes(batch: Batch) -> None:
    found = view(batch, synonyms=1.0)
    assert found.description is not None
    for row in ROWS:
        text = found.description[row].numpy().tobytes().rstrip(b"\0").decode()
        assert text != TEXTS[row]
        assert text.endswith(f"number {row}")
        np.testing.assert_array_equal(found.text[row].numpy(), text_features([text])[0])
    unchanged(found, batch, {"text", "description"})


def test_the_worst_change_is_small_and_raises_the_loss(batch: Batch, tiny_backbone: Path) -> None:
    backbone = load_backbone(str(tiny_backbone))

    def losses(one: Batch) -> Tensor:
        return window_losses(backbone, one, "quantile")

    found = adversarial(batch, losses, 0.02)
    size = (found.text - batch.text).norm(dim=1) / batch.text.norm(dim=1)
    torch.testing.assert_close(size, torch.full_like(size, 0.02), rtol=1e-3, atol=1e-5)
    assert (found.past_values >= 0).all()
    assert (found.past_values[batch.past_mask == 0] == 0).all()
    assert not found.text.requires_grad
    before, after = losses(batch).detach(), losses(found).detach()
    assert (after >= before - 1e-6).all()
    assert after.mean() > before.mean()
    unchanged(found, batch, {"text", "past_values"})


@pytest.mark.parametrize(
    "settings",
    [{"jitter_level": 0.3, "jitter_scale": 0.3}, {"drop_covariates": 0.5}, {"synonyms": 0.7}, {"adversarial": 0.05}],
)
def test_a_view_touches_no_other_series(batch: Batch, settings: dict[str, float], tiny_backbone: Path) -> None:
    """One row is replaced by another series; every other row must come out bit for bit as it was."""
    stranger = random_batch(len(ROWS), context=28, horizon=14, freq="D", seed=5)
    swapped = {}
    for field in fields(Batch):
        value, other = getattr(batch, field.name).clone(), getattr(stranger, field.name)
        if value.shape == other.shape:
            value[2] = other[2]
        swapped[field.name] = value
    texts = [*TEXTS[:2], "small blue box", *TEXTS[3:]]
    swapped["text"][2] = torch.from_numpy(text_features([texts[2]]))[0]
    other_batch = Batch(**swapped)
    if "adversarial" in settings:
        backbone = load_backbone(str(tiny_backbone))

        def losses(one: Batch) -> Tensor:
            return window_losses(backbone, one, "quantile")

        one, two = (adversarial(each, losses, settings["adversarial"]) for each in (batch, other_batch))
    else:
        one, two = view(batch, **settings), view(other_batch, texts, **settings)
    rest = torch.tensor([row for row in ROWS if row != 2])
    for field in fields(Batch):
        assert torch.equal(getattr(one, field.name)[rest], getattr(two, field.name)[rest]), field.name
    assert any(not torch.equal(getattr(one, field.name)[2], getattr(two, field.name)[2]) for field in fields(Batch))
