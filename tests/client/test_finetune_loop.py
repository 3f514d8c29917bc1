"""The loop: gradients, the course of the step size, looks, and the end."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from trend_client.drawing import Drawer
from trend_client.engine import Engine
from trend_client.finetune import FineTuneSettings
from trend_client.freeze import Training, training
from trend_client.trainer import accumulate, make_optimiser, run, window_losses
from trend_client.training import TrainingData
from trend_common import adapters
from trend_common.backbones.base import Batch
from trend_common.backbones.synthetic import random_batch
from trend_common.panel import SalesPanel
from trend_common.tensors import Tensors, tensors_sha256
from trend_common.windows import PanelWindows

CONTEXT, HORIZON, TRAIN_END = 56, 14, 112


@pytest.fixture(scope="module")
def engine(tiny_backbone: Path) -> Engine:
    return Engine(str(tiny_backbone), device="cpu")


@pytest.fixture
def data(panel: SalesPanel) -> TrainingData:
    return TrainingData.of(PanelWindows(panel, context=CONTEXT), train_end=TRAIN_END, horizon=HORIZON)


@contextmanager
def ready(engine: Engine, **settings: Any) -> Iterator[tuple[Training, FineTuneSettings]]:
    wanted = FineTuneSettings(**settings)
    engine.install_local(2)
    engine.use(None)
    with training(engine.backbone, engine.plan, engine.weights, wanted, seed=0) as made:
        yield made, wanted


def gradient(made: Training, parts: list[Batch], settings: FineTuneSettings) -> list[torch.Tensor]:
    for parameter in made.parameters:
        parameter.grad = None
    accumulate(made.backbone, parts, settings)
    return [parameter.grad.clone() for parameter in made.parameters if parameter.grad is not None]


def windows(rows: int = 32, seed: int = 0) -> Batch:
    return random_batch(rows, context=28, horizon=14, freq="D", seed=seed)


def test_four_batches_of_eight_give_the_gradient_of_thirty_two(engine: Engine) -> None:
    batch = windows()
    with ready(engine) as (made, settings):
        whole = gradient(made, [batch], settings)
        quarters = gradient(made, [batch.rows(slice(i, i + 8)) for i in range(0, 32, 8)], settings)
        uneven = gradient(made, [batch.rows(slice(0, 5)), batch.rows(slice(5, 32))], settings)
        eight = gradient(made, [batch.rows(slice(0, 8))], settings)
    assert whole
    for one, two, three in zip(whole, quarters, uneven, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(one, three, rtol=1e-4, atol=1e-7)
    assert any(not torch.allclose(one, two, rtol=1e-2) for one, two in zip(whole, eight, strict=True))


def test_a_step_draws_accumulate_times_a_batch(engine: Engine, data: TrainingData) -> None:
    seen = []

    class Counting(Drawer):
        def draw(self) -> list[Batch]:
            parts = super().draw()
            seen.append(sum(len(part) for part in parts))
            return parts

    with ready(engine, batch_size=8, accumulate=4, steps=2, look_every=2) as (made, settings):
        run(made, Counting(data, settings, np.random.default_rng(0)), settings, lambda: 1.0)
    assert seen == [8] * 8


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", lambda at: 1.0),
        ("linear", lambda at: 1 - at),
        ("cosine", lambda at: 0.5 * (1 + math.cos(math.pi * at))),
    ],
)
def test_the_step_size_follows_its_schedule(engine: Engine, schedule: str, expected: Any) -> None:
    with ready(engine, schedule=schedule, warmup=0.2, steps=50, learning_rate=0.01) as (made, settings):
        optimiser, course = make_optimiser(made, settings)
        rates = []
        for _ in range(50):
            rates.append(optimiser.param_groups[0]["lr"])
            optimiser.step()
            course.step()
    wanted = [0.01 * (step / 10 if step < 10 else expected((step - 10) / 40)) for step in range(50)]
    np.testing.assert_allclose(rates, wanted, atol=1e-12)


def test_words_have_a_step_size_of_their_own(engine: Engine) -> None:
    with ready(engine, words=True, words_rate=5.0, learning_rate=0.01, warmup=0) as (made, settings):
        optimiser, _ = make_optimiser(made, settings)
        assert [group["lr"] for group in optimiser.param_groups] == [0.01, 0.05]
        named = dict(engine.backbone.core.named_parameters())
        words = {id(named[f"base_model.model.{name}"]) for name in ("text.weight", "categories.weight")}
        assert {id(p) for p in optimiser.param_groups[1]["params"]} == words
        assert not words & {id(p) for p in optimiser.param_groups[0]["params"]}


def test_optimisers_are_the_ones_named(engine: Engine) -> None:
    with ready(engine, optimiser="sgd", momentum=0.7, weight_decay=0.3) as (made, settings):
        optimiser, _ = make_optimiser(made, settings)
        assert isinstance(optimiser, torch.optim.SGD)
        assert optimiser.param_groups[0]["momentum"] == 0.7
        assert optimiser.param_groups[0]["weight_decay"] == 0.3
    with ready(engine, weight_decay=0.3, warmup=0, schedule="constant", learning_rate=0.1) as (made, settings):
        optimiser, _ = make_optimiser(made, settings)
        parameter = made.parameters[0]
        before = parameter.detach().clone()
        parameter.grad = torch.zeros_like(parameter)
        optimiser.step()
        torch.testing.assert_close(parameter.detach(), before * (1 - 0.1 * 0.3))  # decoupled: no gradient needed


def test_early_stopping_keeps_the_best_look_and_ends(engine: Engine, data: TrainingData) -> None:
    values = iter([0.9, 0.5, 0.6, 0.55, 0.1])
    seen: list[Tensors] = []

    def look() -> float:
        seen.append(adapters.export(engine.backbone))
        return next(values)

    with ready(engine, steps=100, look_every=3, patience=2, batch_size=4) as (made, settings):
        course = run(made, Drawer(data, settings, np.random.default_rng(0)), settings, look)
    assert course.looks == {3: 0.9, 6: 0.5, 9: 0.6, 12: 0.55}
    assert (course.best_step, course.stopped) == (6, 12)
    assert course.best is not None
    assert tensors_sha256(course.best) == tensors_sha256(seen[1])
    assert tensors_sha256(seen[1]) != tensors_sha256(seen[3])


def test_without_patience_all_steps_are_taken_and_the_last_is_looked_at(engine: Engine, data: TrainingData) -> None:
    with ready(engine, steps=7, look_every=3, patience=0, batch_size=4) as (made, settings):
        course = run(made, Drawer(data, settings, np.random.default_rng(0)), settings, lambda: 1.0, limit=1.0)
    assert list(course.looks) == [3, 6, 7]
    assert course.best is None


def test_the_squared_error_is_of_the_mean_over_the_level(engine: Engine) -> None:
    engine.install_local(2)
    engine.use(None)
    batch = windows(6)
    out = engine.backbone(batch)
    found = window_losses(engine.backbone, batch, "squared")
    for row in range(6):
        known = batch.past_mask[row] > 0
        if not known.any():
            continue
        level = batch.past_values[row][known].mean()
        assert batch.future_mask is not None
        assert batch.future_values is not None
        target = batch.future_mask[row] > 0
        error = (out.mean[row] - batch.future_values[row])[target] / level
        torch.testing.assert_close(found[row], (error**2).mean())


def test_the_squared_error_trains_the_mean(engine: Engine, data: TrainingData) -> None:
    probe = data.draw(np.arange(data.n_units), 2, np.random.default_rng(5).random)
    with ready(engine, loss="squared", steps=40, learning_rate=1e-2, look_every=40, batch_size=16) as (
        made,
        settings,
    ):
        before = window_losses(engine.backbone, probe, "squared").mean().item()
        run(made, Drawer(data, settings, np.random.default_rng(0)), settings, lambda: 1.0)
        assert window_losses(engine.backbone, probe, "squared").mean().item() < before


def test_bf16_is_of_the_forward_pass_alone(engine: Engine) -> None:
    kinds = set()
    with ready(engine, precision="bf16") as (made, settings):
        layer = next(module for module in engine.backbone.modules() if isinstance(module, nn.Linear))
        handle = layer.register_forward_hook(lambda _m, _i, out: kinds.add(out.dtype))
        found = gradient(made, [windows()], settings)
        handle.remove()
        exact = gradient(made, [windows()], settings.model_copy(update={"precision": "float32"}))
    assert kinds == {torch.bfloat16}
    assert {one.dtype for one in found} == {torch.float32}
    rough = torch.cat([one.flatten() for one in found])
    fine = torch.cat([one.flatten() for one in exact])
    assert not torch.equal(rough, fine)
    assert torch.nn.functional.cosine_similarity(rough, fine, dim=0) > 0.98


def test_a_large_gradient_is_cut(engine: Engine, data: TrainingData) -> None:
    moved = {}
    for limit in (1e-6, 1.0):
        with ready(
            engine, optimiser="sgd", momentum=0, clip_norm=limit, steps=1, warmup=0, learning_rate=1.0, look_every=1
        ) as (made, settings):
            before = torch.cat([p.detach().flatten().clone() for p in made.parameters])
            run(made, Drawer(data, settings, np.random.default_rng(0)), settings, lambda: 1.0)
            moved[limit] = float((torch.cat([p.detach().flatten() for p in made.parameters]) - before).norm())
    assert moved[1e-6] <= 1.01e-6
    assert moved[1.0] > 1e-5


def test_worst_windows_are_trained_on_as_well(engine: Engine) -> None:
    with ready(engine) as (made, settings):
        plain = gradient(made, [windows()], settings)
        both = gradient(made, [windows()], settings.model_copy(update={"adversarial": 0.1}))
    assert any(not torch.allclose(one, two, rtol=1e-3) for one, two in zip(plain, both, strict=True))
    for one, two in zip(plain, both, strict=True):
        assert two.norm() < 3 * one.norm() + 1e-6
