"""What other commands left for the report in the folder of its files, and what the model says about its forecasts.

``trend-client report`` shows what is there: an order list that is newer than the sales file, the trends that the
forecast came with. Whatever is not there is absent from the report.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from trend_common.errors import TrendError

if TYPE_CHECKING:
    from trend_client.engine import Engine
    from trend_client.home import ClientHome
    from trend_client.outcome import Model
    from trend_client.why.contributions import Contributions
    from trend_common.panel import SalesPanel

__all__ = ["gathered", "reasons_for", "table_of"]

_SEASON = frozenset({"name", "start", "peak", "end", "total", "order", "seasonal"})
_ADVICE = frozenset({"action", "unique_id", "gain", "low", "high", "reason"})
_LEARNED = ("personal", "shared", "zero-shot")


def gathered(home: ClientHome, folder: Path, files: Sequence[Path]) -> dict[str, Any]:
    """The optional parts of a :class:`~trend_client.report.ReportData` that are files.

    Args:
        home: Knows the sales file.
        folder: Of the report and its neighbours.
        files: What this run wrote.

    Returns:
        ``orders``, ``recommendations``, ``seasons`` and ``trends``, each None where it is not there.
    """
    own, sales = {path.name: path for path in files}, _sales(home)
    return {
        "orders": None if sales is None else table_of([folder / "orders.csv"], newer_than=sales),
        "recommendations": None if sales is None else _advice(folder / "recommend.json", newer_than=sales),
        "seasons": None if sales is None else _seasons(folder / "season.json", newer_than=sales),
        "trends": table_of([own[name] for name in ("trend.parquet", "trend.csv") if name in own]),
    }


def table_of(paths: Sequence[Path], *, newer_than: Path | None = None) -> pd.DataFrame | None:
    """The first of some files that is there and can be read.

    Args:
        paths: CSV or Parquet.
        newer_than: A file that must not have changed since.
    """
    for path in paths:
        if not path.is_file():
            continue
        if newer_than is not None and path.stat().st_mtime < newer_than.stat().st_mtime:
            continue
        try:
            if path.suffix == ".parquet":
                return pd.read_parquet(path)
            return pd.read_csv(path, dtype={"unique_id": str, "store": str, "product": str}, keep_default_na=True)
        except (ValueError, OSError):
            continue  # An unreadable neighbour is no reason to have no report.
    return None


def _seasons(path: Path, *, newer_than: Path) -> list[dict[str, Any]] | None:
    """What ``trend-client season --json`` wrote."""
    found = _json(path, newer_than)
    return None if found is None else _whole(found.get("seasons"), _SEASON)


def _advice(path: Path, *, newer_than: Path) -> dict[str, Any] | None:
    """What ``trend-client recommend --json`` wrote."""
    found = _json(path, newer_than)
    if found is None or "gain_in" not in found:
        return None
    return {
        "gain_in": found["gain_in"],
        "language": found.get("language", "en"),
        "advice": _whole(found.get("advice"), _ADVICE),
    }


def _json(path: Path, newer_than: Path) -> dict[str, Any] | None:
    """An object in a file that is there, newer than another, and can be read."""
    if not path.is_file() or path.stat().st_mtime < newer_than.stat().st_mtime:
        return None
    try:
        found = json.loads(path.read_text("utf-8"))
    except (ValueError, OSError):
        return None
    return found if isinstance(found, dict) else None


def _whole(rows: object, keys: frozenset[str]) -> list[dict[str, Any]]:
    """The rows that have all the keys."""
    return [row for row in rows if isinstance(row, dict) and row.keys() >= keys] if isinstance(rows, list) else []


def _sales(home: ClientHome) -> Path | None:
    """The sales file, if it is still there."""
    source = home.data_source()
    path = None if source is None or not source.path else Path(source.path)
    return path if path is not None and path.is_file() else None


def reasons_for(
    engine: Engine, model: Model, panel: SalesPanel, ids: Sequence[str], *, country: str | None = None
) -> Contributions | None:
    """What the model's forecasts of some series are made of; None where the model cannot be taken apart.

    The model is the retailer's own where there is one, then the shared, then the pretrained one.
    """
    from trend_client.why.contributions import contributions
    from trend_common.scoring import next_origin
    from trend_common.windows import PanelWindows

    if not ids:
        return None
    method = next(name for name in _LEARNED if name in model.adapters)
    windows = PanelWindows(panel, context=model.context, country=country, ahead=model.horizon)
    where = {name: row for row, name in enumerate(windows.ids)}
    rows = np.array([where[name] for name in ids], dtype=np.int64)
    try:
        return contributions(
            engine, model.adapters[method], windows, windows.step_of(next_origin(panel)), model.horizon, rows
        )
    except TrendError:
        return None
