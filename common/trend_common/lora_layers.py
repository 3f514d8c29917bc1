"""The linear layers of a LoRA, computed in one product instead of three.

peft computes ``x Wᵀ + s · (x Aᵀ) Bᵀ``: next to the large product two thin ones, a scaling and an addition, and all of
them again on the way back. Here it is ``x (W + s · B A)ᵀ``, which is the same number up to rounding: the weights are
few and the rows are many, so that adding ``s · B A`` to W costs less than what it saves. Gradients, for an upstream
gradient g [rows, out] of one unit:

    ∂x = g (W + s · B A)        ∂B = s · gᵀ (x Aᵀ)        ∂A = s · (g B)ᵀ x

The products themselves go to oneDNN where torch's own BLAS is the slower of the two: MKL leaves the AVX-512 of AMD's
processors unused. Which one it is depends on the machine alone, never on a measurement, so that two processes of one
machine give the same bits.

Whatever this does not know (dropout, DoRA, several adapters, hooks on a part, half precision, tracing) is left to
peft's own forward.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final, Protocol

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["LoraLinear", "PerUnit", "by_peft", "multiply", "quicken"]

_FEWEST_ROWS: Final = 8
"""Fewer rows are for torch's own. No batch of eight windows has fewer in any layer, so that a service, which fills
its batches up to eight, gives a window the same bits in whatever company."""


class PerUnit(Protocol):
    """What stands in the place of a trainable layer's forward while gradients are taken for each unit."""

    def units(self, x: Tensor) -> int:
        """Number of units in ``x`` [rows, ..., features], after checking that its rows are the batch's."""
        ...

    def keep(self, parameter: Tensor, gradient: Tensor) -> None:
        """Take [units, *shape] of ``parameter``."""
        ...


@cache
def _onednn() -> Any:
    """oneDNN's product, or None where torch's own is at least as quick."""
    product = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    able = torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    if product is None or not able or not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return None
    info = Path("/proc/cpuinfo")
    vendor = info.read_text("utf-8", errors="replace") if info.is_file() else platform.processor()
    return product if "AuthenticAMD" in vendor else None


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear`` without a gradient of its own, by the quicker of the machine's two libraries.

    Args:
        x: [..., in].
        weight: [out, in], in any memory order.
        bias: [out].

    Returns:
        [..., out].
    """
    product = _onednn()
    usable = product is not None and x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    if not usable or x.numel() < _FEWEST_ROWS * x.shape[-1]:
        return F.linear(x, weight, bias)
    found: Tensor = product(x, weight, bias, "none", [], "")
    return found


class _Product(torch.autograd.Function):
    """``x (W + s · B A)ᵀ + bias`` with gradients for x, A and B; W and the bias are frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scaling: float,
        collectors: tuple[PerUnit | None, PerUnit | None],
        units: int,
    ) -> Tensor:
        merged = torch.addmm(weight, b, a, alpha=scaling)
        ctx.save_for_backward(x, merged)
        ctx.a, ctx.b, ctx.scaling, ctx.collectors, ctx.units = a, b, scaling, collectors, units
        return multiply(x, merged, bias)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, merged = ctx.saved_tensors
        a, b, (for_a, for_b) = ctx.a, ctx.b, ctx.collectors
        back = multiply(grad, merged.t()) if ctx.needs_input_grad[0] else None
        by_unit = grad.reshape(ctx.units, -1, grad.shape[-1])
        inputs = x.reshape(ctx.units, -1, x.shape[-1])
        found: list[Tensor | None] = [None, None]
        if ctx.needs_input_grad[3]:
            found[0] = torch.bmm((by_unit @ (ctx.scaling * b)).transpose(1, 2), inputs)
        if ctx.needs_input_grad[4]:
            # The thin factor first: its transpose is the one that is read along its rows.
            found[1] = torch.bmm((inputs @ (ctx.scaling * a.t())).transpose(1, 2), by_unit).transpose(1, 2)
        for number, (collector, parameter) in enumerate(((for_a, a), (for_b, b))):
            gradient = found[number]
            if gradient is None:
                continue
            if collector is None:
                found[number] = gradient.sum(0)
            else:
                collector.keep(parameter, gradient)
                found[number] = None
        return back, None, None, *found, None, None, None


class LoraLinear(PeftLinear):  # type: ignore[misc]
    """peft's layer with :class:`_Product` for its forward wherever that computes the same."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[..., in] → [..., out]."""
        name = self._single(x) if not args and not kwargs else None
        if name is None:
            other: Tensor = super().forward(x, *args, **kwargs)
            return other
        base, a, b = self.base_layer, self.lora_A[name], self.lora_B[name]
        collectors: tuple[Any, Any] = (None, None)
        units = 1
        if torch.is_grad_enabled():
            collectors = tuple(vars(part).get("forward") for part in (a, b))
            for collector in collectors:
                units = units if collector is None else collector.units(x)
        found: Tensor = _Product.apply(  # type: ignore[no-untyped-call]
            x, base.weight, base.bias, a.weight, b.weight, float(self.scaling[name]), collectors, units
        )
        return found

    def _single(self, x: Tensor) -> str | None:
        """The adapter's name, if there is one and all of it is as :class:`_Product` takes it to be."""
        names = self.active_adapters
        if len(names) != 1 or self.disable_adapters or self.merged or self.fan_in_fan_out or self.lora_variant:
            return None
        name: str = names[0]
        if name not in self.lora_A or type(self.lora_dropout[name]) is not nn.Identity:
            return None
        base, a, b = self.base_layer, self.lora_A[name], self.lora_B[name]
        if type(base) is not nn.Linear or a.bias is not None or b.bias is not None:
            return None
        if base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad):
            return None
        parts: tuple[nn.Linear, ...] = (base, a, b)
        for part in parts:
            # Not a parameter: something differentiates through a copy of the model, such as functorch.
            if type(part) is not nn.Linear or type(part.weight) is not nn.Parameter or _watched(part):
                return None
            if part.weight.dtype != x.dtype or part.weight.device != x.device:
                return None
        if "forward" in vars(base):
            return None
        for part in (a, b):
            replaced = vars(part).get("forward")
            if replaced is not None and not (hasattr(replaced, "units") and hasattr(replaced, "keep")):
                return None
        if (
            torch._C._get_tracing_state() is not None
            or torch.compiler.is_compiling()
            or torch.is_autocast_enabled(x.device.type)
        ):
            return None
        return name


def _watched(module: nn.Module) -> bool:
    """Whether a hook on ``module`` would miss it if it were not called."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def quicken(core: nn.Module) -> None:
    """Let every LoRA on a plain linear layer of ``core`` compute in one product."""
    _swap(core, PeftLinear, LoraLinear)


@contextmanager
def by_peft(core: nn.Module) -> Iterator[None]:
    """Let peft's own forward compute for a while: for checks against it, and for what must see its parts called."""
    quick = _swap(core, LoraLinear, PeftLinear)
    try:
        yield
    finally:
        for module in quick:
            module.__class__ = LoraLinear


def _swap(core: nn.Module, old: type[nn.Module], new: type[nn.Module]) -> list[nn.Module]:
    # The class and not the instance's forward: a copy of the model must compute with its own weights.
    found = [module for module in core.modules() if type(module) is old]
    for module in found:
        module.__class__ = new
    return found
