"""Quick forecasts: int8 says what torch says, knows which weights it is of, and is not used where it is worse."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trend_common import adapters, quick
from trend_common.backbones import Backbone, Batch, ForecastOutput, load_backbone
from trend_common.backbones.encoder_graph import rounded
from trend_common.backbones.synthetic import random_batch
from trend_common.backbones.trend import TrendBackbone
from trend_common.errors import UsageError
from trend_common.panel import SalesPanel, from_frame
from trend_common.predicting import predict, without_unknown_start
from trend_common.quick import Agreement, QuickTrend, agreement, merged, quick_or_torch
from trend_common.windows import PanelWindows

pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True)
def _nothing_is_remembered() -> None:
    quick._made.clear()
    quick._trusted.clear()


@pytest.fixture
def backbone(tiny_backbone: Path) -> TrendBackbone:
    return trend(tiny_backbone)


def trend(name: str | Path) -> TrendBackbone:
    found = load_backbone(str(name))
    assert isinstance(found, TrendBackbone)
    return found


def with_adapter(backbone: TrendBackbone, seed: int = 0) -> TrendBackbone:
    """A LoRA whose update is far from nothing."""
    adapters.attach(backbone, rank=2, alpha=4.0, targets=backbone.lora_targets, train="AB")
    rng = np.random.default_rng(seed)
    tensors = {name: rng.normal(0, 0.3, value.shape) for name, value in adapters.export(backbone).items()}
    adapters.load(backbone, {name: value.astype(np.float32) for name, value in tensors.items()})
    return backbone


def close(quick: ForecastOutput, exact: ForecastOutput, batch: Batch) -> float:
    """Median difference of the quantiles over the window's level."""
    level = (batch.past_values.sum(1) / batch.past_mask.sum(1).clamp(min=1)).clamp(min=0.1)
    return float(((quick.quantiles - exact.quantiles).abs() / level[:, None, None]).median())


@pytest.mark.parametrize("freq", ["D", "W", "M"])
@pytest.mark.parametrize(("context", "horizon"), [(504, 28), (100, 56), (14, 1), (3, 17)])
def test_int8_says_what_torch_says(freq: str, context: int, horizon: int) -> None:
    backbone = trend("trend-small")
    batch = random_batch(6, context=context, horizon=horizon, freq=freq, seed=context)
    with torch.inference_mode():
        exact, said = backbone(batch), QuickTrend(merged(backbone))(batch)
    assert said.loss_per_sample is None
    assert close(said, exact, batch) < 0.03
    assert exact.no_sale is not None
    assert said.no_sale is not None
    torch.testing.assert_close(said.no_sale, exact.no_sale, atol=0.15, rtol=0)
    assert (said.quantiles.diff(dim=-1) >= 0).all()
    assert not torch.equal(said.quantiles, exact.quantiles), "these are torch's own"


def test_the_adapter_is_in_the_graph_and_stays_on_the_backbone(backbone: TrendBackbone) -> None:
    batch = random_batch(6, context=56, horizon=14, seed=2)
    with torch.inference_mode():
        bare = backbone(batch)
        with_adapter(backbone)
        exact, said = backbone(batch), QuickTrend(merged(backbone))(batch)
        assert close(said, exact, batch) < 0.2 * close(bare, exact, batch)
        assert adapters.export(backbone), "the adapter is still there"
        torch.testing.assert_close(backbone(batch).quantiles, exact.quantiles, rtol=0, atol=0)


def test_other_weights_are_another_model(backbone: TrendBackbone, panel: SalesPanel) -> None:
    """The same backbone object with another adapter must not forecast with the graph of the first."""
    windows = PanelWindows(panel, context=56)
    with_adapter(backbone, seed=1)
    at = windows.n_steps
    first = predict(backbone, windows, origin=at, horizon=14, engine="int8")
    tensors = {name: value * 0 for name, value in adapters.export(backbone).items()}
    adapters.load(backbone, tensors)
    second = predict(backbone, windows, origin=at, horizon=14, engine="int8")
    assert len(quick._made) == 2
    exact = predict(backbone, windows, origin=at, horizon=14)
    assert np.abs(second.quantiles - exact.quantiles).mean() < 0.2 * np.abs(first.quantiles - exact.quantiles).mean()


def test_the_cache_is_private_whole_and_written_again_if_broken(backbone: TrendBackbone, tmp_path: Path) -> None:
    cache, batch = tmp_path / "cache", random_batch(3, context=28, horizon=7, seed=1)
    made = QuickTrend(merged(backbone), cache=cache)
    (file,) = cache.iterdir()
    if os.name != "nt":
        assert file.stat().st_mode & 0o077 == 0, "a personal adapter is in it"
    assert made.key[:24] in file.name
    with torch.inference_mode():
        said = made(batch).quantiles
        whole = file.read_bytes()
        again = QuickTrend(merged(backbone), cache=cache)(batch).quantiles
        torch.testing.assert_close(again, said, rtol=0, atol=0)
        file.write_bytes(whole[:100])
        mended = QuickTrend(merged(backbone), cache=cache)(batch).quantiles
    torch.testing.assert_close(mended, said, rtol=0, atol=0)
    assert file.read_bytes() == whole


def test_a_kept_graph_is_read_not_made(
    backbone: TrendBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    QuickTrend(merged(backbone), cache=tmp_path)
    monkeypatch.setattr("trend_common.backbones.encoder_graph.encoder_graph", lambda _: pytest.fail("made again"))
    QuickTrend(merged(backbone), cache=tmp_path)


def test_where_it_costs_too_much_torch_forecasts_and_says_so(
    backbone: TrendBackbone, panel: SalesPanel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    windows = PanelWindows(panel, context=56)
    true_run = QuickTrend.__call__

    def worse(self: QuickTrend, batch: Batch) -> ForecastOutput:
        out = true_run(self, batch)
        return replace(out, quantiles=out.quantiles * 3 + 5)

    monkeypatch.setattr(QuickTrend, "__call__", worse)
    with caplog.at_level(logging.WARNING):
        made = predict(backbone, windows, origin=windows.n_steps, horizon=14, engine="int8")
    exact = predict(backbone, windows, origin=windows.n_steps, horizon=14)
    np.testing.assert_array_equal(made.quantiles, exact.quantiles)
    assert "int8 was left out" in caplog.text


def test_the_check_sees_nothing_after_the_origin(backbone: TrendBackbone, panel: SalesPanel) -> None:
    windows, origin = PanelWindows(panel, context=56), 100
    batch = quick._past_windows(windows, np.arange(len(windows.ids)), origin, 14)
    assert batch.future_values is not None
    spoiled = panel.frame.assign(y=panel.frame["y"].mask(panel.frame["ds"] >= windows.dates[origin], 1e6))
    other = PanelWindows(replace(panel, frame=spoiled), context=56)
    again = quick._past_windows(other, np.arange(len(other.ids)), origin, 14)
    assert again.future_values is not None
    torch.testing.assert_close(again.future_values, batch.future_values, rtol=0, atol=0)
    torch.testing.assert_close(again.past_values, batch.past_values, rtol=0, atol=0)
    assert batch.future_values.sum() > 0


def test_the_cost_is_that_of_the_scaled_quantile_loss() -> None:
    """A forecast that is exactly right against one that is off by one on every step: both losses by hand."""
    batch = random_batch(2, context=28, horizon=7, seed=3, ragged=False)
    assert batch.future_values is not None
    truth = batch.future_values[..., None].expand(-1, -1, 13)

    class Off:
        max_horizon = 56

        def __init__(self, by: float) -> None:
            self.by = by

        def __call__(self, _: Batch) -> ForecastOutput:
            return ForecastOutput(truth + self.by, truth[..., 6])

    found = agreement(Off(1.0), Off(1.2), batch)
    assert found.cost == pytest.approx(0.2, abs=1e-4)
    assert not found.good
    assert agreement(Off(1.0), Off(1.004), batch).good
    level = batch.past_values.mean(1)
    largest = (0.2 / torch.maximum(truth + 1, level[:, None, None])).max()
    assert found.difference == pytest.approx(float(largest), rel=1e-3)
    blind = agreement(Off(1.0), Off(1.2), replace(batch, future_values=None, future_mask=None))
    assert blind.cost is None
    assert blind.good
    assert not Agreement(float("nan"), None, 1).good


def test_the_environment_may_name_the_engine(
    backbone: TrendBackbone, panel: SalesPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = PanelWindows(panel, context=56)
    monkeypatch.setenv("TREND_ENGINE", "int8")
    predict(backbone, windows, origin=windows.n_steps, horizon=7)
    assert len(quick._made) == 1
    quick._made.clear()
    predict(backbone, windows, origin=windows.n_steps, horizon=7, engine="torch")
    assert not quick._made
    monkeypatch.setenv("TREND_ENGINE", "int4")
    with pytest.raises(UsageError, match="no engine 'int4'"):
        predict(backbone, windows, origin=windows.n_steps, horizon=7)


def test_a_foreign_backbone_forecasts_in_torch(panel: SalesPanel, caplog: pytest.LogCaptureFixture) -> None:
    class Foreign:
        name = "somebody's"

    windows = PanelWindows(panel, context=56)
    foreign: Any = Foreign()
    with caplog.at_level(logging.WARNING):
        rows = np.arange(3)
        assert quick_or_torch(foreign, windows, origin=100, horizon=14, rows=rows) is foreign
    assert "somebody's" in caplog.text


def test_beyond_one_block_and_for_products_without_a_past(panel: SalesPanel) -> None:
    backbone: Backbone = load_backbone("trend-small")
    windows = PanelWindows(panel, context=252, ahead=80)
    for origin in (0, windows.n_steps):
        exact = predict(backbone, windows, origin=origin, horizon=80)
        said = predict(backbone, windows, origin=origin, horizon=80, engine="int8")
        assert said.ids == exact.ids
        assert np.abs(said.median - exact.median).mean() < 0.05 * np.abs(exact.median).mean()


@pytest.mark.parametrize("context", [28, 252])
def test_what_was_forecast_stays_when_unknown_history_is_left_out(panel: SalesPanel, context: int) -> None:
    """The second block goes on from the first one, also where its window holds nothing else."""
    backbone, windows = trend("trend-small"), PanelWindows(panel, context=context, ahead=100)
    short = predict(backbone, windows, origin=windows.n_steps, horizon=100).quantiles
    backbone.blind_patch = 0
    whole = predict(backbone, windows, origin=windows.n_steps, horizon=100).quantiles
    np.testing.assert_allclose(short, whole, rtol=1e-3, atol=1e-3)


@given(arrays(np.float32, (5, 4), elements=st.floats(-3, 3, width=32)))
def test_a_rounded_weight_is_within_half_a_step(weight: np.ndarray) -> None:
    whole, scale = rounded(weight)
    assert 2 * 255 * np.abs(whole.astype(int)).max() < 2**15, "two products saturate 16 bits"
    assert np.abs(whole * scale - weight).max() <= scale.max() / 2 + 1e-5
    assert (np.abs(whole * scale - weight) <= scale / 2 + 1e-5).all()


def test_history_before_the_first_sale_can_be_left_out() -> None:
    """What makes short histories quick: leaving whole unknown patches out changes no forecast."""
    backbone = trend("trend-small")
    batch = random_batch(5, context=200, horizon=28, seed=6, ragged=False)
    known = torch.zeros(200)
    known[150:] = 1
    late = replace(batch, past_mask=known.expand(5, -1), past_values=batch.past_values * known)
    short = without_unknown_start(late, backbone.blind_patch)
    assert short.past_values.shape == (5, 56)
    assert without_unknown_start(late, 14, keep=100).past_values.shape == (5, 112)
    assert without_unknown_start(late, 14, keep=300).past_values.shape == (5, 200)
    assert without_unknown_start(replace(late, past_mask=late.past_mask * 0), 14).past_values.shape == (5, 0)
    with torch.inference_mode():
        torch.testing.assert_close(backbone(short).quantiles, backbone(late).quantiles, rtol=1e-3, atol=1e-3)


def test_a_series_that_begins_late_is_forecast_as_with_a_long_context(sales: pd.DataFrame) -> None:
    backbone = trend("trend-small")
    panel = from_frame(sales)
    long, short = PanelWindows(panel, context=504), PanelWindows(panel, context=140)
    made = [predict(backbone, one, origin=one.n_steps, horizon=28).quantiles for one in (long, short)]
    np.testing.assert_allclose(made[0], made[1], rtol=1e-3, atol=1e-3)
