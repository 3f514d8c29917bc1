"""Large assortments piece by piece: neighbouring series at a time, and tables that grow on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import numpy as np
import pandas as pd

from trend_common.errors import UsageError
from trend_common.files import replacing
from trend_common.panel import SalesPanel
from trend_common.spreadsheet import safe_frame

if TYPE_CHECKING:
    from openpyxl import Workbook

__all__ = ["CHUNK", "FORMATS", "LARGE", "Format", "TableWriter", "chunks", "parse_formats"]

Format = Literal["csv", "parquet", "xlsx"]
FORMATS: Final[tuple[Format, ...]] = ("csv", "parquet", "xlsx")

CHUNK: Final = 2000
"""Series that are forecast at a time."""

LARGE: Final = 5000
"""Series beyond which methods are compared on a sample of :data:`CHUNK` of them, and the others get its weights."""

_SHEET: Final = 1_000_000
"""Rows of one Excel sheet; the program takes 1,048,576."""


def chunks(panel: SalesPanel, size: int = CHUNK) -> Iterator[SalesPanel]:
    """The panel in pieces of up to ``size`` series, in its own order; each holds those series' rows alone."""
    ids = panel.static.index
    if len(ids) <= size:
        yield panel
        return
    ends = {}
    for name in ("frame", "future"):
        table: pd.DataFrame = getattr(panel, name)
        # Sorted by series: each one's rows are a slice, found without a pass over the whole table for each piece.
        codes = ids.get_indexer(pd.Index(table["unique_id"]))
        ends[name] = np.searchsorted(codes, np.arange(len(ids) + 1))
    for start in range(0, len(ids), size):
        stop = min(start + size, len(ids))
        parts: dict[str, Any] = {
            name: getattr(panel, name).iloc[edge[start] : edge[stop]].reset_index(drop=True)
            for name, edge in ends.items()
        }
        yield replace(panel, static=panel.static.iloc[start:stop], **parts)


def parse_formats(text: str) -> tuple[Format, ...]:
    """``csv,parquet,xlsx`` as formats.

    Raises:
        UsageError: One is unknown, or none was named.
    """
    named = [part.strip().lower() for part in text.split(",") if part.strip()]
    strange = [name for name in named if name not in FORMATS]
    if strange or not named:
        found = f"There is no format {strange[0]!r}" if strange else "No format was named"
        raise UsageError(f"{found}.", f"Name one or more of {', '.join(FORMATS)}, separated by commas.")
    return tuple(one for one in FORMATS if one in named)


class TableWriter:
    """One table as several files, written piece by piece; all appear whole at the end, or none.

    Dates are written as YYYY-MM-DD in CSV, numbers there with six significant digits: more than any forecast knows.
    Text in CSV and Excel is kept from being run as a formula.

    Args:
        folder: Created if it is missing.
        stem: Name of the files without an ending.
        formats: Which files.
    """

    def __init__(self, folder: Path, stem: str, formats: Sequence[Format]) -> None:
        self.paths: dict[Format, Path] = {one: folder / f"{stem}.{one}" for one in FORMATS if one in formats}
        self._stack = ExitStack()
        self._temporary: dict[Format, Path] = {}
        self._parquet: Any = None
        self._book: Workbook | None = None
        self._sheet: Any = None
        self._rows = 0

    def __enter__(self) -> Self:
        for one, path in self.paths.items():
            self._temporary[one] = self._stack.enter_context(replacing(path, private=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._parquet is not None:
                self._parquet.close()
            if self._book is not None:  # after a failure, too: it holds files of its own open until then
                self._book.save(self._temporary["xlsx"])
        finally:
            self._stack.__exit__(kind, error, trace)

    def write(self, table: pd.DataFrame) -> None:
        """Add rows; all tables must have the same columns."""
        first = self._rows == 0
        if "parquet" in self.paths:
            self._to_parquet(table)
        if "csv" in self.paths or "xlsx" in self.paths:
            safe = safe_frame(table)
            if "csv" in self.paths:
                self._to_csv(safe, first)
            if "xlsx" in self.paths:
                self._to_excel(safe)
        self._rows += len(table)

    def _to_parquet(self, table: pd.DataFrame) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = None if self._parquet is None else self._parquet.schema
        rows = pa.Table.from_pandas(table, schema=schema, preserve_index=False)
        if self._parquet is None:
            self._parquet = pq.ParquetWriter(self._temporary["parquet"], rows.schema)
        self._parquet.write_table(rows)

    def _to_csv(self, table: pd.DataFrame, first: bool) -> None:
        dates = {name: table[name].dt.strftime("%Y-%m-%d") for name in table.select_dtypes("datetime").columns}
        table.assign(**dates).to_csv(
            self._temporary["csv"],
            mode="w" if first else "a",
            header=first,
            index=False,
            float_format="%.6g",
            lineterminator="\n",
            encoding="utf-8",
        )

    def _to_excel(self, table: pd.DataFrame) -> None:
        from openpyxl import Workbook

        if self._book is None:
            self._book = Workbook(write_only=True)
        columns = [str(name) for name in table.columns]
        values = [
            [one.date() for one in table[name]] if table[name].dtype.kind == "M" else table[name].tolist()
            for name in table.columns
        ]
        for number, row in enumerate(zip(*values, strict=True), start=self._rows):
            if number % _SHEET == 0:
                self._sheet = self._book.create_sheet(f"rows from {number + 1}" if number else "forecasts")
                self._sheet.append(columns)
            self._sheet.append([None if value != value else value for value in row])
        if self._sheet is None:
            self._sheet = self._book.create_sheet("forecasts")
            self._sheet.append(columns)
