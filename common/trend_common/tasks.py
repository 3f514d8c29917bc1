"""What a backbone can be asked for: demand, price, and the trend class.

- **demand**: quantiles, a mean and the probability of no sale of each step. Loss: pinball, with a Poisson deviance.
- **price**: the same for a series of prices; the model is told nothing else than that its values are prices.
- **trend**: whether the mean of the horizon lies above, near or below the mean of as many steps before it. Loss:
  cross-entropy. Measures: macro F1 and AUROC.

The label rule of the trend class, with m₁ the mean of the known values of the horizon and m₀ that of the equally many
steps before it: "up" if m₁ > 1.1 · m₀, "down" if m₁ < 0.9 · m₀, else "flat". There is no label where fewer than half
of the steps of either side are known, or nothing was sold on both.
"""

from __future__ import annotations

from typing import Final, Literal

import torch
from torch import Tensor

__all__ = ["TREND_CLASSES", "TREND_MARGIN", "Task", "trend_class"]

Task = Literal["demand", "trend", "all"]
"""Which loss is given; "all" is demand and trend together, for pretraining."""

TREND_CLASSES: Final = ("down", "flat", "up")

TREND_MARGIN: Final = 0.1
"""Relative change from which on a trend is not flat."""


def trend_class(past: Tensor, past_known: Tensor, future: Tensor, future_known: Tensor) -> Tensor:
    """The label of each window.

    Args:
        past, past_known: [N, L] values and 1 where they are known.
        future, future_known: [N, H] likewise.

    Returns:
        [N] int64, an index into :data:`TREND_CLASSES`; -1 where there is none.
    """
    horizon = future.shape[1]
    before, before_known = past[:, -horizon:], past_known[:, -horizon:]
    counts = before_known.sum(1), future_known.sum(1)
    old = (before * before_known).sum(1) / counts[0].clamp(min=1)
    new = (future * future_known).sum(1) / counts[1].clamp(min=1)
    label = 1 + (new > (1 + TREND_MARGIN) * old).long() - (new < (1 - TREND_MARGIN) * old).long()
    needed = 0.5 * horizon
    known = (counts[0] >= needed) & (counts[1] >= needed) & (old + new > 0)
    return torch.where(known, label, torch.full_like(label, -1))
