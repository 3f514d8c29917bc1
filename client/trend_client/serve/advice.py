"""What-if, orders and explanations over HTTP: the same functions as the offline commands, in a process of their own
(:mod:`trend_client.serve.desk`), so that no forecast waits for them.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, model_validator

from trend_client.serve.problems import documented
from trend_client.serve.schemas import Horizon, Name, Strict, Units, Whole
from trend_client.serve.service import Service
from trend_client.serve.settings import MAX_SERIES

__all__ = ["router"]

_MOST_EXPLAINED: Final = 20
_MOST_TOGETHER: Final = 100


class WhatIfRequest(Strict):
    """Series of the sales file, looked at together, under other prices or promotions; all combinations of them."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"ids": ["north/tea"], "horizon": 14, "prices": [2.5, 3.0], "promos": [0, 1]}],
            "anyOf": [
                {"required": ["prices"], "properties": {"prices": {"minItems": 1}}},
                {"required": ["promos"], "properties": {"promos": {"minItems": 1}}},
            ],
        }
    )

    ids: Annotated[list[Name], Field(min_length=1, max_length=_MOST_TOGETHER)]
    horizon: Horizon | None = None
    prices: Annotated[list[Annotated[float, Field(gt=0, le=1e9)]], Field(max_length=20)] = Field(default_factory=list)
    promos: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(max_length=2)] = Field(default_factory=list)
    cost: Units | None = Field(default=None, description="Of one unit: gives the profit as well.")

    @model_validator(mode="after")
    def _something(self) -> WhatIfRequest:
        if not self.prices and not self.promos:
            raise ValueError("give prices, promos or both")
        return self


class Scenario(BaseModel):
    """One scenario, over all its series and the whole horizon."""

    price: float | None = Field(description="null: as planned.")
    promo: float | None = Field(description="null: as planned.")
    mean: float = Field(description="Expected units.")
    low: float = Field(description="With high: the 80 % interval.")
    high: float
    revenue: float | None
    profit: float | None
    outside: bool = Field(description="The price lies beyond those at which it was sold so far.")


class WhatIfAnswer(BaseModel):
    """The scenarios beside the plan as it is."""

    series: list[str]
    horizon: int
    plan: Scenario
    points: list[Scenario]
    notes: list[str]


class OrderTerms(Strict):
    """Under which terms products are ordered; in steps of the sales file (days, weeks, months)."""

    lead_time: Annotated[float, Field(ge=0, le=56)] = Field(description="Steps from order to shelf.")
    lead_time_sd: Annotated[float, Field(ge=0, le=14)] = 0.0
    review: Annotated[int, Field(ge=1, le=28), Whole] = Field(default=7, description="Steps between two orders.")
    service_level: Annotated[float, Field(ge=0.5, le=0.999)] = 0.95
    moq: Units = Field(default=0.0, description="Least quantity of an order that is placed.")
    pack: Annotated[float, Field(ge=0.001, le=1e6)] = Field(default=1.0, description="Orders are multiples of it.")
    shelf_life: Annotated[int, Field(ge=1, le=28), Whole] | None = None


class StockItem(Strict):
    """What is there of one series of the sales file."""

    id: Name
    on_hand: Units
    on_order: Units = 0.0
    moq: Units | None = None
    pack: Annotated[float, Field(ge=0.001, le=1e6)] | None = None


class OrdersRequest(Strict):
    """What is on the shelf and on its way, and the terms."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"terms": {"lead_time": 3}, "stock": [{"id": "north/tea", "on_hand": 12, "on_order": 0}]}]
        }
    )

    terms: OrderTerms
    stock: Annotated[list[StockItem], Field(min_length=1, max_length=MAX_SERIES)]


class OrderLine(BaseModel):
    """One order; further fields as in ``orders.csv``."""

    model_config = ConfigDict(extra="allow")

    unique_id: str
    order: float
    reorder_point: float
    safety_stock: float


class OrdersAnswer(BaseModel):
    """The order list, most urgent first."""

    origin: str
    orders: list[OrderLine]
    notes: list[str]


class ExplainRequest(Strict):
    """Which forecasts to explain."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"ids": ["north/tea"], "horizon": 14}]})

    ids: Annotated[list[Name], Field(min_length=1, max_length=_MOST_EXPLAINED)]
    horizon: Horizon | None = None


class ExplainAnswer(BaseModel):
    """What each forecast is made of; the parts add up. As in the JSON of ``trend-client explain``."""

    model_config = ConfigDict(extra="allow")

    method: str
    start: str
    steps: int
    groups: list[str]
    not_known_ahead: list[str]
    series: list[dict[str, Any]]


def router(service: Service, token: HTTPBearer) -> APIRouter:
    """The endpoints."""
    found = APIRouter(tags=["decisions"], dependencies=[Depends(token)])
    errors = documented(400, 401, 404, 409, 413, 422, 503)

    async def ask(kind: str, body: BaseModel, ids: list[str]) -> dict[str, Any]:
        service.model.known(ids)
        return await service.desk.ask(kind, body.model_dump())

    @found.post("/v1/what-if", summary="Other prices or promotions", responses=errors)
    async def scenarios(body: WhatIfRequest) -> WhatIfAnswer:
        """What the forecast makes of other prices and promotions of some series, beside the plan as it is."""
        return WhatIfAnswer.model_validate(await ask("what-if", body, body.ids))

    @found.post("/v1/orders", summary="What to order", responses=errors)
    async def order_list(body: OrdersRequest) -> OrdersAnswer:
        """Order quantities, reorder points and safety stock from the forecast, as ``trend-client orders`` gives them.

        The first request learns from past forecasts how demand hangs together, and takes longer.
        """
        return OrdersAnswer.model_validate(await ask("orders", body, [one.id for one in body.stock]))

    @found.post("/v1/explain", summary="Why a forecast is what it is", responses=errors)
    async def why(body: ExplainRequest) -> ExplainAnswer:
        """The contributions of history, season, price, promotion, holiday and text; similar past periods."""
        return ExplainAnswer.model_validate(await ask("explain", body, body.ids))

    return found
