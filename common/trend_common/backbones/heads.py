"""Quantiles from hidden states: the head that cores without forecasts of their own are given."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trend_common.backbones.base import Batch, ForecastOutput
from trend_common.backbones.scaling import ScaledWindow, finish, normal_scores, window_losses
from trend_common.tasks import TREND_CLASSES, Task

__all__ = ["PatchHead", "steps_to_patches"]

_WIDTH = 256
_TRAIN_HEADS = 1e-2


class PatchHead(nn.Module):
    """For each patch of the horizon all quantiles, a mean, and whether anything is sold; one trend class a window.

    Untrained it gives the simple forecast with the spread of a normal distribution, so that pretraining starts from
    something sensible.

    Args:
        width: Features of a hidden state.
        patch: Steps of a patch.
        levels: Q quantile levels.
    """

    def __init__(self, width: int, patch: int, levels: tuple[float, ...]) -> None:
        super().__init__()
        self.patch, self.n_levels = patch, len(levels)
        self.head1 = nn.Linear(width, min(width, _WIDTH))
        self.head2 = nn.Linear(min(width, _WIDTH), patch * (len(levels) + 2))
        self.trend = nn.Linear(width, len(TREND_CLASSES))
        with torch.no_grad():
            self.head2.weight.mul_(_TRAIN_HEADS)
            start = torch.cat([normal_scores(torch.tensor(levels)), torch.tensor([0.0, -2.0])])
            self.head2.bias.copy_(start.repeat(patch))

    def forward(
        self, hidden: Tensor, batch: Batch, window: ScaledWindow, levels: Tensor, task: Task
    ) -> ForecastOutput:
        """Forecast from ``hidden`` [N, F, width], one state for each patch of the horizon."""
        horizon = window.base.shape[1]
        out = self.head2(F.gelu(self.head1(hidden))).reshape(len(hidden), -1, self.n_levels + 2)[:, :horizon]
        scaled = window.base[..., None] + out[..., : self.n_levels] * window.spread[:, None, None]
        log_mean = out[..., self.n_levels] + torch.log(torch.sinh(window.base) + 0.1)
        mean, no_sale = torch.exp(log_mean.clamp(-8.0, 5.0)), out[..., self.n_levels + 1]
        trend = self.trend(hidden.mean(1))
        losses = window_losses(batch, window, scaled, levels, task=task, mean=mean, no_sale=no_sale, trend=trend)
        return finish(window, scaled, levels, losses, mean=mean, no_sale=no_sale, trend=trend)


def steps_to_patches(steps: Tensor, patch: int, *, front: bool) -> Tensor:
    """[N, T, K] → [N, ceil(T / patch), patch · K], filled with zeros at the front or at the end."""
    n, length, features = steps.shape
    missing = -length % patch
    padded = F.pad(steps, (0, 0, missing, 0) if front else (0, 0, 0, missing))
    return padded.reshape(n, -1, patch * features)
