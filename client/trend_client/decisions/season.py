"""Seasons ahead: start, peak, end and total, what to buy before them, and how it sells through.

Sales are summed to weeks (months stay months) for each product, category or all together, and forecast a year ahead
on joint paths. On each path the season is the shortest run of steps that holds 60 % of the path's year, after a
moving mean over three steps; evenly spread sales would need 31 of 52 weeks for that. So start, peak, end and total
come with the spread that the paths give them. A season needs a history of at least one year; from one year alone the
forecast knows that season only. Shapes: N paths, T steps of a year.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_client.decisions.outlook import dependence_before
from trend_client.decisions.paths import Dependence, Sampler
from trend_client.decisions.words import say
from trend_common import __version__
from trend_common.covariates import DEFAULT_CONTEXT, YEAR
from trend_common.errors import DataError, UsageError
from trend_common.forecasts import Forecast
from trend_common.panel import Freq, SalesPanel, from_frame
from trend_common.scoring import next_origin

if TYPE_CHECKING:
    from trend_client.decisions.outlook import Outlook

__all__ = ["Season", "Seasons", "by_week", "season_of", "seasons", "shortest_runs"]

Array = NDArray[np.float64]

SHARE: Final = 0.6
_SEASONAL: Final = {"W": 22, "M": 5}
"""Steps up to which a run is a season; even sales take 31 weeks, or 7 months."""

_ENDS: Final = (0.1, 0.5, 0.9)
_LONGEST: Final = 400


@dataclass(frozen=True)
class Season:
    """The season ahead of one product or category.

    Attributes:
        name: Of the product or category.
        description: What the file calls a product; "" where it says nothing.
        start, peak, end: 10 %, 50 % and 90 % dates.
        total: The same of the units in the season.
        length: Median number of steps.
        seasonal: Whether that is short enough to be a season.
        running: Whether the season may have begun before the forecast does.
        order: Units to have bought before it, at the target.
        target: The level of the order.
        sell_through: For each step of the season: date, and the 10 %, mean and 90 % share of the order sold by then.
        leftover, missed: Mean units left over, and asked for but not there.
    """

    name: str
    start: tuple[str, str, str]
    peak: tuple[str, str, str]
    end: tuple[str, str, str]
    total: tuple[float, float, float]
    length: int
    seasonal: bool
    running: bool
    order: float
    target: float
    sell_through: tuple[tuple[str, float, float, float], ...]
    leftover: float
    missed: float
    description: str = ""


@dataclass(frozen=True, eq=False)
class Seasons:
    """All seasons of a home."""

    rows: tuple[Season, ...]
    by: str
    freq: str
    dependence: Dependence
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "schema": 1,
            "version": __version__,
            "command": "season",
            "by": self.by,
            "freq": self.freq,
            "dependence": {"common": self.dependence.common, "carry": self.dependence.carry},
            "notes": list(self.notes),
            "seasons": [
                {
                    **{key: value for key, value in vars(one).items() if key != "sell_through"},
                    "total": [round(value, 2) for value in one.total],
                    "leftover": round(one.leftover, 2),
                    "missed": round(one.missed, 2),
                    "sell_through": [
                        {"ds": day, "low": round(low, 4), "mean": round(mean, 4), "high": round(high, 4)}
                        for day, low, mean, high in one.sell_through
                    ],
                }
                for one in self.rows
            ],
        }


def by_week(panel: SalesPanel, by: str) -> SalesPanel:
    """The sales summed over stores, for each product, category or all, in whole weeks or months.

    Args:
        panel: Daily, weekly or monthly sales.
        by: "product", "category" or "all".

    Raises:
        UsageError: ``by`` is none of these, or there are no categories.
        DataError: The sales cover less than a year.
    """
    if by not in ("product", "category", "all"):
        raise UsageError(f"--by is {by!r}.", "It is product, category or all.")
    static = panel.static
    name = pd.Series("all", index=static.index) if by == "all" else static[by]
    if by == "category" and not (name != "").any():
        raise UsageError("The sales have no categories.", "Use --by product, or --by all.")
    frame = pd.DataFrame(
        {"date": panel.frame["ds"], "product": panel.frame["unique_id"].map(name), "units": panel.frame["y"]}
    )
    frame = frame[frame["product"] != ""]
    if panel.freq == "D":
        first = panel.start + pd.Timedelta(days=(7 - panel.start.dayofweek) % 7)
        last = panel.calendar_end - pd.Timedelta(days=(panel.calendar_end.dayofweek + 1) % 7)
        frame = frame[(frame["date"] >= first) & (frame["date"] <= last)]
        frame["date"] = frame["date"] - pd.to_timedelta(frame["date"].dt.dayofweek, unit="D")
    summed = pd.DataFrame(frame.groupby(["product", "date"])["units"].sum(min_count=1).reset_index())
    course = _course(panel, name)
    if course is not None:
        known = course[(course["date"] >= summed["date"].min()) & course["product"].isin(summed["product"])]
        summed = summed.merge(known, on=["product", "date"], how="outer").sort_values(
            ["product", "date"], ignore_index=True
        )
    freq: Freq = "M" if panel.freq == "M" else "W"
    covered = summed.loc[summed["units"].notna(), "date"].nunique()
    if covered < YEAR[freq]:
        raise DataError(
            f"The sales cover {covered} whole {'weeks' if freq == 'W' else 'months'}; a season needs {YEAR[freq]}.",
            "Give a longer history.",
        )
    if by == "product":
        words = static.drop_duplicates("product").set_index("product")["description"]
        summed["description"] = summed["product"].map(words)
    return from_frame(summed, freq=freq)


def _course(panel: SalesPanel, name: pd.Series) -> pd.DataFrame | None:
    """``product, date`` and the mean promotion, holiday and price of each week or month; None if nothing is planned.

    The past is given beside what is planned, since a model knows of a promotion what it did before.
    """
    ahead = panel.future
    columns = [one for one in ("promo", "holiday", "price") if one in panel.frame and one in ahead]
    columns = [one for one in columns if ahead[one].notna().any()]
    if {"returns", "order"} & set(panel.columns):  # such a price follows from what was sold
        columns = [one for one in columns if one != "price"]
    if not columns:
        return None
    both = pd.concat([panel.frame[["unique_id", "ds", *columns]], ahead[["unique_id", "ds", *columns]]])
    both = both.assign(product=both["unique_id"].map(name), date=both["ds"])
    if panel.freq == "D":
        both["date"] = both["ds"] - pd.to_timedelta(both["ds"].dt.dayofweek, unit="D")
    return pd.DataFrame(both.groupby(["product", "date"])[columns].mean().dropna(how="all").reset_index())


def shortest_runs(paths: Array, share: float = SHARE) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First step and length of the shortest run of consecutive steps that holds ``share`` of each path's total.

    Args:
        paths: [N, T], not negative.
        share: In (0, 1).

    Returns:
        [N] starts and [N] lengths; a path without any sale has start 0 and length T.
    """
    count, steps = paths.shape
    sums = np.concatenate([np.zeros((count, 1)), np.cumsum(paths, axis=1)], axis=1)
    total = sums[:, -1]
    starts, lengths = np.zeros(count, dtype=np.int64), np.full(count, steps, dtype=np.int64)
    open_rows = np.flatnonzero(total > 0)
    for length in range(1, steps + 1):
        if not len(open_rows):
            break
        held = sums[open_rows, length:] - sums[open_rows, :-length]
        best = held.argmax(axis=1)
        done = held[np.arange(len(open_rows)), best] >= share * total[open_rows] - 1e-9
        starts[open_rows[done]], lengths[open_rows[done]] = best[done], length
        open_rows = open_rows[~done]
    return starts, lengths


def season_of(
    name: str,
    paths: Array,
    dates: NDArray[np.datetime64],
    *,
    target: float,
    pack: float,
    freq: str,
    description: str = "",
) -> Season:
    """The season on joint paths of a year.

    Args:
        name: For people.
        paths: [N, T].
        dates: [T].
        target: Level at which the season's demand is bought.
        pack: The order is a multiple of it.
        freq: "W" or "M".
        description: For people, too.
    """
    width = 3 if freq == "W" else 1
    kernel = np.ones(width) / width
    smooth = np.apply_along_axis(lambda one: np.convolve(one, kernel, mode="same"), 1, paths)
    starts, lengths = shortest_runs(smooth)
    steps = np.arange(paths.shape[1])
    inside = (steps >= starts[:, None]) & (steps < (starts + lengths)[:, None])
    peaks = np.where(inside, smooth, -1.0).argmax(axis=1)

    def ends(places: NDArray[np.int64]) -> tuple[str, str, str]:
        found = np.quantile(places, _ENDS, method="inverted_cdf").astype(int)
        low, mid, high = (str(dates[place])[:10] for place in found)
        return low, mid, high

    first, last = int(np.median(starts)), int(np.median(starts + lengths - 1))
    season = paths[:, first : last + 1]
    total = season.sum(1)
    low, mid, high = (float(one) for one in np.quantile(total, _ENDS))
    order = float(np.ceil(np.quantile(total, target) / pack - 1e-9) * pack)
    sold = np.minimum(np.cumsum(season, axis=1), order) / order if order > 0 else np.zeros_like(season)
    curve = tuple(
        (
            str(dates[first + step])[:10],
            *(float(one) for one in (np.quantile(at, 0.1), at.mean(), np.quantile(at, 0.9))),
        )
        for step, at in enumerate(sold.T)
    )
    length = int(np.median(lengths))
    return Season(
        name=name,
        start=ends(starts),
        peak=ends(peaks),
        end=ends(starts + lengths - 1),
        total=(low, mid, high),
        length=length,
        seasonal=length <= _SEASONAL[freq] and mid > 0,
        running=bool((starts == 0).mean() > 0.1),
        order=order,
        target=target,
        sell_through=curve,  # type: ignore[arg-type]
        leftover=float(np.maximum(order - total, 0).mean()),
        missed=float(np.maximum(total - order, 0).mean()),
        description=description,
    )


def year_ahead(look: Outlook, panel: SalesPanel) -> tuple[Forecast, Dependence]:
    """A year ahead of a panel of weeks or months, by the pretrained model, and how its steps hang together.

    The blend of the daily forecast says nothing of sums of weeks a year ahead: its weights were compared on other
    series and another horizon, and an adapter was trained for one frequency.
    """
    forecaster = look.engine.forecaster(
        None, context=min(DEFAULT_CONTEXT[panel.freq], look.engine.backbone.max_context), country=look.place.country
    )
    origin = next_origin(panel)
    dependence = dependence_before(forecaster, panel, origin, 26 if panel.freq == "W" else 6, windows=2)
    return forecaster(panel, origin, YEAR[panel.freq]), dependence


def seasons(
    look: Outlook, *, by: str = "product", names: Sequence[str] = (), target: float = 0.8, pack: float = 1.0
) -> Seasons:
    """The seasons ahead, the largest first.

    Args:
        look: The home.
        by: "product", "category" or "all".
        names: Of these alone; empty for all.
        target: Level at which a season's demand is bought.
        pack: Orders are multiples of it.

    Raises:
        UsageError: A name is unknown.
        DataError: Less than a year of sales.
    """
    from trend_client.decisions.tables import nearest

    if not 0.01 <= target <= 0.99:
        raise UsageError(f"The target is {target:g}.", "It lies from 0.01 to 0.99.")
    panel = by_week(look.panel, by)
    known = dict(zip(panel.static["product"], panel.static.index, strict=True))
    words = panel.static["description"] if by == "product" else pd.Series("", index=panel.static.index)
    called = {one.casefold(): ident for ident, one in words.items() if one}
    wanted = [known.get(name, called.get(name.casefold())) for name in names]
    for name, ident in zip(names, wanted, strict=True):
        if ident is None:
            like = nearest(name, [*known, *(one for one in words if one)])
            raise UsageError(f"There is no {by} {name!r}.", f"The nearest name is {like!r}." if like else "")
    forecast, dependence = year_ahead(look, panel)
    if names:
        forecast = forecast.select(list(dict.fromkeys(one for one in wanted if one is not None)))
    largest = np.argsort(-forecast.mean.sum(1), kind="stable")[:_LONGEST]
    notes = list(look.notes)
    notes += (
        [say("Only the %(n)s largest of %(all)s are looked at.", n=_LONGEST, all=len(forecast))]
        if len(forecast) > _LONGEST
        else []
    )
    forecast = forecast.select([forecast.ids[row] for row in largest])
    sampler = Sampler(dependence, forecast.horizon, paths=512)
    rows: list[Season] = []
    product = panel.static["product"]
    for part, demand in sampler.demand(forecast):
        for series, paths in zip(forecast.ids[part], demand, strict=True):
            rows.append(
                season_of(
                    str(product[series]),
                    paths,
                    forecast.ds[0],
                    target=target,
                    pack=pack,
                    freq=panel.freq,
                    description=str(words[series]),
                )
            )
    years = panel.frame["ds"].nunique() / YEAR[panel.freq]
    if years < 2:
        notes.append(
            say("The sales cover %(years)s years: each season is known from one year at most.", years=f"{years:.1f}")
        )
    return Seasons(tuple(rows), by, panel.freq, dependence, tuple(notes))
