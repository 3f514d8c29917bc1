"""The stock file, the order list, and stock rules played against the past."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from trend_client.decisions.policy import Terms
from trend_client.decisions.simulate import RULES, play, simulate
from trend_client.decisions.stock import read_stock
from trend_common.baselines import baseline_forecast
from trend_common.errors import DataError
from trend_common.forecasts import Forecast
from trend_common.panel import SalesPanel

TERMS = Terms(lead_time=3, review=7)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_terms_of_a_row_stand_before_those_of_all(panel: SalesPanel, tmp_path: Path) -> None:
    text = "SKU;Filiale;Bestand;on order;Pack size;Lieferzeit;shelf_life\np0;s0;12,5;3;6;;\np1;s1;0;;;9;4\n"
    rows, notes = read_stock(write(tmp_path / "stock.csv", text), panel, TERMS)
    assert rows["s0/p0"].position.total == 15.5
    assert (rows["s0/p0"].terms.pack, rows["s0/p0"].terms.lead_time) == (6, 3)
    assert (rows["s1/p1"].terms.lead_time, rows["s1/p1"].terms.shelf_life) == (9, 4)
    assert any("10 series" in note for note in notes)


@pytest.mark.parametrize(
    ("text", "found", "hint"),
    [
        ("product,store,on_hand\np0,s0,-3\n", "negative in line 2", "0"),
        ("product,store,on_hand\np0,s0,\n", "empty in line 2", "Write 0"),
        ("product,store,on_hand\np0,s0,many\n", "'many' in line 2", "numbers"),
        ("product,store,on_hand\npO,s0,1\n", "nearest name is 'p", "--skip-unknown"),
        ("product,store,on_hand\np0,S O,1\n", "The store 'S O' is not in the sales", "--skip-unknown"),
        ("product,store,on_hand\np0,s0,1\np0,s0,2\n", "lines 2, 3", "one row"),
        ("product,on_hand\np0,1\n", "2 stores", "store"),
        ("product,store,units_there\np0,s0,1\n", "no column 'on_hand'", "product, store, on_hand"),
        ("product,store,on_hand,on_ordr\np0,s0,1,2\n", "'on_ordr' is not known", "'on_order'"),
        ("product,store,on_hand,stock\np0,s0,1,2\n", "both mean 'on_hand'", "Remove"),
        ("product,store,on_hand,pack\np0,s0,1,-6\n", "pack size is -6", "above 0"),
        ("product,store,on_hand,shelf_life\np0,s0,1,2.5\n", "2.5", "whole"),
        ("product,store,on_hand,shelf_life,price,cost\np0,s0,1,2,1,3\n", "cost of 3", "cost < price"),
        ("product,store,on_hand\n", "no rows", "Export"),
    ],
)
def test_a_faulty_stock_file_is_refused(panel: SalesPanel, tmp_path: Path, text: str, found: str, hint: str) -> None:
    with pytest.raises(DataError) as error:
        read_stock(write(tmp_path / "stock.csv", text), panel, TERMS)
    assert found in error.value.message
    assert hint in error.value.hint
    assert error.value.exit_code == 3


def test_all_faults_are_told_at_once_and_unknown_ones_can_be_passed_over(panel: SalesPanel, tmp_path: Path) -> None:
    path = write(tmp_path / "stock.csv", "product,store,on_hand\nzzz,s0,1\np0,s0,-1\np1,s0,5\n")
    with pytest.raises(DataError) as error:
        read_stock(path, panel, TERMS)
    assert "'zzz'" in error.value.message
    assert "negative" in error.value.message
    path = write(tmp_path / "stock.csv", "product,store,on_hand\nzzz,s0,1\np1,s0,5\n")
    rows, notes = read_stock(path, panel, TERMS, skip_unknown=True)
    assert list(rows) == ["s0/p1"]
    assert any("1 rows are of products" in note for note in notes)


def test_one_rule_against_a_demand_by_hand() -> None:
    # Order up to 10 every 2 steps, 1 step to arrive; demand 4 a step.
    # Step 0: stock 10, nothing to order, sold 4. Step 1: 6 -> 2. Step 2: orders 8; sold 2, lost 2. Step 3: +8 -> 4.
    # Step 4: orders 6; 4 -> 0. Step 5: +6 -> 2.
    demand, levels = np.full((1, 6), 4.0), np.full((1, 3), 10.0)
    found = play(demand, levels, np.array([1, 1, 1]), 2)
    assert found.lost == 2
    assert found.fill == pytest.approx(1 - 2 / 20)
    assert found.cycles == pytest.approx(0.5)  # steps 1-2 and 3-4
    assert found.stock == pytest.approx((2 + 0 + 4 + 0 + 2) / 5 / 4)


def seasonal(panel: SalesPanel, origin: pd.Timestamp, horizon: int) -> Forecast:
    return baseline_forecast(["same-phase-mean"], panel, origin, horizon)["same-phase-mean"]


def test_rules_see_nothing_of_the_steps_that_they_are_played_on(panel: SalesPanel) -> None:
    seen: list[tuple[pd.Timestamp, pd.Timestamp]] = []

    def watched(known: SalesPanel, origin: pd.Timestamp, horizon: int) -> Forecast:
        seen.append((known.end, origin))
        return seasonal(known, origin, horizon)

    found = simulate(panel, watched, TERMS, steps=42)
    assert seen
    assert all(end < origin for end, origin in seen)
    assert {rule for rule, _ in found.results} == set(RULES)
    assert (found.steps, found.reviews, found.series) == (42, 6, 12)
    # Another future changes no order of the first review: what is there at the start is the same.
    changed = panel.frame.copy()
    late = changed["ds"] >= found.start
    changed.loc[late, "y"] = changed.loc[late, "y"] * 3
    from dataclasses import replace

    other = simulate(replace(panel, frame=changed), seasonal, TERMS, steps=42)
    assert other.dependence == found.dependence
    for rule in RULES:
        fills = [found.results[rule, level].fill for level in (0.6, 0.8, 0.95)]
        assert fills == sorted(fills)
        assert other.results[rule, 0.8].fill < found.results[rule, 0.8].fill


def test_too_short_a_history_to_play_is_said(panel: SalesPanel) -> None:
    with pytest.raises(DataError) as error:
        simulate(panel, seasonal, TERMS, steps=126)
    assert "140 steps" in error.value.message


def test_the_command_from_file_to_order_list(sales: pd.DataFrame, tiny_backbone: Path, tmp_path: Path) -> None:
    from trend_client.cli import app

    sales.to_csv(tmp_path / "sales.csv", index=False)
    stock = sales[["product", "store"]].drop_duplicates().assign(on_hand=3, on_order=2, price=2.0, cost=1.0)
    stock.to_csv(tmp_path / "stock.csv", index=False)
    home, out = tmp_path / "home", tmp_path / "orders.json"
    common = ["--home", str(home), "--backbone", str(tiny_backbone), "--json", str(out)]
    given = ["--stock", str(tmp_path / "stock.csv"), "--lead-time", "3", "--pack", "6", "--data"]
    done = CliRunner().invoke(app, ["orders", *given, str(tmp_path / "sales.csv"), *common])
    assert done.exit_code == 0, done.output
    body = json.loads(out.read_text())
    assert (body["command"], len(body["orders"])) == ("orders", 12)
    assert all(row["order"] % 6 == 0 and row["gain"] is not None for row in body["orders"])
    gains = [row["gain"] for row in body["orders"]]
    assert gains == sorted(gains, reverse=True)
    table = pd.read_csv(home / "output" / "orders.csv")
    assert list(table["unique_id"]) == [row["unique_id"] for row in body["orders"]]
    assert (home / "output" / "orders.csv").stat().st_mode & 0o777 == 0o600
    played = CliRunner().invoke(app, ["orders", "--lead-time", "2", "--simulate", "28", *common])
    assert played.exit_code == 0, played.output
    assert len(json.loads(out.read_text())["simulation"]["rules"]) == 6 * len(RULES)
