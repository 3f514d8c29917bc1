"""Flower's engine on Ray gives what the in-process engine gives."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trend_client.engine import Engine
from trend_common.errors import Declined, UsageError
from trend_common.privacy.chain import inspect
from trend_common.privacy.plan import plan_epsilon
from trend_server.checkpoints import Announcement
from trend_simulations.federation import announce, federate_in_process, members
from trend_simulations.on_ray import federate_on_ray
from trend_simulations.settings import DpRecipe, PlainRecipe, Settings
from trend_simulations.sources import Retailer, last_history, synthetic

# Ray leaves files open that it collects some time later, in whichever test comes next.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture(scope="module")
def retailers() -> list[Retailer]:
    return last_history(synthetic(3, seed=2, freq="W", days=420, sizes=(3, 6)), horizon=4, history=30)


def announced(engine: Engine, recipe: DpRecipe | PlainRecipe, *, secure: bool = False) -> Announcement:
    return announce(engine, Settings(freq="W", horizon=4, context=28), recipe, name="one", seed=5, secure=secure)


@pytest.mark.slow
def test_the_weights_are_those_of_the_in_process_engine(
    engine: Engine, retailers: list[Retailer], tmp_path: Path, tiny_backbone: Path
) -> None:
    pytest.importorskip("ray")
    plain = PlainRecipe("weights", rounds=2, steps=2, local_lr=1e-2, rank=2)
    plan = announced(engine, plain)
    joined = members(retailers, engine, plan.plan, tmp_path / "here", seed=3)
    here = federate_in_process(joined, plan, server_lr=1.0)
    for member in joined:
        member.ledger.close()
    rounds: list[int] = []
    there = federate_on_ray(
        retailers,
        plan,
        tmp_path / "there",
        backbone=str(tiny_backbone),
        seed=3,
        server_lr=1.0,
        on_round=rounds.append,
    )
    assert rounds == [1, 2]
    assert here.adapter.tensors is not None
    assert there.adapter.tensors is not None
    assert any(value.any() for value in here.adapter.tensors.values())
    for name, value in here.adapter.tensors.items():
        assert value.tobytes() == there.adapter.tensors[name].tobytes()
    assert there.bytes_up == here.bytes_up
    assert there.training > 0

    private = announced(engine, DpRecipe(rounds=2))
    root = tmp_path / "private"
    outcome = federate_on_ray(retailers, private, root, backbone=str(tiny_backbone), seed=3, server_lr=0.01)
    assert outcome.spent.keys() == {one.name for one in retailers}
    assert list(outcome.spent.values()) == pytest.approx([plan_epsilon(private.plan, "S")] * 3, rel=1e-6)
    for number in range(3):
        home = root / f"{number:04d}"
        found = inspect(next(home.rglob("ledger.jsonl")), home / "ledger.head")
        assert found.ok
        assert [line["kind"] for line in found.records].count("seal") == 2


@pytest.mark.slow
def test_a_client_that_declines_says_why_from_its_actor(
    engine: Engine, retailers: list[Retailer], tmp_path: Path, tiny_backbone: Path
) -> None:
    pytest.importorskip("ray")
    plan = announced(engine, PlainRecipe("weights", rounds=1, steps=1, rank=2))
    long = Announcement(plan.plan.model_copy(update={"horizon": 40}), plan.initial, plan.frozen)
    with pytest.raises(Declined, match=f"(?s){retailers[0].name} declined: "):
        federate_on_ray(retailers, long, tmp_path, backbone=str(tiny_backbone), seed=3, server_lr=1.0)


def test_secure_aggregation_is_refused(engine: Engine, retailers: list[Retailer], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Leave out --engine ray"):
        federate_on_ray(
            retailers, announced(engine, DpRecipe(rounds=1), secure=True), tmp_path, backbone="x", seed=0, server_lr=1
        )


def test_without_ray_the_extra_is_named(
    engine: Engine, retailers: list[Retailer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    before = dict(os.environ)
    with pytest.raises(UsageError, match=r'pip install "trend-federated\[ray\]"'):
        federate_on_ray(retailers, announced(engine, DpRecipe(rounds=1)), tmp_path, backbone="x", seed=0, server_lr=1)
    assert os.environ.get("PYTHONPATH") == before.get("PYTHONPATH")
