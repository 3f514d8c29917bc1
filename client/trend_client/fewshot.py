"""``personalise --few-shot``: for assortments too small for the usual training to be trusted.

A few series say little about a model, and one validation window of theirs says less. So training is short, on wider
views of the windows and with made-up sales mixed in, and ends before two validation windows where the history has
them. Then the model is moved only a part of the way from where it started to where training led (interpolation in
weights: Wortsman et al., CVPR 2022, arXiv:2109.01903), by the share that was best over both windows together; none
of the way is among the shares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from trend_client.finetune import FineTuneSettings, LaunchSettings
from trend_client.parts import Parts
from trend_client.training import TrainingData
from trend_common.metrics import wql
from trend_common.tensors import Tensors
from trend_common.windows import PanelWindows

if TYPE_CHECKING:
    from trend_client.engine import Engine

__all__ = ["FEW_SERIES", "FEW_SHOT", "few_shot", "part_way"]

FEW_SERIES: Final = 20
"""Series below which few-shot training is advised."""

FEW_SHOT: Final = FineTuneSettings(
    learning_rate=1e-3,
    steps=40,
    batch_size=16,
    patience=0,
    jitter_level=0.1,
    drop_covariates=0.1,
    replay=0.25,
    launch=LaunchSettings(steps=0),
)

_SHARES: Final = (0.25, 0.5, 0.75, 1.0)


def few_shot(
    engine: Engine,
    windows: PanelWindows,
    start: Tensors | None,
    *,
    rolling: tuple[int, ...],
    horizon: int,
    seed: int,
) -> tuple[Tensors, dict[str, float]]:
    """Train, and go the best part of the way.

    Args:
        engine: With the adapter attached.
        windows: Of the panel.
        start: Where to start: the shared adapter, or None for the plain backbone.
        rolling: First step of each validation window, ascending; training ends before the first.
        horizon: H.
        seed: Of the draws.

    Returns:
        The personal model, and the mean validation loss of each share tried.
    """
    data = TrainingData.of(windows, train_end=rolling[0], horizon=min(horizon, engine.backbone.max_horizon))
    begun = engine.worn(start)

    def loss(tensors: Tensors) -> float:
        found = [
            wql(windows.actuals(origin, horizon), engine.forecast(tensors, windows, origin, horizon))
            for origin in rolling
        ]
        return float(np.mean(found))

    tried = {"none": loss(begun)}
    best, lowest = begun, tried["none"]
    if data.n_units:
        trained, _ = engine.personalise(data, start, validation=rolling[0], seed=seed, settings=FEW_SHOT)
        led = Parts.of(trained).members[0] or {}
        for share in _SHARES:
            one = part_way(begun, led, share)
            tried[f"{share:.0%} of the way"] = found = loss(one)
            if found < lowest:
                best, lowest = one, found
    return best, tried


def part_way(start: Tensors, end: Tensors, share: float) -> Tensors:
    """Tensors at ``share`` of the way from ``start`` to ``end``; those of one side alone are taken as they are."""
    return {
        name: (start[name] + share * (value - start[name])).astype(np.float32) if name in start else value
        for name, value in end.items()
    }
