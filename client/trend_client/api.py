"""The same as the commands, for notebooks: frames in, frames out, nothing leaves the machine.

A frame has ``unique_id, ds, y`` and may have the columns that a sales file may have (``price``, ``promo``,
``holiday``, ``store``, ``product``, ``category``, ``description``); it is read by the same reader, with the same
findings. The functions are thin over those that the commands use::

    from trend_client import api

    model = api.fit(sales, horizon=28)
    forecast = api.predict(model)
    print(api.backtest(sales, horizon=28).verdict)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pandas as pd

from trend_client.engine import Engine
from trend_client.finetune import FineTuneSettings
from trend_client.outcome import Model, combined, fine_tune, forecasters, measured
from trend_client.value import Pricing
from trend_common.covariates import DEFAULT_CONTEXT, DEFAULT_HORIZON
from trend_common.errors import DataError, UsageError
from trend_common.panel import SalesPanel, from_frame
from trend_common.scoring import next_origin, origins

if TYPE_CHECKING:
    from trend_client.backtest import Backtest

__all__ = ["Fitted", "backtest", "fit", "predict"]

_LOCAL_RANK = 2


@dataclass(frozen=True, eq=False)
class Fitted:
    """What :func:`fit` made.

    Attributes:
        panel: The sales, cleaned; ``panel.findings`` says what was done.
        backtest: The comparison that the weights come from; None where the history is too short for one.
    """

    panel: SalesPanel
    backtest: Backtest | None
    _engine: Engine
    _model: Model
    _country: str | None

    @property
    def horizon(self) -> int:
        """Steps ahead."""
        return self._model.horizon


def fit(
    frame: pd.DataFrame,
    *,
    horizon: int | None = None,
    personal: bool = True,
    settings: FineTuneSettings | None = None,
    country: str | None = None,
    backbone: str = "trend-small",
    device: str = "cpu",
    seed: int = 0,
) -> Fitted:
    """Train a personal model, compare all methods, and fit the weights of their blend.

    Args:
        frame: ``unique_id, ds, y`` and more columns.
        horizon: Steps ahead; default 28 days, 8 weeks or 6 months.
        personal: Train on these sales; without it the pretrained model and the statistical methods are used.
        settings: Of the training.
        country: Public holidays, two letters, where the frame has none.
        backbone: Name or folder.
        device: "auto", "cpu", "cuda" or "mps".
        seed: Of the training.

    Raises:
        DataError: The frame cannot be used; the message says why.
    """
    panel, engine, model = _opened(frame, horizon, backbone, device)
    if personal:
        try:
            tensors, _, _ = fine_tune(engine, panel, model, settings=settings, country=country, seed=seed)
        except DataError:
            pass  # too short to hold anything back: the pretrained model forecasts
        else:
            last = origins(panel, model.horizon).validation
            model = replace(model, adapters={**model.adapters, "personal": tensors}, since={"personal": last})
    try:
        found: Backtest | None = measured(panel, model, forecasters(engine, model, sales=panel, country=country))
    except DataError:
        found = None
    return Fitted(panel, found, engine, model, country)


def predict(fitted: Fitted, future: pd.DataFrame | None = None) -> pd.DataFrame:
    """Forecast the steps after the sales.

    Args:
        fitted: From :func:`fit`.
        future: ``unique_id, ds`` and what is known ahead: ``price``, ``promo``, ``holiday``, own columns.

    Returns:
        ``unique_id, store, product, ds, mean, q01, q05, ..., q99``, one row a series and step.

    Raises:
        UsageError: ``future`` names a series that the sales do not have, or lacks a column.
    """
    panel, horizon = fitted.panel, fitted.horizon
    if future is not None:
        panel = replace(panel, future=_planned(panel, future))
    methods = forecasters(fitted._engine, fitted._model, sales=fitted.panel, country=fitted._country)
    origin = next_origin(panel)
    if fitted.backtest is None:
        return methods["zero-shot"](panel, origin, horizon).to_frame(panel.static)
    return combined(fitted.backtest.choice, methods, panel, origin, horizon).to_frame(panel.static)


def backtest(
    frame: pd.DataFrame,
    *,
    horizon: int | None = None,
    country: str | None = None,
    backbone: str = "trend-small",
    device: str = "cpu",
    price: float | None = None,
    margin: float | None = None,
    full: bool = False,
) -> Backtest:
    """Compare the pretrained model and the statistical methods on the last steps of the sales.

    Args:
        frame, horizon, country, backbone, device: As for :func:`fit`, whose result holds the same with the personal
            model among the methods.
        price, margin: Of a unit, for the gain in money.
        full: Run slow methods on all series.

    Raises:
        DataError: The frame cannot be used, or is too short.
    """
    panel, engine, model = _opened(frame, horizon, backbone, device)
    methods = forecasters(engine, model, sales=panel, country=country)
    return measured(panel, model, methods, pricing=Pricing(price, margin), full=full)


def _opened(frame: pd.DataFrame, horizon: int | None, backbone: str, device: str) -> tuple[SalesPanel, Engine, Model]:
    if horizon is not None and horizon < 1:
        raise UsageError(f"horizon is {horizon}.", "It is the number of steps ahead, at least 1.")
    panel = from_frame(frame)
    engine = Engine(backbone, device=device)
    engine.install_local(_LOCAL_RANK)
    context = min(DEFAULT_CONTEXT[panel.freq], engine.backbone.max_context)
    return panel, engine, Model("local", horizon or DEFAULT_HORIZON[panel.freq], context, {"zero-shot": None})


def _planned(panel: SalesPanel, future: pd.DataFrame) -> pd.DataFrame:
    """The frame's rows as the panel keeps plans."""
    missing = [name for name in ("unique_id", "ds") if name not in future.columns]
    columns = [name for name in panel.known_ahead if name in future.columns and name in panel.frame.columns]
    if missing or not columns:
        raise UsageError(
            f"future has the columns {', '.join(map(str, future.columns))}.",
            f"It needs unique_id, ds and one of {', '.join(panel.known_ahead)} that the sales have, too.",
        )
    named = future["unique_id"].astype(str)
    strange = sorted(set(named) - set(panel.ids))
    if strange:
        raise UsageError(
            f"future names {len(strange)} series that the sales do not have, such as {strange[0]!r}.",
            "Name them as in the forecast's unique_id.",
        )
    made = future[columns].astype("float64").assign(unique_id=named, ds=pd.to_datetime(future["ds"]))
    made = made[made["ds"] >= next_origin(panel)].drop_duplicates(["unique_id", "ds"], keep="last")
    return made[["unique_id", "ds", *columns]].sort_values(["unique_id", "ds"], ignore_index=True)
