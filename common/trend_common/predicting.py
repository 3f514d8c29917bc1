"""A backbone's forecast of a panel: windows in, :class:`~trend_common.forecasts.Forecast` out."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from trend_common.backbones.base import LEVELS, Backbone
from trend_common.covariates import INDEX
from trend_common.forecasts import Forecast
from trend_common.windows import PanelWindows

__all__ = ["predict"]


def predict(
    backbone: Backbone,
    windows: PanelWindows,
    *,
    origin: int,
    horizon: int,
    rows: NDArray[np.int64] | None = None,
    level_hint: NDArray[np.float32] | None = None,
    batch_size: int = 256,
    device: str = "cpu",
) -> Forecast:
    """Forecast ``horizon`` steps from ``origin`` with the backbone as it is, adapter included.

    Steps on which a series is known to be closed are 0.

    Args:
        backbone: In evaluation mode.
        windows: The panel's windows.
        origin: First step to forecast, on the panel's calendar.
        horizon: H, at most the backbone's.
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
            batch = windows.batch(part, np.full(len(part), origin), horizon, level_hint=hint).to(device)
            out = backbone(batch)
            open_days = 1.0 - batch.future_cov[..., INDEX["closed"]]
            quantiles.append((out.quantiles * open_days[..., None]).cpu().numpy())
            means.append((out.mean * open_days).cpu().numpy())
    dates = windows.dates[origin : origin + horizon].to_numpy()
    return Forecast.repaired(
        ids=tuple(windows.ids[row] for row in chosen),
        ds=np.broadcast_to(dates, (len(chosen), horizon)).copy(),
        levels=LEVELS,
        quantiles=np.concatenate(quantiles).astype(np.float64),
        mean=np.concatenate(means).astype(np.float64),
    )
