"""What is measured: for Prometheus, and the latency that an alert watches. Nothing of the sales is in it."""

from __future__ import annotations

import os
import time
from collections import deque
from typing import Final

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from trend_client.serve.schemas import DriftReport, LatencyReport

__all__ = ["Latency", "Metrics"]

_SECONDS: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_WINDOWS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_PERIOD: Final = 300.0
_LAST: Final = 5000
_FEWEST: Final = 50


class Latency:
    """Seconds of the requests of the last five minutes, of this process.

    Args:
        limit: Seconds that the 99th percentile may take.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._seen: deque[tuple[float, float]] = deque(maxlen=_LAST)

    def add(self, seconds: float) -> None:
        """A request was answered."""
        self._seen.append((time.monotonic(), seconds))

    def report(self) -> LatencyReport:
        """Percentiles, and whether they are an alert; with fewer than 50 requests they never are."""
        since = time.monotonic() - _PERIOD
        while self._seen and self._seen[0][0] < since:
            self._seen.popleft()
        if not self._seen:
            return LatencyReport(requests=0, p50=None, p99=None, alert=False)
        p50, p99 = (float(one) for one in np.quantile([seconds for _, seconds in self._seen], (0.5, 0.99)))
        count = len(self._seen)
        return LatencyReport(requests=count, p50=p50, p99=p99, alert=count >= _FEWEST and p99 > self._limit)


class Metrics:
    """The series that ``/metrics`` gives; with several workers, summed over all of them."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        self.requests = Counter(
            "trend_requests", "Requests answered.", ["endpoint", "method", "status"], registry=registry
        )
        self.seconds = Histogram(
            "trend_request_seconds", "Seconds of a request.", ["endpoint"], buckets=_SECONDS, registry=registry
        )
        self.rejected = Counter("trend_rejected", "Requests turned away with 503.", registry=registry)
        self.batch_windows = Histogram(
            "trend_batch_windows", "Windows of a forward pass.", buckets=_WINDOWS, registry=registry
        )
        self.batch_seconds = Histogram(
            "trend_batch_seconds", "Seconds of a forward pass.", buckets=_SECONDS, registry=registry
        )
        self.waiting = self._gauge("trend_waiting_windows", "Windows admitted and not yet answered.", "livesum")
        self.ready = self._gauge("trend_ready_workers", "Workers whose model is loaded.", "livesum")
        self.outcomes = self._gauge("trend_drift_outcomes", "Past forecasts compared with sales.", "mostrecent")
        self.coverage = Gauge(
            "trend_drift_coverage",
            "Share of outcomes within the central interval.",
            ["interval"],
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self.drift_alert = self._gauge("trend_drift_alert", "1 if intervals hold too rarely.", "mostrecent")
        self.p99 = self._gauge(
            "trend_latency_p99_seconds", "Of the last five minutes; the slowest worker.", "livemax"
        )
        self.latency_alert = self._gauge("trend_latency_alert", "1 if the 99th percentile is too high.", "livemax")

    def _gauge(self, name: str, text: str, mode: str) -> Gauge:
        return Gauge(name, text, registry=self._registry, multiprocess_mode=mode)  # type: ignore[arg-type]

    def note(self, drift: DriftReport, latency: LatencyReport, waiting: int) -> None:
        """Set the gauges."""
        self.outcomes.set(drift.outcomes)
        for interval, share in (("80", drift.coverage80), ("90", drift.coverage90)):
            if share is not None:
                self.coverage.labels(interval).set(share)
        self.drift_alert.set(drift.alert)
        self.p99.set(latency.p99 or 0.0)
        self.latency_alert.set(latency.alert)
        self.waiting.set(waiting)

    def text(self) -> bytes:
        """The text that Prometheus reads."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
