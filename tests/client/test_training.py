"""Drawing windows of units, and the steps that need no privacy."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from trend_client.engine import Engine, PersonalSettings
from trend_client.personal import Validation
from trend_client.siblings import Siblings
from trend_client.training import TrainingData, fit
from trend_common import adapters
from trend_common.errors import PolicyError
from trend_common.panel import SalesPanel, from_frame
from trend_common.tensors import tensors_sha256
from trend_common.windows import PanelWindows

CONTEXT, HORIZON, TRAIN_END = 56, 14, 112


@pytest.fixture(scope="module")
def engine(tiny_backbone: Path) -> Engine:
    return Engine(str(tiny_backbone), device="cpu")


@pytest.fixture
def windows(panel: SalesPanel) -> PanelWindows:
    return PanelWindows(panel, context=CONTEXT)


def test_the_windows_of_a_unit_stand_side_by_side(windows: PanelWindows) -> None:
    data = TrainingData.of(windows, train_end=TRAIN_END, horizon=HORIZON)
    batch = data.draw(np.array([3, 0]), 4, np.random.default_rng(0).random)
    text = batch.text.numpy()
    assert len(batch) == 8
    assert (text[:4] == text[0]).all()
    assert (text[4:] == text[4]).all()
    assert not np.array_equal(text[0], text[4])


@pytest.mark.parametrize(("unit", "count"), [("series", 12), ("product", 6), ("store", 2)])
def test_units_are_series_products_or_stores(windows: PanelWindows, unit: str, count: int) -> None:
    data = TrainingData.of(windows, train_end=TRAIN_END, horizon=HORIZON, unit=unit)  # type: ignore[arg-type]
    assert data.n_units == count
    owned = np.concatenate(data.units)
    assert sorted(owned) == list(range(12))
    batch = data.draw(np.arange(count), 3, np.random.default_rng(0).random)
    assert len(batch) == 3 * count


def test_no_target_is_on_or_after_the_end_of_training(sales: pd.DataFrame) -> None:
    """The sales after the cut are poisoned; no drawn target may hold them."""
    cut = sales["date"].min() + pd.Timedelta(days=TRAIN_END)
    poisoned = from_frame(sales.assign(units=np.where(sales["date"] >= cut, 1e6, sales["units"])))
    data = TrainingData.of(PanelWindows(poisoned, context=CONTEXT), train_end=TRAIN_END, horizon=HORIZON)
    batch = data.draw(np.arange(data.n_units).repeat(20), 1, np.random.default_rng(0).random)
    assert batch.future_values is not None
    assert float(batch.future_values.max()) < 1e5
    assert float(batch.past_values.max()) < 1e5


@pytest.mark.parametrize(
    ("k", "share", "count"), [(4, 0.25, 1), (4, 0.5, 2), (2, 0.75, None), (1, 0.25, None), (3, 1, 3)]
)
def test_a_share_of_each_unit_windows_hides_the_history(
    windows: PanelWindows, k: int, share: float, count: int | None
) -> None:
    """In its place stands a week of one level."""
    data = TrainingData.of(windows, train_end=TRAIN_END, horizon=HORIZON, launch_share=share)
    units = np.arange(data.n_units).repeat(50)
    batch = data.draw(units, k, np.random.default_rng(0).random)
    values, mask = batch.past_values.numpy(), batch.past_mask.numpy()
    hidden = (values[:, -7:] == values[:, -1:]).all(axis=1) & (mask[:, :-7].sum(1) == 0) & (values[:, -1] > 0)
    assert (mask[hidden, -7:] == 1).all()
    assert not batch.level_hint.any()
    assert batch.future_mask is not None
    assert float(batch.future_mask.numpy()[hidden].sum()) > 0
    found = hidden.reshape(len(units), k)
    if count is not None:
        assert (found.sum(1) == count).all()
    assert found.mean() == pytest.approx(share, abs=0.05)
    assert {int(n) for n in found.sum(1)} <= {int(np.floor(k * share)), int(np.ceil(k * share))}


@pytest.mark.parametrize("unit", ["series", "product"])
@pytest.mark.parametrize("share", [0.25, 0.4, 1.0])
def test_a_unit_less_leaves_the_windows_of_the_others(sales: pd.DataFrame, unit: str, share: float) -> None:
    """Drawn together, with each unit's own uniforms: which windows hide, and what they show, bit for bit."""
    k = 3

    def drawn(table: pd.DataFrame) -> dict[str, list[torch.Tensor]]:
        panel = from_frame(table, freq="D", period=("2024-01-01", "2024-05-19"))
        windows = PanelWindows(panel, context=CONTEXT)
        data = TrainingData.of(
            windows,
            train_end=TRAIN_END,
            horizon=HORIZON,
            unit=unit,
            launch_share=share,  # type: ignore[arg-type]
        )
        names = [",".join(windows.ids[row] for row in rows) for rows in data.units]
        own = np.array([(zlib.crc32(name.encode()) % 997 + 0.5) / 997 for name in names])

        def uniforms(n: int) -> np.ndarray:
            return own if n == len(own) else (own.repeat(k) + 0.37 * np.tile(np.arange(k), len(own))) % 1

        batch = data.draw(np.arange(data.n_units), k, uniforms)
        tensors = [one for one in vars(batch).values() if isinstance(one, torch.Tensor)]
        return {name: [one[k * at : k * (at + 1)] for one in tensors] for at, name in enumerate(names)}

    whole, part = drawn(sales), drawn(sales[sales["product"] != "p2"])
    assert 0 < len(part) < len(whole)
    for name, tensors in part.items():
        assert all(torch.equal(one, other) for one, other in zip(tensors, whole[name], strict=True)), name


def test_what_is_shown_for_the_history_is_the_level_before_it(sales: pd.DataFrame) -> None:
    """With the middle guess, to the last digit; nothing of what is to be forecast is in it."""
    steps = (sales["date"] - sales["date"].min()).dt.days
    ramp = from_frame(sales.assign(units=steps.astype(float), promo=0))
    windows = PanelWindows(ramp, context=CONTEXT)
    data = TrainingData.of(windows, train_end=TRAIN_END, horizon=HORIZON, launch_share=1.0)
    series, batch = data.draw_rows(np.arange(data.n_units), 2, lambda n: np.full(n, 0.5))
    assert batch.future_values is not None
    first = batch.future_values[:, 0].numpy()  # its step, by the ramp
    known = [windows.history(int(step))[row, -28:] for row, step in zip(series, first, strict=True)]
    expected = [float(np.nanmean(one)) for one in known]
    assert batch.past_values[:, -1].numpy() == pytest.approx(expected, rel=1e-5)
    assert (batch.past_values.amax(1).numpy() < first).all()


def test_a_stated_level_is_a_guess(windows: PanelWindows) -> None:
    data = TrainingData.of(windows, train_end=TRAIN_END, horizon=HORIZON, launch_share=1.0)
    units = np.zeros(2000, dtype=np.int64)
    series, batch = data.draw_rows(units, 1, np.random.default_rng(1).random)
    origins = windows.draw_origins(series, TRAIN_END, HORIZON, np.random.default_rng(1).random(2000))
    off = np.log(batch.past_values[:, -1].numpy() / windows.levels(series, origins))
    assert off.std() == pytest.approx(0.3, abs=0.02)
    assert off.mean() == pytest.approx(0, abs=0.03)


def test_what_rested_shows_its_history(sales: pd.DataFrame) -> None:
    """Nobody would state a level of nothing, and a window that shows nothing at all teaches nothing."""
    steps = (sales["date"] - sales["date"].min()).dt.days
    windows = PanelWindows(from_frame(sales.assign(units=np.where(steps < 10, 5.0, 0.0), promo=0)), context=CONTEXT)
    data = TrainingData.of(windows, train_end=TRAIN_END, horizon=HORIZON, launch_share=1.0)
    series, batch = data.draw_rows(np.arange(data.n_units).repeat(20), 2, np.random.default_rng(0).random)
    origins = windows.draw_origins(series, TRAIN_END, HORIZON, np.random.default_rng(0).random(len(series)))
    resting = windows.levels(series, origins) == 0
    assert resting.any()
    assert not resting.all()
    assert not batch.past_values.numpy()[resting, -28:].any()
    assert (batch.past_mask.numpy()[resting].sum(1) > 28).all()


def test_training_lowers_the_loss_and_moves_the_adapter(engine: Engine, windows: PanelWindows) -> None:
    data = TrainingData.of(windows, train_end=TRAIN_END, horizon=HORIZON)
    engine.install_local(2)
    engine.use(None)
    probe = data.draw(np.arange(data.n_units), 4, np.random.default_rng(9).random)
    before = engine.backbone(probe).loss_per_sample.mean().item()
    start = tensors_sha256(adapters.export(engine.backbone))
    fit(engine.backbone, data, steps=40, learning_rate=1e-2, batch_size=16, rng=np.random.default_rng(0))
    assert tensors_sha256(adapters.export(engine.backbone)) != start
    assert engine.backbone(probe).loss_per_sample.mean().item() < before


def test_a_proximal_term_keeps_the_adapter_near_its_start(engine: Engine, windows: PanelWindows) -> None:
    data = TrainingData.of(windows, train_end=TRAIN_END, horizon=HORIZON)
    moved = {}
    for mu in (0.0, 100.0):
        engine.install_local(2)
        engine.use(None)
        start = adapters.export(engine.backbone)
        fit(
            engine.backbone,
            data,
            steps=20,
            learning_rate=3e-3,
            batch_size=16,
            rng=np.random.default_rng(0),
            proximal_mu=mu,
        )
        after = adapters.export(engine.backbone)
        moved[mu] = sum(float(np.square(after[name] - value).sum()) for name, value in start.items())
    assert moved[100.0] < 0.5 * moved[0.0]


def test_the_personal_adapter_is_never_worse_on_validation_than_its_start(
    engine: Engine, windows: PanelWindows
) -> None:
    data = TrainingData.of(windows, train_end=TRAIN_END, horizon=HORIZON)
    engine.install_local(2)
    settings = PersonalSettings(learning_rates=(1e-2, 1.0), checkpoints=(5, 15))
    tensors, tried = engine.personalise(data, None, validation=TRAIN_END, seed=0, settings=settings)
    engine.use(tensors)
    judge = Validation(data, Siblings(windows), TRAIN_END)
    reached = judge.measure(judge.forecast(engine))
    assert reached == pytest.approx(min(tried.values()), rel=1e-5)
    assert reached <= tried["none"] + 1e-9
    assert len(tried) == 5


def test_installing_another_plan_and_back_gives_the_same_forecast(engine: Engine, panel: SalesPanel) -> None:
    engine.install_local(2)
    forecaster = engine.forecaster(None, context=CONTEXT)
    origin = panel.end - pd.Timedelta(days=13)
    first = forecaster(panel, origin, 14)
    engine.install_local(4)
    engine.install_local(2)
    second = forecaster(panel, origin, 14)
    np.testing.assert_allclose(first.quantiles, second.quantiles, rtol=1e-5)


def test_the_next_client_of_a_plan_finds_the_engine_as_the_first_did(engine: Engine) -> None:
    """A simulation installs one plan at every visit; what others left in the engine meanwhile must be gone."""
    plan, _, frozen = adapters.initial_adapter(
        engine.release(), rank=2, alpha=4, targets=engine.backbone.lora_targets, train="B"
    )
    engine.install(plan, frozen)
    fresh, core = engine.worn(None), engine.backbone.core
    start = {spec.name: np.full(spec.shape, 0.5, np.float32) for spec in plan.tensors}
    engine.use(start)
    first = adapters.export(engine.backbone)
    # Another client trains A besides, and the backbone's own words.
    adapters.set_trained(engine.backbone, "AB")
    moved = {name: value + 1 for name, value in first.items()}
    engine.use({**moved, "text.weight": np.ones_like(engine.weights.export(["text.weight"])["text.weight"])})
    engine.install(plan.model_copy(deep=True), {name: value.copy() for name, value in frozen.items()})
    assert engine.backbone.core is core
    assert set(adapters.trained_parameters(engine.backbone)) == {spec.name for spec in plan.tensors}
    assert not (engine.weights.export(["text.weight"])["text.weight"] == 1).all()
    after = adapters.export(engine.backbone)
    assert all(np.array_equal(after[name], value) for name, value in frozen.items())
    assert tensors_sha256(engine.worn(None)) == tensors_sha256(fresh)
    engine.use(start)
    assert tensors_sha256(adapters.export(engine.backbone)) == tensors_sha256(first)
    name = next(iter(frozen))
    with pytest.raises(PolicyError, match="not the ones that it names"):
        engine.install(plan, {**frozen, name: frozen[name] + 1})
    with pytest.raises(PolicyError, match="do not fit"):
        engine.install(plan, {**frozen, name: frozen[name][:1]})
