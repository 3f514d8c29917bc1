"""From a file or a frame to a :class:`SalesPanel`: the steps in their order, each in a module of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from trend_common.errors import UsageError
from trend_common.panel.calendar import Grid, grid_for, infer_frequency
from trend_common.panel.cells import Cells, parse_cells
from trend_common.panel.columns import Layout, recognise
from trend_common.panel.findings import Report
from trend_common.panel.grid import _SHORT, Regular, future_rows, regular
from trend_common.panel.lines import are_order_lines, clean_lines
from trend_common.panel.model import KNOWN_AHEAD, Freq, SalesPanel
from trend_common.panel.numeric import Decimal
from trend_common.panel.reading import RawTable, read_table
from trend_common.panel.resample import coarse_step, summed, summed_future
from trend_common.panel.series import numbered, static_texts, unique_steps
from trend_common.panel.shape import to_long

__all__ = ["from_frame", "read"]

Period = tuple[str | pd.Timestamp | None, str | pd.Timestamp | None]

_LATEST_END: Final = pd.Timedelta(days=400)
"""A last day further after the last row is taken for a slip."""


@dataclass(frozen=True)
class _Wishes:
    """What a caller fixes instead of leaving it to the file."""

    columns: Mapping[str, str]
    freq: Freq | None
    date_format: str | None
    decimal: Decimal | None
    period: Period | None


def read(
    path: Path | str,
    *,
    columns: Mapping[str, str] | None = None,
    freq: Freq | None = None,
    date_format: str | None = None,
    decimal: Decimal | None = None,
    period: Period | None = None,
    name: str | None = None,
    sheet: str | None = None,
) -> SalesPanel:
    """Read a sales file: CSV, CSV.gz, Parquet or a workbook; long, wide, a column per date, or order lines.

    Args:
        path: The file.
        columns: Role -> column name, where the names alone do not tell; "-" for "there is none".
        freq: Frequency to deliver; days can be summed to weeks or months. Inferred from the file if None.
        date_format: strptime format of the dates. Detected if None.
        decimal: Decimal mark of text numbers. Detected if None.
        period: First and last day of the export, either of them None for the file's own; rows outside are dropped,
            but for plans (a price, promotion or holiday without units) after the last day.
        name: The panel's name on the person's own screen; the file's stem if None.
        sheet: The sheet of a workbook; None takes the one that fits, "*" all with the same columns.

    Raises:
        DataError: The file cannot be used; the message lists every problem with what to do.
        UsageError: An option makes no sense.
    """
    report = Report()
    raw = read_table(Path(path), report, sheet=sheet, columns=columns)
    wishes = _Wishes(columns or {}, freq, date_format, decimal, period)
    return _panel(raw, name or Path(path).name.split(".")[0], wishes, report)


def from_frame(
    frame: pd.DataFrame,
    *,
    columns: Mapping[str, str] | None = None,
    freq: Freq | None = None,
    period: Period | None = None,
    name: str = "frame",
) -> SalesPanel:
    """A panel of a frame: ``unique_id, ds, y``, or ``date, store, product, units``, or any names a file may have.

    The same rules as for a file; ``unique_id`` is kept as it is. Raises as :func:`read` does.
    """
    wishes = _Wishes(columns or {}, freq, None, None, period)
    named = frame.reset_index(drop=True)
    named.columns = pd.Index([str(column) for column in named.columns])
    return _panel(RawTable(named, ""), name, wishes, Report())


def _panel(raw: RawTable, name: str, wishes: _Wishes, report: Report) -> SalesPanel:
    if wishes.freq not in (None, "D", "W", "M"):
        raise UsageError(f"There is no frequency {wishes.freq!r}.", "Give D (days), W (weeks) or M (months).")
    if not len(raw.frame):
        raise report.fail("The file has a header but no rows.", "Export it again, with the sales.")
    layout = recognise(raw.frame, wishes.columns, report)
    report.stop_if_blocked()
    cells, orders = _cells(raw, layout, wishes, report)
    report.stop_if_blocked()
    rows = cells.rows
    end = rows["ds"].max()
    if orders:
        report.found("order_lines", len(rows), f"{len(rows)} rows are lines of orders or receipts.")
        rows = clean_lines(rows, report) if not cells.has_ids else rows
    rows, table = numbered(rows)
    found = Grid("D") if orders else infer_frequency(rows, monthly=cells.monthly, report=report)
    if orders and rows["ds"].nunique() < 2:
        report.problem("The orders are all of one day.", "A series needs at least two dates; export a longer period.")
    found = Grid("D") if wishes.freq == "D" else found
    grid = grid_for(found, wishes.freq, report)
    if rows["y"].isna().all() or not (rows["y"] > 0).any():
        report.problem(
            "No row has a quantity above zero.", "Check which column holds the units: --columns units=NAME."
        )
    report.stop_if_blocked()
    own = grid if grid.freq == found.freq else found
    rows, static = _by_step(rows, table, own, orders, report)
    declared = None if wishes.period is None or wishes.period[1] is None else pd.Timestamp(wishes.period[1])
    last_step = _step(own, end) if declared is None else _step_by(own, declared)
    if declared is not None:
        rows = _until_step(rows, last_step, report)
    series = regular(rows, own, len(table), report, orders=orders, end=last_step)
    future = future_rows(rows, series.last, report, (*KNOWN_AHEAD, *layout.own_ahead))
    if grid.freq != own.freq:
        series = summed(series, grid, report)
        future = summed_future(future, grid, series.last)
    panel = _assembled(name, grid, series, future, static, layout, len(raw.frame), report)
    if declared is None:
        return panel
    # Of summed days the last step is the last one that had wholly passed by the declared day.
    whole = last_step if grid.freq == own.freq else coarse_step(declared + pd.Timedelta(days=1), grid) - 1
    until = pd.Timestamp(grid.dates(np.array([whole]))[0])
    missing = len(pd.date_range(panel.end, until, freq=panel.offset)) - 1
    report.found(
        "declared_end", missing, f"The last known sale is {missing} step(s) before the declared end, {until.date()}."
    )
    return replace(panel, until=until, findings=tuple(report.findings))


def _step(grid: Grid, day: pd.Timestamp) -> int:
    return int(grid.steps(np.array([day], dtype="datetime64[D]"))[0])


def _step_by(grid: Grid, day: pd.Timestamp) -> int:
    """The last step dated no later than ``day``."""
    step = _step(grid, day)
    return step if pd.Timestamp(grid.dates(np.array([step]))[0]) <= day else step - 1


def _until_step(rows: pd.DataFrame, last: int, report: Report) -> pd.DataFrame:
    """Rows up to the declared step, and plans; a weekly date between two steps may have moved beyond it."""
    moved = ((rows["step"] > last) & rows["y"].notna()).to_numpy()
    report.found("outside_period", int(moved.sum()), f"{int(moved.sum())} row(s) moved to a week after the period.")
    return rows[~moved].reset_index(drop=True)


def _cells(raw: RawTable, layout: Layout, wishes: _Wishes, report: Report) -> tuple[Cells, bool]:
    """Parsed rows without copies, and whether they are order lines."""
    long = to_long(raw.frame, layout, report)
    cells = parse_cells(
        long,
        {role: column for role, column in layout.roles.items()},
        report,
        separator=raw.separator,
        date_format=wishes.date_format,
        decimal=wishes.decimal,
        own_ahead=layout.own_ahead,
    )
    rows = cells.rows
    if wishes.period is not None:
        rows = _inside_period(rows, wishes.period, report)
    identical = _identical(raw.frame, rows, layout)
    orders = layout.shape == "long" and are_order_lines(rows, cells.minutes, identical)
    further_sales = layout.counted or (orders and "order" not in rows)
    if identical.any() and not further_sales:
        report.found(
            "duplicate_rows",
            int(identical.sum()),
            f"{int(identical.sum())} row(s) repeat an earlier one in every column.",
        )
        rows = rows[~identical].reset_index(drop=True)
    _far_dates(rows, report)
    tomorrow = pd.Timestamp.now().normalize() + pd.Timedelta(days=1)
    future = int(((rows["ds"] > tomorrow) & rows["y"].notna()).sum())
    report.found("future_dates", future, f"{future} row(s) with units are dated after today.")
    if not orders and cells.minutes:
        report.found("sub_daily", len(rows), "The dates have times of day.")
    return Cells(rows, cells.minutes, cells.monthly, cells.has_ids), orders


def _inside_period(rows: pd.DataFrame, period: Period, report: Report) -> pd.DataFrame:
    """Rows from the first to the last declared day, and what is planned after it."""
    first, last = (None if day is None else pd.Timestamp(day) for day in period)
    inside = np.ones(len(rows), dtype=bool)
    if first is not None:
        inside &= (rows["ds"] >= first).to_numpy()
    if last is not None:
        planned = rows["ahead"].to_numpy(dtype=bool) & rows["y"].isna().to_numpy()
        inside &= (rows["ds"] <= last).to_numpy() | planned
        newest = rows["ds"].max()
        if last - newest > _LATEST_END:
            report.problem(
                f"The declared last day, {last.date()}, is {(last - newest).days} days after the file's last row.",
                "Declare the last day that the export covers, written as YYYY-MM-DD.",
            )
    if not (inside & rows["y"].notna().to_numpy()).any() and rows["y"].notna().any():
        days = f"{rows['ds'].min().date()} to {rows['ds'].max().date()}"
        report.problem(
            f"No row with units lies in the declared period; the file has {days}.",
            "Declare the export's own first and last day, or leave them out.",
        )
    report.found("outside_period", int((~inside).sum()), f"{int((~inside).sum())} row(s) are outside the period.")
    return rows[inside].reset_index(drop=True)


def _far_dates(rows: pd.DataFrame, report: Report) -> None:
    """Point out dates more than a year away from nearly all others: a mistyped year stretches a series."""
    if len(rows) < 50:
        return
    days = rows["ds"].to_numpy().astype("datetime64[D]").astype(np.int64)
    low, high = np.quantile(days, [0.01, 0.99])
    far = (days < low - 400) | (days > high + 400)
    if far.any():
        example = rows["ds"].to_numpy()[far][0].astype("datetime64[D]")
        report.found(
            "far_dates", int(far.sum()), f"{int(far.sum())} row(s) are years away from the others ({example})."
        )


def _identical(frame: pd.DataFrame, rows: pd.DataFrame, layout: Layout) -> np.ndarray:
    """Which parsed rows come from a line that stands in the file before, in every column."""
    repeated = frame.duplicated().to_numpy()
    copies = len(layout.values) if layout.shape != "long" else 1
    return np.asarray(np.tile(repeated, copies)[rows["line"].to_numpy()], dtype=bool)


def _by_step(
    rows: pd.DataFrame, table: pd.DataFrame, grid: Grid, orders: bool, report: Report
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row per series and step with quantities of at least zero; and the series' texts."""
    static = static_texts(rows, table, report)
    days = rows["ds"].to_numpy()
    steps = grid.steps(days)
    if grid.freq == "W":
        off = int((grid.dates(steps) != days).sum())
        report.found(
            "off_grid_dates", off, f"{off} date(s) are not on the usual weekday ({grid.offset[2:].title()})."
        )
    negative = (rows["y"] < 0).to_numpy()
    if negative.any():
        report.found(
            "negative_units", int(negative.sum()), f"{int(negative.sum())} row(s) have fewer than zero units."
        )
        if "returns" in rows:
            back = np.where(negative, -rows["y"], 0.0)
            rows = rows.assign(returns=rows["returns"].fillna(0.0) + back)
        rows = rows.assign(y=rows["y"].mask(negative, 0.0))
    return unique_steps(rows.assign(step=steps), "step", None if orders else report), static


def _assembled(
    name: str,
    grid: Grid,
    series: Regular,
    future: pd.DataFrame,
    static: pd.DataFrame,
    layout: Layout,
    n_rows: int,
    report: Report,
) -> SalesPanel:
    ids = static.index.to_numpy(dtype=object)
    frame = pd.DataFrame(
        {
            "unique_id": ids[series.series],
            "ds": grid.dates(series.step),
            "y": series.y,
            "closed": series.closed,
            **series.covariates,
        }
    )
    kept = np.zeros(len(ids), dtype=bool)
    kept[np.unique(series.series)] = True
    report.found("no_history", int((~kept).sum()), f"{int((~kept).sum())} series have no known sale.")
    if not kept.any():
        raise report.fail("No series has a whole step of known sales.", "Export a longer period.")
    lengths = np.bincount(series.series, minlength=len(ids))[kept]
    sold = np.bincount(series.series, weights=np.nan_to_num(series.y) > 0, minlength=len(ids))[kept]
    short, unit = int((lengths < _SHORT[grid.freq]).sum()), {"D": "days", "W": "weeks", "M": "months"}[grid.freq]
    report.found("short_series", short, f"{short} series have fewer than {_SHORT[grid.freq]} {unit}.")
    report.found("all_zero_series", int((sold == 0).sum()), f"{int((sold == 0).sum())} series never sold.")
    ahead = [column for column in (*KNOWN_AHEAD, *layout.own_ahead) if column in series.covariates]
    later = pd.DataFrame(
        {
            "unique_id": ids[future["series"].to_numpy(dtype=np.int64)],
            "ds": grid.dates(future["step"].to_numpy(dtype=np.int64)),
        }
    )
    for column in ahead:
        later[column] = future[column].to_numpy(dtype=np.float64) if column in future else np.nan
    columns = {role: column for role, column in layout.roles.items()}
    return SalesPanel(
        name,
        grid.freq,
        grid.offset,
        frame,
        later,
        static[kept],
        columns,
        tuple(report.findings),
        n_rows,
        own_ahead=layout.own_ahead,
        outages=_named_outages(series.outages, ids),
    )


def _named_outages(outages: pd.DataFrame, ids: np.ndarray) -> pd.DataFrame:
    if not len(outages):
        return pd.DataFrame()
    names = pd.DataFrame({"unique_id": ids[outages["series"].to_numpy(dtype=np.int64)]})
    return pd.concat([names, outages.drop(columns="series")], axis=1)
