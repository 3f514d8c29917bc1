"""The lines below a header as columns of text: by pyarrow where no cell is quoted, else by pandas."""

from __future__ import annotations

import io
import re
import warnings
from typing import Final

import pandas as pd

from trend_common.errors import DataError
from trend_common.panel.findings import Report

__all__ = ["parse_body"]

_BLOCK: Final = 16 << 20
_MOST_BREAKS: Final = 20
_MOST_RAGGED: Final = 0.2


def parse_body(body: memoryview, separator: str, names: list[str], report: Report) -> pd.DataFrame:
    """Every cell as text, "" where a line is too short; lines that are too long are dropped and counted.

    Args:
        body: UTF-8 with ``\\n`` line ends.
        separator: One character.
        names: Unique.
        report: Where findings go.

    Raises:
        DataError: A quotation mark is not closed, or too many lines have more cells than names.
    """
    frame = _by_arrow(body, separator, names)
    return _by_pandas(body, separator, names, report) if frame is None else frame


def _by_arrow(body: memoryview, separator: str, names: list[str]) -> pd.DataFrame | None:
    """The table if it is plain: no quotes, and the same number of cells in each line; None for all others.

    Without quotes both parsers say the same. pyarrow takes a third of the time and of the memory: each distinct text
    of a column is kept once.
    """
    import pyarrow as pa
    from pyarrow import csv

    if not len(body) or not separator.isascii() or _holds(body, b'"'):
        return None
    text = pa.string()
    try:
        table = csv.read_csv(
            pa.BufferReader(pa.py_buffer(body)),
            read_options=csv.ReadOptions(column_names=names, block_size=_BLOCK),
            parse_options=csv.ParseOptions(delimiter=separator, quote_char=False, double_quote=False),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.dictionary(pa.int32(), text)), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid:
        return None
    columns = {}
    for name in names:
        column = table.column(name).unify_dictionaries().combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = column.chunk(0)
        columns[name] = column.dictionary.to_numpy(zero_copy_only=False)[column.indices.to_numpy()]
    return pd.DataFrame(columns, copy=False)


def _holds(body: memoryview, mark: bytes) -> bool:
    return any(mark in bytes(body[at : at + _BLOCK]) for at in range(0, len(body), _BLOCK))


def _by_pandas(body: memoryview, separator: str, names: list[str], report: Report) -> pd.DataFrame:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            frame = pd.read_csv(
                io.BytesIO(body),
                sep=separator,
                header=None,
                names=names,
                index_col=False,
                dtype=str,
                na_filter=False,
                skip_blank_lines=True,
                on_bad_lines="warn",
                encoding="utf-8",
            )
        except pd.errors.EmptyDataError:
            frame = pd.DataFrame(columns=names, dtype=str)
        except pd.errors.ParserError as error:
            raise _unclosed(str(error).strip(), report) from error
    skipped = sum(str(warning.message).count("Skipping line") for warning in caught)
    if skipped > max(20, _MOST_RAGGED * (len(frame) + skipped)):
        raise report.fail(
            f"{skipped} of {len(frame) + skipped} lines have more cells than the header.",
            "Often decimal commas in a comma-separated file: export with semicolons or with quoted numbers.",
        )
    report.found("ragged_lines", skipped, f"{skipped} line(s) have more cells than the header.")
    frame = frame.fillna("")
    _no_swallowed_lines(body, frame, separator, skipped, report)
    return frame


def _no_swallowed_lines(body: memoryview, frame: pd.DataFrame, separator: str, skipped: int, report: Report) -> None:
    """Between two stray quotation marks a parser takes any number of lines for one cell.

    A cell that holds a line break is fine (an address); one that also holds a line's worth of separators is not.
    """
    lines = sum(bytes(body[at : at + _BLOCK]).count(b"\n") for at in range(0, len(body), _BLOCK))
    if lines <= len(frame) + skipped:
        return
    swallowed = 0
    for name in frame.columns:
        distinct = pd.Series(frame[name].unique(), dtype=object).astype(str)
        broken = distinct[distinct.str.contains("\n", regex=False)]
        breaks = broken.str.count("\n")
        if len(breaks) and breaks.max() > _MOST_BREAKS:
            raise _unclosed(f"a cell of {name!r} goes on over {int(breaks.max()) + 1} lines", report)
        swallowed += int((broken.str.count(re.escape(separator)) >= len(frame.columns) - 1).sum())
    if swallowed:
        raise _unclosed(f"{swallowed} cell(s) hold whole lines", report)


def _unclosed(what: str, report: Report) -> DataError:
    return report.fail(
        f"The lines cannot be split into cells ({what}).",
        'Look for an unclosed quotation mark ("), or export without line breaks inside of cells.',
    )
