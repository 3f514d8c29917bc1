"""Dates in every usual form, each column read by one rule."""

from __future__ import annotations

import pandas as pd
import pytest

from trend_common.errors import DataError
from trend_common.panel.dates import ParsedDates, date_like, parse_dates
from trend_common.panel.findings import Report


def parse(*texts: str, day_first: bool = False, date_format: str | None = None) -> ParsedDates:
    report = Report()
    parsed = parse_dates(pd.Series(texts, dtype=object), "d", report, day_first=day_first, date_format=date_format)
    report.stop_if_blocked()
    return parsed


@pytest.mark.parametrize(
    "text",
    [
        "2024-01-31",
        "2024/1/31",
        "2024.01.31",
        "2024年1月31日",
        "20240131",
        "20240131.0",
        "31.01.2024",
        "31.1.24",
        "31/01/2024",
        "1/31/2024",
        "31-01-2024 13:45",
        "2024-01-31T13:45:10.5Z",
        "2024-01-31 23:30:00+01:00",
        "01/31/2024 11:30:00 PM",
        "31 Jan 2024",
        "31-Jan-24",
        "31. Januar 2024",
        "31 de janeiro de 2024",
        "January 31, 2024",
        "Jan 31st, 2024",
        "Mi, 31.01.2024",
        "Wednesday, January 31, 2024",
        "quarta-feira, 31/01/2024",
        "45322",
        "1706659200",
    ],
)
def test_one_day_in_many_forms(text: str) -> None:
    assert parse(text).days.tolist() == [pd.Timestamp("2024-01-31")]


@pytest.mark.parametrize(
    "text", ["2024-02", "02/2024", "2.2024", "Feb 2024", "Feb-24", "fevereiro/2024", "2024年2月", "202402"]
)
def test_one_month_in_many_forms(text: str) -> None:
    parsed = parse(text)
    assert parsed.days.tolist() == [pd.Timestamp("2024-02-01")]
    assert parsed.monthly


@pytest.mark.parametrize("text", ["2020-W53", "2020W53", "2020 KW53", "KW53 2020", "KW 53/2020"])
def test_iso_weeks_are_their_monday(text: str) -> None:
    assert parse(text).days.tolist() == [pd.Timestamp("2020-12-28")]


@pytest.mark.parametrize(
    "text", ["2024-02-30", "31.11.2024", "yesterday", "2024-13", "0204-01-01", "99999999", "12:30", "Foo 2024"]
)
def test_what_is_no_date_is_unreadable(text: str) -> None:
    parsed = parse("2024-01-01", text, "")
    assert parsed.days.isna().tolist() == [False, True, True]
    assert parsed.unreadable.tolist() == [False, True, False]


def test_a_part_above_twelve_decides_the_whole_column() -> None:
    assert parse("03/04/2024", "13/04/2024").days.dt.month.tolist() == [4, 4]
    assert parse("03/04/2024", "03/13/2024").days.dt.month.tolist() == [3, 3]


def test_an_undecidable_order_asks_for_the_format() -> None:
    with pytest.raises(DataError, match="day first or month first") as caught:
        parse("03/04/2024", "05/04/2024")
    assert "--date-format '%d/%m/%Y'" in caught.value.hint


def test_an_undecidable_order_is_settled_by_points_or_by_the_files_language() -> None:
    assert parse("03.04.2024", "05.04.2024").days.dt.month.tolist() == [4, 4]
    assert parse("03/04/2024", "05/04/2024", day_first=True).days.dt.month.tolist() == [4, 4]
    assert parse("03/04/2024", date_format="%m/%d/%Y").days.dt.month.tolist() == [3]


def test_one_mistyped_date_does_not_turn_the_column_around() -> None:
    good = [f"{day:02d}/05/2024" for day in range(13, 32)] * 20
    parsed = parse(*good, "05/13/2024")
    assert parsed.days.isna().sum() == 1
    assert parsed.unreadable[-1]


def test_times_are_cut_and_their_minutes_kept() -> None:
    assert parse("2024-01-31 13:45", "2024-01-31 14:10").minutes == (10, 45)
    assert parse("2024-01-31").minutes == ()


def test_typed_columns_pass() -> None:
    report = Report()
    stamps = pd.Series([pd.Timestamp("2024-01-31 22:30", tz="UTC"), pd.NaT])
    parsed = parse_dates(stamps, "d", report)
    assert parsed.days.tolist()[0] == pd.Timestamp("2024-01-31")
    assert parsed.minutes == (30,)


def test_bare_numbers_are_dates_only_in_a_date_column() -> None:
    assert not date_like("45322")
    assert date_like("45322", bare=True)
    assert not date_like("123.45")
    assert not date_like("1.5")
    assert not date_like("May be 2024")
