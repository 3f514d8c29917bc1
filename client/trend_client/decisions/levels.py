"""Which quantile of the forecast sum meets a service level: set right by sums that came to pass.

A forecast whose sums lie below its 95 % quantile in 88 of 100 past cases runs out too often if that quantile is
ordered. So levels are mapped, as in the recalibration of Kuleshov, Fenner and Ermon (2018), by a line between normal
scores that two numbers describe::

    level' = Φ(shift + spread · Φ⁻¹(level))

It is fitted to the upper half, where orders are decided, over all series of a retailer, and shrunk towards no change:
the series of one window share its weather, so the evidence is counted in windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["PAST_SUMS", "ServiceLevels", "ranks"]

Array = NDArray[np.float64]

PAST_SUMS: Final = 8
"""Past intervals that service levels are learned from."""

_FITTED: Final = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
_PRIOR_WINDOWS: Final = 1.0
_FEWEST: Final = 50
_NORMAL: Final = NormalDist()


def ranks(totals: Array, truth: Array) -> Array:
    """[S] the share of paths below what came to pass, a tie counting half.

    Args:
        totals: [S, N] sums over paths.
        truth: [S] sums, NaN where unknown.
    """
    below = (totals < truth[:, None]).mean(1)
    upto = (totals <= truth[:, None]).mean(1)
    return np.asarray(np.where(np.isnan(truth), np.nan, 0.5 * (below + upto)))


@dataclass(frozen=True)
class ServiceLevels:
    """The map from the level that is asked for to the level of the paths that meets it.

    Attributes:
        shift, spread: Of the line; 0 and 1 change nothing.
        windows: Past windows it was learned from.
    """

    shift: float = 0.0
    spread: float = 1.0
    windows: int = 0

    @classmethod
    def fit(cls, past: Sequence[Array]) -> ServiceLevels:
        """Learn the line from windows of :func:`ranks`; no change from fewer than 50 sums."""
        found = [one[np.isfinite(one)] for one in past]
        found = [one for one in found if len(one)]
        pooled = np.concatenate(found) if found else np.zeros(0)
        if len(pooled) < _FEWEST:
            return cls()
        asked = np.array([_NORMAL.inv_cdf(level) for level in _FITTED])
        got = np.array(
            [_NORMAL.inv_cdf(float(np.clip(np.quantile(pooled, level), 1e-3, 0.999))) for level in _FITTED]
        )
        spread, shift = np.polyfit(asked, got, 1)
        weight = len(found) / (len(found) + _PRIOR_WINDOWS)
        return cls(float(weight * shift), float(np.clip(1 + weight * (spread - 1), 0.3, 3.0)), len(found))

    def at(self, level: float) -> float:
        """The level of the paths whose quantile met ``level`` of past sums; rises with ``level``."""
        return _NORMAL.cdf(self.shift + self.spread * _NORMAL.inv_cdf(level))

    def quantiles(self, sums: Array, until: NDArray[np.int64], wanted: Sequence[float]) -> Array:
        """Quantiles of sums over an uncertain number of steps: demand is set right, the steps are taken as they are.

        Past sums were over a known number of steps, so they say nothing of lead times: each path's sum is drawn from
        the corrected distribution over its own number of steps, independently of that number.

        Args:
            sums: [N, T + 1] cumulative demand of the paths, 0 first.
            until: [N] steps of each path's sum.
            wanted: A levels.

        Returns:
            [A]; with a longer ``until`` never less.
        """
        from scipy.special import ndtr, ndtri

        count = len(sums)
        if (until == until[0]).all():
            return np.asarray(np.quantile(sums[:, until[0]], [self.at(level) for level in wanted]))
        even = (np.random.default_rng(0).permutation(count) + 0.5) / count
        corrected = ndtr(self.shift + self.spread * ndtri(even))
        drawn = np.empty(count)
        for steps in np.unique(until):
            rows = until == steps
            drawn[rows] = np.quantile(sums[:, steps], corrected[rows])
        return np.asarray(np.quantile(drawn, wanted))
