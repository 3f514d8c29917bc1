"""``stock.csv``: what is on the shelf, what is on its way, and terms of single products."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from trend_client.decisions.policy import Position, Terms
from trend_client.decisions.tables import lines, read_named, series_of
from trend_client.decisions.words import say
from trend_common.errors import UsageError
from trend_common.panel import SalesPanel

__all__ = ["COLUMNS", "StockRow", "read_stock"]

COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "on_hand": ("stock", "quantity", "qty", "stock on hand", "inventory", "bestand", "lagerbestand", "stock actuel"),
    "on_order": ("ordered", "incoming", "open orders", "bestellt", "en commande"),
    "lead_time": ("lead time days", "leadtime", "lieferzeit"),
    "lead_time_sd": ("lead time std",),
    "service_level": (),
    "moq": ("minimum order", "min order", "mindestmenge"),
    "pack": ("pack size", "case", "case size", "packung"),
    "shelf_life": ("shelf life days", "haltbarkeit"),
    "price": ("sales price", "unit price"),
    "cost": ("unit cost", "purchase price", "einkaufspreis"),
    "salvage": ("salvage value",),
}
"""Number columns and the other names that they may have."""

_TEXT: Final = {"product": ("sku", "item", "article", "artikel", "produit"), "store": ("shop", "filiale", "magasin")}
_EXAMPLE: Final = "product, store, on_hand, on_order"
_WHOLE: Final = ("shelf_life",)


@dataclass(frozen=True)
class StockRow:
    """One series of the stock file, with the terms that hold for it."""

    position: Position
    terms: Terms


def read_stock(
    path: Path, panel: SalesPanel, terms: Terms, *, skip_unknown: bool = False
) -> tuple[dict[str, StockRow], tuple[str, ...]]:
    """Read a stock file.

    Args:
        path: Columns ``product``, ``store`` (where the sales have several), ``on_hand`` and any of :data:`COLUMNS`;
            an empty cell of a term takes the term of all.
        panel: The sales.
        terms: What holds where the file says nothing.
        skip_unknown: Pass over products that the sales do not know.

    Returns:
        Series → row, and notes for a person.

    Raises:
        DataError: Everything that is wrong with the file, at once.
    """
    table, problems = read_named(path, text=_TEXT, numbers=COLUMNS, required=("product", "on_hand"), example=_EXAMPLE)
    ids, skipped = series_of(table, panel, problems, skip_unknown=skip_unknown)
    used = np.array([one is not None for one in ids])
    hand = table.numbers["on_hand"]
    empty = np.flatnonzero(np.isnan(hand) & used)
    if len(empty):
        problems.add(f"'on_hand' is empty in {lines(empty)}.", "Write 0 where nothing is there.")
    for name in ("on_hand", "on_order"):
        negative = np.flatnonzero(np.nan_to_num(table.numbers.get(name, hand)) < 0)
        if len(negative) and name in table.numbers:
            problems.add(
                f"{name!r} is negative in {lines(negative)}.",
                "Count it again: a negative stock is a booking that is missing. Write 0 if it is truly empty.",
            )
    found: dict[str, StockRow] = {}
    for row, series in enumerate(ids):
        if series is None:
            continue
        given: dict[str, Any] = {}
        for name in COLUMNS:
            value = float(table.numbers[name][row]) if name in table.numbers else float("nan")
            if name not in ("on_hand", "on_order") and np.isfinite(value):
                given[name] = int(value) if name in _WHOLE and value == int(value) else value
        if any(not isinstance(given.get(name, 1), int) for name in _WHOLE):
            problems.add(f"'shelf_life' is {given['shelf_life']:g} in {lines([row])}.", "Write whole steps.")
            continue
        try:
            own = replace(terms, **given)
            _ = own.target
        except UsageError as error:
            problems.add(f"In {lines([row])}: {error.message}", error.hint)
            continue
        on_order = table.numbers.get("on_order")
        position = Position(
            float(np.nan_to_num(hand[row])), 0.0 if on_order is None else float(np.nan_to_num(on_order[row]))
        )
        found[series] = StockRow(position, own)
    problems.stop()
    notes = []
    if table.ignored:
        notes.append(say("Columns that mean nothing here: %(names)s.", names=", ".join(table.ignored)))
    if skipped:
        notes.append(
            say("%(n)s rows are of products or stores that the sales do not know; passed over.", n=len(skipped))
        )
    absent = panel.n_series - len(found)
    if absent:
        notes.append(
            say(
                "%(n)s series of the sales have no row in %(file)s; nothing is ordered for them.",
                n=absent,
                file=path.name,
            )
        )
    return found, tuple(notes)
