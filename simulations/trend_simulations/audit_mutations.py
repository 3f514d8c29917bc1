"""Ways in which private training is broken in practice, put into the running program from outside.

Each mutation replaces something in the product's modules for as long as its context lasts; the product itself has no
switch for any of them. An audit that does not notice them is worth nothing, so each is a test of the audit. Two are
here because the lower bound is known *not* to see them; what does see them is said with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trend_common.privacy import step
from trend_common.privacy.accounting import Run
from trend_common.privacy.ledger import Ledger
from trend_common.privacy.noise import SecureGenerator
from trend_common.privacy.per_series import PerSeriesGradients
from trend_common.tensors import UniformSource

__all__ = ["MUTATIONS", "Mutation", "noise_times", "shuffled_batches"]


@dataclass(frozen=True)
class Mutation:
    """One way to break it.

    Attributes:
        name: Short.
        what: What is wrong, in a few words.
        inject: Breaks the product for as long as its context lasts.
        seen: Whether one run's lower bound is to refute the claim.
        needs: Fields of the audit's target that it needs.
    """

    name: str
    what: str
    inject: Callable[[], AbstractContextManager[None]]
    seen: bool = True
    needs: Mapping[str, Any] = field(default_factory=dict)


@contextmanager
def noise_times(factor: float) -> Iterator[None]:
    """``factor`` times the noise."""
    honest = SecureGenerator.gaussian
    with patch.object(SecureGenerator, "gaussian", lambda self, size: honest(self, size) * factor):
        yield


@contextmanager
def shuffled_batches() -> Iterator[None]:
    """Each epoch deals the units out into batches of a fixed size, as a data loader does."""
    left: list[NDArray[np.int64]] = []

    def deal(n_units: int, q: float, _: UniformSource) -> NDArray[np.int64]:
        if not left:
            left.extend(np.array_split(np.random.default_rng().permutation(n_units), max(1, round(1 / q))))
        return np.sort(left.pop())

    with patch.object(step, "poisson_sample", deal):
        yield


@contextmanager
def _the_same_seed() -> Iterator[None]:
    def seeded(_: SecureGenerator, size: int) -> NDArray[np.float64]:
        return np.random.default_rng(42).standard_normal(size)

    with patch.object(SecureGenerator, "gaussian", seeded):
        yield


class _ByWindow(PerSeriesGradients):
    """Stock DP-SGD: every window is an example of its own."""

    def _units(self, layer: str, leading: int) -> int:
        super()._units(layer, leading)
        return leading

    def backward(self, loss_per_window: Tensor) -> None:
        loss_per_window.sum().backward()  # type: ignore[no-untyped-call]


@contextmanager
def _window_level() -> Iterator[None]:
    with patch.object(step, "PerSeriesGradients", _ByWindow):
        yield


@contextmanager
def _whole_batch() -> Iterator[None]:
    honest: Any = step._secure_optimizer()

    class Batchwise(honest):  # type: ignore[misc]
        """``clip_grad_norm_`` on the mean gradient, and then the noise that suits clipping unit by unit."""

        def clip_and_accumulate(self) -> None:
            for p in self.params:
                total = p.grad_sample.sum(dim=0)
                p.summed_grad = total if p.summed_grad is None else p.summed_grad + total

        def add_noise(self) -> None:
            norm = torch.stack([p.summed_grad.norm() for p in self.params]).norm() / self.expected_batch_size
            factor = min(1.0, self.max_grad_norm / (float(norm) + 1e-6))
            for p in self.params:
                p.summed_grad = p.summed_grad * factor
            super().add_noise()

    with patch.object(step, "_secure_optimizer", lambda: Batchwise):
        yield


def _one_step(run: Run) -> Run:
    return replace(run, steps=min(run.steps, 1))


def _smaller_q(run: Run) -> Run:
    return replace(run, q=run.q / 20)


@contextmanager
def _ledger_told(change: Callable[[Run], Run]) -> Iterator[None]:
    honest = Ledger.charged
    with patch.object(Ledger, "charged", lambda self: [change(run) for run in honest(self)]):
        yield


MUTATIONS: Final = (
    Mutation("no noise", "answers leave without any noise", lambda: noise_times(0.0)),
    Mutation("σ ÷ 4", "a quarter of the plan's noise", lambda: noise_times(0.25)),
    Mutation(
        "windows clipped",
        "each of a series' four windows is clipped by itself",
        _window_level,
        needs={"windows_per_series": 4},
    ),
    Mutation("batch clipped", "the mean gradient is clipped, and not each series' own", _whole_batch),
    Mutation("seed reused", "the noise of every round starts from the same seed", _the_same_seed),
    Mutation(
        "steps not counted",
        "the ledger charges one step for all rounds",
        lambda: _ledger_told(_one_step),
    ),
    Mutation(
        "q understated",
        "the ledger is told a twentieth of q",
        lambda: _ledger_told(_smaller_q),
    ),
    Mutation(
        "σ × 0.75",
        "three quarters of the noise: less than one run can prove; the estimate and a test of the noise see it",
        lambda: noise_times(0.75),
        seen=False,
    ),
    Mutation(
        "batches shuffled",
        "batches of a fixed size instead of Poisson: canaries of one coordinate see no difference; the draws do",
        shuffled_batches,
        seen=False,
        needs={"q": 0.25},
    ),
)
