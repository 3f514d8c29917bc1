"""Contributions add up and mean what they say; what-ifs, similar periods and unusual days."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from trend_client.engine import Engine
from trend_client.why.anomalies import anomalies, outside
from trend_client.why.contributions import GROUPS, Contributions, contributions, occluded, shapley
from trend_client.why.scenario import price_range, with_plan
from trend_client.why.similar import similar_periods
from trend_common.baselines import baseline_forecast
from trend_common.covariates import INDEX, N_CALENDAR
from trend_common.errors import UsageError
from trend_common.forecasts import Forecast
from trend_common.panel import SalesPanel, from_frame
from trend_common.scoring import next_origin, panel_before
from trend_common.windows import PanelWindows


@given(st.lists(st.floats(-100, 100), min_size=8, max_size=8))
def test_shapley_is_the_mean_over_all_orders(values: list[float]) -> None:
    found = shapley(np.array(values))
    expected = np.zeros(3)
    for order in permutations(range(3)):
        seen = 0
        for player in order:
            expected[player] += (values[seen | 1 << player] - values[seen]) / 6
            seen |= 1 << player
    assert found == pytest.approx(expected, abs=1e-9)
    assert found.sum() == pytest.approx(values[-1] - values[0], abs=1e-9)


def test_parts_that_miss_the_forecast_are_refused() -> None:
    ds = np.array(["2024-01-01"], dtype="datetime64[ns]")
    Contributions(("a",), ds, np.array([[1.0]]), np.ones((1, 6, 1)), np.array([[7.0]]))
    with pytest.raises(ValueError, match="miss the forecast"):
        Contributions(("a",), ds, np.array([[1.0]]), np.ones((1, 6, 1)), np.array([[7.1]]))


@pytest.fixture
def known(panel: SalesPanel) -> tuple[SalesPanel, pd.Timestamp]:
    """The panel 28 days before its end; prices and promotions of these days are planned."""
    origin = panel.end - pd.Timedelta(days=27)
    return panel_before(panel, origin), origin


def test_contributions_add_up_to_the_forecast_of_the_engine(
    known: tuple[SalesPanel, pd.Timestamp], tiny_backbone: Path
) -> None:
    panel, origin = known
    engine = Engine(str(tiny_backbone), device="cpu")
    windows = PanelWindows(panel, context=56)
    step = windows.step_of(origin)
    rows = np.array([0, 3, 7])
    found = contributions(engine, None, windows, step, 14, rows)
    made = engine.forecast(None, windows, step, 14, rows=rows)
    assert found.ids == made.ids
    assert found.forecast == pytest.approx(made.mean, rel=1e-5)
    assert found.base + found.parts.sum(1) == pytest.approx(made.mean, rel=1e-5)
    for group in ("history", "season", "price", "promotion", "text"):
        assert np.abs(found.parts[:, GROUPS.index(group)]).max() > 1e-6, group
    # Nothing is known of holidays: exactly nothing comes from them.
    assert np.abs(found.parts[:, GROUPS.index("holiday")]).max() < 1e-9
    plain = replace(panel, future=panel.future.iloc[:0])
    without = contributions(engine, None, PanelWindows(plain, context=56), step, 14, rows)
    assert np.abs(without.parts[:, GROUPS.index("promotion")]).max() < 1e-9


def test_what_is_left_out_takes_its_usual_course(known: tuple[SalesPanel, pd.Timestamp]) -> None:
    panel, origin = known
    windows = PanelWindows(panel, context=56)
    batch = windows.batch(np.array([0, 1]), np.full(2, windows.step_of(origin)), 14)
    level = torch.ones(2)

    def without(*names: str) -> object:
        return occluded(batch, [one for one in GROUPS if one not in names], freq="D", store_level=level)

    assert torch.equal(occluded(batch, GROUPS, freq="D", store_level=level).past_values, batch.past_values)
    flat = without("history", "season").past_values  # type: ignore[attr-defined]
    assert torch.allclose(flat, flat[:, :1].expand_as(flat))
    assert torch.allclose(flat[:, 0], batch.past_values.mean(1), rtol=1e-5)
    weekly = without("history").past_values  # type: ignore[attr-defined]
    assert torch.allclose(weekly[:, :49], weekly[:, 7:], rtol=1e-4)
    assert weekly.std() > 0
    assert without("season").past_cov[..., :N_CALENDAR].abs().max() == 0  # type: ignore[attr-defined]
    calm = without("promotion")
    assert batch.future_cov[..., INDEX["promo"]].max() == 1
    assert calm.future_cov[..., INDEX["promo"]].max() == 0  # type: ignore[attr-defined]
    assert torch.equal(calm.past_values, batch.past_values)  # type: ignore[attr-defined]
    assert torch.equal(calm.future_cov[..., INDEX["promo_known"]], batch.future_cov[..., INDEX["promo_known"]])  # type: ignore[attr-defined]
    assert without("text").text.abs().max() == 0  # type: ignore[attr-defined]


def test_a_scenario_changes_the_plan_of_its_series_alone(known: tuple[SalesPanel, pd.Timestamp]) -> None:
    panel, origin = known
    assert next_origin(panel) == origin
    found = with_plan(panel, ["s0/p0"], 7, price=1.25)
    before = panel.future.set_index(["unique_id", "ds"])
    after = found.future.set_index(["unique_id", "ds"])
    mine = (after.index.get_level_values(0) == "s0/p0") & (
        after.index.get_level_values(1) < origin + pd.Timedelta(days=7)
    )
    assert (after.loc[mine, "price"] == 1.25).all()
    assert mine.sum() == 7
    assert after.loc[mine, "promo"].equals(before.reindex(after.index[mine])["promo"])
    assert after[~mine].sort_index().equals(before.reindex(after.index[~mine]).sort_index()[after.columns])
    bare = replace(panel, frame=panel.frame.drop(columns="price"), future=panel.future.drop(columns="price"))
    with pytest.raises(UsageError, match="no prices"):
        with_plan(bare, ["s0/p0"], 7, price=1.25)


def test_a_scenarios_price_counts_though_past_ones_came_from_order_lines(panel: SalesPanel) -> None:
    from_lines = replace(panel, columns={**panel.columns, "returns": "returns"})
    plain = PanelWindows(with_plan(from_lines, ["s0/p0"], 7, promo=1), context=28)
    assert not plain.price_known_ahead
    windows = PanelWindows(with_plan(from_lines, ["s0/p0"], 7, price=3.0), context=28)
    batch = windows.batch(np.array([0]), np.array([windows.n_steps]), 7)
    assert (batch.future_cov[..., INDEX["log_relative_price"]] > 0.3).all()


def test_the_range_of_prices(panel: SalesPanel) -> None:
    low, usual, high, different = price_range(panel, ["s0/p0", "s0/p1"]) or (0, 0, 0, 0)
    assert (low, usual, high, different) == (1.6, 2.0, 2.0, 2)


def test_a_course_that_came_before_is_found_again() -> None:
    # A bump at the end, and the same one 200 and 365 days before: that of the same time of the year is nearer.
    days = np.arange(400)
    bump = sum(16 * np.exp(-((days - centre) ** 2) / 20) for centre in (388, 188, 23))
    values = 10 + bump
    dates = pd.date_range("2023-01-01", periods=400)
    panel = from_frame(pd.DataFrame({"date": dates, "product": "a", "store": "s", "units": np.round(values)}))
    found = similar_periods(panel, panel.ids[0], 28)
    assert [one.start for one in found[:2]] == [dates[7], dates[172]]
    assert all(one.end < dates[400 - 28] for one in found)
    assert [one.likeness for one in found] == sorted((one.likeness for one in found), reverse=True)
    assert similar_periods(panel.last_steps(60), panel.ids[0], 28) == []


def test_values_outside_their_interval_are_found_and_ranked() -> None:
    levels = (0.01, 0.5, 0.99)
    ds = np.array(["2024-01-01", "2024-01-02", "2024-01-03"], dtype="datetime64[ns]")
    quantiles = np.broadcast_to([5.0, 10.0, 20.0], (1, 3, 3))
    forecast = Forecast(("a",), ds[None], levels, quantiles, np.full((1, 3), 10.0))
    table = outside(forecast, np.array([[40.0, np.nan, 2.0]]))
    assert table["y"].tolist() == [40.0, 2.0]
    assert table["times"].tolist() == pytest.approx([3.0, 1.6])
    assert outside(forecast, np.array([[5.0, 20.0, 12.0]])).empty


def test_unusual_days_are_judged_by_forecasts_made_before_them(panel: SalesPanel) -> None:
    def forecaster(known: SalesPanel, origin: pd.Timestamp, horizon: int) -> Forecast:
        assert known.end < origin
        return baseline_forecast(["same-phase-mean"], known, origin, horizon)["same-phase-mean"]

    frame = panel.frame.copy()
    odd = (frame["unique_id"] == "s1/p2") & (frame["ds"] == panel.end - pd.Timedelta(days=3))
    frame.loc[odd, "y"] = 5000.0
    table, looked = anomalies(replace(panel, frame=frame), forecaster, 14)
    assert looked == 12 * 14
    assert (table.loc[0, "unique_id"], table.loc[0, "y"]) == ("s1/p2", 5000.0)
    other, fewer = anomalies(replace(panel, frame=frame), forecaster, 14, ["s1/p1"])
    assert fewer == 14
    assert set(other["unique_id"]) <= {"s1/p1"}
    empty, none = anomalies(panel, forecaster, 100)
    assert (len(empty), none) == (0, 0)


def test_the_commands(
    sales: pd.DataFrame, tiny_backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trend_client.cli import app
    from trend_common.console import console

    sales.to_csv(tmp_path / "sales.csv", index=False)
    out = tmp_path / "out.json"
    common = ["--home", str(tmp_path / "home"), "--backbone", str(tiny_backbone), "--json", str(out)]
    data = ["--data", str(tmp_path / "sales.csv")]
    monkeypatch.setattr(console, "width", 100)
    done = CliRunner().invoke(app, ["explain", "--top", "3", "--horizon", "7", *data, *common])
    assert done.exit_code == 0, done.output
    assert all(name in done.output for name in ("usual", *GROUPS, "forecast"))  # names give way, not headings
    body = json.loads(out.read_text())
    assert len(body["series"]) == 3
    for one in body["series"]:
        assert one["base"] + sum(one[name] for name in GROUPS) == pytest.approx(one["forecast"], rel=1e-3, abs=1e-2)
    asked = ["whatif", "--product", "product number 2", "--store", "s1", "--price", "curve", "--promo", "0,1"]
    done = CliRunner().invoke(app, [*asked, "--cost", "1", *common])
    assert done.exit_code == 0, done.output
    body = json.loads(out.read_text())
    assert body["series"] == ["s1/p2"]
    assert len(body["points"]) == 18
    assert {one["outside"] for one in body["points"]} == {True, False}
    for wrong, said in (
        (["whatif", "--product", "p11", "--promo", "1"], "The nearest name is 'p"),
        (["whatif", "--product", "p1", "--price", "cheap"], "4.99,5.99"),
        (["whatif", "--product", "p1", "--promo", "2"], "share of the days"),
        (["whatif", "--product", "p1"], "--price 4.99,5.99"),
        (["whatif", "--price", "2"], "--product NAME"),
    ):
        done = CliRunner().invoke(app, [*wrong, *common])
        assert isinstance(done.exception, UsageError), done.output
        assert said in done.exception.hint
