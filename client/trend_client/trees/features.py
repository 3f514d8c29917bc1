"""What the trees see of a step: the series' own past as it lies before the origin, the calendar, plans, the backbone.

Everything in units of sales is divided by the series' recent level, so that large and small series are alike and
one set of trees serves all. A step's inputs are of its own series alone, but for the names of store, product and
category.
Shapes: N windows, H horizon steps, L steps of context, F inputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_common.covariates import INDEX, SEASON, YEAR
from trend_common.forecasts import LEVELS
from trend_common.windows import PanelWindows

__all__ = ["CONTEXT", "FITTED", "IDENTITIES", "Base", "Features", "codes", "features", "hidden", "levels_of"]

Array = NDArray[np.float64]

FITTED: Final = (0.05, 0.2, 0.5, 0.8, 0.95)
"""Quantile levels with trees of their own; those between and beyond follow."""

IDENTITIES: Final = ("store", "product", "category")

CONTEXT: Final = {"D": 504, "W": 168, "M": 60}
"""Steps of history that the inputs are made of: a year, and what lies around it."""

_LEVEL: Final = {"D": 56, "W": 13, "M": 12}
"""Steps whose mean is a series' level."""
_LEAST: Final = 0.1
"""Share of its mean over all history that a level is at least, for series that rest."""
_MEANS: Final = {"D": (7, 28, 91), "W": (4, 13, 26), "M": (3, 6, 12)}
_RECENT: Final = {"D": 28, "W": 8, "M": 6}
_AROUND: Final = {"D": 3, "W": 1, "M": 0}
"""Steps on either side over which last year is smoothed."""
_PHASES: Final = 8
_AHEAD: Final = ("holiday", "holiday_lead", "promo", "log_relative_price", "own_1", "own_2")
_BEHIND: Final = ("promo", "log_relative_price", "own_1")
"""Channels whose recent mean and value one phase ago are told beside what is planned."""


@dataclass(frozen=True, eq=False)
class Base:
    """What the backbone says of N windows.

    Attributes:
        quantiles: [N, H, Q] at :data:`~trend_common.forecasts.LEVELS`.
        mean: [N, H].
    """

    quantiles: Array
    mean: Array

    def fitted(self) -> Array:
        """[N, H, len(FITTED)] the quantiles of :data:`FITTED`."""
        return self.quantiles[..., [LEVELS.index(level) for level in FITTED]]


@dataclass(frozen=True, eq=False)
class Features:
    """Inputs of N · H steps.

    Attributes:
        values: [N · H, F]; NaN where unknown.
        names: F names.
        level: [N] what everything in units was divided by.
        closed: [N, H] steps known to be closed.
    """

    values: Array
    names: tuple[str, ...]
    level: Array
    closed: NDArray[np.bool_]

    @property
    def identities(self) -> list[int]:
        """Columns that are names, not numbers."""
        return [self.names.index(name) for name in IDENTITIES]


def hidden(name: str) -> str:
    """A name as the kept trees have it: they are found again by it, and do not show it."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def codes(windows: PanelWindows, known: Mapping[str, Mapping[str, int]]) -> Array:
    """[S, 3] the number of each series' store, product and category; NaN for names that training did not know."""
    static = windows.panel.static.loc[list(windows.ids)]
    columns = [[known[name].get(hidden(str(value)), -1) for value in static[name]] for name in IDENTITIES]
    found = np.array(columns, dtype=np.float64).reshape(len(IDENTITIES), -1).T
    return np.where(found < 0, np.nan, found)


def levels_of(history: Array, freq: str) -> Array:
    """[N] the mean of the last steps of [N, L], at least a tenth of the mean of all, 1 where nothing was sold."""
    recent, whole = _mean(history[:, -_LEVEL[freq] :]), np.nan_to_num(_mean(history))
    level = np.maximum(np.where(np.isfinite(recent), recent, whole), _LEAST * whole)
    return np.where(level > 0, level, 1.0)


def features(
    windows: PanelWindows,
    rows: NDArray[np.int64],
    origins: NDArray[np.int64],
    base: Base,
    identity: Array,
) -> Features:
    """Inputs of the steps of N windows.

    Args:
        windows: Of the panel, with :data:`CONTEXT` steps.
        rows, origins: [N] series and first steps.
        base: What the backbone says of the same windows.
        identity: [S, 3] by :func:`codes`.
    """
    freq, horizon = windows.panel.freq, base.mean.shape[1]
    batch = windows.batch(rows, origins, horizon)
    history = np.where(batch.past_mask.numpy() > 0, batch.past_values.numpy(), np.nan).astype(np.float64)
    past, ahead = batch.past_cov.numpy().astype(np.float64), batch.future_cov.numpy().astype(np.float64)
    level = levels_of(history, freq)
    scaled = history / level[:, None]
    steps = np.arange(horizon)
    made = _Columns(len(rows), horizon)
    made.add("step", np.broadcast_to(steps, (len(rows), horizon)))
    _same_phase(made, scaled, steps, SEASON[freq])
    for count in _MEANS[freq]:
        made.add(f"mean_{count}", _mean(scaled[:, -count:]))
    lately = scaled[:, -3 * _RECENT[freq] :]
    made.add("spread", np.sqrt(np.maximum(_mean(lately**2) - _mean(lately) ** 2, 0.0)))
    made.add("no_sale", _mean(np.where(np.isfinite(lately), lately == 0, np.nan)))
    made.add("log_level", np.log(level))
    made.add("known", np.isfinite(history).sum(axis=1).astype(np.float64))
    _last_year(made, history, level, steps, freq)
    days = pd.DatetimeIndex(windows.dates.to_numpy()[origins[:, None] + steps].reshape(-1))
    if freq == "D":
        made.add("weekday", days.dayofweek.to_numpy(dtype=np.float64))
        made.add("day", days.day.to_numpy(dtype=np.float64))
    made.add("day_of_year", days.dayofyear.to_numpy(dtype=np.float64))
    for name in _AHEAD:
        made.add(name, ahead[..., INDEX[name]])
    length = history.shape[1]
    at = length + steps - SEASON[freq] * (steps // SEASON[freq] + 1)
    for name in _BEHIND:
        made.add(f"recent_{name}", _mean(past[:, -_RECENT[freq] :, INDEX[name]]))
        made.add(f"last_{name}", past[:, at, INDEX[name]])
    for column, name in enumerate(IDENTITIES):
        made.add(name, identity[rows, column])
    quantiles = base.fitted()
    for column, quantile in enumerate(FITTED):
        made.add(f"backbone_{quantile:g}", quantiles[..., column] / level[:, None])
    made.add("backbone_mean", base.mean / level[:, None])
    return Features(*made.table(), level, ahead[..., INDEX["closed"]] > 0)


class _Columns:
    """Inputs in the making."""

    def __init__(self, n: int, horizon: int) -> None:
        self._shape, self._names = (n, horizon), [""] * 0
        self._values: list[Array] = []

    def add(self, name: str, values: NDArray[np.generic]) -> None:
        """[N], the same for all steps, [N, H] or [N · H]."""
        wide = values[:, None] if values.shape == self._shape[:1] else values.reshape(self._shape)
        self._names.append(name)
        self._values.append(np.broadcast_to(wide, self._shape).reshape(-1).astype(np.float64))

    def table(self) -> tuple[Array, tuple[str, ...]]:
        """[N · H, F] and the F names."""
        return np.stack(self._values, axis=1), tuple(self._names)


def _same_phase(made: _Columns, scaled: Array, steps: NDArray[np.int64], season: int) -> None:
    """The last values of the phase of each step, and their means over four and eight."""
    length = scaled.shape[1]
    at = length + steps[None] - season * (steps[None] // season + 1 + np.arange(_PHASES)[:, None])
    found = np.where(at >= 0, scaled[:, at.clip(0)], np.nan)
    for back in range(4):
        made.add(f"phase_{back + 1}", found[:, back])
    made.add("phase_mean_4", _mean(found[:, :4]))
    made.add("phase_mean_8", _mean(found))


def _last_year(made: _Columns, history: Array, level: Array, steps: NDArray[np.int64], freq: str) -> None:
    """The value one year before each step, smoothed, and both times the growth since."""
    length, year, reach = history.shape[1], YEAR[freq], _AROUND[freq]
    at = length + steps - year + np.arange(-reach, reach + 1)[:, None]
    inside = (at >= 0) & (at < length)
    around = np.where(inside, history[:, at.clip(0, length - 1)], np.nan)
    value, smooth = around[:, reach], _mean(around)
    count = _RECENT[freq]
    then = _mean(history[:, max(length - year - count, 0) : max(length - year, 0)])
    growth = np.where(np.nan_to_num(then) > 0, _mean(history[:, -count:]) / np.where(then > 0, then, 1.0), np.nan)
    made.add("year", value / level[:, None])
    made.add("year_smooth", smooth / level[:, None])
    made.add("year_grown", value / level[:, None] * growth[:, None])
    made.add("year_smooth_grown", smooth / level[:, None] * growth[:, None])


def _mean(values: Array) -> Array:
    """The mean of what is known over the second axis; NaN where nothing is."""
    known = np.isfinite(values)
    count = known.sum(axis=1)
    total = np.where(known, values, 0.0).sum(axis=1)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))
