"""Named tensors: hashing, the schema, and int8 with stochastic rounding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trend_common.errors import PolicyError
from trend_common.tensors import (
    INT8_KEY,
    SCALE_KEY,
    TensorSpec,
    check_tensors,
    decode_int8,
    encode_int8,
    tensors_sha256,
    total_norm,
)

FLOATS = st.floats(-1e3, 1e3, width=32)
SCHEMA = (TensorSpec(name="b", shape=(3, 2)), TensorSpec(name="a", shape=(4,)))


class Uniforms:
    """A repeatable source for tests only."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)

    def uniform(self, size: int) -> np.ndarray:
        return self.rng.random(size)


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {spec.name: rng.normal(size=spec.shape).astype(np.float32) for spec in SCHEMA}


def test_the_hash_is_of_names_shapes_and_values() -> None:
    one = tensors()
    assert tensors_sha256(one) == tensors_sha256(dict(reversed(one.items())))
    assert tensors_sha256(one) != tensors_sha256({**one, "a": one["a"].reshape(2, 2)})
    assert tensors_sha256(one) != tensors_sha256({"A" if n == "a" else n: v for n, v in one.items()})
    changed = {**one, "a": np.nextafter(one["a"], np.float32(9))}
    assert tensors_sha256(one) != tensors_sha256(changed)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("a"), "a is missing"),
        (lambda t: t.update(c=np.zeros(1, np.float32)), "c is not in the schema"),
        (lambda t: t.update(a=np.zeros((2, 2), np.float32)), "shape"),
        (lambda t: t.update(a=np.zeros(4, np.float64)), "dtype"),
        (lambda t: t.update(a=np.array([0, 1, np.nan, 2], np.float32)), "not finite"),
        (lambda t: t.update(a=np.array([0, 1, np.inf, 2], np.float32)), "not finite"),
    ],
)
def test_whatever_is_not_in_the_schema_is_refused(change, words: str) -> None:  # type: ignore[no-untyped-def]
    wrong = tensors()
    change(wrong)
    with pytest.raises(PolicyError, match=words):
        check_tensors(wrong, SCHEMA, "the delta")


def test_all_differences_are_named_at_once() -> None:
    with pytest.raises(PolicyError) as caught:
        check_tensors({"c": np.zeros(1, np.float32)}, SCHEMA, "the delta")
    assert all(name in str(caught.value) for name in ("a is missing", "b is missing", "c is not"))


@given(arrays(np.float32, (3, 2), elements=FLOATS), arrays(np.float32, (4,), elements=FLOATS))
def test_int8_is_within_one_level_of_the_value(b: np.ndarray, a: np.ndarray) -> None:
    original = {"a": a, "b": b}
    back = decode_int8(encode_int8(original, Uniforms()), SCHEMA)
    for name, value in original.items():
        level = np.abs(value).max() / 127
        assert np.all(np.abs(back[name] - value) <= level * 1.001 + 1e-6)
        assert back[name].shape == value.shape
        assert back[name].dtype == np.float32


def test_stochastic_rounding_has_the_value_as_its_mean() -> None:
    value = {"a": np.array([0.1, 0.33, -0.77, 1.0], np.float32), "b": np.zeros((3, 2), np.float32)}
    source = Uniforms(1)
    mean = np.mean([decode_int8(encode_int8(value, source), SCHEMA)["a"] for _ in range(4000)], axis=0)
    # One level is 1/127; the mean of 4,000 roundings has a standard error of at most a level / 126.
    np.testing.assert_allclose(mean, value["a"], atol=4 / 127 / 126)
    truncated = np.floor(value["a"] * 127) / 127
    assert not np.allclose(truncated, value["a"], atol=4 / 127 / 126), "the check would not see plain truncation"


def test_a_message_of_another_shape_is_refused() -> None:
    good = encode_int8(tensors(), Uniforms())
    assert {name: value.shape for name, value in good.items()} == {INT8_KEY: (10,), SCALE_KEY: (2,)}
    for wrong in (
        {INT8_KEY: good[INT8_KEY]},
        {**good, INT8_KEY: good[INT8_KEY][:-1]},
        {**good, INT8_KEY: good[INT8_KEY].astype(np.int16)},
        {**good, SCALE_KEY: np.array([1.0, np.nan], np.float32)},
        {**good, SCALE_KEY: np.array([1.0, -1.0], np.float32)},
        {**good, "extra": good[SCALE_KEY]},
    ):
        with pytest.raises(PolicyError):
            decode_int8(wrong, SCHEMA)


def test_the_norm_is_over_everything() -> None:
    assert total_norm({"a": np.array([3.0], np.float32), "b": np.array([[4.0]], np.float32)}) == 5.0
