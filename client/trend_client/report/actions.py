"""What to do: the order list, as ``trend-client orders`` wrote it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from trend_client.report.language import Language

__all__ = ["ORDERS_SHOWN", "orders"]

ORDERS_SHOWN: Final = 15


def orders(
    table: pd.DataFrame | None, names: Callable[[str], dict[str, str]], lang: Language
) -> dict[str, Any] | None:
    """The most urgent orders; None where there is no order list.

    Args:
        table: As in ``orders.csv``: ``unique_id, on_hand, on_order, order, runs_out, stockout_without, stockout_with,
            lost_without``, most urgent first.
        names: Series → its texts.
        lang: The language.
    """
    if table is None or not len(table):
        return None
    placed = table[table["order"] > 0]
    rows = []
    for row in placed.head(ORDERS_SHOWN).to_dict("records"):
        texts = names(str(row["unique_id"]))
        there = lang.amount(float(row["on_hand"]))
        if float(row["on_order"]) > 0:
            there = lang.gettext("%(there)s + %(coming)s on order", there=there, coming=lang.amount(row["on_order"]))
        out = row["runs_out"]
        rows.append(
            {
                **texts,
                "order": lang.amount(float(row["order"])),
                "there": there,
                "runs_out": lang.date(out) if isinstance(out, str) and out else "–",
                "risk": lang.gettext(
                    "%(without)s → %(then)s",
                    without=lang.percent(float(row["stockout_without"]), digits=0),
                    then=lang.percent(float(row["stockout_with"]), digits=0),
                ),
                "lost": lang.amount(round(float(row["lost_without"]), 1)),
            }
        )
    return {
        "sentence": lang.ngettext(
            "%(n)s of %(all)s products should be ordered today; without that, %(lost)s would be lost before the "
            "next chance.",
            "%(n)s of %(all)s products should be ordered today; without that, %(lost)s would be lost before the "
            "next chance.",
            len(placed),
            all=lang.number(len(table)),
            lost=lang.amount(float(np.round(placed["lost_without"].sum()))),
        ),
        "count": len(placed),
        "rows": rows,
        "more": lang.number(len(placed) - ORDERS_SHOWN) if len(placed) > ORDERS_SHOWN else "",
    }
