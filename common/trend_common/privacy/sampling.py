"""Which units take part in a step: Poisson sampling, the sampling that the accountant assumes.

Each unit takes part with probability q, independently of all others and of earlier steps. The size of the batch is
therefore random, and 0 now and then; an empty batch still takes its noise step. Batches of a fixed size or from a
shuffle are another mechanism: accounted as Poisson they under-report ε up to fourfold (Chua et al. 2024,
arXiv:2403.17673).

>>> from trend_common.privacy.noise import SecureGenerator
>>> poisson_sample(5, 1.0, SecureGenerator())
array([0, 1, 2, 3, 4])
>>> 800 < len(poisson_sample(10_000, 0.1, SecureGenerator())) < 1200
True
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trend_common.tensors import UniformSource

__all__ = ["poisson_sample"]


def poisson_sample(n_units: int, q: float, generator: UniformSource) -> NDArray[np.int64]:
    """The indices of the units of one step, ascending.

    Args:
        n_units: Number of units, N.
        q: Probability of each; 1 takes all.
        generator: Secret randomness; the saving by sampling holds only while nobody learns who was drawn.

    Raises:
        ValueError: q is not in (0, 1] or ``n_units`` is negative.
    """
    if not 0 < q <= 1:
        raise ValueError(f"q is {q}; it must be in (0, 1]")
    if n_units < 0:
        raise ValueError(f"n_units is {n_units}; it must be 0 or more")
    if q == 1:
        return np.arange(n_units, dtype=np.int64)
    return np.flatnonzero(generator.uniform(n_units) < q).astype(np.int64)
