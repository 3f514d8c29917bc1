"""Does this model do what the privacy assumes? Asked before any sales data is touched, on synthetic inputs.

Three promises rest on the model's architecture and are broken silently by some: a model may swap batch and time
inside attention, fold channels into the batch, or hold an adapter that is never applied. So, with the real model and
the real adapter on the real device:

* the gradient of each series in a batch equals that of the series alone;
* replacing one series leaves the losses and gradients of all the others as they were;
* a few steps move the adapter, and the moved adapter changes the loss.

Batches of two different sizes are used, so that no other dimension can pass for the batch by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from trend_common.errors import PolicyError
from trend_common.lora_layers import by_peft
from trend_common.privacy.per_series import PerSeriesGradients

__all__ = ["SelfTestReport", "run_selftest"]

_UNITS = (3, 5)
_PARITY = 1e-4
_PARITY_HALF = 3e-2
"""Where the frozen core multiplies in half precision, a batch and a single series round differently; what the test is
for, rows that mix, is wrong by about the size of the gradient itself."""
_INDEPENDENCE = 1e-5
_FLOOR = 0.1
"""Part of the whole gradient's norm that is added to a layer's own: a layer whose gradient is a thousandth of the
whole carries float32 rounding of the same size as its neighbours, and is no less right for it."""
_STEPS = 3
_STEP_SIZE = 1e-2


@dataclass(frozen=True)
class SelfTestReport:
    """What was measured.

    Attributes:
        parity: Largest relative difference between a series' gradient in the batch and alone.
        independence: Largest relative change of a series' gradient when another series is replaced.
        moved: max|Δ| over the adapter after a few steps.
    """

    parity: float
    independence: float
    moved: float


def run_selftest(
    model: nn.Module,
    make_batch: Callable[[int], Any],
    windows_per_series: int,
    *,
    tolerance: float | None = None,
) -> SelfTestReport:
    """Check the model on synthetic batches; its weights, flags and mode are as before afterwards.

    Args:
        model: Called as ``model(batch).loss_per_sample`` [rows].
        make_batch: Rows → a new random batch of synthetic windows with targets, on the model's device: a dataclass of
            tensors with the rows first. Two calls must give different inputs.
        windows_per_series: k.
        tolerance: Largest relative difference of gradients; None is 1e-4, and 3e-2 where a part of the model is in
            half precision.

    Raises:
        PolicyError: A promise does not hold. All that do not are named.
    """
    if tolerance is None:
        tolerance = _PARITY_HALF if _half(model) else _PARITY
    with _untouched(model), PerSeriesGradients(model, windows_per_series) as gradients:
        _perturb(gradients.parameters)
        problems: list[str] = []
        parity = independence = 0.0
        for units in _UNITS:
            batch = make_batch(units * windows_per_series)
            losses, together = _by_unit(model, gradients, batch)
            parity = max(parity, _parity(model, gradients, batch, together, problems, tolerance))
            changed = _with_unit_replaced(batch, make_batch(units * windows_per_series), windows_per_series)
            losses_after, after = _by_unit(model, gradients, changed)
            others = slice(windows_per_series, None)
            independence = max(
                independence,
                _difference(losses[others], losses_after[others]),
                *(_largest_difference(together, after, unit) for unit in range(1, units)),
            )
            if _largest_difference(together, after, 0) < _INDEPENDENCE:
                problems.append("replacing a series does not change its own gradient: it does not depend on the data")
        if not independence <= _INDEPENDENCE:
            problems.append(
                f"replacing one series changes what the others contribute (by {independence:.1e} of its size)"
            )
        moved = _moved(model, gradients, make_batch(_UNITS[-1] * windows_per_series), problems)
    if problems:
        raise PolicyError(
            f"The model failed the privacy self-test: {'; '.join(dict.fromkeys(problems))}.",
            "No data was read and nothing was sent. Use a backbone and adapter that pass, or report this one.",
        )
    return SelfTestReport(parity=parity, independence=independence, moved=moved)


def _by_unit(model: nn.Module, gradients: PerSeriesGradients, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses [rows] and per-unit gradients of one batch."""
    rows = _rows(batch)
    gradients.start(rows)
    losses = model(batch).loss_per_sample
    gradients.backward(losses)
    collected = {name: g.detach().clone() for name, g in gradients.collect().items()}
    units = rows // gradients.windows_per_series
    for name, gradient in collected.items():
        if gradient.shape[0] != units:
            raise PolicyError(
                f"The privacy self-test found {gradient.shape[0]} gradients of {name} for {units} series.",
                "The model's batch dimension is not the series.",
            )
    return losses.detach(), collected


def _parity(
    model: nn.Module,
    gradients: PerSeriesGradients,
    batch: Any,
    together: dict[str, Tensor],
    problems: list[str],
    tolerance: float,
) -> float:
    """Compare with autograd, one unit at a time and without our layers."""
    k = gradients.windows_per_series
    worst = 0.0
    gradients.detach()
    try:
        for unit in range(_rows(batch) // k):
            alone = _take(batch, slice(unit * k, (unit + 1) * k))
            parameters = gradients.parameters
            with by_peft(model):
                loss = model(alone).loss_per_sample.mean()
            expected = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            if not bool(torch.isfinite(loss)):
                problems.append("the loss of a synthetic window is not finite")
            truth = {name: g for name, g in zip(parameters, expected, strict=True) if g is not None}
            if not truth or max(float(g.abs().max()) for g in truth.values()) == 0:
                problems.append("a series has no gradient at all")
                continue
            size = float(torch.stack([g.norm() for g in truth.values()]).norm())
            for name, g in truth.items():
                error = float((together[name][unit] - g).norm()) / (float(g.norm()) + _FLOOR * size)
                worst = max(worst, error if error == error else float("inf"))
                if not error <= tolerance:
                    problems.append(f"the gradient of {name} for a series differs from that of the series alone")
    finally:
        gradients.attach()
    return worst


def _moved(model: nn.Module, gradients: PerSeriesGradients, batch: Any, problems: list[str]) -> float:
    """Take a few plain steps; the adapter must move, and the loss must notice."""
    before = {name: p.detach().clone() for name, p in gradients.parameters.items()}
    first, _ = _by_unit(model, gradients, batch)
    for _ in range(_STEPS):
        _, by_unit = _by_unit(model, gradients, batch)
        with torch.no_grad():
            for name, parameter in gradients.parameters.items():
                parameter.sub_(_STEP_SIZE * by_unit[name].mean(dim=0))
    last, _ = _by_unit(model, gradients, batch)
    moved = max(float((p.detach() - before[name]).abs().max()) for name, p in gradients.parameters.items())
    if not moved > 0:
        problems.append("training steps do not move the adapter")
    elif torch.equal(first, last):
        problems.append("the adapter moves but the model's loss does not depend on it")
    return moved


def _half(model: nn.Module) -> bool:
    return any(p.dtype in (torch.bfloat16, torch.float16) for p in model.parameters())


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; trainable weights, gradients and modes put back exactly afterwards."""
    modes = {module: module.training for module in model.modules()}
    saved = {p: (p.detach().clone(), p.grad) for p in model.parameters() if p.requires_grad}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for parameter, (value, gradient) in saved.items():
                parameter.copy_(value)
                parameter.grad = gradient


def _perturb(parameters: dict[str, nn.Parameter]) -> None:
    """Move away from zero: while B = 0 the gradient of A is 0 whatever the model does."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parameters.values():
            noise = torch.randn(parameter.shape, generator=generator) * 0.05
            parameter.add_(noise.to(parameter.device, parameter.dtype))


def _largest_difference(left: dict[str, Tensor], right: dict[str, Tensor], unit: int) -> float:
    return max(_difference(left[name][unit], right[name][unit]) for name in left)


def _difference(left: Tensor, right: Tensor) -> float:
    """‖left − right‖ / ‖left‖; infinity where it is no number."""
    value = float((left - right).norm() / left.norm().clamp_min(1e-12))
    return value if value == value else float("inf")


def _tensors(batch: Any) -> dict[str, Tensor]:
    return {f.name: value for f in fields(batch) if isinstance(value := getattr(batch, f.name), Tensor)}


def _rows(batch: Any) -> int:
    return int(next(iter(_tensors(batch).values())).shape[0])


def _take(batch: Any, rows: slice) -> Any:
    return replace(batch, **{name: value[rows] for name, value in _tensors(batch).items()})


def _with_unit_replaced(batch: Any, other: Any, windows: int) -> Any:
    """``batch`` with the windows of its first unit taken from ``other``."""
    replacements = _tensors(other)
    return replace(
        batch,
        **{
            name: torch.cat([replacements[name][:windows], value[windows:]])
            for name, value in _tensors(batch).items()
        },
    )
