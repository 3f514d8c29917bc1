"""What a retailer is left with: a personal adapter, a backtest that chooses, forecasts and a report; all offline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from rich.markup import escape

from trend_client.asides import asides
from trend_client.backtest import Backtest, Forecaster, backtest, baseline_forecasters
from trend_client.decisions.blend import Blend, Past, keep_basis, plain_choice
from trend_client.delivery import deliver, price_files
from trend_client.engine import Engine
from trend_client.fewshot import few_shot
from trend_client.finetune import FineTuneSettings
from trend_client.gate import Choice
from trend_client.home import ClientHome
from trend_client.memory import forgetting
from trend_client.outputs import write_backtest
from trend_client.parts import rank_of, rebased
from trend_client.report import Privacy, ReportData, SentMessage, write_report
from trend_client.report.gather import gathered, reasons_for
from trend_client.report.language import language
from trend_client.stream import CHUNK, LARGE, Format
from trend_client.totals import Reconciliation
from trend_client.training import TrainingData
from trend_client.trees import TREES
from trend_client.trees.forecaster import REMEDY, TreeForecaster, learns_from, why_no_trees
from trend_client.trial import Tryout, sampled
from trend_client.value import Pricing
from trend_common.console import console
from trend_common.covariates import DEFAULT_CONTEXT, DEFAULT_HORIZON
from trend_common.errors import DataError
from trend_common.forecasts import Forecast
from trend_common.panel import SalesPanel
from trend_common.scoring import most_windows, next_origin, origins
from trend_common.tensors import Tensors, tensors_sha256
from trend_common.windows import PanelWindows

__all__ = [
    "Model",
    "Outcome",
    "Wishes",
    "combined",
    "conclude",
    "fine_tune",
    "forecasters",
    "load_model",
    "measured",
    "personalise",
]

_BASELINES = ("seasonal-naive", "same-phase-mean", "auto-ets", "auto-theta", "croston")
_LOCAL_RANK = 2
_TRYOUT = Tryout(series=100, above={"D": 150, "W": 1000, "M": 1000})
_LARGEST_REPORT = 1000

Progress = Callable[[str], None]
Pieces = Callable[[int, int], None]


@dataclass(frozen=True)
class Model:
    """The adapters of a home, ready to forecast.

    Attributes:
        federation: Whose adapters they are; "local" where this home never received one.
        horizon, context: Steps ahead, and of history.
        adapters: Method → tensors; None is the backbone as shipped.
        since: Method → the first day that its training has not seen, for those that were trained on this retailer's
            sales.
        forgetting: How much higher the personal model's error on made-up sales is than that of its start, if it was
            trained now.
    """

    federation: str
    horizon: int
    context: int
    adapters: Mapping[str, dict[str, np.ndarray] | None]
    since: Mapping[str, pd.Timestamp] = field(default_factory=dict)
    forgetting: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What was written, and the figures behind it.

    Attributes:
        backtest: None where the history is too short for one.
        forecast: What the report shows: all series, or the largest of a large assortment.
        forecasts_csv: The first of the forecast files, the CSV where there is one.
        report: The report.
        files: All files of forecasts: series, sums, trends and prices.
    """

    backtest: Backtest | None
    forecast: Forecast
    forecasts_csv: Path
    report: Path
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Wishes:
    """What a person asked of the forecast.

    Attributes:
        formats: Of the tables; Parquet is always written, since the other commands read it.
        reconcile: How sums over products and stores are made; None makes none.
        pricing: For the gain in units and money.
        full: Run slow methods on all series.
        prices: Whether prices are forecast where the sales file has them.
        language: Of the report, "en" or "zh"; None takes this machine's.

    Raises:
        UsageError: There is no such language.
    """

    formats: tuple[Format, ...] = ("csv", "parquet")
    reconcile: Reconciliation | None = None
    pricing: Pricing | None = None
    full: bool = False
    prices: bool = True
    language: str | None = None

    def __post_init__(self) -> None:
        language(self.language)  # Before anything is computed.


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
    since: dict[str, pd.Timestamp] = {}
    adapters: dict[str, dict[str, np.ndarray] | None] = {"zero-shot": None}
    if shared is not None:
        adapters["shared"] = shared[1]
    personal = home.personal(name)
    if personal is not None:
        adapters["personal"] = personal
        seen = home.personal_seen(name)
        if seen is not None:
            since["personal"] = pd.Timestamp(seen)
        started = home.personal_start(name)
        if shared is not None and started is not None and tensors_sha256(started) != shared[0].adapter_sha256:
            # A newer shared adapter has come: it may have seen later sales, so nothing is said of the days.
            adapters["personal"] = rebased(personal, started, shared[1])
            since.pop("personal", None)
    return Model(name, steps, min(context, engine.backbone.max_context), adapters, since)


def personalise(
    home: ClientHome,
    engine: Engine,
    panel: SalesPanel,
    model: Model,
    *,
    settings: FineTuneSettings | None = None,
    country: str | None = None,
    seed: int = 0,
    few: bool = False,
) -> Model:
    """Train the personal adapter from the shared one (or from none) and keep it in the home."""
    tensors, choices, base = fine_tune(engine, panel, model, settings=settings, country=country, seed=seed, few=few)
    cut = origins(panel, model.horizon, windows=_few_windows(panel, model.horizon) if few else 1)
    unseen = cut.rolling[0]
    start = model.adapters.get("shared")
    horizon = min(model.horizon, engine.backbone.max_horizon)
    forgot = forgetting(engine, start, tensors, panel.freq, context=model.context, horizon=horizon)
    home.save_personal(
        model.federation,
        tensors,
        choices,
        base,
        unseen_from=str(unseen.date()),
        start=start,
        forgetting=round(forgot, 6),
    )
    adapters = {**model.adapters, "personal": tensors}
    return replace(model, adapters=adapters, since={**model.since, "personal": unseen}, forgetting=forgot)


def _few_windows(panel: SalesPanel, horizon: int) -> int:
    return min(2, most_windows(panel, horizon))


def fine_tune(
    engine: Engine,
    panel: SalesPanel,
    model: Model,
    *,
    settings: FineTuneSettings | None = None,
    country: str | None = None,
    seed: int = 0,
    few: bool = False,
) -> tuple[Tensors, dict[str, float], str]:
    """Train a personal model on the sales before validation; with ``few`` for a small assortment.

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
    if few:
        rolling = origins(panel, model.horizon, windows=_few_windows(panel, model.horizon)).rolling
        steps = tuple(windows.step_of(day) for day in rolling)
        tensors, choices = few_shot(engine, windows, start, rolling=steps, horizon=model.horizon, seed=seed)
        return tensors, choices, "shared" if start else "backbone"
    tensors, choices = engine.personalise(
        data, start, validation=windows.step_of(cut.validation), seed=seed, settings=settings
    )
    return tensors, choices, "shared" if start else "backbone"


def forecasters(
    engine: Engine,
    model: Model,
    *,
    sales: SalesPanel | None = None,
    country: str | None = None,
    kept: Path | None = None,
) -> dict[str, Forecaster]:
    """Every method of the backtest, the statistical ones first.

    Args:
        engine, model: The home's.
        sales: All sales, which trees learn from whatever part of them is to be forecast.
        country: For public holidays.
        kept: Folder in which fitted trees are kept (:class:`~trend_client.trees.TreeForecaster`).
    """
    found: dict[str, Forecaster] = dict(baseline_forecasters(_BASELINES))
    if not why_no_trees():
        found[TREES] = TreeForecaster(
            engine, sales, context=model.context, horizon=model.horizon, country=country, kept=kept
        )
    for name, tensors in model.adapters.items():
        found[name] = engine.forecaster(tensors, context=model.context, country=country)
    return found


def measured(
    panel: SalesPanel,
    model: Model,
    methods: Mapping[str, Forecaster],
    *,
    pricing: Pricing | None = None,
    full: bool = False,
    progress: Progress = lambda _: None,
) -> Backtest:
    """The backtest as the forecasts use it: several windows, blends, spreads set right.

    A model that was trained on this retailer's sales is scored in the windows after its training alone. Where nothing
    says when that was, it is the last validation window: training ends before it (``docs/scoring.md``). Boosted trees
    are scored where they have more than a year to learn from.

    Args:
        panel: All sales. Of a large assortment a sample of series is compared.
        model: Whose adapters are among the methods.
        methods: Method → forecaster.
        pricing: For the gain in units and money.
        full: Run slow methods on all series.
        progress: Called with what is being done.

    Raises:
        DataError: The data are too short, or no series can be scored.
    """
    if panel.n_series > LARGE and not full:
        panel = panel.select(sampled(panel.ids, CHUNK))
    last = origins(panel, model.horizon).validation
    since = {name: model.since.get(name, last) for name in model.adapters if name not in ("zero-shot",)}
    if TREES in methods:
        since[TREES] = learns_from(panel)
        if since[TREES] > last:  # too short a past: they would repeat the pretrained model
            methods = {name: one for name, one in methods.items() if name != TREES}
            del since[TREES]
    # A model that has seen the last window, too, would look better there than it is: it is no candidate.
    fresh = {name: one for name, one in methods.items() if name not in since or since[name] <= last}
    for name in methods.keys() - fresh.keys():
        console.print(
            f"[yellow]The {name} model was trained on sales from {last.date()} on, where methods are compared, and "
            "is left out. Train it again on this file: trend-client personalise.[/]",
            soft_wrap=True,
        )
    if why_no_trees():
        console.print(
            f"[yellow]Boosted trees are left out: LightGBM cannot be loaded ({escape(why_no_trees())}). {REMEDY}[/]",
            soft_wrap=True,
        )
    return backtest(
        panel,
        model.horizon,
        fresh,
        windows=None,
        since={name: day for name, day in since.items() if name in fresh},
        style="blend",
        calibrate=True,
        tryout=None if full else _TRYOUT,
        pricing=pricing,
        progress=lambda name: progress(f"backtest: {name}"),
    )


def combined(
    choice: Choice, methods: Mapping[str, Forecaster], panel: SalesPanel, origin: pd.Timestamp, horizon: int
) -> Forecast:
    """Each series' forecast by the methods chosen for it; the slow ones forecast no other series than theirs."""
    made: dict[str, Forecast] = {}
    for name in choice.used:
        part = panel
        if name in _TRYOUT.methods and (choice.style == "blend" or name != choice.default):
            mine = [one for one in panel.ids if one in choice.methods and name in choice.weights_of(one)]
            if not mine and choice.panel.keys() != {name}:
                continue
            part = panel.select(mine) if mine else panel
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
    wishes: Wishes | None = None,
    progress: Progress = lambda _: None,
    pieces: Pieces = lambda done, total: None,
    keep: bool = True,
) -> Outcome:
    """Backtest, choose, forecast the steps after the panel's end, and write everything.

    Where the history is too short for a backtest the pretrained or shared model forecasts, and the report says so.
    With many series, slow methods are tried on a sample first (:mod:`trend_client.trial`); a large assortment is
    forecast piece by piece (:mod:`trend_client.stream`).

    Args:
        home, engine, panel, model: This client's.
        privacy, sent: For the report.
        country: For public holidays.
        out: Folder of the files.
        wishes: What else is asked for.
        progress: Called with what is being done.
        pieces: Called with the number of series that are done, and of all.
        keep: Whether the commands that decide are to use this forecast; not where names are masked.
    """
    wishes = wishes or Wishes()
    methods = forecasters(engine, model, sales=panel, country=country, kept=home.trees)
    folder = out or home.output
    result: Backtest | None
    try:
        result = measured(panel, model, methods, pricing=wishes.pricing, full=wishes.full, progress=progress)
    except DataError:
        result = None
    else:
        write_backtest(folder, result)
    progress("forecasting")
    origin = next_origin(panel)
    name = next(one for one in ("shared", "zero-shot") if one in methods)

    def made(part: SalesPanel) -> Forecast:
        if result is None:
            return methods[name](part, origin, model.horizon)
        return combined(result.choice, methods, part, origin, model.horizon)

    choice = plain_choice(name) if result is None else result.choice
    past = Past(Blend(engine, model, choice, sales=panel, country=country, kept=home.trees), panel)

    forecast, files = deliver(
        folder, panel, made, model.horizon, wishes, past=past, sums_by=methods[name], pieces=pieces
    )
    if keep:
        used = None if result is None else result.choice
        keep_basis(home, engine, panel, model, used, folder, reconciled=wishes.reconcile)
    if wishes.prices and "price" in panel.frame.columns:
        progress("prices")
        files += price_files(folder, engine, panel, model, wishes.formats)
    progress("report")
    report = folder / "report.html"
    shown = panel if len(forecast) == panel.n_series else panel.select(forecast.ids)
    beside = asides(engine, model, panel, result) if panel.n_series <= LARGE else None
    data = ReportData(
        panel=shown,
        forecast=forecast,
        created=datetime.now(UTC).astimezone(),
        backtest=result,
        privacy=privacy,
        sent=sent,
        language=wishes.language,
        asides=beside,
        **gathered(home, folder, files),
    )
    reasons = reasons_for(engine, model, shown, data.largest(), country=country)
    write_report(report, replace(data, contributions=reasons))
    return Outcome(result, forecast, files[0], report, files)
