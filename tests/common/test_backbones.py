"""The backbone: shapes, independence of rows, saving and loading, and what it does at the edges."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trend_common.backbones import LEVELS, SHIPPED, backbone_sha256, load_backbone
from trend_common.backbones.registry import shipped_folder
from trend_common.backbones.synthetic import random_batch
from trend_common.backbones.trend import TrendBackbone, TrendConfig, TrendModel
from trend_common.errors import UsageError


@pytest.fixture(scope="module")
def backbone(tiny_backbone: Path) -> TrendBackbone:
    loaded = load_backbone(str(tiny_backbone))
    assert isinstance(loaded, TrendBackbone)
    return loaded


@settings(max_examples=25, deadline=None)
@given(context=st.integers(0, 100), horizon=st.integers(1, 56), freq=st.sampled_from("DWM"), rows=st.integers(1, 4))
def test_any_context_and_horizon_give_ordered_finite_quantiles(
    backbone: TrendBackbone, context: int, horizon: int, freq: str, rows: int
) -> None:
    batch = random_batch(rows, context=max(context, 1), horizon=horizon, freq=freq, seed=context)
    if context == 0:
        batch = replace(
            batch,
            past_values=batch.past_values[:, :0],
            past_mask=batch.past_mask[:, :0],
            past_cov=batch.past_cov[:, :0],
        )
    out = backbone(batch)
    assert out.quantiles.shape == (rows, horizon, len(LEVELS))
    assert out.mean.shape == (rows, horizon)
    assert out.loss_per_sample.shape == (rows,)
    for value in (out.quantiles, out.mean, out.loss_per_sample):
        assert torch.isfinite(value).all()
    assert (out.quantiles >= 0).all()
    assert (out.quantiles.diff(dim=-1) >= 0).all()


@pytest.mark.parametrize("context", [505, 512, 700])
def test_a_longer_history_is_cut_to_what_the_model_reads(backbone: TrendBackbone, context: int) -> None:
    batch = random_batch(3, context=context, horizon=28, seed=2)
    last = replace(
        batch,
        past_values=batch.past_values[:, -504:],
        past_mask=batch.past_mask[:, -504:],
        past_cov=batch.past_cov[:, -504:],
    )
    whole, cut = backbone(batch), backbone(last)
    torch.testing.assert_close(whole.quantiles, cut.quantiles, rtol=0, atol=0)
    torch.testing.assert_close(whole.loss_per_sample, cut.loss_per_sample, rtol=0, atol=0)


def test_mixed_frequencies_in_one_batch_are_forecast_as_each_alone(backbone: TrendBackbone) -> None:
    """Pretraining mixes them; a batch of one frequency takes a shorter way through the moving mean."""
    batch = random_batch(6, context=112, horizon=14, seed=9)
    batch = replace(batch, freq=torch.tensor([0, 1, 2, 0, 1, 2]))
    together = backbone(batch).quantiles
    for row in range(6):
        alone = backbone(batch.rows(slice(row, row + 1))).quantiles[0]
        torch.testing.assert_close(alone, together[row], rtol=1e-4, atol=1e-5)


def test_rows_do_not_mix(backbone: TrendBackbone) -> None:
    batch = random_batch(5, context=56, horizon=14, seed=3)
    together = backbone(batch)
    for row in range(5):
        alone = backbone(batch.rows(slice(row, row + 1)))
        torch.testing.assert_close(alone.quantiles[0], together.quantiles[row], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(alone.loss_per_sample[0], together.loss_per_sample[row], rtol=1e-4, atol=1e-5)


def test_the_scale_of_the_sales_is_the_scale_of_the_forecast(backbone: TrendBackbone) -> None:
    """Statics see the level, so a small difference is allowed; a factor of 100 must come through."""
    batch = random_batch(3, context=56, horizon=14, seed=4, ragged=False)
    hundred = replace(batch, past_values=batch.past_values * 100)
    ratio = backbone(hundred).quantiles[..., 5] / backbone(batch).quantiles[..., 5].clamp(min=1e-3)
    assert 30 < float(ratio.median()) < 300


def test_masked_values_do_not_count(backbone: TrendBackbone) -> None:
    batch = random_batch(2, context=56, horizon=14, seed=5)
    garbage = torch.where(batch.past_mask > 0, batch.past_values, torch.full_like(batch.past_values, 1e6))
    first, second = backbone(batch).quantiles, backbone(replace(batch, past_values=garbage)).quantiles
    torch.testing.assert_close(first, second)


def test_a_window_without_targets_has_no_loss(backbone: TrendBackbone) -> None:
    batch = random_batch(2, context=28, horizon=7, seed=6)
    assert backbone(replace(batch, future_values=None, future_mask=None)).loss_per_sample is None
    assert batch.future_mask is not None
    blind = backbone(replace(batch, future_mask=torch.zeros_like(batch.future_mask)))
    assert blind.loss_per_sample.tolist() == [0.0, 0.0]


def test_saving_and_loading_changes_nothing(backbone: TrendBackbone, tmp_path: Path) -> None:
    """What was loaded must not be initialised again: a trained head that is scaled by the loader still loads."""
    batch = random_batch(2, context=28, horizon=7, seed=7)
    backbone.core.save_pretrained(tmp_path / "copy")
    copy = load_backbone(str(tmp_path / "copy"))
    torch.testing.assert_close(copy(batch).quantiles, backbone(batch).quantiles, rtol=0, atol=0)
    assert backbone_sha256(copy) == backbone_sha256(backbone)


def test_the_hash_sees_every_weight_and_the_configuration(tiny_backbone: Path) -> None:
    backbone = load_backbone(str(tiny_backbone))
    before = backbone_sha256(backbone)
    with torch.no_grad():
        backbone.core.blocks[0].fc1.bias[3] += 1e-3  # type: ignore[index, union-attr]
    assert backbone_sha256(backbone) != before
    with torch.random.fork_rng():
        torch.manual_seed(1)
        other = TrendBackbone(TrendModel(TrendConfig(d_model=16, n_layers=1, n_heads=2, d_ff=32, mean_weight=0.5)))
    assert backbone_sha256(other) != before


def test_an_unknown_backbone_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no backbone"):
        load_backbone("no-such-thing")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UsageError, match="bert"):
        load_backbone(str(tmp_path))


def test_the_shipped_weights_are_small_and_load() -> None:
    for name in SHIPPED:
        folder = shipped_folder(name)
        assert (folder / "README.md").is_file(), "the model card ships with the weights"
        assert (folder / "model.safetensors").stat().st_size < 10_000_000
        backbone = load_backbone(name)
        assert not any(parameter.requires_grad for parameter in backbone.parameters())
        assert not backbone.training


def test_identities_say_nothing_to_the_shipped_backbone() -> None:
    """Pretraining saw no store, product or category: a known one must not be worse off than an unknown one."""
    backbone = load_backbone("trend-small")
    batch = random_batch(4, context=56, horizon=14, seed=8)
    unknown = replace(batch, static_ids=torch.zeros_like(batch.static_ids))
    assert (batch.static_ids > 0).any()
    torch.testing.assert_close(backbone(batch).quantiles, backbone(unknown).quantiles, rtol=0, atol=0)


def test_the_shipped_backbone_sees_a_weekly_pattern_a_promotion_and_a_closed_weekday() -> None:
    """Not a benchmark: the least that a forecast of retail sales must get right."""
    from trend_common.covariates import INDEX

    backbone = load_backbone("trend-small")
    days = np.arange(364 + 28)
    level = 20 + 15 * (days % 7 == 5) - 8 * (days % 7 == 1)
    batch = random_batch(2, context=364, horizon=28, seed=1, ragged=False)
    values = torch.from_numpy(level.astype(np.float32)).repeat(2, 1)
    cov = torch.zeros(2, 392, batch.past_cov.shape[-1])
    promo = torch.zeros(392)
    promo[::9] = 1
    values[1] = values[1] * (1 + promo)
    cov[1, :, INDEX["promo"]] = promo
    cov[1, :, INDEX["promo_known"]] = 1
    made = replace(
        batch, past_values=values[:, :364], past_cov=cov[:, :364], future_cov=cov[:, 364:], text=batch.text * 0
    )
    median = backbone(made).quantiles[..., 5].numpy()
    truth = values[:, 364:].numpy()
    assert np.abs(median[0] - truth[0]).mean() < 0.1 * truth[0].mean()
    on = promo[364:].numpy() > 0
    lift = (median[1][on] / median[0][on]).mean()
    assert lift > 1.4, f"promotions doubled sales in the past; the forecast lifts them {lift:.2f} times"


def test_the_configured_spread_moves_quantiles_of_its_frequency_about_the_median(tmp_path: Path) -> None:
    wide = shipped_folder("trend-small")
    config = json.loads((wide / "config.json").read_text())
    folders = {}
    for name, spread in (("plain", [1.0, 1.0, 1.0]), ("narrow", [1.0, 0.5, 1.0])):
        folders[name] = tmp_path / name
        folders[name].mkdir()
        (folders[name] / "config.json").write_text(json.dumps({**config, "spread": spread}))
        shutil.copy(wide / "model.safetensors", folders[name])
    plain, narrow = (load_backbone(str(folder)) for folder in folders.values())
    batch = random_batch(6, context=112, horizon=14, freq="D", seed=1)
    for number, same in ((0, True), (1, False), (2, True)):
        ours = replace(batch, freq=torch.full_like(batch.freq, number))
        with torch.inference_mode():
            before, after = plain(ours).quantiles, narrow(ours).quantiles
        middle = LEVELS.index(0.5)
        torch.testing.assert_close(before[..., middle], after[..., middle], rtol=1e-4, atol=1e-4)
        wide_one, other = (float((one[..., -2] - one[..., 1]).sum()) for one in (before, after))
        assert other == pytest.approx(wide_one, rel=1e-5) if same else other < 0.7 * wide_one
    assert backbone_sha256(narrow) != backbone_sha256(plain)
