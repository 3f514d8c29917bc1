"""What-if, orders and explanations over HTTP: the same functions as the offline commands, on the model in memory.

They take longer than a forecast, since they look at all series or at many scenarios; each runs in the model's thread,
between two batches. What depends on the sales file alone is learned once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Depends
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, model_validator

from trend_client.decisions.blend import load_basis
from trend_client.decisions.levels import ServiceLevels
from trend_client.decisions.orders import orders
from trend_client.decisions.outlook import Outlook, method_of
from trend_client.decisions.paths import Dependence
from trend_client.decisions.policy import Position, Terms
from trend_client.decisions.stock import StockRow
from trend_client.serve.problems import documented
from trend_client.serve.schemas import Horizon, Name, Strict, Units, Whole
from trend_client.serve.served import ServedModel
from trend_client.serve.service import Service
from trend_client.serve.settings import MAX_SERIES
from trend_client.why.explain import explain
from trend_client.why.scenario import what_if
from trend_common.forecasts import Forecast

__all__ = ["router"]

_MOST_EXPLAINED: Final = 20
_MOST_TOGETHER: Final = 100
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class _Kept(Outlook):
    """A home's outlook that computes each thing about all series once; used in the model's thread alone."""

    memory: dict[tuple[object, ...], Any] = field(default_factory=dict)

    def _once(self, key: tuple[object, ...], make: Callable[[], T]) -> T:
        if key not in self.memory:
            self.memory[key] = make()
        found: T = self.memory[key]
        return found

    def dependence(self, steps: int) -> Dependence:
        """As it was learned from all series."""
        return self._once(("dependence", steps), lambda: Outlook.dependence(self, steps))

    def service_levels(self, dependence: Dependence, interval: int, *, stride: int) -> ServiceLevels:
        """As they were learned from all series."""
        made = ("levels", dependence.common, dependence.carry, interval, stride)
        return self._once(made, lambda: Outlook.service_levels(self, dependence, interval, stride=stride))

    def forecast(self, steps: int, ids: Sequence[str] | None = None) -> Forecast:
        """Of all series; the one asked last is kept."""
        if ids is not None:
            return Outlook.forecast(self, steps, ids)
        if ("forecast", steps) not in self.memory:
            for key in [key for key in self.memory if key[0] == "forecast"]:
                del self.memory[key]
        return self._once(("forecast", steps), lambda: Outlook.forecast(self, steps))


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


class _Adviser:
    """The outlook of a worker, made at the first question."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._look: _Kept | None = None

    def look(self, served: ServedModel) -> _Kept:
        """With notes of its own."""
        if self._look is None:
            assert served.stored is not None
            assert served.place is not None
            panel = served.stored.windows.panel
            basis = load_basis(served.place.home, panel)
            method = method_of(served.place, served.model, basis)
            self._look = _Kept(served.place, panel, served.engine, served.model, method, basis)
        return replace(self._look, notes=[])

    async def ask(
        self, ids: list[str], answer: Callable[[_Kept, list[str], int], T], horizon: int | None = None
    ) -> T:
        """Answer in the model's thread."""
        served = self._service.model
        job = served.stored_job(ids, horizon, None)
        wanted = list(dict.fromkeys(ids))
        return await self._service.advised(job.size, lambda: answer(self.look(served), wanted, job.horizon))


def router(service: Service, token: HTTPBearer) -> APIRouter:
    """The endpoints."""
    found, adviser = APIRouter(tags=["decisions"], dependencies=[Depends(token)]), _Adviser(service)
    errors = documented(400, 401, 404, 409, 413, 422, 503)

    @found.post("/v1/what-if", summary="Other prices or promotions", responses=errors)
    async def scenarios(body: WhatIfRequest) -> WhatIfAnswer:
        """What the model makes of other prices and promotions of some series, beside the plan as it is."""

        def answer(look: _Kept, ids: list[str], horizon: int) -> WhatIfAnswer:
            made = what_if(look, ids, horizon, prices=body.prices, promos=body.promos, cost=body.cost)
            return WhatIfAnswer.model_validate(made.to_json())

        return await adviser.ask(body.ids, answer, body.horizon)

    @found.post("/v1/orders", summary="What to order", responses=errors)
    async def order_list(body: OrdersRequest) -> OrdersAnswer:
        """Order quantities, reorder points and safety stock from the forecast, as ``trend-client orders`` gives them.

        The first request learns from all series how demand hangs together, and takes longer.
        """
        terms = Terms(**body.terms.model_dump())
        stock = {
            one.id: StockRow(Position(one.on_hand, one.on_order), replace(terms, **one.model_dump(include=_own(one))))
            for one in body.stock
        }

        def answer(look: _Kept, _ids: list[str], _horizon: int) -> OrdersAnswer:
            made = orders(look, stock).to_json()
            return OrdersAnswer(origin=made["origin"], orders=made["orders"], notes=made["notes"])

        return await adviser.ask([one.id for one in body.stock], answer)

    @found.post("/v1/explain", summary="Why a forecast is what it is", responses=errors)
    async def why(body: ExplainRequest) -> ExplainAnswer:
        """The contributions of history, season, price, promotion, holiday and text; similar past periods."""

        def answer(look: _Kept, ids: list[str], horizon: int) -> ExplainAnswer:
            return ExplainAnswer.model_validate(explain(look, ids, horizon, recent=0).to_json())

        return await adviser.ask(body.ids, answer, body.horizon)

    return found


def _own(item: StockItem) -> set[str]:
    """The terms that a product has of its own."""
    return {name for name in ("moq", "pack") if getattr(item, name) is not None}
