"""Closed, missing or a true zero: what a day without a sale means, judged for each series by its own rows alone.

A *kind of day* (a weekday; a date of the year; a distance from Easter) is closed for a series that never trades on
it, if that can hardly be chance: with a share p of trading days among its other days (for weekdays: among the days of
all weekdays that it does trade on) and n days of the kind, (1 - p)^n <= 0.001. The rule is applied to "has a row" and
to "sold something"; either suffices.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trend_common.panel.calendar import EASTER_OFFSETS, easter_offset

__all__ = ["CHANCE", "Listing", "SeriesDays", "closed_days", "listing"]

CHANCE: Final = 0.001
"""The largest probability under which "never trades on such days" still counts as proof."""

MIN_WEEKS: Final = 4
"""A closed weekday must have occurred this often."""

MIN_YEARS: Final = 2
"""A closed date of the year must have occurred this often, on weekdays that are open."""

LONG_RUN: Final = 28
"""Rows missing for longer than this many open days, and than ten usual gaps of the series, are no run of zeros."""

LONGEST_RUN: Final = 365
"""Rows missing for longer than this many open days are never a run of zeros."""

LISTED: Final = 0.8
"""A series that has rows on fewer of its open days than this, and no zero rows, lists only days with sales."""

_ZERO_ROWS: Final = 0.01
_BLOCK: Final = 4000


@dataclass(frozen=True)
class SeriesDays:
    """The days of all series below each other, [days]: each series a regular run of days.

    Attributes:
        series: Number of the series, ascending.
        dates: datetime64.
        present: The source has a row.
        sold: The row has a quantity above 0.
        zero: The row has a quantity of exactly 0.
        n_series: Number of series, those without any day included.
    """

    series: NDArray[np.int64]
    dates: NDArray[np.datetime64]
    present: NDArray[np.bool_]
    sold: NDArray[np.bool_]
    zero: NDArray[np.bool_]
    n_series: int

    def part(self, start: int, stop: int) -> SeriesDays:
        """The days ``start`` to ``stop``, their series numbered from 0."""
        at = slice(start, stop)
        series = self.series[at] - self.series[start]
        n_series = int(series[-1]) + 1
        return SeriesDays(series, self.dates[at], self.present[at], self.sold[at], self.zero[at], n_series)


def closed_days(days: SeriesDays) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Days on a weekday that is closed for the series; and days on a closed date of the year ([days] bool each)."""
    n_series = days.n_series
    if n_series > _BLOCK:
        # A table of series x 372 dates is kept small; series are independent, so blocks change nothing.
        cuts = np.searchsorted(days.series, np.arange(0, n_series + _BLOCK, _BLOCK))
        parts = [closed_days(days.part(start, stop)) for start, stop in pairwise(cuts) if stop > start]
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
    every = np.ones(len(days.series), dtype=bool)
    weekday = (days.dates.astype("datetime64[D]").astype(np.int64) + 3) % 7
    by_week = _never(days, weekday, 7, every, MIN_WEEKS)
    open_days = ~by_week
    day_of_year = _day_of_year(days.dates)
    by_date = _never(days, day_of_year, 12 * 31, open_days, MIN_YEARS)
    offset = easter_offset(days.dates)
    kind = np.full(len(offset), -1)
    for position, distance in enumerate(EASTER_OFFSETS):
        kind[offset == distance] = position
    feast = kind >= 0
    by_easter = _never(
        days, np.where(feast, kind, 0), len(EASTER_OFFSETS), open_days & feast, MIN_YEARS, among=open_days
    )
    return by_week, (by_date | by_easter) & open_days


def _never(
    days: SeriesDays,
    kind: NDArray[np.int64],
    kinds: int,
    judged: NDArray[np.bool_],
    least: int,
    among: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """Which judged days are of a kind on which their series never trades; rates are taken ``among`` these days."""
    among = judged if among is None else among
    n_series = days.n_series
    cell = days.series * kinds + kind
    size = n_series * kinds
    n = np.bincount(cell[judged], minlength=size).reshape(n_series, kinds)
    all_days = np.bincount(days.series[among], minlength=n_series)[:, None]
    never = np.zeros((n_series, kinds), dtype=bool)
    for traded in (days.present, days.sold):
        here = np.bincount(cell[judged & traded], minlength=size).reshape(n_series, kinds)
        anywhere = np.bincount(days.series[among & traded], minlength=n_series)[:, None]
        # A weekday that is never traded on says nothing of how often the series trades when it can. (Single dates
        # must count: leaving out all without a sale would make every product one that always sells.)
        others = all_days - (np.where(here == 0, n, 0).sum(axis=1, keepdims=True) if kinds == 7 else n)
        with np.errstate(divide="ignore", invalid="ignore"):
            chance = n * np.log1p(-np.clip((anywhere - here) / np.maximum(1, others), 0.0, 1.0))
        never |= (here == 0) & (n >= least) & (chance <= np.log(CHANCE))
    result: NDArray[np.bool_] = never.ravel()[cell] & judged
    return result


def _day_of_year(dates: NDArray[np.datetime64]) -> NDArray[np.int64]:
    months = dates.astype("datetime64[M]")
    day = (dates.astype("datetime64[D]") - months.astype("datetime64[D]")).astype(np.int64)
    return np.asarray((months.astype(np.int64) % 12) * 31 + day, dtype=np.int64)


@dataclass(frozen=True)
class Listing:
    """How a series lists its days.

    Attributes:
        sales_only: [series] bool: only days with sales have a row.
        longest: [series] float64: the longest run of open days without a row that still means zeros.
        run: [days] int64: length, in open days, of the run without rows that a day belongs to; 0 for days with a row.
    """

    sales_only: NDArray[np.bool_]
    longest: NDArray[np.float64]
    run: NDArray[np.int64]


def listing(days: SeriesDays, closed: NDArray[np.bool_]) -> Listing:
    """Which series list only the days on which they sold."""
    n_series = days.n_series
    run = np.zeros(len(days.series), dtype=np.int64)
    at = np.flatnonzero(~closed)
    series, hole = days.series[at], ~days.present[at]
    starts = np.flatnonzero(np.r_[True, (series[1:] != series[:-1]) | (hole[1:] != hole[:-1])]) if len(at) else at
    lengths = np.diff(np.r_[starts, len(at)])
    run[at] = np.repeat(lengths, lengths) * hole
    of_holes = hole[starts]
    owners, widths = series[starts][of_holes], lengths[of_holes]
    rows = np.bincount(series[~hole], minlength=n_series)
    longest = np.clip(10 * _usual_gap(owners, widths, rows), LONG_RUN, LONGEST_RUN).astype(np.float64)
    short = widths <= longest[owners]
    holes = np.bincount(owners[short], weights=widths[short], minlength=n_series)
    zeros = np.bincount(days.series[days.zero], minlength=n_series)
    few_zeros = zeros <= _ZERO_ROWS * np.bincount(days.series[days.present], minlength=n_series)
    sales_only = few_zeros & (holes > 0) & (rows / np.maximum(1, rows + holes) < LISTED)
    return Listing(sales_only, longest, run)


def _usual_gap(group: NDArray[np.int64], runs: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The lower median of the days between neighbouring rows of each group: 0 where most rows are neighbours."""
    groups = len(rows)
    ordered = np.append(runs[np.lexsort((runs, group))], 0)
    counts = np.bincount(group, minlength=groups)
    first = np.cumsum(counts) - counts
    gaps = np.maximum(rows - 1, counts)
    middle = np.maximum(gaps - 1, 0) // 2 - (gaps - counts)
    at = np.clip(first + middle, 0, len(ordered) - 1)
    return np.asarray(np.where((counts > 0) & (middle >= 0), ordered[at], 0), dtype=np.int64)
