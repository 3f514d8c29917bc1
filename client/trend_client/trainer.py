"""The loop of fine-tuning: steps of an optimiser, looks at validation, and the best of what was seen.

Without privacy, so for what never leaves; private steps go through :mod:`trend_common.privacy.step`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import get_scheduler

from trend_client.augment import adversarial
from trend_client.drawing import Drawer
from trend_client.finetune import FineTuneSettings
from trend_client.freeze import Training
from trend_common.backbones.base import Backbone, Batch
from trend_common.tensors import Tensors

__all__ = ["Course", "accumulate", "make_optimiser", "run", "window_losses"]

_SMALLEST = 1e-3
"""Least level that a squared error is divided by, so that a window of zeros does not weigh without bound."""


@dataclass
class Course:
    """What a run of training went through.

    Attributes:
        looks: Step → validation measure, lower is better.
        best: The tensors of the best look; None if none was better than ``limit``.
        best_step: Its step; 0 if there is none.
        stopped: The last step that was taken.
    """

    looks: dict[int, float] = field(default_factory=dict)
    best: Tensors | None = None
    best_step: int = 0
    stopped: int = 0


def run(
    made: Training,
    drawer: Drawer,
    settings: FineTuneSettings,
    look: Callable[[], float],
    *,
    limit: float = math.inf,
    looks: Collection[int] = (),
    device: str = "cpu",
    seed: int = 0,
) -> Course:
    """Train until the steps are taken or validation has not improved for ``settings.patience`` looks.

    Args:
        made: What is trained.
        drawer: Of the windows.
        settings: How.
        look: The validation measure of the model as it is, lower is better.
        limit: Only tensors whose measure is below it are kept.
        looks: Steps at which to look; default: every ``settings.look_every`` and the last.
        device: Where to compute.
        seed: Of dropout.
    """
    optimiser, schedule = make_optimiser(made, settings)
    when = set(looks) or {*range(settings.look_every, settings.steps + 1, settings.look_every), settings.steps}
    course, since = Course(), 0
    with torch.random.fork_rng(devices=[torch.device(device)] if device.startswith("cuda") else []):
        torch.manual_seed(seed)
        for step in range(1, settings.steps + 1):
            made.mode(True)
            parts = [part.to(device) for _ in range(settings.accumulate) for part in drawer.draw()]
            optimiser.zero_grad()
            accumulate(made.backbone, parts, settings, made.penalty)
            torch.nn.utils.clip_grad_norm_([*made.parameters, *made.words], settings.clip_norm)
            optimiser.step()
            made.after_step(step)
            schedule.step()
            made.mode(False)
            course.stopped = step
            if step not in when:
                continue
            course.looks[step] = look()
            if course.looks[step] < limit:
                limit, since = course.looks[step], 0
                course.best, course.best_step = made.export(), step
            else:
                since += 1
            if settings.patience and since >= settings.patience:
                break
    return course


def make_optimiser(made: Training, settings: FineTuneSettings) -> tuple[torch.optim.Optimizer, Any]:
    """The optimiser, with descriptions and categories at their own step size, and the course of its step size."""
    groups = [{"params": made.parameters, "lr": settings.learning_rate}]
    if made.words:
        groups.append({"params": made.words, "lr": settings.learning_rate * settings.words_rate})
    groups = [group for group in groups if group["params"]]
    optimiser: torch.optim.Optimizer
    if settings.optimiser == "sgd":
        optimiser = torch.optim.SGD(groups, momentum=settings.momentum, weight_decay=settings.weight_decay)
    else:
        optimiser = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
    kind = "constant_with_warmup" if settings.schedule == "constant" else settings.schedule
    warmup = round(settings.warmup * settings.steps)
    return optimiser, get_scheduler(kind, optimiser, num_warmup_steps=warmup, num_training_steps=settings.steps)


def accumulate(
    backbone: Backbone,
    parts: Sequence[Batch],
    settings: FineTuneSettings,
    penalty: Callable[[], Tensor | None] = lambda: None,
) -> float:
    """Add the gradient of the mean loss over all windows of all parts, one part at a time.

    Args:
        backbone: With gradients let into what is trained.
        parts: Batches; every window counts alike, whichever part it is in.
        settings: Loss, precision and adversarial windows.
        penalty: Added to the mean loss once.

    Returns:
        The mean loss over the windows as drawn.
    """
    count, total = sum(len(part) for part in parts), 0.0

    def losses(batch: Batch) -> Tensor:
        with _precision(batch, settings):
            return window_losses(backbone, batch, settings.loss)

    for part in parts:
        found = losses(part).sum() / count
        total += float(found.detach())
        if settings.adversarial:
            moved = adversarial(part, losses, settings.adversarial)
            found = 0.5 * (found + losses(moved).sum() / count)
        found.backward()  # type: ignore[no-untyped-call]
    extra = penalty()
    if extra is not None:
        extra.backward()  # type: ignore[no-untyped-call]
    return total


def window_losses(backbone: Backbone, batch: Batch, kind: str) -> Tensor:
    """[N] the backbone's own loss, or the squared error of the mean over the window's level, as the mean of steps."""
    out = backbone(batch)
    if kind == "quantile":
        assert out.loss_per_sample is not None
        own: Tensor = out.loss_per_sample
        return own
    assert batch.future_values is not None
    assert batch.future_mask is not None
    error = (out.mean - batch.future_values) / _level(batch)[:, None] * batch.future_mask
    squared: Tensor = (error**2).sum(1) / batch.future_mask.sum(1).clamp(min=1)
    return squared


def _level(batch: Batch) -> Tensor:
    """[N] mean of the known past values and, where there is one, of the expected level."""
    has = (batch.level_hint > 0).to(batch.past_values.dtype)
    total = (batch.past_values * batch.past_mask).sum(1) + has * batch.level_hint
    level = total / (batch.past_mask.sum(1) + has).clamp(min=1)
    return torch.where(level > _SMALLEST, level, torch.ones_like(level))


def _precision(batch: Batch, settings: FineTuneSettings) -> AbstractContextManager[Any]:
    if settings.precision == "float32":
        return nullcontext()
    return torch.autocast(batch.past_values.device.type, dtype=torch.bfloat16)
