"""Names from a sales file never run in a spreadsheet."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trend_common.spreadsheet import safe_frame, safe_text


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\u00a0=1", "\ufeff=HYPERLINK()", "\n=1"]
)
def test_what_could_run_gets_an_apostrophe(text: str) -> None:
    assert safe_text(text) == f"'{text}"


@given(st.text(max_size=20))
def test_no_text_starts_as_a_formula(text: str) -> None:
    made = safe_text(text)
    assert made.lstrip(" \u00a0\ufeff\u200b")[:1] not in ("=", "+", "-", "@", "\t", "\r")
    assert made in (text, f"'{text}")


def test_a_table_keeps_its_numbers_and_its_other_names() -> None:
    frame = pd.DataFrame({"product": ["=cmd", "Brot", None, "=cmd"], "mean": [-1.0, 2.0, 3.0, 4.0], "=h": ["a"] * 4})
    made = safe_frame(frame)
    assert made["product"].tolist()[:2] == ["'=cmd", "Brot"]
    assert made["product"].isna().tolist() == [False, False, True, False]
    assert made["mean"].tolist() == frame["mean"].tolist()
    assert list(made.columns) == ["product", "mean", "'=h"]
    assert frame["product"].iloc[0] == "=cmd", "the table itself is left alone"
