"""Advice: what is recommended, for what gain, and for what reason."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from trend_client.decisions.levels import ServiceLevels
from trend_client.decisions.paths import Dependence
from trend_client.decisions.policy import Position, Terms
from trend_client.decisions.reasons import Fact, facts_of
from trend_client.decisions.recommend import Values, _advice, recommend
from trend_client.decisions.stock import StockRow
from trend_common.errors import UsageError
from trend_common.forecasts import LEVELS, Forecast
from trend_common.panel import SalesPanel
from trend_common.scoring import next_origin

TERMS = Terms(lead_time=2, review=3)


@dataclass
class Look:
    """A home whose model knows: a promotion doubles sales, a price p sells 80 / p², and s0/p5 sells nothing."""

    panel: SalesPanel
    notes: list[str] = field(default_factory=list)

    def forecast_of(self, panel: SalesPanel, ids: list[str], steps: int) -> Forecast:
        plan = panel.future.groupby("unique_id")[["price", "promo"]].first() if len(panel.future) else pd.DataFrame()
        level = []
        for name in ids:
            price = plan["price"].get(name, np.nan) if len(plan) else np.nan
            promo = plan["promo"].get(name, np.nan) if len(plan) else np.nan
            base = 0.0 if name == "s0/p5" else 80 / (2.0 if np.isnan(price) else price) ** 2
            level.append(base * (2 if promo == 1 else 1))
        spread = np.linspace(0.7, 1.3, len(LEVELS))
        q = np.array(level)[:, None, None] * np.broadcast_to(spread, (len(ids), steps, len(LEVELS)))
        ds = pd.date_range(next_origin(self.panel), periods=steps).to_numpy()
        return Forecast.repaired(ids, ds, q, q[..., 6])

    def forecast(self, steps: int, ids: Sequence[str] | None = None) -> Forecast:
        bare = replace(self.panel, future=self.panel.future.iloc[:0])
        return self.forecast_of(bare, list(self.panel.ids if ids is None else ids), steps)

    def dependence(self, steps: int) -> Dependence:
        return Dependence(0.2, 0.2)

    def service_levels(self, dependence: Dependence, interval: int, *, stride: int) -> ServiceLevels:
        return ServiceLevels()


PRICES = {f"s{store}/p{product}": 2.0 for store in range(2) for product in range(6)}


def test_a_promotion_gains_the_margin_of_what_it_sells_more_less_its_discount(panel: SalesPanel) -> None:
    found = recommend(Look(panel), {}, Values(PRICES, 0.5), horizon=7, actions=["promote"])  # type: ignore[arg-type]
    assert {one.unique_id for one in found.advice} == set(panel.ids) - {"s0/p5"}
    one = found.advice[0]
    # 140 units at 2.00 and cost 1.00 without; 280 at 1.60 with the usual 20 % off.
    assert one.gain == pytest.approx(280 * 0.6 - 140 * 1.0, rel=0.02)
    assert one.units == pytest.approx(140, rel=0.02)
    assert one.low <= one.gain <= one.high
    assert "20\u00a0% off" in one.reason
    thin = recommend(Look(panel), {}, Values(PRICES, 0.2), horizon=7, actions=["promote"])  # type: ignore[arg-type]
    assert thin.advice == ()  # 20 % off leaves nothing of a margin of 20 %


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=60))
def test_a_mean_outside_its_interval_is_explained(gains: list[float]) -> None:
    """As where one course in twenty gains a fortune: a person would take the figures for a mistake."""
    one = _advice("promote", "s0/p0", np.array(gains), 1.0, Fact("never sold"))
    said = {fact.code for fact in one.facts} - {"never sold"}
    assert said == ({"rare gain"} if one.gain > one.high else {"rare loss"} if one.gain < one.low else set())


def test_a_rare_fortune_is_named_as_such() -> None:
    one = _advice("promote", "s0/p0", np.array([0.0] * 95 + [1000.0] * 5), 1.0)
    assert (one.low, one.gain, one.high) == (0, 50, 0)
    assert "above the interval" in one.reason
    assert facts_of([fact.to_json() for fact in one.facts]) == one.facts


def test_what_is_already_planned_is_not_advised(panel: SalesPanel) -> None:
    ahead = pd.DataFrame({"unique_id": ["s0/p0"], "ds": [next_origin(panel)], "price": [2.0], "promo": [1.0]})
    look = Look(replace(panel, future=ahead))
    found = recommend(look, {}, Values(PRICES, 0.5), horizon=7, actions=["promote"])  # type: ignore[arg-type]
    assert "s0/p0" not in {one.unique_id for one in found.advice}


def test_empty_shelves_are_restocked_and_full_ones_marked_down(panel: SalesPanel) -> None:
    stock = {
        "s0/p0": StockRow(Position(0), TERMS),
        "s0/p1": StockRow(Position(100), TERMS),
        "s0/p2": StockRow(Position(5000), TERMS),
        "s0/p5": StockRow(Position(50), TERMS),
    }
    frame = panel.frame.copy()
    frame.loc[(frame["unique_id"] == "s0/p2") & (frame["ds"] < "2024-02-01"), "price"] = 1.8
    look = Look(replace(panel, frame=frame))
    found = recommend(look, stock, Values(PRICES, 0.5), horizon=7)  # type: ignore[arg-type]
    by = {one.unique_id: one for one in found.advice if one.action == "restock"}
    assert "s0/p2" not in by
    # 3 steps of 20 units at a margin of 1.
    assert by["s0/p0"].gain == pytest.approx(60, rel=0.1)
    (cut,) = [one for one in found.advice if one.action == "mark down"]
    assert cut.unique_id == "s0/p2"
    assert cut.units > 4000
    # At 1.60 it sells 31.25 a step for 50, at 2.00 it sells 20 for 40.
    assert cut.gain == pytest.approx(70, rel=0.02)
    (drop,) = [one for one in found.advice if one.action == "drop"]
    assert drop.unique_id == "s0/p5"
    assert drop.gain == pytest.approx(50)  # 50 units at cost 1
    assert "100\u00a0% likely" in drop.reason
    gains = [one.gain for one in found.advice]
    assert gains == sorted(gains, reverse=True)


def test_units_where_no_margin_is_known(panel: SalesPanel) -> None:
    found = recommend(Look(panel), {}, Values(PRICES, None), horizon=7)  # type: ignore[arg-type]
    assert not found.in_money
    assert any("units" in note for note in found.notes)
    assert any("--stock" in note for note in found.notes)
    assert found.advice[0].gain == pytest.approx(140, rel=0.02)
    with pytest.raises(UsageError, match="'sell'"):
        recommend(Look(panel), {}, Values({}, None), horizon=7, actions=["sell"])  # type: ignore[arg-type]


def test_the_command(sales: pd.DataFrame, tiny_backbone: Path, tmp_path: Path) -> None:
    from trend_client.cli import app

    sales.to_csv(tmp_path / "sales.csv", index=False)
    sales[["product", "store"]].drop_duplicates().assign(on_hand=1).to_csv(tmp_path / "stock.csv", index=False)
    out = tmp_path / "out.json"
    common = ["--home", str(tmp_path / "home"), "--backbone", str(tiny_backbone), "--json", str(out)]
    given = ["recommend", "--stock", str(tmp_path / "stock.csv"), "--margin", "0.4", "--horizon", "7"]
    done = CliRunner().invoke(app, [*given, "--data", str(tmp_path / "sales.csv"), *common])
    assert done.exit_code == 0, done.output
    body = json.loads(out.read_text())
    assert body["gain_in"] == "money"
    assert {"restock"} <= {one["action"] for one in body["advice"]}
    assert all(one["low"] <= one["high"] and one["reason"] for one in body["advice"])
    done = CliRunner().invoke(app, ["recommend", "--margin", "30", *common])
    assert isinstance(done.exception, UsageError)
