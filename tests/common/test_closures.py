"""Which days ahead a store is expected to be closed on, and what that does to forecasts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd

from trend_common.backbones import load_backbone
from trend_common.baselines import BASELINES, baseline_forecast
from trend_common.closures import expected_closures, weekly_closures, with_closures
from trend_common.panel import SalesPanel, from_frame
from trend_common.predicting import predict
from trend_common.scoring import next_origin
from trend_common.windows import PanelWindows

CHRISTMAS = pd.date_range("2023-12-24", "2024-01-03")
GAP = pd.date_range("2024-05-01", periods=56)


def shop(
    shut: Iterable[pd.Timestamp] = (), *, end: str = "2024-12-10", sundays: bool = True, **columns: object
) -> SalesPanel:
    """Three products of one store from March 2023 on, each of them sold on about half of all days."""
    rng = np.random.default_rng(0)
    days = pd.date_range("2023-03-01", end)
    rows = []
    for product in ("a", "b", "c"):
        units = rng.poisson(4, len(days)) * (rng.random(len(days)) < 0.5)
        rows.append(pd.DataFrame({"date": days, "store": "s", "product": product, "units": units, **columns}))
    rows.append(pd.DataFrame({"date": days, "store": "s", "product": "often", "units": 5}))
    table = pd.concat(rows)
    table = table[~table["date"].isin(list(shut))]
    return from_frame(table if sundays else table[table["date"].dt.weekday != 6], freq="D")


def expected(panel: SalesPanel, start: str, end: str, country: str | None = None) -> list[str]:
    found = expected_closures(panel, pd.date_range(start, end), country)
    return sorted(str(day.date()) for days in found.values() for day in days)


def test_a_christmas_break_is_expected_again_and_nothing_else() -> None:
    found = expected(shop(CHRISTMAS), "2024-12-11", "2025-02-28")
    assert found == [str(day.date()) for day in pd.date_range("2024-12-24", "2025-01-03")]
    assert expected(shop(), "2024-12-11", "2025-02-28") == []


def test_a_break_that_no_holiday_touches_is_not_expected_again() -> None:
    may = pd.date_range("2023-05-08", "2023-05-12")
    assert expected(shop(may, end="2024-04-30"), "2024-05-01", "2024-06-30") == []


def test_a_gap_of_the_export_is_no_break() -> None:
    assert expected(shop(pd.date_range("2023-12-10", "2024-01-20")), "2024-12-11", "2025-01-31") == []


def test_easter_moves() -> None:
    monday = [pd.Timestamp("2023-04-10"), pd.Timestamp("2024-04-01")]
    assert expected(shop(monday), "2025-03-01", "2025-05-31") == ["2025-04-21"]
    assert expected(shop(monday[:1]), "2025-03-01", "2025-05-31") == [], "it was open in the second year"


def test_public_holidays_go_by_their_name() -> None:
    late_may = [pd.Timestamp("2023-05-29"), pd.Timestamp("2024-05-27")]
    assert expected(shop(late_may), "2025-05-01", "2025-06-30") == []
    assert expected(shop(late_may), "2025-05-01", "2025-06-30", "GB") == ["2025-05-26"]
    assert expected(shop(late_may), "2025-05-01", "2025-06-30", "XX") == []


def test_the_holiday_column_counts_where_the_store_was_closed_on_such_days() -> None:
    marked = pd.to_datetime(["2023-06-14", "2023-09-20", "2024-02-07", "2024-07-10"])
    coming = pd.Timestamp("2024-12-18")

    def panel(shut: Iterable[pd.Timestamp]) -> SalesPanel:
        """The column is there on closed days, too: they have rows without sales."""
        days = pd.date_range("2023-03-01", "2024-12-10")
        closed = days.isin(list(shut))
        table = pd.DataFrame({"date": days, "store": "s", "product": "p", "units": np.where(closed, 0, 5)})
        table["holiday"] = days.isin(marked).astype(int)
        made = from_frame(table, freq="D")
        ahead = pd.DataFrame({"unique_id": "s/p", "ds": [coming], "holiday": [1.0]})
        return replace(made, future=ahead)

    assert expected(panel(marked), "2024-12-11", "2024-12-31") == ["2024-12-18"]
    assert expected(panel(marked[:2]), "2024-12-11", "2024-12-31") == []


def test_a_plan_goes_before_what_is_expected() -> None:
    made = shop(CHRISTMAS)
    ids = made.ids
    plan = pd.DataFrame({"unique_id": ids[0], "ds": pd.to_datetime(["2024-12-27", "2024-12-12"]), "open": [1.0, 0.0]})
    found = expected(replace(made, future=plan), "2024-12-11", "2024-12-31")
    assert "2024-12-27" not in found
    assert "2024-12-12" in found
    assert "2024-12-26" in found


def test_weeks_have_no_closed_days() -> None:
    weeks = pd.date_range("2023-01-01", periods=100, freq="W-SUN")
    panel = from_frame(pd.DataFrame({"date": weeks, "store": "s", "product": "p", "units": 5.0}), freq="W")
    assert with_closures(panel, 8) is panel


def test_no_method_sells_on_a_day_on_which_the_store_is_closed() -> None:
    panel = with_closures(shop(CHRISTMAS), 28)
    start = next_origin(panel)
    made = baseline_forecast(BASELINES, panel, start, 28)
    windows = PanelWindows(panel, context=252, ahead=28)
    made["zero-shot"] = predict(load_backbone("trend-small"), windows, origin=windows.step_of(start), horizon=28)
    for name, forecast in made.items():
        closed = np.isin(forecast.ds[0], CHRISTMAS.to_numpy() + np.timedelta64(366, "D"))
        assert closed.sum() == 11
        assert forecast.quantiles[:, closed].max() == 0, name
        assert forecast.mean[:, closed].max() == 0, name
        often = forecast.select(["s/often"])
        assert (often.mean[0, ~closed] > 1).all(), name


def test_only_what_lies_within_reach_is_looked_at() -> None:
    assert not with_closures(shop(CHRISTMAS), 5).shut
    assert with_closures(shop(CHRISTMAS), 60).shut


def week_shop(stores: dict[str, tuple[str, str, Iterable[int], float]]) -> SalesPanel:
    """Stores by name: first and last day, weekdays never open, share of days on which each product is sold.

    Three products a store, so that a store sells on more days than each of them.
    """
    rng = np.random.default_rng(1)
    rows = []
    for name, (first, last, never, share) in stores.items():
        days = pd.date_range(first, last)
        days = days[~days.weekday.isin(list(never))]
        for product in ("a", "b", "c"):
            units = rng.poisson(4, len(days)) * (rng.random(len(days)) < share)
            rows.append(pd.DataFrame({"date": days, "store": name, "product": product, "units": units}))
    return from_frame(pd.concat(rows), freq="D")


def weekdays_of(panel: SalesPanel, start: str, end: str) -> dict[str, set[str]]:
    found = weekly_closures(panel, pd.date_range(start, end))
    return {name: {day.day_name() for day in days} for name, days in found.items()}


def without(panel: SalesPanel, days: Iterable[pd.Timestamp]) -> SalesPanel:
    """Nothing sold on these days."""
    return replace(
        panel, frame=panel.frame.assign(y=panel.frame["y"].where(~panel.frame["ds"].isin(list(days)), 0.0))
    )


def test_a_weekday_without_any_sale_is_expected_closed_and_no_other() -> None:
    panel = week_shop({"s": ("2024-01-01", "2024-09-10", (5,), 0.6)})
    assert expected(panel, "2024-09-11", "2024-10-08") == ["2024-09-14", "2024-09-21", "2024-09-28", "2024-10-05"]
    assert weekdays_of(panel, "2024-09-11", "2024-10-08") == {"s": {"Saturday"}}
    assert (
        weekly_closures(
            week_shop({"s": ("2024-01-01", "2024-09-10", (), 0.6)}), pd.date_range("2024-09-11", periods=28)
        )
        == {}
    )


def test_a_plan_opens_a_weekday_that_is_expected_closed() -> None:
    panel = week_shop({"s": ("2024-01-01", "2024-09-10", (5,), 0.6)})
    plan = pd.DataFrame({"unique_id": panel.ids[0], "ds": pd.to_datetime(["2024-09-14"]), "open": [1.0]})
    assert expected(replace(panel, future=plan), "2024-09-11", "2024-09-25") == ["2024-09-21"]


def test_half_a_year_says_it_where_no_earlier_year_is_known_but_not_of_december() -> None:
    short = week_shop({"s": ("2024-04-01", "2024-09-10", (6,), 0.9)})
    assert weekdays_of(short, "2024-09-11", "2024-10-08") == {}
    longer = week_shop({"s": ("2024-03-01", "2024-09-10", (6,), 0.9)})
    days = weekly_closures(longer, pd.date_range("2024-09-11", "2025-01-31"))["s"]
    assert sorted({day.month for day in days}) == [1, 9, 10, 11]


def test_eight_weeks_say_it_where_the_same_time_of_an_earlier_year_agrees() -> None:
    """Open on Sundays from March to October, in two summers."""
    panel = week_shop({"s": ("2022-12-01", "2024-12-31", (), 0.9)})
    sundays = panel.frame.loc[panel.frame["ds"].dt.weekday == 6, "ds"].drop_duplicates()
    panel = without(panel, sundays[sundays.dt.month.isin([11, 12, 1, 2])])
    days = sorted(weekly_closures(panel, pd.date_range("2025-01-01", "2025-06-30"))["s"])
    assert (str(days[0].date()), str(days[-1].date())) == ("2025-01-05", "2025-02-16"), "not near the first open ones"
    summer = replace(panel, frame=panel.frame[panel.frame["ds"] < "2024-07-01"])
    assert weekdays_of(summer, "2024-07-01", "2024-07-28") == {}, "open in summer"
    lately = replace(panel, frame=panel.frame[panel.frame["ds"] < "2024-12-15"])
    assert weekdays_of(lately, "2024-12-15", "2025-01-11") == {}, "six weeks alone could be anything"
    first = replace(panel, frame=panel.frame[panel.frame["ds"].between("2023-11-01", "2024-02-28")])
    assert weekdays_of(first, "2024-02-29", "2024-03-27") == {}, "a first winter says nothing of March"


def test_a_weekday_on_which_the_store_has_opened_lately_is_open() -> None:
    panel = week_shop({"s": ("2023-01-01", "2024-09-10", (), 0.9)})
    sundays = panel.frame.loc[panel.frame["ds"].dt.weekday == 6, "ds"].drop_duplicates()
    panel = without(panel, sundays[sundays != "2024-09-01"])
    assert weekdays_of(panel, "2024-09-11", "2024-10-08") == {}
    assert weekdays_of(without(panel, sundays), "2024-09-11", "2024-10-08") == {"s": {"Sunday"}}


def test_a_store_that_closed_a_weekday_lately_is_not_expected_closed_while_last_year_says_open() -> None:
    panel = week_shop({"s": ("2023-01-01", "2024-09-10", (), 0.9)})
    mondays = panel.frame.loc[panel.frame["ds"].dt.weekday == 0, "ds"].drop_duplicates()
    assert weekdays_of(without(panel, mondays[mondays > "2024-05-01"]), "2024-09-11", "2024-10-08") == {}


def test_what_a_small_store_cannot_tell_all_stores_together_can() -> None:
    small = {"small": ("2024-01-01", "2024-09-10", (5,), 0.1)}
    others = {"big": ("2024-01-01", "2024-09-10", (5,), 0.9), "new": ("2024-08-20", "2024-09-10", (5,), 0.9)}
    assert weekdays_of(week_shop(small), "2024-09-11", "2024-10-08") == {}
    together = weekdays_of(week_shop(small | others), "2024-09-11", "2024-10-08")
    assert together == {name: {"Saturday"} for name in ("small", "big", "new")}
    open_one = {"open": ("2024-01-01", "2024-09-10", (), 0.9)}
    assert weekdays_of(week_shop(small | others | open_one), "2024-09-11", "2024-10-08") == {"big": {"Saturday"}}


def test_gaps_say_nothing_of_a_weekday() -> None:
    """Ten weeks without rows at the end of one store's export, and eight in the middle of another's."""
    panel = week_shop({"s": ("2024-01-01", "2024-09-10", (), 0.9), "t": ("2024-01-01", "2024-06-29", (5,), 0.9)})
    assert weekdays_of(panel, "2024-09-11", "2024-10-08") == {}, "25 weeks of t, whatever came after"
    middle = week_shop({"s": ("2024-01-01", "2024-09-10", (6,), 0.9)})
    assert weekdays_of(without(middle, GAP), "2024-09-11", "2024-10-08") == {"s": {"Sunday"}}, "28 weeks with sales"
    later = replace(middle, frame=middle.frame[middle.frame["ds"] > "2024-01-31"])
    assert weekdays_of(later, "2024-09-11", "2024-10-08") == {"s": {"Sunday"}}, "31 weeks"
    assert weekdays_of(without(later, GAP[:42]), "2024-09-11", "2024-10-08") == {}, "25 weeks with sales"
