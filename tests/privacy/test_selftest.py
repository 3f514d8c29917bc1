"""The self-test passes a sound model untouched and catches each silent way of being wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trend_common.errors import PolicyError
from trend_common.privacy.selftest import run_selftest

Factory = Callable[..., Any]


@pytest.mark.parametrize("train", ["B", "AB"])
@pytest.mark.parametrize("k", [1, 4])
def test_a_sound_model_passes(train: str, k: int, make_model: Factory, make_batch: Factory) -> None:
    report = run_selftest(make_model(train=train), make_batch, k)
    assert report.parity < 1e-4
    assert report.independence < 1e-6
    assert report.moved > 0


def test_the_model_is_as_it_was(make_model: Factory, make_batch: Factory) -> None:
    model = make_model().train()
    model.get_submodule("base_model.model.norm").eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rng = torch.get_rng_state()
    run_selftest(model, make_batch, 2)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any("forward" in vars(module) for module in model.modules())
    assert torch.equal(torch.get_rng_state(), rng)


def test_a_failed_model_is_as_it_was_too(make_model: Factory, make_batch: Factory) -> None:
    model = make_model(mix_rows=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(PolicyError):
        run_selftest(model, make_batch, 2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_attention_across_the_batch_is_caught(make_model: Factory, make_batch: Factory) -> None:
    """Silently wrong elsewhere: a group attention that swaps batch and time."""
    # Every layer of the adapter sees the right leading dimension, so only the comparisons can tell.
    with pytest.raises(
        PolicyError, match=r"differs from that of the series alone.*changes what the others contribute"
    ):
        run_selftest(make_model(mix_rows=True), make_batch, 1)


@dataclasses.dataclass(frozen=True)
class Rows:
    x: Tensor


@dataclasses.dataclass(frozen=True)
class Output:
    loss_per_sample: Tensor


class Broken(nn.Module):
    """One linear layer; ``fault`` names what is wrong with it."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.layer = nn.Linear(3, 2)

    def forward(self, batch: Rows) -> Output:
        x = batch.x
        if self.fault == "centred over the batch":
            x = x - x.mean(dim=0)
        if self.fault == "wrong rows":
            x = x.roll(1, dims=0)
        y: Tensor = self.layer(torch.cat([x, x]))[: len(x)] if self.fault == "folds" else self.layer(x)
        if self.fault == "ignores the adapter":
            y = y * 0 + x[:, :2]
        if self.fault == "ignores the data":
            y = self.layer(torch.ones_like(x))
        losses = y.square().sum(dim=1)
        if self.fault == "not finite":
            losses = losses / 0
        return Output(losses.mean() if self.fault == "one loss" else losses)


def rows(n: int) -> Rows:
    return Rows(torch.randn(n, 3))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("centred over the batch", "differs from that of the series alone"),
        ("centred over the batch", "changes what the others contribute"),
        ("folds", "leading dimension of 12 where the batch has 6"),
        ("wrong rows", "differs from that of the series alone"),
        ("ignores the adapter", "no gradient at all"),
        ("ignores the adapter", "do not move the adapter"),
        ("ignores the data", "does not depend on the data"),
        ("not finite", "not finite"),
        ("one loss", "one number a window"),
    ],
)
def test_each_fault_is_named(fault: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message) as caught:
        run_selftest(Broken(fault), rows, 2)
    assert caught.value.exit_code == 4


def test_the_same_layer_without_a_fault_passes() -> None:
    run_selftest(Broken("none"), rows, 2)


def test_an_adapter_that_is_never_applied_is_caught(make_model: Factory, make_batch: Factory) -> None:
    model = make_model()
    model.disable_adapter_layers()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    with pytest.raises(PolicyError, match="its layer is never used"):
        run_selftest(model, make_batch, 2)


def test_dropout_does_not_disturb_it(make_batch: Factory) -> None:
    class Dropping(Broken):
        def forward(self, batch: Rows) -> Output:
            return super().forward(Rows(nn.functional.dropout(batch.x, training=self.training)))

    run_selftest(Dropping("none").train(), rows, 2)
