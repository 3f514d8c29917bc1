"""From a file or a frame to a :class:`SalesPanel`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from trend_common.errors import DataError
from trend_common.panel.model import COVARIATES, Freq, SalesPanel, series_id

__all__ = ["from_frame", "read"]


def read(path: Path | str, *, columns: Mapping[str, str] | None = None, freq: Freq | None = None) -> SalesPanel:
    """Read a sales file."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"There is no file {path}.", "Check the path.")
    table = pd.read_csv(path, dtype={"store": str, "product": str})
    return from_frame(table, columns=columns, freq=freq, name=path.name.split(".")[0])


def from_frame(
    frame: pd.DataFrame, *, columns: Mapping[str, str] | None = None, freq: Freq | None = None, name: str = "frame"
) -> SalesPanel:
    """A panel of a long frame with the canonical names."""
    table = frame.rename(columns={"ds": "date", "y": "units", **{v: k for k, v in (columns or {}).items()}})
    table["date"] = pd.to_datetime(table["date"])
    for key in ("store", "product"):
        if key not in table:
            table[key] = table["unique_id"] if key == "product" and "unique_id" in table else "all"
    if "unique_id" not in table:
        pairs = table[["store", "product"]].drop_duplicates()
        pairs["unique_id"] = [series_id(str(s), str(p)) for s, p in zip(pairs["store"], pairs["product"], strict=True)]
        table = table.merge(pairs, on=["store", "product"])
    table = table.sort_values(["unique_id", "date"])
    weekdays = table["date"].dt.weekday.unique()
    weekly = len(weekdays) == 1 and table["date"].nunique() > 1
    chosen: Freq = freq or ("W" if weekly else "D")
    alias = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")[int(weekdays[0])]
    offset = {"D": "D", "W": f"W-{alias}", "M": "MS"}[chosen]
    static = pd.DataFrame({"unique_id": table["unique_id"]})
    for column in ("store", "product", "category", "description"):
        static[column] = table[column].fillna("").astype(str) if column in table else ""
    static = static.drop_duplicates("unique_id").set_index("unique_id")
    pieces = []
    covariates = [column for column in COVARIATES if column in table]
    if "holiday" in covariates:
        table["holiday"] = (~table["holiday"].fillna("0").astype(str).isin(["0", ""])).astype(float)
    step = 7 if chosen == "W" else 1
    for uid, rows in table.groupby("unique_id", sort=True):
        grid = pd.date_range(rows["date"].iloc[0], rows["date"].iloc[-1], freq=f"{step}D")
        piece = rows.set_index("date")[["units", *covariates]].astype(np.float64).reindex(grid)
        piece.insert(0, "unique_id", uid)
        piece["closed"] = False
        pieces.append(piece)
    long = pd.concat(pieces).rename_axis("ds").reset_index().rename(columns={"units": "y"})
    long["y"] = long["y"].clip(lower=0)
    long = long[["unique_id", "ds", "y", "closed", *covariates]]
    future = long.iloc[:0].drop(columns=["y", "closed", *(c for c in ("stock", "returns") if c in covariates)])
    return SalesPanel(name, chosen, offset, long, future, static, {}, (), len(table))
