"""Numbers with either decimal mark; nothing is read ten times too large in silence."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trend_common.panel.findings import Report
from trend_common.panel.numeric import Decimal, decimal_of, parse_flags, parse_numbers


def texts(*cells: str) -> pd.Series:
    return pd.Series(cells, dtype=object)


def decimal(*cells: str, separator: str = ",") -> Decimal:
    return decimal_of({"x": texts(*cells)}, separator, Report())["x"]


@pytest.mark.parametrize(
    ("text", "mark", "value"),
    [
        ("1234", ".", 1234),
        ("1,234.5", ".", 1234.5),
        ("1.234,5", ",", 1234.5),
        ("1.234.567", ",", 1234567),
        ("1 234,5", ",", 1234.5),
        ("1'234.50", ".", 1234.5),
        ("€ 3,20", ",", 3.2),
        ("R$ 1.003,20", ",", 1003.2),
        ("¥12.5", ".", 12.5),
        ("12 Stk", ".", 12),
        ("(5.5)", ".", -5.5),
        ("5-", ".", -5),
        ("−7", ".", -7),
        ("1e3", ".", 1000),
        (",5", ",", 0.5),
    ],
)
def test_forms(text: str, mark: Decimal, value: float) -> None:
    parsed = parse_numbers(texts(text), mark)
    assert parsed.values.tolist() == [value]
    assert not parsed.unreadable.any()


@pytest.mark.parametrize(
    ("text", "mark"), [("12.5", ","), ("1,23.4", "."), ("1.23.4", ","), ("abc", "."), ("12a", "."), ("inf", ".")]
)
def test_a_mark_in_the_wrong_place_is_an_error_and_not_another_number(text: str, mark: Decimal) -> None:
    parsed = parse_numbers(texts(text), mark)
    assert np.isnan(parsed.values[0])
    assert parsed.unreadable[0]


@pytest.mark.parametrize("text", ["", " ", "NA", "n/a", "NULL", "-", "#N/A", "无", "NaN", "None"])
def test_missing_marks_are_unknown_and_no_error(text: str) -> None:
    parsed = parse_numbers(texts(text, "1"))
    assert np.isnan(parsed.values[0])
    assert not parsed.unreadable.any()


def test_the_column_decides_its_decimal_mark() -> None:
    assert decimal("1,5", "2,25") == ","
    assert decimal("1.5", "2.25", separator=";") == "."
    assert decimal("1,234.50") == "."
    assert decimal("1.234,50") == ","
    assert decimal("1,234,567") == "."


def test_an_undecided_column_follows_the_others_then_the_separator_and_says_so() -> None:
    columns = {"price": texts("0,45"), "units": texts("1.234")}
    assert decimal_of(columns, ",", Report())["units"] == ","
    for separator, mark in ((";", ","), (",", ".")):
        report = Report()
        assert decimal_of({"units": texts("1.234", "2.500")}, separator, report)["units"] == mark
        assert [finding.code for finding in report.findings] == ["ambiguous_thousands"]


@given(st.lists(st.integers(-(10**9), 10**9).map(lambda cents: cents / 100), min_size=1, max_size=30))
def test_german_and_english_writing_are_read_alike(values: list[float]) -> None:
    english = [f"{value:,.2f}" for value in values]
    german = [text.translate(str.maketrans(",.", ".,")) for text in english]
    np.testing.assert_allclose(parse_numbers(texts(*english), decimal(*english)).values, values)
    np.testing.assert_allclose(parse_numbers(texts(*german), decimal(*german)).values, values)


def test_flags_in_words_numbers_and_crosses() -> None:
    def flags(*cells: str, blank_is_no: bool = False) -> list[float]:
        return [float(value) for value in parse_flags(texts(*cells), ".", blank_is_no=blank_is_no)]

    assert flags("ja", "nein", "Ja", "0") == [1, 0, 1, 0]
    assert flags("x", "", "X") == [1, 0, 1]
    assert flags("1", "", "1") == [1, 0, 1]
    assert flags("2 for 1", "", "TV") == [1, 0, 1]
    assert flags("20", "0", "5.5") == [20, 0, 5.5]
    np.testing.assert_array_equal(flags("1", "0", ""), [1, 0, np.nan])
    assert flags("a", "0", "", blank_is_no=True) == [1, 0, 0]
    assert flags("True", "False") == [1, 0]


def test_typed_columns_pass() -> None:
    assert parse_numbers(pd.Series([True, False])).values.tolist() == [1, 0]
    np.testing.assert_array_equal(parse_numbers(pd.Series([1, None], dtype="Int64")).values, [1, np.nan])
