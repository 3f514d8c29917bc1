"""How much to order: the arithmetic of stock, without any forecast in it.

Time runs in steps. An order placed at the start of step 0 arrives at the start of step L and the next one, placed at
step R, arrives at step R + L: until then stock has to last, the *protection interval* of L + R steps. N paths.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trend_client.decisions.levels import ServiceLevels
from trend_common.errors import UsageError

__all__ = ["Position", "Proposal", "Terms", "critical_fractile", "lead_times", "propose", "rounded_order"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Terms:
    """Under which terms a product is ordered.

    Attributes:
        lead_time: L, mean steps from order to shelf.
        lead_time_sd: Its standard deviation in steps.
        review: R, steps between two orders.
        service_level: Probability of no stock-out until the next order arrives; with price and cost of a perishable
            the critical fractile takes its place.
        moq: Least quantity of an order that is placed at all.
        pack: Orders are multiples of it.
        shelf_life: Steps for which a delivery can be sold; None keeps.
        price, cost: Of one unit; None unknown.
        salvage: What an unsold unit of a perishable still brings.

    Raises:
        UsageError: A term is out of range.
    """

    lead_time: float
    review: int
    service_level: float = 0.95
    lead_time_sd: float = 0.0
    moq: float = 0.0
    pack: float = 1.0
    shelf_life: int | None = None
    price: float | None = None
    cost: float | None = None
    salvage: float = 0.0

    def __post_init__(self) -> None:
        for name, value, low in (
            ("lead time", self.lead_time, 0.0),
            ("spread of the lead time", self.lead_time_sd, 0.0),
            ("minimum order", self.moq, 0.0),
        ):
            if not (math.isfinite(value) and value >= low):
                raise UsageError(f"The {name} is {value:g}.", "It is a number of 0 or more.")
        if self.review < 1:
            raise UsageError(f"The steps between orders are {self.review}.", "They are 1 or more.")
        if not 0.5 <= self.service_level <= 0.999:
            raise UsageError(
                f"The service level is {self.service_level:g}.", "It lies from 0.5 to 0.999; 0.95 is usual."
            )
        if not (math.isfinite(self.pack) and self.pack > 0):
            raise UsageError(f"The pack size is {self.pack:g}.", "It is a number above 0.")
        if self.shelf_life is not None and self.shelf_life < 1:
            raise UsageError(f"The shelf life is {self.shelf_life} steps.", "It is 1 or more.")

    @property
    def longest_lead_time(self) -> int:
        """Steps after which an order counts as arrived in any case: three spreads above the mean."""
        return math.floor(self.lead_time + 3 * self.lead_time_sd + 0.5)

    @property
    def cover(self) -> int:
        """Steps that a delivery is meant for: until the next one, or until it is spoilt."""
        return self.review if self.shelf_life is None else min(self.review, self.shelf_life)

    @property
    def steps(self) -> int:
        """Steps of forecast that are needed."""
        return self.longest_lead_time + max(self.review, self.shelf_life or 0)

    @property
    def target(self) -> float:
        """The level at which demand is to be met: the service level, or the critical fractile of a perishable."""
        if self.shelf_life is None or self.price is None or self.cost is None:
            return self.service_level
        return critical_fractile(self.price, self.cost, self.salvage)


@dataclass(frozen=True)
class Position:
    """What is there: on the shelf, and ordered but not yet delivered (taken to arrive within the lead time)."""

    on_hand: float
    on_order: float = 0.0

    @property
    def total(self) -> float:
        """On hand and on order."""
        return self.on_hand + self.on_order


@dataclass(frozen=True)
class Proposal:
    """What to do for one series.

    Attributes:
        order: Units to order now; a multiple of the pack, 0 or at least the minimum order.
        order_up_to: Stock and orders together that meet the target until the next delivery.
        reorder_point: Stock and orders together at which not even the next delivery can be waited for: the target's
            quantile of demand over the lead time. Below it order at once, whatever the review day.
        safety_stock: ``order_up_to`` without the mean demand it covers.
        mean_demand: Over lead time and review period.
        target: The level that was asked for, or the critical fractile.
        stockout_without, stockout_with: Probability of running out before the next delivery, without and with it.
        lost_without: Mean units that could not be sold until then without the order.
        waste: Mean units of this delivery that spoil; 0 for what keeps.
        days_left: Median number of steps that stock and orders last, None if longer than the forecast looks.
        gain: Mean profit of ordering against not ordering, in money; None without price and cost.
    """

    order: float
    order_up_to: float
    reorder_point: float
    safety_stock: float
    mean_demand: float
    target: float
    stockout_without: float
    stockout_with: float
    lost_without: float
    waste: float
    days_left: int | None
    gain: float | None


def critical_fractile(price: float, cost: float, salvage: float = 0.0) -> float:
    """The level of demand that a perishable is ordered for: (price − cost) / (price − salvage).

    At it the margin lost by the last unit not ordered equals the loss of one spoilt (the newsvendor of Arrow, Harris
    and Marschak 1951).

    Raises:
        UsageError: The three are not in the order salvage < cost < price.
    """
    if not salvage < cost < price:
        raise UsageError(
            f"A price of {price:g}, a cost of {cost:g} and a salvage value of {salvage:g} give no order quantity.",
            "It takes salvage < cost < price: selling must pay, and spoiling must not.",
        )
    return (price - cost) / (price - salvage)


def rounded_order(need: float, *, pack: float, moq: float) -> float:
    """The order for a need: nothing, or at least the minimum order, in whole packs upwards.

    >>> rounded_order(13, pack=6, moq=0), rounded_order(2, pack=6, moq=20), rounded_order(0, pack=6, moq=20)
    (18.0, 24.0, 0.0)
    """
    if not need > 1e-9:
        return 0.0
    # A need of 12 that floating point made 12.000000001 is two packs of 6, not three.
    return float(math.ceil(max(need, moq) / pack - 1e-9) * pack)


def lead_times(terms: Terms, normal: Array) -> NDArray[np.int64]:
    """[N] whole steps: normal around the mean, cut off at 0 and three spreads above.

    Args:
        terms: Mean and spread.
        normal: [N] standard normal draws.
    """
    drawn = np.floor(terms.lead_time + terms.lead_time_sd * normal + 0.5)
    return np.clip(drawn, 0, terms.longest_lead_time).astype(np.int64)


def propose(
    demand: Array, normal: Array, position: Position, terms: Terms, levels: ServiceLevels | None = None
) -> Proposal:
    """The order for one series.

    What keeps is ordered up to the target's quantile of demand over lead time and review period. A perishable is
    ordered for the steps it can be sold in: on each path the need is what they ask for beyond the stock that is left
    when it arrives (nothing of what is there now, if it is spoilt by then), and the target's quantile of that need is
    ordered.

    Args:
        demand: [N, T] joint paths, T at least ``terms.steps``.
        normal: [N] standard normal draws for the lead times.
        position: What is there.
        terms: The terms.
        levels: Which level of the paths meets which target; None takes it as it is.
    """
    if demand.shape[1] < terms.steps:
        raise ValueError(f"demand: {demand.shape[1]} steps, {terms.steps} are needed")
    sums = np.concatenate([np.zeros((len(demand), 1)), np.cumsum(demand, axis=1)], axis=1)
    path, arrival = np.arange(len(demand)), lead_times(terms, normal)
    until_arrival = sums[path, arrival]
    protected = sums[path, arrival + terms.cover]
    target = terms.target
    levels = levels or ServiceLevels()
    level = levels.at(target)
    reorder_point = float(levels.quantiles(sums, arrival, [target])[0])
    order_up_to = float(levels.quantiles(sums, arrival + terms.cover, [target])[0])
    if terms.shelf_life is None:
        kept = position.total - until_arrival
        need = order_up_to - position.total
    else:
        # What is on the shelf now lasts at most one shelf life; what comes in meanwhile is fresh enough.
        shelf = np.where(arrival < terms.shelf_life, position.on_hand, np.minimum(position.on_hand, until_arrival))
        kept = shelf + position.on_order - until_arrival
        need = float(np.quantile(protected - until_arrival - np.maximum(kept, 0.0), level))
    left = np.maximum(kept, 0.0)
    order = rounded_order(need, pack=terms.pack, moq=terms.moq)
    wanted = protected - until_arrival
    lost_before = np.maximum(until_arrival - position.total, 0.0)
    lost_without = np.maximum(wanted - left, 0.0)
    lost_with = np.maximum(wanted - left - order, 0.0)
    waste = 0.0
    gain: float | None = None
    if terms.shelf_life is not None:
        sellable = sums[path, arrival + terms.shelf_life] - until_arrival
        waste = float(np.maximum(order - np.maximum(sellable - left, 0.0), 0.0).mean())
    if terms.price is not None and terms.cost is not None:
        saved = float((lost_without - lost_with).mean())
        # What keeps and is not sold this time is sold the next; it costs nothing here but the money that lies in it.
        gain = saved * (terms.price - terms.cost) - waste * (terms.cost - terms.salvage)
    empty = sums[:, 1:] > position.total + 1e-9
    lasts = np.where(empty.any(axis=1), empty.argmax(axis=1), demand.shape[1])
    median = int(np.sort(lasts)[len(lasts) // 2])
    mean = float(protected.mean())
    return Proposal(
        order=order,
        order_up_to=order_up_to,
        reorder_point=reorder_point,
        safety_stock=order_up_to - mean,
        mean_demand=mean,
        target=target,
        stockout_without=float((lost_before + lost_without > 1e-9).mean()),
        stockout_with=float((lost_before + lost_with > 1e-9).mean()),
        lost_without=float((lost_before + lost_without).mean()),
        waste=waste,
        days_left=median if median < demand.shape[1] else None,
        gain=gain,
    )
