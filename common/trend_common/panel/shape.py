"""One long table of raw cells out of any shape: long, a column per product, a column per date."""

from __future__ import annotations

import numpy as np
import pandas as pd

from trend_common.panel.columns import Layout
from trend_common.panel.findings import Report
from trend_common.panel.model import OWN

__all__ = ["to_long"]

_SHARED = ("store", "promo", "holiday", "open", "closed", *OWN)
_OF_SERIES = ("store", "product", "category", "description", "unique_id")


def to_long(frame: pd.DataFrame, layout: Layout, report: Report) -> pd.DataFrame:
    """Raw cells under their roles' names, one row per series and date (or per order line).

    The result has a ``date`` column (composed of year, month and day where the file has only these) and ``units``.
    """
    roles = layout.roles
    if layout.shape == "across":
        kept = {role: roles[role] for role in _OF_SERIES if role in roles}
        return _stacked(frame, kept, layout.values, "date")
    if layout.date_parts:
        composed = _composed_date(frame, layout.date_parts)
        frame = frame.assign(**{"\0date": composed})
        roles = {**roles, "date": "\0date"}
    if layout.shape == "wide":
        kept = {role: roles[role] for role in ("date", *_SHARED) if role in roles}
        return _stacked(frame, kept, layout.values, "product")
    long = pd.DataFrame({role: frame[column] for role, column in roles.items()}, copy=False)
    return long.assign(units=1.0) if layout.counted else long


def _stacked(frame: pd.DataFrame, kept: dict[str, str], values: list[str], name_of_column: str) -> pd.DataFrame:
    """Every value column below the other: [rows x values] long."""
    repeats = len(values)
    long = {role: np.tile(frame[column].to_numpy(), repeats) for role, column in kept.items()}
    long[name_of_column] = np.repeat(np.array(values, dtype=object), len(frame))
    units = pd.concat([frame[column] for column in values], ignore_index=True)
    return pd.DataFrame({**long, "units": units})


def _composed_date(frame: pd.DataFrame, parts: dict[str, str]) -> pd.Series:
    text = {part: frame[column].astype(str).str.strip().str.removesuffix(".0") for part, column in parts.items()}
    if "week" in text:
        return text["year"] + "-W" + text["week"].str.zfill(2)
    composed = text["year"] + "-" + text["month"].str.zfill(2)
    return composed + "-" + text["day"].str.zfill(2) if "day" in text else composed
