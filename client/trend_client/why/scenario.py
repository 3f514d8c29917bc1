"""What would change a forecast: the same model under other prices and promotions of the next steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from trend_client.decisions.paths import Dependence, Sampler
from trend_client.decisions.words import say
from trend_common.errors import UsageError
from trend_common.forecasts import Forecast
from trend_common.panel import SalesPanel
from trend_common.scoring import future_dates

if TYPE_CHECKING:
    from trend_client.decisions.outlook import Outlook

__all__ = ["Curve", "Point", "price_range", "totals", "what_if", "with_plan"]

_FEWEST_PRICES: Final = 3

_FROM_LINES: Final = ("returns", "order")
"""Roles of columns that show that prices were computed from order lines."""


@dataclass(frozen=True)
class Point:
    """One scenario, over all chosen series and the whole horizon.

    Attributes:
        price, promo: As planned; None is what the file plans.
        mean, low, high: Units: mean and 80 % interval of the sum.
        revenue: Mean units × price; None without a price.
        profit: (price − cost) × mean units; None without a cost.
        outside: The price lies beyond those at which it was sold so far.
    """

    price: float | None
    promo: float | None
    mean: float
    low: float
    high: float
    revenue: float | None
    profit: float | None
    outside: bool


@dataclass(frozen=True, eq=False)
class Curve:
    """Scenarios beside the plan as it is.

    Attributes:
        ids: The series.
        horizon: Steps.
        plan: The forecast as planned.
        points: Scenarios in the order asked for.
        notes: What a person should know.
    """

    ids: tuple[str, ...]
    horizon: int
    plan: Point
    points: tuple[Point, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "series": list(self.ids),
            "horizon": self.horizon,
            "plan": vars(self.plan),
            "points": [vars(one) for one in self.points],
            "notes": list(self.notes),
        }


def with_plan(
    panel: SalesPanel,
    ids: Sequence[str],
    steps: int,
    *,
    price: float | Mapping[str, float] | None = None,
    promo: float | None = None,
) -> SalesPanel:
    """The panel with another price or promotion of these series in the next steps; other plans stay as they are.

    Series may have prices of their own.

    A price that was computed from order lines is otherwise not believed ahead, since nobody knew it; the price of a
    scenario is set by a person.

    Raises:
        UsageError: The sales have no such column, so that no model can know its effect.
    """
    from trend_common.scoring import next_origin

    wanted = {name: value for name, value in (("price", price), ("promo", promo)) if value is not None}
    own = panel.frame["unique_id"].isin(set(ids))
    for name in wanted:
        if name not in panel.frame or not np.isfinite(panel.frame.loc[own, name].to_numpy(dtype=float)).any():
            raise UsageError(
                f"The sales of these products have no {'prices' if name == 'price' else 'promotions'}.",
                f"Without a column {name} in the past, nothing can be said of what it does.",
            )
    dates = future_dates(panel, next_origin(panel), steps)
    every = pd.MultiIndex.from_product([list(ids), dates], names=["unique_id", "ds"])
    columns = [name for name in panel.known_ahead if name in panel.frame or name in panel.future]
    plan = panel.future.set_index(["unique_id", "ds"]).reindex(columns=columns)
    others = plan[~plan.index.isin(every)]
    plan = plan.reindex(every)
    for name, value in wanted.items():
        series = plan.index.get_level_values("unique_id")
        plan[name] = series.map(value).astype(float) if isinstance(value, Mapping) else float(value)
    future = pd.concat([one for one in (plan, others) if len(one)]).sort_index().reset_index()
    known = panel.columns if price is None else {k: v for k, v in panel.columns.items() if k not in _FROM_LINES}
    return replace(panel, future=future, columns=known)


def totals(forecast: Forecast, dependence: Dependence, *, shared: float = 0.2) -> np.ndarray:
    """[N] paths of the sum over all series and steps.

    Args:
        forecast: The series.
        dependence: How steps hang together.
        shared: Correlation between two series at the same step.
    """
    sampler = Sampler(dependence, forecast.horizon)
    out = np.zeros(sampler.paths)
    for _, demand in sampler.demand(forecast, shared=shared if len(forecast) > 1 else None):
        out += demand.sum((0, 2))
    return out


def price_range(panel: SalesPanel, ids: Sequence[str]) -> tuple[float, float, float, int] | None:
    """Lowest, usual and highest price at which these series were sold, and how many different ones; None if none.

    The usual price is the median of the last month's, since the very last one may be that of a single order.
    """
    frame = panel.frame[panel.frame["unique_id"].isin(set(ids))]
    if "price" not in frame:
        return None
    sold = frame[(frame["price"] > 0) & frame["y"].notna()]
    if not len(sold):
        return None
    recent = sold[sold["ds"] > sold["ds"].max() - pd.Timedelta(days=31)]
    return (
        float(sold["price"].min()),
        float(recent["price"].median()),
        float(sold["price"].max()),
        int(sold["price"].round(4).nunique()),
    )


def what_if(
    look: Outlook,
    ids: Sequence[str],
    horizon: int,
    *,
    prices: Sequence[float] = (),
    promos: Sequence[float] = (),
    cost: float | None = None,
) -> Curve:
    """The forecast under each price and promotion, all combinations of them.

    Args:
        look: The home.
        ids: Series, looked at together.
        horizon: Steps.
        prices: Prices over the whole horizon; empty leaves the plan.
        promos: 0 or 1 likewise.
        cost: Of one unit, for the profit.

    Raises:
        UsageError: The sales have no prices or promotions, or neither was asked for.
    """
    if not prices and not promos:
        raise UsageError("Nothing is asked for.", "Add --price 4.99,5.99 or --promo 0,1 or both.")
    dependence = look.dependence(max(horizon, 14 if look.panel.freq == "D" else 4))
    sold = price_range(look.panel, ids)

    def point(price: float | None, promo: float | None) -> Point:
        made = look.forecast_of(with_plan(look.panel, ids, horizon, price=price, promo=promo), ids, horizon)
        mean, paths = float(made.mean.sum()), totals(made, dependence)
        low, high = np.quantile(paths, (0.1, 0.9))
        paid = price if price is not None else (None if sold is None else sold[1])
        return Point(
            price,
            promo,
            mean,
            float(low),
            float(high),
            None if paid is None else mean * paid,
            None if paid is None or cost is None else mean * (paid - cost),
            bool(price is not None and sold is not None and not sold[0] <= price <= sold[2]),
        )

    asked: tuple[Sequence[float | None], Sequence[float | None]] = (prices or (None,), promos or (None,))
    points = tuple(point(price, promo) for price in asked[0] for promo in asked[1])
    notes = [
        say("This is what the model makes of past prices and promotions, not an experiment; nothing else changes.")
    ]
    if prices and set(_FROM_LINES) & set(look.panel.columns):
        notes.append(
            say("Prices were computed from order lines, where large orders are cheaper: the effect looks too large.")
        )
    if prices and sold is not None:
        if any(one.outside for one in points):
            notes.append(
                say(
                    "So far it was sold at %(low)s to %(high)s; beyond, the model can only guess.",
                    low=f"{sold[0]:g}",
                    high=f"{sold[2]:g}",
                )
            )
        if sold[3] < _FEWEST_PRICES:
            notes.append(
                say("It was sold at %(n)s different price(s): little can be learned of what a price does.", n=sold[3])
            )
    if look.basis is not None and look.basis.reconciled == "mint":
        notes.append(
            say("forecasts.csv was made to fit its sums (mint); what is said here is of the series by themselves.")
        )
    return Curve(tuple(ids), horizon, point(None, None), points, tuple(notes))
