"""Fixed point: exact sums, honest rounding, and no silent clipping."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trend_common.errors import PolicyError
from trend_common.privacy.noise import SecureGenerator
from trend_common.protocol import SecureAggregationPlan
from trend_common.secagg.fixedpoint import decode, encode
from trend_common.tensors import TensorSpec


def rules(reach: float = 1.0, clients: int = 100) -> SecureAggregationPlan:
    """A plan's rules."""
    return SecureAggregationPlan(min_clients=3, max_clients=clients, threshold=0.5, range=reach)


SCHEMA = (TensorSpec(name="b", shape=(2, 2)), TensorSpec(name="a", shape=(3,)))


@given(
    values=st.lists(hnp.arrays(np.float32, 7, elements=st.floats(-2, 2, width=32)), min_size=1, max_size=6),
    clients=st.sampled_from([6, 100, 10_000]),
)
def test_the_mean_comes_back_within_the_rounding(values: list[np.ndarray], clients: int) -> None:
    """One level up or down for each client at most, and what float32 can hold."""
    scale = rules(2.0, clients)
    total = np.zeros(7, np.uint32)
    for one in values:
        total += encode({"a": one[:3], "b": one[3:].reshape(2, 2)}, scale, SecureGenerator())
    found = decode(total, len(values), SCHEMA, scale)
    mean = np.mean(values, axis=0, dtype=np.float64)
    assert {name: one.shape for name, one in found.items()} == {"a": (3,), "b": (2, 2)}
    flat = np.concatenate([found["a"], found["b"].ravel()])
    np.testing.assert_allclose(flat, mean, rtol=1e-6, atol=1.01 * 2.0 / scale.levels)


@pytest.mark.parametrize("sign", [1, -1])
def test_as_many_extreme_values_as_allowed_do_not_wrap_around(sign: int) -> None:
    scale = rules(0.5, 100)
    one = {"a": np.full(3, sign * 0.5, np.float32), "b": np.full((2, 2), sign * 0.5, np.float32)}
    total = np.zeros(7, np.uint32)
    for _ in range(100):
        total += encode(one, scale, SecureGenerator())
    np.testing.assert_array_equal(decode(total, 100, SCHEMA, scale)["a"], np.float32(sign * 0.5))


def test_rounding_has_the_value_as_its_expectation() -> None:
    scale = rules(1.0, 10_000)
    value = np.float32(0.3 / scale.levels)
    words = encode({"a": np.full(100_000, value, np.float32)}, scale, SecureGenerator())
    assert set(np.unique(words)) == {0, 1}
    assert abs(words.mean() - 0.3) < 0.01  # seven standard deviations of the mean


@pytest.mark.parametrize("bad", [1.0001, -1.5, np.inf, np.nan])
def test_a_value_out_of_range_is_counted_and_refused_rather_than_clipped(bad: float) -> None:
    values = {"a": np.array([0, bad, 1.0], np.float32), "b": np.array([[bad, 0], [0, -1]], np.float32)}
    with pytest.raises(PolicyError, match=r"2 of 7 values are beyond ±1,"):
        encode(values, rules(), SecureGenerator())


def test_a_sum_that_so_few_cannot_send_is_refused() -> None:
    scale = rules(1.0, 100)
    total = np.zeros(7, np.uint32)
    total[3] = 3 * scale.levels
    assert decode(total, 3, SCHEMA, scale)["b"][0, 0] == 1
    total[3] += 1
    with pytest.raises(PolicyError, match="larger than 3 of them can send"):
        decode(total, 3, SCHEMA, scale)
    with pytest.raises(PolicyError, match="shape"):
        decode(total[1:], 3, SCHEMA, scale)
