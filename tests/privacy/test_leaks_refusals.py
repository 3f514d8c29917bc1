"""What a server hears of a client that declines or fails: always the same, whatever the reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from flwr.app import Message, RecordDict
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.task_identity import TaskIdentity

from trend_client.app import make_app
from trend_client.engine import Engine
from trend_client.home import ClientHome
from trend_client.session import ClientSession
from trend_common import adapters
from trend_common.errors import DataError, PolicyError, UsageError
from trend_common.flower.bundle import FAB_SHA256
from trend_common.flower.node import ACTIONS, ERROR_CODE, ERROR_REASON, _Worker
from trend_common.flower.records import pack
from trend_common.panel import SalesPanel, from_frame
from trend_common.privacy.ledger import Ledger
from trend_common.privacy.plan import make_privacy_plan
from trend_common.privacy.policy import Policy
from trend_common.protocol import AdoptOrder, AdoptReply, DescribeReply, FederationPlan, TrainOrder, TrainReply
from trend_common.tensors import tensors_sha256


class World:
    """One client in this process, asked through its app as the connection would ask it."""

    def __init__(self, root: Path, engine: Engine, panel: SalesPanel, **policy: Any) -> None:
        self.engine = engine
        home = ClientHome(root)
        allowed = Policy(**policy)
        adapter, self.initial, self.frozen = adapters.initial_adapter(
            engine.release(), rank=2, alpha=4, targets=engine.backbone.lora_targets, train="B"
        )
        privacy = make_privacy_plan(epsilon=4, delta=1e-5, clip=0.02, rounds=2, steps=1, buckets={"S": (1.0, 20)})
        self.plan = FederationPlan(
            federation="test",
            backbone="tiny",
            backbone_sha256=engine.sha256,
            adapter=adapter,
            freq="D",
            horizon=14,
            context=28,
            rounds=2,
            steps=1,
            windows_per_series=1,
            update="gradient",
            local_learning_rate=0.0,
            proximal_mu=0.0,
            privacy=privacy,
        )
        self.ledger = Ledger(
            home.ledger_folder / "ledger.jsonl",
            head_path=root / "head.json",
            epsilon_total=allowed.epsilon_total,
            delta=allowed.delta_max,
        )
        self.session = ClientSession(home=home, engine=engine, panel=panel, policy=allowed, ledger=self.ledger)
        self.worker = _Worker(make_app(self.session), self, FAB_SHA256, ACTIONS, lambda _: None)  # type: ignore[arg-type]
        self.question: Message | None = None

    # What the worker asks of a connection.
    node_id = 7

    def fab_hash(self, _run: int) -> str:
        return FAB_SHA256

    def fetch(self, *_: object) -> Message:
        assert self.question is not None
        return self.question

    def ask(self, action: str, content: RecordDict) -> bytes:
        """The answer as the bytes of its objects, without ids and times."""
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 0
        self.question = Message(content, 7, action)
        self.question.metadata.__dict__.update(_message_id="1" * 64, _run_id=1, _src_node_id=1)
        reply, _ = self.worker._answer(self.question, ObjectTree())
        if reply.has_error():
            return f"{reply.error.code} {reply.error.reason}".encode()
        return b"".join(one.deflate() for _, one in sorted(get_all_nested_objects(reply.content).items()))

    def whole(self, plan: FederationPlan | None = None) -> list[bytes]:
        """Everything that the server hears of this client in a federation that it declines."""
        plan = plan or self.plan
        order = TrainOrder(
            federation="test", round=1, plan_sha256=plan.sha256(), adapter_sha256=tensors_sha256(self.initial)
        )
        last = AdoptOrder(
            federation="test",
            round=2,
            plan_sha256=plan.sha256(),
            adapter_sha256=tensors_sha256(self.initial),
            final=True,
        )
        return [
            self.ask("query.describe", pack(plan, self.frozen)),
            self.ask("train", pack(order, self.initial)),
            self.ask("query.adopt", pack(last, self.initial)),
        ]


@pytest.fixture(scope="module")
def engine(tiny_backbone: Path) -> Engine:
    return Engine(str(tiny_backbone), device="cpu")


def short(frame: pd.DataFrame) -> SalesPanel:
    return from_frame(frame[frame["date"] < frame["date"].min() + pd.Timedelta(days=20)])


def raising(error: Exception) -> Callable[[World, pytest.MonkeyPatch], None]:
    def prepare(world: World, patch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise error

        patch.setattr(world.session, "_training_data", fail)

    return prepare


def adapter_only(world: World, _: pytest.MonkeyPatch) -> None:
    world.session.adapter_only = True


REASONS: dict[str, tuple[dict[str, Any], Callable[[World, pytest.MonkeyPatch], None] | None]] = {
    "costs too much": ({"epsilon_per_federation": 1.0}, None),
    "too little noise": ({"noise_multiplier_min": 50.0}, None),
    "another bucket": ({"bucket": "L"}, None),
    "takes the adapter only": ({}, adapter_only),
    "data too short": ({}, raising(DataError("Knirps sold 17 times only", "sell more"))),
    "data not usable": ({}, raising(UsageError("Knirps is not a series"))),
    "policy": ({}, raising(PolicyError("58 series"))),
}


@pytest.mark.parametrize("reason", REASONS)
def test_a_declined_federation_looks_the_same_whatever_the_reason(
    tmp_path: Path, engine: Engine, panel: SalesPanel, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, prepare = REASONS[reason]
    world = World(tmp_path / "home", engine, panel, **policy)
    if prepare is not None:
        prepare(world, monkeypatch)
    answers = world.whole()
    world.ledger.close()
    assert world.session.declined
    assert [b"Knirps" in one or b"58" in one for one in answers] == [False] * 3
    refused = TrainReply(answer="declined", federation="test", round=1)
    expected = [
        b"".join(one.deflate() for _, one in sorted(get_all_nested_objects(pack(model)).items()))
        for model in (DescribeReply(answer="declined"), refused, AdoptReply())
    ]
    assert answers == expected


def test_a_history_that_is_too_short_is_declined_like_anything_else(
    tmp_path: Path, engine: Engine, sales: pd.DataFrame, panel: SalesPanel
) -> None:
    """Through the real path, and not by a patched one."""
    few = World(tmp_path / "few", engine, short(sales))
    costly = World(tmp_path / "costly", engine, panel, epsilon_total=1.0)
    assert few.whole() == costly.whole()
    for world in (few, costly):
        world.ledger.close()


@pytest.mark.parametrize(
    "error",
    [ValueError("Knirps: 58 series"), MemoryError("7654321 rows"), KeyError("Wolkenbruchgasse"), ZeroDivisionError()],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("stage", ["_training_data", "_private_delta"])
def test_a_failure_says_the_same_constant_whatever_failed(
    tmp_path: Path, engine: Engine, panel: SalesPanel, error: Exception, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path / "home", engine, panel)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(world.session, stage, fail)
    answers = world.whole()
    world.ledger.close()
    constant = f"{ERROR_CODE} {ERROR_REASON}".encode()
    assert answers[0 if stage == "_training_data" else 1] == constant
    for answer in answers:
        assert not re.search(rb"Knirps|58|7654321|Wolkenbruch", answer)
