"""Aggregations and optimisers against their definitions and against torch."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import trim_mean

from trend_common.errors import UsageError
from trend_common.tensors import TensorSpec
from trend_server.strategy import AGGREGATIONS, Adam, Plain, Sgd, make_aggregator, make_optimiser

SCHEMA = (TensorSpec(name="w", shape=(2, 3)), TensorSpec(name="b", shape=(3,)))
rows = hnp.arrays(np.float32, st.tuples(st.integers(1, 9), st.just(9)), elements=st.floats(-100, 100, width=32))


def as_tensors(row: np.ndarray) -> dict[str, np.ndarray]:
    """Nine numbers as the two tensors of the schema."""
    return {"w": row[:6].reshape(2, 3), "b": row[6:]}


def aggregate(name: str, values: np.ndarray, **options: float) -> np.ndarray:
    """The aggregate of rows, as nine numbers."""
    aggregator = make_aggregator(name, SCHEMA, **options)
    for row in values:
        aggregator.add(as_tensors(row))
    result = aggregator.result()
    assert {k: v.dtype for k, v in result.items()} == {"w": np.float32, "b": np.float32}
    return np.concatenate([result["w"].reshape(-1), result["b"]])


@given(rows)
def test_mean_and_median_are_numpy_s(values: np.ndarray) -> None:
    np.testing.assert_allclose(aggregate("mean", values), values.mean(0, dtype=np.float64), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(aggregate("median", values), np.median(values, 0), rtol=1e-6)


@given(rows)
def test_trimmed_mean_is_scipy_s(values: np.ndarray) -> None:
    cut = 0.34 if len(values) >= 3 else 0.0
    np.testing.assert_allclose(
        aggregate("trimmed-mean", values, trim=cut),
        trim_mean(values.astype(float), cut, axis=0),
        rtol=1e-4,
        atol=1e-4,
    )


@given(rows, st.sampled_from(AGGREGATIONS), st.randoms())
def test_the_order_of_the_clients_does_not_matter(values: np.ndarray, name: str, random: object) -> None:
    order = list(range(len(values)))
    random.shuffle(order)  # type: ignore[attr-defined]
    np.testing.assert_allclose(aggregate(name, values), aggregate(name, values[order]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["median", "trimmed-mean"])
def test_one_liar_among_five_cannot_move_a_robust_aggregate_far(name: str) -> None:
    honest = np.random.default_rng(1).normal(size=(4, 9)).astype(np.float32)
    lied = np.vstack([honest, np.full((1, 9), 1e6, np.float32)])
    assert np.abs(aggregate(name, lied)).max() <= np.abs(honest).max()
    assert np.abs(aggregate("mean", lied)).max() > 1e5


def test_the_mean_s_memory_does_not_grow_with_the_clients() -> None:
    schema = (TensorSpec(name="w", shape=(10_000,)),)
    tensors = {"w": np.ones(10_000, np.float32)}
    peaks = []
    for clients in (10, 1000):
        aggregator = make_aggregator("mean", schema)
        tracemalloc.start()
        for _ in range(clients):
            aggregator.add(tensors)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 100_000


def test_nothing_cannot_be_aggregated_and_names_are_checked() -> None:
    with pytest.raises(ValueError, match="nothing"):
        make_aggregator("mean", SCHEMA).result()
    with pytest.raises(UsageError, match="krum"):
        make_aggregator("krum", SCHEMA)
    with pytest.raises(UsageError, match="trim"):
        make_aggregator("trimmed-mean", SCHEMA, trim=0.5)
    with pytest.raises(UsageError, match="lamb"):
        make_optimiser("lamb", 0.1)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_steps_are_torch_s(name: str) -> None:
    import torch

    start = np.random.default_rng(2).normal(size=6).astype(np.float32)
    parameter = torch.nn.Parameter(torch.tensor(start.copy()))
    theirs = torch.optim.Adam([parameter], lr=0.01, betas=(0.9, 0.99)) if name == "adam" else None
    theirs = theirs or torch.optim.SGD([parameter], lr=0.01)
    ours = make_optimiser(name, 0.01)
    value = {"w": start}
    for step in range(5):
        gradient = np.random.default_rng(step).normal(size=6).astype(np.float32)
        parameter.grad = torch.tensor(gradient)
        theirs.step()
        value = ours.step(value, {"w": gradient})
    np.testing.assert_allclose(value["w"], parameter.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_momentum_is_torch_s() -> None:
    import torch

    parameter = torch.nn.Parameter(torch.zeros(2))
    theirs, ours, value = (
        torch.optim.SGD([parameter], lr=0.1, momentum=0.5),
        Sgd(0.1, 0.5),
        {"w": np.zeros(2, np.float32)},
    )
    for _ in range(3):
        parameter.grad = torch.ones(2)
        theirs.step()
        value = ours.step(value, {"w": np.ones(2, np.float32)})
    np.testing.assert_allclose(value["w"], parameter.detach().numpy(), rtol=1e-6)


def test_an_optimiser_goes_on_from_its_state() -> None:
    gradients = [np.random.default_rng(i).normal(size=3).astype(np.float32) for i in range(6)]
    whole, value = Adam(0.1), {"w": np.zeros(3, np.float32)}
    for gradient in gradients:
        value = whole.step(value, {"w": gradient})
    first, half = Adam(0.1), {"w": np.zeros(3, np.float32)}
    for gradient in gradients[:3]:
        half = first.step(half, {"w": gradient})
    second = Adam(0.1)
    second.state, second.steps = dict(first.state), first.steps
    for gradient in gradients[3:]:
        half = second.step(half, {"w": gradient})
    np.testing.assert_array_equal(value["w"], half["w"])


def test_plain_applies_the_change_as_it_is() -> None:
    out = Plain().step({"w": np.ones(2, np.float32)}, {"w": np.full(2, -0.5, np.float32)})
    np.testing.assert_array_equal(out["w"], np.full(2, 1.5, np.float32))
