"""Joint sample paths: what may be sold over several steps together.

Quantiles of single steps cannot be added up: how much the sum spreads depends on whether a good day is followed by
another. Paths keep each step's own distribution and tie the steps by a Gaussian copula (Sklar 1959): normal scores
whose correlation k steps apart is ::

    ρ(k) = c + (1 − c) · φ^k

c is what a whole window has in common (the level was misjudged), φ is what one step hands on to the next. Both come
from past forecasts of this retailer and what came to pass (:meth:`Dependence.fit`), pooled over its series: one
series has too few windows to say. Shapes: S series, H steps, N paths, Q levels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trend_common.forecasts import Forecast

__all__ = ["Dependence", "Sampler", "normal_scores"]

Array = NDArray[np.float64]

_MOST_LAGS: Final = 28
_FEWEST_PAIRS: Final = 200
_DEFAULT: Final = (0.25, 0.3)
"""c and φ where there is no past to learn from: about what the retailers of ``docs/results.md`` showed."""

_COMMON: Final = np.arange(0.0, 0.91, 0.01)
_CARRY: Final = np.arange(0.0, 0.951, 0.05)
_BLOCK: Final = 4_000_000
"""Numbers held at a time, 32 MB."""


def normal_scores(forecast: Forecast, y: Array) -> Array:
    """[S, H] where each value fell in the distribution that was forecast for it, as a standard normal number.

    A value that several quantiles share (mostly 0) takes the middle of their levels. NaN where ``y`` is unknown.
    """
    from scipy.special import ndtri

    levels = np.asarray(forecast.levels)
    q = forecast.quantiles
    value = np.nan_to_num(y)[..., None]
    below, upto = (q < value).sum(-1), (q <= value).sum(-1)
    ends = np.concatenate([[0.0], levels, [1.0]])
    # Between two quantiles the distribution is linear; beyond the outermost the middle of the tail is taken.
    lower = np.take_along_axis(q, np.clip(below - 1, 0, len(levels) - 1)[..., None], -1)[..., 0]
    upper = np.take_along_axis(q, np.clip(upto, 0, len(levels) - 1)[..., None], -1)[..., 0]
    share = np.where(upper > lower, (value[..., 0] - lower) / np.where(upper > lower, upper - lower, 1.0), 0.5)
    inside = (upto == below) & (below > 0) & (upto < len(levels))
    low, high = ends[below], ends[np.minimum(upto + 1, len(levels) + 1)]
    shared_high = ends[upto]
    level = np.where(inside, low + share * (high - low), 0.5 * (low + np.where(upto > below, shared_high, high)))
    return np.where(np.isnan(y), np.nan, ndtri(np.clip(level, 1e-3, 1 - 1e-3)))


@dataclass(frozen=True)
class Dependence:
    """How the steps of one forecast hang together.

    Attributes:
        common: c in [0, 1), the part that all steps of a window share.
        carry: φ in [0, 1), what a step hands on to the next.
        pairs: Pairs of steps it was learned from; 0 for the default.
    """

    common: float = _DEFAULT[0]
    carry: float = _DEFAULT[1]
    pairs: int = 0

    @classmethod
    def fit(cls, scores: Sequence[Array]) -> Dependence:
        """Least squares on the correlations at each lag, weighted by their pairs.

        Args:
            scores: Windows of :func:`normal_scores`, each [S, H]; all before whatever the result is used for.

        Returns:
            The default where there are fewer than 200 pairs.
        """
        lags = max((one.shape[1] for one in scores), default=1) - 1
        products, counts = np.zeros(min(lags, _MOST_LAGS)), np.zeros(min(lags, _MOST_LAGS))
        squares, known = 0.0, 0
        for one in scores:
            seen = np.isfinite(one)
            value = np.where(seen, one, 0.0)
            squares, known = squares + float((value**2).sum()), known + int(seen.sum())
            for lag in range(1, min(one.shape[1] - 1, len(products)) + 1):
                products[lag - 1] += float((value[:, lag:] * value[:, :-lag]).sum())
                counts[lag - 1] += int((seen[:, lag:] & seen[:, :-lag]).sum())
        if counts.sum() < _FEWEST_PAIRS or squares <= 0:
            return cls()
        # Divided by the scores' own spread: whether the intervals are too wide is not the question here.
        measured = products / np.maximum(counts, 1) / (squares / known)
        k = np.arange(1, len(measured) + 1)
        model = _COMMON[:, None, None] + (1 - _COMMON[:, None, None]) * _CARRY[None, :, None] ** k
        error = ((model - measured) ** 2 * counts).sum(-1)
        best = np.unravel_index(int(np.argmin(error)), error.shape)
        return cls(float(_COMMON[best[0]]), float(_CARRY[best[1]]), int(counts.sum()))

    def correlation(self, steps: int) -> Array:
        """[steps, steps] the correlation matrix of the normal scores."""
        lag = np.abs(np.subtract.outer(np.arange(steps), np.arange(steps)))
        return np.asarray(self.common + (1 - self.common) * self.carry**lag)


class Sampler:
    """N paths over H steps, the same draws for every series.

    Shared draws make comparisons exact: more lead time is never less demand, and the difference between two
    scenarios holds no noise of its own. They say nothing about how series move together; see :meth:`scattered`.

    Args:
        dependence: How steps hang together.
        steps: H.
        paths: N, a power of two; scrambled Sobol points, which settle quantiles with fewer paths than random draws.
        seed: Of the scrambling.
    """

    def __init__(self, dependence: Dependence, steps: int, *, paths: int = 1024, seed: int = 0) -> None:
        from scipy.special import ndtri
        from scipy.stats import qmc

        if steps < 1 or paths < 2 or paths & (paths - 1):
            raise ValueError(f"steps {steps}, paths {paths}: expected at least 1 step and a power of two of paths")
        self.dependence, self.steps, self.paths, self.seed = dependence, steps, paths, seed
        uniform = qmc.Sobol(steps + 1, scramble=True, rng=seed).random(paths)
        normal = ndtri(np.clip(uniform, 1e-6, 1 - 1e-6))
        self.extra: Array = normal[:, 0]
        """[N] one more standard normal number a path, independent of demand; for lead times."""
        self._normal: Array = normal[:, 1:]

    @cached_property
    def _root(self) -> Array:
        return np.asarray(np.linalg.cholesky(self.dependence.correlation(self.steps) + 1e-9 * np.eye(self.steps)))

    @cached_property
    def levels(self) -> Array:
        """[N, H] the level of each path's demand in each step's distribution."""
        from scipy.special import ndtr

        return np.asarray(ndtr(self._normal @ self._root.T))

    def scattered(self, row: int, shared: float) -> Array:
        """[N, H] levels for one of several series that are to be added up.

        Args:
            row: Which series; it draws its own numbers.
            shared: Correlation between two series at the same step.
        """
        from scipy.special import ndtr

        own = np.random.default_rng((self.seed, row)).standard_normal(self._normal.shape)
        mixed = np.sqrt(shared) * self._normal + np.sqrt(1 - shared) * own
        return np.asarray(ndtr(mixed @ self._root.T))

    def demand(self, forecast: Forecast, *, shared: float | None = None) -> Iterator[tuple[slice, Array]]:
        """Paths of demand, some series at a time.

        Args:
            forecast: S series, at least H steps; the first H are used.
            shared: Correlation between series; None gives all series the same draws.

        Yields:
            A slice of series, and their paths [s, N, H] in the series' units.

        Raises:
            ValueError: The forecast is shorter than H.
        """
        if forecast.horizon < self.steps:
            raise ValueError(f"forecast: {forecast.horizon} steps, {self.steps} are needed")
        size = max(_BLOCK // (self.paths * self.steps), 1)
        for start in range(0, len(forecast), size):
            part = slice(start, min(start + size, len(forecast)))
            quantiles = forecast.quantiles[part, : self.steps]
            if shared is None:
                yield part, _at(quantiles, forecast.levels, self.levels[None])
            else:
                levels = np.stack([self.scattered(row, shared) for row in range(part.start, part.stop)])
                yield part, _at(quantiles, forecast.levels, levels)


def _at(quantiles: Array, stored: Sequence[float], level: Array) -> Array:
    """Values at levels between and beyond the stored ones.

    Below the lowest stored level the value stays; above the highest it grows as an exponential tail would, whose
    scale the two highest give.

    Args:
        quantiles: [s, H, Q].
        stored: Q levels.
        level: [s or 1, N, H].
    """
    levels = np.asarray(stored)
    above = np.clip(np.searchsorted(levels, level), 1, len(levels) - 1)
    weight = np.clip((level - levels[above - 1]) / (levels[above] - levels[above - 1]), 0.0, 1.0)
    rows, steps = np.arange(len(quantiles))[:, None, None], np.arange(quantiles.shape[1])[None, None, :]
    low, high = quantiles[rows, steps, above - 1], quantiles[rows, steps, above]
    value = low + weight * (high - low)
    top = 1 - levels[-1]
    beyond = np.log(np.maximum(top / np.maximum(1 - level, 1e-12), 1.0))
    scale = (quantiles[..., -1] - quantiles[..., -2]) / np.log((1 - levels[-2]) / top)
    return np.asarray(np.maximum(value + beyond * scale[:, None, :], 0.0))
