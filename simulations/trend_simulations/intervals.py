"""Bootstrap intervals over retailers and seeds.

A comparison is a table [C, S]: a number for each of C retailers and S seeds. Both are resampled with replacement,
each on its own (a crossed, or pigeonhole, bootstrap: Owen 2007), so that an interval speaks of other retailers and of
other runs. It errs on the wide side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Interval", "bootstrap", "share_closed"]

RESAMPLES: Final = 4000
_FEWEST = 3
_SHORTEST: Final = 0.01
"""Of what it starts from, the shortest way of which a share is taken."""


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval; ``low`` and ``high`` are None with too few retailers."""

    mean: float
    low: float | None
    high: float | None

    def to_json(self) -> dict[str, float | None]:
        """``mean, low, high`` rounded; not a number becomes null."""
        return {
            name: None if value is None or not np.isfinite(value) else round(float(value), 6)
            for name, value in (("mean", self.mean), ("low", self.low), ("high", self.high))
        }


def bootstrap(values: NDArray[np.float64], *, seed: int = 0) -> Interval:
    """The mean of ``values`` [C, S] and its interval; retailers without a value (NaN in any seed) are left out."""
    known = values[np.isfinite(values).all(axis=1)]
    if not known.size:
        return Interval(float("nan"), None, None)
    mean = float(known.mean())
    if len(known) < _FEWEST:
        return Interval(mean, None, None)
    low, high = np.quantile(_means(known, seed), [0.025, 0.975])
    return Interval(mean, float(low), float(high))


def share_closed(
    far: NDArray[np.float64], values: NDArray[np.float64], near: NDArray[np.float64], *, seed: int = 0
) -> Interval | None:
    """How much of the way from ``far`` to ``near`` is covered, as a ratio of means: 0 at ``far``, 1 at ``near``.

    Args:
        far, values, near: [C, S] each, such as local training, an arm and pooled sales.
        seed: Of the resampling, which takes the same retailers and seeds for both distances.

    Returns:
        The share and its interval; None where the way itself cannot be told from none (its interval reaches 0) or is
        less than 1 % of ``far``, since a share of it says nothing then.
    """
    known = np.isfinite(far + values + near).all(axis=1)
    if known.sum() < _FEWEST:
        return None
    covered, way = _means((far - values)[known], seed), _means((far - near)[known], seed)
    if np.quantile(way, 0.025) <= 0 or (far - near)[known].mean() < _SHORTEST * abs(far[known].mean()):
        return None
    share = float((far - values)[known].mean() / (far - near)[known].mean())
    low, high = np.quantile((covered / np.where(way > 0, way, 1.0))[way > 0], [0.025, 0.975])
    return Interval(share, float(low), float(high))


def _means(known: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """[RESAMPLES] means of resampled retailers and seeds."""
    clients, seeds = known.shape
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, clients, (RESAMPLES, clients))
    columns = rng.integers(0, seeds, (RESAMPLES, seeds))
    return np.asarray(known[rows[:, :, None], columns[:, None, :]].mean(axis=(1, 2)), dtype=np.float64)
