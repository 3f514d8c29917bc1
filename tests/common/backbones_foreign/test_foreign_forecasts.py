"""Every foreign core behind the interface: what it returns, that windows do not mix, and what it refuses to do."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from trend_common.backbones import LEVELS, Backbone, Batch, load_backbone
from trend_common.backbones.synthetic import random_batch
from trend_common.covariates import INDEX
from trend_common.errors import UsageError
from trend_common.tasks import TREND_CLASSES


@pytest.fixture
def backbone(core_folder: Path) -> Backbone:
    return load_backbone(str(core_folder))


@pytest.mark.parametrize(("context", "horizon", "freq"), [(56, 20, "D"), (13, 8, "W"), (1, 1, "M"), (0, 28, "D")])
def test_forecasts_are_ordered_finite_and_not_negative(
    backbone: Backbone, context: int, horizon: int, freq: str
) -> None:
    batch = random_batch(4, context=max(context, 1), horizon=horizon, freq=freq, seed=context)
    if context == 0:
        nothing = {name: getattr(batch, name)[:, :0] for name in ("past_values", "past_mask", "past_cov")}
        batch = replace(batch, **nothing)
    out = backbone(batch)
    assert out.quantiles.shape == (4, horizon, len(LEVELS))
    assert out.mean.shape == (4, horizon)
    assert out.loss_per_sample is not None
    assert out.loss_per_sample.shape == (4,)
    for value in (out.quantiles, out.mean, out.loss_per_sample):
        assert torch.isfinite(value).all()
    assert (out.quantiles >= 0).all()
    assert (out.quantiles.diff(dim=-1) >= 0).all()
    assert out.quantiles.dtype == torch.float32


def test_a_window_forecasts_the_same_alone_and_among_others(backbone: Backbone) -> None:
    batch = random_batch(5, context=56, horizon=20, seed=3)
    together = backbone(batch)
    for row in range(5):
        alone = backbone(batch.rows(slice(row, row + 1)))
        torch.testing.assert_close(alone.quantiles[0], together.quantiles[row], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(alone.loss_per_sample[0], together.loss_per_sample[row], rtol=1e-4, atol=1e-5)


def test_a_returned_parcel_elsewhere_changes_nothing_here(backbone: Backbone) -> None:
    """TimesFM can cut all forecasts at zero if no value of the whole batch is negative: one series would show in
    the others."""
    batch = random_batch(3, context=56, horizon=20, seed=9, ragged=False)
    values = batch.past_values.clone()
    values[1] -= 2 * values[1].max()
    before, after = backbone(batch), backbone(replace(batch, past_values=values))
    for row in (0, 2):
        assert torch.equal(before.quantiles[row], after.quantiles[row])
        assert torch.equal(before.loss_per_sample[row], after.loss_per_sample[row])


def test_units_of_the_sales_are_units_of_the_forecast(backbone: Backbone) -> None:
    """A factor of 100 comes through; a summary may see the level, so a small difference is allowed."""
    batch = random_batch(3, context=56, horizon=14, seed=4, ragged=False)
    hundred = replace(batch, past_values=batch.past_values * 100)
    ratio = backbone(hundred).quantiles[..., 8] / backbone(batch).quantiles[..., 8].clamp(min=1e-3)
    assert 60 < float(ratio.median()) < 160


def test_masked_values_do_not_count(backbone: Backbone) -> None:
    batch = random_batch(3, context=56, horizon=14, seed=5)
    garbage = torch.where(batch.past_mask > 0, batch.past_values, torch.full_like(batch.past_values, 1e6))
    first, second = backbone(batch).quantiles, backbone(replace(batch, past_values=garbage)).quantiles
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_known_targets_alone_make_the_loss(backbone: Backbone) -> None:
    batch = random_batch(2, context=28, horizon=7, seed=6)
    assert batch.future_mask is not None
    assert batch.future_values is not None
    assert backbone(replace(batch, future_values=None, future_mask=None)).loss_per_sample is None
    blind = backbone(replace(batch, future_mask=torch.zeros_like(batch.future_mask)))
    assert blind.loss_per_sample.tolist() == [0.0, 0.0]
    half = batch.future_mask.clone()
    half[:, 3:] = 0
    changed = batch.future_values.clone()
    changed[:, 3:] += 50
    known = backbone(replace(batch, future_mask=half)).loss_per_sample
    also = backbone(replace(batch, future_mask=half, future_values=changed)).loss_per_sample
    assert torch.equal(known, also)


def test_history_matters_and_more_than_fits_is_cut(backbone: Backbone) -> None:
    longest = backbone.max_context
    batch = random_batch(2, context=longest + 28, horizon=14, seed=7, ragged=False)
    early, late = batch.past_values.clone(), batch.past_values.clone()
    early[:, :28] *= 9
    late[:, -28:] *= 9
    usual = backbone(batch).quantiles
    assert torch.equal(usual, backbone(replace(batch, past_values=early)).quantiles)
    assert not torch.allclose(usual, backbone(replace(batch, past_values=late)).quantiles)


def test_a_horizon_that_is_too_long_is_an_error(backbone: Backbone) -> None:
    batch = random_batch(1, context=28, horizon=backbone.max_horizon + 1, seed=1)
    with pytest.raises(UsageError, match=f"at most {backbone.max_horizon} steps"):
        backbone(batch)


def test_tasks_are_done_or_refused(backbone: Backbone, core_name: str) -> None:
    batch = random_batch(4, context=56, horizon=20, seed=8)
    assert backbone.task == "demand"
    demand = backbone(batch)
    if core_name in ("timesfm", "timesfm2_5", "chronos-bolt", "chronos-2"):
        assert demand.trend is None
        for task in ("trend", "all"):
            with pytest.raises(UsageError, match=f"no head for the task '{task}'"):
                backbone.task = task  # type: ignore[assignment]
        assert backbone.task == "demand"
        return
    assert demand.trend.shape == (4, len(TREND_CLASSES))
    torch.testing.assert_close(demand.trend.sum(-1), torch.ones(4))
    assert ((demand.no_sale > 0) & (demand.no_sale < 1)).all()
    losses = {}
    for task in ("demand", "trend", "all"):
        backbone.task = task  # type: ignore[assignment]
        losses[task] = backbone(batch).loss_per_sample
    torch.testing.assert_close(losses["all"], losses["demand"] + 0.02 * losses["trend"])
    assert float(losses["trend"].max()) > 0


def _knowing(batch: Batch, promo: float) -> Batch:
    """``batch`` with a promotion announced for all steps ahead, or none, and nothing else known."""
    past, future = torch.zeros_like(batch.past_cov), torch.zeros_like(batch.future_cov)
    past[..., INDEX["promo_known"]] = future[..., INDEX["promo_known"]] = 1
    past[..., ::5, INDEX["promo"]] = 1
    future[..., INDEX["promo"]] = promo
    return replace(batch, past_cov=past, future_cov=future)


def test_declared_covariates_reach_the_forecast(backbone: Backbone, core_name: str) -> None:
    assert backbone.capabilities.covariates
    batch = random_batch(2, context=56, horizon=14, seed=2, ragged=False)
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if name in backbone.fresh_parameters() and "covariates" in name:
                parameter.add_(0.3)  # what pretraining would have found
    on, off = backbone(_knowing(batch, 1.0)).quantiles, backbone(_knowing(batch, 0.0)).quantiles
    assert not torch.allclose(on, off)


def test_declared_text_reaches_the_forecast(backbone: Backbone, core_name: str) -> None:
    batch = random_batch(2, context=56, horizon=14, seed=2, ragged=False)
    other = replace(batch, text=batch.text.flip(0))
    differs = not torch.equal(backbone(batch).quantiles, backbone(other).quantiles)
    assert differs == backbone.capabilities.text


def test_what_is_loaded_is_frozen_and_at_rest(backbone: Backbone) -> None:
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not any(module.training for module in backbone.modules())
    assert {field.name for field in fields(Batch)} >= {"description"}


def test_forecasting_without_gradients_is_the_same(backbone: Backbone) -> None:
    """Chronos-2 leaves out the rows of unknown covariates then."""
    batch = _knowing(random_batch(3, context=56, horizon=14, seed=2), 1.0)
    with torch.enable_grad():
        with_rows = backbone(batch).quantiles.detach()
    with torch.inference_mode():
        without = backbone(batch).quantiles
    torch.testing.assert_close(without, with_rows, rtol=1e-4, atol=1e-4)
