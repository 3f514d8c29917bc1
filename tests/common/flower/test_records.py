"""A message survives the trip as it was, and nothing but a message does."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trend_common.errors import PolicyError
from trend_common.flower.records import pack, tensors_from_bytes, tensors_to_bytes, unpack
from trend_common.protocol import AdoptReply, DescribeReply, TrainReply

TRAIN = TrainReply(answer="delta", federation="f", round=3)

tensors = st.dictionaries(
    st.text("abcXYZ._0", min_size=1, max_size=12),
    st.one_of(
        hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=4), elements=st.floats(-1e6, 1e6, width=32)),
        hnp.arrays(np.int8, hnp.array_shapes(max_dims=2, max_side=4)),
    ),
    max_size=4,
)


@given(tensors)
def test_tensors_come_back_bit_by_bit(values: dict[str, np.ndarray]) -> None:
    body, found = unpack(pack(TRAIN, values), TrainReply, tensors=True)
    assert body == TRAIN
    assert set(found) == set(values)
    for name, value in values.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


@given(tensors)
def test_the_same_tensors_give_the_same_bytes(values: dict[str, np.ndarray]) -> None:
    reordered = dict(reversed(list(values.items())))
    assert tensors_to_bytes(values) == tensors_to_bytes(reordered)


def test_sealed_bytes_travel_as_they_are() -> None:
    data = tensors_to_bytes({"a": np.ones(3, np.float32)})
    _, found = unpack(pack(TRAIN, data), TrainReply, tensors=True)
    np.testing.assert_array_equal(found["a"], np.ones(3, np.float32))


def test_a_body_without_tensors() -> None:
    body, found = unpack(pack(DescribeReply(answer="declined")), DescribeReply, tensors=False)
    assert body.answer == "declined"
    assert found == {}


def test_tensors_where_none_belong_and_none_where_some_do() -> None:
    with_tensors = pack(AdoptReply(), {"a": np.ones(1, np.float32)})
    with pytest.raises(PolicyError, match="holds"):
        unpack(with_tensors, AdoptReply, tensors=False)
    with pytest.raises(PolicyError, match="holds"):
        unpack(pack(AdoptReply()), AdoptReply, tensors=True)


@pytest.mark.parametrize(
    "extra",
    [
        {"metrics": MetricRecord({"num-examples": 120})},
        {"more": ConfigRecord({"name": "shop"})},
        {"arrays": ArrayRecord({"w": Array(np.ones(2, np.float32))})},
    ],
)
def test_a_second_record_is_refused(extra: dict[str, object]) -> None:
    content = pack(TRAIN, {"a": np.ones(1, np.float32)})
    for name, record in extra.items():
        content[name] = record
    with pytest.raises(PolicyError, match="one record"):
        unpack(content, TrainReply, tensors=True)


def test_a_second_entry_in_the_body_is_refused() -> None:
    content = pack(TRAIN, {"a": np.ones(1, np.float32)})
    content["body"]["num-examples"] = 120
    with pytest.raises(PolicyError, match="num-examples"):
        unpack(content, TrainReply, tensors=True)


@pytest.mark.parametrize("data", [b"", b"\x00" * 8, b"\xff" * 40, b"PK\x03\x04" + b"0" * 100, "text", 7])
def test_what_is_not_a_file_of_tensors_is_refused(data: object) -> None:
    content = RecordDict({"body": ConfigRecord({"body": TRAIN.canonical(), "tensors": data})})
    with pytest.raises(PolicyError):
        unpack(content, TrainReply, tensors=True)


def test_other_dtypes_do_not_travel() -> None:
    with pytest.raises(PolicyError, match="float64"):
        tensors_to_bytes({"a": np.ones(2)})
    from safetensors.numpy import save

    with pytest.raises(PolicyError, match="int64"):
        tensors_from_bytes(save({"a": np.ones(2, np.int64)}))


def test_another_message_is_refused() -> None:
    with pytest.raises(PolicyError, match="not a valid TrainReply"):
        unpack(pack(AdoptReply()), TrainReply, tensors=False)


def test_an_empty_record_is_refused() -> None:
    with pytest.raises(PolicyError, match="one record"):
        unpack(RecordDict(), AdoptReply, tensors=False)
