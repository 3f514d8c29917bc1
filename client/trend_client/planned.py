"""``--future FILE``: prices, promotions, holidays and own columns of the coming days, as a person plans them.

The file has a row for each day and product; without a product column, or with an empty cell there, a row is for all
products, and likewise for stores. Its columns are named as in the sales file, or as the sales reader knows them.
What it says goes before what the sales file itself said of those days. Nothing is guessed: a product or store that
the sales do not have, a day that is not on their calendar and a cell that cannot be read are errors.

A plan that was given once is kept with the home's sales file, as that file itself is, and every command that looks
ahead knows it through :func:`planned`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from trend_client.decisions.words import say, spoken
from trend_common.closures import weekly_closures, with_closures
from trend_common.errors import DataError
from trend_common.panel import SalesPanel
from trend_common.panel.cells import clean_key
from trend_common.panel.dates import parse_dates
from trend_common.panel.findings import Report
from trend_common.panel.model import OWN
from trend_common.panel.numeric import parse_flags, parse_numbers
from trend_common.panel.reading import read_table
from trend_common.panel.vocabulary import known_role
from trend_common.scoring import future_dates, next_origin

if TYPE_CHECKING:
    from trend_client.workplace import Workplace

__all__ = ["NO_PLAN", "planned", "with_future"]

NO_PLAN: Final = Path("-")
"""``--future -``: the kept plan is forgotten."""

_REACH: Final = 400
"""Steps ahead of which a plan is kept: some commands look further than the forecast."""

_KEYS: Final = ("store", "product")
_DOORS: Final = ("open", "closed")
"""Columns that say on which days ahead the doors are open; one of them is enough."""

_SHOWN: Final = 5


def planned(
    place: Workplace, panel: SalesPanel, horizon: int, *, doors: bool = True
) -> tuple[SalesPanel, tuple[str, ...]]:
    """The panel as :func:`_with_plan` gives it, and the days on which its stores are expected to be closed.

    A column ``open`` (or ``closed``) of the plan goes before what is expected (:mod:`trend_common.closures`). Without
    ``doors`` nothing is expected: who forecasts whole weeks does not need it.
    """
    found, notes = _with_plan(place, panel, horizon)
    if not doors:
        return found, notes
    found = with_closures(found, max(horizon, _REACH), place.country)
    return found, (*notes, *_shut(found, horizon))


def _shut(panel: SalesPanel, horizon: int) -> tuple[str, ...]:
    """What a person should know of the closed days within the horizon."""
    if not panel.shut:
        return ()
    steps = future_dates(panel, next_origin(panel), horizon)
    weekly = weekly_closures(panel, steps)
    notes: list[str] = []
    by_year: dict[str, frozenset[pd.Timestamp]] = {}
    by_weekday: dict[int, dict[str, frozenset[pd.Timestamp]]] = {}
    for name, closed in panel.shut.items():
        days = closed.intersection(steps)
        usual = days & weekly.get(name, frozenset())
        by_year[name] = days - usual
        for weekday in {day.weekday() for day in usual}:
            by_weekday.setdefault(weekday, {})[name] = frozenset(day for day in usual if day.weekday() == weekday)
    for weekday in sorted(by_weekday):
        n, first, stores = _counted(by_weekday[weekday])
        notes.append(
            say(
                "Expected to be closed on %(n)s of these days, from %(first)s, since nothing was sold on any "
                "%(weekday)s of late: %(stores)s. If you open then, say so in the plan (--future): a column open "
                "with 1.",
                n=n,
                first=first,
                weekday=spoken().weekday(weekday),
                stores=stores,
            )
        )
    n, first, stores = _counted(by_year)
    if n:
        notes.append(
            say(
                "Expected to be closed, as planned or in earlier years: %(stores)s, on %(n)s of these days, "
                "from %(first)s.",
                stores=stores,
                n=n,
                first=first,
            )
        )
    return tuple(notes)


def _counted(closed: Mapping[str, frozenset[pd.Timestamp]]) -> tuple[int, str, str]:
    """How many days, the first of them, and the stores in words."""
    days = sorted(frozenset[pd.Timestamp]().union(*closed.values()))
    stores = sorted(name or say("the shop") for name, one in closed.items() if one)
    named = spoken().listed(stores[:_SHOWN]) + (" …" if len(stores) > _SHOWN else "")
    return len(days), str(days[0].date()) if days else "", named


def _with_plan(place: Workplace, panel: SalesPanel, horizon: int) -> tuple[SalesPanel, tuple[str, ...]]:
    """The panel with what is planned: by the file that the command was given, else by the one that the home keeps.

    A file that was given and could be used is kept; one that is kept and cannot be used any more is left out, and a
    note says so, since a plan of last month is no fault of today's command.

    Args:
        place: The home; ``place.future`` is what the command was given, :data:`NO_PLAN` forgets what is kept.
        panel: Its sales.
        horizon: Steps ahead that the plan should know; it is read as far as it goes.

    Raises:
        DataError: A file that was given cannot be used.
    """
    kept = place.source.future
    if place.future == NO_PLAN:
        _keep(place, None)
        return panel, (() if kept is None else (say("The plan %(file)s is forgotten.", file=Path(kept).name),))
    given = None if place.future is None else place.future.expanduser()
    path = given or (None if kept is None else Path(kept))
    if path is None:
        return panel, ()
    try:
        found, noted = with_future(
            panel, path, horizon, date_format=place.source.date_format, reach=max(horizon, _REACH)
        )
    except DataError as error:
        if given is not None:
            raise
        return panel, (
            say(
                "The plan %(file)s is not used: %(why)s --future FILE names another one.",
                file=path.name,
                why=error.message,
            ),
        )
    if given is None:
        return found, (
            say("The plan %(file)s is used, as it was given before; --future - forgets it.", file=path.name),
            *noted,
        )
    _keep(place, str(given.absolute()))
    return found, noted


def _keep(place: Workplace, path: str | None) -> None:
    if place.source.future != path:
        place.source = place.source.model_copy(update={"future": path})
        if place.source.path:
            place.home.save_data_source(place.source)


def with_future(
    panel: SalesPanel, path: Path, horizon: int, *, date_format: str | None = None, reach: int | None = None
) -> tuple[SalesPanel, tuple[str, ...]]:
    """The panel with what a file says of the steps after it.

    Args:
        panel: Sales.
        path: CSV, Parquet or Excel.
        horizon: H; what is not known of these steps is told.
        date_format: Form of the dates, as for the sales.
        reach: Steps that are taken from the file, at least ``horizon``, which is the default.

    Returns:
        The panel, and what a person should know: days that are missing, or that the forecast does not reach.

    Raises:
        DataError: The file cannot be read, or names what the sales do not have; every problem is named.
    """
    report = Report()
    raw = read_table(path, report).frame
    roles = _roles(panel, [str(name) for name in raw.columns], path)
    dates = parse_dates(raw[roles["date"]], roles["date"], report, date_format=date_format)
    report.stop_if_blocked()
    rows = pd.DataFrame({"ds": dates.days.to_numpy()})
    _refuse(path, np.asarray(rows["ds"].isna()), f"has no date that can be read in column {roles['date']!r}", _DATES)
    for key in _KEYS:
        rows[key] = clean_key(raw[roles[key]]).to_numpy() if key in roles else ""
        known = set(panel.static[key])
        strange = rows[key][(rows[key] != "") & ~rows[key].isin(known)]
        _refuse(
            path,
            np.asarray(rows[key].isin(strange)),
            f"names a {key} that is not in the sales: {', '.join(repr(one) for one in strange.unique()[:_SHOWN])}",
            f"Write each {key} as in the sales file, or remove those rows; products without any sales yet need a row "
            "in the sales file first.",
        )
    values = [name for name in panel.known_ahead if name in roles]
    for name in values:
        rows[name] = _numbers(raw[roles[name]], name, roles[name], path)
    for name in _DOORS:
        if name in roles and "open" not in rows:
            flags = _numbers(raw[roles[name]], name, roles[name], path)
            rows["open"] = flags if name == "open" else 1.0 - flags
            values = [*values, "open"]
    noted: list[str] = []
    steps = future_dates(panel, next_origin(panel), reach or horizon)
    rows = _within(rows, panel, steps, path, noted, horizon)
    spread = _for_series(rows, panel, values, path)
    named = [name for name in values if name != "open"]
    _tell_gaps(panel, spread[spread["ds"] <= steps[horizon - 1]], steps[:horizon], named, noted)
    for name in values:
        if name not in panel.frame.columns and name != "open":
            noted.append(
                say(
                    "%(name)s: your sales file has no such column, so its effect is not known and it is not used.",
                    name=name,
                )
            )
    if "price" in values and {"returns", "order"} & set(panel.columns):
        noted.append(say("price: the sales are order lines, whose prices follow from what was sold; it is not used."))
    values = [name for name in values if name in panel.frame.columns or name == "open"]
    return replace(panel, future=_laid_over(panel, spread, values)), tuple(noted)


_DATES: Final = "Write dates as in the sales file, such as 2024-03-31, or say how with --date-format."


def _roles(panel: SalesPanel, names: list[str], path: Path) -> dict[str, str]:
    """Role → column of this file."""
    sold = {source: role for role, source in panel.columns.items()}
    usable = {"date", *_KEYS, *panel.known_ahead, *_DOORS}
    roles: dict[str, str] = {}
    for name in names:
        role = sold.get(name) or (name if name in usable else known_role(name))
        if role in usable and role not in roles:
            roles[str(role)] = name
    if "date" not in roles:
        raise DataError(
            f"{path.name} has no column of dates; its columns are {', '.join(names[:20])}.",
            "Name it as in the sales file, or 'date'.",
        )
    if not set(roles) & {*panel.known_ahead, *_DOORS}:
        raise DataError(
            f"{path.name} has no column that can be known ahead; its columns are {', '.join(names[:20])}.",
            f"It can have {', '.join((*panel.known_ahead, *_DOORS))}, named so or as in the sales file.",
        )
    return roles


def _numbers(cells: pd.Series, role: str, column: str, path: Path) -> np.ndarray:
    """[rows] values; empty cells are unknown."""
    if role in ("promo", "holiday", *_DOORS):
        blank = cells.isna() | (cells.astype(str).str.strip() == "")
        values = parse_flags(cells, ".", blank_is_no=False)
        return np.where(blank, np.nan, np.clip(values, 0.0, 1.0))
    found = parse_numbers(cells, ".")
    if found.unreadable.any():
        other = parse_numbers(cells, ",")
        found = other if not other.unreadable.any() else found
    wrong = found.unreadable | ((found.values <= 0) if role == "price" else np.zeros(len(cells), dtype=bool))
    _refuse(
        path, wrong, f"has no usable number in column {column!r}", "Prices are above 0; leave unknown cells empty."
    )
    return found.values


def _refuse(path: Path, wrong: np.ndarray, what: str, hint: str) -> None:
    rows = np.flatnonzero(wrong)
    if rows.size:
        named = ", ".join(str(row + 2) for row in rows[:_SHOWN])
        raise DataError(f"{path.name}: line {named} {what} ({rows.size:,} of {len(wrong):,} lines).", hint)


def _within(
    rows: pd.DataFrame, panel: SalesPanel, steps: pd.DatetimeIndex, path: Path, noted: list[str], horizon: int
) -> pd.DataFrame:
    """The rows on the steps to be forecast."""
    off = rows[(rows["ds"] >= steps[0]) & (rows["ds"] <= steps[-1]) & ~rows["ds"].isin(steps)]
    if len(off):
        near = steps[int(np.abs(steps - off["ds"].iloc[0]).argmin())]
        raise DataError(
            f"{path.name}: {off['ds'].iloc[0].date()} is not on the calendar of the sales ({len(off):,} lines).",
            f"Each step is dated as in the sales file; the nearest is {near.date()}.",
        )
    inside, last = rows["ds"].isin(steps), steps[horizon - 1]
    if not (inside & (rows["ds"] <= last)).any():
        raise DataError(
            f"{path.name} says nothing of {steps[0].date()} to {last.date()}, which are to be forecast; its "
            f"dates are {rows['ds'].min().date()} to {rows['ds'].max().date()}.",
            "Give the days after the last one of the sales file.",
        )
    before, after = int((rows["ds"] < steps[0]).sum()), int((rows["ds"] > steps[-1]).sum())
    if before:
        noted.append(
            say(
                "%(n)s lines lie before %(day)s, the first day to be forecast, and are not used.",
                n=f"{before:,}",
                day=steps[0].date(),
            )
        )
    if after:
        noted.append(
            say(
                "%(n)s lines lie after %(day)s, the last day to be forecast, and are not used.",
                n=f"{after:,}",
                day=steps[-1].date(),
            )
        )
    return rows[inside]


def _for_series(rows: pd.DataFrame, panel: SalesPanel, values: list[str], path: Path) -> pd.DataFrame:
    """One row a series and step; lines that name a product go before the others, then those that name a store."""
    static = panel.static.rename_axis("unique_id").reset_index()[["unique_id", *_KEYS]]
    parts: list[pd.DataFrame] = []
    for named in ((), ("store",), ("product",), ("product", "store")):
        part = rows[np.logical_and.reduce([(rows[key] != "") == (key in named) for key in _KEYS])]
        if not len(part):
            continue
        twice = part.duplicated(["ds", *_KEYS], keep=False)
        if twice.any() and len(part[twice].drop_duplicates()) > int((~part[twice].duplicated(["ds", *_KEYS])).sum()):
            first = part[twice].iloc[0]
            where = " ".join(text for text in (first["store"], first["product"]) if text) or "all products"
            raise DataError(
                f"{path.name} says two things of {first['ds'].date()} for {where}.",
                "Keep one line for each day, store and product.",
            )
        part = part.drop_duplicates(["ds", *_KEYS])
        if named:
            merged = part.drop(columns=[key for key in _KEYS if key not in named]).merge(static, on=list(named))
        else:
            merged = part.drop(columns=list(_KEYS)).merge(static[["unique_id"]], how="cross")
        parts.append(merged[["unique_id", "ds", *values]])
    if not parts or not sum(len(part) for part in parts):
        raise DataError(
            f"No product of {path.name} is sold in the store that its line names.",
            "Check the store and product columns.",
        )
    laid = parts[0].set_index(["unique_id", "ds"])
    for part in parts[1:]:
        laid = part.set_index(["unique_id", "ds"]).combine_first(laid)
    return laid.reset_index().sort_values(["unique_id", "ds"], ignore_index=True)


def _tell_gaps(
    panel: SalesPanel, spread: pd.DataFrame, steps: pd.DatetimeIndex, values: list[str], noted: list[str]
) -> None:
    series = spread["unique_id"].nunique()
    for name in values:
        known = int(spread[name].notna().sum())
        missing = series * len(steps) - known
        if missing:
            noted.append(
                say(
                    "%(name)s: unknown for %(n)s of %(all)s product days of the file; those days are forecast as if "
                    "nobody knew.",
                    name=panel.columns.get(name, name) if name in OWN else name,
                    n=f"{missing:,}",
                    all=f"{series * len(steps):,}",
                )
            )


def _laid_over(panel: SalesPanel, spread: pd.DataFrame, values: list[str]) -> pd.DataFrame:
    """The panel's own plans with the file's on top."""
    columns: Mapping[str, object] = {name: None for name in panel.future.columns}
    new = spread[["unique_id", "ds", *values]].set_index(["unique_id", "ds"])
    old = panel.future.set_index(["unique_id", "ds"])
    merged = new.combine_first(old) if len(old) else new
    merged = merged.reset_index().sort_values(["unique_id", "ds"], ignore_index=True)
    order = [name for name in columns if name in merged.columns]
    return merged[[*order, *(name for name in merged.columns if name not in columns)]]
