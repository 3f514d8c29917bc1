"""From a file to a raw table: one column per header cell, every cell as the file has it (text, for CSV)."""

from __future__ import annotations

import csv
import decimal
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_common.errors import DataError, UsageError
from trend_common.panel.body import parse_body
from trend_common.panel.encoding import HEAD, as_utf8, read_bytes
from trend_common.panel.findings import Report
from trend_common.panel.header import header_line, shown, unique_names, usual_width
from trend_common.panel.numeric import filled
from trend_common.panel.workbook import is_workbook, read_workbook

__all__ = ["RawTable", "read_table"]

_SEPARATORS: Final = (",", ";", "\t", "|")
_SAMPLE_LINES: Final = 200
_MOST_COLUMNS: Final = 50_000
_MOST_BREAKS: Final = 20
_DOUBLE: Final = re.compile(r"[Ã][\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]")


@dataclass(frozen=True)
class RawTable:
    """What stands in the file, before any meaning is given to it.

    Attributes:
        frame: [rows, columns]; str cells ("" = empty) for text files, native types for Parquet and frames.
        separator: The cell separator of a text file, "" otherwise.
    """

    frame: pd.DataFrame
    separator: str


def read_table(
    path: Path, report: Report, *, sheet: str | None = None, columns: Mapping[str, str] | None = None
) -> RawTable:
    """Read CSV, CSV.gz, Parquet or a workbook of Excel or LibreOffice, told apart by content.

    Args:
        path: The file.
        report: Where findings go.
        sheet: The sheet of a workbook; None takes the one that fits, "*" all that have the same columns.
        columns: Role -> column name as a person said, for telling which sheet fits.

    Raises:
        DataError: The file cannot be read as a table; the message says why.
        UsageError: A sheet was named and the file has none.
    """
    raw = read_bytes(path)
    if is_workbook(raw):
        return RawTable(read_workbook(raw, report, sheet=sheet, columns=columns or {}), "")
    if sheet is not None:
        raise UsageError(f"--sheet {sheet}: {path.name} is no workbook.", "Leave --sheet out.")
    if raw[:4] == b"PAR1":
        return RawTable(_read_parquet(raw, report), "")
    text, encoding, broken = as_utf8(raw)
    del raw
    if encoding not in ("utf-8", "utf-8-sig"):
        report.found("encoding", 1, f"The text is in {encoding}.")
    report.found("broken_characters", broken, f"{broken} character(s) are damaged in the file's {encoding} text.")
    return _read_text(text, report)


def _read_parquet(raw: bytes, report: Report) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(io.BytesIO(raw))
    except MemoryError:
        raise
    except Exception as error:  # pyarrow raises many kinds for a damaged file
        raise report.fail(
            f"The Parquet file cannot be read ({str(error).splitlines()[0]}).", "Export or copy it again."
        ) from error
    if not isinstance(frame.index, pd.RangeIndex):
        frame = frame.reset_index()
    frame.columns = pd.Index(unique_names([str(column) for column in frame.columns], len(frame.columns), report))
    nested = [name for name in frame.columns if _is_nested(frame[name])]
    report.found("unused_columns", len(nested), f"Lists and structures: {', '.join(map(repr, nested))}.")
    frame = frame.drop(columns=nested)
    for name in frame.columns:
        if isinstance(frame[name].dtype, pd.CategoricalDtype):
            frame[name] = frame[name].astype(frame[name].cat.categories.dtype)
        elif frame[name].dtype == object and isinstance(_first(frame[name]), decimal.Decimal):
            frame[name] = pd.to_numeric(frame[name], errors="coerce").astype(np.float64)
    return frame


def _first(cells: pd.Series) -> object:
    known = cells.first_valid_index()
    return None if known is None else cells[known]


def _is_nested(cells: pd.Series) -> bool:
    return cells.dtype == object and isinstance(_first(cells), (list, dict, np.ndarray, tuple, bytes))


def _read_text(text: bytes, report: Report) -> RawTable:
    """A table of UTF-8 text. Only its head becomes a ``str``; the body is handed to the parser as it is."""
    if b"\0" in text:
        zeros = text.count(b"\0")
        report.found("control_characters", zeros, f"The text has {zeros} zero byte(s).")
        text = text.replace(b"\0", b"")
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    start = 0
    declared = re.match(rb"\s*sep=(.)[ \t]*(?:\n|$)", text[:200], re.IGNORECASE)  # Excel's own hint
    if declared:
        start = declared.end()
    head = text[start : start + HEAD].decode("utf-8", errors="ignore")
    whole = len(text) <= start + HEAD
    lines = head.split("\n") if whole else head.split("\n")[:-1]
    sample = "\n".join(islice((line for line in lines if line.strip()), _SAMPLE_LINES))
    try:
        separator = declared.group(1).decode("ascii", errors="replace") if declared else _separator(sample)
        cells = list(csv.reader(io.StringIO(sample), delimiter=separator))
    except csv.Error as error:
        raise _unclosed(report, f"a cell of more than {csv.field_size_limit() >> 10} KiB") from error
    cells = [row for row in cells if any(cell.strip() for cell in row)]
    if any(cell.count("\n") > _MOST_BREAKS for row in cells for cell in row):
        raise _unclosed(report, f"a cell that goes on over more than {_MOST_BREAKS} lines")
    width = usual_width(cells)
    if width > _MOST_COLUMNS:
        raise report.fail(f"The lines have {width:,} cells.", f"At most {_MOST_COLUMNS:,} columns are read.")
    if width < 2:
        raise report.fail(
            "Every line has a single cell: no separator (comma, semicolon, tab or |) was found.",
            "Export a table with at least a date column and a units column.",
        )
    header_at = header_line(cells, width, report)
    header = [cell.strip() for cell in cells[header_at]]
    report.found("title_lines", header_at, f"{header_at} line(s) stand above the header: {shown(cells[:header_at])}.")
    _double_encoded(sample, report)
    start = _after_header(text, start, head, separator, header_at)
    data_width = max(len(header), usual_width(cells[header_at + 1 :]) if len(cells) > header_at + 1 else 0)
    names = unique_names(header, data_width, report)
    frame = parse_body(memoryview(text)[start:], separator, names, report)
    return RawTable(_trimmed(frame, header, report), separator)


def _unclosed(report: Report, what: str) -> DataError:
    return report.fail(
        f"The lines cannot be split into cells: there is {what}.",
        'Look for an unclosed quotation mark ("), or export without line breaks inside of cells.',
    )


def _double_encoded(sample: str, report: Report) -> None:
    count = len(_DOUBLE.findall(sample))
    report.found(
        "double_encoded", count, f"Names such as {_DOUBLE.findall(sample)[0]!r} were encoded twice." if count else ""
    )


def _separator(sample: str) -> str:
    """The separator under which most lines have the same number of cells, and more than one."""

    def quality(separator: str) -> tuple[float, int]:
        try:
            rows = [row for row in csv.reader(io.StringIO(sample), delimiter=separator) if row]
        except csv.Error:  # a cell beyond the limit: not by this separator
            return 0.0, 0
        width = usual_width(rows)
        return (0.0, 0) if width < 2 else (sum(len(row) == width for row in rows) / len(rows), width)

    by_quality = {separator: quality(separator) for separator in _SEPARATORS}
    # The header decides near-ties: "12,5;3,20" is as regular by comma as by semicolon, its header is not.
    return max(by_quality, key=lambda s: (round(by_quality[s][0], 1), by_quality[s][1]))


def _after_header(text: bytes, start: int, head: str, separator: str, header_at: int) -> int:
    """Where the text below the header begins; the header may itself span lines inside quotes."""
    reader = csv.reader(io.StringIO(head), delimiter=separator)
    consumed = 0
    for row in reader:
        if any(cell.strip() for cell in row):
            if consumed == header_at:
                break
            consumed += 1
    for _ in range(reader.line_num):
        end = text.find(b"\n", start)
        start = len(text) if end < 0 else end + 1
    return start


def _trimmed(frame: pd.DataFrame, header: list[str], report: Report) -> pd.DataFrame:
    """Without rows and nameless columns that hold nothing."""
    nameless = [
        name for position, name in enumerate(frame.columns) if position >= len(header) or not header[position]
    ]
    empty = [name for name in nameless if not frame[name].str.strip().any()]
    report.found("trailing_separators", len(empty), f"{len(empty)} column(s) have neither a name nor a value.")
    extra = [name for position, name in enumerate(frame.columns) if position >= len(header) and name not in empty]
    if extra:
        raise report.fail(
            f"The lines have {len(frame.columns)} cells, the header has {len(header)} names.",
            "Often decimal commas in a comma-separated file: export with semicolons or with quoted numbers.",
        )
    frame = frame.drop(columns=empty)
    blank = _blank_rows(frame)
    report.found("blank_lines", int(blank.sum()), f"{int(blank.sum())} line(s) have only empty cells.")
    return frame[~blank].reset_index(drop=True) if blank.any() else frame


def _blank_rows(frame: pd.DataFrame) -> NDArray[np.bool_]:
    at = np.arange(len(frame))
    for column in frame.columns:
        at = at[~filled(frame[column].iloc[at])]
        if not len(at):
            break
    blank = np.zeros(len(frame), dtype=bool)
    blank[at] = True
    return blank
