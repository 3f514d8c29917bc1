"""The model that a service answers with, and the windows it is asked for.

Windows of several callers are forecast together. So that company changes nothing, a batch is filled up to a multiple
of eight windows: the vector units of a CPU then treat each window alike wherever it stands, and a caller gets the
same bits alone or among others (``tests/client/serve`` compares them).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import groupby
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from trend_client.decisions.blend import SLOW, load_basis
from trend_client.decisions.outlook import Outlook, method_of
from trend_client.engine import Engine
from trend_client.gate import CHOSEN, Choice
from trend_client.home import ClientHome
from trend_client.outcome import Model, load_model
from trend_client.parts import Parts, average, overlaid
from trend_client.planned import planned
from trend_client.serve.problems import ProblemError
from trend_client.serve.schemas import ForecastRequest, SalesRow
from trend_client.serve.settings import MAX_CELLS, MAX_HORIZON, MAX_SERIES, ServeSettings
from trend_client.siblings import Siblings
from trend_client.trees import TREES
from trend_client.trees.forecaster import TreeForecaster
from trend_client.workplace import Workplace
from trend_common.backbones.base import LEVELS, Batch
from trend_common.baselines import baseline_forecast
from trend_common.closures import without_shut_days
from trend_common.console import console
from trend_common.covariates import DEFAULT_CONTEXT, DEFAULT_HORIZON
from trend_common.errors import PolicyError, UsageError
from trend_common.forecasts import Forecast
from trend_common.panel import Finding, Freq, SalesPanel, from_frame
from trend_common.quick import quick_or_torch
from trend_common.rollout import Forecaster, forecast_steps
from trend_common.scoring import next_origin
from trend_common.tensors import Tensors, tensors_sha256
from trend_common.windows import PanelWindows

__all__ = ["Job", "Prepared", "ServedModel", "panel_of"]

_EIGHT: Final = 8
_ROLES: Final = ("date", "store", "product", "units", "price", "promo", "holiday", "stock", "category", "description")
_TEXTS: Final = {"store": "all", "product": "", "category": "", "description": ""}
"""The columns of text, with what stands where a row says nothing."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A panel made ready to be forecast from its end on: that of the sales file, or of the rows of a request."""

    windows: PanelWindows
    origin: int
    hints: NDArray[np.float32]
    young: frozenset[int]

    @classmethod
    def of(cls, panel: SalesPanel, *, context: int, country: str | None, ahead: int) -> Prepared:
        """Windows, and what to expect of series without history."""
        windows = PanelWindows(panel, context=context, country=country, ahead=ahead)
        origin, siblings = windows.step_of(next_origin(panel)), Siblings(windows)
        return cls(windows, origin, siblings.hints(origin), frozenset(siblings.young(origin).tolist()))

    def batch(self, rows: NDArray[np.int64], step: int, size: int) -> Batch:
        """Windows of ``rows`` whose horizon begins ``step`` steps after the panel's end."""
        origins = np.full(len(rows), self.origin + step)
        return self.windows.batch(rows, origins, size, level_hint=self.hints[rows])


@dataclass(frozen=True, eq=False)
class Job:
    """What one caller wants.

    Attributes:
        prepared: Whose series.
        rows: [N] which of them.
        horizon: H.
        method: By which model.
        findings: What was noticed in the rows of the request.
        said: For the blend, what the statistical methods among it say of these series.
        ready: The answer, where the forecast files have it.
    """

    prepared: Prepared
    rows: NDArray[np.int64]
    horizon: int
    method: str
    findings: tuple[Finding, ...] = ()
    said: Mapping[str, Forecast] = field(default_factory=dict)
    ready: Forecast | None = None

    @property
    def size(self) -> int:
        """N, the number of windows."""
        return len(self.rows)

    @property
    def panel(self) -> SalesPanel:
        """Whose series."""
        return self.prepared.windows.panel


class ServedModel:
    """Everything that a worker holds in memory.

    Args:
        engine: The backbone.
        model: The adapters of the home.
        panel: The sales file's panel; None serves rows alone.
        freq: Which the adapters are for.
        country: For public holidays.
        default: The method where a caller names none, and why it is the default.
        precision: Of the forward pass.
        max_batch: Windows of one forward pass.
    """

    def __init__(
        self,
        engine: Engine,
        model: Model,
        panel: SalesPanel | None,
        *,
        freq: str,
        country: str | None,
        default: tuple[str, str],
        precision: str = "float32",
        max_batch: int = 64,
    ) -> None:
        self.engine, self.model, self.freq, self.country = engine, model, freq, country
        self.method, self.chosen_by = default
        self.precision, self.max_batch = precision, max_batch
        self.place: Workplace | None = None
        self._quick: dict[tuple[str, int], Forecaster] = {}
        self.stored: Prepared | None = None
        self.position: dict[str, int] = {}
        self.choice: Choice | None = None
        self.written: Forecast | None = None
        self.trees: TreeForecaster | None = None
        if panel is not None:
            self.stored = Prepared.of(panel, context=model.context, country=country, ahead=MAX_HORIZON)
            self.position = {series: row for row, series in enumerate(panel.ids)}

    @classmethod
    def load(cls, settings: ServeSettings) -> ServedModel:
        """Read the sales file, the backbone and the adapters of the home.

        Raises:
            TrendError: One of them cannot be used.
        """
        torch.set_num_threads(settings.threads)
        place = Workplace(settings.home, device=settings.device, backbone=settings.backbone, needs_data=False)
        place.source = settings.source or place.source
        panel = place.panel() if settings.source is not None else None
        if settings.source is not None and place.home.data_source() != settings.source:
            place.home.save_data_source(settings.source)
        freq = _freq_of(place.home) if panel is None else panel.freq
        engine = place.engine()
        model = load_model(place.home, engine, _no_series(freq) if panel is None else panel)
        if panel is not None:
            panel, noted = planned(place, panel, model.horizon)
            for line in noted:
                console.print(line, soft_wrap=True, markup=False)
        served = cls(
            engine,
            model,
            panel,
            freq=freq,
            country=place.country,
            default=_default_method(place.home, model),
            precision=settings.precision,
            max_batch=settings.max_batch,
        )
        served.place = place
        if panel is not None:
            served._as_forecast(place, panel)
        if settings.precision == "int8":
            served._quicken()
        served._warm_up()
        return served

    def _as_forecast(self, place: Workplace, panel: SalesPanel) -> None:
        """Answer with the blend of ``trend-client forecast``, and with its files as far as they hold."""
        basis = load_basis(place.home, panel)
        if basis is None:
            return
        method = method_of(place, self.model, basis)
        look = Outlook(place, panel, self.engine, self.model, method, basis)
        if basis.choice is not None:
            self.choice = look.blend.choice
            if TREES in self.choice.used:
                self.trees = look.blend.trees
            self.method, self.chosen_by = CHOSEN, "the weights of the last backtest, as trend-client forecast"
        if look.written_steps and (basis.choice is not None or self.method == method):
            self.written = look.kept(panel.ids)
        self.model = replace(self.model, horizon=basis.horizon)

    def _quicken(self) -> None:
        """Make an int8 copy of each model that is as good on past windows of the sales file; others stay in torch.

        The copies are kept in memory alone. Rounding to eight bits looks at the whole batch, so that with int8
        company does change the third digit.
        """
        if self.stored is None:
            raise UsageError(
                "int8 is checked on past windows before it is used, and there is no sales file.",
                "Add --data sales.csv, or leave --precision out.",
            )
        prepared, rows = self.stored, np.arange(len(self.stored.windows.ids))
        for method, tensors in self.model.adapters.items():
            parts = Parts.of(tensors)
            for number, member in enumerate((*parts.members, *([parts.launch] if parts.launch is not None else []))):
                self.engine.use(member)
                self._quick[method, number] = quick_or_torch(
                    self.engine.backbone,
                    prepared.windows,
                    origin=prepared.origin,
                    horizon=self.model.horizon,
                    rows=rows,
                )
        if all(one is self.engine.backbone for one in self._quick.values()):
            self.precision = "float32"

    def _warm_up(self) -> None:
        """Forecast once, so that the first caller does not wait for what is made at the first forecast."""
        if self.stored is not None:
            self.forecast([self.stored_job(self.stored.windows.ids[:1], None, None)])

    def adapter_hashes(self) -> dict[str, str | None]:
        """Method → SHA-256 of its tensors; None is the backbone alone."""
        return {name: None if one is None else tensors_sha256(one) for name, one in self.model.adapters.items()}

    def job(self, request: ForecastRequest) -> Job:
        """Check a request and make its windows.

        Raises:
            ProblemError: A series or method that is not there.
            TrendError: The rows cannot be used.
        """
        if request.ids is not None:
            return self.stored_job(request.ids, request.horizon, request.method)
        assert request.rows is not None
        panel = panel_of(request.rows, request.freq)
        context = min(
            self.model.context if panel.freq == self.freq else DEFAULT_CONTEXT[panel.freq],
            self.engine.backbone.max_context,
        )
        horizon = request.horizon or (self.model.horizon if panel.freq == self.freq else DEFAULT_HORIZON[panel.freq])
        prepared = Prepared.of(panel, context=context, country=self.country, ahead=horizon)
        method = self._method(request.method, panel.freq)
        job = Job(prepared, np.arange(panel.n_series), horizon, method, panel.findings)
        return self._with_said(job)

    def quick(self, request: ForecastRequest) -> bool:
        """Whether making the job takes next to nothing."""
        if request.ids is None:
            return False
        method = request.method or self.method
        horizon = request.horizon or self.model.horizon
        return method != CHOSEN or (self.written is not None and horizon <= self.written.horizon)

    def known(self, ids: Sequence[str]) -> list[str]:
        """The series, each once.

        Raises:
            ProblemError: There is no sales file, or it lacks one of them.
        """
        wanted = list(dict.fromkeys(ids))
        if self.stored is None:
            raise ProblemError(
                409,
                "no-sales-file",
                "This service was started without a sales file.",
                "Send rows, or start it with --data sales.csv.",
            )
        missing = [name for name in wanted if name not in self.position]
        if missing:
            raise ProblemError(
                404,
                "unknown-series",
                f"{len(missing)} of {len(wanted)} series are not in the sales file: {', '.join(missing[:5])}.",
                "GET /v1/series lists all ids. A series that the file lacks can be forecast from rows.",
            )
        return wanted

    def _with_said(self, job: Job) -> Job:
        """A job of the blend with the forecasts of the statistical methods that it needs."""
        if job.method != CHOSEN or self.choice is None:
            return job
        panel, windows = job.panel, job.prepared.windows
        ids = [windows.ids[row] for row in job.rows]
        origin, said = next_origin(panel), {}
        for name in self.choice.used:
            if name in self.model.adapters or name == TREES:
                continue
            mine = [one for one in ids if name not in SLOW or name in self.choice.weights_of(one)]
            if mine:
                part = replace(panel.select(mine), until=panel.calendar_end)
                said[name] = baseline_forecast([name], part, origin, job.horizon)[name]
        return replace(job, said=said)

    def stored_job(self, ids: Sequence[str], horizon: int | None, method: str | None) -> Job:
        """Windows of series of the sales file.

        Raises:
            ProblemError: A series or method that is not there.
        """
        wanted = self.known(ids)
        assert self.stored is not None
        rows = np.array([self.position[name] for name in wanted], dtype=np.int64)
        job = Job(self.stored, rows, horizon or self.model.horizon, self._method(method, self.freq))
        written = self.written
        if job.method == self.method and written is not None and job.horizon <= written.horizon:
            steps = slice(0, job.horizon)
            found = Forecast(
                tuple(wanted),
                written.ds[rows, steps],
                written.levels,
                written.quantiles[rows, steps],
                written.mean[rows, steps],
            )
            return replace(job, ready=found)
        return self._with_said(job)

    def _method(self, wanted: str | None, freq: str) -> str:
        # An adapter was trained for one frequency; other data get the backbone as it is shipped.
        available = list(self.model.adapters) if freq == self.freq else ["zero-shot"]
        if self.choice is not None and freq == self.freq:
            available.append(CHOSEN)
        if wanted is None:
            return self.method if self.method in available else "zero-shot"
        if wanted not in available:
            raise ProblemError(
                409,
                "no-such-model",
                f"This home has no {wanted} model for data of the frequency {freq}.",
                f"There is: {', '.join(available)}. trend-client personalise makes a personal one.",
            )
        return wanted

    def forecast(self, jobs: Sequence[Job]) -> list[Forecast]:
        """Forecast the series of all jobs, those of one method and horizon in one forward pass; in their order.

        A job of the blend is one of each model in it, put together at the end.
        """
        alone: list[Job] = []
        parts: list[dict[str, int]] = []
        for job in jobs:
            methods = [job.method] if job.method != CHOSEN else self._learned(job)
            parts.append({name: len(alone) + place for place, name in enumerate(methods)})
            alone += [replace(job, method=name) for name in methods]
        found = self._each(alone)
        return [
            self._blended(job, {name: found[at] for name, at in places.items()})
            if job.method == CHOSEN
            else found[places[job.method]]
            for job, places in zip(jobs, parts, strict=True)
        ]

    def _learned(self, job: Job) -> list[str]:
        """The models that the blend of these series needs; one at least, for series that no other method can do."""
        assert self.choice is not None
        ids = [job.prepared.windows.ids[row] for row in job.rows]
        wanted = {name for one in ids for name in self.choice.weights_of(one)}
        needed = wanted & set(self.model.adapters) | ({"zero-shot"} if TREES in wanted else set())
        ranked = [name for name in self.choice.ranking if name in needed]
        # Trees start from the pretrained model, which may not be ranked itself.
        return ranked + sorted(needed - set(ranked)) or ["zero-shot"]

    def _blended(self, job: Job, learned: Mapping[str, Forecast]) -> Forecast:
        assert self.choice is not None
        made = {**job.said, **learned}
        if self.trees is not None and self.stored is not None and "zero-shot" in learned:
            made |= self._by_trees(self.trees, next_origin(self.stored.windows.panel), job, learned["zero-shot"])
        return self.choice.apply(made).select(job.prepared.windows.ids[row] for row in job.rows)

    def _by_trees(
        self, trees: TreeForecaster, fitted_to: pd.Timestamp, job: Job, plain: Forecast
    ) -> dict[str, Forecast]:
        """What the trees say; nothing further ahead than they were fitted for, as in a blend of the commands."""
        if job.horizon > trees.horizon:
            return {}
        part = replace(job.panel.select(plain.ids), until=job.panel.calendar_end)
        return {TREES: trees(part, next_origin(part), job.horizon, plain=plain, cut=fitted_to)}

    def _each(self, jobs: Sequence[Job]) -> list[Forecast]:
        """Forecast jobs of one model each."""
        found: dict[int, Forecast] = {}

        def kind(number: int) -> tuple[str, int, int]:
            job = jobs[number]
            return job.method, job.horizon, job.prepared.windows.context

        for (method, horizon, _), group in groupby(sorted(range(len(jobs)), key=kind), key=kind):
            numbers = list(group)
            together = self._group([jobs[number] for number in numbers], method, horizon)
            found |= dict(zip(numbers, together, strict=True))
        return [found[number] for number in range(len(jobs))]

    def _group(self, jobs: Sequence[Job], method: str, horizon: int) -> list[Forecast]:
        parts = Parts.of(self.model.adapters[method])
        every = [job.rows for job in jobs]
        members = [
            self._member(self._wearing(method, number, one), jobs, every, horizon)
            for number, one in enumerate(parts.members)
        ]
        found = [average(list(several)) for several in zip(*members, strict=True)]
        if parts.launch is None:
            return found
        young = [np.array([at for at, row in enumerate(job.rows) if int(row) in job.prepared.young]) for job in jobs]
        some = [number for number, at in enumerate(young) if len(at)]
        forecaster = self._wearing(method, len(parts.members), parts.launch)
        launched = self._member(forecaster, [jobs[n] for n in some], [jobs[n].rows[young[n]] for n in some], horizon)
        for number, other in zip(some, launched, strict=True):
            found[number] = overlaid(found[number], young[number], other)
        return found

    def _wearing(self, method: str, number: int, tensors: Tensors | None) -> Forecaster:
        """What forecasts with a member of a model: its int8 copy, or the backbone with its tensors on."""
        quick = self._quick.get((method, number))
        if quick is not None and quick is not self.engine.backbone:
            return quick
        self.engine.use(tensors)
        return self.engine.backbone

    def _member(
        self, forecaster: Forecaster, jobs: Sequence[Job], rows: Sequence[NDArray[np.int64]], horizon: int
    ) -> list[Forecast]:
        """One member's forecasts of ``rows`` of each job."""
        if not jobs:
            return []
        every = [(job.prepared, int(row)) for job, part in zip(jobs, rows, strict=True) for row in part]
        quantiles, means = [], []
        with torch.inference_mode():
            for start in range(0, len(every), self.max_batch):
                found = self._pass(forecaster, every[start : start + self.max_batch], horizon)
                quantiles.append(found[0])
                means.append(found[1])
        split = np.cumsum([len(part) for part in rows])[:-1]
        values, mean = np.split(np.concatenate(quantiles), split), np.split(np.concatenate(means), split)
        return [_named(*one) for one in zip(jobs, rows, values, mean, strict=True)]

    def _pass(
        self, forecaster: Forecaster, wanted: Sequence[tuple[Prepared, int]], horizon: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """[N, H, Q] quantiles and [N, H] means of N windows, each the row of a panel."""
        # Neighbouring windows of one panel are cut out of it together.
        runs = [list(run) for _, run in groupby(wanted, key=lambda one: id(one[0]))]
        pieces = [(run[0][0], np.array([row for _, row in run], dtype=np.int64)) for run in runs]

        def window(step: int, size: int) -> Batch:
            made = _joined([prepared.batch(rows, step, size) for prepared, rows in pieces])
            return _filled(made).to(self.engine.device)

        found = forecast_steps(forecaster, window, 0, horizon)
        quantiles, mean = (one[: len(wanted)].cpu().numpy().astype(np.float64) for one in found)
        return quantiles, mean


def _joined(batches: Sequence[Batch]) -> Batch:
    """Batches of one context and horizon as one."""
    if len(batches) == 1:
        return batches[0]
    joined: dict[str, Any] = {}
    for one in fields(Batch):
        values = [getattr(batch, one.name) for batch in batches]
        joined[one.name] = torch.cat(values) if isinstance(values[0], Tensor) else None
    return Batch(**joined)


def _filled(batch: Batch) -> Batch:
    """With the last window repeated up to a multiple of eight."""
    missing = -len(batch) % _EIGHT
    if not missing:
        return batch
    return batch.rows(torch.cat([torch.arange(len(batch)), torch.full((missing,), len(batch) - 1)]))


def _named(job: Job, rows: NDArray[np.int64], quantiles: NDArray[np.float64], mean: NDArray[np.float64]) -> Forecast:
    prepared = job.prepared
    dates = prepared.windows.dates[prepared.origin : prepared.origin + mean.shape[1]].to_numpy()
    ids = tuple(prepared.windows.ids[row] for row in rows)
    return without_shut_days(Forecast.repaired(ids, dates, quantiles, mean, levels=LEVELS), prepared.windows.panel)


def panel_of(rows: Sequence[SalesRow], freq: Freq | None) -> SalesPanel:
    """The rows of a request as a panel, by the rules of a sales file.

    Raises:
        ProblemError: Too many series, or a time span that is too long for them.
        DataError: The sales cannot be used.
    """
    count = len({(row.store, row.product) for row in rows})
    if count > MAX_SERIES:
        raise ProblemError(
            413,
            "too-many-series",
            f"The rows are of {count} series.",
            f"Send at most {MAX_SERIES} in one request; several requests at a time are welcome.",
        )
    days = (max(row.date for row in rows) - min(row.date for row in rows)).days + 1
    if days * count > MAX_CELLS:
        raise ProblemError(
            413,
            "too-long",
            f"{count} series over {days} days are more than {MAX_CELLS:,} days.",
            "Send fewer series or fewer years; the model looks at the last year or so.",
        )
    columns: dict[str, pd.Series[Any]] = {}
    for name in _ROLES:
        values = [getattr(row, name) for row in rows]
        if name == "date":
            columns[name] = pd.to_datetime(pd.Series(values))
        elif name in _TEXTS:
            if any(values):
                columns[name] = pd.Series([value or _TEXTS[name] for value in values], dtype=object)
        elif name == "units" or any(value is not None for value in values):
            columns[name] = pd.Series(values, dtype=float)
    frame = pd.DataFrame(columns)
    return from_frame(frame, columns={name: name for name in columns}, freq=freq, name="request")


def _no_series(freq: Freq) -> SalesPanel:
    """A panel that holds nothing but its frequency, for a service without a sales file."""
    nothing = pd.DataFrame({"unique_id": [], "ds": pd.DatetimeIndex([]), "y": []})
    static = pd.DataFrame(columns=["store", "product", "category", "description"])
    return SalesPanel("none", freq, freq, nothing, nothing, static, columns={}, findings=(), rows=0)


def _freq_of(home: ClientHome) -> Freq:
    """The frequency of the federation whose adapter arrived last; days where there is none."""
    name = home.current_federation()
    known = home.plan(name) if name else None
    return known[0].freq if known is not None else "D"


def _default_method(home: ClientHome, model: Model) -> tuple[str, str]:
    """The best model on this home's last backtest, and why."""
    path = home.output / "backtest.json"
    try:
        found: Mapping[str, Any] = json.loads(path.read_text("utf-8"))
        losses = {
            name: float(found["methods"][name]["validation"]["sql"])
            for name in model.adapters
            if name in found["methods"]
        }
    except FileNotFoundError:
        losses = {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PolicyError(f"{path} is damaged.", "Run trend-client backtest or forecast again.") from error
    if losses:
        return min(losses, key=lambda name: losses[name]), "the lowest loss on validation in the last backtest"
    name = "shared" if "shared" in model.adapters else "zero-shot"
    return name, "no backtest yet: trend-client forecast makes one"
