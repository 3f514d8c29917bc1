"""Schemathesis against a real server: what the schema allows is answered as it says, what it forbids is refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from trend_client.home import DataSource
from trend_client.serve.app import create_app
from trend_client.serve.settings import ServeSettings

from ...conftest import sales_frame
from .conftest import TOKEN

_EXAMPLES = 20

# 422 is for rows that fit the schema and tell nothing, such as a single day; whatever breaks the schema is a 400.
_CONFIG = schemathesis.Config.from_dict(
    {
        "checks": {
            "positive_data_acceptance": {"expected-statuses": ["2xx", "404", "409", "422"]},
            "negative_data_rejection": {"expected-statuses": ["400", "401", "404", "405"]},
        }
    }
)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: Path) -> Iterator[str]:
    """A service of this process on a free port."""
    folder = tmp_path_factory.mktemp("contract")
    sales_frame().to_csv(folder / "sales.csv", index=False)
    app = create_app(
        ServeSettings(
            home=folder / "home",
            source=DataSource(path=str(folder / "sales.csv")),
            backbone=str(tiny_backbone),
            device="cpu",
            max_wait_ms=0.0,
        ),
        TOKEN,
    )
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False, ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    end = time.monotonic() + 60
    while time.monotonic() < end and not (server.started and app.state.service.ready):
        time.sleep(0.02)
    assert app.state.service.ready, "the model was not loaded"
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(30)


_METHODS = ("GET /live", "GET /ready", "GET /health", "GET /metrics", "GET /v1/model", "GET /v1/series")
_POSTS = ("POST /v1/forecast", "POST /v1/actuals", "POST /v1/what-if", "POST /v1/orders", "POST /v1/explain")


def operations(address: str) -> dict[str, Any]:
    """ "METHOD /path" → operation."""
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json", config=_CONFIG)
    return {f"{one.method.upper()} {one.path}": one for one in (found.ok() for found in schema.get_all_operations())}


def test_no_operation_is_left_out(address: str) -> None:
    assert sorted(operations(address)) == sorted((*_METHODS, *_POSTS))


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("name", [*_METHODS, *_POSTS])
def test_the_schema_is_kept(address: str, name: str, mode: GenerationMode) -> None:
    operation = operations(address)[name]
    answered: list[int] = []

    @settings(max_examples=_EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        answered.append(case.call_and_validate(headers={"Authorization": f"Bearer {TOKEN}"}).status_code)

    try:
        check()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE
        assert name in _METHODS, "what takes no input has no wrong input"
        return
    assert 500 not in answered
    if mode is GenerationMode.POSITIVE:
        assert set(answered) <= {200, 404, 409, 422}


def test_the_examples_of_the_schema_work(address: str) -> None:
    found = httpx.get(f"{address}/openapi.json").json()
    examples = found["components"]["schemas"]["ForecastRequest"]["examples"]
    headers = {"Authorization": f"Bearer {TOKEN}"}
    rows, ids = examples
    answered = httpx.post(f"{address}/v1/forecast", json=rows, headers=headers, timeout=30)
    assert answered.status_code == 200, answered.text
    assert len(answered.json()["forecasts"][0]["dates"]) == rows["horizon"]
    assert httpx.post(f"{address}/v1/forecast", json=ids, headers=headers, timeout=30).status_code == 404


def test_every_operation_is_described_and_every_error_is_a_problem(address: str) -> None:
    found = httpx.get(f"{address}/openapi.json").json()
    assert "HTTPValidationError" not in str(found)
    for path, operations in found["paths"].items():
        for operation in operations.values():
            assert operation["summary"]
            assert operation["description"]
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    assert list(response["content"]) == ["application/problem+json"], (path, status)
