"""What a person plans for the coming days: it reaches the forecast, and whatever does not fit is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from trend_client.planned import with_future
from trend_common.errors import DataError
from trend_common.panel import SalesPanel, from_frame
from trend_common.scoring import next_origin

HORIZON = 5


def written(folder: Path, **columns: object) -> Path:
    path = folder / "plan.csv"
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def days(panel: SalesPanel, count: int = HORIZON) -> pd.DatetimeIndex:
    return pd.date_range(next_origin(panel), periods=count)


def plan_of(panel: SalesPanel, series: str, column: str) -> list[float]:
    mine = panel.future[panel.future["unique_id"] == series].set_index("ds")
    return mine[column].reindex(days(panel)).tolist()


def test_a_line_without_product_is_for_all_and_a_named_one_goes_before_it(panel: SalesPanel, tmp_path: Path) -> None:
    dates = days(panel)
    path = written(
        tmp_path,
        date=[*dates, dates[1], dates[2], dates[2]],
        product=[""] * 5 + ["p1", "p1", "p1"],
        store=[""] * 5 + ["", "", "s1"],
        promo=[0, 0, 0, 0, 0, 1, 0, 1],
    )
    planned, noted = with_future(panel, path, HORIZON)
    assert noted == ()
    assert plan_of(planned, "s0/p0", "promo") == [0, 0, 0, 0, 0]
    assert plan_of(planned, "s0/p1", "promo") == [0, 1, 0, 0, 0]
    assert plan_of(planned, "s1/p1", "promo") == [0, 1, 1, 0, 0]
    assert not len(panel.future), "the panel itself is left alone"


def test_prices_and_own_names_of_columns(sales: pd.DataFrame, tmp_path: Path) -> None:
    panel = from_frame(
        sales.rename(columns={"promo": "Aktion", "price": "VK"}), columns={"promo": "Aktion", "price": "VK"}
    )
    path = written(tmp_path, date=days(panel), Aktion=["ja", "nein", "", "ja", "nein"], VK=["1,5"] * 5)
    planned, noted = with_future(panel, path, HORIZON)
    assert plan_of(planned, panel.ids[0], "promo")[:2] == [1, 0]
    assert np.isnan(plan_of(planned, panel.ids[0], "promo")[2])
    assert plan_of(planned, panel.ids[0], "price") == [1.5] * 5
    assert len(noted) == 1
    assert "promo: unknown for 12 of 60" in noted[0]


def test_the_file_goes_before_what_the_sales_said(panel: SalesPanel, tmp_path: Path) -> None:
    known = pd.DataFrame({"unique_id": panel.ids[0], "ds": days(panel)[:2], "price": 1.0, "promo": 1.0})
    panel = replace(panel, future=known)
    planned, _ = with_future(panel, written(tmp_path, date=days(panel)[:1], promo=[0]), HORIZON)
    assert plan_of(planned, panel.ids[0], "promo")[:2] == [0, 1]
    assert plan_of(planned, panel.ids[0], "price")[:2] == [1, 1]


def test_dates_outside_are_told_and_left_out(panel: SalesPanel, tmp_path: Path) -> None:
    dates = pd.date_range(days(panel)[0] - pd.Timedelta(days=2), periods=10)
    planned, noted = with_future(panel, written(tmp_path, date=dates, promo=[1] * 10), HORIZON)
    assert planned.future["ds"].min() == days(panel)[0]
    assert planned.future["ds"].max() == days(panel)[-1]
    assert [line.split(" lines lie ")[0] for line in noted] == ["2", "3"]


def test_a_column_that_the_sales_lack_is_told(sales: pd.DataFrame, tmp_path: Path) -> None:
    panel = from_frame(sales.drop(columns="promo"))
    planned, noted = with_future(panel, written(tmp_path, date=days(panel), promo=[1] * 5), HORIZON)
    assert "promo: your sales file has no such column" in noted[0]
    assert "promo" not in planned.future.columns


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"product": ["p1", "p9", "p1", "p1", "p1"], "promo": [1] * 5}, r"line 3 names a product .*'p9'"),
        ({"store": ["s9"] * 5, "promo": [1] * 5}, r"names a store .*'s9' \(5 of 5"),
        ({"price": ["1", "2", "x", "4", "5"]}, r"line 4 has no usable number in column 'price'"),
        ({"price": [1, 2, 0, 4, 5]}, "no usable number"),
        ({"colour": ["red"] * 5}, "no column that can be known ahead"),
    ],
)
def test_what_does_not_fit_is_an_error(
    panel: SalesPanel, tmp_path: Path, columns: dict[str, list[object]], said: str
) -> None:
    with pytest.raises(DataError, match=said) as caught:
        with_future(panel, written(tmp_path, date=days(panel), **columns), HORIZON)
    assert caught.value.hint


def test_days_that_are_not_asked_for_or_not_on_the_calendar(sales: pd.DataFrame, tmp_path: Path) -> None:
    panel = from_frame(sales)
    with pytest.raises(DataError, match="says nothing of 2024-05-20 to 2024-05-24"):
        with_future(panel, written(tmp_path, date=["2023-01-01"], promo=[1]), HORIZON)
    with pytest.raises(DataError, match="line 2 has no date"):
        with_future(panel, written(tmp_path, date=["soon", "2024-05-21"], promo=[1, 1]), HORIZON)
    with pytest.raises(DataError, match="two things of 2024-05-20 for p1"):
        with_future(panel, written(tmp_path, date=["2024-05-20"] * 2, product=["p1"] * 2, promo=[1, 0]), HORIZON)
    weekly = sales.groupby(["store", "product", pd.Grouper(key="date", freq="W-SUN")])["units"].sum().reset_index()
    weeks = from_frame(weekly.assign(promo=0))
    day = next_origin(weeks) + pd.Timedelta(days=2)
    with pytest.raises(DataError, match="not on the calendar"):
        with_future(weeks, written(tmp_path, date=[day], promo=[1]), HORIZON)


def test_a_file_without_dates_names_its_columns(panel: SalesPanel, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column of dates; its columns are promo, product"):
        with_future(panel, written(tmp_path, promo=[1], product=["p1"]), HORIZON)
