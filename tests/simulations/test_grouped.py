"""Groups: declared ones alone, adapters that differ between them, and one ledger that adds both halves up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from trend_client.engine import Engine
from trend_common.privacy.accounting import compose
from trend_common.privacy.plan import plan_epsilon, plan_run
from trend_common.tensors import tensors_sha256
from trend_simulations.arms import Study, run_arm
from trend_simulations.cases import Adapter, make_case
from trend_simulations.federation import announce
from trend_simulations.grouped import groups_of, half_plan
from trend_simulations.settings import DpRecipe, PlainRecipe, Settings
from trend_simulations.sources import Retailer, last_history, synthetic


@pytest.fixture(scope="module")
def settings(tiny_backbone: Path) -> Settings:
    """Everything small."""
    return Settings(
        freq="W",
        horizon=4,
        context=28,
        seeds=(0,),
        epsilon=8.0,
        backbone=str(tiny_backbone),
        dp=DpRecipe(rounds=4, windows_per_series=1),
        plain=(PlainRecipe("weights", rounds=3, steps=1, local_lr=1e-2, rank=2, train="AB"),),
    )


@pytest.fixture(scope="module")
def retailers() -> list[Retailer]:
    """Three grocers, three drugstores and one homeware shop."""
    drawn = synthetic(9, seed=2, freq="W", days=300, sizes=(3, 4))
    kept = last_history(drawn, horizon=4, history=30)
    return [one for one in kept if one.name not in ("homeware-2", "homeware-3")]


def study(retailers: list[Retailer], settings: Settings, engine: Engine) -> Study:
    """The first seed's."""
    return Study([make_case(one, settings) for one in retailers], engine, settings, seed=0)


def key(adapter: Adapter) -> str:
    """Of its tensors."""
    assert adapter.tensors is not None
    return tensors_sha256(adapter.tensors)


def test_groups_are_those_that_were_declared_and_are_large_enough(retailers: list[Retailer]) -> None:
    names = [one.name for one in retailers]
    found = {group: [names[row] for row in rows] for group, rows in groups_of(retailers).items()}
    assert found == {
        "drugstore": ["drugstore-1", "drugstore-2", "drugstore-3"],
        "grocer": ["grocer-1", "grocer-2", "grocer-3"],
    }
    assert groups_of([one for one in retailers if one.group == "grocer"]) == {}, "one group is none"
    assert groups_of([replace(one, group="") for one in retailers]) == {}


@pytest.mark.parametrize("arm", ["grouped", "grouped-dp@4"])
def test_each_group_has_its_own_adapter_and_the_rest_the_common_one(
    arm: str, retailers: list[Retailer], settings: Settings, engine: Engine
) -> None:
    one = study(retailers, settings, engine)
    found = {case.retailer.name: key(adapter) for case, adapter in zip(one.cases, run_arm(one, arm), strict=True)}
    assert len(set(found.values())) == 3
    assert found["grocer-1"] == found["grocer-2"] == found["grocer-3"] != found["drugstore-1"]
    assert found["homeware-1"] == key(one.outcomes[arm].adapter)
    assert "in grocer" in one.notes[arm]


def test_both_halves_are_in_one_ledger_and_cost_what_was_promised_together(
    retailers: list[Retailer], settings: Settings, engine: Engine
) -> None:
    one = study(retailers, settings, engine)
    run_arm(one, "grouped-dp@4")
    outcome = one.outcomes["grouped-dp@4"]
    assert outcome.plan.privacy is not None
    whole = compose([plan_run(outcome.plan, "S")], settings.delta)
    assert whole == pytest.approx(outcome.plan.privacy.epsilon)
    assert 3.8 < whole <= 4
    half = plan_epsilon(half_plan(outcome.plan, "half", 2), "S")
    assert half < whole < 2 * half
    for name, spent in outcome.spent.items():
        assert spent == pytest.approx(half if name == "homeware-1" else whole, rel=1e-6), name


def test_a_half_is_as_noisy_a_round_and_says_what_it_costs_itself(settings: Settings, engine: Engine) -> None:
    whole = announce(engine, settings, settings.dp, name="whole", seed=0).plan
    half = half_plan(whole, "half", 2)
    assert whole.privacy is not None
    assert half.privacy is not None
    assert half.privacy.buckets == whole.privacy.buckets
    assert (half.federation, half.rounds) == ("half", 2)
    assert half.privacy.epsilon == plan_epsilon(half, "S") < whole.privacy.epsilon
    plain = announce(engine, settings, settings.plain[0], name="whole", seed=0).plan
    assert half_plan(plain, "half", 1).privacy is None


def test_without_groups_it_is_the_plain_federation(
    retailers: list[Retailer], settings: Settings, engine: Engine
) -> None:
    some = [replace(one, group="") for one in retailers[:3]]
    one = study(some, settings, engine)
    assert [key(adapter) for adapter in run_arm(one, "grouped")] == [
        key(adapter) for adapter in run_arm(one, "federated")
    ]
    assert "no groups" in one.notes["grouped"]
