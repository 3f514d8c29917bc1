"""Poisson sampling: each unit by itself with probability q, whatever the size of the batch becomes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from trend_common.privacy.noise import SecureGenerator
from trend_common.privacy.sampling import poisson_sample

generator = SecureGenerator()


@given(n=st.integers(0, 200), q=st.floats(1e-6, 1))
@settings(max_examples=60, deadline=None)
def test_indices_are_distinct_ascending_and_in_range(n: int, q: float) -> None:
    chosen = poisson_sample(n, q, generator)
    assert chosen.dtype == np.int64
    assert (np.diff(chosen) > 0).all()
    assert ((chosen >= 0) & (chosen < n)).all()


def test_q_of_one_takes_every_unit() -> None:
    assert poisson_sample(7, 1.0, generator).tolist() == list(range(7))


def test_sizes_are_binomial_and_not_fixed() -> None:
    """A fixed size is another mechanism with another ε; N = 10 makes empty batches frequent enough to be seen."""
    sizes = np.array([len(poisson_sample(10, 0.3, generator)) for _ in range(4000)])
    counts = np.bincount(sizes, minlength=11)
    expected = stats.binom.pmf(np.arange(11), 10, 0.3) * len(sizes)
    pooled = expected > 5
    assert (
        stats.chisquare([*counts[pooled], counts[~pooled].sum()], [*expected[pooled], expected[~pooled].sum()]).pvalue
        > 1e-6
    )
    assert counts[0] > 0, "an empty batch must be possible"


def test_units_take_part_independently() -> None:
    taken = np.zeros((4000, 5))
    for row in taken:
        row[poisson_sample(5, 0.4, generator)] = 1
    assert np.abs(taken.mean(axis=0) - 0.4).max() < 6 * np.sqrt(0.24 / len(taken))
    correlation = np.corrcoef(taken.T) - np.eye(5)
    assert np.abs(correlation).max() < 6 / np.sqrt(len(taken))


@pytest.mark.parametrize(("n", "q"), [(5, 0.0), (5, 1.1), (5, float("nan")), (-1, 0.5)])
def test_senseless_parameters_are_refused(n: int, q: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        poisson_sample(n, q, generator)
