"""How good a backbone is as it is: rolling windows of sales files, beside what statistics can do.

The windows of a file end with it and do not overlap: 28 days, 8 weeks or 6 months each. Nothing is trained or chosen;
every method forecasts the same series from the same sales, and scores are means over the windows. Beside each
backbone stands the same with its spread set right on earlier windows, ``MODEL+calibrated``: each test window has a
calibration of its own, fitted to windows that end before its origin, as a retailer would have it on that day.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from trend_common import __version__
from trend_common.backbones import Backbone, load_backbone
from trend_common.baselines import BASELINES, baseline_forecast
from trend_common.calibration import Calibration
from trend_common.covariates import DEFAULT_HORIZON
from trend_common.errors import DataError, UsageError
from trend_common.forecasts import Forecast
from trend_common.metrics import pit_coverage
from trend_common.panel import SalesPanel, read
from trend_common.predicting import predict
from trend_common.quick import Engine
from trend_common.scoring import MINIMUM_HISTORY, Score, actuals, panel_before, scale_of, score
from trend_common.windows import PanelWindows
from trend_server.head_scores import HeadScores

__all__ = [
    "CALIBRATED",
    "MEASURES",
    "REFERENCE",
    "Evaluation",
    "Result",
    "Settings",
    "evaluate",
    "read_panels",
    "relative",
]

MEASURES: Final = ("wape", "mase", "rmse", "sql", "wql", "coverage80", "coverage90", "pit80", "pit90")
REFERENCE: Final = "seasonal-naive"
RELATIVE: Final = ("sql", "mase", "wql")
"""Measures that are compared over data sets, as a ratio to a reference."""
CALIBRATED: Final = "+calibrated"
"""What the name of a backbone ends with whose spread was set right."""

_PLACES: Final = ("pit80", "pit90")
_FEWEST_WINDOWS: Final = 4
"""Earlier windows without which no spread is touched: two say more about their own weather than about the model."""

_PHASES: Final = "same-phase-mean"
_SUFFIXES: Final = (".csv", ".csv.gz", ".parquet")


@dataclass(frozen=True)
class Settings:
    """What is evaluated, and on how much.

    Attributes:
        models: Backbones, by name or folder.
        baselines: Statistical methods, of :data:`trend_common.baselines.BASELINES`.
        windows: Rolling windows of each file.
        series: Most series of each file, drawn at random.
        seed: Of that draw.
        context: Steps of history that a backbone sees; None takes its longest.
        device: Where the backbones compute.
        skip: Leave out so many windows at the end of each file: for choices that the last windows must not see.
        calibrate: Earlier windows that a calibration is fitted to, as far as the file reaches back, at least four if
            so many are asked for; 0 for none.
        engine: Of :func:`trend_common.predicting.predict`.

    Raises:
        UsageError: A baseline is unknown, or nothing is to be evaluated.
    """

    models: tuple[str, ...] = ("trend-small",)
    baselines: tuple[str, ...] = BASELINES
    windows: int = 3
    series: int = 150
    seed: int = 0
    context: int | None = None
    device: str = "cpu"
    skip: int = 0
    calibrate: int = 8
    engine: Engine = "torch"

    def __post_init__(self) -> None:
        unknown = [name for name in self.baselines if name not in BASELINES]
        if unknown:
            raise UsageError(f"There is no method {unknown[0]!r}.", f"Methods are {', '.join(BASELINES)}.")
        if not self.models and not self.baselines:
            raise UsageError("Nothing is to be evaluated.", "Name a model or a method.")


@dataclass
class Result:
    """One method on one data set; ``scores`` and ``places`` have one entry a window.

    ``places`` are :func:`trend_common.metrics.pit_coverage` of the 80 and the 90 % interval, ``pit80`` and ``pit90``.
    """

    data: str
    model: str
    scores: list[Score] = field(default_factory=list)
    places: list[tuple[float, float]] = field(default_factory=list)
    seconds: float = 0.0
    heads: HeadScores = field(default_factory=HeadScores)

    def mean(self, key: str) -> float:
        """Mean over the windows on which the measure is defined; NaN where there is none."""
        if key in _PLACES:
            values = [one[_PLACES.index(key)] for one in self.places]
        else:
            values = [float(one[key]) for one in self.scores]  # type: ignore[literal-required]
        found = [value for value in values if not math.isnan(value)]
        return sum(found) / len(found) if found else math.nan

    def to_json(self) -> dict[str, Any]:
        """One entry of ``results``."""
        return {
            "data": self.data,
            "model": self.model,
            **{key: self.mean(key) for key in MEASURES},
            "series": max(one["series"] for one in self.scores),
            "windows": len(self.scores),
            "seconds": self.seconds,
            **self.heads.to_json(),
        }


@dataclass(frozen=True)
class Evaluation:
    """All results, in the order of the data sets and, within each, of the methods."""

    settings: Settings
    results: tuple[Result, ...]

    def summary(self) -> dict[str, dict[str, dict[str, float | int]]]:
        """Reference → method → geometric means over the data sets of its measures relative to the reference's.

        All methods are compared with the seasonal naive, the backbones with every baseline. ``better`` counts the
        data sets on which the method's SQL is below the reference's.
        """
        names = list(dict.fromkeys(one.model for one in self.results))
        ours = [name for name in names if name.removesuffix(CALIBRATED) in self.settings.models]
        found: dict[str, dict[str, dict[str, float | int]]] = {}
        for reference in (name for name in names if name in self.settings.baselines):
            compared = names if reference == REFERENCE else ours
            found[reference] = {
                name: relative(self.results, name, reference) for name in compared if name != reference
            }
        return {reference: methods for reference, methods in found.items() if methods}

    def to_json(self) -> dict[str, Any]:
        """What ``--json`` writes; a measure that is undefined is null."""
        settings = self.settings
        asked = {key: getattr(settings, key) for key in ("windows", "series", "seed", "skip", "calibrate", "engine")}
        body = {
            "settings": asked,
            "results": [one.to_json() for one in self.results],
            "summary": {"relative_to": self.summary()},
        }
        return {"schema": 1, "version": __version__, "command": "evaluate", **_plain(body)}


def relative(results: Sequence[Result], model: str, reference: str) -> dict[str, float | int]:
    """Geometric means over the data sets of ``model``'s measures relative to those of ``reference``.

    A data set on which a measure is undefined, or zero for either, is left out of that measure; ``data_sets`` counts
    those that SQL rests on.
    """
    found: dict[str, float | int] = {}
    of = {(one.data, one.model): one for one in results}
    data = [one.data for one in results if one.model == reference and (one.data, model) in of]
    for key in RELATIVE:
        pairs = [(of[name, model].mean(key), of[name, reference].mean(key)) for name in data]
        logs = [math.log(ours / theirs) for ours, theirs in pairs if ours > 0 and theirs > 0]
        found[key] = math.exp(sum(logs) / len(logs)) if logs else math.nan
        if key == "sql":
            found["data_sets"] = len(logs)
            found["better"] = sum(ours < theirs for ours, theirs in pairs)
    return found


def read_panels(paths: Sequence[Path], settings: Settings, say: Callable[[str], None]) -> list[SalesPanel]:
    """Read sales files, each as one panel of at most ``settings.series`` series that is long enough.

    Of a folder, all tables in it are read, and those that cannot be used are told to ``say`` and passed over.

    Raises:
        UsageError: A path is not there, or two files have one name.
        DataError: A file that was named cannot be used, or none is left.
    """
    panels: dict[str, SalesPanel] = {}
    for path in paths:
        if not path.exists():
            raise UsageError(f"There is no file {path}.", "Name sales files, or a folder of them.")
        inside = (
            sorted(one for one in path.iterdir() if one.name.lower().endswith(_SUFFIXES)) if path.is_dir() else []
        )
        for file in inside if path.is_dir() else [path]:
            try:
                panel = _long_enough(_sampled(read(file), settings), settings)
            except DataError as error:
                if file is path:
                    raise
                say(f"{file.name} is passed over: {error.message}")
                continue
            if panel.name in panels:
                raise UsageError(f"Two files are called {panel.name}.", "Rename one of them.")
            panels[panel.name] = panel
    if not panels:
        raise DataError("There is no sales file to evaluate on.", "Name files, or a folder that holds some.")
    return list(panels.values())


def evaluate(
    panels: Sequence[SalesPanel],
    settings: Settings,
    *,
    progress: Callable[[str, str], None] = lambda _data, _method: None,
    finished: Callable[[list[Result]], None] = lambda _: None,
) -> Evaluation:
    """Forecast and score every window of every panel.

    Args:
        panels: The sales.
        settings: What to evaluate.
        progress: Called with a data set and a method before each forecast.
        finished: Called with the results of each data set.

    Raises:
        UsageError: A backbone cannot be had, or was never trained.
        DataError: A panel has no series that can be scored.
    """
    backbones = {name: _backbone(name).to(settings.device) for name in settings.models}
    results: list[Result] = []
    for panel in panels:
        found = _compare(panel, backbones, settings, partial(progress, panel.name))
        if not found:
            raise DataError(
                f"{panel.name} has no series with enough sales before its windows and any in them.",
                "Leave this file out.",
            )
        finished(found)
        results += found
    return Evaluation(settings, tuple(results))


def _backbone(name: str) -> Backbone:
    found = load_backbone(name)
    if found.needs_pretraining:
        raise UsageError(
            f"The layers around the core of {name} are still as they were drawn: its forecasts are noise.",
            f"Train them first: trend-server pretrain --backbone {name} --freeze-core --out FOLDER.",
        )
    return found


def _compare(
    panel: SalesPanel, backbones: Mapping[str, Backbone], settings: Settings, progress: Callable[[str], None]
) -> list[Result]:
    horizon = DEFAULT_HORIZON[panel.freq]
    origins = _origins(panel, settings)
    asked = {name: _Asked(backbone, panel, settings) for name, backbone in backbones.items()}
    calibrated = {name: f"{name}{CALIBRATED}" for name in backbones if settings.calibrate}
    names = [each for name in backbones for each in (name, *([calibrated[name]] if calibrated else []))]
    results = {name: Result(panel.name, name) for name in (*names, *settings.baselines)}
    for origin in origins:
        known, truth = panel_before(panel, origin), actuals(panel, origin, horizon)
        made: dict[str, Forecast] = {}
        for name in (*backbones, *settings.baselines):
            progress(name)
            started = time.perf_counter()
            made[name] = (
                asked[name].at(origin)
                if name in backbones
                else baseline_forecast([name], known, origin, horizon)[name]
            )
            results[name].seconds += time.perf_counter() - started
        for name, widened in calibrated.items():
            started = time.perf_counter()
            made[widened] = asked[name].calibration(origin).apply(made[name])
            results[widened].seconds += time.perf_counter() - started
        ids = [name for name in truth.ids if all(name in forecast.ids for forecast in made.values())]
        if not ids:
            continue
        y, scale = truth.select(ids).y, scale_of(panel, ids, origins[0])
        for name, forecast in made.items():
            scored = forecast.select(ids)
            results[name].scores.append(score(y, scored, scale))
            results[name].places.append((pit_coverage(y, scored, 0.8), pit_coverage(y, scored, 0.9)))
        phases = made[_PHASES] if _PHASES in made else baseline_forecast([_PHASES], known, origin, horizon)[_PHASES]
        for name, backbone in backbones.items():
            windows = asked[name].windows(origin)
            at = windows.step_of(origin)
            results[name].heads.add(backbone, windows, at, y, phases.select(ids), settings.device)
    return [one for one in results.values() if one.scores]


def _origins(panel: SalesPanel, settings: Settings) -> pd.DatetimeIndex:
    """First steps of the windows, ascending."""
    horizon = DEFAULT_HORIZON[panel.freq]
    steps = pd.date_range(end=panel.end, periods=horizon * (settings.windows + settings.skip), freq=panel.offset)
    return steps[::horizon][: settings.windows]


class _Asked:
    """One backbone and what it said from each origin of a panel, from the panel as it was known there."""

    def __init__(self, backbone: Backbone, panel: SalesPanel, settings: Settings) -> None:
        self._backbone, self._panel, self._settings = backbone, panel, settings
        self._horizon = DEFAULT_HORIZON[panel.freq]
        self._forecasts: dict[pd.Timestamp, Forecast] = {}

    def windows(self, origin: pd.Timestamp) -> PanelWindows:
        """The panel's windows as they were known at ``origin``."""
        context = self._settings.context or self._backbone.max_context
        return PanelWindows(panel_before(self._panel, origin), context=context)

    def at(self, origin: pd.Timestamp) -> Forecast:
        """The forecast from ``origin`` on."""
        if origin not in self._forecasts:
            windows = self.windows(origin)
            self._forecasts[origin] = predict(
                self._backbone,
                windows,
                origin=windows.step_of(origin),
                horizon=self._horizon,
                device=self._settings.device,
                engine=self._settings.engine,
            )
        return self._forecasts[origin]

    def calibration(self, origin: pd.Timestamp) -> Calibration:
        """Fitted to the windows that end before ``origin``."""
        known = panel_before(self._panel, origin)
        steps = pd.date_range(end=origin, periods=self._horizon * self._settings.calibrate + 1, freq=known.offset)
        pairs = []
        for past in reversed(steps[:: self._horizon][:-1]):
            if len(pd.date_range(known.start, past, freq=known.offset)) <= MINIMUM_HISTORY[known.freq]:
                break
            truth, forecast = actuals(known, past, self._horizon), self.at(past)
            ids = [name for name in truth.ids if name in forecast.ids]
            if ids:
                pairs.append((truth.select(ids).y, forecast.select(ids)))
        if len(pairs) < min(_FEWEST_WINDOWS, self._settings.calibrate):
            return Calibration()
        return Calibration.fit(pairs, np.nan_to_num(scale_of(known, pairs[0][1].ids, origin).absolute))


def _sampled(panel: SalesPanel, settings: Settings) -> SalesPanel:
    """At most ``settings.series`` random series."""
    if panel.n_series <= settings.series:
        return panel
    rows = np.random.default_rng(settings.seed).choice(panel.n_series, settings.series, replace=False)
    return panel.select(panel.ids[row] for row in sorted(rows))


def _long_enough(panel: SalesPanel, settings: Settings) -> SalesPanel:
    steps = len(pd.date_range(panel.start, panel.end, freq=panel.offset))
    horizon, minimum = DEFAULT_HORIZON[panel.freq], MINIMUM_HISTORY[panel.freq]
    windows = settings.windows + settings.skip
    if steps < minimum + windows * horizon:
        raise DataError(
            f"{panel.name} covers {steps} steps; {windows} windows of {horizon} after {minimum} steps of history "
            f"need {minimum + windows * horizon}.",
            "Use fewer --windows, or a longer file.",
        )
    return panel


def _plain(value: Any) -> Any:
    """JSON has no NaN, and six digits are more than any figure here deserves."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
