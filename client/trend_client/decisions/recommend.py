"""What to do next: which products to promote, restock, mark down or drop, by what it is predicted to gain.

- **promote**: the mean over paths of (sales with a promotion − without one) × margin, less what the usual discount
  takes from every unit. Only products with promotions in their past and none planned.
- **restock**: the units that would be lost without an order until the next delivery, × margin. The order is that of
  ``trend-client orders`` under the same terms (:func:`~trend_client.decisions.orders.plan_orders`).
- **mark down**: what lies there beyond the 90 % quantile of the horizon's demand: units that a price cut of a fifth
  would sell beyond plan at the new price, less what the cut takes from the units that sell anyway.
- **drop**: four of five paths sell nothing over the horizon; frees the stock at cost.

Both sides of a comparison are on the same paths, so the interval is of the difference itself. It knows the forecast's
uncertainty, not how wrong the model may be about promotions and prices. Without margins gains are in units, and
actions are ranked within their kind alone. Shapes: S series, N paths, H steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_client.decisions.orders import described, plan_orders, terms_of
from trend_client.decisions.paths import Dependence, Sampler
from trend_client.decisions.policy import lead_times
from trend_client.decisions.reasons import Fact, worded
from trend_client.decisions.stock import StockRow
from trend_client.decisions.words import say, spoken
from trend_client.why.scenario import with_plan
from trend_common import __version__
from trend_common.errors import UsageError
from trend_common.forecasts import Forecast
from trend_common.panel import SalesPanel

if TYPE_CHECKING:
    from trend_client.decisions.outlook import Outlook

__all__ = ["ACTIONS", "Advice", "Recommendation", "Values", "recommend"]

Array = NDArray[np.float64]

ACTIONS: Final = ("promote", "restock", "mark down", "drop")

_CUT: Final = 0.2
_FEWEST_PROMOTIONS: Final = 5
_FEWEST_PRICES: Final = 3
_ENDS: Final = (0.1, 0.9)
_LIKELY_NOTHING: Final = 0.8


@dataclass(frozen=True)
class Advice:
    """One thing to do.

    Attributes:
        action: Of :data:`ACTIONS`.
        unique_id: The series.
        gain, low, high: Mean and 80 % interval, in money or units.
        units: Units that it is about: more sold, ordered, to clear, or lying there.
        facts: Why, to be worded in any language (:mod:`trend_client.decisions.reasons`).
    """

    action: str
    unique_id: str
    gain: float
    low: float
    high: float
    units: float
    facts: tuple[Fact, ...]

    @property
    def reason(self) -> str:
        """For a person, in the language that is spoken."""
        return worded(self.facts, spoken())


@dataclass(frozen=True)
class Values:
    """What units are worth.

    Attributes:
        price: Series → price of a unit; those without one have no value in money.
        margin: Share of the price that is left after the cost.
        known: Series → price and cost that the stock file states; they go first.
    """

    price: Mapping[str, float]
    margin: float | None
    known: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def in_money(self) -> bool:
        """Whether gains are in money."""
        return self.margin is not None and bool(self.price)

    def of(self, series: str) -> tuple[float, float]:
        """(price, cost) of a unit; (1, 0) where gains are in units, NaN where the price is unknown."""
        if not self.in_money or self.margin is None:
            return 1.0, 0.0
        if series in self.known:
            return self.known[series]
        price = self.price.get(series, float("nan"))
        return price, price * (1 - self.margin)


@dataclass(frozen=True, eq=False)
class Recommendation:
    """Everything worth doing, best first within money, or within each action for units.

    ``names`` has store, product and description of each series that is spoken of.
    """

    advice: tuple[Advice, ...]
    horizon: int
    in_money: bool
    notes: tuple[str, ...]
    names: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "schema": 1,
            "version": __version__,
            "command": "recommend",
            "horizon": self.horizon,
            "gain_in": "money" if self.in_money else "units",
            "language": spoken().code,
            "notes": list(self.notes),
            "advice": [
                {
                    "action": one.action,
                    "unique_id": one.unique_id,
                    **self.names.get(one.unique_id, {}),
                    **{name: round(getattr(one, name), 4) for name in ("gain", "low", "high", "units")},
                    "reason": one.reason,
                    "facts": [fact.to_json() for fact in one.facts],
                }
                for one in self.advice
            ],
        }


def last_prices(panel: SalesPanel) -> dict[str, float]:
    """Series → median price of its last 28 sold steps."""
    if "price" not in panel.frame:
        return {}
    sold = panel.frame[(panel.frame["price"] > 0) & (panel.frame["y"] > 0)]
    recent = sold.groupby("unique_id").tail(28)
    return _numbers(recent.groupby("unique_id")["price"].median())


def recommend(
    look: Outlook,
    stock: Mapping[str, StockRow],
    values: Values,
    *,
    horizon: int,
    actions: Sequence[str] = ACTIONS,
    notes: Sequence[str] = (),
) -> Recommendation:
    """All advice for a home.

    Args:
        look: The home.
        stock: Series → stock and terms; empty leaves out restocking and marking down.
        values: What units are worth.
        horizon: Steps of the next period.
        actions: Which to look for.
        notes: What to tell beside.

    Raises:
        UsageError: An action is unknown.
    """
    strange = [one for one in actions if one not in ACTIONS]
    if strange:
        raise UsageError(f"The action {strange[0]!r} is unknown.", f"It is one of {', '.join(ACTIONS)}.")
    told = list(notes)
    dependence = look.dependence(max(horizon, 14 if look.panel.freq == "D" else 4))
    found: list[Advice] = []
    if "promote" in actions:
        found += _promote(look, dependence, values, horizon, told)
    if "restock" in actions and stock:
        found += _restock(look, stock, values, told)
    if "mark down" in actions and stock:
        found += _mark_down(look, dependence, stock, values, horizon, told)
    if "drop" in actions:
        found += _drop(look.panel, look.forecast(horizon), dependence, stock, values, horizon)
    if not stock and {"restock", "mark down"} & set(actions):
        told.append(say("Without --stock nothing is said about restocking and marking down."))
    order = {name: place for place, name in enumerate(ACTIONS)}
    if values.in_money:
        found.sort(key=lambda one: (-one.gain, one.unique_id))
    else:
        told.append(say("Gains are in units, ranked within each action; --margin 0.3 (and prices) gives money."))
        found.sort(key=lambda one: (order[one.action], -one.gain, one.unique_id))
    names = {one.unique_id: described(look.panel, one.unique_id) for one in found}
    return Recommendation(tuple(found), horizon, values.in_money, (*told, *look.notes), names)


def _advice(action: str, series: str, gain: Array, units: float, *facts: Fact) -> Advice:
    low, high = (float(one) for one in np.quantile(gain, _ENDS))
    mean = float(gain.mean())
    # Ranked by the mean, which is what adds up over products; an interval that leaves it out wants a word.
    skewed = (Fact("rare gain"),) if mean > high else (Fact("rare loss"),) if mean < low else ()
    return Advice(action, series, mean, low, high, units, (*facts, *skewed))


def _sums(forecast: Forecast, dependence: Dependence, steps: int) -> Array:
    """[S, N] demand over the first steps."""
    sampler = Sampler(dependence, steps, paths=512)
    return np.concatenate([one.sum(2) for _, one in sampler.demand(forecast)])


def _promote(look: Outlook, dependence: Dependence, values: Values, horizon: int, told: list[str]) -> list[Advice]:
    panel = look.panel
    if "promo" not in panel.frame:
        told.append(say("The sales have no promotions, so nothing is said about promoting."))
        return []
    frame = panel.frame[panel.frame["y"].notna() & ~panel.frame["closed"]]
    past = frame[frame["promo"] > 0].groupby("unique_id")["y"]
    count, level = _numbers(past.count()), _numbers(past.mean())
    usual = _numbers(frame[~(frame["promo"] > 0)].groupby("unique_id")["y"].mean())
    planned = set()
    if "promo" in panel.future:
        planned = set(panel.future.loc[panel.future["promo"] > 0, "unique_id"])
    ids = [
        name
        for name in panel.ids
        if count.get(name, 0.0) >= _FEWEST_PROMOTIONS and usual.get(name, 0.0) > 0 and name not in planned
    ]
    if not ids:
        return []
    with_one = look.forecast_of(with_plan(panel, ids, horizon, promo=1.0), ids, horizon)
    without = look.forecast_of(with_plan(panel, ids, horizon, promo=0.0), ids, horizon)
    more, base = _sums(with_one, dependence, horizon), _sums(without, dependence, horizon)
    discount = _discounts(frame)
    found = []
    for row, name in enumerate(ids):
        price, cost = values.of(name)
        off = discount.get(name, 0.0) if values.in_money else 0.0
        gain = more[row] * (price * (1 - off) - cost) - base[row] * (price - cost)
        if not np.isfinite(gain).all() or gain.mean() <= 0:
            continue
        units = float((more[row] - base[row]).mean())
        facts = [Fact("promotion", more=units, times=count[name], factor=level[name] / usual[name])]
        if off > 0:
            facts.append(Fact("discount", share=off))
        found.append(_advice("promote", name, gain, units, *facts))
    return found


def _discounts(frame: pd.DataFrame) -> dict[str, float]:
    """Series → how much lower its median price is in promotions."""
    if "price" not in frame:
        return {}
    priced = frame[frame["price"] > 0]
    low = priced[priced["promo"] > 0].groupby("unique_id")["price"].median()
    usual = priced[~(priced["promo"] > 0)].groupby("unique_id")["price"].median()
    return _numbers((1 - low / usual).dropna().clip(0, 0.9))


def _numbers(values: pd.Series) -> dict[str, float]:
    """Series → value."""
    return dict(zip(map(str, values.index), values.to_numpy(dtype=np.float64).tolist(), strict=True))


def _restock(look: Outlook, stock: Mapping[str, StockRow], values: Values, told: list[str]) -> list[Advice]:
    plan = plan_orders(look, stock)
    ids = tuple(name for name, one in plan.proposals.items() if one.order > 0)
    if not ids:
        return []
    path = np.arange(plan.sampler.paths)
    found, worthless = [], 0
    for part, demand in plan.sampler.demand(plan.forecast.select(ids)):
        for name, paths in zip(ids[part], demand, strict=True):
            row, one = stock[name], plan.proposals[name]
            arrival = lead_times(row.terms, plan.sampler.extra)
            sums = np.concatenate([np.zeros((len(paths), 1)), np.cumsum(paths, axis=1)], axis=1)
            wanted = sums[path, arrival + row.terms.cover] - sums[path, arrival]
            left = np.maximum(row.position.total - sums[path, arrival], 0.0)
            saved = np.minimum(np.maximum(wanted - left, 0.0), one.order)
            price, cost = values.of(name)
            gain = saved * (price - cost)
            if not (np.isfinite(gain).all() and gain.mean() > 0):
                worthless += 1
                continue
            runs_out = Fact("runs out") if one.days_left is None else Fact("runs out in", steps=one.days_left)
            facts = (
                runs_out,
                Fact("restock", without=one.stockout_without, then=one.stockout_with, order=one.order),
            )
            found.append(_advice("restock", name, gain, one.order, *facts))
    told.append(
        say(
            "Restocking quotes the orders of trend-client orders %(terms)s with the same stock file; other terms "
            "give other orders.",
            terms=terms_of(stock),
        )
    )
    if worthless:
        told.append(
            say(
                "%(n)s orders of that list are not advised here: their price is unknown, or they bring no more than "
                "they cost.",
                n=worthless,
            )
        )
    return found


def _mark_down(
    look: Outlook,
    dependence: Dependence,
    stock: Mapping[str, StockRow],
    values: Values,
    horizon: int,
    told: list[str],
) -> list[Advice]:
    ids = [name for name in look.panel.ids if name in stock and stock[name].position.on_hand > 0]
    if not ids:
        return []
    base = _sums(look.forecast(horizon, ids), dependence, horizon)
    there = np.array([stock[name].position.on_hand for name in ids])
    surplus = there - np.quantile(base, 0.9, axis=1)
    kept = [row for row in range(len(ids)) if surplus[row] >= 1]
    if not kept:
        return []
    panel = look.panel
    prices = last_prices(panel)
    different = (
        panel.frame.groupby("unique_id")["price"].nunique() if "price" in panel.frame else pd.Series(dtype=int)
    )
    priced = [row for row in kept if ids[row] in prices and different.get(ids[row], 0) >= _FEWEST_PRICES]
    if len(priced) < len(kept):
        told.append(
            say(
                "%(n)s series have more stock than they will sell, but too few past prices to say what a lower one "
                "would do; they are in no advice.",
                n=len(kept) - len(priced),
            )
        )
    if not priced:
        return []
    if {"returns", "order"} & set(panel.columns):
        told.append(
            say("Prices were computed from order lines, where large orders are cheaper: price cuts look too good.")
        )
    names = [ids[row] for row in priced]
    cuts = {name: prices[name] * (1 - _CUT) for name in names}
    plain = {name: prices[name] for name in names}
    lower, same = (
        _sums(look.forecast_of(with_plan(panel, names, horizon, price=one), names, horizon), dependence, horizon)
        for one in (cuts, plain)
    )
    found = []
    for place, row in enumerate(priced):
        name = ids[row]
        price, _ = values.of(name)
        sold, anyway = np.minimum(lower[place], there[row]), np.minimum(same[place], there[row])
        # The stock is paid for: what counts is the money that it brings.
        gain = sold * price * (1 - _CUT) - anyway * price if values.in_money else sold - anyway
        if np.isfinite(gain).all() and gain.mean() > 0:
            facts = (
                Fact("surplus", there=there[row], surplus=surplus[row], steps=horizon),
                Fact("cut", new=cuts[name], old=prices[name], more=float((sold - anyway).mean())),
            )
            found.append(_advice("mark down", name, gain, float(surplus[row]), *facts))
    return found


def _drop(
    panel: SalesPanel,
    forecast: Forecast,
    dependence: Dependence,
    stock: Mapping[str, StockRow],
    values: Values,
    horizon: int,
) -> list[Advice]:
    sums = _sums(forecast, dependence, horizon)
    nothing = (sums < 0.5).mean(1)
    last = panel.frame[panel.frame["y"] > 0].groupby("unique_id")["ds"].max()
    sold = {str(name): pd.Timestamp(str(day)).date() for name, day in last.items()}
    found = []
    for row in np.flatnonzero(nothing > _LIKELY_NOTHING):
        name = forecast.ids[row]
        price, cost = values.of(name)
        there = stock[name].position.on_hand if name in stock else 0.0
        lost = sums[row] * ((price - cost) if values.in_money else 1.0)
        # Dropping frees the money that lies in the stock and gives up what would still be sold.
        gain = (there * cost if values.in_money else 0.0) - lost
        if not np.isfinite(gain).all():
            gain = -sums[row]
        facts = [
            Fact("nothing", share=nothing[row], steps=horizon),
            Fact("last sold", day=str(sold[name])) if name in sold else Fact("never sold"),
        ]
        if there:
            facts.append(Fact("on hand", there=there))
        found.append(_advice("drop", name, np.asarray(gain), there, *facts))
    return found
