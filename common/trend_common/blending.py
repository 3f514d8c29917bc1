"""Several forecasts of the same series as one: the weighted mean of their quantiles.

Averaging quantiles level by level (Vincentization: Vincent 1912; Ratcliff, Psychological Bulletin 86, 1979) keeps the
shape of distributions that agree and puts the centre between those that do not, where averaging probabilities would
widen them. Ascending quantiles stay ascending, and since the quantile loss is convex, the mean's loss is never above
the weighted mean of the parts' losses.

Shapes: S series, M methods, H horizon steps, Q quantile levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from trend_common.forecasts import Forecast

__all__ = ["blend", "gentle_weights"]

Array = NDArray[np.float64]


def blend(forecasts: Mapping[str, Forecast], ids: Sequence[str], weights: Array) -> Forecast:
    """The weighted mean of quantiles and means.

    Args:
        forecasts: Method → forecast, in the order of the columns of ``weights``; all of one horizon and one set of
            levels. A method may lack series.
        ids: S names, the rows of the result.
        weights: [S, M] not negative, with a row's sum above 0. A weight on a method that lacks the series falls to
            the others; they are scaled to sum to 1.

    Raises:
        ValueError: No method has one of the series with a weight above 0, or methods differ in shape.
    """
    parts = list(forecasts.values())
    if not parts or weights.shape != (len(ids), len(parts)):
        raise ValueError(f"weights: shape {weights.shape}, expected ({len(ids)}, {len(parts)})")
    if len({(one.horizon, one.levels) for one in parts}) > 1:
        raise ValueError(f"forecasts: methods {sorted(forecasts)} differ in horizon or levels")
    first = parts[0]
    rows = [_rows(one, ids) for one in parts]
    kept = np.where(np.stack(rows, axis=1) >= 0, weights, 0.0)
    total = kept.sum(axis=1)
    if (total <= 0).any():
        raise ValueError(f"ids: no method with a weight has {ids[int(np.argmin(total))]!r}")
    kept = kept / total[:, None]
    quantiles = np.zeros((len(ids), first.horizon, len(first.levels)))
    mean = np.zeros((len(ids), first.horizon))
    ds = np.empty((len(ids), first.horizon), dtype="datetime64[ns]")
    for column, (one, row) in enumerate(zip(parts, rows, strict=True)):
        used = np.flatnonzero(kept[:, column] > 0)
        share, source = kept[used, column], row[used]
        quantiles[used] += share[:, None, None] * one.quantiles[source]
        mean[used] += share[:, None] * one.mean[source]
        ds[used] = one.ds[source]
    return Forecast(tuple(ids), ds, first.levels, np.maximum.accumulate(quantiles, axis=-1), mean)


def gentle_weights(losses: Sequence[float] | Array, trust: float) -> Array:
    """[M] weights ∝ exp(−trust · (loss / lowest loss − 1)), summing to 1.

    Args:
        losses: [M] mean losses on the same past weeks, above 0. If one is not, or is unknown, nothing can be told
            from them and all weights are the same.
        trust: How far those weeks are believed: 0 weighs all alike, large values take the best. At 5, a method that
            was 10 % worse has .61 of the best one's weight.
    """
    known = np.asarray(losses, dtype=np.float64)
    if not np.isfinite(known).all() or known.min() <= 0:
        known = np.ones(len(known))
    weights = np.exp(-trust * (known / known.min() - 1))
    return np.asarray(weights / weights.sum())


def _rows(forecast: Forecast, ids: Sequence[str]) -> NDArray[np.int64]:
    """[S] rows of the named series, -1 where there is none."""
    position = {name: row for row, name in enumerate(forecast.ids)}
    return np.array([position.get(name, -1) for name in ids], dtype=np.int64)
