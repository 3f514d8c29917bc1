"""A LoRA's layers in one product: peft's numbers and gradients, and whatever is not plain is left to peft."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn

from trend_common.lora_layers import LoraLinear, by_peft, multiply, quicken
from trend_common.privacy.per_series import PerSeriesGradients

quick = settings(max_examples=20, deadline=None)


def model_of(
    *, train: str = "AB", wide: int = 6, out: int = 5, bias: bool = True, double: bool = True, **config: Any
) -> nn.Module:
    torch.manual_seed(3)
    base = nn.Sequential(nn.Linear(wide, out, bias=bias), nn.GELU(), nn.Linear(out, 4))
    asked = LoraConfig(r=2, lora_alpha=6, target_modules=["0", "2"], **config)
    model: nn.Module = get_peft_model(base, asked)  # type: ignore[arg-type, unused-ignore]
    model = model.double() if double else model
    for name, value in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(value, std=0.3)
        value.requires_grad_("lora_B" in name or (train == "AB" and "lora_A" in name))
    quicken(model)
    return model.eval()


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Of a sum of squares, for everything that is trained and for the input."""
    model.zero_grad()
    own = x.clone().requires_grad_()
    out = model(own)
    out.square().sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert own.grad is not None
    return {**found, "input": own.grad, "output": out.detach()}


@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3), train=st.sampled_from(["B", "AB"]), bias=st.booleans()
)
@quick
def test_numbers_and_gradients_are_pefts(shape: list[int], train: str, bias: bool) -> None:
    model = model_of(train=train, bias=bias)
    x = torch.randn(*shape, 6, dtype=torch.float64)
    ours = gradients(model, x)
    with by_peft(model):
        theirs = gradients(model, x)
    assert ours.keys() == theirs.keys()
    assert any("lora_B" in name for name in ours)
    assert any("lora_A" in name for name in ours) == (train == "AB")
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value)


@given(units=st.integers(1, 5), k=st.integers(1, 3), tokens=st.integers(1, 4), train=st.sampled_from(["B", "AB"]))
@quick
def test_a_units_gradient_is_that_of_the_unit_alone_by_peft(units: int, k: int, tokens: int, train: str) -> None:
    model = model_of(train=train)
    x = torch.randn(units * k, tokens, 6, dtype=torch.float64)
    with PerSeriesGradients(model, k) as by_hand:
        by_hand.start(len(x))
        by_hand.backward(model(x).square().flatten(1).sum(1))
        found = by_hand.collect()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert found.keys() == trained.keys()
    for unit in range(units):
        with by_peft(model):
            loss = model(x[unit * k : (unit + 1) * k]).square().flatten(1).sum(1).mean()
        for name, value in zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True):
            torch.testing.assert_close(found[name][unit], value)


@given(rows=st.integers(1, 300), wide=st.integers(1, 40), out=st.integers(1, 40), seed=st.integers(0, 2**31 - 1))
@quick
def test_either_library_multiplies_in_float32(rows: int, wide: int, out: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    x, weight, bias = (torch.randn(*shape, generator=draw) for shape in ((rows, wide), (out, wide), (out,)))
    exact = x.double() @ weight.double().t()
    torch.testing.assert_close(multiply(x, weight), exact.float(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(multiply(x, weight, bias), (exact + bias).float(), rtol=1e-5, atol=1e-4)
    # As on the way back: a transposed weight, and a gradient that is not laid out along its rows.
    turned = torch.randn(out, rows, generator=draw).t()
    torch.testing.assert_close(multiply(turned, weight.t()), turned.contiguous() @ weight, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("tokens", [1, 3, 21])
def test_eight_windows_get_the_same_bits_in_whatever_company(tokens: int) -> None:
    draw = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(128, 96, generator=draw), torch.randn(128, generator=draw)
    windows = torch.randn(64, tokens, 96, generator=draw)
    together = multiply(windows, weight, bias)
    for several in (8, 16, 40):
        assert torch.equal(multiply(windows[:several].clone(), weight, bias), together[:several])


def test_the_thin_products_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of()
    monkeypatch.setattr(PeftLinear, "forward", lambda *_, **__: pytest.fail("peft's forward was called"))
    assert gradients(model, torch.randn(3, 6, dtype=torch.float64))


def test_a_copy_computes_with_its_own_weights() -> None:
    model, x = model_of(), torch.randn(3, 6, dtype=torch.float64)
    before = model(x).detach()
    other = copy.deepcopy(model)
    with torch.no_grad():
        for value in other.parameters():
            value.zero_()
    torch.testing.assert_close(model(x).detach(), before, rtol=0, atol=0)
    assert not other(x).any()


def hooked(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if type(module) is nn.Linear:
            module.register_forward_hook(lambda *_: None)
    return model


@pytest.mark.parametrize(
    "make",
    [
        lambda: model_of(lora_dropout=0.5).train(),
        lambda: model_of(use_dora=True),
        lambda: model_of(lora_bias=True),
        lambda: hooked(model_of()),
    ],
    ids=["dropout", "dora", "bias", "hooks"],
)
def test_what_is_not_plain_is_left_to_peft(make: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    model, theirs, called = make(), PeftLinear.forward, []

    def counted(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        called.append(self)
        found: Tensor = theirs(self, x, *args, **kwargs)
        return found

    monkeypatch.setattr(PeftLinear, "forward", counted)
    model(torch.randn(3, 6, dtype=torch.float64))
    assert len(called) == 2


def test_a_base_weight_that_is_trained_gets_its_gradient() -> None:
    model = model_of()
    for value in model.parameters():
        value.requires_grad_()
    found = gradients(model, torch.randn(3, 6, dtype=torch.float64))
    assert {name for name, _ in model.named_parameters()} <= found.keys()


def test_mixed_precision_is_left_to_torch() -> None:
    model = model_of(double=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(torch.randn(3, 6)).dtype == torch.bfloat16


def test_pefts_own_forward_is_back_afterwards_even_after_an_error() -> None:
    model = model_of()
    layers = [module for module in model.modules() if isinstance(module, LoraLinear)]
    assert layers

    def fail() -> None:
        with by_peft(model):
            assert {type(module) for module in layers} == {PeftLinear}
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert {type(module) for module in layers} == {LoraLinear}
