"""What a retailer is left with: a personal adapter, a backtest that chooses, forecasts and a report; all offline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from trend_client.backtest import Backtest, Forecaster, backtest, baseline_forecasters
from trend_client.engine import Engine
from trend_client.finetune import FineTuneSettings
from trend_client.gate import Choice
from trend_client.home import ClientHome
from trend_client.outputs import write_backtest, write_forecasts
from trend_client.parts import rank_of
from trend_client.report import Privacy, ReportData, SentMessage, write_report
from trend_client.training import TrainingData
from trend_client.trial import Tryout
from trend_common.covariates import DEFAULT_CONTEXT, DEFAULT_HORIZON
from trend_common.errors import DataError
from trend_common.forecasts import Forecast
from trend_common.panel import SalesPanel
from trend_common.scoring import next_origin, origins
from trend_common.tensors import Tensors
from trend_common.windows import PanelWindows

__all__ = ["Model", "Outcome", "conclude", "fine_tune", "forecasters", "load_model", "personalise"]

_BASELINES = ("seasonal-naive", "same-phase-mean", "auto-ets")
_LOCAL_RANK = 2
_TRYOUT = Tryout()

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Model:
    """The adapters of a home, ready to forecast.

    Attributes:
        federation: Whose adapters they are; "local" where this home never received one.
        horizon, context: Steps ahead, and of history.
        adapters: Method → tensors; None is the backbone as shipped.
    """

    federation: str
    horizon: int
    context: int
    adapters: Mapping[str, dict[str, np.ndarray] | None]


@dataclass(frozen=True)
class Outcome:
    """What was written, and the figures behind it."""

    backtest: Backtest | None
    forecast: Forecast
    forecasts_csv: Path
    report: Path


def load_model(home: ClientHome, engine: Engine, panel: SalesPanel, *, horizon: int | None = None) -> Model:
    """The adapters that this home has for data of this frequency, with the engine made ready for them."""
    name = home.current_federation()
    known = home.plan(name) if name else None
    if name is None or known is None or known[0].freq != panel.freq:
        engine.install_local(rank_of(home.personal("local")) or _LOCAL_RANK)
        name, steps, context = "local", horizon or DEFAULT_HORIZON[panel.freq], DEFAULT_CONTEXT[panel.freq]
        shared = None
    else:
        plan, frozen = known
        engine.install(plan.adapter, frozen)
        steps, context = horizon or plan.horizon, plan.context
        shared = home.shared(name)
    adapters: dict[str, dict[str, np.ndarray] | None] = {"zero-shot": None}
    if shared is not None:
        adapters["shared"] = shared[1]
    personal = home.personal(name)
    if personal is not None:
        adapters["personal"] = personal
    return Model(name, steps, min(context, engine.backbone.max_context), adapters)


def personalise(
    home: ClientHome,
    engine: Engine,
    panel: SalesPanel,
    model: Model,
    *,
    settings: FineTuneSettings | None = None,
    country: str | None = None,
    seed: int = 0,
) -> Model:
    """Train the personal adapter from the shared one (or from none) and keep it in the home."""
    tensors, choices, base = fine_tune(engine, panel, model, settings=settings, country=country, seed=seed)
    home.save_personal(model.federation, tensors, choices, base)
    return Model(model.federation, model.horizon, model.context, {**model.adapters, "personal": tensors})


def fine_tune(
    engine: Engine,
    panel: SalesPanel,
    model: Model,
    *,
    settings: FineTuneSettings | None = None,
    country: str | None = None,
    seed: int = 0,
) -> tuple[Tensors, dict[str, float], str]:
    """Train a personal model on the sales before validation.

    Returns:
        Its tensors, the validation measure of each choice tried, and where it started: "shared" or "backbone".
    """
    if settings is not None and model.federation == "local":
        engine.install_local(settings.rank)
    windows = PanelWindows(panel, context=model.context, country=country)
    cut = origins(panel, model.horizon)
    horizon = min(model.horizon, engine.backbone.max_horizon)
    data = TrainingData.of(windows, train_end=windows.step_of(cut.train_end) + 1, horizon=horizon)
    start = model.adapters.get("shared")
    tensors, choices = engine.personalise(
        data, start, validation=windows.step_of(cut.validation), seed=seed, settings=settings
    )
    return tensors, choices, "shared" if start else "backbone"


def forecasters(engine: Engine, model: Model, *, country: str | None = None) -> dict[str, Forecaster]:
    """Every method of the backtest, the statistical ones first."""
    found: dict[str, Forecaster] = dict(baseline_forecasters(_BASELINES))
    for name, tensors in model.adapters.items():
        found[name] = engine.forecaster(tensors, context=model.context, country=country)
    return found


def _chosen(
    choice: Choice, methods: Mapping[str, Forecaster], panel: SalesPanel, origin: pd.Timestamp, horizon: int
) -> Forecast:
    """Each series' forecast by the method chosen for it; the slow ones forecast no other series than theirs."""
    made: dict[str, Forecast] = {}
    for name in sorted({*choice.methods.values(), choice.default}):
        part = panel
        if name in _TRYOUT.methods and name != choice.default:
            part = panel.select(series for series in panel.ids if choice.methods.get(series) == name)
        made[name] = methods[name](part, origin, horizon)
    return choice.apply(made)


def conclude(
    home: ClientHome,
    engine: Engine,
    panel: SalesPanel,
    model: Model,
    *,
    privacy: Privacy | None,
    sent: tuple[SentMessage, ...] = (),
    country: str | None = None,
    out: Path | None = None,
    progress: Progress = lambda _: None,
) -> Outcome:
    """Backtest, choose, forecast the steps after the panel's end, and write everything.

    Where the history is too short for a backtest the pretrained or shared model forecasts, and the report says so.
    With many series, slow methods are tried on a sample first (:mod:`trend_client.trial`).
    """
    methods = forecasters(engine, model, country=country)
    folder = out or home.output
    result: Backtest | None
    try:
        result = backtest(
            panel, model.horizon, methods, tryout=_TRYOUT, progress=lambda name: progress(f"backtest: {name}")
        )
    except DataError:
        result = None
    progress("forecasting")
    origin = next_origin(panel)
    if result is None:
        name = next(one for one in ("shared", "zero-shot") if one in methods)
        forecast = methods[name](panel, origin, model.horizon)
    else:
        forecast = _chosen(result.choice, methods, panel, origin, model.horizon)
        write_backtest(folder, result)
    csv, _ = write_forecasts(folder, forecast, panel.static)
    progress("report")
    report = folder / "report.html"
    write_report(
        report,
        ReportData(
            panel=panel,
            forecast=forecast,
            created=datetime.now(UTC).astimezone(),
            backtest=result,
            privacy=privacy,
            sent=sent,
        ),
    )
    return Outcome(result, forecast, csv, report)
