"""What to do: the order list, seasons to buy for, and shelves that were empty, as other commands found them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trend_client.decisions.reasons import facts_of, worded
from trend_client.report.language import N_

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd

    from trend_client.report.language import Language

__all__ = ["ORDERS_SHOWN", "orders", "outages", "recommendations", "seasons"]

ACTIONS: Final = {
    "promote": N_("promote"),
    "restock": N_("restock"),
    "mark down": N_("mark down"),
    "drop": N_("drop"),
}
"""Action → its name."""

ADVICE_SHOWN: Final = 10
ORDERS_SHOWN: Final = 15
SEASONS_SHOWN: Final = 12
OUTAGES_SHOWN: Final = 8


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


def seasons(rows: Sequence[Mapping[str, Any]] | None, lang: Language) -> list[dict[str, str]]:
    """The seasons ahead, the earliest first; [] where none are known.

    Args:
        rows: As in ``season.json``: ``name, start, peak, end`` (10 %, 50 % and 90 % dates), ``total`` (the same of
            the units), ``order, target, seasonal``.
        lang: The language.
    """
    found = sorted((row for row in rows or () if row["seasonal"]), key=lambda row: (row["start"][1], row["name"]))
    return [
        {
            "product": str(row["name"]),
            "description": str(row.get("description", "")),
            "start": _between(row["start"], lang),
            "peak": lang.date(row["peak"][1]),
            "end": _between(row["end"], lang),
            "total": lang.gettext(
                "%(middle)s (%(low)s to %(high)s)",
                middle=lang.amount(round(float(row["total"][1]))),
                low=lang.amount(round(float(row["total"][0]))),
                high=lang.amount(round(float(row["total"][2]))),
            ),
            "order": lang.amount(float(row["order"])),
        }
        for row in found[:SEASONS_SHOWN]
    ]


def _between(dates: Sequence[str], lang: Language) -> str:
    """The middle date, and the others where they differ."""
    low, middle, high = (lang.date(day) for day in dates)
    if low == high:
        return middle
    return lang.gettext("%(middle)s (%(low)s to %(high)s)", middle=middle, low=low, high=high)


def outages(
    table: pd.DataFrame, names: Callable[[str], dict[str, str]], since: pd.Timestamp, lang: Language
) -> dict[str, Any] | None:
    """Shelves that were empty lately and what that may have cost; None where there were none.

    Args:
        table: The panel's: ``unique_id, start, end, days, lost, stated``.
        names: Series → its texts.
        since: Earlier ones are not spoken of.
        lang: The language.
    """
    recent = table[table["end"] >= since] if len(table) else table
    if not len(recent):
        return None
    recent = recent.sort_values(["lost", "unique_id"], ascending=[False, True], na_position="last")
    rows = []
    for row in recent.head(OUTAGES_SHOWN).to_dict("records"):
        stated = lang.gettext("the file says so") if row["stated"] else lang.gettext("inferred from the sales")
        rows.append(
            {
                **names(str(row["unique_id"])),
                "span": lang.span(row["start"], row["end"]),
                "lost": lang.amount(round(float(row["lost"]), 1)),
                "stated": stated,
            }
        )
    return {
        "sentence": lang.ngettext(
            "In the last year %(n)s run of days without stock may have cost %(lost)s in sales (a low estimate).",
            "In the last year %(n)s runs of days without stock may have cost %(lost)s in sales (a low estimate).",
            len(recent),
            lost=lang.amount(float(np.round(recent["lost"].sum()))),
        ),
        "rows": rows,
        "more": lang.number(len(recent) - OUTAGES_SHOWN) if len(recent) > OUTAGES_SHOWN else "",
    }


def recommendations(
    found: Mapping[str, Any] | None, names: Callable[[str], dict[str, str]], lang: Language
) -> dict[str, Any] | None:
    """What is worth doing, as ranked by ``trend-client recommend``; None where there is nothing.

    Args:
        found: As in ``recommend.json``: ``gain_in`` ("money" or "units") and ``advice``, each ``action, unique_id,
            gain, low, high, reason`` and the ``facts`` that reasons are worded from in any language; where they are
            absent, a reason in another language than the report's is left out.
        names: Series → its texts.
        lang: The language.
    """
    if found is None or not found["advice"]:
        return None
    rows = []
    for row in found["advice"][:ADVICE_SHOWN]:
        action = ACTIONS.get(row["action"], row["action"])
        rows.append(
            {
                **names(str(row["unique_id"])),
                "action": lang.gettext(action),
                "gain": lang.amount(round(float(row["gain"]), 1)),
                "interval": lang.gettext(
                    "%(low)s to %(high)s",
                    low=lang.amount(round(float(row["low"]), 1)),
                    high=lang.amount(round(float(row["high"]), 1)),
                ),
                "reason": _reason(row, str(found.get("language", "en")), lang),
            }
        )
    more = len(found["advice"]) - ADVICE_SHOWN
    return {"rows": rows, "money": found["gain_in"] == "money", "more": lang.number(more) if more > 0 else ""}


def _reason(row: Mapping[str, Any], written_in: str, lang: Language) -> str:
    """Why, in the report's language; "" where that cannot be said."""
    facts = facts_of(row.get("facts"))
    if facts:
        return worded(facts, lang)
    return str(row["reason"]) if lang.code == written_in else ""
