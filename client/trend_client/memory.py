"""What a personal model keeps of what it knew before: made-up sales to rehearse on, and a score of forgetting.

Training on one retailer's sales can cost a model what it knew of others', which a new product or a new promotion
may need. The made-up sales are nobody's: levels, weekly and yearly seasons, trends, promotions and pauses are drawn
from a fixed seed, so that every client has the same ones. Mixed into training batches they are a rehearsal (Robins,
Connection Science 7, 1995); on others of their kind, which no training sees, the error before and after says what
was forgotten.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from trend_client.training import TrainingData
from trend_common.covariates import SEASON, YEAR
from trend_common.metrics import wql
from trend_common.panel import SalesPanel
from trend_common.panel.model import Freq
from trend_common.windows import PanelWindows

if TYPE_CHECKING:
    from trend_client.engine import Engine
    from trend_common.tensors import Tensors

__all__ = ["forgetting", "made_up", "rehearsal"]

_SERIES: Final = 48
_LENGTH: Final = {"D": 420, "W": 156, "M": 72}
_OFFSET: Final = {"D": "D", "W": "W-SUN", "M": "MS"}
_TRAINED, _TESTED = 1, 2


def made_up(freq: Freq, *, seed: int, series: int = _SERIES) -> SalesPanel:
    """Sales of nobody's products, the same for every client.

    Args:
        freq: "D", "W" or "M".
        seed: Of all draws.
        series: Number of series.
    """
    rng = np.random.default_rng([seed, series])
    steps, season, year = _LENGTH[freq], SEASON[freq], YEAR[freq]
    dates = pd.date_range("2020-01-06", periods=steps, freq=_OFFSET[freq])
    time = np.arange(steps)
    parts, ids = [], [f"made-up/p{row:02d}" for row in range(series)]
    for name in ids:
        level = float(np.exp(rng.normal(2.0, 1.2)))
        week = np.exp(rng.normal(0, 0.25, season))[time % season] if season > 1 else np.ones(steps)
        yearly = np.exp(rng.normal(0, 0.3) * np.sin(2 * np.pi * (time / year + rng.random())))
        trend = np.exp(rng.normal(0, 0.3) * (time / steps - 0.5))
        promo = (rng.random(steps) < rng.uniform(0, 0.15)).astype(float)
        expected = level * week * yearly * trend * (1 + rng.uniform(0, 1.5) * promo)
        spread = rng.gamma(8, 1 / 8, steps)
        pauses = rng.random(steps) < (rng.uniform(0, 0.6) if rng.random() < 0.3 else 0.0)
        y = np.where(pauses, 0, rng.poisson(expected * spread)).astype(float)
        parts.append(pd.DataFrame({"unique_id": name, "ds": dates, "y": y, "closed": False, "promo": promo}))
    frame = pd.concat(parts, ignore_index=True)
    static = pd.DataFrame({"store": "made-up", "product": [name[8:] for name in ids]}, index=pd.Index(ids))
    static = static.assign(category="", description="").rename_axis("unique_id")
    future = frame.loc[[], ["unique_id", "ds", "promo"]]
    return SalesPanel("made up", freq, _OFFSET[freq], frame, future, static, {}, (), len(frame))


def rehearsal(freq: Freq, *, context: int, horizon: int) -> TrainingData:
    """Windows to mix into a training."""
    windows = PanelWindows(made_up(freq, seed=_TRAINED), context=context)
    return TrainingData.of(windows, train_end=windows.n_steps, horizon=horizon)


def forgetting(
    engine: Engine, start: Tensors | None, personal: Tensors, freq: Freq, *, context: int, horizon: int
) -> float:
    """How much higher the personal model's error is on made-up sales than that of the model it started from.

    Returns:
        Weighted quantile loss after over that before, less 1: 0.05 is 5 % worse, below 0 nothing was forgotten.
    """
    windows = PanelWindows(made_up(freq, seed=_TESTED), context=context)
    origin = windows.n_steps - horizon
    truth = windows.actuals(origin, horizon)
    before, after = (wql(truth, engine.forecast(one, windows, origin, horizon)) for one in (start, personal))
    return after / before - 1
