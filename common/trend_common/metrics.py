"""Accuracy of point, quantile and interval forecasts; the formulas are in ``docs/scoring.md``.

Shapes: S series, H horizon steps, Q quantile levels. ``y`` is [S, H] with NaN where the truth is unknown; unknown
values count nowhere. A measure without a single known value is NaN.

>>> y = np.array([[10.0, 0.0, 30.0]])
>>> round(wape(y, np.array([[12.0, 1.0, 27.0]])), 3)
0.15
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trend_common.forecasts import Forecast

__all__ = [
    "SCORED_LEVELS",
    "SeasonalError",
    "coverage",
    "mase",
    "pinball",
    "pit_coverage",
    "rmse",
    "rmsse",
    "seasonal_error",
    "series_losses",
    "sql",
    "wape",
    "wql",
]

Array = NDArray[np.float64]

SCORED_LEVELS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""The levels over which quantile losses are averaged."""


@dataclass(frozen=True, eq=False)
class SeasonalError:
    """How far each series moves from one season to the next: the yardstick of the scaled measures.

    Attributes:
        absolute: [S] mean absolute seasonal difference (MASE and SQL divide by it).
        squared: [S] mean squared seasonal difference (RMSSE divides by its root).

    A series without two known values one season apart has NaN; one that repeats itself exactly has 0. Neither can be
    scaled: such series are left out of scaled measures and counted.
    """

    absolute: Array
    squared: Array

    @property
    def usable(self) -> NDArray[np.bool_]:
        """[S] True where a scaled measure is defined."""
        return np.asarray(np.nan_to_num(self.absolute) > 0)


def seasonal_error(history: Array, season: int) -> SeasonalError:
    """The in-sample errors of the seasonal naive forecast (Hyndman and Koehler, 2006).

    Args:
        history: [S, T] values before the cut, NaN where unknown or before a series' start.
        season: Lag in steps: 7 daily, 1 weekly, 12 monthly.
    """
    if season < 1:
        raise ValueError(f"season: {season}, expected at least 1")
    difference = history[:, season:] - history[:, :-season]
    return SeasonalError(_row_mean(np.abs(difference)), _row_mean(difference**2))


def wape(y: Array, point: Array) -> float:
    """Weighted absolute percentage error: Σ|y − ŷ| / Σ|y|."""
    return _ratio(float(np.nansum(np.abs(y - point))), float(np.nansum(np.abs(y))))


def mase(y: Array, point: Array, scale: SeasonalError) -> float:
    """Mean absolute scaled error, averaged over the series that can be scaled."""
    return _mean_over_series(_row_mean(np.abs(y - point)), scale.absolute, scale)


def rmsse(y: Array, point: Array, scale: SeasonalError) -> float:
    """Root mean squared scaled error, averaged over the series that can be scaled (as in M5, with a seasonal lag)."""
    return _mean_over_series(np.sqrt(_row_mean((y - point) ** 2)), np.sqrt(scale.squared), scale)


def rmse(y: Array, point: Array) -> float:
    """Root mean squared error over all known values of all series, in the data's units."""
    error = (y - point)[~np.isnan(y)]
    return float(np.sqrt(np.mean(error**2))) if error.size else float("nan")


def pinball(y: Array, forecast: Forecast, levels: tuple[float, ...] = SCORED_LEVELS) -> Array:
    """[S, H] twice the pinball loss, averaged over ``levels``; NaN where ``y`` is.

    At level 0.5 it is the absolute error.
    """
    total = np.zeros_like(y, dtype=np.float64)
    for level in levels:
        error = y - forecast.quantile(level)
        total += 2 * np.maximum(level * error, (level - 1) * error)
    return np.asarray(total / len(levels))


def series_losses(y: Array, forecast: Forecast, scale: SeasonalError) -> Array:
    """[S] each series' scaled quantile loss; NaN where it cannot be scaled or nothing is known."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(scale.usable, _row_mean(pinball(y, forecast)) / scale.absolute, np.nan)


def sql(y: Array, forecast: Forecast, scale: SeasonalError) -> float:
    """Scaled quantile loss: mean over series of :func:`pinball` over the MASE scale."""
    return _mean_over_series(_row_mean(pinball(y, forecast)), scale.absolute, scale)


def wql(y: Array, forecast: Forecast) -> float:
    """Weighted quantile loss: Σ :func:`pinball` / Σ|y|."""
    return _ratio(float(np.nansum(pinball(y, forecast))), float(np.nansum(np.abs(y))))


def coverage(y: Array, forecast: Forecast, nominal: float) -> float:
    """Share of the known values inside the central interval of ``nominal`` coverage, both ends included."""
    low, high = forecast.interval(nominal)
    known = ~np.isnan(y)
    inside = (y >= low) & (y <= high)
    return float(inside[known].mean()) if known.any() else float("nan")


def pit_coverage(y: Array, forecast: Forecast, nominal: float) -> float:
    """Share of the known values inside the central interval by their place in the forecast distribution.

    A value's place is F(y), the probability integral transform. Where the distribution has an atom at the value (no
    sale, a closed day) its place is anywhere between F(y−) and F(y), and counts by the part of that stretch inside
    (Czado, Gneiting and Held, Biometrics 65, 2009): a forecast that is right is covered with exactly ``nominal``,
    while :func:`coverage` counts all zeros as inside as soon as one end of the interval is 0. Between two stored
    levels F is linear.
    """
    edges = np.concatenate([[0.0], np.asarray(forecast.levels), [1.0]])
    count = len(forecast.levels)
    below = (forecast.quantiles < y[..., None]).sum(axis=-1)
    upto = (forecast.quantiles <= y[..., None]).sum(axis=-1)
    tied = upto > below
    start = edges[below + (tied & (below > 0))]
    # Several equal quantiles up to the highest level: nothing is thought to lie above.
    end = edges[np.where(tied & ((upto < count) | (upto - below == 1)), upto, upto + 1)]
    low, high = (1 - nominal) / 2, (1 + nominal) / 2
    inside = np.clip(np.minimum(end, high) - np.maximum(start, low), 0.0, None)
    # A value on a single quantile has a point for its place, not a stretch.
    share = np.where(end > start, inside / np.maximum(end - start, 1e-12), (start >= low) & (start <= high))
    known = ~np.isnan(y)
    return float(share[known].mean()) if known.any() else float("nan")


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator > 0 else float("nan")


def _row_mean(values: Array) -> Array:
    """[S] means over the known values of each row; NaN for a row without any (and no warning about it)."""
    known = ~np.isnan(values)
    count = known.sum(axis=1)
    total = np.where(known, values, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _mean_over_series(error: Array, scale: Array, seasonal: SeasonalError) -> float:
    kept = seasonal.usable & ~np.isnan(error)
    return float(np.mean(error[kept] / scale[kept])) if kept.any() else float("nan")
