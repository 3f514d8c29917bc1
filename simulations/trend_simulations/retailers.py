"""Synthetic retailers: shoppers who walk into shops and choose, so that products compete for them.

A market (one per seed) has categories, a catalogue of products and a year that all retailers share; a retailer has
its own shops, range, prices, flyers, opening days and tastes. The units sold of product p at shop s on day t are
negative binomial with mean::

    footfall(s, t) · appetite(category, t) · share(p, t)
    share = exp(u(p, t)) / (1 + Σ over the category's products on sale of exp(u))

a multinomial logit with an outside option (Guadagni and Little 1983): the utility u falls with the log of the price,
rises on promotion, drops for a while afterwards (cupboards are full) and drifts slowly. What a federation can learn
from several retailers (the response to price and promotion, holidays, the year of each category) is the market's;
levels, habits and drift are each retailer's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_common.errors import UsageError
from trend_common.files import replacing

__all__ = ["COLUMNS", "SEGMENTS", "SyntheticRetailer", "draw_retailers", "make_retailers", "write_retailers"]

Array = NDArray[np.float64]

COLUMNS: Final = ("date", "store", "product", "units", "price", "promo", "category", "description", "holiday")
"""The columns of a retailer's table."""

_CATEGORIES: Final[dict[str, tuple[str, ...]]] = {
    "juice": ("orange juice", "apple juice", "multivitamin juice", "grape juice"),
    "coffee": ("ground coffee", "espresso beans", "instant coffee", "decaf coffee"),
    "chocolate": ("milk chocolate", "dark chocolate", "hazelnut bar", "praline box"),
    "ice cream": ("vanilla ice cream", "chocolate ice cream", "fruit sorbet", "ice lollies"),
    "soup": ("tomato soup", "lentil soup", "chicken broth", "pumpkin soup"),
    "sun care": ("sun lotion", "after sun gel", "kids sun spray", "lip balm"),
    "shampoo": ("repair shampoo", "volume shampoo", "dry shampoo", "baby shampoo"),
    "laundry": ("colour detergent", "wool detergent", "softener", "stain remover"),
    "candles": ("scented candle", "tea lights", "pillar candle", "lantern"),
    "garden": ("potting soil", "watering can", "plant food", "flower seeds"),
}
_BRANDS: Final = ("Alba", "Bergland", "Corner", "Dorado", "Everyday", "Finest", "Green Hill", "Harbour")
_SIZES: Final = ("small", "regular", "large", "family pack")

SEGMENTS: Final[dict[str, tuple[str, ...]]] = {
    "grocer": ("juice", "coffee", "chocolate", "ice cream", "soup", "laundry"),
    "drugstore": ("shampoo", "sun care", "laundry", "chocolate", "candles"),
    "homeware": ("candles", "garden", "coffee", "laundry", "chocolate"),
}
"""Kind of retailer → categories it sells; alike retailers share products."""

_FIXED_HOLIDAYS: Final = ((1, 1), (5, 1), (10, 3), (12, 25), (12, 26))
_PER_CATEGORY: Final = 20


@dataclass(frozen=True)
class SyntheticRetailer:
    """One retailer's sales.

    Attributes:
        name: Such as ``grocer-1``.
        segment: One of :data:`SEGMENTS`.
        frame: :data:`COLUMNS`; one row a product, shop and open day (or week), sorted; ``promo`` and ``holiday`` 0/1.
        series: Number of products times shops that were ever on sale.
    """

    name: str
    segment: str
    frame: pd.DataFrame
    series: int


@dataclass(frozen=True)
class _Market:
    """What all retailers of one seed share. K categories, P products, T days."""

    dates: pd.DatetimeIndex
    holiday: Array  # [T]
    eve: Array  # [T] how near the next holiday is
    names: tuple[str, ...]
    appetite: Array  # [K, T] the year of each category, mean 1
    festive: Array  # [K] how much more is bought before holidays
    elasticity: Array  # [K]
    promo_pull: Array  # [K]
    category: NDArray[np.int64]  # [P]
    description: tuple[str, ...]
    code: tuple[str, ...]
    price: Array  # [P] list price
    quality: Array  # [P]


def _holidays(dates: pd.DatetimeIndex) -> Array:
    from dateutil.easter import easter  # type: ignore[import-untyped]

    days = set()
    for year in range(dates[0].year, dates[-1].year + 2):
        days |= {pd.Timestamp(year, month, day) for month, day in _FIXED_HOLIDAYS}
        sunday = pd.Timestamp(easter(year))
        days |= {sunday + pd.Timedelta(days=shift) for shift in (-2, 1, 39, 50)}
    return np.asarray(dates.isin(list(days)), dtype=np.float64)


def _market(seed: int, dates: pd.DatetimeIndex) -> _Market:
    rng = np.random.default_rng([seed, 0])
    names = tuple(_CATEGORIES)
    holiday = _holidays(dates)
    eve = np.zeros(len(dates))
    for ahead in range(1, 6):
        eve[:-ahead] = np.maximum(eve[:-ahead], holiday[ahead:] * (1 - (ahead - 1) / 5))
    angle = 2 * np.pi * dates.dayofyear.to_numpy() / 365.25
    appetite = np.ones((len(names), len(dates)))
    for row in range(len(names)):
        # One or two seasons a year, narrow or wide: bumps on the circle.
        bumps = rng.integers(1, 3)
        for _ in range(bumps):
            width, strength = rng.uniform(1.0, 7.0), rng.uniform(0.2, 1.3) / bumps
            appetite[row] += strength * np.exp(width * (np.cos(angle - rng.uniform(0, 2 * np.pi)) - 1))
    appetite /= appetite.mean(axis=1, keepdims=True)
    category = np.repeat(np.arange(len(names)), _PER_CATEGORY)
    n = len(category)
    description, code = [], []
    for position, kind in enumerate(category):
        brand, size = _BRANDS[int(rng.integers(len(_BRANDS)))], int(rng.integers(len(_SIZES)))
        variant = _CATEGORIES[names[kind]][position % 4]
        description.append(f"{brand} {variant} {_SIZES[size]}")
        code.append(f"P{1000 + position}")
    return _Market(
        dates=dates,
        holiday=holiday,
        eve=eve,
        names=names,
        appetite=appetite,
        festive=rng.normal(0.15, 0.25, len(names)),
        elasticity=rng.uniform(1.5, 3.5, len(names)),
        promo_pull=rng.uniform(0.3, 1.1, len(names)),
        category=category,
        description=tuple(description),
        code=tuple(code),
        price=np.asarray(np.round(np.exp(rng.normal(1.2, 0.6, n)), 1) + 0.49, dtype=np.float64),
        quality=rng.normal(0.0, 0.9, n),
    )


def _smooth_noise(rng: np.random.Generator, rows: int, steps: int, memory: float, size: float) -> Array:
    """[rows, steps] first-order autoregressive noise of standard deviation ``size``."""
    innovation = rng.normal(0, size * np.sqrt(1 - memory**2), (rows, steps))
    innovation[:, 0] = rng.normal(0, size, rows)
    out = np.empty_like(innovation)
    state = np.zeros(rows)
    for step in range(steps):
        state = memory * state + innovation[:, step]
        out[:, step] = state
    return out


def _flyers(rng: np.random.Generator, n: int, dates: pd.DatetimeIndex) -> tuple[Array, Array]:
    """[n, T] promotion 0/1 and discount: a retailer's own weekday, length, share of the range and depths."""
    steps = len(dates)
    start_day, length = int(rng.integers(7)), int(rng.choice([4, 6, 7, 14]))
    share, depths = rng.uniform(0.04, 0.22), rng.choice([0.1, 0.15, 0.2, 0.25, 0.33, 0.4], 3, replace=False)
    promo, discount = np.zeros((n, steps)), np.zeros((n, steps))
    favourite = rng.dirichlet(np.full(n, 1.5)) * n
    starts = np.flatnonzero(dates.dayofweek == start_day)[:: max(1, length // 7)]
    for start in starts:
        chosen = rng.random(n) < np.minimum(share * favourite, 0.7)
        span = slice(int(start), int(start) + length)
        promo[chosen, span] = 1
        discount[chosen, span] = rng.choice(depths, chosen.sum())[:, None]
    return promo, discount


@dataclass(frozen=True)
class _Range:
    """What a retailer sells and how. n products, T days."""

    products: NDArray[np.int64]  # [n] positions in the market's catalogue
    kinds: NDArray[np.int64]  # [n] their categories
    shelf: Array  # [n, T] price on the shelf
    promo: Array  # [n, T] 0/1
    utility: Array  # [n, T] how attractive each product is in all shops
    alive: NDArray[np.bool_]  # [n, T] listed


def _range(market: _Market, segment: str, wanted: int, rng: np.random.Generator) -> _Range:
    mine = np.flatnonzero(np.isin(market.category, [market.names.index(c) for c in SEGMENTS[segment]]))
    # Popular products are listed by most retailers, so alike retailers overlap.
    draw = 2 * market.quality[mine] + rng.gumbel(0, 0.6, len(mine))
    products = np.sort(mine[np.argsort(-draw)[: min(wanted, len(mine))]])
    n, kinds, steps = len(products), market.category[products], len(market.dates)

    level = float(np.exp(rng.normal(0, 0.12)))
    price = np.maximum(np.round(market.price[products] * level * np.exp(rng.normal(0, 0.04, n)), 2), 0.2)
    promo, discount = _flyers(rng, n, market.dates)
    increase = np.cumsum((rng.random((n, steps)) < 1 / 400) * rng.uniform(0.01, 0.08, (n, steps)), axis=1)
    regular = price[:, None] * (1 + increase)
    shelf = np.maximum(np.round(regular * (1 - discount), 2), 0.05)

    # After a promotion cupboards are full; the effect fades with a half-life of a week.
    full = np.zeros((n, steps))
    for step in range(1, steps):
        full[:, step] = 0.9 * full[:, step - 1] + 0.1 * promo[:, step - 1]
    response = -market.elasticity[kinds][:, None] * np.log(shelf / regular)
    pull = market.promo_pull[kinds][:, None] * promo * np.exp(rng.normal(0, 0.15))
    after = -rng.uniform(0.3, 0.9) * full * (1 - promo)
    utility = market.quality[products][:, None] * 0.6 + rng.normal(0, 0.4, (n, 1)) + response + pull + after

    alive = np.ones((n, steps), dtype=bool)
    launched = rng.random(n) < 0.12
    alive[launched] = np.arange(steps) >= rng.integers(steps // 4, max(steps * 9 // 10, 1), launched.sum())[:, None]
    ended = ~launched & (rng.random(n) < 0.04)
    alive[ended] = np.arange(steps) < rng.integers(steps // 2, steps, ended.sum())[:, None]
    return _Range(products, kinds, shelf, promo, utility, alive)


def _closed(market: _Market, rng: np.random.Generator) -> NDArray[np.bool_]:
    """[T] days on which the retailer's shops stay shut: Sundays, a day of its own, holidays, or none of them."""
    weekday = market.dates.dayofweek.to_numpy()
    own_day = int(rng.integers(0, 12))
    shut = (market.holiday > 0) & (rng.random() < 0.7)
    return np.asarray(shut | ((weekday == 6) & (rng.random() < 0.5)) | (weekday == own_day))


def _footfall(market: _Market, rng: np.random.Generator) -> Array:
    """[T] shoppers a day in an average shop of one retailer: size, rhythm of the week, pay days, growth, weather."""
    dates, steps = market.dates, len(market.dates)
    rhythm = np.exp(rng.normal(0, 0.25, 7) + np.array([0, -0.05, 0, 0.05, 0.2, 0.3, -0.1]))
    payday = 1 + rng.uniform(0, 0.25) * ((dates.day >= 27) | (dates.day <= 3))
    growth = np.exp(rng.normal(0, 0.12) * np.arange(steps) / 365)
    phase = 2 * np.pi * dates.dayofyear.to_numpy() / 365.25 - rng.uniform(0, 6)
    weather = np.exp(0.1 * rng.normal() * np.cos(phase) + _smooth_noise(rng, 1, steps, 0.6, 0.08)[0])
    size = float(np.exp(rng.normal(3.1, 0.9)))
    return np.asarray(size * (rhythm / rhythm.mean())[dates.dayofweek] * payday * growth * weather)


def _retailer(market: _Market, segment: str, name: str, series: int, seed: Sequence[int]) -> SyntheticRetailer:
    rng = np.random.default_rng(list(seed))
    steps = len(market.dates)
    shops = int(rng.integers(1, max(2, min(6, series // 8)) + 1))
    goods = _range(market, segment, max(1, round(series / shops)), rng)
    shut, footfall = _closed(market, rng), _footfall(market, rng)
    taste = np.exp(rng.normal(0, 0.3, len(market.names)))
    n = len(goods.products)

    pieces = []
    for shop in range(shops):
        visitors = footfall * float(np.exp(rng.normal(0, 0.45)))
        visitors = visitors * np.exp(rng.normal(0, 0.12, 7))[market.dates.dayofweek]
        visitors = visitors * np.exp(_smooth_noise(rng, 1, steps, 0.3, 0.08)[0])
        drift = _smooth_noise(rng, n, steps, 0.985, 0.35) + rng.normal(0, 0.3, (n, 1))
        attraction = np.exp(goods.utility + drift) * goods.alive
        units = np.zeros((n, steps))
        for kind in np.unique(goods.kinds):
            rows = goods.kinds == kind
            appetite = market.appetite[kind] * taste[kind] * np.exp(market.festive[kind] * market.eve)
            share = attraction[rows] / (3.0 + attraction[rows].sum(axis=0))
            mean = np.maximum(visitors * appetite * share, 1e-6)
            spread = rng.uniform(2.0, 12.0)
            units[rows] = rng.poisson(rng.gamma(spread, mean / spread))
        row, step = np.nonzero(goods.alive & ~shut[None])
        pieces.append(
            pd.DataFrame(
                {
                    "date": market.dates.to_numpy()[step],
                    "store": f"{name}-shop{shop + 1}",
                    "product": np.array(market.code, dtype=object)[goods.products[row]],
                    "units": units[row, step].astype(np.int64),
                    "price": goods.shelf[row, step],
                    "promo": goods.promo[row, step].astype(np.int64),
                    "category": np.array(market.names, dtype=object)[goods.kinds[row]],
                    "description": np.array(market.description, dtype=object)[goods.products[row]],
                    "holiday": market.holiday[step].astype(np.int64),
                }
            )
        )
    return SyntheticRetailer(name, segment, pd.concat(pieces, ignore_index=True), n * shops)


def _weekly(frame: pd.DataFrame) -> pd.DataFrame:
    """Sums by the week that ends on Saturday; a week counts as promoted or festive if any of its days was."""
    week = frame.assign(date=frame["date"] + pd.to_timedelta((5 - frame["date"].dt.dayofweek) % 7, unit="D"))
    how: dict[str, Any] = {"units": "sum", "price": "mean", "promo": "max", "holiday": "max"}
    how |= {"category": "first", "description": "first"}
    table = week.groupby(["store", "product", "date"], as_index=False, sort=True).agg(how)
    table["price"] = table["price"].round(2)
    return table[list(COLUMNS)]


def draw_retailers(
    n: int,
    *,
    seed: int = 0,
    freq: Literal["D", "W"] = "D",
    days: int = 730,
    series: tuple[int, int] = (20, 80),
    end: str = "2024-06-29",
    segments: Sequence[str] | None = None,
) -> Iterator[SyntheticRetailer]:
    """Draw ``n`` retailers of one market, one after another.

    Args:
        n: How many.
        seed: The same arguments give the same tables; another seed is another market.
        freq: Daily tables, or weekly ones (weeks end on Saturday).
        days: Length of the history.
        series: Fewest and most series of a retailer, about; sizes are spread evenly on the log scale.
        end: Last day.
        segments: The retailers' kinds, repeated as needed; default all of :data:`SEGMENTS` by turns.

    Raises:
        UsageError: A number is out of its range, or a segment unknown.
    """
    low, high = series
    if n < 1 or days < 60 or not 1 <= low <= high:
        raise UsageError(
            f"{n} retailers of {low} to {high} series over {days} days cannot be made.",
            "Ask for at least 1 retailer, 60 days and 1 series.",
        )
    kinds = tuple(segments or SEGMENTS)
    unknown = [kind for kind in kinds if kind not in SEGMENTS]
    if unknown:
        raise UsageError(f"There is no segment {unknown[0]!r}.", f"Segments are {', '.join(SEGMENTS)}.")
    dates = pd.date_range(end=end, periods=days, freq="D")
    market = _market(seed, dates)
    sizes = np.exp(np.random.default_rng([seed, 1]).uniform(np.log(low), np.log(high), n)).round().astype(int)
    for index in range(n):
        segment = kinds[index % len(kinds)]
        name = f"{segment}-{index // len(kinds) + 1}"
        one = _retailer(market, segment, name, int(sizes[index]), (seed, 2, index))
        frame = one.frame if freq == "D" else _weekly(one.frame)
        frame = frame.sort_values(["store", "product", "date"], ignore_index=True)
        yield SyntheticRetailer(one.name, one.segment, frame, one.series)


def make_retailers(n: int, **how: Any) -> list[SyntheticRetailer]:
    """All of :func:`draw_retailers` in a list."""
    return list(draw_retailers(n, **how))


def write_retailers(
    folder: Path,
    n: int = 3,
    *,
    seed: int = 0,
    freq: Literal["D", "W"] = "D",
    days: int = 730,
    series: tuple[int, int] = (40, 60),
) -> list[Path]:
    """Write ``n`` retailers as ``folder/NAME.csv``; each file appears whole or not at all.

    Returns:
        The paths, in the retailers' order.
    """
    paths = []
    for retailer in draw_retailers(n, seed=seed, freq=freq, days=days, series=series):
        path = folder / f"{retailer.name}.csv"
        with replacing(path) as temporary:
            retailer.frame.to_csv(
                temporary, index=False, date_format="%Y-%m-%d", lineterminator="\n", encoding="utf-8"
            )
        paths.append(path)
    return paths
