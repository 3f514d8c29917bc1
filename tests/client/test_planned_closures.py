"""Doors in a plan: a person says on which days ahead a store is open, and the forecast of every command knows it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from trend_client.decisions.words import speaking
from trend_client.planned import planned, with_future
from trend_client.workplace import Workplace

CHRISTMAS = pd.date_range("2023-12-24", "2023-12-28")


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    """A shop that was closed for five days at Christmas, and whose file ends before the next one."""
    days = pd.date_range("2023-03-01", "2024-12-10")
    sales = pd.DataFrame({"date": days, "store": "s", "product": "p", "units": 5 + days.dayofweek})
    sales[~sales["date"].isin(CHRISTMAS)].to_csv(tmp_path / "sales.csv", index=False)
    return Workplace(tmp_path / "home", data=tmp_path / "sales.csv")


def shut(place: Workplace, plan: pd.DataFrame | None, folder: Path) -> list[str]:
    if plan is not None:
        plan.to_csv(folder / "plan.csv", index=False)
        place.future = folder / "plan.csv"
    found, _ = planned(place, place.panel(), 28)
    return sorted(str(day.date()) for day in found.shut.get("s", ()) if day <= pd.Timestamp("2025-01-07"))


def test_what_was_closed_last_year_is_closed_unless_the_plan_says_otherwise(place: Workplace, tmp_path: Path) -> None:
    usual = [f"2024-12-{day}" for day in range(24, 29)]
    assert shut(place, None, tmp_path) == usual
    opened = pd.DataFrame({"date": ["2024-12-27", "2024-12-12"], "open": ["yes", "no"]})
    assert shut(place, opened, tmp_path) == ["2024-12-12", *(day for day in usual if day != "2024-12-27")]
    closed = pd.DataFrame({"date": ["2024-12-13", "2024-12-24"], "closed": [1, 0]})
    assert shut(place, closed, tmp_path) == ["2024-12-13", *usual[1:]]


def test_doors_are_no_covariate(place: Workplace, tmp_path: Path) -> None:
    pd.DataFrame({"date": ["2024-12-12"], "open": [0]}).to_csv(tmp_path / "plan.csv", index=False)
    found, notes = with_future(place.panel(), tmp_path / "plan.csv", 28)
    assert notes == ()
    assert found.future.set_index("ds")["open"].to_dict() == {pd.Timestamp("2024-12-12"): 0.0}
    assert "open" not in found.known_ahead
    assert not np.isin("open", list(place.panel().future.columns))


def test_a_person_is_told_of_the_horizon_alone(place: Workplace) -> None:
    _, notes = planned(place, place.panel(), 28)
    assert notes == (
        "Expected to be closed, as planned or in earlier years: s, on 5 of these days, from 2024-12-24.",
    )
    found, notes = planned(place, place.panel(), 5)
    assert notes == ()
    assert found.shut["s"], "other commands look further"


@pytest.mark.parametrize("code", ["en", "zh"])
def test_a_person_is_told_of_weekdays_without_sales(tmp_path: Path, code: str) -> None:
    days = pd.date_range("2024-01-01", "2024-09-10")
    sales = pd.DataFrame({"date": days, "store": "s", "product": "p", "units": 5 + days.dayofweek})
    sales[days.dayofweek != 5].to_csv(tmp_path / "sales.csv", index=False)
    place = Workplace(tmp_path / "home", data=tmp_path / "sales.csv")
    with speaking(code):
        found, notes = planned(place, place.panel(), 14)
    assert found.shut["s"] >= {pd.Timestamp("2024-09-14"), pd.Timestamp("2024-09-21")}
    assert (
        notes
        == {
            "en": (
                "Expected to be closed on 2 of these days, from 2024-09-14, since nothing was sold on any Saturday "
                "of late: s. If you open then, say so in the plan (--future): a column open with 1.",
            ),
            "zh": (
                "近来星期六均无销售，预计其中 2 天停业，自 2024-09-14 起：s。"
                "如届时营业，请在计划（--future）中注明：open 列填 1。",
            ),
        }[code]
    )
    pd.DataFrame({"date": ["2024-09-14"], "open": [1]}).to_csv(tmp_path / "plan.csv", index=False)
    place.future = tmp_path / "plan.csv"
    found, notes = planned(place, place.panel(), 14)
    assert pd.Timestamp("2024-09-14") not in found.shut["s"]
    assert notes[-1].startswith("Expected to be closed on 1 of these days, from 2024-09-21")
