"""The losses of a window, the same for our own model and for the layers around a foreign core.

N windows, H horizon steps, Q quantile levels. Targets are over the window's scale.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["mean_over", "no_sale_loss", "pinball_steps", "poisson_deviance", "trend_loss"]

_CALM: Final = 0.05
"""Added to a window's spread where the loss is divided by it: errors below that share of the mean do not matter."""
_LOSS_SCALE: Final = 0.3
"""About the mean spread, so that the loss keeps the size of one that is not divided."""
_LARGEST_TARGET: Final = 20.0
"""Sales of so many window means count as no more in the deviance."""


def pinball_steps(scaled: Tensor, levels: Tensor, target: Tensor, spread: Tensor) -> Tensor:
    """[N, H] pinball loss of ``scaled`` [N, H, Q] on the asinh scale, in units of ``spread`` [N]."""
    error = torch.asinh(target)[..., None] - scaled
    steps = 2 * torch.maximum(levels * error, (levels - 1) * error).mean(-1)
    return steps * (_LOSS_SCALE / (spread + _CALM))[:, None]


def poisson_deviance(mean: Tensor, target: Tensor) -> Tensor:
    """[N, H] half the Poisson deviance of ``mean`` > 0: 0 where it equals the target."""
    y = target.clamp(0, _LARGEST_TARGET)
    return mean - y * torch.log(mean) - (y - y * torch.log(y.clamp(min=1e-4)))


def no_sale_loss(logit: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """[N] cross-entropy of whether nothing is sold, over the steps that count."""
    crossed = F.binary_cross_entropy_with_logits(logit, (target <= 0).to(logit.dtype), reduction="none")
    return mean_over(crossed, known)


def trend_loss(logits: Tensor, label: Tensor) -> Tensor:
    """[N] cross-entropy of the trend class [N, 3]; 0 where there is no label."""
    found = F.cross_entropy(logits, label.clamp(min=0), reduction="none")
    return found * (label >= 0).to(found.dtype)


def mean_over(steps: Tensor, weight: Tensor) -> Tensor:
    """[N] weighted mean over the steps; 0 where none counts."""
    return (steps * weight).sum(1) / weight.sum(1).clamp(min=1)
