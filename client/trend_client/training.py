"""What a client does to an adapter: draw windows of its own series, and take steps.

Private steps go through :mod:`trend_common.privacy.step`; the plain ones here are for adapters that never leave (the
personal one) and for rehearsals without privacy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri

from trend_common import adapters
from trend_common.backbones.base import Backbone, Batch
from trend_common.tensors import Tensors
from trend_common.windows import PanelWindows

__all__ = ["TrainingData", "difference", "fit", "pick_device"]

Uniforms = Callable[[int], NDArray[np.float64]]
"""Gives so many independent uniforms in (0, 1)."""

_LEVEL_DOUBT: Final = 0.3
"""Standard deviation of the logarithm of an expected level around the true one: a guess is off by a third."""


def pick_device(wanted: str = "auto") -> str:
    """ "auto" is CUDA where there is one, else Apple's MPS, else the CPU."""
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


@dataclass(frozen=True)
class TrainingData:
    """The privacy units of one retailer and how windows are drawn from them.

    Attributes:
        windows: The panel's windows.
        units: For each unit the rows (series) that it owns.
        train_end: First step that no target may touch.
        horizon: H.
        launch_share: Share of the windows that hide the history, as if the series were launched there.
    """

    windows: PanelWindows
    units: tuple[NDArray[np.int64], ...]
    train_end: int
    horizon: int
    launch_share: float = 0.0

    @classmethod
    def of(
        cls,
        windows: PanelWindows,
        *,
        train_end: int,
        horizon: int,
        unit: Literal["series", "product", "store"] = "series",
        launch_share: float = 0.0,
    ) -> TrainingData:
        """The units that can be trained on before ``train_end``; each is judged by its own rows alone."""
        rows = windows.trainable(train_end)
        if unit == "series":
            return cls(windows, tuple(np.array([row]) for row in rows), train_end, horizon, launch_share)
        owners = windows.panel.static[unit].to_numpy()[rows]
        groups = tuple(rows[owners == owner] for owner in sorted(set(owners)))
        return cls(windows, groups, train_end, horizon, launch_share)

    @property
    def n_units(self) -> int:
        """Number of privacy units; private."""
        return len(self.units)

    def draw(self, chosen: NDArray[np.int64] | Sequence[int], k: int, uniforms: Uniforms) -> Batch:
        """k windows of each chosen unit, side by side: [len(chosen) · k] rows.

        A unit that owns several series draws k of them, with replacement, so that its windows are still k.

        Of a unit's windows :attr:`launch_share` (of one window, so often) show the level of the steps before, as a
        person would state it, in place of the history. Which ones and how good the guess is are drawn for each unit
        by itself, and the level is of the window's own series: a unit answers for nobody else.
        """
        return self.draw_rows(chosen, k, uniforms)[1]

    def draw_rows(
        self, chosen: NDArray[np.int64] | Sequence[int], k: int, uniforms: Uniforms
    ) -> tuple[NDArray[np.int64], Batch]:
        """:meth:`draw`, and the series of each window."""
        rows = np.repeat(np.asarray(chosen, dtype=np.int64), k)
        if all(len(unit) == 1 for unit in self.units):
            series = np.array([self.units[unit][0] for unit in rows], dtype=np.int64)
        else:
            picks = uniforms(len(rows))
            owned = [self.units[unit] for unit in rows]
            series = np.array([own[int(pick * len(own))] for own, pick in zip(owned, picks, strict=True)])
        origins = self.windows.draw_origins(series, self.train_end, self.horizon, uniforms(len(series)))
        stated = seen_from = None
        if self.launch_share:
            start = np.repeat(uniforms(len(rows) // k), k) + np.arange(len(rows)) % k * self.launch_share
            guess = self.windows.levels(series, origins) * np.exp(_LEVEL_DOUBT * ndtri(uniforms(len(rows))))
            # Of what rested before the window nobody would state a level.
            hidden = (np.floor(start + self.launch_share) > np.floor(start)) & (guess > 0)
            stated = np.where(hidden, guess, 0).astype(np.float32)
            seen_from = np.where(hidden, origins, 0)
        batch = self.windows.batch(
            series, origins, self.horizon, targets_end=self.train_end, seen_from=seen_from, stated=stated
        )
        return series, batch


def fit(
    backbone: Backbone,
    data: TrainingData,
    *,
    steps: int,
    learning_rate: float,
    batch_size: int,
    rng: np.random.Generator,
    proximal_mu: float = 0.0,
    device: str = "cpu",
    checkpoints: Sequence[int] = (),
) -> dict[int, Tensors]:
    """Train the attached adapter by Adam, without privacy: for what never leaves, and for rehearsals.

    Args:
        backbone: With an adapter, which is changed in place.
        data: The windows.
        steps: Steps of Adam.
        learning_rate: Its step size.
        batch_size: Windows a step, from units drawn uniformly.
        rng: Of the draws.
        proximal_mu: FedProx's μ (Li et al. 2020, arXiv:1812.06127): adds μ/2 · ‖w − w₀‖² to the loss.
        device: Where to compute.
        checkpoints: Steps after which the adapter is kept.

    Returns:
        Step → adapter, for the checkpoints.
    """
    parameters = adapters.trained_parameters(backbone)
    start = {name: value.detach().clone() for name, value in parameters.items()}
    optimiser = torch.optim.Adam(parameters.values(), lr=learning_rate)
    kept: dict[int, Tensors] = {}
    for step in range(1, steps + 1):
        chosen = rng.integers(0, data.n_units, min(batch_size, max(data.n_units * 4, 8)))
        batch = data.draw(chosen, 1, rng.random).to(device)
        loss = _mean_loss(backbone, batch)
        if proximal_mu:
            distance = sum(((value - start[name]) ** 2).sum() for name, value in parameters.items())
            loss = loss + 0.5 * proximal_mu * distance
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimiser.step()
        if step in checkpoints:
            kept[step] = adapters.export(backbone)
    return kept


def _mean_loss(backbone: Backbone, batch: Batch) -> torch.Tensor:
    out = backbone(batch)
    assert out.loss_per_sample is not None
    mean: torch.Tensor = out.loss_per_sample.mean()
    return mean


def difference(after: Mapping[str, NDArray[np.float32]], before: Mapping[str, NDArray[np.float32]]) -> Tensors:
    """after − before, for the names of ``before``."""
    return {name: np.asarray(after[name] - value, dtype=np.float32) for name, value in before.items()}
