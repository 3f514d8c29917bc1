"""A retailer's own columns: which are recognised, what of them is known ahead, and what is never used."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trend_common.errors import DataError
from trend_common.panel import SalesPanel, from_frame
from trend_common.panel.vocabulary import match, own_kind
from trend_common.scoring import panel_before, training_panel

DATES = pd.date_range("2024-01-01", periods=80)
MARKS = (np.arange(80) % 10 < 3).astype(float)
CURVE = 10 + 8 * np.sin(np.arange(80) / 9)


def table(**cells: object) -> pd.DataFrame:
    return pd.DataFrame({"date": DATES, "product": "p", "units": 5.0 + np.arange(80) % 7, **cells})


def load(columns: dict[str, str] | None = None, **cells: object) -> SalesPanel:
    return from_frame(table(**cells), columns=columns, freq="D")


def owns(panel: SalesPanel) -> dict[str, str]:
    return {role: name for role, name in panel.columns.items() if role.startswith("own")}


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("flyer", "flyer Handzettel Prospekt folheto 海报 in_flyer feature display"),
        ("school_holiday", "school_holiday SchoolHoliday Schulferien Ferien férias_escolares 寒暑假 ferien_hessen"),
        ("event", "event events event_name Veranstaltung special_event Ereignis"),
        ("weather", "temperature Temperatur temp_max temperature_c rain_mm Regen Niederschlag chuva 气温"),
    ],
)
def test_names(kind: str, names: str) -> None:
    for name in names.split():
        assert own_kind(name) == kind, name


def test_names_of_other_things() -> None:
    for name, role in {
        "customers": "customers", "StateHoliday": "holiday", "holiday": "holiday", "promo_flyer": "promo",
        "feature_price": "price", "节假日": "holiday", "weight": "other",
    }.items():  # fmt: skip
        hit = match(name)
        assert hit is not None
        assert (hit.role, own_kind(name)) == (role, None)
    assert own_kind("brain") is None


def test_plans_are_known_ahead_and_the_weather_is_not() -> None:
    panel = load(school_holiday=MARKS, temperature=CURVE)
    assert owns(panel) == {"own_1": "temperature", "own_2": "school_holiday"}, "a curve takes the first place"
    assert panel.own_ahead == ("own_2",)
    np.testing.assert_allclose(panel.frame["own_1"], CURVE)
    np.testing.assert_allclose(panel.frame["own_2"], MARKS)
    (said,) = (one.message for one in panel.findings if one.code == "own_columns")
    assert "'temperature' (its past alone), 'school_holiday' (known ahead)" in said


def test_a_feature_is_the_promotion_of_a_file_without_one() -> None:
    assert load(feature=MARKS).columns["promo"] == "feature"
    both = load(promo=0, feature=MARKS)
    assert (both.columns["promo"], owns(both)) == ("promo", {"own_1": "feature"})
    assert load(event=MARKS).columns["holiday"] == "event"
    assert owns(load(holiday=0, event=MARKS)) == {"own_1": "event"}
    assert owns(load(school_holiday=MARKS)) == {"own_1": "school_holiday"}, "weeks of holidays are no holiday"


def test_of_three_the_flyer_and_the_school_holiday_are_kept_and_the_third_is_named() -> None:
    panel = load(promo=0, event_flag=MARKS, school_holiday=MARKS, flyer=MARKS)
    assert owns(panel) == {"own_1": "flyer", "own_2": "school_holiday"}
    assert any("event_flag" in one.message for one in panel.findings if one.code == "unused_columns")


def test_a_person_says_which_and_whether_it_is_planned() -> None:
    panel = load({"own_1": "Kampagne_X", "ahead_2": "Plan"}, Kampagne_X=MARKS, Plan=MARKS, flyer=MARKS)
    assert owns(panel) == {"own_1": "Kampagne_X", "own_2": "Plan"}
    assert panel.own_ahead == ("own_2",), "nothing says that the first can be known before the day"
    assert load({"own_2": "flyer"}, flyer=MARKS).own_ahead == ("own_2",)
    assert owns(load({"own_1": "-", "own_2": "-"}, flyer=MARKS)) == {}


def test_customers_stay_out_and_are_never_known_ahead() -> None:
    assert owns(load(customers=CURVE)) == {}
    mapped = load({"own_1": "customers"}, customers=CURVE)
    assert (owns(mapped), mapped.own_ahead) == ({"own_1": "customers"}, ())
    for column in ("customers", "temperature"):
        with pytest.raises(DataError, match="not known before the day"):
            load({"ahead_1": column}, **{column: CURVE})
    with pytest.raises(DataError, match="one place"):
        load({"own_1": "a", "ahead_1": "b"}, a=MARKS, b=MARKS)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["Osterferien", "", "", "Ferien"], [1, 0, 0, 1]),
        (["ja", "nein", "", "ja"], [1, 0, 0, 1]),
        (["x", "", "", "x"], [1, 0, 0, 1]),
        (["1", "0", "", "1"], [1, 0, np.nan, 1]),
        (["12,5", "3", "", "-4"], [12.5, 3, np.nan, -4]),
        ([True, False, False, True], [1, 0, 0, 1]),
    ],
)
def test_marks_names_and_numbers_are_read(cells: list[object], expected: list[float]) -> None:
    panel = load(Schulferien=cells * 20)
    np.testing.assert_allclose(panel.frame["own_1"].head(4), expected)


def test_in_a_wide_table_they_are_no_products() -> None:
    wide = pd.DataFrame(
        {"date": DATES, "apples": 3.0, "pears": 4.0, "school_holiday": MARKS, "rain_mm": CURVE, "event": 1}
    )
    panel = from_frame(wide.assign(holiday=0, flyer=1), freq="D")
    assert panel.ids == ("all/apples", "all/pears")
    assert owns(panel) == {"own_1": "flyer", "own_2": "school_holiday"}
    assert panel.frame.groupby("unique_id")["own_2"].sum().tolist() == [MARKS.sum()] * 2


def test_weeks_hold_the_share_of_days() -> None:
    weekly = from_frame(table(school_holiday=MARKS, temperature=CURVE), freq="W")
    first = weekly.frame.iloc[0]
    assert first["own_2"] == pytest.approx(MARKS[:7].mean())
    assert first["own_1"] == pytest.approx(CURVE[:7].mean())


def test_an_announced_flyer_makes_a_future_row_and_a_forecast_of_the_weather_does_not() -> None:
    later = pd.DataFrame({"date": pd.date_range("2024-03-21", periods=5), "product": "p", "temperature": 12.0})
    flyer = later.assign(flyer=[np.nan, 1, 1, 0, np.nan])
    panel = from_frame(pd.concat([table(flyer=MARKS, temperature=CURVE), flyer]), freq="D")
    assert panel.columns["own_1"] == "temperature"
    assert panel.future["ds"].dt.day.tolist() == [22, 23, 24]
    assert panel.future["own_2"].tolist() == [1, 1, 0]
    assert "own_1" not in panel.future


@given(st.integers(30, 79))
@settings(max_examples=15, deadline=None)
def test_a_backtest_keeps_what_was_planned_after_the_origin_and_nothing_else(day: int) -> None:
    panel = load(flyer=MARKS, temperature=CURVE, promo=0)
    origin = DATES[day]
    known = panel_before(panel, origin)
    assert known.frame["ds"].max() < origin
    assert set(known.future) == {"unique_id", "ds", "promo", "own_2"}
    np.testing.assert_allclose(known.future["own_2"], MARKS[day:])
    kept = training_panel(panel, 5)
    assert "own_1" not in kept.future
    np.testing.assert_allclose(kept.future["own_2"], MARKS[-10:])


def test_only_past_columns_leave_no_future_at_all() -> None:
    panel = load(temperature=CURVE)
    assert panel_before(panel, DATES[50]).future.empty
    assert training_panel(panel, 5).future.empty
