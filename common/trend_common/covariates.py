"""The covariates of the shared backbone: which channels there are, and how a date becomes numbers.

Everything here is a function of public facts (the calendar) or of one series' own rows; nothing is estimated over
several series, so that a tensor of one privacy unit never depends on another unit.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = [
    "CHANNELS",
    "DEFAULT_CONTEXT",
    "DEFAULT_HORIZON",
    "FREQUENCIES",
    "INDEX",
    "N_CALENDAR",
    "SEASON",
    "YEAR",
    "calendar_features",
    "holiday_lead",
]

FREQUENCIES: Final = ("D", "W", "M")
"""Frequency codes of the backbone: 0 daily, 1 weekly, 2 monthly."""

SEASON: Final = {"D": 7, "W": 1, "M": 12}
"""Steps between two values of the same phase (weekly data: the step before)."""

DEFAULT_HORIZON: Final = {"D": 28, "W": 8, "M": 6}
"""Steps to forecast where nobody says."""

DEFAULT_CONTEXT: Final = {"D": 252, "W": 112, "M": 56}
"""Steps of history where nobody says: whole patches of the shipped backbone."""

YEAR: Final = {"D": 364, "W": 52, "M": 12}
"""Steps between two values one year apart; 364 days keeps the weekday."""

CHANNELS: Final = (
    *(f"{wave}_week_{k}" for k in (1, 2, 3) for wave in ("sin", "cos")),
    *(f"{wave}_year_{k}" for k in (1, 2) for wave in ("sin", "cos")),
    *(f"{wave}_month_1" for wave in ("sin", "cos")),
    "holiday",
    "holiday_lead",
    "promo",
    "log_relative_price",
    "closed",
    "unavailable",
    "promo_known",
    "price_known",
    "holiday_known",
    "closed_known",
    "own_1",
    "own_2",
    "own_1_known",
    "own_2_known",
)
"""The covariate channels in order; C = ``len(CHANNELS)``."""

INDEX: Final = {name: position for position, name in enumerate(CHANNELS)}
N_CALENDAR: Final = 12

_LEAD_DAYS: Final = 8
_STEP_DAYS: Final = {"D": 1.0, "W": 7.0, "M": 30.44}


def calendar_features(dates: pd.DatetimeIndex, freq: str) -> NDArray[np.float32]:
    """Harmonics of the week, the year and the month.

    Args:
        dates: T dates.
        freq: "D", "W" or "M"; week and month harmonics are zero unless the data are daily.

    Returns:
        [T, N_CALENDAR], each in [-1, 1].
    """
    days = (dates - pd.Timestamp("1970-01-01")).days.to_numpy(dtype=np.float64)
    week = 2 * np.pi * (days % 7) / 7
    year = 2 * np.pi * (dates.dayofyear.to_numpy(dtype=np.float64) - 1) / 365.25
    month = 2 * np.pi * (dates.day.to_numpy(dtype=np.float64) - 1) / dates.days_in_month.to_numpy(dtype=np.float64)
    daily = 1.0 if freq == "D" else 0.0
    columns = [wave(k * week) * daily for k in (1, 2, 3) for wave in (np.sin, np.cos)]
    columns += [wave(k * year) for k in (1, 2) for wave in (np.sin, np.cos)]
    columns += [wave(month) * daily for wave in (np.sin, np.cos)]
    stacked: NDArray[np.float32] = np.stack(columns, axis=-1).astype(np.float32)
    return stacked


def holiday_lead(holiday: NDArray[np.floating], freq: str) -> NDArray[np.float32]:
    """How near the next holiday is: exp(-days/3) for the days before one, 1 on it, 0 beyond a week.

    Args:
        holiday: [..., T], above 0 where a step holds a holiday.
        freq: "D", "W" or "M".

    Returns:
        [..., T] in [0, 1].
    """
    marked = (np.nan_to_num(holiday) > 0).astype(np.float32)
    lead: NDArray[np.float32] = marked.copy()
    days = _STEP_DAYS[freq]
    for ahead in range(1, int(_LEAD_DAYS / days) + 1):
        weight = np.float32(np.exp(-ahead * days / 3.0))
        lead[..., :-ahead] = np.maximum(lead[..., :-ahead], weight * marked[..., ahead:])
    return lead
