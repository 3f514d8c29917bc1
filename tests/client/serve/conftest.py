"""A service in this process, asked through ASGI, with a tiny model and small sales."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest

from trend_client.home import DataSource
from trend_client.serve.app import create_app
from trend_client.serve.service import Service
from trend_client.serve.settings import ServeSettings

TOKEN = "t" * 43
Serving = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def sales_file(tmp_path: Path, sales: pd.DataFrame) -> Path:
    """Twelve daily series of 140 days as a CSV."""
    path = tmp_path / "sales.csv"
    sales.to_csv(path, index=False)
    return path


@pytest.fixture
def settings(tmp_path: Path, sales_file: Path, tiny_backbone: Path) -> ServeSettings:
    """A home of its own and the sales file."""
    return ServeSettings(
        home=tmp_path / "home",
        source=DataSource(path=str(sales_file)),
        backbone=str(tiny_backbone),
        device="cpu",
        advice="thread",
    )


@pytest.fixture
def serving(settings: ServeSettings) -> Serving:
    """``async with serving(max_batch=8) as client``: a running service with changed settings."""

    @asynccontextmanager
    async def serve(**changes: Any) -> AsyncIterator[httpx.AsyncClient]:
        app = create_app(settings.model_copy(update=changes), TOKEN)
        transport = httpx.ASGITransport(app=app)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://service", headers=headers) as client,
        ):
            service: Service = app.state.service
            for _ in range(1000):
                if service.ready:
                    break
                await asyncio.sleep(0.02)
            assert service.ready, "the model was not loaded"
            client.service = service  # type: ignore[attr-defined]
            yield client

    return serve
