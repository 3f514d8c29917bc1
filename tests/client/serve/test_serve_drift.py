"""Past forecasts against what was then sold, latency, and the alerts about both."""

from __future__ import annotations

import asyncio
import os
import stat
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trend_client.serve.metrics import Latency
from trend_client.serve.past import FEWEST, PastForecasts
from trend_client.serve.schemas import Actual
from trend_client.serve.settings import ServeSettings
from trend_common.errors import UsageError
from trend_common.forecasts import LEVELS, Forecast

from .conftest import Serving


def forecast(first: date, steps: int = 10, scale: float = 100.0) -> Forecast:
    """Two series whose quantile of level p is p · scale."""
    days = np.array([np.datetime64(first + timedelta(days=step), "ns") for step in range(steps)])
    quantiles = np.broadcast_to(scale * np.array(LEVELS), (2, steps, len(LEVELS)))
    return Forecast.repaired(("a", "b"), days, quantiles, np.full((2, steps), scale / 2))


def test_what_was_sold_is_compared_once_and_at_both_ends(tmp_path: Path) -> None:
    past = PastForecasts(tmp_path / "past.sqlite", tolerance=0.1)
    today = date.today()
    past.remember(forecast(today), today)
    # Within 80 %, on its end, within 90 % alone, outside, and without a forecast.
    sold = [("a", 0, 50), ("a", 1, 90), ("a", 2, 93), ("b", 0, 96), ("b", 1, 10), ("c", 0, 5), ("a", 99, 5)]
    rows = [Actual(id=name, date=today + timedelta(days=step), units=units) for name, step, units in sold]
    assert past.compare(rows) == (5, 2)
    assert past.compare(rows[:3]) == (3, 0)
    found = past.drift()
    assert (found.outcomes, found.coverage80, found.coverage90, found.alert) == (5, 3 / 5, 4 / 5, False)
    past.close()


def test_the_forecast_that_knew_most_counts_and_survives_a_restart(tmp_path: Path) -> None:
    path, today = tmp_path / "past.sqlite", date.today()
    past = PastForecasts(path, tolerance=0.1)
    past.remember(forecast(today), today)
    past.remember(forecast(today + timedelta(days=1), scale=1000.0), today + timedelta(days=1))
    past.remember(forecast(today), today)
    past.close()
    past = PastForecasts(path, tolerance=0.1)
    past.compare([Actual(id="a", date=today + timedelta(days=2), units=500)])
    assert past.drift().coverage80 == 1.0
    past.compare([Actual(id="a", date=today, units=500)])
    assert past.drift().coverage80 == 0.5
    past.close()
    if os.name != "nt":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_alert_needs_enough_outcomes_and_intervals_that_are_too_narrow(tmp_path: Path) -> None:
    past, today = PastForecasts(tmp_path / "past.sqlite", tolerance=0.1), date.today()
    past.remember(forecast(today, steps=FEWEST), today)

    def sell(count: int, units: float) -> None:
        past.compare([Actual(id="a", date=today + timedelta(days=step), units=units) for step in range(count)])

    sell(FEWEST - 1, 5000)
    assert not past.drift().alert
    sell(FEWEST, 5000)
    assert past.drift().alert
    sell(FEWEST, 50)  # all of them inside: too wide is no alert
    assert (past.drift().coverage80, past.drift().alert) == (1.0, False)
    sell(25, 5000)
    assert past.drift().coverage80 == 0.75
    assert past.drift().alert, "75 % within 80 % is tolerated, 75 % within 90 % is not"
    past.close()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "past.sqlite"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(UsageError, match=r"past\.sqlite is damaged"):
        PastForecasts(path, tolerance=0.1)


def test_latency_is_an_alert_when_the_slowest_are_too_slow() -> None:
    latency = Latency(0.5)
    assert latency.report().p99 is None
    for _ in range(49):
        latency.add(2.0)
    assert not latency.report().alert, "too few requests"
    latency.add(2.0)
    report = latency.report()
    assert (report.requests, report.p50, report.p99, report.alert) == (50, 2.0, 2.0, True)
    calm = Latency(0.5)
    for _ in range(200):
        calm.add(0.1)
    assert not calm.report().alert


def test_posted_sales_show_in_health_and_metrics(serving: Serving, settings: ServeSettings) -> None:
    async def scene() -> None:
        async with serving(latency_alert_ms=0.001) as client:
            ids = [f"s{store}/p{product}" for store in (0, 1) for product in range(6)]
            answer = (await client.post("/v1/forecast", json={"ids": ids})).json()
            # A forecast by another model than the default is nobody's promise.
            await client.post("/v1/forecast", json={"ids": ids, "horizon": 60, "method": "zero-shot"})
            rows: list[dict[str, Any]] = [
                {"id": one["id"], "date": day, "units": high * 10 + 100}
                for one in answer["forecasts"]
                for day, high in zip(one["dates"], one["quantiles"]["q99"], strict=True)
            ]
            rows.append({"id": "s0/p0", "date": "2030-01-01", "units": 1})
            found = (await client.post("/v1/actuals", json={"rows": rows})).json()
            assert (found["matched"], found["unmatched"]) == (len(rows) - 1, 1)
            assert found["drift"] == {"outcomes": len(rows) - 1, "coverage80": 0, "coverage90": 0, "alert": True}
            for _ in range(60):
                await client.post("/v1/forecast", json={"ids": ids[:1], "horizon": 1})
            health = (await client.get("/health")).json()
            assert health["status"] == "alert"
            assert [one["code"] for one in health["alerts"]] == ["drift", "latency"]
            text = (await client.get("/metrics")).text
            for line in (
                "trend_drift_alert 1.0",
                "trend_latency_alert 1.0",
                'trend_drift_coverage{interval="80"} 0.0',
                "trend_ready_workers 1.0",
                'trend_requests_total{endpoint="/v1/forecast",method="POST",status="200"} 62.0',
            ):
                assert line in text
            assert not any(name in text for name in ("s0/", "p0"))

    # The sales are of 2024; what lies long back would be dropped at the next start, not now.
    asyncio.run(scene())
