"""Days without stock: read off the stock column, or inferred from a series' own zeros; and the demand they hid.

Sales are demand cut off at the stock (censored demand: Nahmias, "Demand estimation in lost sales inventory systems",
Naval Research Logistics 41, 1994): zeros of an empty shelf, taken for demand, pull every forecast down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["CHANCE", "Outages", "inferred", "table_of"]

CHANCE: Final = 0.001
"""The largest expected number of such runs by chance in the whole series under which a run still counts as proof."""

BEFORE: Final = 28
AFTER: Final = 14
"""Open days on either side of a run by which the series' selling rate is judged."""

SHORTEST: Final = 3
LONGEST: Final = 60
"""Open days of a run; longer ones may be a season, or a product that was taken off the shelf and came back."""

APART: Final = 90
"""Open days for each run that looks like a stock-out; where there are more, zeros come in clumps by themselves."""

SETTLED: Final = 63
"""A run that reaches into the last so many days of its series stays zeros: two horizons that a backtest holds back,
and a week. What happened after a run must not be seen by a test that stands before it."""

_LEAST_BEFORE: Final = 14
_LEAST_AFTER: Final = 7
_RATIO: Final = 3.0
_WEEKS: Final = 4


@dataclass(frozen=True)
class Outages:
    """Which steps had no stock ([steps] bool), and how many more runs are too recent to judge."""

    out: NDArray[np.bool_]
    recent: int


def inferred(
    series: NDArray[np.int64],
    step: NDArray[np.int64],
    y: NDArray[np.float64],
    closed: NDArray[np.bool_],
    stocked: NDArray[np.bool_] | None = None,
) -> Outages:
    """Runs of zeros that a series' own rate of selling cannot explain, and that end with sales at the old level.

    A run of n open days is a stock-out if all of this holds:

    - 3 <= n <= 60, with at least 14 known open days before and 7 after it;
    - N (1 - p) (1 - r)^(n - 1) <= 0.001, with N the open days of the series, p the lower share of days with sales of
      the 28 open days before and the 14 after (each with half a sale and one day added), and r the lower of p and the
      share of the other zero days after which sales came back the next day: zeros that come in clumps by themselves
      prove little. (The other runs that p alone would call stock-outs are left out of this share, unless there are
      more than one in 90 open days.)
    - the mean of the days after is within a factor of three of the mean before (else: a season);
    - no day of it has stock in the file's own stock column;
    - it ended at least 63 days before the series' last step.

    Everything else stays zero. Each series is judged by its own rows.

    Args:
        series, step, y, closed: [steps] of all series below each other, daily; ``y`` NaN = unknown.
        stocked: [steps] whether the file says that there was stock.
    """
    out = np.zeros(len(y), dtype=bool)
    at = np.flatnonzero(~closed & np.isfinite(y))
    if not len(at):
        return Outages(out, 0)
    owner, value = series[at], y[at]
    sold = value > 0
    starts = np.flatnonzero(np.r_[True, (owner[1:] != owner[:-1]) | (sold[1:] != sold[:-1])])
    ends = np.r_[starts[1:], len(at)]
    zero = ~sold[starts]
    starts, ends = starts[zero], ends[zero]
    if not len(starts):
        return Outages(out, 0)
    of_run, length = owner[starts], ends - starts
    n_series = int(series[-1]) + 1
    first = np.searchsorted(owner, np.arange(n_series))
    beyond = np.searchsorted(owner, np.arange(n_series), side="right")
    days = (beyond - first)[of_run]
    low, high = np.maximum(first[of_run], starts - BEFORE), np.minimum(beyond[of_run], ends + AFTER)
    n_before, n_after = starts - low, high - ends
    sales, total = np.r_[0, np.cumsum(sold)], np.r_[0.0, np.cumsum(value)]
    share = np.minimum(
        (sales[starts] - sales[low] + 0.5) / (n_before + 1), (sales[high] - sales[ends] + 0.5) / (n_after + 1)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (total[high] - total[ends]) / n_after / ((total[starts] - total[low]) / n_before)
    fits = (length >= SHORTEST) & (length <= LONGEST) & (n_before >= _LEAST_BEFORE) & (n_after >= _LEAST_AFTER)
    fits &= (ratio >= 1 / _RATIO) & (ratio <= _RATIO)
    if stocked is not None:
        held = np.r_[0, np.cumsum(stocked[at])]
        fits &= held[ends] == held[starts]
    alone = np.log(days) + length * np.log1p(-share)
    candidate = fits & (alone <= np.log(CHANCE))
    rare = np.bincount(of_run[candidate], minlength=n_series)[of_run] * APART <= days
    # Two stock-outs must not hide each other; but a series that has many such runs is one that sells in clumps.
    ordinary = ~candidate | ~rare
    zeros = np.bincount(of_run[ordinary], weights=length[ordinary], minlength=n_series)[of_run] - length * ordinary
    runs = np.bincount(of_run[ordinary], minlength=n_series)[of_run] - ordinary
    back = np.where(zeros > 0, runs / np.maximum(1.0, zeros), 1.0)
    rate = np.minimum(np.minimum(share, back), 1 - 1e-12)
    chance = np.log(days) + np.log1p(-share) + (length - 1) * np.log1p(-rate)
    proven = fits & (chance <= np.log(CHANCE))
    settled = step[at[ends - 1]] <= step[at[beyond[of_run] - 1]] - SETTLED
    for start, end in zip(starts[proven & settled], ends[proven & settled], strict=True):
        out[at[start:end]] = True
    return Outages(out, int((proven & ~settled).sum()))


def table_of(
    out: NDArray[np.bool_],
    series: NDArray[np.int64],
    dates: NDArray[np.datetime64],
    y: NDArray[np.float64],
    closed: NDArray[np.bool_],
    *,
    stated: NDArray[np.bool_],
) -> pd.DataFrame:
    """One row per run of steps without stock, with an estimate of the demand that it hid.

    The estimate of a day is the lower of two means: of the same weekday in the four weeks before the run and in the
    four weeks after it (one of them where the other is unknown). It is a low estimate, of a day that had no sale.

    Returns:
        ``series, start, end, days, lost`` (units; NaN where neither side is known), ``stated`` (whether the file's
        stock column says so).
    """
    at = np.flatnonzero(out)
    new = np.r_[True, (np.diff(at) > 1) | (np.diff(series[at]) != 0)][: len(at)]
    first = np.flatnonzero(new)
    last = np.r_[first[1:], len(at)][: len(first)] - 1
    run = np.cumsum(new) - 1
    lost = _lost(at, at[first][run], at[last][run], series, y, np.isfinite(y) & ~closed & ~out)
    known = np.isfinite(lost)
    total = np.bincount(run, weights=np.where(known, lost, 0.0), minlength=len(first))
    return pd.DataFrame(
        {
            "series": series[at[first]],
            "start": dates[at[first]],
            "end": dates[at[last]],
            "days": last - first + 1,
            "lost": np.where(np.bincount(run[known], minlength=len(first)) > 0, total, np.nan),
            "stated": np.bincount(run, weights=stated[at], minlength=len(first)) > 0,
        }
    )


def _lost(
    day: NDArray[np.intp],
    start: NDArray[np.intp],
    end: NDArray[np.intp],
    series: NDArray[np.int64],
    y: NDArray[np.float64],
    usable: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """An estimate for each day of runs from ``start`` to ``end`` (places in ``y``); NaN = neither side is known."""
    low = np.full(len(day), np.nan)
    for sign, edge in ((-1, start), (1, end)):
        weeks = 1 + np.abs(day - edge) // 7
        places = day[:, None] + sign * 7 * (weeks[:, None] + np.arange(_WEEKS))
        inside = (places >= 0) & (places < len(y))
        places = np.where(inside, places, 0)
        good = inside & usable[places] & (series[places] == series[day][:, None])
        count = good.sum(axis=1)
        mean = np.where(good, y[places], 0.0).sum(axis=1) / np.where(count, count, np.nan)
        low = np.fmin(low, mean)
    return low
