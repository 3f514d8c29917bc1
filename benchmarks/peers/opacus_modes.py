"""Opacus's own ways to a clipped and noised gradient, on the same backbone, windows and clip as ours.

A unit's k windows are rows of a batch. Hooks, expanded weights and functorch give a gradient for each row, which is
then averaged over the unit's rows before it is clipped, as our promise needs. Ghost clipping never forms them: it
clips rows, not units, so with more than one window a series it promises less than ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trend_client.engine import Engine

Losses = Callable[[NDArray[np.int64]], torch.Tensor]

MODES = ("hooks", "ew", "functorch", "ghost")


class OpacusStep:
    """One private step by a mode of Opacus.

    Args:
        engine: Of its own: its core is wrapped.
        losses: Unit indices → the losses of their windows, by the engine's backbone.
        mode: Of :data:`MODES`.
        units, windows: How many in a batch.
        clip, sigma: C and σ.
    """

    def __init__(
        self, engine: Engine, losses: Losses, mode: str, *, units: int, windows: int, clip: float, sigma: float
    ) -> None:
        from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
        from opacus.grad_sample.gsm_exp_weights import GradSampleModuleExpandedWeights
        from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping

        self._losses, self._mode, self._units, self._windows = losses, mode, units, windows
        core: Any = engine.backbone.core
        for module in core.modules():
            if isinstance(module, torch.nn.Linear):
                module.train()  # Opacus's hooks are deaf in evaluation mode; a linear layer does the same in both.
        if mode == "ghost":
            wrapped: Any = GradSampleModuleFastGradientClipping(
                core, loss_reduction="sum", strict=False, max_grad_norm=clip, use_ghost_clipping=True
            )
        elif mode == "ew":
            wrapped = _by_name(GradSampleModuleExpandedWeights)(core, loss_reduction="sum")
        else:
            wrapped = GradSampleModule(core, loss_reduction="sum", strict=False, force_functorch=mode == "functorch")
        engine.backbone.core = self.module = wrapped
        trained = [p for p in core.parameters() if p.requires_grad]
        kind = DPOptimizerFastGradientClipping if mode == "ghost" else DPOptimizer
        self.optimizer = kind(
            torch.optim.SGD(trained, lr=0.0),
            noise_multiplier=sigma,
            max_grad_norm=clip,
            expected_batch_size=units,
            loss_reduction="mean",
        )

    def __call__(self) -> None:
        """Take the step; the weights do not move, for the step size is 0."""
        self.optimizer.zero_grad()
        losses = self._losses(np.arange(self._units)) / self._windows
        if self._mode == "ghost":
            from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping

            DPTensorFastGradientClipping(self.module, self.optimizer, losses, "sum").backward()
        else:
            losses.sum().backward()  # type: ignore[no-untyped-call]
            for parameter in self.optimizer.params:
                by_row = parameter.grad_sample
                parameter.grad_sample = by_row.reshape(self._units, self._windows, *by_row.shape[1:]).sum(1)
        self.optimizer.step()


def _by_name(kind: Any) -> Any:
    """Opacus's class takes the batch size off its first positional argument; the backbone's are all named."""
    from torch.nn.utils._per_sample_grad import call_for_per_sample_grads

    class Named(kind):  # type: ignore[misc]
        def forward(self, **inputs: Any) -> Any:
            rows = inputs["past_values"].shape[0]
            whole = call_for_per_sample_grads(
                module=self._module, batch_size=rows, loss_reduction=self.loss_reduction, batch_first=self.batch_first
            )
            return whole(**inputs)

    return Named
