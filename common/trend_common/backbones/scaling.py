"""What is done to a window by that window alone: scale, fill, simple forecast, losses.

Our own model shares the scale and the spread; the rest is for foreign cores. Values are divided by the window's own
mean and, where a core has no scaling of its own, put through asinh. Quantiles
are stated on that scale: a simple forecast (the mean of the last four values of the same phase) plus a residual in
units of how far values of the same phase lie apart. Nothing here looks at another row of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from trend_common.backbones.base import Batch, ForecastOutput
from trend_common.backbones.losses import mean_over, no_sale_loss, pinball_steps, poisson_deviance, trend_loss
from trend_common.covariates import FREQUENCIES, INDEX, SEASON
from trend_common.tasks import Task, trend_class

__all__ = [
    "LARGEST",
    "ScaledWindow",
    "finish",
    "lag_distance",
    "normal_scores",
    "quantile_mean",
    "read_levels",
    "window_losses",
    "window_scale",
]

LARGEST: Final = 8.0
"""asinh-scale ceiling of a forecast: about 1,500 times the window's mean."""

_PHASES: Final = 4
_RECENT: Final = 28
_PAIRS: Final = 3
"""Pairs of values from which on their distance is believed."""
_MEAN_WEIGHT: Final = 0.1
_ZERO_WEIGHT: Final = 0.05
_TREND_WEIGHT: Final = 0.02


@dataclass(frozen=True)
class ScaledWindow:
    """A batch's windows on their own scales. N windows, L context steps, H horizon steps.

    Attributes:
        scale: [N] the mean of the known values, shrunk to ``level_hint`` where there is one.
        values: [N, L] values over ``scale``; 0 where unknown.
        known: [N, L] 1 where the value is known.
        base: [N, H] on the asinh scale: the mean of the last four values of the same phase; the recent level where
            there is none, and 1 (the scale itself) with no history at all.
        spread: [N] mean absolute difference on the asinh scale to the value a season before; 0.5 with few pairs.
    """

    scale: Tensor
    values: Tensor
    known: Tensor
    base: Tensor
    spread: Tensor

    @classmethod
    def of(cls, batch: Batch) -> ScaledWindow:
        """Scale ``batch``."""
        known = batch.past_mask
        raw = batch.past_values * known
        scale = window_scale(raw, known, batch.level_hint)
        values = raw / scale[:, None]
        season = torch.tensor([SEASON[freq] for freq in FREQUENCIES], device=raw.device)[batch.freq]
        base = _same_phase_mean(values, known, season, batch.future_cov.shape[1])
        spread, _ = lag_distance(torch.asinh(values), known, season)
        return cls(scale, values, known, base, spread.clamp(0.01, 2.0))

    @property
    def empty(self) -> Tensor:
        """[N] true where nothing is known of the past."""
        return self.known.sum(1) == 0

    def filled(self, season: Tensor) -> Tensor:
        """[N, L] ``values`` without gaps, for cores that know no mask.

        A gap takes the known value one season before, else the last known one, and before the first known value the
        mean, which is 1.

        Args:
            season: [N] steps of a season.
        """
        steps = self.values.shape[1]
        if steps == 0:
            return self.values
        index = torch.arange(steps, device=self.values.device)[None].expand_as(self.values)
        known = self.known > 0
        back = (index - season[:, None]).clamp(min=0)
        before = torch.gather(self.values, 1, back)
        has_before = (torch.gather(self.known, 1, back) > 0) & (index >= season[:, None])
        last = torch.where(known, index, torch.full_like(index, -1)).cummax(1).values
        carried = torch.gather(self.values, 1, last.clamp(min=0))
        rest = torch.where(last >= 0, carried, torch.ones_like(carried))
        return torch.where(known, self.values, torch.where(has_before & (last >= 0), before, rest))

    def summary(self, batch: Batch) -> Tensor:
        """[N, 8] what a window is like: level, share of zeros, spread, length, hint and frequency."""
        count = self.known.sum(1)
        zeros = ((self.values == 0) * self.known).sum(1) / count.clamp(min=1)
        columns = [
            torch.log(self.scale) / 4,
            zeros,
            torch.log(self.spread),
            torch.log1p(count) / 6,
            (batch.level_hint > 0).to(self.scale.dtype),
        ]
        frequency = F.one_hot(batch.freq, len(FREQUENCIES))
        return torch.cat([torch.stack(columns, -1), frequency.to(self.scale.dtype)], -1)


def _same_phase_mean(values: Tensor, known: Tensor, season: Tensor, horizon: int) -> Tensor:
    n, steps = values.shape
    ones = values.new_ones(n)
    if steps == 0:
        return torch.asinh(ones)[:, None].expand(n, horizon)
    recent = known[:, -_RECENT:]
    count = recent.sum(1)
    overall = torch.where(known.sum(1) > 0, values.sum(1) / known.sum(1).clamp(min=1), ones)
    level = torch.where(count > 0, (values[:, -_RECENT:] * recent).sum(1) / count.clamp(min=1), overall)
    ahead = torch.arange(horizon, device=values.device)[None, :, None]
    back = torch.arange(_PHASES, device=values.device)[None, None]
    index = steps - season[:, None, None] * (1 + back) + ahead % season[:, None, None]
    flat = index.clamp(min=0).reshape(n, -1)
    inside = (index >= 0) * torch.gather(known, 1, flat).view(index.shape)
    total = (torch.gather(values, 1, flat).view(index.shape) * inside).sum(-1)
    found = inside.sum(-1)
    return torch.asinh(torch.where(found > 0, total / found.clamp(min=1), level[:, None]))


def window_scale(values: Tensor, known: Tensor, level_hint: Tensor | None = None) -> Tensor:
    """[N] the mean of the known values, shrunk to a hint by one pseudo-value; at least a small positive number.

    Args:
        values: [N, L], 0 where unknown.
        known: [N, L].
        level_hint: [N], 0 where there is none.
    """
    total, count = values.abs().sum(1), known.sum(1)
    if level_hint is not None:
        has = (level_hint > 0).to(values.dtype)
        total, count = total + has * level_hint, count + has
    scale = total / count.clamp(min=1)
    return torch.where(scale > 0, scale, torch.full_like(scale, 0.05)).clamp(min=1e-4)


def lag_distance(z: Tensor, known: Tensor, lag: Tensor) -> tuple[Tensor, Tensor]:
    """How far values lie apart that are ``lag`` [N] steps apart.

    Returns:
        [N] the mean absolute difference within ``z`` [N, L], 0.5 with fewer than three known pairs; and [N] whether
        there are three.
    """
    index = torch.arange(z.shape[1], device=z.device)[None] - lag[:, None]
    back = index.clamp(min=0)
    pair = known * torch.gather(known, 1, back) * (index >= 0)
    count = pair.sum(1)
    mean = ((z - torch.gather(z, 1, back)).abs() * pair).sum(1) / count.clamp(min=1)
    enough = count >= _PAIRS
    return torch.where(enough, mean, torch.full_like(mean, 0.5)), enough


def normal_scores(levels: Tensor) -> Tensor:
    """The standard normal's quantiles of ``levels``, any shape."""
    scores: Tensor = torch.special.ndtri(levels.double()).to(levels.dtype)
    return scores


def read_levels(quantiles: Tensor, given: Tensor, wanted: Tensor) -> Tensor:
    """A core's quantiles at other levels.

    Between two given levels the line through both over the normal score; beyond the outermost, its distance from the
    median grows as a normal distribution's would. A quantile is kept where its level is given.

    Args:
        quantiles: [..., G] ascending.
        given: [G] ascending levels on both sides of 0.5.
        wanted: [W] levels.

    Returns:
        [..., W]
    """
    scores, targets = normal_scores(given), normal_scores(wanted)
    at_zero = targets.new_zeros(1)
    inside, median = _interpolated(quantiles, scores, targets), _interpolated(quantiles, scores, at_zero)
    low = median + (quantiles[..., :1] - median) * (targets / scores[0])
    high = median + (quantiles[..., -1:] - median) * (targets / scores[-1])
    return torch.where(targets < scores[0], low, torch.where(targets > scores[-1], high, inside))


def _interpolated(quantiles: Tensor, scores: Tensor, targets: Tensor) -> Tensor:
    above = torch.searchsorted(scores, targets - 1e-4).clamp(1, len(scores) - 1)
    low, high = quantiles[..., above - 1], quantiles[..., above]
    return low + (high - low) * ((targets - scores[above - 1]) / (scores[above] - scores[above - 1]))


def quantile_mean(quantiles: Tensor, levels: Tensor) -> Tensor:
    """[...] the mean of the distribution of ``quantiles`` [..., Q]: each weighted by its share of the levels."""
    edges = torch.cat([levels.new_zeros(1), (levels[1:] + levels[:-1]) / 2, levels.new_ones(1)])
    return (quantiles * edges.diff()).sum(-1)


def window_losses(
    batch: Batch,
    window: ScaledWindow,
    scaled: Tensor,
    levels: Tensor,
    *,
    task: Task = "demand",
    mean: Tensor | None = None,
    no_sale: Tensor | None = None,
    trend: Tensor | None = None,
) -> Tensor | None:
    """[N] the loss of each window, as our own backbone states it, or None without targets.

    Args:
        scaled: [N, H, Q] quantiles on the asinh scale.
        levels: [Q].
        task: Which loss.
        mean: [N, H] over the scale, positive; its Poisson deviance is added.
        no_sale: [N, H] logit that nothing is sold; its cross-entropy over known open steps is added.
        trend: [N, 3] logits of the trend class; needed unless ``task`` is "demand".
    """
    if batch.future_values is None or batch.future_mask is None:
        return None
    known = batch.future_mask
    target = batch.future_values * known / window.scale[:, None]
    steps = pinball_steps(scaled, levels, target, window.spread)
    if mean is not None:
        steps = steps + _MEAN_WEIGHT * poisson_deviance(mean, target)
    demand = mean_over(steps, known)
    if no_sale is not None:
        open_steps = known * (1 - batch.future_cov[..., INDEX["closed"]])
        demand = demand + _ZERO_WEIGHT * no_sale_loss(no_sale, target, open_steps)
    if task == "demand":
        return demand
    if trend is None:
        raise ValueError("trend: this model gives no trend class")
    change = trend_loss(trend, trend_class(window.values, window.known, target, known))
    return change if task == "trend" else demand + _TREND_WEIGHT * change


def finish(
    window: ScaledWindow,
    scaled: Tensor,
    levels: Tensor,
    losses: Tensor | None,
    *,
    mean: Tensor | None = None,
    no_sale: Tensor | None = None,
    trend: Tensor | None = None,
) -> ForecastOutput:
    """Back to the series' units: sorted, not negative, bounded.

    Args:
        scaled: [N, H, Q] quantiles on the asinh scale.
        levels: [Q].
        losses: [N] or None.
        mean: [N, H] over the scale; None takes the quantiles' own.
        no_sale, trend: Logits.
    """
    over = torch.sinh(scaled.clamp(max=LARGEST)).clamp(min=0).sort(-1).values
    centre = quantile_mean(over, levels) if mean is None else mean
    return ForecastOutput(
        quantiles=over * window.scale[:, None, None],
        mean=centre * window.scale[:, None],
        loss_per_sample=losses,
        no_sale=None if no_sale is None else torch.sigmoid(no_sale),
        trend=None if trend is None else torch.softmax(trend, -1),
    )
