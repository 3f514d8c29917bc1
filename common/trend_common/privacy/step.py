"""Clip, sum, add noise: the functions that turn private series into the only numbers that may leave.

One noised gradient over the units of a Poisson sample S (Abadi et al. 2016, arXiv:1607.00133):

    ( Σ_{u ∈ S} g_u · min(1, C / ‖g_u‖) + N(0, σ²C²·I) ) / expected_batch

g_u is the gradient of unit u over all trainable parameters together, ‖·‖ its Euclidean norm, and ``expected_batch`` a
public number. Adding or removing one unit moves the sum by at most C, whatever the unit holds: a unit whose gradient
is not finite counts as zero, since one NaN in a released sum would show that the unit is there.

Clipping is Opacus's ``DPOptimizer``, on float64 copies on the CPU, so that no clipped gradient is longer than C but
for the last of 53 bits; the noise is :class:`~trend_common.privacy.noise.SecureGenerator`'s and is added in float64.
The noised sum is rounded to a public grid and then, once, to float32. Copies are cheap: the per-unit gradients of a
LoRA are small. What float32 leaves in the forward and backward pass before that is in ``docs/privacy.md``.

What is returned is noised. How many units were drawn or clipped, losses and norms are not returned; for the client's
own screen there is :class:`LocalDiagnostics`, which has no way to the wire.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trend_common.privacy.noise import SecureGenerator
from trend_common.privacy.per_series import PerSeriesGradients
from trend_common.privacy.sampling import poisson_sample
from trend_common.protocol import BucketPlan
from trend_common.tensors import Tensors

__all__ = ["LocalDiagnostics", "Losses", "private_gradient", "private_update"]

Losses = Callable[[NDArray[np.int64]], Tensor]
"""Unit indices [n] → losses [n · k] by the model under training, k windows of a unit side by side."""

_GRID_BITS: Final = 24
"""As many digits as a float32 has: the rounding changes nothing that training could notice."""


@dataclass
class LocalDiagnostics:
    """Private figures for the client's own screen. NEVER SENT, stored or logged: they carry no noise.

    Attributes:
        units: Units that were drawn, over all steps.
        clipped: How many of them had a gradient longer than C.
        not_finite: How many had a gradient that was not finite and so counted as zero.
    """

    units: int = 0
    clipped: int = 0
    not_finite: int = 0

    @property
    def clipped_fraction(self) -> float:
        """Share of the drawn units that were clipped; 0 if none was drawn."""
        return self.clipped / self.units if self.units else 0.0


def private_gradient(
    model: nn.Module,
    losses: Losses,
    *,
    n_units: int,
    windows_per_series: int,
    bucket: BucketPlan,
    clip: float,
    generator: SecureGenerator,
    chunk: int = 64,
    diagnostics: LocalDiagnostics | None = None,
) -> Tensors:
    """One noised mean gradient; costs one step of ``bucket`` in the ledger.

    Args:
        model: With trainable parameters in ``nn.Linear`` layers only; its weights are not changed.
        losses: Draws the windows of the given units and returns the loss of each window.
        n_units: Number of units of this client. Private: it decides who can be drawn and nothing else.
        windows_per_series: k.
        bucket: q, σ and the public denominator.
        clip: C.
        generator: Sampling and noise.
        chunk: Units in one forward and backward pass; bounds memory and changes nothing else.
        diagnostics: Receives private figures for the client's own screen.

    Returns:
        Name → float32 array of each trainable parameter. An empty sample gives pure noise, not nothing.

    Raises:
        PolicyError: The model cannot be differentiated by unit.
        ValueError: C, q, the chunk or the number of units is out of range.
    """
    _check(clip=clip, chunk=chunk, n_units=n_units, windows_per_series=windows_per_series)
    with PerSeriesGradients(model, windows_per_series) as gradients:
        chosen = poisson_sample(n_units, bucket.q, generator)
        return _noised(gradients, losses, chosen, bucket, clip, generator, chunk, diagnostics)


def private_update(
    model: nn.Module,
    losses: Losses,
    *,
    steps: int,
    learning_rate: float,
    proximal_mu: float = 0.0,
    n_units: int,
    windows_per_series: int,
    bucket: BucketPlan,
    clip: float,
    generator: SecureGenerator,
    chunk: int = 64,
    diagnostics: LocalDiagnostics | None = None,
) -> Tensors:
    """The change of the weights after ``steps`` of DP-SGD; costs as many steps of ``bucket`` in the ledger.

    Each step draws its own sample and its own noise, and is plain SGD: no momentum or other state from elsewhere. The
    proximal pull towards the start (FedProx) is taken from the noised weights alone, so it costs nothing.

    Args:
        steps: Local steps, S.
        learning_rate: Of each step.
        proximal_mu: μ of FedProx; 0 is FedAvg.
        model, losses, n_units, windows_per_series, bucket, clip, generator, chunk, diagnostics: As in
            :func:`private_gradient`; the model's weights are put back before this returns.

    Returns:
        Name → float32 array: weights after minus weights before.

    Raises:
        PolicyError, ValueError: As :func:`private_gradient`.
    """
    _check(clip=clip, chunk=chunk, n_units=n_units, windows_per_series=windows_per_series)
    if steps < 1:
        raise ValueError(f"steps is {steps}; it must be 1 or more")
    with PerSeriesGradients(model, windows_per_series) as gradients:
        parameters = gradients.parameters
        start = {name: p.detach().clone() for name, p in parameters.items()}
        try:
            for _ in range(steps):
                chosen = poisson_sample(n_units, bucket.q, generator)
                noised = _noised(gradients, losses, chosen, bucket, clip, generator, chunk, diagnostics)
                with torch.no_grad():
                    for name, parameter in parameters.items():
                        step = torch.from_numpy(noised[name]).to(parameter.device, parameter.dtype)
                        parameter.sub_(learning_rate * (step + proximal_mu * (parameter - start[name])))
            return {
                name: (p.detach() - start[name]).to("cpu", torch.float32).numpy() for name, p in parameters.items()
            }
        finally:
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(start[name])


def _noised(
    gradients: PerSeriesGradients,
    losses: Losses,
    chosen: NDArray[np.int64],
    bucket: BucketPlan,
    clip: float,
    generator: SecureGenerator,
    chunk: int,
    diagnostics: LocalDiagnostics | None,
) -> Tensors:
    """Clip the gradients of the ``chosen`` units chunk by chunk, sum them, add noise once."""
    parameters = gradients.parameters
    sizes = [p.numel() for p in parameters.values()]
    # One vector for all parameters: the norm is over all of them, and so it is seen that it is.
    flat = nn.Parameter(torch.zeros(sum(sizes), dtype=torch.float64))
    optimizer = _secure_optimizer()(
        torch.optim.SGD([flat], lr=0.0),
        noise_multiplier=bucket.noise_multiplier,
        max_grad_norm=clip,
        expected_batch_size=bucket.expected_batch,
        source=generator,
    )
    # The elements' order within a parameter is the same for all units, and put right once at the end.
    turned = dict.fromkeys(parameters, False)
    # A first chunk of no units makes the sum exist, so that an empty sample takes its noise like any other.
    flat.grad_sample = torch.zeros(0, len(flat), dtype=torch.float64)  # type: ignore[attr-defined]
    optimizer.clip_and_accumulate()
    for begin in range(0, len(chosen), chunk):
        units = chosen[begin : begin + chunk]
        gradients.start(len(units) * gradients.windows_per_series)
        gradients.backward(losses(units))
        collected = gradients.collect()
        if begin == 0:
            turned = {name: _lies_turned(gradient) for name, gradient in collected.items()}
        by_unit = torch.cat([_rows(collected[name].detach(), turned[name]) for name in parameters], dim=1)
        by_unit = by_unit.to("cpu", torch.float64)
        _drop_not_finite(by_unit, clip, diagnostics)
        flat.grad_sample = by_unit  # type: ignore[attr-defined]
        optimizer.clip_and_accumulate()
    optimizer.add_noise()
    assert flat.grad is not None
    flat.grad = _on_grid(flat.grad, bucket.noise_multiplier * clip)
    optimizer.scale_grad()
    parts = np.split(flat.grad.to(torch.float32).numpy(), np.cumsum(sizes)[:-1])
    return {
        name: np.ascontiguousarray(part.reshape(p.shape[::-1]).T) if turned[name] else part.reshape(p.shape)
        for (name, p), part in zip(parameters.items(), parts, strict=True)
    }


def _rows(gradient: Tensor, turned: bool) -> Tensor:
    """[units, *shape] → [units, elements], those of a ``turned`` one column by column."""
    return (gradient.transpose(1, 2) if turned else gradient).flatten(1)


def _lies_turned(gradient: Tensor) -> bool:
    """Whether the matrix of each unit lies in memory column by column, as a product leaves it."""
    return gradient.dim() == 3 and not gradient.is_contiguous() and gradient.transpose(1, 2).is_contiguous()


def _on_grid(noised: Tensor, deviation: float) -> Tensor:
    """Noised sums as multiples of a public power of two, about 2⁻²⁴ of the noise's standard ``deviation``.

    A float64 near zero shows more digits of the sum and the noise that made it than a larger one does. Rounded, every
    value that can leave stands for some 2²⁸ floating-point sums, near zero as elsewhere. Post-processing: no cost.
    """
    if deviation == 0:
        return noised
    grid = 2.0 ** (math.floor(math.log2(deviation)) - _GRID_BITS)
    return torch.round(noised / grid) * grid


def _drop_not_finite(by_unit: Tensor, clip: float, diagnostics: LocalDiagnostics | None) -> None:
    """Set every unit with a NaN or an infinity anywhere in its gradient [units, D] to zero."""
    if diagnostics is None and bool(by_unit.sum().isfinite()):
        return
    norms = by_unit.norm(dim=1)
    finite = norms.isfinite()
    if not bool(finite.all()):
        by_unit[~finite] = 0.0
    if diagnostics is not None:
        diagnostics.units += len(norms)
        diagnostics.clipped += int((norms[finite] > clip).sum())
        diagnostics.not_finite += int((~finite).sum())


@lru_cache(maxsize=1)
def _secure_optimizer() -> Any:
    """The class, made on first use: importing Opacus takes two seconds."""
    from opacus.optimizers import DPOptimizer

    class SecureDPOptimizer(DPOptimizer):
        """Opacus's optimiser with noise from the operating system's entropy."""

        def __init__(self, optimizer: torch.optim.Optimizer, *, source: SecureGenerator, **settings: Any) -> None:
            super().__init__(optimizer, **settings)
            self._source = source

        def add_noise(self) -> None:
            for p in self.params:
                noise = self._source.gaussian(p.numel()) * (self.noise_multiplier * self.max_grad_norm)
                p.grad = p.summed_grad + torch.from_numpy(noise).reshape(p.shape)

    return SecureDPOptimizer


def _check(*, clip: float, chunk: int, n_units: int, windows_per_series: int) -> None:
    if not (clip > 0 and np.isfinite(clip)):
        raise ValueError(f"clip is {clip}; it must be a finite number above 0")
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; it must be 1 or more")
    if n_units < 0:
        raise ValueError(f"n_units is {n_units}; it must be 0 or more")
    if windows_per_series < 1:
        raise ValueError(f"windows_per_series is {windows_per_series}; it must be 1 or more")
