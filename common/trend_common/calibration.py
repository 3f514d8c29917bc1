"""The spread of quantile forecasts, set right by what came to pass in past windows.

A model that trained on few sales is often too sure of itself, and one that saw other retailers' sales may be too
careful. A calibration moves each quantile q about the forecast's own median m, by one factor below and one above it:

    q' = m + below · (q − m)  where q < m,        q' = m + above · (q − m)  where q > m

Medians and means stay, quantiles never cross, and no sales become negative. A quantile of 0 stays: it says how likely
nothing is sold, which no spread can change, and moved up it would leave out every day without a sale. It is a
recalibration (Kuleshov, Fenner and Ermon 2018, arXiv:1807.00263) by factors as in normalised conformal regression
(Romano, Patterson and Candès 2019, arXiv:1905.03222), but fitted to the quantile loss over all levels rather than to
the coverage of one interval.

The loss is convex in a factor and its lowest point is a weighted quantile of (y − m) / (q − m), so the fit is exact.
Then it is shrunk, on the log scale, and the evidence is counted in windows, since the series of one window share its
weather:

- a factor for both sides together moves towards 1: W windows weigh W / (W + 1);
- each side's own moves towards that one: W windows weigh (W − 1) / W, since one window in which all sold more than
  was thought would narrow one side and widen the other for no good reason;
- each series' own moves towards its panel's, again by W − 1 windows of its own, against 20.

On ten retail data sets one window with a factor for each side made the next window worse; this does not. A factor
of the level made things worse however it was shrunk, so there is none. Each move goes part of the way to the lowest
point of a convex loss, so a calibration is never worse than none on the very windows that it was fitted to.

Shapes: S series, H horizon steps, Q quantile levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from trend_common.forecasts import Forecast

__all__ = ["NARROWEST", "WIDEST", "Calibration", "spread_factor"]

Array = NDArray[np.float64]

NARROWEST: Final = 0.25
WIDEST: Final = 4.0
"""Factors beyond these are not believed."""

_PRIOR_WINDOWS: Final = 1.0
"""Windows that the belief in a panel's factor of 1, and in like factors of its two sides, is worth."""

_PRIOR_ROWS: Final = 10.0
"""The same in rows (a series in a window): few series say little, however many windows there are."""

_PRIOR_SERIES: Final = 20.0
"""Windows of a series' own that its panel's factor is worth."""

_MIDDLE: Final = 0.5

_Factor = Annotated[float, Field(ge=NARROWEST, le=WIDEST)]


class Calibration(BaseModel):
    """Factors about the median; the default changes nothing.

    Attributes:
        below: Of the quantiles below the median, for series without factors of their own.
        above: Of those above it.
        series: Series → its own two factors.
        windows: Windows that it was fitted on; 0 for none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    below: _Factor = 1.0
    above: _Factor = 1.0
    series: dict[str, tuple[_Factor, _Factor]] = Field(default_factory=dict)
    windows: int = Field(0, ge=0)

    @classmethod
    def fit(cls, windows: Sequence[tuple[Array, Forecast]], scale: Array, *, own: bool = True) -> Self:
        """Fit to past windows.

        No model may have trained on these windows: inside what it has seen a model looks surer than it is.

        Args:
            windows: For each window y [S, H], NaN where unknown, and its forecast. Their series may differ.
            scale: [S] what the errors of each series are divided by, in the order of the **first** window's series
                and by name for the others; ones weigh all units sold alike. Series whose scale is not above 0, or
                that the first window lacks, are left out of the fit.
            own: Whether each series gets factors of its own besides the panel's.

        Raises:
            ValueError: A truth and its forecast, or the scale and the first window, differ in their series.
        """
        if not windows:
            return cls()
        if np.shape(scale) != (len(windows[0][1]),):
            raise ValueError(f"scale: shape {np.shape(scale)}, expected ({len(windows[0][1])},)")
        known = {name: float(one) for name, one in zip(windows[0][1].ids, scale, strict=True) if one > 0}
        sides: list[_Side] = []
        for upper in (False, True):
            side = _Side(upper)
            for y, forecast in windows:
                side.add(y, forecast, known)
            sides.append(side)
        below, above = _panel(sides)
        names = list(dict.fromkeys(name for side in sides for name in side.rows)) if own else []
        found = {name: (sides[0].series(name, below), sides[1].series(name, above)) for name in names}
        found = {name: pair for name, pair in found.items() if pair != (below, above)}
        return cls(below=below, above=above, series=found, windows=len(windows))

    @property
    def changes_nothing(self) -> bool:
        """Whether every factor is 1."""
        return all(factor == 1.0 for pair in ((self.below, self.above), *self.series.values()) for factor in pair)

    def apply(self, forecast: Forecast) -> Forecast:
        """``forecast`` with its quantiles moved; ids, dates, medians and the mean are kept."""
        if self.changes_nothing:
            return forecast
        factors = np.array([self.series.get(name, (self.below, self.above)) for name in forecast.ids]).reshape(-1, 2)
        middle = forecast.median[..., None]
        low = np.asarray(forecast.levels) < _MIDDLE
        factor = np.where(low, factors[:, None, :1], factors[:, None, 1:])
        moved = middle + factor * (forecast.quantiles - middle)
        at_median = np.isclose(forecast.levels, _MIDDLE, rtol=0, atol=1e-9)
        moved = np.where(at_median, forecast.quantiles, moved)
        moved = np.where(forecast.quantiles >= 0, np.maximum(moved, 0.0), moved)
        moved = np.where(_nothing(forecast), 0.0, moved)
        # Rounding may leave neighbours out of order in the last place.
        return Forecast(forecast.ids, forecast.ds, forecast.levels, np.sort(moved, axis=-1), forecast.mean)


def spread_factor(ratio: Array, weight: Array, share: Array) -> float:
    """The factor of the lowest quantile loss on one side of the median.

    With d = |q − m| > 0 the loss of one value at one level is convex in the factor f and turns at
    r = (y − m) / (q − m): it falls with slope −share · d before r and rises with (1 − share) · d after it.

    Args:
        ratio: [N] r of every value and level.
        weight: [N] d over the scale, above 0.
        share: [N] the level above the median, 1 − the level below it.

    Returns:
        The lowest point, not below 0; where a whole stretch is lowest, its point nearest to 1. 1 without any value.
    """
    if not ratio.size:
        return 1.0
    order = np.argsort(ratio, kind="stable")
    turns, slope = ratio[order], np.cumsum(weight[order]) - float((weight * share).sum())
    tolerance = 1e-12 * float(weight.sum())
    first = int(np.searchsorted(slope, -tolerance))  # the slope after turn ``first`` is 0 or rises
    last = int(np.searchsorted(slope, tolerance, side="right"))
    low, high = float(turns[min(first, len(turns) - 1)]), float(turns[min(last, len(turns) - 1)])
    return float(np.clip(1.0, max(low, 0.0), max(high, 0.0)))


class _Side:
    """What the windows say about the quantiles on one side of the median."""

    def __init__(self, above: bool) -> None:
        self._above = above
        self.rows: dict[str, list[tuple[Array, Array, Array]]] = {}
        self.windows = 0

    def add(self, y: Array, forecast: Forecast, scale: dict[str, float]) -> None:
        """Take one window."""
        if y.shape != forecast.mean.shape:
            raise ValueError(f"y: shape {y.shape}, forecast {forecast.mean.shape}")
        levels = np.asarray(forecast.levels)
        wanted = np.flatnonzero(levels > _MIDDLE + 1e-9 if self._above else levels < _MIDDLE - 1e-9)
        middle = forecast.median[..., None]
        distance = forecast.quantiles[..., wanted] - middle
        share = np.broadcast_to(levels[wanted] if self._above else 1 - levels[wanted], distance.shape)
        usable = ~np.isnan(y)[..., None] & (np.abs(distance) > 0) & ~_nothing(forecast)[..., wanted]
        before = len(self.all_rows())
        for row, name in enumerate(forecast.ids):
            kept = usable[row]
            if name not in scale or not kept.any():
                continue
            reach = distance[row][kept]
            ratio = np.broadcast_to(y[row][:, None] - middle[row], kept.shape)[kept] / reach
            self.rows.setdefault(name, []).append((ratio, np.abs(reach) / scale[name], share[row][kept]))
        self.windows += len(self.all_rows()) > before

    def all_rows(self) -> list[tuple[Array, Array, Array]]:
        """The evidence of all series."""
        return [part for parts in self.rows.values() for part in parts]

    def series(self, name: str, panel: float) -> float:
        """A series' own factor, shrunk towards its panel's."""
        rows = self.rows.get(name, [])
        return _between(panel, _fit(rows), (len(rows) - 1) / (len(rows) - 1 + _PRIOR_SERIES)) if rows else panel


def _nothing(forecast: Forecast) -> NDArray[np.bool_]:
    """[S, H, Q] quantiles that stand for no sale at all: 0 where none is below."""
    return np.asarray((forecast.quantiles == 0) & (forecast.quantiles[..., :1] == 0))


def _panel(sides: Sequence[_Side]) -> tuple[float, float]:
    """The factors below and above the median of all series, shrunk towards each other and towards 1."""
    rows = [side.all_rows() for side in sides]
    if not any(rows):
        return 1.0, 1.0
    both, windows = _fit([*rows[0], *rows[1]]), max(side.windows for side in sides)
    count = max(len(found) for found in rows)
    few = count / (count + _PRIOR_ROWS)
    common = _between(1.0, both, few * windows / (windows + _PRIOR_WINDOWS))
    apart = few * (windows - 1) / (windows - 1 + _PRIOR_WINDOWS)
    below, above = (_between(common, _fit(found), apart) if found else common for found in rows)
    return below, above


def _fit(rows: Sequence[tuple[Array, Array, Array]]) -> float:
    ratio, weight, share = (np.concatenate([row[part] for row in rows]) for part in range(3))
    return _believed(spread_factor(ratio, weight, share))


def _believed(factor: float) -> float:
    return float(np.clip(factor, NARROWEST, WIDEST))


def _between(start: float, end: float, weight: float) -> float:
    """The point at ``weight`` of the way on the log scale."""
    return _believed(start ** (1 - weight) * end**weight)
