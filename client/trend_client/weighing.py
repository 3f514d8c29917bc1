"""The weights of a blend: a panel's, fitted to the past windows, and each series' own, shrunk towards them.

A panel's weights w are those of the lowest mean scaled quantile loss of the blend over all series and validation
windows. The loss is convex in w, and exponentiated gradient steps (Kivinen and Warmuth, Information and Computation
132, 1997) go down it without leaving the simplex. Then they are pulled towards the single best method by 1 / (W + 1),
W the number of windows: one window misleads, many do less so.

A series' own weights are the panel's times exp(-POWER · shift), where the shift is how much better or worse a method
was on this series than on the panel, log(its loss / the default's loss) less the panel's, counted by W / (W + 2).

A method may lack windows: one that was trained on sales of a window is not scored there. In such a window its weight
falls to the others, as it does where the blend is applied, so that all is measured as it would have been.

Powers and step sizes were chosen on windows before the test of public panels (``docs/scoring.md``). Shapes: S series,
M methods, W windows, H horizon steps, Q scored levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trend_common.forecasts import Forecast
from trend_common.metrics import SCORED_LEVELS

__all__ = ["Evidence", "best_weights", "panel_weights", "pruned", "series_weights"]

Array = NDArray[np.float64]

POWER: Final = 4.0
SMALLEST: Final = 0.03
"""Lower weights are left out: a method has to be run for them."""

_STEPS: Final = 60
_RATE: Final = 4.0
_START: Final = 8.0


@dataclass(frozen=True, eq=False)
class Evidence:
    """Losses of each method on each series.

    Attributes:
        loss: [S, M] mean scaled loss over the method's own windows, NaN where it has none.
        reference: [S, M] the default's mean loss over the same windows.
        windows: [S, M] number of those windows.
        default: Column of the default, which is in all windows.
        mean: [M] mean loss on the panel, as if the method were in all windows.
        floor: Loss that is added to both sides of a ratio, so that a perfect window does not weigh without bound.
    """

    loss: Array
    reference: Array
    windows: NDArray[np.int64]
    default: int
    mean: Array
    floor: float

    @property
    def overall(self) -> Array:
        """[M] log of the panel's mean loss over the default's."""
        return np.asarray(np.log((self.mean + self.floor) / (self.mean[self.default] + self.floor)))

    def own(self) -> Array:
        """[S, M] log of a method's loss over the default's; 0 where there is no evidence."""
        ratio = np.log((self.loss + self.floor) / (self.reference + self.floor))
        return np.where(np.isfinite(ratio), ratio, 0.0)

    def shift(self, prior: float) -> Array:
        """[S, M] how far a series' own ratio is from the panel's, counted by its windows."""
        share = self.windows / (self.windows + prior)
        return np.asarray(share * np.where(self.windows > 0, self.own() - self.overall, 0.0))


def panel_weights(
    windows: Sequence[tuple[Array, Mapping[str, Forecast]]], divisor: Array, names: Sequence[str], evidence: Evidence
) -> Array:
    """[M] weights of the whole panel, summing to 1.

    Args:
        windows: For each window y [S, H], NaN where unknown, and method → forecast of the same S series.
        divisor: [S] what losses are divided by, NaN for series that do not count.
        names: The M methods.
        evidence: Their losses.
    """
    unit = float(np.nanmean(evidence.loss[:, evidence.default])) or 1.0
    best = best_weights(windows, divisor, names, ratio=evidence.overall, unit=unit)
    single = np.zeros(len(names))
    single[evidence.default] = 1.0
    doubt = 1 / (len(windows) + 1)
    return pruned((1 - doubt) * best + doubt * single)


def best_weights(
    windows: Sequence[tuple[Array, Mapping[str, Forecast]]],
    divisor: Array,
    names: Sequence[str],
    *,
    ratio: Array,
    unit: float,
) -> Array:
    """[M] weights of the lowest mean loss of the blend over all series and windows, summing to 1.

    Args:
        windows, divisor, names: As in :func:`panel_weights`.
        ratio: [M] log of each method's mean loss over a common one: where the descent starts.
        unit: The size of a mean loss, which the steps are measured in.
    """
    data = [_Window(y, forecasts, divisor, names) for y, forecasts in windows]
    start = np.exp(-_START * ratio)
    weights = start / start.sum()
    total = np.zeros(len(names))
    for step in range(_STEPS):
        found = [one.gradient(weights) for one in data]
        rows = sum(one.rows for one in data)
        slope = sum((part for part in found), np.zeros(len(names))) / max(rows, 1) / unit
        weights = weights * np.exp(-_RATE * (slope - slope.min()) / np.sqrt(1 + step))
        weights = weights / weights.sum()
        if step >= _STEPS // 2:  # the mean over the second half settles what single steps jump about
            total += weights
    return np.asarray(total / total.sum())


def series_weights(panel: Array, evidence: Evidence, *, prior: float) -> Array:
    """[S, M] each series' own weights, summing to 1.

    Args:
        panel: [M] weights of the panel.
        evidence: Losses of the series.
        prior: Windows of a series' own evidence that the panel's is worth.
    """
    return pruned(panel * np.exp(-POWER * evidence.shift(prior)))


def pruned(weights: Array, smallest: float = SMALLEST) -> Array:
    """Weights without those below ``smallest`` of their sum, scaled to sum to 1; the largest always stays."""
    share = weights / weights.sum(axis=-1, keepdims=True)
    kept = np.where((share >= smallest) | (share == share.max(axis=-1, keepdims=True)), share, 0.0)
    return np.asarray(kept / kept.sum(axis=-1, keepdims=True))


class _Window:
    """What a gradient needs of one window: quantiles and truths of the series that count in it."""

    def __init__(self, y: Array, forecasts: Mapping[str, Forecast], divisor: Array, names: Sequence[str]) -> None:
        counted = np.flatnonzero((~np.isnan(y)).any(axis=1) & (np.nan_to_num(divisor) > 0))
        self.rows = len(counted)
        self._present = np.array([name in forecasts for name in names])
        self._y = y[counted]
        self._known = ~np.isnan(self._y)
        self._share = np.where(self._known, 1.0, 0.0) / self._known.sum(axis=1, keepdims=True).clip(1)
        self._share = self._share / divisor[counted][:, None]
        # [S, H, Q] for each method that is here.
        self._quantiles = {
            column: np.stack([forecasts[name].quantile(level)[counted] for level in SCORED_LEVELS], axis=-1)
            for column, name in enumerate(names)
            if name in forecasts
        }

    def gradient(self, weights: Array) -> Array:
        """[M] sum over series of the slope of the loss in each share of the weight that is here, others at 0."""
        slope = np.zeros(len(weights))
        mass = float(weights[self._present].sum())
        if not self.rows or mass <= 0:
            return slope
        inside = np.zeros_like(next(iter(self._quantiles.values())))
        for column, values in self._quantiles.items():
            inside += weights[column] / mass * values
        levels = np.array(SCORED_LEVELS)
        side = np.where(np.nan_to_num(self._y)[..., None] > inside, -levels, 1 - levels)
        side = side * (2 / len(levels) * self._share)[..., None]
        mean = float((side * inside).sum())
        for column, values in self._quantiles.items():
            # Not over ``mass``: it would make windows that hold little of the weight decide all.
            slope[column] = float((side * values).sum()) - mean
        return slope
