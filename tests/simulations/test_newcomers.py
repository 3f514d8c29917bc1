"""Newcomers: drawn by name, part of nothing, and forecast without their sales where these are not known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trend_client.engine import Engine
from trend_simulations.arms import Study, run_arm
from trend_simulations.cases import Case, make_case
from trend_simulations.compare import compare
from trend_simulations.newcomers import KNOWN, Newcomers, blind_forecast, drawn, welcome_of
from trend_simulations.settings import DpRecipe, PlainRecipe, Settings
from trend_simulations.sources import Retailer, last_history, synthetic


@pytest.fixture(scope="module")
def settings(tiny_backbone: Path) -> Settings:
    """Everything small."""
    return Settings(
        freq="W",
        horizon=4,
        context=28,
        seeds=(0, 1),
        backbone=str(tiny_backbone),
        dp=DpRecipe(rounds=2, windows_per_series=1),
        plain=(PlainRecipe("weights", rounds=2, steps=2, local_lr=1e-2, rank=2, train="AB"),),
    )


@pytest.fixture(scope="module")
def retailers() -> list[Retailer]:
    """Six weekly retailers."""
    return last_history(synthetic(6, seed=2, freq="W", days=300, sizes=(3, 5)), horizon=4, history=30)


@given(st.sets(st.text(min_size=1), min_size=2, max_size=12), st.data())
def test_who_is_a_newcomer_depends_on_names_alone(names: set[str], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(names)))
    chosen = drawn(sorted(names), count)
    assert len(set(chosen)) == count
    assert set(drawn(sorted(names, reverse=True), count)) == set(chosen)
    fewer = set(names) - {min(names)}
    assert set(chosen) - {min(names)} <= set(drawn(sorted(fewer), min(count, len(fewer))))


def changed(case: Case, settings: Settings, factor: float) -> Case:
    """The same retailer that sold ``factor`` times as much in its last weeks before the test, and other weeks too."""
    panel = case.retailer.panel
    y = panel.frame["y"].where(panel.frame["ds"] >= case.cut.test, panel.frame["y"] * factor + 3 * (factor != 1))
    return make_case(replace(case.retailer, panel=replace(panel, frame=panel.frame.assign(y=y))), settings)


def test_without_a_history_no_sale_plays_any_part(
    retailers: list[Retailer], settings: Settings, engine: Engine
) -> None:
    case = make_case(retailers[0], settings)
    study = Study([make_case(one, settings) for one in retailers[1:]], engine, settings, seed=0)
    adapter = run_arm(study, "federated")[0]
    other = changed(case, settings, 9.0)
    made, again = (blind_forecast(study, one, adapter, case.cut.test, level=False).quantiles for one in (case, other))
    np.testing.assert_array_equal(made, again)
    # With a level expected it follows the level, and with its sales it follows those.
    small, large = (
        blind_forecast(study, one, adapter, case.cut.test, level=True).select(case.test.ids).mean
        for one in (case, other)
    )
    assert large.mean() > 3 * small.mean()
    seen = case.forecast(engine, case.cut.test).quantiles
    assert not np.array_equal(seen, made)


def test_the_blind_forecast_still_sees_the_calendar_and_the_plan(
    retailers: list[Retailer], settings: Settings, engine: Engine
) -> None:
    case = make_case(retailers[0], settings)
    study = Study([case], engine, settings, seed=0)
    start = run_arm(study, "zero-shot")[0]
    panel = case.retailer.panel
    promoted = replace(panel, frame=panel.frame.assign(promo=1.0))
    one = blind_forecast(study, case, start, case.cut.test, level=True).quantiles
    other = make_case(replace(case.retailer, panel=promoted), settings)
    assert not np.array_equal(one, blind_forecast(study, other, start, case.cut.test, level=True).quantiles)


def test_newcomers_are_scored_for_each_seed_and_change_nothing(
    retailers: list[Retailer], settings: Settings, engine: Engine
) -> None:
    guests = Newcomers(retailers[:3], settings)
    arms = ["zero-shot", "federated", "federated-dp@8"]
    members = retailers[3:]
    with_them = compare(members, arms, settings, engine=engine, baselines=(), on_chosen=guests.welcome)
    without = compare(members, ["zero-shot", "federated"], settings, engine=engine, baselines=())
    np.testing.assert_array_equal(with_them.values("federated", "wql"), without.values("federated", "wql"))
    found = json.loads(json.dumps(guests.to_json(), allow_nan=False))
    assert [one["name"] for one in found["clients"]] == [one.name for one in retailers[:3]]
    for client in found["clients"]:
        assert client["known"].keys() == set(KNOWN)
        for known in KNOWN:
            assert client["known"][known].keys() == set(arms)
            assert all(value > 0 for value in client["known"][known].values())
    # The pretrained model is what a retailer alone would have from it.
    alone = compare(retailers[:3], ["zero-shot"], settings, engine=engine, baselines=()).relative("zero-shot", "wql")
    history = [client["known"]["history"]["zero-shot"] for client in found["clients"]]
    np.testing.assert_allclose(history, alone.mean(axis=1), atol=1e-6)


def test_a_newcomer_without_enough_sales_to_score_is_named(retailers: list[Retailer], settings: Settings) -> None:
    panel = retailers[0].panel
    short = replace(panel, frame=panel.frame[panel.frame["ds"] > panel.end - pd.Timedelta(weeks=9)])
    guests = Newcomers([Retailer("short", short), retailers[1]], settings)
    assert [case.retailer.name for case in guests.cases] == [retailers[1].name]
    assert guests.to_json()["left_out"][0].startswith("short: ")


def test_the_table_of_newcomers_is_over_those_of_all_cuts() -> None:
    def result(values: dict[str, float]) -> dict[str, object]:
        clients = [
            {"name": name, "known": {known: {"zero-shot": 0.5, "federated": value} for known in KNOWN}}
            for name, value in values.items()
        ]
        return {"newcomers": {"clients": clients}}

    found = welcome_of([result({"a": 0.4, "b": 0.6, "c": 0.4}), result({"a": 0.4, "b": 0.7})])
    one = found["nothing"]["federated"]
    assert one.retailers == 2, "c is not in every cut"
    assert one.relative.mean == pytest.approx((0.4 + 0.4 + 0.6 + 0.7) / 4)
    assert one.change is not None
    assert one.change.mean == pytest.approx((-0.2 - 0.2 + 0.2 + 0.4) / 4)
    assert one.better == 0.5
    assert found["history"]["zero-shot"].change is None
    assert json.loads(json.dumps(found["level"]["zero-shot"].to_json(), allow_nan=False))["better"] is None
    assert welcome_of([{}]) == {}
    assert welcome_of([]) == {}
