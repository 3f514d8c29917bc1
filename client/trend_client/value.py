"""What better forecasts are worth on the test window, in units and in money, with what chance among products allows.

In units: the absolute errors of the medians, old less new, summed over products and steps.

In money, where a product sells at price p with a margin of m (the share of the price that is left after its cost):
who orders a day's quantity ahead loses m · p with each unit that is asked for and not there, and (1 − m) · p with
each unit that is left over and worthless. That loss is lowest at the quantile of level m (the newsvendor's critical
fractile: Arrow, Harris and Marschak, Econometrica 19, 1951), so both methods order theirs, and the difference is the
gain. What can be sold tomorrow loses less, so for goods that keep this is an upper bound. Without a margin, absolute
errors are valued at the price.

Shapes: S series, H horizon steps.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_common.errors import UsageError
from trend_common.forecasts import Forecast
from trend_common.panel import SalesPanel

__all__ = ["Amount", "Pricing", "Value", "last_prices", "value"]

Array = NDArray[np.float64]

_RESAMPLES: Final = 2000
_FEWEST: Final = 5
_LOWEST_MARGIN, _HIGHEST_MARGIN = 0.01, 0.99


@dataclass(frozen=True)
class Pricing:
    """What a unit brings.

    Attributes:
        price: One price for all products; None takes each product's last one from the sales file.
        margin: Share of the price that is left after the cost of the goods; None if it was not said.

    Raises:
        UsageError: The price is not above 0, or the margin not between 0.01 and 0.99.
    """

    price: float | None = None
    margin: float | None = None

    def __post_init__(self) -> None:
        if self.price is not None and not (math.isfinite(self.price) and self.price > 0):
            raise UsageError(f"--price is {self.price:g}.", "Give the mean price of a unit, above 0.")
        if self.margin is not None and not _LOWEST_MARGIN <= self.margin <= _HIGHEST_MARGIN:
            raise UsageError(
                f"--margin is {self.margin:g}.",
                "Give it as a share of the price, 0.01 to 0.99: 0.3 if 30 % of the price is left after the cost.",
            )


@dataclass(frozen=True)
class Amount:
    """A sum over the test window.

    Attributes:
        old, new: What the old method's errors and those of the choice amount to.
        saved: old − new.
        low, high: 95 % bootstrap interval of ``saved`` over series, None with fewer than 5.
        series: Series that count.
    """

    old: float
    new: float
    saved: float
    low: float | None
    high: float | None
    series: int


@dataclass(frozen=True)
class Value:
    """The gain of the choice over the old method on the test window.

    Attributes:
        against: The old method.
        steps: H.
        units: In units.
        money: In the price's currency; None where no product has a price.
        margin: That it was computed with, None for errors valued at the price.
    """

    against: str
    steps: int
    units: Amount
    money: Amount | None
    margin: float | None

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""

        def rounded(one: Amount | None) -> dict[str, Any] | None:
            if one is None:
                return None
            return {key: round(v, 4) if isinstance(v, float) else v for key, v in asdict(one).items()}

        return {
            "against": self.against,
            "steps": self.steps,
            "units": rounded(self.units),
            "money": rounded(self.money),
            "margin": self.margin,
        }


def last_prices(panel: SalesPanel, before: pd.Timestamp, ids: tuple[str, ...]) -> Array:
    """[S] each series' last known price before a day; NaN where there is none."""
    if "price" not in panel.frame.columns:
        return np.full(len(ids), np.nan)
    frame = panel.frame[(panel.frame["ds"] < before) & (panel.frame["price"] > 0)]
    return np.asarray(frame.groupby("unique_id")["price"].last().reindex(list(ids)), dtype=np.float64)


def value(y: Array, chosen: Forecast, old: Forecast, prices: Array, pricing: Pricing, *, against: str) -> Value:
    """Compare two forecasts of the same window.

    Args:
        y: [S, H] what came to pass, NaN where unknown.
        chosen, old: Forecasts of the same series in the same order.
        prices: [S] prices from the sales file, NaN where unknown; ``pricing.price`` goes before them.
        pricing: Price and margin.
        against: The old method's name.
    """
    price = prices if pricing.price is None else np.full(len(y), pricing.price)
    units = [np.nansum(np.abs(y - one.median), axis=1) for one in (old, chosen)]
    money = units if pricing.margin is None else [_ordered(y, one, pricing.margin) for one in (old, chosen)]
    known = np.isfinite(price)
    return Value(
        against,
        y.shape[1],
        _amount(*units),
        _amount(*(one[known] * price[known] for one in money)) if known.any() else None,
        pricing.margin,
    )


def _ordered(y: Array, forecast: Forecast, margin: float) -> Array:
    """[S] loss per unit of price of ordering the quantile of level ``margin`` for each step."""
    short = y - forecast.quantile(margin)
    return np.asarray(np.nansum(np.where(short > 0, margin * short, (margin - 1) * short), axis=1))


def _amount(old: Array, new: Array) -> Amount:
    saved = old - new
    low = high = None
    if len(saved) >= _FEWEST:
        rng = np.random.default_rng(0)
        draws = [float(saved[rng.integers(0, len(saved), len(saved))].sum()) for _ in range(_RESAMPLES)]
        low, high = (float(end) for end in np.quantile(draws, (0.025, 0.975)))
    return Amount(float(old.sum()), float(new.sum()), float(saved.sum()), low, high, len(saved))
