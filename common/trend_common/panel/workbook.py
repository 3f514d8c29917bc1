"""Workbooks of Excel and LibreOffice: which sheet holds the sales, and its cells as a table.

Read by calamine (.xlsx, .xlsm, .xlsb, .xls, .ods). A cell with a formula has the value that was saved with it.
"""

from __future__ import annotations

import datetime as dt
import io
import re
import zipfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from trend_common.errors import DataError, UsageError
from trend_common.panel.columns import recognise
from trend_common.panel.encoding import SAVE_AS
from trend_common.panel.findings import Report
from trend_common.panel.header import header_line, unique_names

if TYPE_CHECKING:
    from python_calamine import CalamineSheet, CalamineWorkbook

__all__ = ["is_workbook", "read_workbook"]

ALL: Final = "*"
"""``--sheet '*'``: all sheets with the same columns, below each other."""

_ZIP: Final = b"PK\x03\x04"
_OLE: Final = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_PARTS: Final = ("xl/workbook.xml", "xl/workbook.bin", "content.xml")
_MOST_BYTES: Final = 2 << 30
_CHUNK: Final = 4 << 20
_OVERLAP: Final = 4096
_FORMULA: Final = re.compile(rb"<f[ >/]")
_UNCACHED: Final = re.compile(rb"(?:</f>|<f(?:\s[^<>]*)?/>)\s*(?:<v\s*/>|<v></v>)?\s*</c>")
_CANDIDATES: Final = 60


def is_workbook(raw: bytes) -> bool:
    """Whether the bytes are a zip archive or an OLE container, as workbooks are."""
    return raw.startswith((_ZIP, _OLE))


def read_workbook(raw: bytes, report: Report, *, sheet: str | None, columns: Mapping[str, str]) -> pd.DataFrame:
    """The sheet that holds the sales: numbers and dates with their types, all else as text ("" = empty).

    Args:
        raw: The file.
        report: Told which sheet was taken, and of formulas.
        sheet: Its name; None takes the one that fits, "*" all that have the same columns.
        columns: Role -> column name as a person said.

    Raises:
        DataError: No workbook, protected by a password, damaged, formulas without values, or no sheet fits.
        UsageError: There is no such sheet.
    """
    import python_calamine as calamine

    _is_spreadsheet(raw, report)
    try:
        book = calamine.CalamineWorkbook.from_filelike(io.BytesIO(raw))
        names = _visible(book)
        if sheet is not None and sheet != ALL and sheet not in book.sheet_names:
            raise UsageError(
                f"There is no sheet {sheet!r}.", f"Its sheets: {', '.join(map(repr, book.sheet_names[:30]))}."
            )
        chosen = names if sheet in (None, ALL) else [str(sheet)]
        tables = {name: table for name in chosen if (table := _table(book.get_sheet_by_name(name))) is not None}
    except calamine.PasswordError as error:
        raise report.fail(
            "The workbook is protected by a password.", "Save it without one (Save as, Tools, General options)."
        ) from error
    except (calamine.CalamineError, ValueError, OSError) as error:
        raise report.fail(
            f"The workbook cannot be read ({error}).", f"Open it and save it again. {SAVE_AS}"
        ) from error
    if not tables:
        raise report.fail(
            "No sheet holds a table with a header line.", "Put the columns' names in the first line of a sheet."
        )
    taken = _fitting(tables, sheet, columns, report)
    for name in taken:
        _formulas(raw, name, report)
    titles = [line for name in taken for line in tables[name].above if line]
    report.found(
        "title_lines", len(titles), f"{len(titles)} line(s) stand above the header: {'; '.join(titles[:3])}."
    )
    merged = sum(tables[name].merged for name in taken)
    report.found("merged_cells", merged, f"{merged} cell(s) belong to merged blocks.")
    first = tables[taken[0]]
    rows = [row for name in taken for row in tables[name].rows]
    return _Table(first.header, rows, [], 0).frame(report)


def _is_spreadsheet(raw: bytes, report: Report) -> None:
    if not raw.startswith(_ZIP):
        return
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            size = sum(part.file_size for part in archive.infolist())
            known = set(archive.namelist()) & set(_PARTS)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise report.fail(f"The workbook is damaged ({error}).", "Export or copy it again.") from error
    if not known:
        raise report.fail("The file is a zip archive, not a workbook.", "Unpack it and name the sales file inside.")
    if size > _MOST_BYTES:
        raise report.fail(
            f"The workbook has more than {_MOST_BYTES >> 30} GiB when unpacked.", "Save the sheet as CSV."
        )


def _visible(book: CalamineWorkbook) -> list[str]:
    """Visible worksheets; all of them, where none is."""
    shown = [
        one.name
        for one in book.sheets_metadata
        if str(one.typ).endswith("WorkSheet") and str(one.visible).endswith("Visible")
    ]
    return shown or list(book.sheet_names)


class _Table:
    """A sheet's header and rows, and how many cells of merged blocks were filled."""

    def __init__(self, header: list[str], rows: list[list[Any]], above: list[str], merged: int) -> None:
        self.header, self.rows, self.above, self.merged = header, rows, above, merged

    def frame(self, report: Report) -> pd.DataFrame:
        """The columns with their types; nameless empty ones dropped."""
        names = unique_names(self.header, len(self.header), report)
        columns = {}
        for position, name in enumerate(names):
            column = _column([row[position] for row in self.rows])
            if column is not None or self.header[position]:
                columns[name] = pd.Series([""] * len(self.rows), dtype=object) if column is None else column
        return pd.DataFrame(columns)


def _table(sheet: CalamineSheet) -> _Table | None:
    """The rows below the header line, which is found as in a text file; None for a sheet without one."""
    rows: list[list[Any]] = sheet.to_python(skip_empty_area=False)
    merged = _fill_merged(rows, sheet)
    filled = [row for row in rows if any(cell != "" for cell in row)]
    texts = [[_text(cell) for cell in row] for row in filled[:_CANDIDATES]]
    if not texts:
        return None
    widths = [sum(cell.strip() != "" for cell in row) for row in texts]
    try:
        at = header_line(texts, max(widths), Report())
    except DataError:
        return None
    above = [" ".join(cell for cell in row if cell) for row in texts[:at]]
    return _Table([cell.strip() for cell in texts[at]], filled[at + 1 :], above, merged)


def _fill_merged(rows: list[list[Any]], sheet: CalamineSheet) -> int:
    """Give each cell of a block merged downwards its value: a store's name stands beside all of its rows."""
    filled = 0
    for (top, left), (bottom, right) in sheet.merged_cell_ranges or ():
        if bottom >= len(rows) or left != right or not rows[top]:
            continue
        for at in range(top + 1, bottom + 1):
            rows[at][left] = rows[top][left]
            filled += 1
    return filled


def _text(cell: Any) -> str:
    """A cell as a text file would have it."""
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() and abs(cell) < 1e15 else repr(cell)
    if isinstance(cell, dt.datetime):
        midnight = cell.time() == dt.time()
        return cell.date().isoformat() if midnight else cell.isoformat(sep=" ", timespec="seconds")
    return str(cell)


def _column(cells: Sequence[Any]) -> pd.Series | None:
    """Numbers as float64 and dates as datetime64 where all cells are; else text; None for an empty column."""
    kinds = {type(cell) for cell in cells if cell != ""}
    if not kinds:
        return None
    if kinds <= {int, float}:
        return pd.Series(np.array([np.nan if cell == "" else cell for cell in cells], dtype=np.float64))
    if kinds <= {dt.date, dt.datetime}:
        stamps = pd.Series([None if cell == "" else cell for cell in cells], dtype=object)
        return pd.to_datetime(stamps, errors="coerce").astype("datetime64[ns]")
    return pd.Series([_text(cell) for cell in cells], dtype=object)


def _fitting(
    tables: Mapping[str, _Table], sheet: str | None, columns: Mapping[str, str], report: Report
) -> list[str]:
    """The sheet to read, or all of the same columns; the choice is a finding."""
    if sheet not in (None, ALL):
        return [str(sheet)]
    fitting = [name for name, table in tables.items() if _fits(table, columns)]
    if not fitting:
        largest = max(tables, key=lambda name: len(tables[name].rows))
        report.found("sheets", len(tables) - 1, f"No sheet has all that is needed; {largest!r} is read.")
        return [largest]
    best = max(fitting, key=lambda name: len(tables[name].rows))
    if sheet == ALL:
        return [name for name in fitting if tables[name].header == tables[best].header]
    others = ", ".join(repr(name) for name in tables if name != best)
    alike = [name for name in fitting if name != best]
    also = f" {len(alike)} of them could be read, too." if alike else ""
    report.found("sheets", len(tables) - 1, f"Sheet {best!r} is read, not {others}.{also}")
    return [best]


def _fits(table: _Table, columns: Mapping[str, str]) -> bool:
    trial = Report()
    frame = _Table(table.header, table.rows[:500], [], 0).frame(trial)
    if not len(frame) or frame.shape[1] < 2:
        return False
    recognise(frame, columns, trial)
    return not trial.blocked


def _formulas(raw: bytes, sheet: str, report: Report) -> None:
    """Count the formulas of a sheet (.xlsx); those without a value were never computed."""
    if not raw.startswith(_ZIP):
        return
    count = uncached = 0
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        part = _part_of(archive, sheet)
        if part is None:
            return
        with archive.open(part) as stream:
            kept = b""
            while chunk := stream.read(_CHUNK):
                count += len(_FORMULA.findall(chunk))
                # A cell may be cut in two: matches are counted by where they end, the rest is seen again.
                window = kept + chunk
                uncached += sum(1 for hit in _UNCACHED.finditer(window) if hit.end() > len(kept))
                kept = window[-_OVERLAP:]
    if uncached:
        raise report.fail(
            f"{uncached} of {count} formulas in sheet {sheet!r} were saved without their values.",
            "Open the file in Excel or LibreOffice and save it there, or paste the values over the formulas.",
        )
    report.found("formulas", count, f"{count} cell(s) of sheet {sheet!r} hold formulas.")


def _part_of(archive: zipfile.ZipFile, sheet: str) -> str | None:
    """The archive's part of a sheet of an .xlsx file."""
    try:
        book = ElementTree.fromstring(archive.read("xl/workbook.xml"))
        links = ElementTree.fromstring(archive.read("xl/_rels/workbook.xml.rels"))
    except (KeyError, ElementTree.ParseError):
        return None
    targets = {link.get("Id"): link.get("Target", "") for link in links}
    for element in book.iter():
        if element.tag.endswith("}sheet") and element.get("name") == sheet:
            key = next((value for name, value in element.attrib.items() if name.endswith("}id")), None)
            target = targets.get(key, "")
            part = target.lstrip("/") if target.startswith("/") else f"xl/{target}"
            return part if part in archive.namelist() else None
    return None
