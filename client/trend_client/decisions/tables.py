"""Small tables that a planner gives beside the sales: stock, new products. Read strictly, since orders follow.

A sales file is cleaned by stated rules; a stock file is not, because nobody would notice that a line was passed over.
Every problem of a file is told at once, with its line.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_common.errors import DataError
from trend_common.panel import SalesPanel
from trend_common.panel.cells import clean_key
from trend_common.panel.findings import Report
from trend_common.panel.numeric import decimal_of, parse_numbers
from trend_common.panel.reading import read_table

__all__ = ["Problems", "Table", "nearest", "read_named", "series_of"]

_SHOWN: Final = 5
_ALIKE: Final = 0.75


class Problems:
    """Collects what is wrong with a file, to tell all of it at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found: list[tuple[str, str]] = []

    def add(self, message: str, hint: str) -> None:
        """Note a problem."""
        self._found.append((message, hint))

    def stop(self) -> None:
        """Raise :class:`DataError` with all of them, or do nothing."""
        if not self._found:
            return
        if len(self._found) == 1:
            raise DataError(f"{self.path.name}: {self._found[0][0]}", self._found[0][1])
        raise DataError(
            f"{self.path.name} cannot be used; {len(self._found)} things stand in the way:\n"
            + "\n".join(f"{number}. {message}" for number, (message, _) in enumerate(self._found, 1)),
            "\n".join(f"{number}. {hint}" for number, (_, hint) in enumerate(self._found, 1)),
        )


@dataclass(frozen=True)
class Table:
    """A read table.

    Attributes:
        text: Column → [rows] cleaned text.
        numbers: Column → [rows] float64, NaN where the cell is empty.
        ignored: Columns of the file that mean nothing here.
        rows: Number of rows.
    """

    text: Mapping[str, list[str]]
    numbers: Mapping[str, NDArray[np.float64]]
    ignored: tuple[str, ...]
    rows: int


def lines(rows: Sequence[int] | NDArray[np.int64]) -> str:
    """ "lines 2, 5 and 11 more": as a spreadsheet counts them, the header being line 1."""
    shown = ", ".join(str(int(row) + 2) for row in rows[:_SHOWN])
    more = len(rows) - _SHOWN
    return f"line{'s' if len(rows) > 1 else ''} {shown}" + (f" and {more} more" if more > 0 else "")


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The known name that is most like this one, if any is like it."""
    lowered = {one.casefold(): one for one in known}
    found = difflib.get_close_matches(name.casefold(), list(lowered), n=1, cutoff=0.5)
    return lowered[found[0]] if found else None


def read_named(
    path: Path,
    *,
    text: Mapping[str, Sequence[str]],
    numbers: Mapping[str, Sequence[str]],
    required: Sequence[str],
    example: str,
) -> tuple[Table, Problems]:
    """Read a table whose columns go by known names.

    Args:
        path: CSV, CSV.gz or Parquet.
        text, numbers: Column → other names that it may have; case, spaces and underscores do not matter.
        required: Columns that must be there.
        example: A header to show to a person.

    Returns:
        The table, and the problems so far for the caller to add to and to :meth:`Problems.stop` at.

    Raises:
        DataError: It cannot be read as a table, lacks a column, or has one that looks like a misspelt one.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}.", f"Give a table with the columns {example}.")
    report, problems = Report(), Problems(path)
    raw = read_table(path, report)
    names = {_plain(alias): column for column, others in {**text, **numbers}.items() for alias in (column, *others)}
    columns: dict[str, str] = {}
    ignored = []
    for name in map(str, raw.frame.columns):
        meant = names.get(_plain(name))
        if meant is None:
            like = difflib.get_close_matches(_plain(name), list(names), n=1, cutoff=_ALIKE)
            if like:
                problems.add(f"The column {name!r} is not known.", f"Is it {names[like[0]]!r}? Then rename it.")
            ignored.append(name)
        elif meant in columns:
            problems.add(f"The columns {columns[meant]!r} and {name!r} both mean {meant!r}.", "Remove one.")
        else:
            columns[meant] = name
    missing = [name for name in required if name not in columns]
    if missing:
        found = ", ".join(map(repr, raw.frame.columns[:8]))
        problems.add(f"It has no column {', '.join(map(repr, missing))}; found {found}.", f"The header is: {example}")
    if not len(raw.frame):
        problems.add("It has no rows below its header.", "Export it again.")
    problems.stop()
    cells = {meant: raw.frame[name].reset_index(drop=True) for meant, name in columns.items()}
    figures = {meant: value for meant, value in cells.items() if meant in numbers}
    marks = decimal_of(figures, raw.separator, report)
    parsed: dict[str, NDArray[np.float64]] = {}
    for meant, value in figures.items():
        result = parse_numbers(value, marks.get(meant, "."))
        bad = np.flatnonzero(result.unreadable)
        if len(bad):
            problems.add(
                f"{columns[meant]!r} holds {str(value.iloc[bad[0]])!r} in {lines(bad)}, which is no number.",
                "Write numbers alone, without units.",
            )
        parsed[meant] = result.values
    words = {meant: clean_key(value).astype(str).tolist() for meant, value in cells.items() if meant in text}
    return Table(words, parsed, tuple(ignored), len(raw.frame)), problems


def series_of(
    table: Table, panel: SalesPanel, problems: Problems, *, skip_unknown: bool = False
) -> tuple[list[str | None], list[int]]:
    """Which series each row means.

    Args:
        table: With ``product``, and ``store`` where the sales have several.
        panel: The sales.
        problems: Takes unknown and repeated names.
        skip_unknown: Pass over products and stores that the sales do not know.

    Returns:
        [rows] ids, None for rows passed over; and the rows that were.
    """
    static = panel.static
    stores, products = sorted(static["store"].unique()), sorted(static["product"].unique())
    named = table.text.get("store")
    if named is None and len(stores) > 1:
        problems.add(
            f"It has no column 'store', but the sales are of {len(stores)} stores.", "Add the store of each row."
        )
        return [None] * table.rows, []
    place = named if named is not None else [stores[0]] * table.rows
    ids = {
        (store, product): name
        for name, store, product in zip(static.index, static["store"], static["product"], strict=True)
    }
    found: list[str | None] = [ids.get(pair) for pair in zip(place, table.text["product"], strict=True)]
    strange = [row for row, one in enumerate(found) if one is None]
    if strange and not skip_unknown:
        told: dict[str, list[int]] = {}
        for row in strange:
            store, product = place[row], table.text["product"][row]
            if store not in stores:
                like = nearest(store, stores)
                text = f"The store {store!r} is not in the sales"
            elif product not in products:
                like = nearest(product, products)
                text = f"The product {product!r} is not in the sales"
            else:
                like = None
                text = f"The product {product!r} was never sold in the store {store!r}"
            told.setdefault(text + (f"; the nearest name is {like!r}" if like else ""), []).append(row)
        for text, rows in list(told.items())[:_SHOWN]:
            problems.add(f"{text} ({lines(rows)}).", "Correct the name, remove the line, or add --skip-unknown.")
        if len(told) > _SHOWN:
            problems.add(f"{len(told) - _SHOWN} more names are unknown.", "--skip-unknown passes over them all.")
    known = pd.Series([one for one in found if one is not None])
    for name in list(known[known.duplicated()].unique())[:_SHOWN]:
        rows = [row for row, one in enumerate(found) if one == name]
        problems.add(f"{name!r} stands in {lines(rows)}.", "Give one row for each product and store.")
    return found, strange


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())
