"""The panel itself: regular, sorted, frozen; and its parts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import trend_common.panel
from trend_common.errors import DataError, UsageError
from trend_common.panel import SalesPanel, from_frame, read
from trend_common.panel.findings import CATALOGUE, Report
from trend_common.panel.model import series_id


@pytest.fixture(scope="module")
def panel() -> SalesPanel:
    rng = np.random.default_rng(3)
    parts = []
    for number, (store, product, first, length) in enumerate(
        [("north", "B", 0, 90), ("north", "A", 5, 70), ("south", "A", 30, 60), ("south", "C", 80, 10)]
    ):
        dates = pd.date_range("2024-01-01", periods=120)[first : first + length]
        part = pd.DataFrame(
            {"date": dates, "store": store, "product": product, "units": rng.poisson(5 + number, length) + 1.0}
        )
        part["promo"] = 0.0
        plan = pd.DataFrame(
            {"date": dates[-1] + pd.to_timedelta([1, 2], unit="D"), "store": store, "product": product, "promo": 1.0}
        )
        parts += [part, plan]
    return from_frame(pd.concat(parts), name="mine")


def test_every_series_is_a_sorted_regular_grid(panel: SalesPanel) -> None:
    assert panel.frame.columns.tolist() == ["unique_id", "ds", "y", "closed", "promo"]
    assert panel.frame.dtypes.astype(str).tolist() == ["object", "datetime64[ns]", "float64", "bool", "float64"]
    assert panel.ids == tuple(sorted(panel.ids)) == ("north/A", "north/B", "south/A", "south/C")
    for unique_id, rows in panel.frame.groupby("unique_id"):
        expected = pd.date_range(rows["ds"].iloc[0], rows["ds"].iloc[-1], freq=panel.offset)
        assert rows["ds"].tolist() == list(expected), unique_id
    assert panel.static.index.name == "unique_id"
    assert panel.n_series == 4
    assert (panel.start, panel.end) == (pd.Timestamp("2024-01-01"), pd.Timestamp("2024-03-30"))


def test_parts_are_new_frozen_panels(panel: SalesPanel) -> None:
    some = panel.select(["south/A", "north/B"])
    assert some.ids == ("north/B", "south/A")
    assert set(some.future["unique_id"]) == {"north/B", "south/A"}
    assert len(panel.frame) == 230
    with pytest.raises(dataclasses.FrozenInstanceError):
        some.name = "x"  # type: ignore[misc]
    with pytest.raises(UsageError, match="nobody"):
        panel.select(["nobody"])
    with pytest.raises(UsageError):
        panel.select([])


def test_stores_are_panels_of_their_own(panel: SalesPanel) -> None:
    stores = panel.split_by_store()
    assert list(stores) == ["north", "south"]
    assert stores["north"].name == "north"
    assert stores["south"].ids == ("south/A", "south/C")
    assert sum(len(part.frame) for part in stores.values()) == len(panel.frame)
    assert sum(len(part.future) for part in stores.values()) == len(panel.future)


def test_a_short_history_is_the_last_steps_before_the_panels_end(panel: SalesPanel) -> None:
    short = panel.last_steps(20)
    assert short.start == pd.Timestamp("2024-03-11")
    assert short.end == panel.end
    assert "north/A" in short.ids
    assert "north/A" not in panel.last_steps(3).ids
    with pytest.raises(UsageError):
        panel.last_steps(0)


def test_days_are_summed_to_whole_weeks_and_months() -> None:
    dates = pd.date_range("2024-01-03", "2024-04-10")
    frame = pd.DataFrame(
        {"date": dates, "units": 1.0, "price": np.where(dates.day <= 15, 1.0, 3.0), "promo": dates.day == 1}
    )
    weekly = from_frame(frame, freq="W")
    assert (weekly.offset, weekly.start, weekly.end) == (
        "W-SUN",
        pd.Timestamp("2024-01-14"),
        pd.Timestamp("2024-04-07"),
    )
    assert set(weekly.frame["y"]) == {7.0}
    monthly = from_frame(frame, freq="M")
    assert monthly.frame["ds"].dt.strftime("%Y-%m-%d").tolist() == ["2024-02-01", "2024-03-01"]
    assert monthly.frame["y"].tolist() == [29.0, 31.0]
    assert monthly.frame["price"].iloc[0] == pytest.approx((15 * 1 + 14 * 3) / 29)
    assert monthly.frame["promo"].iloc[1] == pytest.approx(1 / 31)


def test_a_week_with_an_unknown_day_is_unknown() -> None:
    dates = pd.date_range("2024-01-01", "2024-03-31").drop([pd.Timestamp("2024-02-07")])
    weekly = from_frame(pd.DataFrame({"date": dates, "units": 2.0}), freq="W")
    assert weekly.frame.loc[weekly.frame["y"].isna(), "ds"].tolist() == [pd.Timestamp("2024-02-11")]


def test_weeks_cannot_become_months_or_four_weeks_weeks() -> None:
    weeks = pd.date_range("2023-01-06", periods=60, freq="W-FRI")
    with pytest.raises(DataError, match="asks for months"):
        from_frame(pd.DataFrame({"date": weeks, "units": 2.0}), freq="M")
    with pytest.raises(DataError, match="quarterly"):
        from_frame(pd.DataFrame({"date": pd.date_range("2020-01-01", periods=12, freq="QS"), "units": 2.0}))
    with pytest.raises(UsageError, match="no frequency"):
        from_frame(pd.DataFrame({"date": weeks, "units": 2.0}), freq="H")  # type: ignore[arg-type]


def test_jittered_weeks_find_their_grid() -> None:
    weeks = pd.Series(pd.date_range("2023-01-06", periods=60, freq="W-FRI"))
    weeks[[10, 20, 30, 40, 50]] -= pd.Timedelta(days=1)
    panel = from_frame(pd.DataFrame({"date": weeks, "units": 2.0}))
    assert panel.offset == "W-FRI"
    assert panel.frame["y"].tolist() == [2.0] * 60
    assert [finding.count for finding in panel.findings if finding.code == "off_grid_dates"] == [5]


def test_long_tables_sum_equal_keys_and_floor_negatives() -> None:
    dates = list(pd.date_range("2024-01-01", periods=40))
    frame = pd.DataFrame({"date": [*dates, dates[0]], "units": [3.0] * 39 + [-2.0, 4.0], "returns": 0.0})
    panel = from_frame(frame)
    assert panel.frame["y"].iloc[0] == 7
    assert panel.frame[["y", "returns"]].iloc[-1].tolist() == [0, 2]
    assert {"duplicate_keys", "negative_units"} <= {finding.code for finding in panel.findings}


def test_the_period_cuts_both_ends(tmp_path: Path) -> None:
    path = tmp_path / "x.csv.gz"
    pd.DataFrame({"date": pd.date_range("2024-01-01", periods=60), "units": 1}).to_csv(path, index=False)
    panel = read(path, period=("2024-01-10", "2024-02-10"))
    assert (panel.start, panel.end, panel.name) == (pd.Timestamp("2024-01-10"), pd.Timestamp("2024-02-10"), "x")


def test_parquet_reads_as_its_csv(tmp_path: Path, panel: SalesPanel) -> None:
    frame = pd.DataFrame(
        {"date": pd.date_range("2024-01-01", periods=60), "sku": 7, "units": range(60), "promo": True}
    )
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_csv(tmp_path / "a.csv", index=False)
    left, right = read(tmp_path / "a.parquet"), read(tmp_path / "a.csv")
    pd.testing.assert_frame_equal(left.frame, right.frame)
    assert left.ids == ("all/7",)


def test_ids_are_unique_whatever_the_names() -> None:
    assert series_id("a/b", "c") != series_id("a", "b/c")
    assert series_id("a%2Fb", "c") != series_id("a/b", "c")


def test_problems_are_collected() -> None:
    report = Report()
    report.stop_if_blocked()
    report.problem("one", "do this")
    report.problem("two", "do that")
    with pytest.raises(DataError, match="2 things") as caught:
        report.stop_if_blocked()
    assert caught.value.hint == "What to do:\n1. do this\n2. do that"
    report.found("bad_dates", 0, "none")
    assert not report.findings


def test_the_packages_face() -> None:
    assert all(hasattr(trend_common.panel, name) for name in trend_common.panel.__all__)


def test_every_finding_is_documented() -> None:
    page = Path(__file__).parents[3] / "docs" / "data.md"
    text = page.read_text("utf-8")
    missing = [code for code in CATALOGUE if f"`{code}`" not in text]
    assert not missing, f"docs/data.md does not explain {missing}"
    sources = "".join(path.read_text("utf-8") for path in Path(trend_common.panel.__file__).parent.glob("*.py"))
    never = [code for code in CATALOGUE if sources.count(f'"{code}"') < 2 and not code.startswith("no_")]
    assert not never, f"never reported: {never}"
