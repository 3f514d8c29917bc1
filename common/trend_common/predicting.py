"""A backbone's forecast of a panel: windows in, :class:`~trend_common.forecasts.Forecast` out."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from trend_common.backbones.base import LEVELS, Backbone, Batch
from trend_common.forecasts import Forecast
from trend_common.rollout import forecast_steps
from trend_common.windows import PanelWindows

__all__ = ["predict"]

Rows = NDArray[np.int64]
Hints = NDArray[np.float32]


def predict(
    backbone: Backbone,
    windows: PanelWindows,
    *,
    origin: int,
    horizon: int,
    rows: Rows | None = None,
    level_hint: Hints | None = None,
    batch_size: int = 256,
    device: str = "cpu",
) -> Forecast:
    """Forecast ``horizon`` steps from ``origin`` with the backbone as it is, adapter included.

    Steps on which a series is known to be closed are 0.

    Args:
        backbone: In evaluation mode.
        windows: The panel's windows.
        origin: First step to forecast, on the panel's calendar.
        horizon: H; beyond the backbone's longest it is asked again from its own forecast on
            (:mod:`trend_common.rollout`), and the windows' ``ahead`` must reach as far.
        rows: [S] series; all by default.
        level_hint: [S] expected levels for series without history.
        batch_size: Windows at a time.
        device: Where to compute.

    Returns:
        Quantiles [S, H, Q] in the series' units.
    """
    chosen = np.arange(len(windows.ids)) if rows is None else np.asarray(rows)
    quantiles, means = [], []
    with torch.inference_mode():
        for start in range(0, len(chosen), batch_size):
            part = chosen[start : start + batch_size]
            hint = None if level_hint is None else level_hint[start : start + batch_size]

            def window(step: int, size: int, part: Rows = part, hint: Hints | None = hint) -> Batch:
                return windows.batch(part, np.full(len(part), step), size, level_hint=hint).to(device)

            found = forecast_steps(backbone, window, origin, horizon)
            quantiles.append(found[0].cpu().numpy())
            means.append(found[1].cpu().numpy())
    dates = windows.dates[origin : origin + horizon].to_numpy()
    return Forecast.repaired(
        ids=tuple(windows.ids[row] for row in chosen),
        ds=np.broadcast_to(dates, (len(chosen), horizon)).copy(),
        levels=LEVELS,
        quantiles=np.concatenate(quantiles).astype(np.float64),
        mean=np.concatenate(means).astype(np.float64),
    )
