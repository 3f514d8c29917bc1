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

__all__ = ["Interval", "bootstrap"]

RESAMPLES: Final = 4000
_FEWEST = 3


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
    clients, seeds = known.shape
    if clients < _FEWEST:
        return Interval(mean, None, None)
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, clients, (RESAMPLES, clients))
    columns = rng.integers(0, seeds, (RESAMPLES, seeds))
    means = known[rows[:, :, None], columns[:, None, :]].mean(axis=(1, 2))
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(mean, float(low), float(high))
