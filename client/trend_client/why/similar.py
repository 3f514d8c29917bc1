"""Past periods that looked like the last weeks, and what followed them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_common.panel import SalesPanel
from trend_common.scoring import grid

__all__ = ["Period", "similar_periods"]

Array = NDArray[np.float64]

_LENGTH: Final = {"D": 28, "W": 8, "M": 6}
_YEAR_DAYS: Final = 365.25
_KNOWN: Final = 0.8
_SEASON_WEIGHT: Final = 0.25


@dataclass(frozen=True)
class Period:
    """One period.

    Attributes:
        unique_id: Of the same product, maybe in another store.
        start, end: Its first and last step.
        likeness: 1 for the same shape at the same time of the year, towards 0.
        followed: Mean of the steps after it over its own mean; 1.2 is 20 % more.
    """

    unique_id: str
    start: pd.Timestamp
    end: pd.Timestamp
    likeness: float
    followed: float


def similar_periods(panel: SalesPanel, series: str, horizon: int, *, count: int = 3) -> list[Period]:
    """The periods of this product, in any store, that are most like the last one of this series.

    Periods are compared by their course relative to their own mean (root mean square difference) and by the distance
    of their place in the year; two that overlap by more than half are one. All lie so far back that what followed is
    known.

    Args:
        panel: The sales.
        series: The series.
        horizon: Steps after a period that count as what followed.
        count: Most periods.

    Returns:
        Most alike first; empty where the history is too short.
    """
    length = _LENGTH[panel.freq]
    product = panel.static.at[series, "product"]
    values = grid(panel.select(panel.static.index[panel.static["product"] == product]))
    own = values.ids.index(series)
    steps = values.y.shape[1]
    last = values.y[own, steps - length :]
    if steps < 2 * length + horizon or np.isfinite(last).mean() < _KNOWN or not np.nansum(last) > 0:
        return []
    shape = last / np.nanmean(last)
    windows = np.lib.stride_tricks.sliding_window_view(values.y[:, : steps - horizon], length, axis=1)
    windows = windows[:, : steps - length - horizon + 1]
    known = np.isfinite(windows)
    total, number = np.where(known, windows, 0.0).sum(-1), known.sum(-1)
    mean = total / np.maximum(number, 1)
    usable = (number >= _KNOWN * length) & (mean > 0)
    relative = windows / np.where(mean > 0, mean, 1.0)[..., None]
    apart = np.where(known & np.isfinite(shape), (relative - shape) ** 2, 0.0).sum(-1)
    apart = np.sqrt(apart / np.maximum((known & np.isfinite(shape)).sum(-1), 1))
    days = np.asarray((values.calendar[steps - length] - values.calendar[: windows.shape[1]]).days) % _YEAR_DAYS
    apart = apart + _SEASON_WEIGHT * np.minimum(days, _YEAR_DAYS - days) / (_YEAR_DAYS / 2)
    # The last period itself, and what overlaps it, is no past period.
    apart[:, max(steps - 2 * length + 1, 0) :] = np.inf
    apart = np.where(usable, apart, np.inf)
    found: list[Period] = []
    taken: list[tuple[int, int]] = []
    for flat in np.argsort(apart, axis=None, kind="stable"):
        row, start = divmod(int(flat), apart.shape[1])
        if len(found) == count or not np.isfinite(apart[row, start]):
            break
        if any(row == other and abs(start - begin) < length / 2 for other, begin in taken):
            continue
        after = values.y[row, start + length : start + length + horizon]
        if not np.isfinite(after).any():
            continue
        taken.append((row, start))
        found.append(
            Period(
                values.ids[row],
                values.calendar[start],
                values.calendar[start + length - 1],
                float(1 / (1 + apart[row, start])),
                float(np.nanmean(after) / mean[row, start]),
            )
        )
    return found
