"""One worker's state: the model, the batcher, past forecasts, what is measured."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from typing import TypeVar

import pandas as pd

from trend_client.serve.batching import Batcher, Busy
from trend_client.serve.desk import Desk
from trend_client.serve.guard import place_of
from trend_client.serve.metrics import Latency, Metrics
from trend_client.serve.past import PastForecasts
from trend_client.serve.problems import ProblemError
from trend_client.serve.schemas import Actual, Alert, DriftReport, Health
from trend_client.serve.served import Job, ServedModel
from trend_client.serve.settings import ServeSettings
from trend_common.errors import TrendError
from trend_common.forecasts import Forecast

__all__ = ["Service"]

_LOG = logging.getLogger("trend_client.serve")
_PREPARING = 2
_SMALL = 500
_QUIET = frozenset({"/live", "/ready", "/metrics", "/health", "/openapi.json", "(none)"})
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
T = TypeVar("T")


class Service:
    """What the endpoints share.

    Args:
        settings: Of the service.
        on_failure: Told why the model could not be loaded.
    """

    def __init__(self, settings: ServeSettings, on_failure: Callable[[TrendError], None] = lambda _: None) -> None:
        self.settings = settings
        self._on_failure = on_failure
        self._model: ServedModel | None = None
        self.metrics = Metrics()
        self.latency = Latency(settings.latency_alert_ms / 1000)
        self._prepare = ThreadPoolExecutor(_PREPARING, thread_name_prefix="prepare")
        self._files = ThreadPoolExecutor(1, thread_name_prefix="files")
        self._remembered: set[tuple[int, int, str]] = set()
        self._past: PastForecasts | None = None
        self.batcher: Batcher[Job, Forecast]
        self.desk = Desk(settings)
        self._loading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the file of past forecasts and begin to load the model; requests are answered once it is there."""
        self.batcher = Batcher(
            self._forecast,
            max_batch=self.settings.max_batch,
            max_wait=self.settings.max_wait_ms / 1000,
            max_queue=self.settings.max_queue,
            observe=self._batch,
        )
        self.batcher.start()
        self._loading = asyncio.create_task(self._load(), name="loading")

    async def stop(self) -> None:
        """Finish what was admitted, then close everything."""
        if self._loading is not None:
            await self._loading
        await self.batcher.close()
        await self.desk.close()
        self.metrics.ready.set(0)
        await asyncio.to_thread(self._prepare.shutdown)
        await asyncio.to_thread(self._files.shutdown)
        if self._past is not None:
            self._past.close()

    async def _load(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            path, tolerance = self.settings.folder / "past.sqlite", self.settings.drift_tolerance
            self._past = await loop.run_in_executor(self._files, lambda: PastForecasts(path, tolerance=tolerance))
            self._model = await loop.run_in_executor(self.batcher.thread, ServedModel.load, self.settings)
        except TrendError as error:
            self._on_failure(error)
        except Exception as error:
            _LOG.error("%s at %s", type(error).__name__, place_of(error))
            self._on_failure(
                TrendError(
                    f"The model could not be loaded: {type(error).__name__} at {place_of(error)}.",
                    "Try trend-client forecast with the same home and data, which says more.",
                )
            )
        else:
            self.metrics.ready.set(1)
            _LOG.info("ready: %d series, %s", len(self._model.position), self._model.method)

    @property
    def ready(self) -> bool:
        """Whether the model is loaded."""
        return self._model is not None

    @property
    def model(self) -> ServedModel:
        """The model.

        Raises:
            ProblemError: It is not loaded yet.
        """
        if self._model is None:
            raise ProblemError(
                503,
                "loading",
                "The model is not loaded yet.",
                "Ask again in a moment; GET /ready says when.",
                headers={"Retry-After": "2"},
            )
        return self._model

    def _forecast(self, jobs: object) -> list[Forecast]:
        return self.model.forecast(jobs)  # type: ignore[arg-type]

    def _batch(self, _jobs: int, windows: int, seconds: float) -> None:
        self.metrics.batch_windows.observe(windows)
        self.metrics.batch_seconds.observe(seconds)

    async def answered(
        self, size: int, prepare: Callable[[], Job], finish: Callable[[Job, Forecast], T], *, quick: bool = False
    ) -> T:
        """Admit, prepare, forecast among others, and finish.

        Args:
            size: Windows that will be asked for, at most.
            prepare: Makes the job; in a thread.
            finish: Makes the answer; in a thread if it is large.
            quick: ``prepare`` takes next to nothing, and needs no thread.

        Raises:
            ProblemError: The queue is full, or what ``prepare`` raised.
        """
        loop = asyncio.get_running_loop()
        with self._room(size):
            # A thread costs more than a few windows do.
            job = prepare() if quick else await loop.run_in_executor(self._prepare, prepare)
            found = job.ready or await self.batcher.submit(job, job.size)
            self._remember(job, found)
            if job.size * job.horizon <= _SMALL:
                return finish(job, found)
            return await loop.run_in_executor(self._prepare, finish, job, found)

    @contextmanager
    def _room(self, size: int) -> Iterator[None]:
        try:
            with self.batcher.admitted(size):
                yield
        except Busy as busy:
            self.metrics.rejected.inc()
            raise ProblemError(
                503,
                "busy",
                f"{self.batcher.pending} windows wait already.",
                f"Ask again in {busy.retry_after} s, with fewer callers at a time, or start more --workers.",
                headers={"Retry-After": str(busy.retry_after)},
            ) from None

    def _remember(self, job: Job, found: Forecast) -> None:
        """Keep the default model's forecasts of the sales file; each once."""
        model = self.model
        if job.prepared is not model.stored or job.method != model.method:
            return
        keys = [(int(row), job.horizon, job.method) for row in job.rows]
        new = [at for at, key in enumerate(keys) if key not in self._remembered]
        if new:
            self._remembered.update(keys)
            part = found.select([found.ids[at] for at in new])
            origin = pd.Timestamp(job.prepared.windows.dates[job.prepared.origin]).date()
            self._files.submit(self._keep, part, origin)

    def _keep(self, forecast: Forecast, origin: date) -> None:
        try:
            assert self._past is not None
            self._past.remember(forecast, origin)
        except Exception as error:  # a full disk must not stop the forecasts
            _LOG.error("past forecasts: %s at %s", type(error).__name__, place_of(error))

    async def compare(self, actuals: list[Actual]) -> tuple[int, int]:
        """Compare what was sold with past forecasts."""
        self.model  # noqa: B018 - says so while it is loading
        past = self._past
        assert past is not None
        return await asyncio.get_running_loop().run_in_executor(self._files, past.compare, actuals)

    async def drift(self) -> DriftReport:
        """How past forecasts held."""
        past = self._past
        if past is None:
            return DriftReport(outcomes=0, coverage80=None, coverage90=None, alert=False)
        return await asyncio.get_running_loop().run_in_executor(self._files, past.drift)

    async def health(self) -> Health:
        """Alerts, drift and latency; the gauges are set by the way."""
        drift, latency = await self.drift(), self.latency.report()
        self.metrics.note(drift, latency, self.batcher.pending)
        alerts = []
        if drift.alert:
            alerts.append(
                Alert(
                    code="drift",
                    detail=f"Of the last {drift.outcomes} outcomes {drift.coverage80:.0%} lay within the 80 % "
                    f"interval and {drift.coverage90:.0%} within the 90 % one.",
                    hint="Forecast from newer sales (start with a newer file), then run trend-client personalise and "
                    "backtest.",
                )
            )
        if latency.alert:
            alerts.append(
                Alert(
                    code="latency",
                    detail=f"The slowest of a hundred requests took {latency.p99:.2f} s or more.",
                    hint="Send fewer series at a time, start more --workers, or raise --latency-alert.",
                )
            )
        return Health(
            status="alert" if alerts else "ok",
            alerts=alerts,
            drift=drift,
            latency=latency,
            waiting=self.batcher.pending,
        )

    def observe(self, endpoint: str, method: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self.metrics.requests.labels(endpoint, method if method in _METHODS else "(other)", str(status)).inc()
        self.metrics.seconds.labels(endpoint).observe(seconds)
        if endpoint not in _QUIET and status < 400:
            self.latency.add(seconds)
