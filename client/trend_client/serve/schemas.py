"""What callers send and get; strict: no field that is not named here, no text for a number, no surprise sizes."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from trend_client.serve.settings import MAX_HORIZON, MAX_NAME, MAX_ROWS, MAX_SERIES
from trend_common.forecasts import LEVELS

__all__ = [
    "Actual",
    "ActualsAnswer",
    "ActualsRequest",
    "Alert",
    "DriftReport",
    "ForecastAnswer",
    "ForecastRequest",
    "FoundInRows",
    "Health",
    "Horizon",
    "LatencyReport",
    "ModelAnswer",
    "Name",
    "Quantiles",
    "Ready",
    "SalesRow",
    "SeriesAnswer",
    "SeriesForecast",
    "StoredSeries",
    "Strict",
    "Units",
    "Whole",
    "day",
]

_EARLIEST: Final = date(1990, 1, 1)
_LATEST: Final = date(2100, 12, 31)
_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


def day(value: Any) -> Any:
    """A date from YYYY-MM-DD alone: no times, no seconds since 1970."""
    if isinstance(value, date):
        return value
    if not isinstance(value, str) or not _DAY.fullmatch(value):
        raise ValueError("a day is written YYYY-MM-DD")
    try:
        found = date.fromisoformat(value)
    except ValueError:
        raise ValueError("there is no such day in the calendar") from None
    if not _EARLIEST <= found <= _LATEST:
        raise ValueError(f"days lie between {_EARLIEST} and {_LATEST}")
    return found


# The pattern says what the format cannot: the years, and no day that some month lacks.
_PATTERN: Final = (
    r"^(199[0-9]|20[0-9]{2}|2100)-((0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31)$"
    r"|^(1992|1996|20(0[048]|[2468][048]|[13579][26]))-02-29$"
)

Day = Annotated[
    date,
    BeforeValidator(day),
    WithJsonSchema(
        {"type": "string", "pattern": _PATTERN, "description": "YYYY-MM-DD.", "examples": ["2026-03-01"]},
        mode="validation",
    ),
]
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
Units = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Freq = Literal["D", "W", "M"]


def _stored_level(value: float) -> float:
    if value not in LEVELS:
        raise ValueError(f"one of {', '.join(map(str, LEVELS))} is expected")
    return value


Level = Annotated[float, AfterValidator(_stored_level), WithJsonSchema({"type": "number", "enum": list(LEVELS)})]


def _whole(value: Any) -> Any:
    """JSON knows one kind of number: 28.0 is 28."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = BeforeValidator(_whole)
Horizon = Annotated[int, Field(ge=1, le=MAX_HORIZON), Whole]


class Strict(BaseModel):
    """What callers send."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


_WEEK = [12, 9, 10, 11, 15, 24, 20]
_ROWS: list[dict[str, Any]] = [
    {"date": f"2026-03-{number + 1:02d}", "store": "north", "product": "tea", "units": _WEEK[number % 7]}
    for number in range(21)
]
_PLANNED: dict[str, Any] = {"date": "2026-03-22", "store": "north", "product": "tea", "promo": 1, "price": 2.5}


class SalesRow(Strict):
    """One product at one store on one day (week, month). Without units it is a plan: what is known of a day ahead."""

    date: Day
    product: Name
    store: Name | None = Field(default=None, description="One and the same store if left out.")
    units: Units | None = Field(default=None, description="What was sold; nothing for days ahead.")
    price: Units | None = None
    promo: Annotated[float, Field(ge=0, le=1)] | None = Field(default=None, description="1 on days of a promotion.")
    holiday: Annotated[float, Field(ge=0, le=1)] | None = Field(default=None, description="1 on holidays.")
    stock: Units | None = Field(default=None, description="Stock of that day; with 0 the demand counts as unknown.")
    category: Annotated[str, Field(max_length=MAX_NAME)] | None = None
    description: Annotated[str, Field(max_length=1000)] | None = None


class Wanted(Strict):
    """What every request about forecasts may say."""

    horizon: Horizon | None = Field(default=None, description="Steps ahead. Default: the federation's.")
    method: Literal["chosen", "zero-shot", "shared", "personal"] | None = Field(
        default=None,
        description='"chosen" is the blend of trend-client forecast, the others are one model alone. Default: the '
        "blend where a forecast was made of these sales, else one model, as GET /v1/model says.",
    )


class ForecastRequest(Wanted):
    """Series of the sales file by id, or the rows of series of any kind; one of the two."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"rows": [*_ROWS, _PLANNED], "horizon": 7, "levels": [0.1, 0.5, 0.9]},
                {"ids": ["north/tea"], "horizon": 7},
            ],
            "anyOf": [
                {
                    "required": ["ids"],
                    "properties": {"ids": {"type": "array"}, "rows": {"type": "null"}, "freq": {"type": "null"}},
                },
                {"required": ["rows"], "properties": {"rows": {"type": "array"}, "ids": {"type": "null"}}},
            ],
        }
    )

    ids: Annotated[list[Name], Field(min_length=1, max_length=MAX_SERIES)] | None = Field(
        default=None, description="Series of the sales file, as GET /v1/series lists them."
    )
    rows: Annotated[list[SalesRow], Field(min_length=1, max_length=MAX_ROWS)] | None = Field(
        default=None, description=f"Sales of at most {MAX_SERIES} series; cleaned by the rules of a sales file."
    )
    freq: Freq | None = Field(default=None, description="Of the rows: days, weeks or months. Default: as they are.")
    levels: Annotated[list[Level], Field(min_length=1, max_length=len(LEVELS))] | None = Field(
        default=None, description="Which quantiles to answer. Default: all thirteen."
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> ForecastRequest:
        if (self.ids is None) == (self.rows is None):
            raise ValueError("give either ids or rows")
        if self.ids is not None and self.freq is not None:
            raise ValueError("freq is about rows; the series of the sales file have theirs")
        return self


Quantiles = Annotated[
    dict[str, list[float]],
    Field(description="q05, q50, ...: sales will be at or below it with 5, 50, ... % probability."),
]


class SeriesForecast(BaseModel):
    """One series' forecast."""

    id: str
    store: str
    product: str
    dates: list[date]
    mean: list[float] = Field(description="Expected sales; means may be added up, quantiles may not.")
    quantiles: Quantiles


class FoundInRows(BaseModel):
    """Something that was noticed in the rows of a request, and what was done about it."""

    code: str
    severity: str
    count: int
    action: str


class ForecastAnswer(BaseModel):
    """The forecasts, in the order asked (rows: in the order of the ids)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "method": "zero-shot",
                    "precision": "float32",
                    "freq": "D",
                    "forecasts": [
                        {
                            "id": "north/tea",
                            "store": "north",
                            "product": "tea",
                            "dates": ["2026-03-22"],
                            "mean": [17.1],
                            "quantiles": {"q10": [12.6], "q50": [16.9], "q90": [22.4]},
                        }
                    ],
                    "findings": [],
                }
            ]
        }
    )

    method: str
    precision: str
    freq: str
    forecasts: list[SeriesForecast]
    findings: list[FoundInRows] = []


class Actual(Strict):
    """What was sold of one series of the sales file on one day (week, month) that was forecast before."""

    id: Name
    date: Day
    units: Units


class ActualsRequest(Strict):
    """What came to pass."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"rows": [{"id": "north/tea", "date": "2026-03-22", "units": 19}]}]}
    )

    rows: Annotated[list[Actual], Field(min_length=1, max_length=MAX_ROWS)]


class DriftReport(BaseModel):
    """How often past forecasts of this service held, over the last outcomes."""

    outcomes: int = Field(description="Days of series that were forecast and then reported.")
    coverage80: float | None = Field(description="Share within the central 80 % interval; null without outcomes.")
    coverage90: float | None = Field(description="Share within the central 90 % interval.")
    alert: bool = Field(description="Whether a share is too low, by more than the tolerance.")


class ActualsAnswer(BaseModel):
    """How many of the rows had a forecast, and the drift with them."""

    matched: int
    unmatched: int
    drift: DriftReport


class LatencyReport(BaseModel):
    """Seconds of the requests of the last five minutes, of the process that answers."""

    requests: int
    p50: float | None
    p99: float | None
    alert: bool


class Alert(BaseModel):
    """Something that a person should look at."""

    code: Literal["drift", "latency"]
    detail: str
    hint: str


class Health(BaseModel):
    """How the service is."""

    status: Literal["ok", "alert"]
    alerts: list[Alert]
    drift: DriftReport
    latency: LatencyReport
    waiting: int = Field(description="Windows that are admitted and not yet answered.")


class Ready(BaseModel):
    """Whether requests are answered."""

    status: Literal["ready", "alive"]


class ModelAnswer(BaseModel):
    """What answers."""

    version: str = Field(description="Of trend-federated.")
    backbone: str
    backbone_sha256: str
    federation: str = Field(description='"local" where this home never received an adapter.')
    adapters: dict[str, str | None] = Field(description="Method → SHA-256 of its tensors; null: the backbone alone.")
    method: str = Field(description="The default.")
    chosen_by: str = Field(description="Why it is the default.")
    precision: str
    device: str
    freq: str
    horizon: int
    context: int
    series: int = Field(description="Series of the sales file.")
    until: date | None = Field(description="The last step of the sales file.")


class StoredSeries(BaseModel):
    """One series of the sales file."""

    id: str
    store: str
    product: str


class SeriesAnswer(BaseModel):
    """One page of the series of the sales file."""

    total: int
    offset: int
    series: list[StoredSeries]
