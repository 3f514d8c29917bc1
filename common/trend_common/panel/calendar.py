"""The frequency of a file, its grid of steps, and the public calendar that closures are judged by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_common.panel.findings import Report
from trend_common.panel.model import Freq

__all__ = ["EASTER_OFFSETS", "Grid", "easter_offset", "grid_for", "infer_frequency"]

_ANCHORS: Final = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_EPOCH_WEEKDAY: Final = 3  # 1970-01-01 was a Thursday
_NAMES: Final = {"D": "days", "W": "weeks", "M": "months"}

EASTER_OFFSETS: Final = (-48, -47, -2, 0, 1, 39, 49, 50, 60)
"""Days from Easter Sunday on which shops close somewhere: carnival, Good Friday to Whit Monday, Corpus Christi."""


@dataclass(frozen=True)
class Grid:
    """A regular calendar: integer step <-> date.

    Attributes:
        freq: "D", "W" or "M".
        anchor: Weekday of weekly steps, 0 = Monday.
    """

    freq: Freq
    anchor: int = 6

    @property
    def offset(self) -> str:
        """The pandas offset alias."""
        return {"D": "D", "W": f"W-{_ANCHORS[self.anchor]}", "M": "MS"}[self.freq]

    def steps(self, days: NDArray[np.datetime64]) -> NDArray[np.int64]:
        """The step of each date; a date between two weekly steps belongs to the nearer one."""
        number = days.astype("datetime64[D]").astype(np.int64)
        if self.freq == "D":
            return number
        if self.freq == "M":
            return days.astype("datetime64[M]").astype(np.int64)
        return np.asarray((number - self._first + 3) // 7, dtype=np.int64)

    def dates(self, steps: NDArray[np.int64]) -> NDArray[np.datetime64]:
        """The date of each step, datetime64[ns]."""
        if self.freq == "M":
            return steps.astype("datetime64[M]").astype("datetime64[ns]")
        days = steps if self.freq == "D" else steps * 7 + self._first
        return days.astype("datetime64[D]").astype("datetime64[ns]")

    @property
    def _first(self) -> int:
        """The first day since the epoch that falls on the anchor."""
        return (self.anchor - _EPOCH_WEEKDAY) % 7


def infer_frequency(rows: pd.DataFrame, *, monthly: bool, report: Report) -> Grid:
    """The grid of a whole file, from the distances between the dates within its series.

    Days unless nearly all distances say weeks (7 days, give or take two, or a multiple) or months; sparse daily data
    stay daily. The anchor of weeks is their most frequent weekday.
    """
    unique = rows[["series", "ds"]].drop_duplicates()
    days = unique["ds"].to_numpy().astype("datetime64[D]").astype(np.int64)
    distinct = np.unique(days)
    if len(distinct) < 2:
        shown = "no date" if not len(distinct) else f"only one date, {pd.Timestamp(unique['ds'].iloc[0]).date()}"
        report.problem(f"The file has {shown}.", "A series needs at least two dates; export a longer period.")
        return Grid("D")
    order = np.lexsort((days, unique["series"].to_numpy()))
    gaps = np.diff(days[order])[np.diff(unique["series"].to_numpy()[order]) == 0]
    gaps = gaps if len(gaps) else np.diff(distinct)
    middle = float(np.median(gaps))
    for name, low, high in (("four-weekly", 28, 28), ("quarterly", 88, 93), ("yearly", 364, 367)):
        if np.mean((gaps >= low) & (gaps <= high)) > 0.9 and not monthly and len(gaps) > 2:
            report.problem(f"The file has {name} steps.", "Export it by day, by week or by month.")
    if monthly or (np.mean(gaps >= 26) > 0.98 and 28 <= middle <= 31 and np.mean(gaps % 7 == 0) < 0.7):
        return Grid("M")
    weekly = np.mean(gaps >= 5) > 0.98 and np.mean((np.abs(gaps - 7) <= 2) | (gaps % 7 == 0)) > 0.9
    if weekly:
        return Grid("W", _usual_weekday(days))
    return Grid("D")


def grid_for(found: Grid, wanted: Freq | None, report: Report) -> Grid:
    """The grid to deliver; a coarser one than the file's is made by summing days."""
    if wanted is None or wanted == found.freq:
        return found
    if found.freq == "D":
        return Grid(wanted, 6)
    report.problem(
        f"The file has {_NAMES[found.freq]}, --freq {wanted} asks for {_NAMES[wanted]}.",
        f"Only days can be summed to weeks or months. Leave --freq out, or export the file by {_NAMES[wanted][:-1]}.",
    )
    return found


def _usual_weekday(days: NDArray[np.int64]) -> int:
    return int(np.argmax(np.bincount((days + _EPOCH_WEEKDAY) % 7, minlength=7)))


def easter_offset(days: NDArray[np.datetime64]) -> NDArray[np.int64]:
    """Days from the Gregorian Easter Sunday of each date's year (the anonymous algorithm, Nature, 1876)."""
    year = days.astype("datetime64[Y]").astype(np.int64) + 1970
    a, b, c = year % 19, year // 100, year % 100
    d, e, g = b // 4, b % 4, (8 * b + 13) // 25
    h = (19 * a + b - d - g + 15) % 30
    i, k = c // 4, c % 4
    weekday = (32 + 2 * e + 2 * i - h - k) % 7
    m = (a + 11 * h + 22 * weekday) // 451
    month, day = (h + weekday - 7 * m + 114) // 31, (h + weekday - 7 * m + 114) % 31 + 1
    first = ((year - 1970).astype("datetime64[Y]").astype("datetime64[M]") + (month - 1)).astype("datetime64[D]")
    easter = first + (day - 1)
    return np.asarray((days.astype("datetime64[D]") - easter).astype(np.int64), dtype=np.int64)
