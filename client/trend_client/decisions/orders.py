"""``trend-client orders``: what to order today, for every product and store with a row in the stock file.

Whoever speaks of an order takes it from :func:`plan_orders`, so that one product has one order under the same terms.
"""

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
from trend_common.panel import SalesPanel
from trend_common.spreadsheet import safe_frame

if TYPE_CHECKING:
    from trend_client.decisions.outlook import Outlook

__all__ = [
    "Orders",
    "Plan",
    "compute",
    "described",
    "orders",
    "plan_orders",
    "terms_of",
    "usual_levels",
    "write_orders",
]

PATHS = 1024
"""Joint paths of each series."""


@dataclass(frozen=True, eq=False)
class Plan:
    """The orders of a home, and what they rest on.

    Attributes:
        forecast: The series of the stock file.
        dependence: How demand of different steps was tied together.
        levels: How service levels were set right by past sums.
        proposals: Series → what to do.
        sampler: The joint paths that they were computed on.
    """

    forecast: Forecast
    dependence: Dependence
    levels: ServiceLevels
    proposals: Mapping[str, Proposal]
    sampler: Sampler


@dataclass(frozen=True, eq=False)
class Orders:
    """The order list.

    Attributes:
        table: One row a series, most urgent first: ``unique_id, store, product``, ``description`` where the sales
            have any, ``on_hand, on_order`` and the fields of :class:`~trend_client.decisions.policy.Proposal`,
            ``runs_out`` as a date.
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
    sampler: Sampler | None = None,
) -> dict[str, Proposal]:
    """The proposal for each series of the stock file that has a forecast.

    Args:
        forecast: At least as many steps as the longest terms need.
        stock: Series → stock and terms.
        dependence: How steps hang together.
        levels: Which level of the paths meets which service level; None takes them as they are.
        sampler: The paths, the same for all series; default :data:`PATHS` over the longest terms.
    """
    ids = tuple(name for name in forecast.ids if name in stock)
    if not ids:
        return {}
    paths = sampler or _sampler(dependence, stock, ids)
    found: dict[str, Proposal] = {}
    for part, demand in paths.demand(forecast.select(ids)):
        for name, paths_of_one in zip(ids[part], demand, strict=True):
            row = stock[name]
            found[name] = propose(paths_of_one, paths.extra, row.position, row.terms, levels or ServiceLevels())
    return found


def _sampler(dependence: Dependence, stock: Mapping[str, StockRow], ids: Sequence[str]) -> Sampler:
    return Sampler(dependence, max(stock[name].terms.steps for name in ids), paths=PATHS)


def usual_levels(look: Outlook, stock: Mapping[str, StockRow], dependence: Dependence) -> ServiceLevels:
    """What past sums say of service levels, over the interval that most series have.

    Series with other terms borrow it.
    """
    intervals = [round(row.terms.lead_time) + row.terms.cover for row in stock.values()]
    usual = max(set(intervals), key=lambda steps: (intervals.count(steps), steps))
    return look.service_levels(dependence, usual, stride=min(row.terms.review for row in stock.values()))


def plan_orders(look: Outlook, stock: Mapping[str, StockRow]) -> Plan:
    """The orders of a home; of the stock file's series alone is anything forecast.

    Args:
        look: The home.
        stock: Series → stock and terms, at least one.
    """
    steps = max(row.terms.steps for row in stock.values())
    ids = tuple(name for name in look.panel.ids if name in stock)
    forecast = look.forecast(steps, ids)
    dependence = look.dependence(max(steps, 14 if look.panel.freq == "D" else 4))
    levels, sampler = usual_levels(look, stock, dependence), _sampler(dependence, stock, ids)
    return Plan(forecast, dependence, levels, compute(forecast, stock, dependence, levels, sampler=sampler), sampler)


def terms_of(stock: Mapping[str, StockRow]) -> str:
    """The options of ``trend-client orders`` that most series of a stock file have, to quote orders with."""
    rows = [
        f"--lead-time {one.terms.lead_time:g} --service-level {one.terms.service_level:g} --review {one.terms.review}"
        for one in stock.values()
    ]
    return max(rows, key=rows.count)


def described(panel: SalesPanel, series: str) -> dict[str, str]:
    """``store``, ``product`` and, where the assortment has descriptions, ``description`` of a series."""
    row = panel.static.loc[series]
    found = {"store": str(row["store"]), "product": str(row["product"])}
    if (panel.static["description"] != "").any():
        found["description"] = str(row["description"])
    return found


def orders(look: Outlook, stock: Mapping[str, StockRow], notes: Sequence[str] = ()) -> Orders:
    """The order list of a home."""
    plan = plan_orders(look, stock)
    forecast, proposals = plan.forecast, plan.proposals
    rows = []
    for name, one in proposals.items():
        due = forecast.ds[0, one.days_left] if one.days_left is not None else None
        rows.append(
            {
                "unique_id": name,
                **described(look.panel, name),
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
    return Orders(table, plan.dependence, plan.levels, look.origin, [*notes, *look.notes])


def write_orders(folder: Path, found: Orders) -> Path:
    """Write ``orders.csv``, every series, readable by its owner alone."""
    path = folder / "orders.csv"
    with replacing(path, private=True) as temporary:
        safe_frame(found.table).to_csv(
            temporary, index=False, float_format="%.6g", lineterminator="\n", encoding="utf-8"
        )
    return path
