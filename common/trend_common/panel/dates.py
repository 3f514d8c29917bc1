"""Dates as retailers write them, read by one rule per column.

Every *distinct* text is parsed once, by the first family of patterns that fits it. Whether ``03/04/2024`` is in March
or April is decided over the whole column: a part above 12 is a day.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_common.panel.findings import Report

__all__ = ["ParsedDates", "date_like", "parse_dates"]

_MONTHS: Final = {
    name: number
    for number, names in enumerate(
        (
            "jan januar january janeiro jän jänner janvier janv ene enero",
            "feb februar february fev fevereiro février fevrier févr fevr fév febrero",
            "mar march mär märz mrz maerz março marco mars marzo",
            "apr april abr abril avr avril",
            "may mai maio mayo",
            "jun june juni junho juin junio",
            "jul july juli julho juil juillet julio",
            "aug august ago agosto août aout",
            "sep sept september set setembro septembre septiembre setiembre",
            "oct october okt oktober out outubro octobre octubre",
            "nov november novembro novembre noviembre",
            "dec december dez dezember dezembro déc décembre decembre dic diciembre",
        ),
        1,
    )
    for name in names.split()
}
_WEEKDAY: Final = re.compile(
    r"^(?!dic)(?:mon|tue|wed|thu|fri|sat|sun|mo|di|mi|do|fr|sa|so|seg|ter|qua|qui|sex|sáb|sab|dom|lun|mardi|martes|mer|jeu|jue|ven|vie)"
    r"[a-zçáéãíóúâêô\-]*\.?,?\s+(?=\d)"
    r"|^(?:mon|tues|wednes|thurs|fri|satur|sun)day,?\s+|(?:星期|周)[一二三四五六日天]",
    re.IGNORECASE,
)
_TIME: Final = (
    r"(?:[T ,]+(?P<hour>\d{1,2})[:h](?P<minute>\d{2})(?::\d{2}(?:[.,]\d+)?)?\s*(?P<half>[AaPp])?(?:\.?[Mm]\.?)?"
    r"\s*(?:Uhr|Z|UTC|[+-]\d{2}:?\d{2})?)?"
)
_WORD: Final = r"(?P<word>[^\W\d_]{3,})"
# Family -> pattern; tried in this order.
_FAMILIES: Final = {
    "ymd": r"^(?P<y>\d{4})[-/.年](?P<m>\d{1,2})[-/.月](?P<d>\d{1,2})日?" + _TIME + "$",
    "numeric": r"^(?P<a>\d{1,2})(?P<mark>[-/.])(?P<b>\d{1,2})[-/.](?P<y>\d{4}|\d{2})" + _TIME + "$",
    "compact": r"^(?P<y>(?:19|20)\d{2})(?P<m>0[1-9]|1[0-2])(?P<d>0[1-9]|[12]\d|3[01])(?:\.0)?$",
    "day_word": r"^(?P<d>\d{1,2})(?:st|nd|rd|th|er)?[-./ ]*(?:de )?"
    + _WORD
    + r"\.?[-/., ]*(?:del? )?(?P<y>\d{4}|\d{2})"
    + _TIME
    + "$",
    "word_day": "^" + _WORD + r"\.? +(?P<d>\d{1,2})(?:st|nd|rd|th)?,? +(?P<y>\d{4})" + _TIME + "$",
    "year_month": r"^(?P<y>\d{4})(?:[-/.]|年)(?P<m>\d{1,2})月?$",
    "month_year": r"^(?P<m>\d{1,2})[-/.](?P<y>\d{4})$",
    "word_year": "^" + _WORD + r"\.?[-/., ]*(?:del? )?(?P<y>\d{4}|\d{2})$",
    "week": r"^(?P<y>\d{4})[-/ ]?(?:W|KW|S)[- ]?(?P<w>\d{1,2})$",
    "week_year": r"^(?:W|KW|Week|S|Sem|Semaine|Semana)[- ]?(?P<w>\d{1,2})[-/ ]+(?P<y>\d{4})$",
    "compact_month": r"^(?P<y>(?:19|20)\d{2})(?P<m>0[1-9]|1[0-2])(?:\.0)?$",
    "excel": r"^(?P<serial>[2-6]\d{4})(?:\.\d+)?$",
    "unix": r"^(?P<seconds>1\d{9})(?:\d{3})?(?:\.0)?$",
}
_PATTERNS: Final = {family: re.compile(pattern, re.IGNORECASE) for family, pattern in _FAMILIES.items()}
_MONTHLY: Final = frozenset({"year_month", "month_year", "word_year", "compact_month"})
_BARE: Final = frozenset({"excel", "unix", "compact_month"})
_YEARS: Final = (1950, 2100)
_ORDER_HINT: Final = (
    "Say which it is: --date-format '%d/%m/%Y' (day first) or --date-format '%m/%d/%Y' (month first)."
)


@dataclass(frozen=True)
class ParsedDates:
    """A column of dates.

    Attributes:
        days: [rows] datetime64[ns] at midnight, NaT where unreadable or empty.
        minutes: Distinct minutes past the hour that occur; (0,) or () without times of day.
        monthly: Whether the column names months, not days.
        unreadable: [rows] bool: not empty, yet no date.
    """

    days: pd.Series
    minutes: tuple[int, ...]
    monthly: bool
    unreadable: NDArray[np.bool_]


def date_like(text: str, *, bare: bool = False) -> bool:
    """Whether a text is a date on its face; ``bare`` admits numbers that only a date column explains (45292)."""
    cleaned = _WEEKDAY.sub("", text.strip()).strip()
    for family, pattern in _PATTERNS.items():
        hit = pattern.match(cleaned)
        if hit and (bare or family not in _BARE):
            groups = hit.groupdict()
            word = groups.get("word")
            if word is not None and word.casefold() not in _MONTHS:
                continue
            return "m" not in groups or 1 <= int(groups["m"]) <= 12
    return False


def parse_dates(
    cells: pd.Series, column: str, report: Report, *, date_format: str | None = None, day_first: bool = False
) -> ParsedDates:
    """Parse a column.

    Args:
        cells: [rows] text or datetimes.
        column: Its name, for messages.
        report: Where findings and problems go; an undecidable day-month order is a problem.
        date_format: strptime format that replaces all detection.
        day_first: Whether other facts of the file (header language, decimal comma) speak for day before month.
    """
    if pd.api.types.is_datetime64_any_dtype(cells):
        stamps = cells.dt.tz_localize(None) if getattr(cells.dt, "tz", None) is not None else cells
        given = stamps.notna().to_numpy()
        stamps = stamps.where(stamps.dt.year.between(*_YEARS))
        days = stamps.dt.normalize().astype("datetime64[ns]").reset_index(drop=True)
        minutes = (
            tuple(int(m) for m in np.unique(stamps.dropna().dt.minute))
            if (stamps.dropna() != stamps.dropna().dt.normalize()).any()
            else ()
        )
        return ParsedDates(days, minutes, False, given & days.isna().to_numpy())
    codes, distinct = pd.factorize(cells.fillna("").astype(str).str.strip())
    texts = pd.Series(distinct, dtype=object)
    if date_format is not None:
        parsed = pd.to_datetime(texts, format=date_format, errors="coerce")
        unique = _Unique(parsed.dt.normalize(), parsed.dropna().dt.minute.to_numpy(), False)
    else:
        unique = _by_family(texts, column, report, day_first)
    years = unique.days.dt.year
    days = unique.days.where(years.between(*_YEARS)).astype("datetime64[ns]")
    empty = (texts == "").to_numpy()
    rows = pd.Series(days.to_numpy()[codes])
    minutes = tuple(int(m) for m in np.unique(unique.minutes))
    return ParsedDates(rows, minutes, unique.monthly, (days.isna().to_numpy() & ~empty)[codes])


@dataclass(frozen=True)
class _Unique:
    days: pd.Series
    minutes: NDArray[np.integer]
    monthly: bool


def _by_family(texts: pd.Series, column: str, report: Report, day_first: bool) -> _Unique:
    cleaned = texts.str.replace(_WEEKDAY, "", regex=True).str.strip()
    days = pd.Series(pd.NaT, index=texts.index, dtype="datetime64[ns]")
    minutes: list[NDArray[np.integer]] = []
    counts: dict[str, int] = {}
    left = cleaned != ""
    for family, pattern in _PATTERNS.items():
        if not left.any():
            break
        parts = cleaned[left].str.extract(pattern)
        hit = parts[parts.notna().any(axis=1)]
        if hit.empty:
            continue
        found = _dates_of(family, hit, column, report, day_first)
        found = found[found.notna()]
        days[found.index] = found
        left[found.index] = False
        counts[family] = len(found)
        if "minute" in hit:
            minutes.append(hit["minute"].dropna().astype(int).to_numpy())
    report.found(
        "excel_dates",
        counts.get("excel", 0),
        f"{counts.get('excel', 0)} distinct dates in {column!r} are bare day counts.",
    )
    monthly = sum(counts.get(family, 0) for family in _MONTHLY) > 0.5 * max(1, sum(counts.values()))
    return _Unique(days, np.concatenate(minutes) if minutes else np.empty(0, dtype=int), monthly)


def _dates_of(family: str, parts: pd.DataFrame, column: str, report: Report, day_first: bool) -> pd.Series:
    """Dates of the texts that fit a family's pattern; NaT where the parts make no date."""
    if family == "excel":
        return pd.Timestamp("1899-12-30") + pd.to_timedelta(parts["serial"].astype(int), unit="D")
    if family == "unix":
        return pd.to_datetime(parts["seconds"].astype("int64"), unit="s").dt.normalize()
    year = parts["y"].astype(int)
    year = year.where(year >= 100, year + 1900 + 100 * (year < 70))
    year = year.where(year.between(*_YEARS))
    if "w" in parts:
        january_4th = pd.to_datetime({"year": year, "month": 1, "day": 4}, errors="coerce")
        monday = january_4th - pd.to_timedelta(january_4th.dt.weekday, unit="D")
        week = parts["w"].astype(int)
        return (monday + pd.to_timedelta(7 * (week - 1), unit="D")).where(week.between(1, 53))
    if family == "numeric":
        day, month = _order(parts, column, report, day_first)
    else:
        month = parts["word"].str.casefold().map(_MONTHS) if "word" in parts else parts["m"].astype(int)
        day = parts["d"].astype(int) if "d" in parts else pd.Series(1, index=parts.index)
    return pd.to_datetime({"year": year, "month": month, "day": day}, errors="coerce")


def _order(parts: pd.DataFrame, column: str, report: Report, day_first: bool) -> tuple[pd.Series, pd.Series]:
    """Which of two numbers is the day, over the whole column; returns (day, month)."""
    first, second = parts["a"].astype(int), parts["b"].astype(int)
    days_first, days_second = int((first > 12).sum()), int((second > 12).sum())
    example = (
        f"{parts['a'].iloc[0]}{parts['mark'].iloc[0]}{parts['b'].iloc[0]}{parts['mark'].iloc[0]}{parts['y'].iloc[0]}"
    )
    if days_first and days_second:
        # One stray value is a mistyped date; a real mixture cannot be read.
        if min(days_first, days_second) > 0.1 * (days_first + days_second):
            report.problem(
                f"The dates in {column!r} mix day-first and month-first: in {days_first} the first number is above "
                f"12, in {days_second} the second.",
                "Export the dates in one form, best as YYYY-MM-DD.",
            )
        return (first, second) if days_first > days_second else (second, first)
    if days_second:
        return second, first
    if not days_first and (first != second).any() and parts["mark"].iloc[0] != ".":
        if not day_first:
            report.problem(
                f"The dates in {column!r} can be read day first or month first (such as {example}): no part is "
                "above 12.",
                _ORDER_HINT,
            )
        else:
            report.found("date_order", len(parts), f"The dates in {column!r} (such as {example}) fit either order.")
    return first, second
