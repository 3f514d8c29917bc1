"""Days summed to weeks or months, after every day has been explained."""

from __future__ import annotations

import numpy as np
import pandas as pd

from trend_common.panel.calendar import Grid
from trend_common.panel.findings import Report
from trend_common.panel.grid import Regular
from trend_common.panel.model import OWN

__all__ = ["coarse_step", "summed", "summed_future"]

_RULES = {
    "price": "mean",
    "promo": "mean",
    "holiday": "max",
    "stock": "last",
    "returns": "sum",
    **dict.fromkeys(OWN, "mean"),
}


def summed(daily: Regular, grid: Grid, report: Report) -> Regular:
    """Whole weeks (to the anchor day) or whole months of each series.

    A step with an unknown day is unknown; one is closed if all its days are. Prices are averaged by quantity,
    promotions become the share of days, own columns the mean of their known days.
    """
    days = Grid("D").dates(daily.step)
    step = _coarse(days, grid)
    frame = pd.DataFrame(
        {"series": daily.series, "step": step, "y": daily.y, "closed": daily.closed, **daily.covariates}
    )
    if "price" in frame:
        weight = frame["y"].fillna(0.0).where(frame["price"].notna(), 0.0)
        frame["weight"], frame["value"] = weight, frame["price"].fillna(0.0) * weight
    groups = frame.groupby(["series", "step"], sort=True)
    rules = {column: rule for column, rule in _RULES.items() if column in frame}
    table = groups.agg({**rules, "closed": "all", **({"weight": "sum", "value": "sum"} if "price" in frame else {})})
    table["y"] = groups["y"].sum(min_count=1).where(groups["y"].count() == groups.size())
    if "price" in frame:
        table["price"] = (table["value"] / table["weight"]).where(table["weight"] > 0, table["price"])
    table["size"] = groups.size()
    table = table.reset_index()
    whole = table["size"].to_numpy() == _days_in(table["step"].to_numpy(), grid)
    report.found(
        "resampled",
        len(table),
        f"{len(frame)} days became {int(whole.sum())} steps; {int((~whole).sum())} were incomplete.",
    )
    table = table[whole]
    last = np.full(len(daily.last), -1)
    series, steps = table["series"].to_numpy(), table["step"].to_numpy()
    np.maximum.at(last, series, steps)
    covariates = {column: table[column].to_numpy(dtype=np.float64) for column in daily.covariates}
    return Regular(
        series, steps, table["y"].to_numpy(), table["closed"].to_numpy(dtype=bool), covariates, last, daily.outages
    )


def summed_future(future: pd.DataFrame, grid: Grid, last: np.ndarray) -> pd.DataFrame:
    """Known-ahead values of whole future steps."""
    if future.empty:
        return future
    coarse = future.assign(step=_coarse(Grid("D").dates(future["step"].to_numpy()), grid))
    rules = {column: rule for column, rule in _RULES.items() if column in coarse}
    groups = coarse.groupby(["series", "step"], sort=True)
    table = groups.agg(rules).assign(size=groups.size()).reset_index()
    whole = table["size"].to_numpy() == _days_in(table["step"].to_numpy(), grid)
    later = table["step"].to_numpy() > last[table["series"].to_numpy()]
    kept: pd.DataFrame = table[whole & later].drop(columns="size").reset_index(drop=True)
    return kept


def coarse_step(day: pd.Timestamp, grid: Grid) -> int:
    """The week or month that a day is summed into."""
    return int(_coarse(np.array([day], dtype="datetime64[D]"), grid)[0])


def _coarse(days: np.ndarray, grid: Grid) -> np.ndarray:
    """The step a day is summed into: the week that *ends* on the anchor, or the month."""
    # Grid.steps takes the nearest week; three days on, the nearest is the one that ends on or after the day.
    later = (days.astype("datetime64[D]") + 3).astype("datetime64[D]")
    return grid.steps(later if grid.freq == "W" else days)


def _days_in(steps: np.ndarray, grid: Grid) -> np.ndarray:
    if grid.freq == "W":
        return np.full(len(steps), 7)
    return (grid.dates(steps + 1) - grid.dates(steps)).astype("timedelta64[D]").astype(np.int64)
