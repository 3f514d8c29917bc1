"""A panel in words and numbers: the JSON summary of ``check`` and small charts for the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_common.panel.model import SalesPanel

__all__ = ["Example", "bars", "examples", "summary"]

_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_UNKNOWN: Final = "·"


@dataclass(frozen=True)
class Example:
    """One series for a person to recognise.

    Attributes:
        unique_id: Its id.
        label: Description where the file has one, else store and product.
        start, end: First and last step.
        total: Sum of its known demand.
        unknown, closed: Shares of its steps.
        chart: Its course in block characters, ``·`` where nothing is known.
    """

    unique_id: str
    label: str
    start: pd.Timestamp
    end: pd.Timestamp
    total: float
    unknown: float
    closed: float
    chart: str


def summary(panel: SalesPanel, *, version: str) -> dict[str, Any]:
    """What ``check --json`` writes; no sales figure is in it, and no name but those of the file's columns."""
    return {
        "schema": 1,
        "version": version,
        "command": "check",
        "freq": panel.freq,
        "offset": panel.offset,
        "series": panel.n_series,
        "start": panel.start.date().isoformat(),
        "end": panel.end.date().isoformat(),
        "until": None if panel.until is None else panel.until.date().isoformat(),
        "rows": panel.rows,
        "columns": dict(panel.columns),
        "known_ahead": [name for name in panel.known_ahead if name in panel.frame],
        "findings": [
            {
                "code": finding.code,
                "severity": finding.severity,
                "count": finding.count,
                "message": finding.message,
                "action": finding.action,
            }
            for finding in panel.findings
        ],
    }


def examples(panel: SalesPanel, count: int = 5, width: int = 48) -> list[Example]:
    """The ``count`` series with the largest totals."""
    frame = panel.frame
    totals = frame.groupby("unique_id", sort=False)["y"].sum().sort_values(ascending=False, kind="stable")
    shown = []
    for unique_id in totals.index[:count]:
        rows = frame[frame["unique_id"] == unique_id]
        y = rows["y"].to_numpy()
        texts = panel.static.loc[unique_id]
        label = texts["description"] or " · ".join(part for part in (texts["store"], texts["product"]) if part)
        shown.append(
            Example(
                unique_id=str(unique_id),
                label=str(label),
                start=pd.Timestamp(rows["ds"].iloc[0]),
                end=pd.Timestamp(rows["ds"].iloc[-1]),
                total=float(np.nansum(y)),
                unknown=float(np.isnan(y).mean()),
                closed=float(rows["closed"].mean()),
                chart=bars(y, width),
            )
        )
    return shown


def bars(values: NDArray[np.float64], width: int = 48) -> str:
    """``values`` [T] as at most ``width`` block characters, each the mean of its part; 0 is the lowest block."""
    if not len(values):
        return ""
    parts = np.array_split(values, min(width, len(values)))
    means = np.array([np.mean(part[np.isfinite(part)]) if np.isfinite(part).any() else np.nan for part in parts])
    top = np.nanmax(means) if np.isfinite(means).any() else 0.0
    scale = (len(_BLOCKS) - 1) / top if top > 0 else 0.0
    return "".join(_UNKNOWN if np.isnan(mean) else _BLOCKS[round(max(0.0, mean) * scale)] for mean in means)
