"""Sample paths of many series at once, with the dependence that past errors had.

Quantiles of single days say nothing about weeks or shops: whether errors of neighbouring days and products come
together decides how far a sum can be off. The Schaake shuffle (Clark et al., Journal of Hydrometeorology 5, 2004)
takes it from the past: for each of R past blocks of H steps, how far each value lay from the recent average of its
phase is ranked among the blocks, and the quantiles of that step and series are read at that rank. All series and
steps of one path come from the same block, so what happened together then happens together in the path, while each
single step keeps exactly its forecast distribution.

Shapes: S series, R paths, H horizon steps, Q quantile levels.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from trend_common.covariates import SEASON
from trend_common.forecasts import Forecast
from trend_common.panel import SalesPanel
from trend_common.scoring import grid, next_origin

__all__ = ["PATHS", "past_ranks", "sample_paths"]

Array = NDArray[np.float64]

PATHS: Final = 100
_RECENT: Final = 4


def past_ranks(
    panel: SalesPanel, horizon: int, *, paths: int = PATHS, seed: int = 0
) -> tuple[tuple[str, ...], Array]:
    """Each path's ranks.

    Args:
        panel: Sales; the blocks end with its calendar.
        horizon: H.
        paths: R. Where the past has fewer blocks they are used again, and among equals chance decides, as it does
            where nothing was known.
        seed: Of that chance.

    Returns:
        S names, and [S, R, H] levels in (0, 1): (rank + 0.5) / R, each rank once for each series and step.
    """
    values = grid(panel, before=next_origin(panel))
    errors = _errors(values.y, SEASON[panel.freq])
    length, season = errors.shape[1], SEASON[panel.freq]
    starts = np.arange(length - horizon, -1, -season)[:paths]
    rng = np.random.default_rng(seed)
    if not len(starts):
        block = np.full((len(errors), paths, horizon), np.nan)
    else:
        taken = starts[np.arange(paths) % len(starts)]
        block = errors[:, taken[:, None] + np.arange(horizon)]
    chance = rng.random(block.shape)
    # Unknown errors lie anywhere: each gets the place of another value of its own row, or chance where there is none.
    known = ~np.isnan(block)
    filled = np.where(known, block, 0.0)
    order = np.lexsort((chance, filled), axis=1)
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(paths)[None, :, None], order.shape), axis=1)
    return values.ids, (rank + 0.5) / paths


def sample_paths(forecast: Forecast, ranks: Array) -> Array:
    """[S, R, H] the quantiles at the given levels; between two levels linear, beyond the outermost constant."""
    levels = np.asarray(forecast.levels)
    above = np.clip(np.searchsorted(levels, ranks), 1, len(levels) - 1)
    share = np.clip((ranks - levels[above - 1]) / (levels[above] - levels[above - 1]), 0.0, 1.0)
    spread = np.broadcast_to(forecast.quantiles[:, None], (*ranks.shape, len(levels)))
    low, high = (np.take_along_axis(spread, (above - back)[..., None], axis=-1)[..., 0] for back in (1, 0))
    return np.asarray(low + share * (high - low))


def _errors(y: Array, season: int) -> Array:
    """[S, T] distance of each value to the mean of the last known values of its phase, NaN where there is none."""
    before = np.full((_RECENT, *y.shape), np.nan)
    for lag in range(1, _RECENT + 1):
        if lag * season < y.shape[1]:
            before[lag - 1, :, lag * season :] = y[:, : -lag * season]
    known = ~np.isnan(before)
    count = known.sum(axis=0)
    mean = np.where(known, before, 0.0).sum(axis=0) / np.maximum(count, 1)
    return np.where(count > 0, y - mean, np.nan)
