"""Per-series gradients against autograd on one series at a time, and every model that must be refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trend_common.errors import PolicyError
from trend_common.privacy.per_series import PerSeriesGradients, check_model

Factory = Callable[..., Any]
quick = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def one_at_a_time(model: nn.Module, batch: Any, units: int, k: int) -> dict[str, Tensor]:
    """The truth: each unit alone through ordinary autograd."""
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found: dict[str, list[Tensor]] = {name: [] for name in trainable}
    for unit in range(units):
        loss = model(batch.rows(slice(unit * k, (unit + 1) * k))).loss_per_sample.mean()
        for name, g in zip(trainable, torch.autograd.grad(loss, list(trainable.values())), strict=True):
            found[name].append(g)
    return {name: torch.stack(gs) for name, gs in found.items()}


def by_unit(model: nn.Module, batch: Any, k: int) -> dict[str, Tensor]:
    with PerSeriesGradients(model, k) as gradients:
        gradients.start(len(batch.past))
        gradients.backward(model(batch).loss_per_sample)
        return gradients.collect()


@given(units=st.integers(1, 6), k=st.sampled_from([1, 2, 4]), train=st.sampled_from(["B", "AB"]))
@quick
def test_gradients_are_those_of_each_series_alone(
    units: int, k: int, train: str, make_model: Factory, make_batch: Factory
) -> None:
    model, batch = make_model(train=train), make_batch(units * k)
    found, truth = by_unit(model, batch, k), one_at_a_time(model, batch, units, k)
    assert found.keys() == truth.keys()
    for name in truth:
        torch.testing.assert_close(found[name], truth[name], rtol=1e-4, atol=1e-6)


@given(
    shape=st.lists(st.integers(1, 4), max_size=2), bias=st.booleans(), units=st.integers(1, 4), k=st.integers(1, 3)
)
@quick
def test_any_linear_layer_of_any_rank(shape: list[int], bias: bool, units: int, k: int) -> None:
    layer = nn.Linear(3, 2, bias=bias).double()
    x = torch.randn(units * k, *shape, 3, dtype=torch.float64)
    with PerSeriesGradients(layer, k) as gradients:
        gradients.start(len(x))
        gradients.backward(layer(x).square().flatten(1).sum(dim=1))
        found = gradients.collect()
    for unit in range(units):
        rows = x[unit * k : (unit + 1) * k]
        loss = layer(rows).square().flatten(1).sum(dim=1).mean()
        for name, g in zip(found, torch.autograd.grad(loss, list(layer.parameters())), strict=True):
            torch.testing.assert_close(found[name][unit], g)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
def test_opacus_gives_the_same(make_model: Factory, make_batch: Factory) -> None:
    """Another implementation: Opacus's hooks, window by window, averaged over each series."""
    from opacus.grad_sample import GradSampleModule

    model, batch, k = make_model(), make_batch(8), 2
    ours = by_unit(model, batch, k)
    wrapped = GradSampleModule(copy.deepcopy(model).train(), loss_reduction="sum")
    wrapped(batch).loss_per_sample.sum().backward()
    theirs = {name.removeprefix("_module."): p for name, p in wrapped.named_parameters() if p.requires_grad}
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        expected = theirs[name].grad_sample.unflatten(0, (-1, k)).mean(dim=1)
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_layers_used_twice_and_shared_weights_add_up() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
            self.two.weight = self.one.weight

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.two(torch.tanh(self.one(torch.tanh(self.one(x)))))
            return y.square().sum(dim=1)

    model, x = Twice().double(), torch.randn(4, 3, dtype=torch.float64)
    with PerSeriesGradients(model) as gradients:
        gradients.start(4)
        gradients.backward(model(x))
        found = gradients.collect()
    for row in range(4):
        truth = torch.autograd.grad(model(x[row : row + 1]).sum(), [p for _, p in model.named_parameters()])
        for name, g in zip(found, truth, strict=True):
            torch.testing.assert_close(found[name][row], g)


def test_the_batch_gradient_is_never_formed(make_model: Factory, make_batch: Factory) -> None:
    model = make_model()
    by_unit(model, make_batch(4), 2)
    assert all(p.grad is None for p in model.parameters())


def test_a_batch_does_not_add_to_the_one_before(make_model: Factory, make_batch: Factory) -> None:
    model, batch = make_model(), make_batch(4)
    with PerSeriesGradients(model, 2) as gradients:
        results = []
        for _ in range(2):
            gradients.start(4)
            gradients.backward(model(batch).loss_per_sample)
            results.append(gradients.collect())
    for name in results[0]:
        assert torch.equal(results[0][name], results[1][name])


def test_autocast_leaves_per_unit_gradients_in_float32(make_model: Factory, make_batch: Factory) -> None:
    """In bfloat16 a clipped norm reaches 1.007·C."""
    model, batch = make_model(), make_batch(4)
    exact = by_unit(model, batch, 2)
    with PerSeriesGradients(model, 2) as gradients:
        gradients.start(4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = model(batch).loss_per_sample
        gradients.backward(losses)
        found = gradients.collect()
    for name, gradient in found.items():
        assert gradient.dtype == torch.float32
        assert float((gradient - exact[name]).norm() / exact[name].norm()) < 0.1


def test_detaching_leaves_the_model_as_it_was(make_model: Factory, make_batch: Factory) -> None:
    model, batch = make_model(), make_batch(4)
    before = model(batch).loss_per_sample
    with PerSeriesGradients(model, 2) as gradients:
        with torch.no_grad():
            assert torch.equal(model(batch).loss_per_sample, before), "inference while attached"
        gradients.start(4)
        gradients.backward(model(batch).loss_per_sample)
    assert not any("forward" in vars(module) for module in model.modules())
    assert not any(hasattr(p, "grad_sample") for p in model.parameters())
    assert torch.equal(copy.deepcopy(model)(batch).loss_per_sample, before)
    model(batch).loss_per_sample.sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_an_error_inside_detaches(make_model: Factory) -> None:
    model = make_model()
    with pytest.raises(KeyError), PerSeriesGradients(model):
        raise KeyError
    assert not any("forward" in vars(module) for module in model.modules())


def test_misuse_is_named(make_model: Factory, make_batch: Factory) -> None:
    model = make_model()
    gradients = PerSeriesGradients(model, 2)
    with pytest.raises(RuntimeError, match="attach first"):
        gradients.start(2)
    with gradients:
        with pytest.raises(RuntimeError, match="already"):
            gradients.attach()
        with pytest.raises(PolicyError, match="already replaced"):
            PerSeriesGradients(model, 2).attach()
        with pytest.raises(PolicyError, match="A batch has 3 windows; 2 of each series"):
            gradients.start(3)
        gradients.start(4)
        with pytest.raises(PolicyError, match=r"shape \(\), not \[4\]"):
            gradients.backward(model(make_batch(4)).loss_per_sample.mean())
    gradients.detach()
    with pytest.raises(ValueError, match="must be 1 or more"):
        PerSeriesGradients(model, 0)


class Folding(nn.Module):
    """Folds two channels into the batch, as channel-independent forecasters do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x.flatten(0, 1))
        return y.reshape(x.shape[:2]).square().sum(dim=1)


def test_a_folded_batch_is_refused() -> None:
    """Clipping would be by channel: a series of three channels would move the sum by 3·C."""
    model = Folding()
    with PerSeriesGradients(model) as gradients:
        gradients.start(4)
        with pytest.raises(PolicyError, match="Layer layer sees a leading dimension of 8 where the batch has 4"):
            model(torch.randn(4, 2, 3))


class Behind(nn.Module):
    """Uses a trainable weight without calling its layer, beside a layer that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.behind, self.unused, self.used = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.used(x @ self.behind.weight)
        return y.sum(dim=1)


def test_unused_layers_and_weights_used_behind_a_layer_are_named() -> None:
    model = Behind()
    with PerSeriesGradients(model) as gradients:
        gradients.start(2)
        gradients.backward(model(torch.randn(2, 3)))
        with pytest.raises(PolicyError) as caught:
            gradients.collect()
    assert "unused.weight has no gradient" in caught.value.message
    assert "behind.weight is used outside its layer's forward" in caught.value.message
    assert "used.weight has" not in caught.value.message.replace("unused.weight has", "")


@pytest.mark.parametrize("frozen", [True, False])
def test_batch_normalisation_is_refused_even_when_frozen(frozen: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    model[1].requires_grad_(not frozen)
    with pytest.raises(PolicyError, match="1 is BatchNorm1d, which mixes the series"):
        check_model(model)


def test_all_unsupported_parts_are_named_at_once(make_model: Factory) -> None:
    model = nn.ModuleDict(
        {
            "norm": nn.LayerNorm(3),
            "ids": nn.Embedding(2, 3),
            "short": nn.Linear(3, 3, dtype=torch.bfloat16),
            "good": nn.Linear(3, 3),
        }
    )
    with pytest.raises(PolicyError) as caught:
        PerSeriesGradients(model)
    for part in (
        "norm.weight is trainable in a LayerNorm",
        "ids.weight is trainable",
        "short.weight is torch.bfloat16",
    ):
        assert part in caught.value.message
    assert "good" not in caught.value.message


def test_subclasses_of_linear_are_refused() -> None:
    """Attention's own out_proj is a subclass whose weight is used without its forward."""
    with pytest.raises(PolicyError, match="NonDynamicallyQuantizableLinear"):
        check_model(nn.MultiheadAttention(4, 2))


def test_dora_is_refused(make_model: Factory) -> None:
    with pytest.raises(PolicyError, match="lora_magnitude_vector"):
        PerSeriesGradients(make_model(dora=True))


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(PolicyError, match="no parameter is trainable"):
        PerSeriesGradients(nn.Linear(2, 2).requires_grad_(False))
