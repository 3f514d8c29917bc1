"""Who is not let in, what is too much, and how errors are told: to the caller, and in the log."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter, ValidationError

from trend_client.serve.problems import Problem
from trend_client.serve.schemas import Day
from trend_client.serve.settings import MAX_HORIZON, MAX_SERIES

from .conftest import TOKEN, Serving

ROW = {"date": "2026-03-01", "product": "tea", "units": 7}
SOLD = [{"date": f"2026-03-{day:02d}", "product": "tea", "units": 7} for day in range(1, 22)]


def told(found: httpx.Response, status: int, code: str) -> Problem:
    assert found.status_code == status, found.text
    assert found.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate_json(found.text)
    assert (problem.status, problem.code) == (status, code)
    assert problem.detail
    assert problem.hint
    return problem


@pytest.mark.parametrize(
    "value", [None, "Bearer ", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}"]
)
def test_nothing_of_the_retailer_is_told_without_the_token(serving: Serving, value: str | None) -> None:
    header = {} if value is None else {"Authorization": value}

    async def scene() -> None:
        async with serving() as client:
            paths = (await client.get("/openapi.json")).json()["paths"]
            transport = client._transport
            async with httpx.AsyncClient(transport=transport, base_url="http://service", headers=header) as stranger:
                for path, operations in paths.items():
                    for method in operations:
                        found = await stranger.request(method, path, json={})
                        if path in ("/live", "/ready"):
                            assert found.status_code == 200
                        else:
                            told(found, 401, "token")
                            assert found.headers["www-authenticate"] == "Bearer"
                told(await stranger.get("/nowhere"), 401, "token")
                told(await stranger.post("/v1/forecast", content=b"x" * 2**24), 401, "token")

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("body", "status", "code", "place"),
    [
        ({}, 400, "invalid-request", "body"),
        ([], 400, "invalid-request", "body"),
        ({"ids": ["s0/p0"], "rows": SOLD}, 400, "invalid-request", "body"),
        ({"ids": ["s0/p0"], "freq": "D"}, 400, "invalid-request", "body"),
        ({"ids": []}, 400, "invalid-request", "ids"),
        ({"ids": ["x"] * (MAX_SERIES + 1)}, 400, "invalid-request", "ids"),
        ({"ids": ["s0/p0"], "horizon": 0}, 400, "invalid-request", "horizon"),
        ({"ids": ["s0/p0"], "horizon": MAX_HORIZON + 1}, 400, "invalid-request", "horizon"),
        ({"ids": ["s0/p0"], "horizon": "7"}, 400, "invalid-request", "horizon"),
        ({"ids": ["s0/p0"], "horizon": True}, 400, "invalid-request", "horizon"),
        ({"ids": ["s0/p0"], "levels": [0.42]}, 400, "invalid-request", "levels[0]"),
        ({"ids": ["s0/p0"], "method": "guess"}, 400, "invalid-request", "method"),
        ({"ids": ["s0/p0"], "surprise": 1}, 400, "invalid-request", "surprise"),
        ({"rows": [{**ROW, "units": "7"}]}, 400, "invalid-request", "rows[0].units"),
        ({"rows": [{**ROW, "units": -1}]}, 400, "invalid-request", "rows[0].units"),
        ({"rows": [{**ROW, "date": "2026-02-30"}]}, 400, "invalid-request", "rows[0].date"),
        ({"rows": [{**ROW, "date": 20260301}]}, 400, "invalid-request", "rows[0].date"),
        ({"rows": [{**ROW, "product": ""}]}, 400, "invalid-request", "rows[0].product"),
        ({"rows": [ROW, {**ROW, "till": 3}]}, 400, "invalid-request", "rows[1].till"),
        ({"ids": ["s0/unheard-of"]}, 404, "unknown-series", None),
        ({"ids": ["s0/p0"], "method": "shared"}, 409, "no-such-model", None),
        ({"rows": [ROW]}, 422, "unusable-sales", None),
        ({"rows": [{**one, "units": 0} for one in SOLD]}, 422, "unusable-sales", None),
        ({"rows": [{**ROW, "product": f"p{number}"} for number in range(501)]}, 413, "too-many-series", None),
        (
            {"rows": [{**ROW, "product": f"p{n}", "date": f"{1990 + n % 100}-01-01"} for n in range(300)]},
            413,
            "too-long",
            None,
        ),
    ],
)
def test_a_bad_request_is_told_what_to_change(
    serving: Serving, body: Any, status: int, code: str, place: str | None
) -> None:
    async def scene() -> None:
        async with serving() as client:
            problem = told(await client.post("/v1/forecast", json=body), status, code)
            assert place is None or place in [one.at for one in problem.errors or []]

    asyncio.run(scene())


@pytest.mark.parametrize(
    "content",
    [b"{", b"[" * 50_000, b'{"rows": [{"units": NaN}]}', b"\xff\xfe", b"9" * 5000, b'{"ids": ["\\ud800"]}', b""],
)
def test_what_is_no_json_is_told_so(serving: Serving, content: bytes) -> None:
    async def scene() -> None:
        async with serving() as client:
            found = await client.post("/v1/forecast", content=content, headers={"Content-Type": "application/json"})
            assert found.status_code == 400
            Problem.model_validate_json(found.text)

    asyncio.run(scene())


def test_a_large_body_is_refused_whether_it_says_so_or_not(serving: Serving) -> None:
    large = json.dumps({"rows": SOLD, "x": "y" * 5000}).encode()

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(large), 100):
            yield large[start : start + 100]

    async def scene() -> None:
        headers = {"Content-Type": "application/json"}
        async with serving(max_body=2048) as client:
            told(await client.post("/v1/forecast", content=large, headers=headers), 413, "body-too-large")
            told(await client.post("/v1/forecast", content=pieces(), headers=headers), 413, "body-too-large")
            assert (await client.post("/v1/forecast", json={"rows": SOLD})).status_code == 200

    asyncio.run(scene())


def test_too_many_at_once_are_told_when_to_come_again(serving: Serving) -> None:
    async def scene() -> None:
        async with serving(max_queue=500, max_wait_ms=0.0) as client:
            ids = [f"s{store}/p{product}" for store in (0, 1) for product in range(6)] * 40
            found = await asyncio.gather(
                *(client.post("/v1/forecast", json={"ids": ids, "horizon": 1}) for _ in range(3))
            )
            turned_away = [one for one in found if one.status_code == 503]
            assert {one.status_code for one in found} == {200, 503}
            for one in turned_away:
                told(one, 503, "busy")
                assert int(one.headers["retry-after"]) >= 1
            text = (await client.get("/metrics")).text
            assert f"trend_rejected_total {len(turned_away)}.0" in text
            assert (await client.post("/v1/forecast", json={"ids": ids, "horizon": 1})).status_code == 200

    asyncio.run(scene())


def test_while_the_model_is_loaded_callers_are_told_to_wait(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        async with serving() as client:
            monkeypatch.setattr(client.service, "_model", None)  # type: ignore[attr-defined]
            for found in (await client.get("/ready"), await client.post("/v1/forecast", json={"ids": ["s0/p0"]})):
                told(found, 503, "loading")
                assert found.headers["retry-after"] == "2"
            assert (await client.get("/live")).status_code == 200
            assert (await client.get("/health")).status_code == 200

    asyncio.run(scene())


def test_an_unforeseen_error_is_neither_shown_nor_logged_with_its_words(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "s0/p0 sold 4711"

    def broken(*_: object) -> None:
        raise RuntimeError(secret)

    async def scene() -> httpx.Response:
        async with serving() as client:
            monkeypatch.setattr(client.service.model, "forecast", broken)  # type: ignore[attr-defined]
            return await client.post("/v1/forecast", json={"ids": ["s0/p0"]})

    monkeypatch.setattr(logging.getLogger("trend_client.serve"), "propagate", True)
    with caplog.at_level(logging.DEBUG):
        found = asyncio.run(scene())
    problem = told(found, 500, "unforeseen")
    request_id = found.headers["x-request-id"]
    assert request_id in problem.hint
    assert f"{request_id} RuntimeError at test_serve_refusals.py" in caplog.text
    assert secret not in found.text + caplog.text
    assert "Traceback" not in caplog.text


def test_the_log_holds_no_names_and_no_sales(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        async with serving() as client:
            rows = [{**one, "product": "secretproduct", "units": 4711} for one in SOLD]
            await client.post("/v1/forecast", json={"rows": rows})
            await client.post("/v1/forecast", json={"ids": ["secretproduct"]})
            await client.post("/v1/forecast", json={"rows": [{"product": "secretproduct", "units": "4711"}]})
            await client.get("/v1/series", params={"product": "secretproduct"})
            await client.get("/secretproduct/4711")
            await client.post("/v1/actuals", json={"rows": [{"id": "secretproduct", "date": "x", "units": 4711}]})

    monkeypatch.setattr(logging.getLogger("trend_client.serve"), "propagate", True)
    with caplog.at_level(logging.DEBUG, logger="trend_client.serve"):
        asyncio.run(scene())
    # Where another test left the capturing handler on two loggers, it has each record twice.
    records = {id(one): one for one in caplog.records if one.name == "trend_client.serve"}
    lines = [one.getMessage() for one in records.values()]
    assert sum("POST /v1/forecast" in line for line in lines) == 3
    assert any("GET (none) 404" in line for line in lines)
    # Durations and ids are numbers, too, so the units are looked for as a word.
    assert not any("secretproduct" in line or "4711" in line.split() for line in lines)


def test_days_are_days() -> None:
    adapter = TypeAdapter[Any](Day)
    schema = adapter.json_schema()
    import re

    for text in ("1990-01-01", "2024-02-29", "2000-02-29", "2026-12-31", "2100-01-01"):
        adapter.validate_python(text)
        assert re.search(schema["pattern"], text), text
    wrong = ("1989-12-31", "2101-01-01", "2025-02-29", "2100-02-29", "2026-04-31", "2026-4-1", "2026-04-01T00:00", 5)
    for one in wrong:
        with pytest.raises(ValidationError):
            adapter.validate_python(one)
        assert not isinstance(one, str) or not re.search(schema["pattern"], one), one
