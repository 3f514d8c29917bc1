"""A backbone's forecast of a panel: windows in, :class:`~trend_common.forecasts.Forecast` out."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from trend_common.backbones.base import LEVELS, Backbone, Batch
from trend_common.closures import without_shut_days
from trend_common.forecasts import Forecast
from trend_common.quick import Engine, chosen_engine, quick_or_torch
from trend_common.rollout import Forecaster, forecast_steps
from trend_common.windows import PanelWindows

__all__ = ["predict", "predict_windows", "without_unknown_start"]

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
    batch_size: int = 64,
    device: str = "cpu",
    engine: Engine | None = None,
    cache: Path | None = None,
) -> Forecast:
    """Forecast ``horizon`` steps from ``origin`` with the backbone as it is, adapter included.

    Steps on which a series is known, or its store expected, to be closed are 0.

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
        engine: "torch"; or "int8", about twice as fast on a processor, where it is as good on past windows of these
            series (:mod:`trend_common.quick`). None takes what the environment's ``TREND_ENGINE`` names, else torch.
        cache: Folder in which int8 weights are kept; None keeps them in memory alone.

    Returns:
        Quantiles [S, H, Q] in the series' units.
    """
    chosen = np.arange(len(windows.ids)) if rows is None else np.asarray(rows)
    forecaster: Forecaster = backbone
    if chosen_engine(engine) == "int8" and len(chosen):
        forecaster = quick_or_torch(backbone, windows, origin=origin, horizon=horizon, rows=chosen, cache=cache)
    quantiles, means = [], []
    with torch.inference_mode():
        for start in range(0, len(chosen), batch_size):
            part = chosen[start : start + batch_size]
            hint = None if level_hint is None else level_hint[start : start + batch_size]

            def window(step: int, size: int, part: Rows = part, hint: Hints | None = hint) -> Batch:
                batch = windows.batch(part, np.full(len(part), step), size, level_hint=hint)
                if backbone.blind_patch:
                    batch = without_unknown_start(batch, backbone.blind_patch, keep=step - origin)
                return batch.to(device)

            made = forecast_steps(forecaster, window, origin, horizon)
            quantiles.append(made[0].cpu().numpy())
            means.append(made[1].cpu().numpy())
    dates = windows.dates[origin : origin + horizon].to_numpy()
    found = Forecast.repaired(
        ids=tuple(windows.ids[row] for row in chosen),
        ds=np.broadcast_to(dates, (len(chosen), horizon)).copy(),
        levels=LEVELS,
        quantiles=np.concatenate(quantiles).astype(np.float64),
        mean=np.concatenate(means).astype(np.float64),
    )
    return without_shut_days(found, windows.panel)


def predict_windows(
    backbone: Backbone,
    windows: PanelWindows,
    rows: Rows,
    origins: Rows,
    horizon: int,
    *,
    batch_size: int = 64,
    device: str = "cpu",
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Forecasts of N windows, each from an origin of its own, as :func:`predict` makes them for one.

    Args:
        backbone: In evaluation mode, adapter included.
        windows: The panel's windows.
        rows, origins: [N] series and first steps.
        horizon: H.
        batch_size: Windows at a time; windows of neighbouring origins share a batch.
        device: Where to compute.

    Returns:
        [N, H, Q] quantiles and [N, H] means.
    """
    order = np.argsort(origins, kind="stable")
    quantiles = np.zeros((len(rows), horizon, len(LEVELS)))
    mean = np.zeros((len(rows), horizon))
    with torch.inference_mode():
        for start in range(0, len(rows), batch_size):
            part = order[start : start + batch_size]

            def window(step: int, size: int, part: Rows = part) -> Batch:
                batch = windows.batch(rows[part], origins[part] + step, size)
                if backbone.blind_patch:
                    batch = without_unknown_start(batch, backbone.blind_patch, keep=step)
                return batch.to(device)

            made = forecast_steps(backbone, window, 0, horizon)
            quantiles[part], mean[part] = made[0].cpu().numpy(), made[1].cpu().numpy()
    return quantiles, mean


def without_unknown_start(batch: Batch, patch: int, *, keep: int = 0) -> Batch:
    """``batch`` without the whole patches, counted from the origin, before the first step that is known in any row.

    Args:
        batch: Windows.
        patch: Steps of a patch.
        keep: Steps before the origin that stay in any case.
    """
    context = batch.past_mask.shape[1]
    known = batch.past_mask.amax(0).nonzero()
    needed = max(context - int(known[0]) if len(known) else 0, min(keep, context))
    start = max(context - math.ceil(needed / patch) * patch, 0)
    return replace(
        batch,
        past_values=batch.past_values[:, start:],
        past_mask=batch.past_mask[:, start:],
        past_cov=batch.past_cov[:, start:],
    )
