"""The one interface between data, training and any forecasting model.

Shapes in this package: N windows, L context steps, H horizon steps, C covariate channels
(:data:`trend_common.covariates.CHANNELS`), Q quantile levels, T text features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trend_common.forecasts import LEVELS
from trend_common.tasks import Task

__all__ = ["LEVELS", "Backbone", "Batch", "Capabilities", "ForecastOutput"]


@dataclass(frozen=True)
class Batch:
    """Windows of series; every row depends on one series and on the calendar alone.

    Attributes:
        past_values: [N, L] in the series' own units; 0 where masked.
        past_mask: [N, L] 1 where the value is known.
        past_cov: [N, L, C].
        future_cov: [N, H, C]; past-only channels are 0 here.
        freq: [N] int64, 0 daily, 1 weekly, 2 monthly.
        text: [N, T] hashed character n-grams of the description, rows of norm 1, or 0 where there is none.
        static_ids: [N, 3] int64 hash buckets of store, product and category; 0 is unknown.
        level_hint: [N] a level to expect, for series with little or no history; 0 where there is none. Never set in
            private training, where it would tie a series to its siblings.
        future_values, future_mask: [N, H] targets, for training.
        description: [N, D] uint8, the description's first bytes in UTF-8, 0 behind its end; for models that have a
            tokenizer of their own.
    """

    past_values: Tensor
    past_mask: Tensor
    past_cov: Tensor
    future_cov: Tensor
    freq: Tensor
    text: Tensor
    static_ids: Tensor
    level_hint: Tensor
    future_values: Tensor | None = None
    future_mask: Tensor | None = None
    description: Tensor | None = None

    def __len__(self) -> int:
        return int(self.past_values.shape[0])

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on ``device``."""
        moved = {
            field.name: value.to(device)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)

    def rows(self, index: Tensor | slice) -> Batch:
        """The chosen rows."""
        chosen = {
            field.name: value[index]
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **chosen)


@dataclass(frozen=True)
class ForecastOutput:
    """What a backbone returns.

    Attributes:
        quantiles: [N, H, Q] in the series' units, ascending in Q, not negative.
        mean: [N, H] in the series' units.
        loss_per_sample: [N], or None without targets. A window without a known target has loss 0.
        no_sale: [N, H] probability that nothing is sold, or None where the model does not say.
        trend: [N, 3] probabilities of :data:`trend_common.tasks.TREND_CLASSES`, or None.
    """

    quantiles: Tensor
    mean: Tensor
    loss_per_sample: Tensor | None = None
    no_sale: Tensor | None = None
    trend: Tensor | None = None


@dataclass(frozen=True)
class Capabilities:
    """What a backbone can use."""

    covariates: bool
    text: bool
    cold_start: bool


class Backbone(nn.Module, ABC):
    """A frozen forecasting model with named places for LoRA.

    Every layer in :attr:`lora_targets` is a linear one whose input is [N · r, ..., features], the rows of a window
    side by side (r is 1, or what the network declares as ``rows_per_window``): per-series gradients rely on it, and
    the self-test checks it.

    Attributes:
        core: The network that carries the adapter; after :func:`trend_common.adapters.attach` a ``PeftModel``.
        task: Which loss :meth:`forward` gives.
        tasks: What ``task`` may be set to.
        blind_patch: Steps of a patch of history that changes nothing if none of it and none before it is known, so
            that a forecast can leave it out; 0 where there is no such thing.
    """

    tasks: ClassVar[tuple[Task, ...]] = ("demand", "trend", "all")
    blind_patch: int = 0

    core: nn.Module
    name: str
    task: Task
    lora_targets: tuple[str, ...]
    capabilities: Capabilities
    max_context: int
    max_horizon: int

    @abstractmethod
    def forward(self, batch: Batch) -> ForecastOutput:
        """Forecast ``batch``; with targets also give the loss of each window."""

    @property
    @abstractmethod
    def config(self) -> Mapping[str, object]:
        """The configuration that, with the weights, identifies the model."""

    def fresh_parameters(self) -> tuple[str, ...]:
        """Names, as in ``named_parameters``, of input layers and heads that did not come with a foreign core.

        They start at random, and no private data can pay for training them: pretraining with the core frozen trains
        exactly these. Gradient reaches them through the frozen core.
        """
        return ()

    @property
    def needs_pretraining(self) -> bool:
        """Whether forecasts are noise so far: fresh heads are still as they were drawn."""
        return False

    def save_pretrained(self, folder: str | Path) -> None:
        """Write configuration and weights into ``folder``, from which ``load_backbone`` reads them."""
        core: Any = self.core
        core.save_pretrained(folder)

    def refuse_targets(self, layers: tuple[str, ...]) -> None:
        """Raise if an adapter on one of these layers would make the gradient of a series wrong.

        Args:
            layers: Full names of the modules within :attr:`core` that the adapter's targets stand for.

        Raises:
            PolicyError: Naming the layers and the reason.
        """
