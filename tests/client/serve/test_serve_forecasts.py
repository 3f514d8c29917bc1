"""What is answered: the forecasts of the offline commands, bit for bit the same alone and among others."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trend_client.home import ClientHome
from trend_client.outcome import load_model
from trend_client.parts import Parts
from trend_client.serve.answers import six_digits
from trend_client.serve.schemas import ForecastAnswer, ModelAnswer
from trend_client.serve.settings import ServeSettings
from trend_client.workplace import Workplace
from trend_common.forecasts import Forecast
from trend_common.scoring import next_origin

from .conftest import Serving


async def ask(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    found = await client.post("/v1/forecast", json=body)
    assert found.status_code == 200, found.text
    ForecastAnswer.model_validate_json(found.text)
    answer: dict[str, Any] = found.json()
    return answer


def offline(settings: ServeSettings, method: str, horizon: int) -> Forecast:
    """The same forecast by the engine of the offline commands."""
    assert settings.source is not None
    place = Workplace(settings.home, data=Path(settings.source.path), backbone=settings.backbone, device="cpu")
    panel, engine = place.panel(), place.engine()
    model = load_model(place.home, engine, panel)
    forecaster = engine.forecaster(model.adapters[method], context=model.context)
    return forecaster(panel, next_origin(panel), horizon)


def values(answer: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """[S, H, Q] quantiles and [S, H] means."""
    forecasts = answer["forecasts"]
    quantiles = np.array([list(one["quantiles"].values()) for one in forecasts])
    return np.moveaxis(quantiles, 1, -1), np.array([one["mean"] for one in forecasts])


def random_model(settings: ServeSettings) -> None:
    """A personal model of two members and a launch part, with random tensors, in the home."""
    assert settings.source is not None
    place = Workplace(settings.home, data=Path(settings.source.path), backbone=settings.backbone, device="cpu")
    engine = place.engine()
    engine.install_local(2)
    rng = np.random.default_rng(0)

    def tensors() -> dict[str, np.ndarray]:
        return {name: rng.normal(0, 0.3, value.shape).astype(np.float32) for name, value in engine.worn(None).items()}

    joined = Parts((tensors(), tensors()), launch=tensors()).join()
    ClientHome(settings.home).save_personal("local", joined, {}, "backbone")


@pytest.mark.parametrize("horizon", [1, 28, 80])
def test_a_stored_series_is_forecast_as_offline(serving: Serving, settings: ServeSettings, horizon: int) -> None:
    async def scene() -> dict[str, Any]:
        async with serving() as client:
            ids = [one["id"] for one in (await client.get("/v1/series")).json()["series"]]
            return await ask(client, ids=ids, horizon=horizon)

    answer, expected = asyncio.run(scene()), offline(settings, "zero-shot", horizon)
    assert [one["id"] for one in answer["forecasts"]] == list(expected.ids)
    assert answer["forecasts"][0]["dates"] == expected.ds[0].astype("datetime64[D]").astype(str).tolist()
    quantiles, mean = values(answer)
    np.testing.assert_allclose(quantiles, expected.quantiles, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(mean, expected.mean, rtol=2e-5, atol=1e-6)


def test_an_ensemble_with_a_launch_part_is_forecast_as_offline(
    serving: Serving, settings: ServeSettings, sales: pd.DataFrame
) -> None:
    assert settings.source is not None
    young = sales["product"].eq("p1") & sales["store"].eq("s1") & sales["date"].lt("2024-05-15")
    sales[~young].to_csv(settings.source.path, index=False)
    random_model(settings)

    async def scene() -> dict[str, Any]:
        async with serving() as client:
            ids = [one["id"] for one in (await client.get("/v1/series")).json()["series"]]
            first = await ask(client, ids=ids, method="personal", horizon=5)
            plain = await ask(client, ids=ids, method="zero-shot", horizon=5)
            assert first["forecasts"] != plain["forecasts"]
            return first

    quantiles, mean = values(asyncio.run(scene()))
    expected = offline(settings, "personal", 5)
    np.testing.assert_allclose(quantiles, expected.quantiles, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(mean, expected.mean, rtol=2e-5, atol=1e-6)


def test_company_changes_no_bit(serving: Serving, settings: ServeSettings, sales: pd.DataFrame) -> None:
    random_model(settings)
    sold = sales[sales["store"].eq("s0") & sales["product"].isin(["p0", "p3", "p4"])]
    rows = sold[["date", "store", "product", "units"]].assign(date=sold["date"].dt.strftime("%Y-%m-%d"))
    requests: list[dict[str, Any]] = [
        {"ids": [f"s{store}/p{product}"], "horizon": horizon, "method": method}
        for store in (0, 1)
        for product in range(6)
        for horizon in (7, 28)
        for method in ("zero-shot", "personal")
    ]
    requests += [{"ids": ["s1/p2", "s0/p2", "s1/p5"], "horizon": 7}, {"rows": rows.to_dict("records"), "horizon": 7}]
    requests += [{"rows": rows[rows["product"].eq("p3")].to_dict("records"), "horizon": 7}]

    async def scene() -> None:
        async with serving(max_wait_ms=0.0) as client:
            alone = [await ask(client, **one) for one in requests]
        async with serving(max_wait_ms=200.0) as client:
            batches: list[int] = []
            client.service.metrics.batch_windows.observe = batches.append  # type: ignore[attr-defined]
            together = await asyncio.gather(*(ask(client, **one) for one in requests))
        assert alone == together
        assert len(batches) < 8, "they were not batched"

    asyncio.run(scene())


def test_int8_answers_nearly_the_same_and_says_so(serving: Serving, settings: ServeSettings) -> None:
    random_model(settings)
    ids = [f"s{store}/p{product}" for store in (0, 1) for product in range(6)]

    async def scene() -> None:
        async with serving() as client:
            exact = [await ask(client, ids=ids, method=method) for method in ("zero-shot", "personal")]
        async with serving(precision="int8") as client:
            assert client.service.model._quick  # type: ignore[attr-defined]
            quick = [await ask(client, ids=ids, method=method) for method in ("zero-shot", "personal")]
        for one, other in zip(exact, quick, strict=True):
            assert one["precision"] == "float32"
            assert other["precision"] == "int8"
            assert one["forecasts"] != other["forecasts"]
            np.testing.assert_allclose(values(other)[1], values(one)[1], rtol=0.2, atol=0.5)

    asyncio.run(scene())


def test_rows_are_forecast_like_the_same_rows_of_a_file(serving: Serving, sales: pd.DataFrame) -> None:
    rows = sales.assign(date=sales["date"].dt.strftime("%Y-%m-%d")).astype({"units": float, "promo": float})

    async def scene() -> None:
        async with serving() as client:
            stored = await ask(client, ids=[f"s{s}/p{p}" for s in (0, 1) for p in range(6)], horizon=14)
            sent = await ask(client, rows=rows.to_dict("records"), horizon=14)
            assert stored["forecasts"] == sent["forecasts"]

    asyncio.run(scene())


def test_plans_for_days_ahead_reach_the_forecast(serving: Serving, sales: pd.DataFrame) -> None:
    sold = sales[sales["store"].eq("s0") & sales["product"].eq("p0")]
    rows = sold[["date", "store", "product", "units", "promo", "price"]].assign(
        date=sold["date"].dt.strftime("%Y-%m-%d")
    )
    known = rows.astype({"units": float, "promo": float}).to_dict("records")
    after = pd.Timestamp(sold["date"].max())
    plans = [
        {
            "date": str((after + pd.Timedelta(days=step)).date()),
            "store": "s0",
            "product": "p0",
            "promo": 1,
            "price": 1,
        }
        for step in (1, 2, 3)
    ]

    async def scene() -> None:
        async with serving() as client:
            plain, planned = (
                await ask(client, rows=known, horizon=3),
                await ask(client, rows=known + plans, horizon=3),
            )
            assert plain["forecasts"][0]["dates"] == planned["forecasts"][0]["dates"]
            assert plain["forecasts"][0]["mean"] != planned["forecasts"][0]["mean"]
            assert "future_rows" in [one["code"] for one in planned["findings"]]

    asyncio.run(scene())


def test_other_frequencies_get_the_model_as_shipped_and_levels_can_be_chosen(
    serving: Serving, settings: ServeSettings
) -> None:
    random_model(settings)
    weeks = pd.date_range("2025-01-06", periods=60, freq="W-MON").strftime("%Y-%m-%d")
    rows = [{"date": day, "product": "tea", "units": 5 + number % 4} for number, day in enumerate(weeks)]

    async def scene() -> None:
        async with serving() as client:
            found = await ask(client, rows=rows, levels=[0.9, 0.5])
            assert (found["freq"], found["method"]) == ("W", "zero-shot")
            assert list(found["forecasts"][0]["quantiles"]) == ["q50", "q90"]
            assert found["forecasts"][0]["store"] == "all"
            refused = await client.post("/v1/forecast", json={"rows": rows, "method": "personal"})
            assert (refused.status_code, refused.json()["code"]) == (409, "no-such-model")

    asyncio.run(scene())


def test_the_model_endpoint_says_what_answers_and_the_backtest_chooses(
    serving: Serving, settings: ServeSettings
) -> None:
    random_model(settings)
    output = settings.home / "output"
    output.mkdir()
    (output / "backtest.json").write_text(
        '{"methods": {"auto-ets": {"validation": {"sql": 0.1}}, "zero-shot": {"validation": {"sql": 0.5}},'
        ' "personal": {"validation": {"sql": 0.4}}}}'
    )

    async def scene() -> None:
        async with serving() as client:
            found = ModelAnswer.model_validate_json((await client.get("/v1/model")).text)
            assert (found.method, found.series, found.freq) == ("personal", 12, "D")
            assert found.adapters["zero-shot"] is None
            assert len(found.adapters["personal"] or "") == 64
            assert (await ask(client, ids=["s0/p0"]))["method"] == "personal"

    asyncio.run(scene())


def test_without_a_sales_file_rows_are_still_forecast(serving: Serving) -> None:
    rows = [{"date": f"2026-03-{day:02d}", "product": "tea", "units": day % 7} for day in range(1, 29)]

    async def scene() -> None:
        async with serving(source=None) as client:
            assert len((await ask(client, rows=rows))["forecasts"]) == 1
            assert (await client.get("/v1/series")).json() == {"total": 0, "offset": 0, "series": []}
            refused = await client.post("/v1/forecast", json={"ids": ["all/tea"]})
            assert (refused.status_code, refused.json()["code"]) == (409, "no-sales-file")

    asyncio.run(scene())


def test_series_are_listed_page_by_page(serving: Serving) -> None:
    async def scene() -> None:
        async with serving() as client:
            page = (await client.get("/v1/series", params={"offset": 10, "limit": 5})).json()
            assert (page["total"], [one["id"] for one in page["series"]]) == (12, ["s1/p4", "s1/p5"])
            page = (await client.get("/v1/series", params={"store": "s0", "product": "p2"})).json()
            assert [one["id"] for one in page["series"]] == ["s0/p2"]

    asyncio.run(scene())


def test_nothing_calls_home(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[object] = []

    def connect(_: socket.socket, address: object) -> None:
        called.append(address)
        raise OSError("no network in this test")

    async def scene() -> None:
        monkeypatch.setattr(socket.socket, "connect", connect)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_: connect(None, address))  # type: ignore[arg-type]
        async with serving() as client:
            await ask(client, ids=["s0/p0"])
            for path in ("/health", "/metrics", "/v1/model", "/openapi.json", "/ready", "/live"):
                assert (await client.get(path)).status_code == 200

    asyncio.run(scene())
    assert called == []


@given(st.lists(st.floats(0, 1e12, allow_nan=False), min_size=1, max_size=20))
def test_six_digits_are_what_a_person_would_write(numbers: list[float]) -> None:
    found = six_digits(np.array(numbers))
    for number, rounded in zip(numbers, found, strict=True):
        assert abs(rounded - number) <= 0.5000001 * 10.0 ** (np.floor(np.log10(max(number, 1e-12))) - 5)
        assert len(f"{rounded!r}".replace(".0", "").split("e")[0].replace(".", "").strip("0")) <= 6
