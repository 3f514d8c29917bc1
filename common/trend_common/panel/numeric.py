"""Numbers as retailers write them: decimal commas, thousands separators, currencies, brackets for minus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_common.panel.findings import Report

__all__ = [
    "Decimal",
    "ParsedNumbers",
    "decimal_of",
    "filled",
    "mostly_numeric",
    "parse_flags",
    "parse_numbers",
    "sampled",
]

Decimal = Literal[".", ","]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MISSING: Final = _words(
    "na n/a #n/a nan null none - -- — – . ? k.a. #wert! #value! #ref! #div/0! #bezug! 无 缺 缺失 n.a. nil <na> nat "
    "n/d nd s/d #n/d #valeur! #valor! #ref #name? #num! #null!"
) | {"", "k. a."}
_NO: Final = _words("0 0.0 0,0 0.00 false no n nein não nao f 否 无 off falsch falso none non faux")
_YES: Final = _words("1 1.0 true yes y ja j sim s 是 x t wahr verdadeiro on ✓ oui vrai sí si verdadero")
_CLUTTER: Final = (
    r"[\s\u00a0\u202f'’`´\"]|R\$|[€$£¥￥元]|EUR|USD|GBP|BRL|CNY|RMB|(?<=[\d\s])(?:Stk|St|pcs|un|kg|件|个)\.?$"
)
_COMMA: Final = (
    r"^[-+(−]*(?:\d{1,3}(?:\.\d{3})+,\d+|0?,\d+|0,\d+|\d+,(?:\d{1,2}|\d{4,})|\d{4,},\d+|\d{1,3}(?:\.\d{3}){2,})[-)]*$"
)
_DOT: Final = (
    r"^[-+(−]*(?:\d{1,3}(?:,\d{3})+\.\d+|0?\.\d+|\d+\.(?:\d{1,2}|\d{4,})|\d{4,}\.\d+|\d{1,3}(?:,\d{3}){2,})[-)]*$"
)
_SHOWN: Final = 5000
_LARGEST: Final = 1e15
"""Larger numbers (infinity too) are mistakes, and sums of them are not exact any more."""


@dataclass(frozen=True)
class ParsedNumbers:
    """A column of numbers.

    Attributes:
        values: [rows] float64, NaN where empty or unreadable.
        unreadable: [rows] bool: not empty, yet no number.
    """

    values: NDArray[np.float64]
    unreadable: NDArray[np.bool_]


def _text(cells: pd.Series) -> pd.Series:
    return cells.astype(object).where(cells.notna(), "").astype(str)


def _marked(cells: pd.Series) -> pd.Series:
    """Distinct cleaned texts that hold a comma or a dot, at most some thousands."""
    text = pd.Series(cells.dropna().unique(), dtype=object).astype(str)
    marked = text[text.str.contains(",", regex=False) | text.str.contains(".", regex=False)]
    return marked.iloc[:_SHOWN].str.replace(_CLUTTER, "", regex=True)


def decimal_of(columns: Mapping[str, pd.Series], separator: str, report: Report) -> dict[str, Decimal]:
    """The decimal mark of each column of text: by its own values, else by the other columns', else by the separator.

    ``1.234`` alone cannot be decided by its column; a file with semicolons then means thousands, any other decimals.
    """
    evidence: dict[str, tuple[int, int, int]] = {}
    for name, cells in columns.items():
        if cells.dtype != object:
            continue
        marked = _marked(cells)
        commas, dots = int(marked.str.match(_COMMA).sum()), int(marked.str.match(_DOT).sum())
        unsure = int(marked.str.match(r"^[-+(−]*[1-9]\d{0,2}[.,]\d{3}[-)]*$").sum())
        evidence[name] = (commas, dots, unsure)
    all_commas = sum(commas for commas, _, _ in evidence.values())
    all_dots = sum(dots for _, dots, _ in evidence.values())
    overall: Decimal | None = None
    if all_commas or all_dots:
        overall = "," if all_commas > all_dots else "."
    decided: dict[str, Decimal] = {}
    for name, (commas, dots, unsure) in evidence.items():
        if commas or dots:
            decided[name] = "," if commas > dots else "."
        else:
            decided[name] = overall or ("," if separator == ";" else ".")
            if unsure and overall is None:
                reading = "thousands" if _is_thousands(columns[name], decided[name]) else "decimals"
                report.found(
                    "ambiguous_thousands",
                    unsure,
                    f"In {name!r} numbers such as 1.234 or 1,234 are read as {reading}.",
                )
    commas_in = [name for name, mark in decided.items() if mark == "," and evidence[name][0]]
    report.found("decimal_comma", len(commas_in), f"Column(s) {', '.join(map(repr, commas_in))} have decimal commas.")
    return decided


def _is_thousands(cells: pd.Series, decimal: Decimal) -> bool:
    other = "," if decimal == "." else "."
    return bool(_text(cells).str.contains(other, regex=False).any())


def parse_numbers(cells: pd.Series, decimal: Decimal = ".") -> ParsedNumbers:
    """Parse a column; typed numbers pass, text is read with the given decimal mark.

    A mark that is not where thousands end makes the number unreadable: with a decimal comma ``12.5`` is an error, not
    125.
    """
    if pd.api.types.is_bool_dtype(cells) or pd.api.types.is_numeric_dtype(cells):
        return _finite(
            cells.astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan), np.zeros(len(cells), dtype=bool)
        )
    codes, distinct = _distinct(cells)
    parsed = _parse_distinct(distinct, decimal)
    return ParsedNumbers(parsed.values[codes], parsed.unreadable[codes])


def _distinct(cells: pd.Series) -> tuple[NDArray[np.intp], pd.Series]:
    """The place of each cell among the distinct ones, and these: a column has far fewer texts than rows."""
    codes, distinct = pd.factorize(cells.to_numpy(dtype=object), use_na_sentinel=False)
    return codes, pd.Series(distinct, dtype=object)


def _parse_distinct(cells: pd.Series, decimal: Decimal) -> ParsedNumbers:
    text = _text(cells)
    if decimal == ".":
        values = pd.to_numeric(text, errors="coerce").to_numpy(dtype=np.float64)
    else:
        values = np.full(len(text), np.nan)
    left = np.isnan(values)
    if left.any():
        values[left] = _parse_slowly(text[left].reset_index(drop=True), decimal)
    blank = (
        text.str.strip().str.casefold().isin(_MISSING).to_numpy()
        if np.isnan(values).any()
        else np.zeros(len(text), bool)
    )
    return _finite(values, np.isnan(values) & ~blank)


def _finite(values: NDArray[np.floating], unreadable: NDArray[np.bool_]) -> ParsedNumbers:
    with np.errstate(invalid="ignore"):
        beyond = np.abs(values) > _LARGEST
    return ParsedNumbers(np.where(beyond, np.nan, values), unreadable | beyond)


def _parse_slowly(text: pd.Series, decimal: Decimal) -> NDArray[np.float64]:
    thousands = "." if decimal == "," else ","
    bare = text.str.replace(_CLUTTER, "", regex=True).str.replace("−", "-", regex=False)
    negative = bare.str.match(r"^\(.*\)$|^.+-$")
    bare = bare.str.replace(r"^\((.*)\)$|^(.+)-$", r"\1\2", regex=True)
    mark, point = f"\\{thousands}", f"\\{decimal}"
    well_formed = bare.str.match(rf"^[-+]?(?:\d{{1,3}}(?:{mark}\d{{3}})+|\d*)(?:{point}\d*)?(?:[eE][-+]?\d+)?$")
    bare = bare.where(well_formed, "").str.replace(thousands, "", regex=False).str.replace(decimal, ".", regex=False)
    values = pd.to_numeric(bare, errors="coerce").to_numpy(dtype=np.float64)
    return np.where(negative.to_numpy(dtype=bool), -values, values)


def sampled(cells: pd.Series, size: int = 400) -> pd.Series:
    """Evenly spread non-empty cells as stripped text; some ``size`` of them, all if there are few."""
    spread = cells.iloc[:: max(1, len(cells) // (2 * size))]
    text = _filled(spread)
    return text if len(text) >= size // 2 or len(spread) == len(cells) else _filled(cells).iloc[:size]


def _filled(cells: pd.Series) -> pd.Series:
    text = _text(cells).str.strip()
    filled: pd.Series = text[~text.str.casefold().isin(_MISSING)]
    return filled


def mostly_numeric(cells: pd.Series) -> bool:
    """Whether most non-empty cells are numbers under either decimal mark; an empty column is not."""
    if pd.api.types.is_numeric_dtype(cells):
        return True
    if cells.dtype != object and not pd.api.types.is_string_dtype(cells):
        return False
    text = sampled(cells)
    if text.empty:
        return False
    good = ~parse_numbers(text, ".").unreadable | ~parse_numbers(text, ",").unreadable
    return bool(good.mean() > 0.5)


def parse_flags(cells: pd.Series, decimal: Decimal, *, blank_is_no: bool) -> NDArray[np.float64]:
    """A promotion, holiday or open column as numbers.

    Numbers stay numbers (a discount of 20 is 20). Text becomes 0 for a no, 1 for anything else. An empty cell is 0 if
    ``blank_is_no``, if the column has names or if it holds nothing but yes (an x marks the days); else unknown.
    """
    codes, distinct = _distinct(cells)
    return _flags_of_distinct(distinct.infer_objects(), decimal, blank_is_no)[codes]


def filled(cells: pd.Series) -> NDArray[np.bool_]:
    """[rows] whether a cell holds more than spaces."""
    if cells.dtype != object:
        return cells.notna().to_numpy()
    codes, distinct = _distinct(cells)
    return ((_text(distinct).str.strip() != "").to_numpy())[codes]


def _flags_of_distinct(cells: pd.Series, decimal: Decimal, blank_is_no: bool) -> NDArray[np.float64]:
    numbers = parse_numbers(cells, decimal)
    text = _text(cells).str.strip().str.casefold()
    blank = text.isin(_MISSING - {"none", "无"}).to_numpy()
    words = numbers.unreadable & ~blank
    values = np.where(words, np.where(text.isin(_NO), 0.0, 1.0), numbers.values)
    values = np.where(blank, np.nan, values)
    is_text = bool((words & ~text.isin(_YES | _NO).to_numpy()).any()) or not np.isfinite(numbers.values).any()
    only_yes = bool((values[np.isfinite(values)] == 1).all())
    if blank_is_no or is_text or only_yes:
        values = np.where(np.isnan(values), 0.0, values)
    return values
