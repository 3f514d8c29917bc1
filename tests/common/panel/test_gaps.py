"""A closed day, a missing day and a true zero are three different things."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from trend_common.panel import SalesPanel, from_frame
from trend_common.panel.calendar import easter_offset
from trend_common.panel.gaps import SeriesDays, closed_days


def table(dates: pd.DatetimeIndex, units: object = 5.0, **more: object) -> pd.DataFrame:
    return pd.DataFrame({"date": dates, "units": units, **more})


def at(panel: SalesPanel, day: str) -> dict[str, Any]:
    row = panel.frame[panel.frame["ds"] == day].iloc[0]
    return {str(column): row[column] for column in row.index}


def count(panel: SalesPanel, code: str) -> int:
    return sum(finding.count for finding in panel.findings if finding.code == code)


WEEKS_20 = pd.date_range("2024-01-01", "2024-05-19")


def test_a_weekday_without_any_row_is_closed() -> None:
    panel = from_frame(table(WEEKS_20[WEEKS_20.weekday != 6]))
    sundays = panel.frame[panel.frame["ds"].dt.weekday == 6]
    assert sundays["closed"].all()
    assert (sundays["y"] == 0).all()
    assert not panel.frame.loc[panel.frame["ds"].dt.weekday != 6, "closed"].any()
    assert count(panel, "closed_weekdays") == 19


def test_a_weekday_of_zero_rows_is_closed_too() -> None:
    panel = from_frame(table(WEEKS_20, np.where(WEEKS_20.weekday == 6, 0.0, 5.0)))
    assert panel.frame.loc[panel.frame["ds"].dt.weekday == 6, "closed"].all()
    assert panel.frame["y"].notna().all()


def test_an_isolated_hole_is_missing_and_not_zero() -> None:
    panel = from_frame(table(WEEKS_20.drop([pd.Timestamp("2024-02-14")])))
    assert np.isnan(at(panel, "2024-02-14")["y"])
    assert not at(panel, "2024-02-14")["closed"]
    assert count(panel, "missing_steps") == 1


def test_a_hole_in_a_series_with_zero_rows_is_missing() -> None:
    units = np.tile([0.0, 3.0, 0.0, 1.0], 35)
    rows = table(WEEKS_20, units).drop(index=range(10, 80, 2))
    panel = from_frame(rows)
    assert panel.frame["y"].isna().sum() == 35
    assert count(panel, "zero_filled") == 0


def test_a_zero_row_stays_a_true_zero() -> None:
    units = np.full(len(WEEKS_20), 5.0)
    units[44] = 0.0
    panel = from_frame(table(WEEKS_20, units))
    assert panel.frame["y"].iloc[44] == 0
    assert not panel.frame["closed"].any()


def test_a_rarely_sold_product_has_no_closed_weekday_by_chance() -> None:
    units = np.zeros(len(WEEKS_20))
    units[[3, 45, 100]] = 1.0
    assert not from_frame(table(WEEKS_20, units)).frame["closed"].any()


def test_a_sparse_series_without_zero_rows_lists_only_sales() -> None:
    panel = from_frame(table(WEEKS_20[::3], 2.0, product="A"))
    assert panel.frame["y"].isna().sum() == 0
    assert (panel.frame["y"] == 0).sum() == count(panel, "zero_filled") == 92
    assert panel.end == WEEKS_20[::3][-1]


def test_sales_only_series_run_to_the_exports_end_unless_they_stopped_long_before() -> None:
    long_gone = table(WEEKS_20[:60:3], 2.0, product="gone")
    recent = table(WEEKS_20[:-6:3], 2.0, product="recent")
    dense = table(WEEKS_20, 9.0, product="dense")
    panel = from_frame(pd.concat([long_gone, recent, dense]))
    ends = panel.frame.groupby("unique_id")["ds"].max()
    assert ends["all/recent"] == WEEKS_20[-1]
    assert ends["all/gone"] == WEEKS_20[57]


def test_a_long_break_of_a_sparse_series_is_missing() -> None:
    dates = WEEKS_20[::2].union(pd.date_range("2024-09-01", periods=60, freq="2D"))
    panel = from_frame(table(dates, 2.0))
    summer = panel.frame[panel.frame["ds"].between("2024-06-01", "2024-08-20")]
    assert summer["y"].isna().all()


def test_christmas_is_closed_after_two_years() -> None:
    dates = pd.date_range("2021-01-04", "2023-12-31")
    rows = dates[~((dates.month == 12) & (dates.day == 25)) & (dates != pd.Timestamp("2022-03-16"))]
    panel = from_frame(table(rows))
    assert panel.frame.loc[panel.frame["closed"], "ds"].dt.strftime("%m-%d").unique().tolist() == ["12-25"]
    assert np.isnan(at(panel, "2022-03-16")["y"])


def test_easter_monday_is_closed_although_its_date_moves() -> None:
    dates = pd.date_range("2021-01-04", "2023-12-31")
    mondays = pd.to_datetime(["2021-04-05", "2022-04-18", "2023-04-10"])
    panel = from_frame(table(dates.difference(mondays)))
    assert panel.frame.loc[panel.frame["closed"], "ds"].tolist() == list(mondays)


@pytest.mark.parametrize(
    ("year", "easter"), [(2000, "2000-04-23"), (2019, "2019-04-21"), (2024, "2024-03-31"), (2038, "2038-04-25")]
)
def test_easter_sundays(year: int, easter: str) -> None:
    dates = np.array([f"{year}-01-01", easter], dtype="datetime64[D]")
    assert easter_offset(dates).tolist()[1] == 0


def test_a_missing_week_is_unknown() -> None:
    weeks = pd.date_range("2023-01-06", periods=80, freq="W-FRI").delete([10, 40, 41])
    panel = from_frame(table(weeks))
    assert (panel.freq, panel.offset) == ("W", "W-FRI")
    assert panel.frame["y"].isna().sum() == count(panel, "missing_steps") == 3
    assert not panel.frame["closed"].any()


def test_an_open_column_closes_days() -> None:
    shut = WEEKS_20.day == 13
    panel = from_frame(table(WEEKS_20, np.where(shut, 0.0, 5.0), Open=np.where(shut, 0, 1)))
    assert panel.frame.loc[panel.frame["closed"], "ds"].dt.day.unique().tolist() == [13]
    assert count(panel, "closed_flag") == 5


def test_stock_outs_hide_demand_and_zero_prices_are_unknown() -> None:
    units = np.full(len(WEEKS_20), 5.0)
    units[[20, 30]] = 0.0
    stock = np.full(len(WEEKS_20), 9.0)
    stock[20] = 0.0
    price = np.full(len(WEEKS_20), 2.0)
    price[[0, 30]] = 0.0
    panel = from_frame(table(WEEKS_20, units, stock=stock, price=price))
    assert np.isnan(panel.frame["y"].iloc[20])
    assert panel.frame["y"].iloc[30] == 0
    assert np.isnan(panel.frame["price"].iloc[0])
    assert panel.frame["price"].iloc[30] == 2.0
    assert (count(panel, "stock_outs"), count(panel, "zero_prices")) == (1, 2)


def test_rows_after_the_last_sale_with_a_plan_are_the_future() -> None:
    units = np.full(len(WEEKS_20), 5.0)
    units[-10:] = np.nan
    promo: list[object] = [0] * (len(WEEKS_20) - 3) + [None] * 3
    panel = from_frame(table(WEEKS_20, units, promo=promo, price=[2.0] * (len(WEEKS_20) - 3) + [np.nan] * 3))
    assert panel.end == WEEKS_20[-11]
    assert panel.future["ds"].tolist() == list(WEEKS_20[-10:-3])
    assert list(panel.future.columns) == ["unique_id", "ds", "price", "promo"]
    assert (count(panel, "future_rows"), count(panel, "trailing_rows")) == (7, 3)


def test_any_word_in_a_holiday_column_is_a_holiday() -> None:
    words = ["", "0", "a", "Ostern", "no", "1"] * 20
    panel = from_frame(table(WEEKS_20[:120], 5.0, StateHoliday=words))
    assert panel.frame["holiday"].tolist() == [0, 0, 1, 1, 0, 1] * 20


def test_many_series_are_judged_in_blocks_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    n_series, length = 7, 400
    present = rng.random(n_series * length) < 0.97
    dates = np.tile(np.datetime64("2023-01-01") + np.arange(length), n_series)
    weekday = (dates.astype(np.int64) + 3) % 7
    present &= ~((weekday == 6) & (np.repeat(np.arange(n_series), length) % 2 == 0))
    days = SeriesDays(
        np.repeat(np.arange(n_series), length), dates, present, present, np.zeros_like(present), n_series
    )
    whole = closed_days(days)
    monkeypatch.setattr("trend_common.panel.gaps._BLOCK", 3)
    for left, right in zip(whole, closed_days(days), strict=True):
        np.testing.assert_array_equal(left, right)
    assert whole[0].any()


def test_a_date_that_came_twice_is_no_proof_for_a_product_that_sells_now_and_then() -> None:
    dates = pd.date_range("2022-12-05", "2023-12-05")
    units = (np.arange(len(dates)) % 2).astype(float)
    units[(dates.month == 12) & (dates.day == 5)] = 0.0
    assert not from_frame(table(dates, units)).frame["closed"].any()


def test_more_than_a_year_without_a_row_is_no_run_of_zeros() -> None:
    days = pd.to_datetime(["2021-01-01", "2021-08-01", "2022-03-01", "2023-06-01", "2023-09-01"])
    frame = from_frame(table(days), freq="D").frame.set_index("ds")
    assert frame.loc["2021-04-01", "y"] == 0
    assert frame.loc["2022-04-01":"2023-05-01", "y"].isna().all()


def test_a_fixed_frequency_is_kept_whatever_the_distances_say() -> None:
    panel = from_frame(table(pd.to_datetime(["2023-01-04", "2023-02-01"])), freq="D")
    assert (panel.offset, len(panel.frame)) == ("D", 29)
