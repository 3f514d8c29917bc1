"""The service says what ``trend-client forecast`` said, and no forecast waits for orders or explanations."""

from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

from trend_client import outcome
from trend_client.decisions.orders import orders
from trend_client.decisions.outlook import outlook
from trend_client.decisions.policy import Position, Terms
from trend_client.decisions.stock import StockRow
from trend_client.join import finish
from trend_client.serve import desk
from trend_client.serve.settings import ServeSettings
from trend_client.workplace import Workplace
from trend_common.forecasts import Forecast

from .conftest import Serving

HORIZON = 7
IDS = ["s1/p4", "s0/p2"]


def placed(settings: ServeSettings) -> Workplace:
    assert settings.source is not None
    return Workplace(settings.home, data=Path(settings.source.path), backbone=settings.backbone, device="cpu")


@pytest.fixture
def forecast_made(settings: ServeSettings, monkeypatch: pytest.MonkeyPatch) -> Forecast:
    """A forecast of the home, blended and calibrated, with what is planned."""
    measured = outcome.measured

    def mixed(*given: Any, **more: Any) -> Any:
        result = measured(*given, **more)
        ids = list(result.choice.methods)
        shares = {"zero-shot": 0.6, "seasonal-naive": 0.4}
        weights = {name: {"zero-shot": 0.5, "same-phase-mean": 0.5} for name in ids[::2]}
        style = {"style": "blend", "weights": weights, "panel": shares, "methods": dict.fromkeys(ids, "zero-shot")}
        calibration = result.choice.calibration.model_copy(update={"below": 0.8, "above": 1.4, "series": {}})
        return replace(result, choice=replace(result.choice, calibration=calibration, **style))

    monkeypatch.setattr(outcome, "measured", mixed)
    monkeypatch.setattr(outcome, "_BASELINES", ("seasonal-naive", "same-phase-mean"))
    place = placed(settings)
    days = pd.date_range("2024-05-20", periods=HORIZON)
    plan = settings.home.parent / "plan.csv"
    pd.DataFrame({"date": days, "promo": [0, 1, 1, 0, 0, 0, 0]}).to_csv(plan, index=False)
    finish(place, personal=False, horizon=HORIZON, future=plan)
    return Forecast.from_frame(pd.read_parquet(settings.home / "output" / "forecasts.parquet"))


def with_plan(settings: ServeSettings) -> dict[str, Any]:
    assert settings.source is not None
    return {"source": settings.source.model_copy(update={"future": str(settings.home.parent / "plan.csv")})}


def quantiles(answer: dict[str, Any]) -> np.ndarray:
    found = np.array([list(one["quantiles"].values()) for one in answer["forecasts"]])
    return np.moveaxis(found, 1, -1)


async def asked(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    found = await client.post("/v1/forecast", json=body)
    assert found.status_code == 200, found.text
    answer: dict[str, Any] = found.json()
    return answer


def test_a_stored_series_has_the_quantiles_of_the_files(
    serving: Serving, settings: ServeSettings, forecast_made: Forecast
) -> None:
    async def scene() -> tuple[dict[str, Any], ...]:
        async with serving(**with_plan(settings)) as client:
            model = (await client.get("/v1/model")).json()
            assert (model["method"], "trend-client forecast" in model["chosen_by"]) == ("chosen", True)
            near = await asked(client, ids=IDS)
            assert client.service.model.written is not None  # type: ignore[attr-defined]
            client.service.model.written = None  # type: ignore[attr-defined]
            anew = await asked(client, ids=IDS, horizon=HORIZON)
            far = await asked(client, ids=IDS, horizon=HORIZON + 5)
            alone = await asked(client, ids=IDS, horizon=HORIZON, method="zero-shot")
            both = await asyncio.gather(
                asked(client, ids=IDS[:1], horizon=HORIZON),
                asked(client, ids=IDS, horizon=HORIZON, method="zero-shot"),
            )
            assert both[0]["forecasts"] == anew["forecasts"][:1]
            assert both[1]["forecasts"] == alone["forecasts"], "company changes nothing"
            return near, anew, far, alone

    near, anew, far, alone = asyncio.run(scene())
    expected = forecast_made.select(IDS)
    assert near["method"] == "chosen"
    np.testing.assert_allclose(quantiles(near), expected.quantiles, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(quantiles(anew), expected.quantiles, rtol=1e-3, atol=1e-3)
    assert len(far["forecasts"][0]["dates"]) == HORIZON + 5
    assert not np.allclose(quantiles(alone), expected.quantiles, rtol=1e-2)


def test_rows_are_blended_with_the_weights_of_new_series(
    serving: Serving, settings: ServeSettings, forecast_made: Forecast, sales: pd.DataFrame
) -> None:
    sold = sales[sales["store"].eq("s0") & sales["product"].eq("p3")]
    rows = sold[["date", "units"]].assign(date=sold["date"].dt.strftime("%Y-%m-%d"), store="x", product="new")

    async def scene() -> tuple[dict[str, Any], ...]:
        async with serving(**with_plan(settings)) as client:
            body = {"rows": rows.to_dict("records"), "horizon": HORIZON}
            model = client.service.model  # type: ignore[attr-defined]
            model.choice = replace(model.choice, calibration=type(model.choice.calibration)())
            answers = [await asked(client, **body), await asked(client, **body, method="zero-shot")]
            model.choice = replace(model.choice, panel={"seasonal-naive": 1.0})
            return (*answers, await asked(client, **body))

    mixed, model, naive = asyncio.run(scene())
    assert mixed["method"] == "chosen"
    np.testing.assert_allclose(
        quantiles(mixed), 0.6 * quantiles(model) + 0.4 * quantiles(naive), rtol=1e-4, atol=1e-4
    )


def test_orders_rest_on_the_same_forecast(serving: Serving, settings: ServeSettings, forecast_made: Forecast) -> None:
    body = {"terms": {"lead_time": 2, "review": 3}, "stock": [{"id": "s0/p0", "on_hand": 0}]}

    async def scene() -> dict[str, Any]:
        async with serving(**with_plan(settings)) as client:
            found = await client.post("/v1/orders", json=body)
            assert found.status_code == 200, found.text
            answer: dict[str, Any] = found.json()
            return answer

    (line,) = asyncio.run(scene())["orders"]
    look = outlook(placed(settings))
    assert look.written_steps == HORIZON
    stock = {"s0/p0": StockRow(Position(0.0), Terms(lead_time=2, review=3))}
    assert orders(look, stock).to_json()["orders"] == [line]
    other = replace(look, basis=None)
    assert orders(other, stock).to_json()["orders"] != [line], "one model alone orders something else"


def test_forecasts_are_answered_while_orders_are_worked_out_and_few_may_wait(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, done = threading.Event(), threading.Event()

    def slowly(kind: str, question: dict[str, Any]) -> tuple[str, Any]:
        begun.set()
        assert done.wait(60)
        return "answer", {"origin": "2024-05-20", "orders": [], "notes": [kind]}

    monkeypatch.setattr(desk, "_work", slowly)
    body = {"terms": {"lead_time": 3}, "stock": [{"id": "s0/p0", "on_hand": 5}]}

    async def scene() -> None:
        async with serving(max_advice=2) as client:
            waiting = [asyncio.create_task(client.post("/v1/orders", json=body)) for _ in range(2)]
            try:
                await asyncio.to_thread(begun.wait, 60)
                found = await asked(client, ids=["s0/p0"], horizon=3)
                assert len(found["forecasts"]) == 1
                refused = await client.post("/v1/orders", json=body)
                assert (refused.status_code, refused.json()["code"]) == (503, "busy")
                assert int(refused.headers["Retry-After"]) >= 1
                assert not any(one.done() for one in waiting)
            finally:
                done.set()
            assert [one.status_code for one in await asyncio.gather(*waiting)] == [200, 200]
            again = await client.post("/v1/orders", json=body)
            assert (again.status_code, again.json()["notes"]) == (200, ["orders"])

    asyncio.run(scene())


def test_a_question_without_an_answer_is_the_callers_fault(serving: Serving, sales: pd.DataFrame) -> None:
    async def scene() -> None:
        async with serving() as client:
            terms = {"lead_time": 30, "service_level": 0.9}
            stock = [{"id": "s0/p0", "on_hand": 5, "pack": 6}]
            found = await client.post("/v1/orders", json={"terms": terms, "stock": stock})
            assert found.status_code == 200, found.text

    sales.drop(columns="price").to_csv(Path(os.environ["TREND_CLIENT_HOME"]).parent / "sales.csv", index=False)

    async def priceless() -> None:
        async with serving() as client:
            found = await client.post("/v1/what-if", json={"ids": ["s0/p0"], "prices": [2.0]})
            assert (found.status_code, found.json()["code"]) == (422, "unusable-sales")
            assert "no prices" in found.json()["detail"]

    asyncio.run(scene())
    asyncio.run(priceless())


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_the_process_is_started_again_when_it_dies(serving: Serving) -> None:
    body = {"terms": {"lead_time": 3}, "stock": [{"id": "s0/p0", "on_hand": 5}]}

    async def scene() -> None:
        async with serving(advice="process") as client:
            first = await client.post("/v1/orders", json=body)
            assert first.status_code == 200, first.text
            pool = client.service.desk._pool  # type: ignore[attr-defined]
            (pid,) = pool._processes
            assert pid != os.getpid()
            os.kill(pid, 9)
            lost = await client.post("/v1/orders", json=body)
            assert (lost.status_code, lost.json()["code"]) == (503, "restarting")
            again = await client.post("/v1/orders", json=body)
            assert again.json() == first.json()

    asyncio.run(scene())
