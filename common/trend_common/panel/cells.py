"""From raw cells to dates, numbers and names; rows that cannot be used are dropped and counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_common.panel.dates import parse_dates
from trend_common.panel.findings import Report
from trend_common.panel.model import KNOWN_AHEAD, OWN
from trend_common.panel.numeric import Decimal, decimal_of, filled, mostly_numeric, parse_flags, parse_numbers
from trend_common.panel.vocabulary import known_role, plain

__all__ = ["Cells", "clean_key", "parse_cells"]

CONSTANT: Final = "all"
"""The name of the one store or product of a file that names none."""

_MOST_UNREADABLE: Final = 0.2
_FLAGS: Final = ("promo", "holiday", "open", "closed")
_TEXTS: Final = ("category", "description", "order")
_DAY_FIRST: Final = (
    *("datum", "data", "menge", "umsatz", "preis", "filiale", "artikel", "absatz", "produto"),
    *("preco", "loja", "venda", "magasin", "boutique", "produit", "quantite", "prix", "vente"),
    *("jour", "designation", "libelle", "fecha", "tienda", "producto", "cantidad", "precio", "venta"),
    *("unidades", "articulo"),
)


@dataclass(frozen=True)
class Cells:
    """The rows of a file with their meaning.

    Attributes:
        rows: ``store, product`` (str), ``ds`` (datetime64, midnight), ``y`` (float64), every other role the file has,
            ``line`` (position in the source), ``ahead`` (bool: the row states a known-ahead value).
        minutes: Distinct minutes past the hour of the dates' times.
        monthly: Whether dates name months.
        has_ids: Whether ``unique_id`` came with the file.
    """

    rows: pd.DataFrame
    minutes: tuple[int, ...]
    monthly: bool
    has_ids: bool


def parse_cells(
    long: pd.DataFrame,
    columns: Mapping[str, str],
    report: Report,
    *,
    separator: str = "",
    date_format: str | None = None,
    decimal: Decimal | None = None,
    own_ahead: Sequence[str] = (),
) -> Cells:
    """Parse every role's cells. Problems (unreadable dates, undecidable order) are collected in ``report``.

    ``own_ahead`` names the own columns that can be known before the day.
    """
    numeric = [role for role in ("units", "price", "promo", "stock", "returns", *OWN) if role in long]
    marks: dict[str, Decimal] = (
        dict.fromkeys(numeric, decimal)
        if decimal
        else decimal_of({role: long[role] for role in numeric}, separator, report)
    )
    western = _is_day_first(columns) or "," in marks.values()
    date_name = columns.get("date", "the dates")
    dates = parse_dates(long["date"], date_name, report, date_format=date_format, day_first=western)
    rows = pd.DataFrame({"ds": dates.days})
    rows["line"] = np.arange(len(rows))
    _numbers(rows, long, marks, columns, report, own_ahead)
    for role in _TEXTS:
        if role in long:
            rows[role] = clean_key(long[role])
    padded = 0
    for role in ("store", "product", "unique_id"):
        if role in long:
            rows[role] = clean_key(long[role])
            if long[role].dtype == object:
                padded += int((long[role].to_numpy() != rows[role].to_numpy())[filled(long[role])].sum())
    report.found(
        "padded_text", padded, f"{padded} store or product name(s) have spaces around or inside them to spare."
    )
    _formula_names(rows, report)
    keep = _usable(rows, long, dates.unreadable, date_name, report)
    rows = rows[keep].reset_index(drop=True) if not keep.all() else rows
    _constants(rows, report)
    return Cells(rows, dates.minutes, dates.monthly, "unique_id" in rows)


def clean_key(cells: pd.Series) -> pd.Series:
    """Names without spaces around them, single spaces inside, and without Excel's ``.0`` behind whole numbers.

    Control characters (they can steer a terminal) go, and so does the wrapping of Excel's ``="00123"``.
    """
    codes, distinct = pd.factorize(cells.astype(object).where(cells.notna(), ""))
    text = (
        pd.Series(distinct, dtype=object).astype(str).str.replace(r"[\s\u00a0\u3000]+", " ", regex=True).str.strip()
    )
    text = text.str.replace(r"[\x00-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069\ufeff]", "", regex=True)
    text = text.str.replace(r"^(\d+)\.0$", r"\1", regex=True).str.replace(r'^="([^"]*)"$', r"\1", regex=True)
    return pd.Series(text.to_numpy(dtype=object)[codes])


def _formula_names(rows: pd.DataFrame, report: Report) -> None:
    """Names that a spreadsheet would compute; plain negative numbers are none."""
    names: set[str] = set()
    for role in ("store", "product", "unique_id", "category", "description"):
        if role in rows:
            distinct = pd.Series(rows[role].unique(), dtype=object).astype(str)
            names.update(distinct[distinct.str.match(r"[=+\-@](?![\d.,\s]*$)")])
    report.found(
        "formula_names", len(names), f"{len(names)} name(s) begin like a formula, such as {min(names, default='')!r}."
    )


def _is_day_first(columns: Mapping[str, str]) -> bool:
    """Whether the headers are German, French, Spanish or Portuguese: there, day comes before month."""
    words = {plain(name) for name in columns.values()}
    return any(word.startswith(_DAY_FIRST) for word in words)


def _numbers(
    rows: pd.DataFrame,
    long: pd.DataFrame,
    marks: Mapping[str, Decimal],
    columns: Mapping[str, str],
    report: Report,
    own_ahead: Sequence[str],
) -> None:
    ahead = np.zeros(len(long), dtype=bool)
    for role in (*KNOWN_AHEAD, *own_ahead):
        if role in long:
            ahead |= filled(long[role])
    rows["ahead"] = ahead
    unreadable: dict[str, int] = {}
    # A column of one's own may hold numbers, marks or names (of a holiday, of an event): a name counts as yes.
    words = [role for role in OWN if role in long and not mostly_numeric(long[role])]
    for role in words:
        rows[role] = parse_flags(long[role], marks.get(role, "."), blank_is_no=True)
    for role in ("units", "price", "stock", "returns", *OWN):
        if role not in long or role in words:
            continue
        parsed = parse_numbers(long[role], marks.get(role, "."))
        rows["y" if role == "units" else role] = parsed.values
        bad = int(parsed.unreadable.sum())
        total = bad + int(np.isfinite(parsed.values).sum())
        if role == "units" and bad > max(1, _MOST_UNREADABLE * total):
            example = str(long[role][parsed.unreadable].iloc[0])
            report.problem(
                f"{bad} of {total} cells of the units in {columns.get('units', role)!r} are not numbers "
                f"(such as {example!r}).",
                "Name another column: --columns units=NAME; or the decimal mark: --decimal ',' or --decimal '.'.",
            )
        elif bad:
            unreadable[columns.get(role, role)] = bad
    report.found("bad_numbers", sum(unreadable.values()), f"Cells that are not numbers: {_counted(unreadable)}.")
    for role in _FLAGS:
        if role in long:
            rows[role] = parse_flags(long[role], marks.get(role, "."), blank_is_no=role == "holiday")
    if "holiday" in rows:
        rows["holiday"] = (rows["holiday"] > 0).astype(np.float64)
    if "closed" in rows:
        shut = rows.pop("closed")
        rows["open"] = (
            np.where(shut.isna(), np.nan, (shut == 0).astype(np.float64)) if "open" not in rows else rows["open"]
        )


def _usable(
    rows: pd.DataFrame, long: pd.DataFrame, unreadable: NDArray[np.bool_], date_name: str, report: Report
) -> NDArray[np.bool_]:
    """Which rows have a date and names; lines of totals are told apart from mistakes."""
    no_date = rows["ds"].isna().to_numpy()
    total = np.zeros(len(rows), dtype=bool)
    for role in ("store", "product"):
        if role in rows:
            codes, distinct = pd.factorize(rows[role])
            total |= np.array([known_role(str(name)) == "total" for name in distinct], dtype=bool)[codes]
    if no_date.any():
        texts = long["date"][no_date].astype(str).str.strip().str.rstrip(":")
        total[no_date] |= texts.map(_is_total).to_numpy()
    report.found("total_lines", int(total.sum()), f"{int(total.sum())} line(s) are totals.")
    bad = no_date & ~total
    if bad.sum() > max(1, _MOST_UNREADABLE * len(rows)):
        examples = long["date"][unreadable].astype(str).unique()[:3]
        shown = ", ".join(map(repr, examples)) if len(examples) else "empty cells"
        report.problem(
            f"{int(bad.sum())} of {len(rows)} dates in {date_name!r} cannot be read (such as {shown}).",
            "Write them as YYYY-MM-DD, or name their form: --date-format '%d.%m.%Y'.",
        )
    else:
        report.found("bad_dates", int(bad.sum()), f"{int(bad.sum())} row(s) have no readable date.")
    blank = np.zeros(len(rows), dtype=bool)
    for role in ("store", "product", "unique_id"):
        if role in rows:
            blank |= (rows[role] == "").to_numpy()
    blank &= ~no_date & ~total
    if blank.sum() > 0.5 * len(rows):
        report.problem(
            f"{int(blank.sum())} of {len(rows)} rows have no store or no product.",
            "If a name stands only on the first line of each block, fill it down; or leave the column out: "
            "--columns store=-.",
        )
    else:
        report.found("blank_keys", int(blank.sum()), f"{int(blank.sum())} row(s) have no store or no product.")
    keep: NDArray[np.bool_] = ~(no_date | total | blank)
    return keep


def _is_total(text: str) -> bool:
    return bool(text) and "total" in (known_role(text), known_role(text.split(" ")[0]))


def _constants(rows: pd.DataFrame, report: Report) -> None:
    if "unique_id" in rows:
        return
    for role in ("store", "product"):
        if role not in rows:
            rows[role] = CONSTANT
            report.found(f"no_{role}", 1, f"There is no {role} column.")


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} in {name!r}" for name, count in counts.items())
