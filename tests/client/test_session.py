"""The client decides: what it accepts, what it refuses before any data are touched, and what its answers hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from trend_client.engine import Engine
from trend_client.home import ClientHome
from trend_client.session import ClientSession, SessionEvent, _within
from trend_common import adapters
from trend_common.errors import PolicyError
from trend_common.flower.records import tensors_from_bytes
from trend_common.panel import SalesPanel, from_frame
from trend_common.privacy.ledger import Ledger
from trend_common.privacy.plan import make_privacy_plan, norm_bound
from trend_common.privacy.policy import Policy
from trend_common.protocol import AdoptOrder, FederationPlan, TrainOrder
from trend_common.tensors import Tensors, decode_int8, tensors_sha256, total_norm

ROUNDS = 3


@pytest.fixture(scope="module")
def engine(tiny_backbone: Path) -> Engine:
    return Engine(str(tiny_backbone), device="cpu")


class World:
    """One client, and a server that a test can make lie."""

    def __init__(self, root: Path, engine: Engine, panel: SalesPanel) -> None:
        self.engine, self.panel = engine, panel
        self.home = ClientHome(root)
        self.policy = Policy.load(self.home.policy_path)
        self.events: list[SessionEvent] = []
        adapters_plan, self.initial, self.frozen = adapters.initial_adapter(
            engine.release(), rank=2, alpha=4, targets=engine.backbone.lora_targets, train="B"
        )
        privacy = make_privacy_plan(
            epsilon=4, delta=1e-5, clip=0.02, rounds=ROUNDS, steps=1, buckets={"S": (1.0, 20)}
        )
        self.plan = FederationPlan(
            federation="test",
            backbone="tiny",
            backbone_sha256=engine.sha256,
            adapter=adapters_plan,
            freq="D",
            horizon=14,
            context=56,
            rounds=ROUNDS,
            steps=1,
            windows_per_series=2,
            update="gradient",
            local_learning_rate=0.0,
            proximal_mu=0.0,
            privacy=privacy,
        )
        self.ledger = self.open_ledger()

    def open_ledger(self) -> Ledger:
        return Ledger(
            self.home.ledger_folder / "ledger.jsonl",
            head_path=self.home.head_folder / "ledger-head.json",
            epsilon_total=self.policy.epsilon_total,
            delta=self.policy.delta_max,
        )

    def session(self, **changes: Any) -> ClientSession:
        settings = {"policy": self.policy, "ledger": self.ledger, **changes}
        return ClientSession(
            home=self.home, engine=self.engine, panel=self.panel, on_event=self.events.append, **settings
        )

    def altered(self, **changes: Any) -> FederationPlan:
        return FederationPlan.model_validate({**self.plan.model_dump(), **changes})

    def order(self, number: int, adapter: Tensors, plan: FederationPlan | None = None) -> TrainOrder:
        return TrainOrder(
            federation="test",
            round=number,
            plan_sha256=(plan or self.plan).sha256(),
            adapter_sha256=tensors_sha256(adapter),
        )


@pytest.fixture
def world(tmp_path: Path, engine: Engine, panel: SalesPanel) -> Iterator[World]:
    made = World(tmp_path / "home", engine, panel)
    yield made
    made.ledger.close()


def test_a_federation_from_plan_to_adapter(world: World) -> None:
    session = world.session()
    answer = session.describe(world.plan, dict(world.frozen))
    assert (answer.answer, answer.bucket) == ("accepted", "S")
    adapter = world.initial
    for number in range(1, ROUNDS + 1):
        reply, payload = session.train(world.order(number, adapter), dict(adapter))
        assert reply.answer == "delta"
        assert payload is not None
        delta = decode_int8(tensors_from_bytes(payload), world.plan.adapter.tensors)
        adapter = {name: (value - 0.01 * np.sign(delta[name])).astype(np.float32) for name, value in adapter.items()}
    order = AdoptOrder(
        federation="test",
        round=ROUNDS,
        plan_sha256=world.plan.sha256(),
        adapter_sha256=tensors_sha256(adapter),
        final=True,
    )
    assert session.adopt(order, dict(adapter)).answer == "received"
    assert session.finished
    stored = world.home.shared("test")
    assert stored is not None
    assert tensors_sha256(stored[1]) == tensors_sha256(adapter)
    assert world.ledger.spent() == pytest.approx(4, rel=0.01)


def test_asked_twice_it_sends_the_same_bytes_also_after_a_restart(world: World) -> None:
    session = world.session()
    session.describe(world.plan, dict(world.frozen))
    order = world.order(1, world.initial)
    first = session.train(order, dict(world.initial))[1]
    assert first == session.train(order, dict(world.initial))[1]
    spent = world.ledger.spent()
    world.ledger.close()
    world.ledger = world.open_ledger()
    assert world.session().train(order, dict(world.initial))[1] == first
    assert world.ledger.spent() == spent


def test_a_round_is_noise_and_not_the_gradient(world: World, engine: Engine, panel: SalesPanel) -> None:
    """Two clients of the same sales send different bytes: the noise is theirs and not a seed's."""
    payloads = []
    for name in ("one", "two"):
        other = World(world.home.root.parent / name, engine, panel)
        session = other.session()
        session.describe(other.plan, dict(other.frozen))
        payload = session.train(other.order(1, other.initial), dict(other.initial))[1]
        assert payload is not None
        payloads.append(decode_int8(tensors_from_bytes(payload), other.plan.adapter.tensors))
        other.ledger.close()
    flat = [np.concatenate([value.ravel() for value in one.values()]) for one in payloads]
    assert abs(np.corrcoef(*flat)[0, 1]) < 0.5
    plan = world.plan.privacy
    assert plan is not None
    bucket = plan.buckets["S"]
    expected = bucket.noise_multiplier * plan.clip / bucket.expected_batch
    assert flat[0].std() == pytest.approx(expected, rel=0.2)


def no_noise(world: World) -> FederationPlan:
    assert world.plan.privacy is not None
    bucket = {"q": 1, "noise_multiplier": 0, "expected_batch": 9}
    return world.altered(privacy={**world.plan.privacy.model_dump(), "buckets": {"S": bucket}})


LIES: dict[str, Callable[[World], FederationPlan]] = {
    "no privacy": lambda w: w.altered(privacy=None, wire="float32"),
    "no noise": no_noise,
    "more rounds": lambda w: w.altered(rounds=500),
    "a larger clip": lambda w: w.altered(privacy={**w.plan.privacy.model_dump(), "clip": 99.0}),  # type: ignore[union-attr]
    "a larger delta": lambda w: w.altered(privacy={**w.plan.privacy.model_dump(), "delta": 1e-3}),  # type: ignore[union-attr]
    "another bucket": lambda w: w.altered(
        privacy={**w.plan.privacy.model_dump(), "buckets": {"L": w.plan.privacy.buckets["S"].model_dump()}}  # type: ignore[union-attr]
    ),
    "another backbone": lambda w: w.altered(backbone_sha256="0" * 64),
    "weekly sales": lambda w: w.altered(freq="W"),
    "too long a context": lambda w: w.altered(context=512),
    "a tensor that is not LoRA": lambda w: w.altered(
        adapter={
            **w.plan.adapter.model_dump(),
            "tensors": [{"name": "sales", "shape": (9, 2)}],
        }
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_plan_that_lies_is_declined_and_the_reason_stays_here(world: World, lie: str) -> None:
    session = world.session()
    answer = session.describe(LIES[lie](world), dict(world.frozen))
    assert answer.model_dump() == {"answer": "declined", "bucket": None}
    assert world.ledger.accounts == ()
    assert session.declined
    assert world.events[-1].kind == "declined"
    reply, payload = session.train(world.order(1, world.initial, LIES[lie](world)), dict(world.initial))
    assert (reply.answer, payload) == ("declined", None)


def test_frozen_tensors_other_than_the_plans_are_refused(world: World) -> None:
    altered = {name: value + 1 for name, value in world.frozen.items()}
    assert world.session().describe(world.plan, altered).answer == "declined"


def test_a_plan_cannot_change_after_it_was_accepted(world: World) -> None:
    session = world.session()
    assert session.describe(world.plan, dict(world.frozen)).answer == "accepted"
    assert session.describe(world.altered(windows_per_series=4), dict(world.frozen)).answer == "declined"
    assert session.describe(world.plan, dict(world.frozen)).answer == "accepted"


def wrong_adapters(good: Tensors) -> dict[str, dict[str, Any]]:
    name = next(iter(good))
    return {
        "shape": {**good, name: np.zeros((1, 1), np.float32)},
        "missing": {n: v for n, v in good.items() if n != name},
        "extra": {**good, "sales": np.zeros(3, np.float32)},
        "nan": {**good, name: np.full_like(good[name], np.nan)},
        "giant": {**good, name: np.full_like(good[name], 1e6)},
        "dtype": {**good, name: good[name].astype(np.float64)},
    }


@pytest.mark.parametrize("kind", ["shape", "missing", "extra", "nan", "giant", "dtype"])
def test_a_wrong_adapter_is_refused_before_anything_is_charged(world: World, kind: str) -> None:
    session = world.session()
    session.describe(world.plan, dict(world.frozen))
    wrong = wrong_adapters(world.initial)[kind]
    reply, payload = session.train(world.order(1, wrong), wrong)
    assert (reply.answer, payload) == ("declined", None)
    assert world.ledger.spent() == 0


def test_a_round_cannot_be_asked_again_with_other_weights(world: World) -> None:
    session = world.session()
    session.describe(world.plan, dict(world.frozen))
    session.train(world.order(1, world.initial), dict(world.initial))
    spent = world.ledger.spent()
    other = {name: value + np.float32(0.01) for name, value in world.initial.items()}
    assert session.train(world.order(1, other), dict(other))[0].answer == "declined"
    assert session.train(world.order(ROUNDS + 1, other), dict(other))[0].answer == "declined"
    assert world.ledger.spent() == spent


def test_an_adapter_under_another_hash_is_refused(world: World) -> None:
    session = world.session()
    session.describe(world.plan, dict(world.frozen))
    order = world.order(1, {name: value + 1 for name, value in world.initial.items()})
    assert session.train(order, dict(world.initial))[0].answer == "declined"


def test_adopting_has_one_reply_whatever_comes(world: World) -> None:
    session = world.session()
    session.describe(world.plan, dict(world.frozen))
    order = AdoptOrder(
        federation="test", round=1, plan_sha256=world.plan.sha256(), adapter_sha256="0" * 64, final=False
    )
    good = order.model_copy(update={"adapter_sha256": tensors_sha256(world.initial)})
    replies = {
        session.adopt(one, dict(weights)).canonical()
        for one, weights in ((order, world.initial), (good, world.initial), (good, {}))
    }
    assert replies == {'{"answer":"received"}'}
    assert session.adopted is not None


def test_without_training_the_shared_adapter_is_received_and_nothing_is_charged(world: World) -> None:
    session = world.session(adapter_only=True)
    assert session.describe(world.plan, dict(world.frozen)).answer == "declined"
    order = AdoptOrder(
        federation="test",
        round=ROUNDS,
        plan_sha256=world.plan.sha256(),
        adapter_sha256=tensors_sha256(world.initial),
        final=True,
    )
    session.adopt(order, dict(world.initial))
    assert session.adopted is not None
    assert world.ledger.accounts == ()


@pytest.mark.parametrize("declared", [None, "2024-08-31"])
def test_a_series_that_ends_later_does_not_move_the_training_of_the_others(
    world: World, engine: Engine, sales: pd.DataFrame, declared: str | None
) -> None:
    """What the session trains on, with and without a product that sold for two months more."""
    dates = pd.date_range("2024-02-01", "2024-07-20")
    late = pd.DataFrame({"date": dates, "store": "s0", "product": "late", "units": 4.0, "price": 1.0, "promo": 0})
    found = []
    for name, table in (("without", sales), ("with", pd.concat([sales, late]))):
        panel = from_frame(table, freq="D", period=(None, declared))
        other = World(world.home.root.parent / f"{name}-{declared}", engine, panel)
        session = other.session()
        assert session.describe(other.plan, dict(other.frozen)).answer == "accepted", session.declined
        data = session._data
        assert data is not None
        units = [unit for unit, rows in enumerate(data.units) if "late" not in data.windows.ids[rows[0]]]
        found.append(data.draw(units, 3, lambda n: np.linspace(0.001, 0.999, n)))
        other.ledger.close()
    for one, two in zip(found[0].__dict__.values(), found[1].__dict__.values(), strict=True):
        assert (one is two is None) or torch.equal(one, two)


def test_messages_have_one_size_whatever_the_sales(world: World, engine: Engine, sales: pd.DataFrame) -> None:
    """Retailers of other size, scale and names send messages of identical names, shapes and length."""
    shapes, sizes = set(), set()
    small = sales[sales["product"].isin(["p0", "p1", "p2"])]
    renamed = sales.assign(product=sales["product"] + " a very long name " * 5, units=sales["units"] * 1000)
    for name, table in (("usual", sales), ("small", small), ("large", renamed)):
        other = World(world.home.root.parent / name, engine, from_frame(table))
        session = other.session()
        assert session.describe(other.plan, dict(other.frozen)).answer == "accepted"
        payload = session.train(other.order(1, other.initial), dict(other.initial))[1]
        assert payload is not None
        sizes.add(len(payload))
        shapes.add(tuple((n, v.shape, str(v.dtype)) for n, v in sorted(tensors_from_bytes(payload).items())))
        other.ledger.close()
    assert len(sizes) == 1
    assert len(shapes) == 1


def test_a_client_larger_than_its_bucket_stays_within_what_the_server_takes(world: World) -> None:
    """Its many series could add up to more than the bound; what is sent is shortened after the noise."""
    plan = world.altered(
        privacy={
            **world.plan.privacy.model_dump(),  # type: ignore[union-attr]
            "clip": 1e-5,
            "epsilon": 7.99,
            "buckets": {"S": {"q": 1, "noise_multiplier": 2.0, "expected_batch": 1}},
        }
    )
    session = world.session()
    assert session.describe(plan, dict(world.frozen)).answer == "accepted", session.declined
    payload = session.train(world.order(1, world.initial, plan), dict(world.initial))[1]
    assert payload is not None
    delta = decode_int8(tensors_from_bytes(payload), plan.adapter.tensors)
    assert total_norm(delta) <= norm_bound(plan, "S")
    tight = {name: value * np.float32(1e3) for name, value in delta.items()}
    assert total_norm(_within(tight, 0.5)) == pytest.approx(0.5, rel=1e-4)
    assert _within(delta, 1e9) is delta


def test_a_device_that_fails_the_self_test_never_trains(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from trend_common.privacy import selftest

    def wrong(*_: object, **__: object) -> None:
        raise PolicyError("The gradients are not those of single series.", "")

    monkeypatch.setattr(world.engine, "tested", None)
    monkeypatch.setattr(selftest, "run_selftest", wrong)
    session = world.session()
    assert session.describe(world.plan, world.frozen).answer == "declined"
    assert session.declined is not None
    assert "not those of single series" in session.declined
    monkeypatch.undo()
    assert world.session().describe(world.plan, world.frozen).answer == "accepted"


def test_the_ledger_notes_that_an_answer_went_out(world: World) -> None:
    session = world.session()
    session.describe(world.plan, world.frozen)
    session.train(world.order(1, world.initial), world.initial)
    path = world.home.ledger_folder / "ledger.jsonl"
    kinds = [kind for kind in ("reserve", "seal", "sent") if f'"{kind}"' in path.read_text("utf-8")]
    assert kinds == ["reserve", "seal", "sent"]
