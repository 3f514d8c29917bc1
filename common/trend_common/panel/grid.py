"""From one row per series and step to regular series: every step there, and each empty one explained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_common.panel.calendar import Grid
from trend_common.panel.findings import Report
from trend_common.panel.gaps import SeriesDays, closed_days, listing
from trend_common.panel.model import COVARIATES, KNOWN_AHEAD
from trend_common.panel.outages import inferred, table_of

__all__ = ["Regular", "future_rows", "regular"]

MOST_CELLS: Final = 200_000_000
_SHORT: Final = {"D": 56, "W": 26, "M": 12}


@dataclass
class Regular:
    """All series on the grid, below each other, [steps].

    Attributes:
        series: Number of the series.
        step: Integer step of the grid.
        y: NaN = missing or unknown.
        closed: Known closed.
        covariates: Column -> values, NaN = unknown.
        last: [series] last step, -1 for a series without any known sale.
        outages: Runs without stock, as :func:`trend_common.panel.outages.table_of` gives them.
    """

    series: NDArray[np.int64]
    step: NDArray[np.int64]
    y: NDArray[np.float64]
    closed: NDArray[np.bool_]
    covariates: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    last: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    outages: pd.DataFrame = field(default_factory=pd.DataFrame)


def regular(rows: pd.DataFrame, grid: Grid, n_series: int, report: Report, *, orders: bool, end: int) -> Regular:
    """Put rows on the grid and judge every gap; rows before the first and after the last known sale are left out.

    Args:
        rows: One row per series and ``step``, sorted.
        grid: The file's own grid.
        n_series: Number of series.
        report: Where findings go.
        orders: Whether rows are order lines summed to days: days without one are zeros, up to ``end``.
        end: The last step of the export.
    """
    series, step = rows["series"].to_numpy(), rows["step"].to_numpy()
    y = rows["y"].to_numpy()
    known = np.isfinite(y) & ((y > 0) if orders else True)
    first = np.full(n_series, np.iinfo(np.int64).max)
    last = np.full(n_series, -1)
    np.minimum.at(first, series[known], step[known])
    np.maximum.at(last, series[known], step[known])
    dated = last >= first
    if orders:
        last = np.where(dated, np.maximum(last, end), last)
    laid = _laid(rows, first, last, report)
    if grid.freq == "D" and not orders:
        days = _days(laid, grid, n_series)
        week, date = closed_days(days)
        shape = listing(days, week | date)
        tail = np.where(dated, end - last, 0)
        longer = shape.sales_only & (tail > 0) & (tail <= shape.longest)
        if longer.any():
            last = np.where(longer, end, last)
            laid = _laid(rows, first, last, None)
            days = _days(laid, grid, n_series)
            week, date = closed_days(days)
            shape = listing(days, week | date)
        zeros = shape.sales_only[laid.series] & (shape.run > 0) & (shape.run <= shape.longest[laid.series])
    elif grid.freq == "D":
        days = _days(laid, grid, n_series)
        week, date = closed_days(days)
        zeros = ~days.present & ~week & ~date
    else:
        week = date = zeros = np.zeros(len(laid.series), dtype=bool)
    return _explained(laid, week, date, zeros, last, grid, report)


@dataclass
class _Laid:
    """Rows on a regular grid; a step without a row has NaN everywhere."""

    series: NDArray[np.int64]
    step: NDArray[np.int64]
    present: NDArray[np.bool_]
    values: dict[str, NDArray[np.float64]]


def _laid(rows: pd.DataFrame, first: NDArray[np.int64], last: NDArray[np.int64], report: Report | None) -> _Laid:
    lengths = np.where(last >= first, last - first + 1, 0)
    total = int(lengths.sum())
    if total > MOST_CELLS and report is not None:
        raise report.fail(
            f"The series have {total:,} steps together.", "Split the file by store, or look for mistyped years."
        )
    starts = np.cumsum(lengths) - lengths
    owner = np.repeat(np.arange(len(lengths)), lengths)
    step = np.arange(total) - starts[owner] + first[owner]
    series, at = rows["series"].to_numpy(), rows["step"].to_numpy()
    inside = (at >= first[series]) & (at <= last[series])
    place = starts[series[inside]] + at[inside] - first[series[inside]]
    present = np.zeros(total, dtype=bool)
    present[place] = True
    values = {}
    for column in ("y", "open", *COVARIATES):
        if column in rows:
            values[column] = np.full(total, np.nan)
            values[column][place] = rows[column].to_numpy(dtype=np.float64)[inside]
    return _Laid(owner, step, present, values)


def _days(laid: _Laid, grid: Grid, n_series: int) -> SeriesDays:
    y = laid.values["y"]
    shut = laid.values["open"] == 0 if "open" in laid.values else np.zeros(len(y), dtype=bool)
    zero = laid.present & (y == 0) & ~shut
    return SeriesDays(laid.series, grid.dates(laid.step), laid.present, np.nan_to_num(y) > 0, zero, n_series)


def _explained(
    laid: _Laid,
    week: NDArray[np.bool_],
    date: NDArray[np.bool_],
    zeros: NDArray[np.bool_],
    last: NDArray[np.int64],
    grid: Grid,
    report: Report,
) -> Regular:
    y = laid.values["y"]
    covariates: dict[str, NDArray[np.float64]] = {
        name: laid.values[name] for name in COVARIATES if name in laid.values
    }
    unit = {"D": "day(s)", "W": "week(s)", "M": "month(s)"}[grid.freq]
    sold = np.nan_to_num(y) > 0
    flagged = (laid.values["open"] == 0) & ~sold if "open" in laid.values else np.zeros(len(y), dtype=bool)
    closed = flagged | week | date
    report.found("closed_flag", int(flagged.sum()), f"{int(flagged.sum())} {unit} are said to be closed.")
    count = int((week & ~flagged).sum())
    report.found(
        "closed_weekdays",
        count,
        f"{count} {unit} in {len(np.unique(laid.series[week]))} series are on a closed weekday.",
    )
    count = int((date & ~flagged).sum())
    report.found(
        "closed_holidays",
        count,
        f"{count} {unit} in {len(np.unique(laid.series[date]))} series are on a closed date.",
    )
    zeros = zeros & ~closed
    report.found(
        "zero_filled", int(zeros.sum()), f"{int(zeros.sum())} {unit} have no row in series that list only sales."
    )
    empty = ~laid.present & ~closed & ~zeros
    owners = len(np.unique(laid.series[empty]))
    report.found("missing_steps", int(empty.sum()), f"{int(empty.sum())} {unit} in {owners} series have no row.")
    unknown = laid.present & np.isnan(y) & ~closed
    report.found("unknown_units", int(unknown.sum()), f"{int(unknown.sum())} row(s) have no units.")
    y[closed | zeros] = 0.0
    for column, fill in (("promo", 0.0), ("holiday", 0.0), ("returns", 0.0)):
        if column in covariates:
            covariates[column][zeros] = fill
    if "returns" in covariates:
        covariates["returns"][closed] = np.nan_to_num(covariates["returns"][closed])
    stated = np.zeros(len(y), dtype=bool)
    if "stock" in covariates:
        out = (covariates["stock"] == 0) & (y == 0) & ~closed & laid.present
        stated = out
        report.found("stock_outs", int(out.sum()), f"{int(out.sum())} {unit} have no stock and no sales.")
    outages = _outages(laid, y, closed, stated, covariates.get("stock"), grid, report)
    if "price" in covariates:
        covariates["price"] = _carried(covariates["price"], laid, report)
    return Regular(laid.series, laid.step, y, closed, covariates, last, outages)


def _outages(
    laid: _Laid,
    y: NDArray[np.float64],
    closed: NDArray[np.bool_],
    stated: NDArray[np.bool_],
    stock: NDArray[np.float64] | None,
    grid: Grid,
    report: Report,
) -> pd.DataFrame:
    """Make the demand of days without stock unknown: those the file states, and the runs of zeros that prove it."""
    y[stated] = np.nan
    out = stated
    if grid.freq == "D":
        stocked = None if stock is None else stock > 0
        found = inferred(laid.series, laid.step, y, closed, stocked)
        runs = int(np.count_nonzero(found.out & ~np.r_[False, found.out[:-1]]))
        recent = f"; {found.recent} later run(s) are too recent to judge" if found.recent else ""
        report.found(
            "inferred_stock_outs",
            int(found.out.sum()),
            f"{int(found.out.sum())} day(s) without sales, in {runs} run(s), interrupt steady sales{recent}.",
        )
        out = stated | found.out
    table = table_of(out, laid.series, grid.dates(laid.step), y, closed, stated=stated)
    y[out] = np.nan
    return table


def _carried(price: NDArray[np.float64], laid: _Laid, report: Report) -> NDArray[np.float64]:
    """Prices with zeros unknown and each unknown one replaced by the last known of the series.

    Without this, "the price is known" would tell a model that something was sold.
    """
    zero = price <= 0
    report.found("zero_prices", int(zero.sum()), f"{int(zero.sum())} price(s) are 0.")
    price = np.where(zero, np.nan, price)
    known = np.isfinite(price)
    if not len(price) or known.all():
        return price
    index = np.where(known, np.arange(len(price)), -1)
    latest = np.maximum.accumulate(index)
    usable = (latest >= 0) & (laid.series[np.maximum(latest, 0)] == laid.series)
    filled = np.where(usable, price[np.maximum(latest, 0)], np.nan)
    count = int((np.isfinite(filled) & ~known).sum())
    report.found("carried_prices", count, f"{count} step(s) have no price of their own.")
    return filled


def future_rows(
    rows: pd.DataFrame, last: NDArray[np.int64], report: Report, known: Sequence[str] = KNOWN_AHEAD
) -> pd.DataFrame:
    """Rows after a series' last step that state a value ``known`` ahead: ``series, step`` and those values."""
    columns = [column for column in known if column in rows]
    of_row = last[rows["series"].to_numpy()]
    later = (rows["step"].to_numpy() > of_row) & (of_row >= 0)
    ahead = later & rows["ahead"].to_numpy(dtype=bool) & rows["y"].isna().to_numpy()
    report.found(
        "future_rows", int(ahead.sum()), f"{int(ahead.sum())} row(s) after the last sale have known-ahead values."
    )
    other = int((later & ~ahead).sum())
    report.found("trailing_rows", other, f"{other} row(s) after the last sale are empty.")
    future: pd.DataFrame = rows.loc[ahead, ["series", "step", *columns]].reset_index(drop=True)
    if "price" in future:
        future["price"] = future["price"].where(future["price"] > 0)
    return future
