"""Horizons beyond what a backbone sees at once: it is asked again, from its own forecast on.

A few paths stand for what may come: each is the trajectory of one quantile level through the block before. The next
block is forecast from every path, and the quantiles of the equal mixture of these forecasts are taken, so that the
uncertainty of one block goes on into the next. This follows the unrolling over quantiles of Chronos-2 (Ansari et al.
2025, arXiv:2510.15821). A path keeps its level, as if errors were fully dependent over time: intervals far ahead are
rather too wide than too narrow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

import torch
from torch import Tensor

from trend_common.backbones.base import LEVELS, Batch, ForecastOutput
from trend_common.covariates import INDEX, SEASON

__all__ = ["PATHS", "UNSURE", "Forecaster", "forecast_steps", "mixture", "with_no_sale"]

PATHS: Final = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Quantile levels whose trajectories are followed."""

UNSURE: Final = 0.1
"""Probabilities of no sale that are too low to be told from none: on earlier windows using them gained nothing."""

_GRID: Final = 99


class Forecaster(Protocol):
    """What can be asked for a block of up to ``max_horizon`` steps: any backbone, or a quick copy of one."""

    max_horizon: int

    def __call__(self, batch: Batch) -> ForecastOutput:
        """Forecast ``batch``."""


def forecast_steps(
    backbone: Forecaster, window: Callable[[int, int], Batch], origin: int, horizon: int
) -> tuple[Tensor, Tensor]:
    """Forecast ``horizon`` steps, in one block or in several.

    Args:
        backbone: In evaluation mode.
        window: (origin, H) → the batch of N windows whose horizon of H steps begins at that step.
        origin: First step to forecast.
        horizon: Any number of steps.

    Returns:
        [N, horizon, Q] quantiles and [N, horizon] means; steps that are known to be closed are 0, and quantiles up to
        the probability of no sale, where the backbone gives it.
    """
    first = min(horizon, backbone.max_horizon)
    batch = window(origin, first)
    quantiles, mean = _block(backbone, batch)
    parts, means = [quantiles], [mean]
    paths = [_at(quantiles, level) for level in PATHS] if first < horizon else []
    known_ahead = batch.future_cov
    done = first
    while done < horizon:
        size = min(horizon - done, backbone.max_horizon)
        batch = _closing(window(origin + done, size), known_ahead, done)
        found = [_block(backbone, _continued(batch, path, known_ahead)) for path in paths]
        quantiles = mixture(torch.stack([one for one, _ in found]))
        parts.append(quantiles)
        means.append(torch.stack([one for _, one in found]).mean(0))
        following = [_at(one, level) for (one, _), level in zip(found, PATHS, strict=True)]
        paths = [torch.cat([path, more], 1) for path, more in zip(paths, following, strict=True)]
        known_ahead = torch.cat([known_ahead, batch.future_cov], 1)
        done += size
    return torch.cat(parts, 1), torch.cat(means, 1)


def mixture(quantiles: Tensor) -> Tensor:
    """[K, N, H, Q] quantiles of K equally likely forecasts → [N, H, Q] those of their mixture.

    Between two levels a quantile is interpolated, beyond the outermost it stays.
    """
    levels = torch.tensor(LEVELS, device=quantiles.device, dtype=quantiles.dtype)
    grid = (torch.arange(_GRID, device=quantiles.device, dtype=quantiles.dtype) + 0.5) / _GRID
    above = torch.searchsorted(levels, grid).clamp(1, len(LEVELS) - 1)
    weight = ((grid - levels[above - 1]) / (levels[above] - levels[above - 1])).clamp(0, 1)
    spread = quantiles[..., above - 1] * (1 - weight) + quantiles[..., above] * weight
    pooled = spread.permute(1, 2, 0, 3).flatten(2)
    return torch.quantile(pooled, levels, dim=-1).permute(1, 2, 0)


def _closing(batch: Batch, known_ahead: Tensor, done: int) -> Batch:
    """Weekdays that are closed in the first block (daily data) stay closed: the windows see no history to tell."""
    week = min(SEASON["D"], known_ahead.shape[1])
    phase = (torch.arange(batch.future_cov.shape[1], device=known_ahead.device) + done) % week
    future = batch.future_cov.clone()
    for name in ("closed", "closed_known"):
        future[..., INDEX[name]] = known_ahead[:, phase, INDEX[name]]
    return replace(batch, future_cov=future)


def _block(backbone: Forecaster, batch: Batch) -> tuple[Tensor, Tensor]:
    out = backbone(batch)
    quantiles = out.quantiles
    if out.no_sale is not None:
        quantiles = with_no_sale(quantiles, out.no_sale)
    open_steps = 1.0 - batch.future_cov[..., INDEX["closed"]]
    return quantiles * open_steps[..., None], out.mean * open_steps


def with_no_sale(quantiles: Tensor, no_sale: Tensor) -> Tensor:
    """Quantiles that agree with the probability that nothing is sold: 0 up to that level.

    A continuous quantile function puts a little above 0 what is 0, and the lower end of an interval that should hold
    the days without a sale leaves them all out. Probabilities up to :data:`UNSURE` are left alone.

    Args:
        quantiles: [N, H, Q].
        no_sale: [N, H] probability of no sale.
    """
    levels = torch.tensor(LEVELS, device=quantiles.device, dtype=no_sale.dtype)
    nothing = (levels <= no_sale[..., None]) & (no_sale > UNSURE)[..., None]
    return quantiles.masked_fill(nothing, 0.0)


def _at(quantiles: Tensor, level: float) -> Tensor:
    return quantiles[..., LEVELS.index(level)]


def _continued(batch: Batch, path: Tensor, known_ahead: Tensor) -> Batch:
    """``batch`` with the end of its history replaced by a path and by what was known of those steps beforehand."""
    length = min(path.shape[1], batch.past_values.shape[1])
    if not length:
        return batch
    values, mask, cov = batch.past_values.clone(), batch.past_mask.clone(), batch.past_cov.clone()
    values[:, -length:] = path[:, -length:].to(values.dtype)
    mask[:, -length:] = 1.0
    cov[:, -length:] = known_ahead[:, -length:]
    return replace(batch, past_values=values, past_mask=mask, past_cov=cov)
