"""Retailers of secure rounds with known deltas: the real protocol of client and server, without a model or sales."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from trend_client.app import answer_secure_rounds
from trend_client.secure import SecureRounds
from trend_common.flower.inprocess import InProcessGrid
from trend_common.flower.keys import new_private_key, public_key_text
from trend_common.flower.records import reply, tensors_to_bytes, unpack
from trend_common.protocol import (
    BODY_KEY,
    AdapterPlan,
    AdoptOrder,
    AdoptReply,
    DescribeReply,
    FederationPlan,
    SecureAggregationPlan,
    TrainOrder,
)
from trend_common.secagg.fixedpoint import FIXED_KEY
from trend_common.secagg.messages import ACTION_KEYS, RosterEntry
from trend_common.tensors import Tensors, TensorSpec, tensors_sha256
from trend_server.checkpoints import Store
from trend_server.desk import FederationEvent
from trend_server.federation import Federation, FederationResult, LoopSettings

SIZE = 7
KEYS = [new_private_key() for _ in range(8)]
"""Enrolled keys; made once, since their making is slow."""
ADDED = LoopSettings(min_clients=3, round_timeout=None, patience=0.0, optimiser="none")
"""The adapter is the sum of the means of all rounds."""


def secure_plan(
    *, rounds: int = 1, min_clients: int = 3, threshold: float = 0.5, max_clients: int = 128, reach: float = 1.0
) -> FederationPlan:
    """A plan of one tensor of seven numbers, without noise."""
    return FederationPlan(
        federation="sum",
        backbone="tiny",
        backbone_sha256="b" * 64,
        adapter=AdapterPlan(
            rank=1,
            alpha=1,
            targets=("layer",),
            tensors=(TensorSpec(name="x", shape=(SIZE,)),),
            frozen_sha256=tensors_sha256({}),
        ),
        freq="D",
        horizon=28,
        context=56,
        rounds=rounds,
        steps=2,
        windows_per_series=1,
        update="weights",
        local_learning_rate=0.1,
        proximal_mu=0,
        privacy=None,
        wire="fixed32",
        secure_aggregation=SecureAggregationPlan(
            min_clients=min_clients, max_clients=max_clients, threshold=threshold, range=reach
        ),
    )


def words(seed: int, round_number: int = 1) -> np.ndarray:
    """A retailer's fixed-point delta, positive and negative."""
    rng = np.random.default_rng([seed, round_number])
    return rng.integers(-(2**23), 2**23, SIZE).astype(np.int64).astype(np.uint32)


class Retailer:
    """One client; ``session`` stands in for a ClientSession."""

    def __init__(self, place: int, root: Path, plan: FederationPlan) -> None:
        self.place, self.plan, self.root = place, plan, root / f"r{place}"
        self.key: ec.EllipticCurvePrivateKey = KEYS[place]
        self.asked: list[str] = []
        self.said: list[str] = []
        self.adopted: Tensors | None = None
        self.restart()

    def restart(self) -> None:
        """A new process on the same home."""
        session: Any = SimpleNamespace(
            home=SimpleNamespace(federation=lambda name: self.root / name),
            agreed=lambda order: self.plan,
            sealed=self.sealed,
            say=lambda event: self.said.append(event.text),
            note=lambda *_, **__: None,
        )
        self.secure = SecureRounds(session, self.key)
        self.app = self._app(session)

    def sealed(self, order: TrainOrder, adapter: Mapping[str, Any]) -> bytes:
        """The same bytes for the same round, as the ledger has it."""
        return tensors_to_bytes({FIXED_KEY: words(self.place, order.round)})

    def _app(self, session: Any) -> ClientApp:
        app = ClientApp()

        @app.query("describe")
        def describe(message: Message, _: Context) -> Message:
            return reply(message, DescribeReply(answer="accepted", bucket="S"))

        @app.query("adopt")
        def adopt(message: Message, _: Context) -> Message:
            self.adopted = unpack(message.content, AdoptOrder, tensors=True)[1]
            return reply(message, AdoptReply())

        answer_secure_rounds(app, session, self.secure)
        return app


Drop = Callable[[int, str, int], bool]
"""(place, action, how often this client was asked this before) → whether it fails to answer."""
Tamper = Callable[[int, Message], None]


class SilentGrid(InProcessGrid):
    """Some questions of some clients are lost, and nobody says so."""

    silent: frozenset[tuple[int, str]] = frozenset()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """See InProcessGrid."""
        ids = list(super().push_messages(messages))
        kept = [m for m in self._waiting if (m.metadata.dst_node_id, m.metadata.message_type) not in self.silent]
        self._waiting = type(self._waiting)(kept)
        return ids


class World:
    """Retailers, a grid that can lose and alter messages, and a server that can be started again."""

    def __init__(
        self,
        root: Path,
        n: int,
        plan: FederationPlan | None = None,
        *,
        drop: Drop = lambda *_: False,
        tamper: Tamper = lambda *_: None,
        spoil: Tamper = lambda *_: None,
    ) -> None:
        self.plan = plan or secure_plan()
        self.retailers = [Retailer(place, root, self.plan) for place in range(n)]
        self.drop, self.tamper, self.spoil = drop, tamper, spoil
        self.events: list[FederationEvent] = []
        self.replies: list[tuple[int, str, Message]] = []
        self.keys_asked: list[str] = []
        self.silent: set[tuple[int, str]] = set()

    def directory(self) -> dict[int, RosterEntry]:
        """Node ids are places."""
        return {
            one.place: RosterEntry(name=f"shop-{one.place}", public_key=public_key_text(one.key))
            for one in self.retailers
        }

    def _answering(self, place: int) -> Any:
        one = self.retailers[place]

        def answer(message: Message, context: Context) -> Message:
            action = message.metadata.message_type
            before = one.asked.count(action)
            one.asked.append(action)
            if self.drop(place, action, before):
                raise RuntimeError("gone")
            if action == ACTION_KEYS:
                self.keys_asked.append(str(message.content[BODY_KEY][BODY_KEY]))
            self.tamper(place, message)
            found = one.app(message, context)
            self.spoil(place, found)
            self.replies.append((place, action, found))
            return found

        return answer

    def federation(self, store: Store, settings: LoopSettings = ADDED) -> Federation:
        """A server on this store."""
        grid = SilentGrid(self._answering, range(len(self.retailers)), raise_errors=False)
        grid.silent = frozenset(self.silent)
        initial: Tensors = {"x": np.zeros(SIZE, np.float32)}
        return Federation(
            grid, self.plan, initial, {}, settings, store, self.events.append, str, directory=self.directory
        )

    def play(self, store: Store, settings: LoopSettings = ADDED) -> FederationResult:
        """A whole federation."""
        return self.federation(store, settings).run()

    def kinds(self) -> list[str]:
        """Of all events."""
        return [event.kind for event in self.events]

    def exact(self, places: Iterable[int], rounds: Iterable[int] = (1,)) -> np.ndarray:
        """The adapter that the exact sum of these retailers gives."""
        rules = self.plan.secure_aggregation
        assert rules is not None
        adapter = np.zeros(SIZE, np.float32)
        chosen = list(places)
        for number in rounds:
            total = sum(words(place, number).view(np.int32).astype(np.int64) for place in chosen)
            mean = (total * (rules.range / rules.levels) / len(chosen)).astype(np.float32)
            adapter = (adapter + mean).astype(np.float32)
        return adapter
