"""From a file to a raw table: one column per header cell, every cell as the file has it (text, for CSV)."""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_common.panel.encoding import decode, read_bytes
from trend_common.panel.findings import Report
from trend_common.panel.vocabulary import known_role

__all__ = ["RawTable", "read_table"]

_SEPARATORS: Final = (",", ";", "\t", "|")
_SAMPLE_LINES: Final = 200
_HEADER_WITHIN: Final = 40
_NUMBER: Final = re.compile(r"^[\s\d.,'+\-−€$£¥%()/:]+$")


@dataclass(frozen=True)
class RawTable:
    """What stands in the file, before any meaning is given to it.

    Attributes:
        frame: [rows, columns]; str cells ("" = empty) for text files, native types for Parquet and frames.
        separator: The cell separator of a text file, "" otherwise.
    """

    frame: pd.DataFrame
    separator: str


def read_table(path: Path, report: Report) -> RawTable:
    """Read CSV, CSV.gz or Parquet, told apart by content.

    Raises:
        DataError: The file cannot be read as a table; the message says why.
    """
    raw = read_bytes(path)
    if raw[:4] == b"PAR1":
        return RawTable(_read_parquet(raw, report), "")
    text, encoding = decode(raw)
    if encoding != "utf-8":
        report.found("encoding", 1, f"The text is in {encoding}.")
    return _read_text(text, report)


def _read_parquet(raw: bytes, report: Report) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(io.BytesIO(raw))
    except Exception as error:  # pyarrow raises many kinds for a damaged file
        raise report.fail(f"The Parquet file cannot be read ({error}).", "Export it again.") from error
    if not isinstance(frame.index, pd.RangeIndex):
        frame = frame.reset_index()
    frame.columns = pd.Index([str(column) for column in frame.columns])
    return frame


def _read_text(text: str, report: Report) -> RawTable:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n", 1)
    declared = re.fullmatch(r"\s*sep=(.)\s*", lines[0], re.IGNORECASE)  # Excel's own hint
    if declared and len(lines) > 1:
        text = lines[1]
    sample = "\n".join(islice((line for line in text.split("\n") if line.strip()), _SAMPLE_LINES))
    separator = declared.group(1) if declared else _separator(sample)
    cells = list(csv.reader(io.StringIO(sample), delimiter=separator))
    cells = [row for row in cells if any(cell.strip() for cell in row)]
    width = _usual_width(cells)
    if width < 2:
        raise report.fail(
            "Every line has a single cell: no separator (comma, semicolon, tab or |) was found.",
            "Export a table with at least a date column and a units column.",
        )
    header_at = _header_line(cells, width, report)
    header = [cell.strip() for cell in cells[header_at]]
    report.found(
        "title_lines", header_at, f"{header_at} line(s) stand above the header: {_shown(cells[:header_at])}."
    )
    body = _after_header(text, cells[header_at], separator, header_at)
    data_width = max(len(header), _usual_width(cells[header_at + 1 :]) if len(cells) > header_at + 1 else 0)
    names = _names(header, data_width, report)
    frame = _parse(body, separator, names, report)
    return RawTable(_trimmed(frame, header, report), separator)


def _separator(sample: str) -> str:
    """The separator under which most lines have the same number of cells, and more than one."""

    def quality(separator: str) -> tuple[float, int]:
        rows = [row for row in csv.reader(io.StringIO(sample), delimiter=separator) if row]
        width = _usual_width(rows)
        return (0.0, 0) if width < 2 else (sum(len(row) == width for row in rows) / len(rows), width)

    by_quality = {separator: quality(separator) for separator in _SEPARATORS}
    # The header decides near-ties: "12,5;3,20" is as regular by comma as by semicolon, its header is not.
    return max(by_quality, key=lambda s: (round(by_quality[s][0], 1), by_quality[s][1]))


def _usual_width(rows: list[list[str]]) -> int:
    widths = Counter(len(row) for row in rows)
    return max(widths, key=lambda width: (widths[width], width)) if widths else 0


def _header_line(cells: list[list[str]], width: int, report: Report) -> int:
    """The first line that has names in nearly all cells; one with a known name is preferred."""
    candidates = []
    for position, row in enumerate(cells[:_HEADER_WITHIN]):
        filled = [cell for cell in row if cell.strip()]
        numbers = sum(bool(_NUMBER.match(cell)) for cell in filled)
        if len(filled) < max(2, 0.5 * width):
            continue
        if any(known_role(cell) for cell in filled):
            return position
        if numbers == 0:
            candidates.append(position)
    if candidates:
        return candidates[0]
    raise report.fail(
        f"There is no header line: the first line is {_shown(cells[:1])}.",
        "Put the columns' names in the first line, for example: date,store,product,units",
    )


def _after_header(text: str, header: list[str], separator: str, header_at: int) -> str:
    """The text below the header line, which may itself span lines inside quotes."""
    buffer = io.StringIO(text)
    reader = csv.reader(buffer, delimiter=separator)
    consumed = 0
    for row in reader:
        if any(cell.strip() for cell in row):
            if consumed == header_at:
                break
            consumed += 1
    return text.split("\n", reader.line_num)[-1]


def _names(header: list[str], width: int, report: Report) -> list[str]:
    """Unique names: an empty one by its place, a second equal one with its number."""
    names: list[str] = []
    doubled = 0
    for position in range(width):
        name = header[position] if position < len(header) else ""
        name = name or f"column {position + 1}"
        if name in names:
            doubled += 1
            number = 2
            while f"{name} ({number})" in names:
                number += 1
            name = f"{name} ({number})"
        names.append(name)
    report.found("duplicate_header", doubled, f"{doubled} column name(s) stand twice in the header.")
    return names


def _parse(body: str, separator: str, names: list[str], report: Report) -> pd.DataFrame:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            frame = pd.read_csv(
                io.StringIO(body),
                sep=separator,
                header=None,
                names=names,
                index_col=False,
                dtype=str,
                na_filter=False,
                skip_blank_lines=True,
                on_bad_lines="warn",
            )
        except pd.errors.EmptyDataError:
            frame = pd.DataFrame(columns=names, dtype=str)
        except pd.errors.ParserError as error:
            raise report.fail(
                f"The lines cannot be split into cells ({str(error).strip()}).",
                "Look for an unclosed quotation mark.",
            ) from error
    skipped = sum(str(warning.message).count("Skipping line") for warning in caught)
    if skipped > max(20, 0.2 * (len(frame) + skipped)):
        raise report.fail(
            f"{skipped} of {len(frame) + skipped} lines have more cells than the header.",
            "Often decimal commas in a comma-separated file: export with semicolons or with quoted numbers.",
        )
    report.found("ragged_lines", skipped, f"{skipped} line(s) have more cells than the header.")
    return frame.fillna("")


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
        at = at[(frame[column].iloc[at].str.strip() == "").to_numpy(dtype=bool)]
        if not len(at):
            break
    blank = np.zeros(len(frame), dtype=bool)
    blank[at] = True
    return blank


def _shown(rows: list[list[str]]) -> str:
    return "; ".join(" ".join(cell for cell in row if cell.strip())[:60] for row in rows[:3])
