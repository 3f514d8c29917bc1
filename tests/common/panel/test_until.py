"""The export's last day as a declared fact: what it decides, and what a slip says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from trend_common.errors import DataError
from trend_common.panel import SalesPanel, from_frame
from trend_common.scoring import actuals, next_origin, origins, panel_before
from trend_common.windows import PanelWindows


def days(first: str, last: str, **columns: object) -> pd.DataFrame:
    dates = pd.date_range(first, last)
    return pd.DataFrame({"date": dates, "product": "p", "units": 3.0 + dates.dayofweek, **columns})


def counts(panel: SalesPanel) -> dict[str, int]:
    return {finding.code: finding.count for finding in panel.findings}


def test_cuts_and_forecasts_are_counted_from_the_declared_day() -> None:
    panel = from_frame(days("2024-01-01", "2024-06-26"), freq="D", period=(None, "2024-06-30"))
    assert (panel.end, panel.until) == (pd.Timestamp("2024-06-26"), pd.Timestamp("2024-06-30"))
    assert panel.calendar_end == panel.until
    cut = origins(panel, 7)
    assert cut.test == pd.Timestamp("2024-06-24")
    assert next_origin(panel) == pd.Timestamp("2024-07-01")
    window = actuals(panel, cut.test, 7).y[0]
    assert (~pd.isna(window)).tolist() == [True] * 3 + [False] * 4
    assert PanelWindows(panel, context=28).n_steps == 182
    assert counts(panel)["declared_end"] == 4
    assert panel.last_steps(10).start == pd.Timestamp("2024-06-21")
    assert panel.select(panel.ids).until == panel.until


def test_what_was_known_before_an_origin_ends_before_it() -> None:
    panel = from_frame(days("2024-01-01", "2024-06-26"), freq="D", period=(None, "2024-06-30"))
    known = panel_before(panel, pd.Timestamp("2024-06-01"))
    assert known.until == known.calendar_end == pd.Timestamp("2024-05-31")
    undeclared = from_frame(days("2024-01-01", "2024-06-26"), freq="D")
    assert panel_before(undeclared, pd.Timestamp("2024-06-01")).until is None


def test_rows_after_it_are_dropped_and_plans_are_kept() -> None:
    sold = days("2024-01-01", "2024-06-30", promo=0.0)
    plan = days("2024-07-01", "2024-07-10", promo=1.0).assign(units=np.nan)
    panel = from_frame(pd.concat([sold, plan]), freq="D", period=("2024-02-01", "2024-06-20"))
    assert (panel.start, panel.end) == (pd.Timestamp("2024-02-01"), pd.Timestamp("2024-06-20"))
    assert counts(panel)["outside_period"] == 31 + 10
    assert panel.future["ds"].tolist() == list(pd.date_range("2024-07-01", "2024-07-10"))
    assert set(panel.future["promo"]) == {1.0}


def test_a_list_of_sales_alone_is_zero_up_to_it() -> None:
    sparse = days("2024-01-01", "2024-05-31").iloc[::3]
    ended = from_frame(sparse, freq="D")
    declared = from_frame(sparse, freq="D", period=(None, "2024-06-05"))
    assert ended.end == pd.Timestamp("2024-05-30")
    assert declared.end == pd.Timestamp("2024-06-05")
    assert declared.frame["y"].tail(6).tolist() == [0.0] * 6


@pytest.mark.parametrize(
    ("freq", "declared", "last"),
    [
        ("W", "2024-06-30", "2024-06-30"),  # a Sunday: the week is whole
        ("W", "2024-06-29", "2024-06-23"),
        ("M", "2024-06-30", "2024-06-01"),
        ("M", "2024-06-29", "2024-05-01"),
    ],
)
def test_days_that_are_summed_end_with_the_last_whole_step(freq: str, declared: str, last: str) -> None:
    panel = from_frame(days("2023-01-02", "2024-06-30"), freq=freq, period=(None, declared))  # type: ignore[arg-type]
    assert panel.until == panel.end == pd.Timestamp(last)


@pytest.mark.parametrize(
    ("declared", "last"), [("2024-06-28", "2024-06-28"), ("2024-07-03", "2024-06-28"), ("2024-06-27", "2024-06-21")]
)
def test_weekly_files_end_with_the_week_dated_no_later(declared: str, last: str) -> None:
    weeks = pd.DataFrame({"date": pd.date_range("2023-01-06", "2024-06-28", freq="W-FRI"), "units": 4.0})
    panel = from_frame(weeks, period=(None, declared))
    assert (panel.until, panel.end) == (pd.Timestamp(last), pd.Timestamp(last))


def test_a_row_that_moves_to_a_week_after_it_is_dropped_and_counted() -> None:
    dates = pd.date_range("2023-01-06", "2024-06-28", freq="W-FRI")
    weeks = pd.DataFrame({"date": [*dates[:-1], pd.Timestamp("2024-06-27")], "units": 4.0})
    panel = from_frame(weeks, period=(None, "2024-06-27"))
    assert panel.end == panel.until == pd.Timestamp("2024-06-21")
    assert counts(panel)["outside_period"] == 1


@pytest.mark.parametrize(
    ("period", "words"), [((None, "2034-06-30"), "days after"), ((None, "2014-06-30"), "No row")]
)
def test_a_mistyped_year_is_said(period: tuple[None, str], words: str) -> None:
    with pytest.raises(DataError, match=words):
        from_frame(days("2024-01-01", "2024-06-26"), freq="D", period=period)
