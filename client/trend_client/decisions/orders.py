"""``trend-client orders``: what to order today, for every product and store with a row in the stock file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from trend_client.decisions.levels import ServiceLevels
from trend_client.decisions.paths import Dependence, Sampler
from trend_client.decisions.policy import Proposal, propose
from trend_client.decisions.stock import StockRow
from trend_common import __version__
from trend_common.files import replacing
from trend_common.forecasts import Forecast
from trend_common.spreadsheet import safe_frame

if TYPE_CHECKING:
    from trend_client.decisions.outlook import Outlook

__all__ = ["Orders", "compute", "orders", "usual_levels", "write_orders"]


@dataclass(frozen=True, eq=False)
class Orders:
    """The order list.

    Attributes:
        table: One row a series, most urgent first: ``unique_id, store, product, on_hand, on_order`` and the fields of
            :class:`~trend_client.decisions.policy.Proposal`, ``runs_out`` as a date.
        dependence: How demand of different steps was tied together.
        levels: How service levels were set right by past sums.
        origin: The first step ahead.
        notes: For a person.
    """

    table: pd.DataFrame
    dependence: Dependence
    levels: ServiceLevels
    origin: pd.Timestamp
    notes: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """As JSON values; unknown ones are null."""
        rows = self.table.astype(object).where(self.table.notna(), None)
        return {
            "schema": 1,
            "version": __version__,
            "command": "orders",
            "origin": str(self.origin.date()),
            "dependence": {
                "common": self.dependence.common,
                "carry": self.dependence.carry,
                "pairs": self.dependence.pairs,
            },
            "levels": {
                "shift": round(self.levels.shift, 6),
                "spread": round(self.levels.spread, 6),
                "windows": self.levels.windows,
            },
            "notes": list(self.notes),
            "orders": [
                {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}
                for row in rows.to_dict("records")
            ],
        }


def compute(
    forecast: Forecast,
    stock: Mapping[str, StockRow],
    dependence: Dependence,
    levels: ServiceLevels | None = None,
    *,
    paths: int = 1024,
    seed: int = 0,
) -> dict[str, Proposal]:
    """The proposal for each series of the stock file that has a forecast.

    Args:
        forecast: At least as many steps as the longest terms need.
        stock: Series → stock and terms.
        dependence: How steps hang together.
        levels: Which level of the paths meets which service level; None takes them as they are.
        paths: Joint paths for each series, a power of two.
        seed: Of the paths; the same for all series.
    """
    ids = tuple(name for name in forecast.ids if name in stock)
    if not ids:
        return {}
    sampler = Sampler(dependence, max(stock[name].terms.steps for name in ids), paths=paths, seed=seed)
    found: dict[str, Proposal] = {}
    for part, demand in sampler.demand(forecast.select(ids)):
        for name, paths_of_one in zip(ids[part], demand, strict=True):
            row = stock[name]
            found[name] = propose(paths_of_one, sampler.extra, row.position, row.terms, levels or ServiceLevels())
    return found


def usual_levels(look: Outlook, stock: Mapping[str, StockRow], dependence: Dependence) -> ServiceLevels:
    """What past sums say of service levels, over the interval that most series have.

    Series with other terms borrow it.
    """
    intervals = [round(row.terms.lead_time) + row.terms.cover for row in stock.values()]
    usual = max(set(intervals), key=lambda steps: (intervals.count(steps), steps))
    return look.service_levels(dependence, usual, stride=min(row.terms.review for row in stock.values()))


def orders(look: Outlook, stock: Mapping[str, StockRow], notes: Sequence[str] = ()) -> Orders:
    """The order list of a home."""
    steps = max(row.terms.steps for row in stock.values())
    forecast, dependence = look.forecast(steps), look.dependence(max(steps, 14 if look.panel.freq == "D" else 4))
    levels = usual_levels(look, stock, dependence)
    proposals = compute(forecast, stock, dependence, levels)
    static = look.panel.static
    rows = []
    for name, one in proposals.items():
        due = forecast.ds[0, one.days_left] if one.days_left is not None else None
        rows.append(
            {
                "unique_id": name,
                "store": static.at[name, "store"],
                "product": static.at[name, "product"],
                "on_hand": stock[name].position.on_hand,
                "on_order": stock[name].position.on_order,
                "order": one.order,
                "order_up_to": one.order_up_to,
                "reorder_point": one.reorder_point,
                "safety_stock": one.safety_stock,
                "mean_demand": one.mean_demand,
                "target": one.target,
                "stockout_without": one.stockout_without,
                "stockout_with": one.stockout_with,
                "lost_without": one.lost_without,
                "waste": one.waste,
                "gain": np.nan if one.gain is None else one.gain,
                "runs_out": None if due is None else str(pd.Timestamp(due).date()),
            }
        )
    table = pd.DataFrame(rows)
    if len(table):
        # Most urgent first: money where it is known for all, else units that would be lost.
        by = "gain" if table["gain"].notna().all() else "lost_without"
        table = table.sort_values([by, "unique_id"], ascending=[False, True], ignore_index=True)
    return Orders(table, dependence, levels, look.origin, [*notes, *look.notes])


def write_orders(folder: Path, found: Orders) -> Path:
    """Write ``orders.csv``, every series, readable by its owner alone."""
    path = folder / "orders.csv"
    with replacing(path, private=True) as temporary:
        safe_frame(found.table).to_csv(
            temporary, index=False, float_format="%.6g", lineterminator="\n", encoding="utf-8"
        )
    return path
