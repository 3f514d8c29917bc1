"""Simple forecasts that a window's own past suggests, and how its series has answered to what is known ahead.

Each horizon step gets what a planner would read off a chart: the same phase, the recent level, last year, last year
adjusted for growth, and the same phase corrected for promotions, prices, holidays and the retailer's own columns.
:class:`~trend_common.backbones.trend.TrendModel` mixes them. Nothing here has weights or looks at another row of the
batch. Values are over the window's mean. N windows, L context steps, H horizon steps, K simple forecasts, R
responses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trend_common.backbones.scaling import LARGEST
from trend_common.covariates import INDEX, SEASON, YEAR

__all__ = ["N_SIMPLE", "RESPONSES", "TABLES", "Simple", "Steps", "responses", "simple_forecasts"]

N_SIMPLE: Final = 7
RESPONSES: Final = ("promo", "log_relative_price", "holiday", "holiday_lead", "own_1", "own_2")
"""Covariates whose effect on a series is estimated within its own window."""

_RECENT: Final = {"D": 28, "W": 8, "M": 6}
_YEAR_SMOOTHING: Final = {"D": 7, "W": 1, "M": 1}
_HALF_WIDTH: Final = {"D": 14, "W": 5, "M": 6}
TABLES: Final = {"season": SEASON, "year": YEAR, "recent": _RECENT, "near": _YEAR_SMOOTHING, "smoothing": _HALF_WIDTH}
"""Frequency → number of steps, for each field of :class:`Steps`."""

_RIDGE: Final = (1.0, 0.001)
"""Ridge penalty: a constant, and as much again for each thousand known steps."""


class Steps(NamedTuple):
    """How many steps a season, a year, ... have; [N] each, by the window's frequency."""

    season: Tensor
    year: Tensor
    recent: Tensor
    near: Tensor
    smoothing: Tensor


@dataclass(frozen=True)
class Simple:
    """Simple forecasts over the window's mean.

    Attributes:
        ahead, ahead_known: [N, H, K].
        past: For history, what the same phase and last year would have said: each [N, L] values and where known.
    """

    ahead: Tensor
    ahead_known: Tensor
    past: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]


def responses(z: Tensor, known: Tensor, past_cov: Tensor, steps_of: Steps, daily: Tensor) -> Tensor:
    """[N, R] how strongly this series has answered to each of :data:`RESPONSES`, on the asinh scale.

    Ridge regression within the window, after a moving average and (daily data) the mean of each weekday have been
    taken from both sides.

    Args:
        z: [N, L] asinh of the values; L a multiple of 7, the origin behind the last.
        known: [N, L].
        past_cov: [N, L, C].
        steps_of: Of these windows.
        daily: [N] true for daily data.
    """
    n, steps = z.shape
    if steps == 0:
        return z.new_zeros(n, len(RESPONSES))
    # Sums of squares over hundreds of steps do not survive bfloat16.
    with torch.autocast(z.device.type, enabled=False):
        weight = known * (1 - past_cov[..., INDEX["closed"]]) * (1 - past_cov[..., INDEX["unavailable"]])
        columns = [past_cov[..., INDEX[name]] for name in RESPONSES]
        both = torch.stack([z, *columns], -1)
        both = both - _moving_mean(both, weight, steps_of.smoothing)
        # Windows end at the origin and are padded to whole fortnights, so a column of this view is one weekday.
        by_phase, weights = both.view(n, -1, 7, both.shape[-1]), weight.view(n, -1, 7, 1)
        phase_mean = (by_phase * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True).clamp(min=1)
        week = daily.to(z.dtype)[:, None, None, None]
        both = (by_phase - week * phase_mean).reshape(both.shape) * weight[..., None]
        target, design = both[..., :1], both[..., 1:]
        gram = design.transpose(1, 2) @ design
        penalty = _RIDGE[0] + _RIDGE[1] * weight.sum(1)[:, None, None]
        gram = gram + torch.eye(len(RESPONSES), device=z.device, dtype=gram.dtype) * penalty
        effects: Tensor = torch.linalg.solve(gram, design.transpose(1, 2) @ target)[..., 0]
    return effects.clamp(-4.0, 4.0)


def simple_forecasts(
    x: Tensor, known: Tensor, steps_of: Steps, past_cov: Tensor, future_cov: Tensor, effects: Tensor
) -> Simple:
    """Simple forecasts for each step; for history, what they would have been a season or a year before.

    Args:
        x: [N, L] values; 0 where unknown.
        known: [N, L].
        steps_of: Of these windows.
        past_cov, future_cov: [N, L, C] and [N, H, C].
        effects: [N, R] of :func:`responses`.
    """
    n, steps = x.shape
    steps_future = future_cov.shape[1]
    season, year, recent, near, _ = (one[:, None] for one in steps_of)
    ahead = torch.arange(steps_future, device=x.device)[None]

    def gather(index: Tensor) -> tuple[Tensor, Tensor]:
        inside = (index >= 0) & (index < steps)
        flat = index.clamp(0, max(steps - 1, 0)).reshape(n, -1)
        if steps == 0:
            empty = x.new_zeros(index.shape)
            return empty, empty
        value = torch.gather(x, 1, flat).view(index.shape) * inside
        return value, torch.gather(known, 1, flat).view(index.shape) * inside

    def mean_of(index: Tensor) -> tuple[Tensor, Tensor]:
        value, ok = gather(index)
        count = ok.sum(-1)
        return (value * ok).sum(-1) / count.clamp(min=1), count

    back = torch.arange(8, device=x.device)
    phase = steps - season + (ahead % season)
    same_phase = phase[..., None] - season[..., None] * back
    phase4, count4 = mean_of(same_phase[..., :4])
    phase8, count8 = mean_of(same_phase)
    day = torch.arange(steps, device=x.device)[None]
    in_recent = known * (day >= steps - recent)
    level_count = in_recent.sum(1)
    overall = (x * known).sum(1) / known.sum(1).clamp(min=1)
    level = torch.where(level_count > 0, (x * in_recent).sum(1) / level_count.clamp(min=1), overall)
    years = torch.arange(1, 4, device=x.device)
    last_year = steps + ahead - year * (1 + (ahead // year))
    exact, exact_count = mean_of(last_year[..., None] - year[..., None] * (years - 1))
    around = torch.tensor([-1, 0, 1], device=x.device)
    smooth, smooth_count = mean_of(last_year[..., None] + near[..., None] * around)
    # Growth since last year: the recent level over the level one year before it.
    in_old = known * (day >= steps - recent - year) * (day < steps - year)
    old_count = in_old.sum(1)
    old_level = (x * in_old).sum(1) / old_count.clamp(min=1)
    growth = torch.where((old_count > 0) & (old_level > 0.02), level / old_level.clamp(min=0.02), x.new_ones(n))
    adjusted = smooth * growth.clamp(0.25, 4.0)[:, None]
    nothing = (known.sum(1) == 0).to(x.dtype)
    # With no history at all the scale itself is the best guess: 1 in scaled space.
    flat = torch.where(nothing > 0, torch.ones_like(level), level)[:, None].expand(n, steps_future)
    # The same weekdays again, but with what is known of the days ahead: promotion, price, holiday.
    impulse = _impulse(future_cov, effects)
    if steps:
        past_impulse = _impulse(past_cov, effects)
        index = same_phase[..., :4]
        flat_index = index.clamp(0, steps - 1).expand(n, -1, -1).reshape(n, -1)
        counted = gather(index)[1]
        reference = torch.gather(past_impulse, 1, flat_index).view(counted.shape)
        impulse = impulse - (reference * counted).sum(-1) / counted.sum(-1).clamp(min=1)
    informed = torch.sinh((torch.asinh(phase4) + impulse).clamp(max=LARGEST)).clamp(min=0)
    values = torch.stack([phase4, phase8, flat, exact, smooth, adjusted, informed], -1)
    full, yearly = torch.full_like(count4, 4.0), smooth_count * 1.3
    ok = torch.stack([count4, count8 / 2, full, exact_count * 4, yearly, yearly, count4], -1)
    ok = (ok / 4).clamp(max=1)
    return Simple(values, (ok > 0).to(x.dtype), (gather(day - season), gather(day - year)))


def _moving_mean(values: Tensor, weight: Tensor, half: Tensor) -> Tensor:
    """[N, T, F] centred weighted mean over 2 · ``half`` + 1 steps, ``half`` [N] by window."""
    n, steps = values.shape[:2]
    weighted = torch.cat([values * weight[..., None], weight[..., None]], -1)
    total = F.pad(torch.cumsum(weighted, 1), (0, 0, 1, 0))
    step = torch.arange(steps, device=values.device)[None]
    if n and half.is_cpu and bool((half == half[0]).all()):  # one frequency: twice as fast
        width = int(half[0])
        high, low = (step[0] + width + 1).clamp(max=steps), (step[0] - width).clamp(min=0)
        inside = total[:, high] - total[:, low]
    else:
        size = (-1, -1, total.shape[-1])
        high = (step + half[:, None] + 1).clamp(max=steps)[..., None].expand(size)
        low = (step - half[:, None]).clamp(min=0)[..., None].expand(size)
        inside = torch.gather(total, 1, high) - torch.gather(total, 1, low)
    return inside[..., :-1] / inside[..., -1:].clamp(min=1)


def _impulse(cov: Tensor, effects: Tensor) -> Tensor:
    """[N, T] what the responses make of the covariates [N, T, C]."""
    total = cov.new_zeros(cov.shape[:2])
    for number, name in enumerate(RESPONSES):
        total = total + cov[..., INDEX[name]] * effects[:, number, None]
    return total
