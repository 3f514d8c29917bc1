"""The endpoints."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final

import pandas as pd
from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from starlette.exceptions import HTTPException

from trend_client.serve.advice import router
from trend_client.serve.answers import forecast_json
from trend_client.serve.guard import Guard
from trend_client.serve.problems import Problem, ProblemError, WrongPlace, answer, documented, not_fitting
from trend_client.serve.schemas import (
    ActualsAnswer,
    ActualsRequest,
    ForecastAnswer,
    ForecastRequest,
    Health,
    ModelAnswer,
    Name,
    Ready,
    SeriesAnswer,
    StoredSeries,
)
from trend_client.serve.service import Service
from trend_client.serve.settings import MAX_NAME, ServeSettings
from trend_common import __version__
from trend_common.errors import TrendError

__all__ = ["create_app"]

_ABOUT: Final = (
    "Forecasts of a retailer's own sales, on its own machine. Every answer that is an error says what to do. "
    "Send the token as `Authorization: Bearer TOKEN`."
)
_NAME: Final = {"type": "string", "minLength": 1, "maxLength": MAX_NAME}
_TOKEN: Final = HTTPBearer(auto_error=False, description="The file serve/token of the home.")


class SeriesQuery(BaseModel):
    """Which page of the series."""

    model_config = ConfigDict(extra="forbid")

    offset: Annotated[int, Field(ge=0, le=100_000_000)] = 0
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    # A query has no null: what is not wanted is left out.
    store: Annotated[Name | None, WithJsonSchema(_NAME)] = None
    product: Annotated[Name | None, WithJsonSchema(_NAME)] = None


def create_app(
    settings: ServeSettings, token: str, *, on_failure: Callable[[TrendError], None] = lambda _: None
) -> FastAPI:
    """The service as an ASGI application.

    Args:
        settings: Of the service.
        token: That callers must send.
        on_failure: Told why the model could not be loaded.
    """
    service = Service(settings, on_failure)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.stop()

    app = FastAPI(
        title="trend-client serve",
        summary="Forecasts for a retailer, from its own machine.",
        description=_ABOUT,
        version=__version__,
        lifespan=lifespan,
        # The usual pages load scripts from elsewhere; nothing here calls out.
        docs_url=None,
        redoc_url=None,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    app.state.service = service
    app.add_middleware(Guard, token=token, max_body=settings.max_body, observe=service.observe)
    _handle_errors(app)
    _add_state(app, service)
    _add_forecasts(app, service)
    app.include_router(router(service, _TOKEN))
    _describe(app)
    return app


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(ProblemError)
    async def problem(_: Request, error: ProblemError) -> JSONResponse:
        return answer(error)

    @app.exception_handler(RequestValidationError)
    async def wrong(_: Request, error: RequestValidationError) -> JSONResponse:
        return answer(not_fitting(error.errors()))

    @app.exception_handler(TrendError)
    async def unusable(_: Request, error: TrendError) -> JSONResponse:
        return answer(ProblemError(422, "unusable-sales", error.message, error.hint or "Correct the rows."))

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        code, hint = {
            404: ("no-such-endpoint", "GET /openapi.json lists all endpoints."),
            405: ("wrong-method", "GET /openapi.json lists the methods of each endpoint."),
        }.get(error.status_code, ("bad-request", "Send JSON as /openapi.json describes it."))
        return answer(ProblemError(error.status_code, code, f"{error.detail}.", hint, headers=error.headers))


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/live", tags=["state"], summary="Whether the process answers", response_model=Ready)
    async def live() -> Ready:
        """Open to all; for a supervisor that restarts what hangs."""
        return Ready(status="alive")

    @app.get(
        "/ready",
        tags=["state"],
        summary="Whether requests are answered",
        response_model=Ready,
        responses=documented(503),
    )
    async def ready() -> Ready:
        """Open to all; for a load balancer. 503 while the model is loaded."""
        service.model  # noqa: B018
        return Ready(status="ready")

    @app.get(
        "/health",
        tags=["state"],
        summary="Alerts: drift and latency",
        dependencies=[Depends(_TOKEN)],
        responses=documented(401),
    )
    async def health() -> Health:
        """Whether past forecasts held (POST /v1/actuals), and whether requests are slow."""
        return await service.health()

    @app.get(
        "/metrics",
        tags=["state"],
        summary="For Prometheus",
        dependencies=[Depends(_TOKEN)],
        response_class=Response,
        responses={
            200: {
                "content": {"text/plain": {"schema": {"type": "string"}}},
                "description": "Prometheus's text format.",
            },
            **documented(401),
        },
    )
    async def metrics() -> Response:
        """Requests, seconds, batches, drift and latency; nothing of the sales."""
        await service.health()
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get(
        "/v1/model",
        tags=["model"],
        summary="Which model answers",
        dependencies=[Depends(_TOKEN)],
        responses=documented(401, 503),
    )
    async def model() -> ModelAnswer:
        """Versions and hashes of everything that a forecast depends on, but the sales."""
        served = service.model
        panel = None if served.stored is None else served.stored.windows.panel
        return ModelAnswer(
            version=__version__,
            backbone=served.engine.backbone.name,
            backbone_sha256=served.engine.sha256,
            federation=served.model.federation,
            adapters=served.adapter_hashes(),
            method=served.method,
            chosen_by=served.chosen_by,
            precision=served.precision,
            device=served.engine.device,
            freq=served.freq,
            horizon=served.model.horizon,
            context=served.model.context,
            series=len(served.position),
            until=None if panel is None else pd.Timestamp(panel.calendar_end).date(),
        )


def _add_forecasts(app: FastAPI, service: Service) -> None:
    @app.get(
        "/v1/series",
        tags=["forecasts"],
        summary="The series of the sales file",
        dependencies=[Depends(_TOKEN)],
        responses=documented(400, 401, 503),
    )
    async def series(request: Request, query: Annotated[SeriesQuery, Query()]) -> SeriesAnswer:
        """Their ids, page by page, of one store or product if you like."""
        _once(request)
        served = service.model
        if served.stored is None:
            return SeriesAnswer(total=0, offset=query.offset, series=[])
        static = served.stored.windows.panel.static
        for name in ("store", "product"):
            wanted = getattr(query, name)
            if wanted is not None:
                static = static[static[name] == wanted]
        page = static.iloc[query.offset : query.offset + query.limit]
        listed = [
            StoredSeries(id=str(one), store=str(store), product=str(product))
            for one, store, product in zip(page.index, page["store"], page["product"], strict=True)
        ]
        return SeriesAnswer(total=len(static), offset=query.offset, series=listed)

    @app.post(
        "/v1/forecast",
        tags=["forecasts"],
        summary="Forecast series",
        dependencies=[Depends(_TOKEN)],
        response_model=ForecastAnswer,
        responses=documented(400, 401, 404, 409, 413, 422, 503),
    )
    async def forecast(body: ForecastRequest) -> Response:
        """Quantiles and mean of each step: of series of the sales file by id, or of the rows that you send.

        Rows are cleaned by the rules of a sales file, and what was noticed comes back under findings. Rows without
        units on later days are plans: their prices, promotions and holidays are known ahead.
        """
        served = service.model
        content = await service.answered(
            _size(body),
            lambda: served.job(body),
            lambda job, found: forecast_json(job, found, body.levels, served.precision),
            quick=served.quick(body),
        )
        return Response(content, media_type="application/json")

    @app.post(
        "/v1/actuals",
        tags=["forecasts"],
        summary="Report what was sold",
        dependencies=[Depends(_TOKEN)],
        responses=documented(400, 401, 413, 503),
    )
    async def actuals(body: ActualsRequest) -> ActualsAnswer:
        """Compares it with the forecasts that this service gave of the series of the sales file.

        What was sold is compared and forgotten. If intervals hold too rarely, /health raises the alert "drift".
        """
        matched, unmatched = await service.compare(body.rows)
        return ActualsAnswer(matched=matched, unmatched=unmatched, drift=await service.drift())


def _once(request: Request) -> None:
    """Refuse a query that says a thing twice: which of the two was meant?"""
    names = [name for name, _ in request.query_params.multi_items()]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        places = [WrongPlace(at=name, message="This is given more than once") for name in twice]
        raise ProblemError(
            400, "invalid-request", "The query says things twice.", "Give each name once.", errors=places
        )


def _size(body: ForecastRequest) -> int:
    if body.ids is not None:
        return len(body.ids)
    return len({(row.store, row.product) for row in body.rows or ()})


def _describe(app: FastAPI) -> None:
    """Put the schema of errors among the components, and leave out FastAPI's own, which is never sent."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = original()
            schemas = found.setdefault("components", {}).setdefault("schemas", {})
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            described = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(described.pop("$defs", {}))
            schemas["Problem"] = described
            for path in found["paths"].values():
                for operation in path.values():
                    default = operation["responses"].get("422", {}).get("content", {}).get("application/json")
                    if default is not None:
                        del operation["responses"]["422"]
            app.openapi_schema = found
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
