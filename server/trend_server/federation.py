"""The rounds of a federation: announce, train, hand over. The server and the simulation play this same loop.

A round is open until everybody who was asked has answered, or until its deadline; it closes with whoever answered if
that is at least the minimum, else it goes on. What came in is aggregated, the optimiser takes a step, and the
checkpoint is on disk before the next round opens. So a crash anywhere repeats at most one round, with the same
question, to which clients give the same bytes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from flwr.app import RecordDict

from trend_common.errors import ConnectionFailure, Declined, PolicyError, UsageError
from trend_common.flower.grid import RoundGrid
from trend_common.flower.records import pack
from trend_common.protocol import ACTION_ADOPT, ACTION_DESCRIBE, ACTION_TRAIN, AdoptOrder, FederationPlan, TrainOrder
from trend_common.tensors import Tensors, check_tensors, tensors_sha256, total_norm
from trend_server.checkpoints import Checkpoint, MemoryStore, RoundRecord, Store
from trend_server.desk import Answer, Desk, EventKind, FederationEvent
from trend_server.replies import read_delta
from trend_server.secure_round import Directory, SecureRounds
from trend_server.strategy import Aggregator, make_aggregator, make_optimiser

__all__ = ["Federation", "FederationResult", "LoopSettings", "federate"]

_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 60.0
_MOST_SKIPPED: Final = 3
"""Rounds in a row without a sum after which a federation is given up: each spends privacy for nothing."""


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """How the rounds are played; none of it changes what a client computes.

    Attributes:
        min_clients: A round closes with at least this many answers.
        round_timeout: Seconds after which a round closes with whoever answered; None waits for everybody.
        patience: Seconds without enough clients after which the federation is given up; None waits for ever.
        aggregation: ``mean``, ``trimmed-mean`` or ``median``.
        trim: Share that ``trimmed-mean`` cuts at each end.
        optimiser: ``adam``, ``sgd`` or ``none`` (the mean change is applied as it is).
        learning_rate, betas: Of the optimiser.
        adopt_timeout: Seconds to wait at the end until everybody has the adapter.
    """

    min_clients: int = 1
    round_timeout: float | None = 600.0
    patience: float | None = None
    aggregation: str = "mean"
    trim: float = 0.2
    optimiser: str = "adam"
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    adopt_timeout: float = 30.0


@dataclass(frozen=True)
class FederationResult:
    """What came of it.

    Attributes:
        plan: What was agreed to.
        adapter: The shared adapter (the tensors that were trained).
        history: One record for each round.
        accepted: Clients that ever accepted the plan, by node id.
        adopted: Clients that have received the final adapter, by node id.
    """

    plan: FederationPlan
    adapter: Tensors
    history: tuple[RoundRecord, ...]
    accepted: tuple[int, ...]
    adopted: tuple[int, ...]


@dataclass
class _Round:
    """An open round."""

    order: TrainOrder
    adapter: Tensors
    aggregator: Aggregator
    invited: set[int]
    answered: set[int]
    deadline: float
    opened: float
    questions: dict[int, RecordDict] = field(default_factory=dict)

    def question(self, answered: int) -> RecordDict:
        """For the clients that have answered so many rounds; the order alone differs."""
        if answered not in self.questions:
            self.questions[answered] = pack(self.order.model_copy(update={"answered": answered}), self.adapter)
        return self.questions[answered]


class Federation:
    """One federation; see :func:`federate` for the arguments."""

    def __init__(
        self,
        grid: RoundGrid,
        plan: FederationPlan,
        initial: Tensors,
        frozen: Tensors,
        settings: LoopSettings,
        store: Store,
        events: Callable[[FederationEvent], None],
        name_of: Callable[[int], str],
        directory: Directory | None = None,
    ) -> None:
        self.plan = plan
        self.settings = settings
        self._grid = grid
        self._store = store
        self._events = events
        self._initial = check_tensors(initial, plan.adapter.tensors, "the initial adapter")
        check_tensors(frozen, plan.adapter.frozen, "the frozen tensors")
        self.desk = Desk(grid, plan, frozen, self._say, name_of)
        self._plan_sha256 = plan.sha256()
        self._ever: set[int] = set()
        self._asked: dict[int, str] = {}
        self._answers: dict[int, int] = {}
        self._round = 0
        self._optimiser = make_optimiser(settings.optimiser, settings.learning_rate, settings.betas)
        make_aggregator(settings.aggregation, plan.adapter.tensors, trim=settings.trim)  # refuses a wrong name now
        self._secure: SecureRounds | None = None
        if plan.secure_aggregation is not None:
            if settings.aggregation != "mean" or directory is None:
                raise UsageError(
                    f"Secure aggregation reveals the sum alone: there is no {settings.aggregation} of the clients.",
                    'Use aggregation = "mean", or a federation without secure aggregation.',
                )
            self._secure = SecureRounds(
                grid=grid,
                desk=self.desk,
                plan=plan,
                store=store,
                directory=directory,
                events=events,
                enough_clients=self._enough_clients,
                lose_patience=self._lose_patience,
                answered=lambda node_id: self._answers.get(node_id, 0),
                timeout=settings.round_timeout,
            )

    def train(self) -> Checkpoint:
        """Play all rounds that are not yet complete, and return the state after the last.

        Raises:
            Declined: Nobody who is there accepts the plan, and the patience is over.
            ConnectionFailure: Too few clients answer, and the patience is over.
        """
        found = self._store.load(self.plan)
        state = found or Checkpoint(0, self._plan_sha256, self._initial)
        self._optimiser.state, self._optimiser.steps = dict(state.optimiser), state.optimiser_steps
        self._round, self._answers = state.round, dict(state.answers)
        if found is not None:
            self._tell("resumed", f"Resuming after round {state.round} of {self.plan.rounds}.")
        while state.round < self.plan.rounds:
            state = self._play(state)
            self._store.save(state)
            self._round = state.round
            recent = [record.participants for record in state.history[-_MOST_SKIPPED:]]
            if recent == [0] * _MOST_SKIPPED:
                raise ConnectionFailure(
                    f"{_MOST_SKIPPED} rounds in a row came to no sum.",
                    "See above why clients dropped out. The same command goes on with the next round.",
                )
        self._tell("finished", f"All {self.plan.rounds} rounds are complete.")
        return state

    def run(self) -> FederationResult:
        """:meth:`train`, then :meth:`hand_over` to everybody who took part or is there."""
        state = self.train()
        self.hand_over(state.adapter, seconds=self.settings.adopt_timeout)
        return FederationResult(
            self.plan,
            state.adapter,
            state.history,
            tuple(sorted(self._ever)),
            tuple(sorted(node_id for node_id, member in self.desk.members.items() if member.adopted)),
        )

    def hand_over(self, adapter: Tensors, *, seconds: float | None) -> None:
        """Give the final adapter to everybody who is or comes online.

        Args:
            adapter: The shared adapter.
            seconds: Until when to wait for those who took part and do not have it yet; None stays for ever.
        """
        order = AdoptOrder(
            federation=self.plan.federation,
            round=self.plan.rounds,
            plan_sha256=self._plan_sha256,
            adapter_sha256=tensors_sha256(adapter),
            final=True,
        )
        question = pack(order, adapter)
        end = math.inf if seconds is None else time.monotonic() + seconds
        while True:
            for answer in self.desk.look():
                self.desk.adopted(answer)
            # Whoever has not answered to the plan does not know yet what the tensors are.
            ready = [n for n in self.desk.online if self.desk.wants_adapter(n) and self.desk.members[n].answer]
            self.desk.ask(ready, ACTION_ADOPT, question, seconds=seconds)
            self._ever |= self.desk.accepted()
            if seconds is not None and not any(map(self.desk.wants_adapter, self._ever | set(self.desk.online))):
                return
            if time.monotonic() >= end:
                self.desk.withdraw(ACTION_ADOPT)
                return
            self._grid.wait(self._grid.poll_interval)

    def _play(self, state: Checkpoint) -> Checkpoint:
        number = state.round + 1
        self._round = number
        order = TrainOrder(
            federation=self.plan.federation,
            round=number,
            plan_sha256=self._plan_sha256,
            adapter_sha256=tensors_sha256(state.adapter),
        )
        if self._secure is not None:
            found = self._secure.play(order, state.adapter)
            self._ever |= self.desk.accepted()
            return self._close(state, found.mean, found.clients, found.seconds)
        invited = self._enough_clients()
        now = time.monotonic()
        schema = self.plan.adapter.tensors
        one = _Round(
            order=order,
            adapter=state.adapter,
            aggregator=make_aggregator(self.settings.aggregation, schema, trim=self.settings.trim),
            invited=invited,
            answered=set(),
            deadline=now + (self.settings.round_timeout or math.inf),
            opened=now,
        )
        self._collect(one)
        return self._close(state, one.aggregator.result(), one.answered, time.monotonic() - one.opened, one)

    def _close(
        self, state: Checkpoint, mean: Tensors | None, clients: set[int], seconds: float, one: _Round | None = None
    ) -> Checkpoint:
        """The server's step on the mean of ``clients``; None leaves the adapter as it is."""
        number, adapter = state.round + 1, state.adapter
        if mean is not None:
            gradient = mean if self.plan.update == "gradient" else {name: -value for name, value in mean.items()}
            adapter = self._optimiser.step(adapter, gradient)
            check_tensors(adapter, self.plan.adapter.tensors, "the adapter after the server's step")
        record = RoundRecord(
            round=number,
            participants=len(clients),
            update_norm=total_norm(mean or {}),
            adapter_sha256=tensors_sha256(adapter),
            seconds=round(seconds, 3),
        )
        self._answers |= {node_id: self._answers.get(node_id, 0) + 1 for node_id in clients}
        told = f"{len(clients)} answers in {record.seconds:.1f} s"
        self._tell("closed", f"Round {number} of {self.plan.rounds} is complete: {told}.", one)
        return Checkpoint(
            round=number,
            plan_sha256=self._plan_sha256,
            adapter=adapter,
            optimiser=dict(self._optimiser.state),
            optimiser_steps=self._optimiser.steps,
            history=(*state.history, record),
            answers=dict(self._answers),
        )

    def _enough_clients(self) -> set[int]:
        """Wait until the minimum has accepted the plan; return all who have."""
        since = time.monotonic()
        told = -1
        while True:
            for _ in self.desk.look():
                pass  # nothing is open but the plan
            accepted = self.desk.accepted()
            pending = self.desk.outstanding(ACTION_DESCRIBE)
            if len(accepted) >= self.settings.min_clients and not (pending and time.monotonic() < since + 1.0):
                # Whoever is just reading the plan gets a second before the round opens without him.
                return accepted
            if len(accepted) != told:
                told = len(accepted)
                self._tell("waiting", f"Waiting for clients: {told} of {self.settings.min_clients} have accepted.")
            if not pending:
                self._lose_patience(since, len(accepted))
            self._grid.wait(max(self._grid.poll_interval, 0.01))

    def _collect(self, one: _Round) -> None:
        """Ask, and take answers until the round may close."""
        minimum = self.settings.min_clients
        self._tell("opened", f"Round {one.order.round} of {self.plan.rounds} is open.", one)
        self._ask(one, one.invited)
        pause, retry_at, progress = _FIRST_PAUSE, math.inf, one.opened
        while True:
            for answer in self.desk.look():
                if self._take(one, answer):
                    progress = time.monotonic()
            missing = (self.desk.accepted() & one.invited) - one.answered
            failed = missing - self.desk.outstanding(ACTION_TRAIN)
            # A client that started anew in this round, and has accepted again, is asked again at once.
            again = {n for n in failed if n in self._fresh}
            if again:
                self._ask(one, again)
            waiting = self.desk.outstanding(ACTION_TRAIN) or self._returning(one)
            now = time.monotonic()
            if len(one.answered) >= minimum and (not waiting or now >= one.deadline):
                break
            if now >= one.deadline:
                one.deadline = now + (self.settings.round_timeout or math.inf)
                self._tell("extended", f"Only {len(one.answered)} of {minimum} answers: the round goes on.", one)
                retry_at = now
            if not waiting and retry_at == math.inf:
                self._lose_patience(progress, len(one.answered))
                retry_at, pause = now + pause, min(2 * pause, _LONGEST_PAUSE)
            if now >= retry_at:
                one.invited |= self.desk.accepted()
                self._ask(one, one.invited - one.answered)
                retry_at = math.inf
            self._grid.wait(min(self._grid.poll_interval, max(0.01, one.deadline - now)))
        self.desk.withdraw(ACTION_TRAIN)

    @property
    def _fresh(self) -> set[int]:
        """Clients that have accepted in a session in which they were not asked to train yet."""
        return {n for n in self.desk.accepted() if self._asked.get(n) != self.desk.online[n]}

    def _returning(self, one: _Round) -> bool:
        """Whether somebody of this round is back and is just reading the plan again."""
        members = self.desk.members
        return any(n in one.invited - one.answered and members[n].answer is None for n in self.desk.online)

    def _ask(self, one: _Round, node_ids: set[int]) -> None:
        targets = sorted(node_ids & self.desk.accepted())
        left = one.deadline - time.monotonic()
        seconds = None if math.isinf(left) else max(left, 1.0)
        for answered in sorted({self._answers.get(node_id, 0) for node_id in targets}):
            group = [node_id for node_id in targets if self._answers.get(node_id, 0) == answered]
            self.desk.ask(group, ACTION_TRAIN, one.question(answered), seconds=seconds)
        self._asked |= {node_id: self.desk.online[node_id] for node_id in targets}

    def _take(self, one: _Round, answer: Answer) -> bool:
        """Judge one answer to ``train``; return whether it counts."""
        node_id, name = answer.node_id, self.desk.name_of(answer.node_id)
        member = self.desk.members[node_id]
        if answer.action != ACTION_TRAIN or node_id in one.answered:
            return False
        if answer.message is None:
            self._tell("failed", f"{name} could not answer round {one.order.round}.", one, node_id)
            return False
        if member.bucket is None:
            return False
        try:
            tensors = read_delta(answer.message, self.plan, one.order, member.bucket)
        except PolicyError as error:
            self._tell("rejected", f"The answer of {name} is refused: {error.message}", one, node_id)
            return False
        if tensors is None:
            member.answer, member.bucket = "declined", None
            self._tell("declined", f"{name} declines round {one.order.round} and those after it.", one, node_id)
            return False
        one.aggregator.add(tensors)
        one.answered.add(node_id)
        self._tell("received", f"{name} has answered round {one.order.round}.", one, node_id)
        return True

    def _lose_patience(self, since: float, have: int) -> None:
        patience = self.settings.patience
        if patience is None or time.monotonic() - since < patience:
            return
        answers = [member.answer for member in self.desk.members.values()]
        need = self.settings.min_clients
        if answers and all(answer == "declined" for answer in answers):
            raise Declined(
                f"All {len(answers)} clients declined the federation {self.plan.federation}.",
                "Each shows its reason on its own screen. Announce a plan that their policies allow.",
            )
        raise ConnectionFailure(
            f"The federation {self.plan.federation} needs {need} clients in round {max(self._round, 1)}, "
            f"and has {have}.",
            "Start more clients, or lower --min-clients.",
        )

    def _say(self, event: FederationEvent) -> None:
        self._events(
            FederationEvent(
                event.kind,
                event.text,
                round=self._round,
                rounds=self.plan.rounds,
                node_id=event.node_id,
                online=event.online,
            )
        )

    def _tell(self, kind: EventKind, text: str, one: _Round | None = None, node_id: int = 0) -> None:
        self._events(
            FederationEvent(
                kind,
                text,
                round=self._round,
                rounds=self.plan.rounds,
                node_id=node_id,
                received=len(one.answered) if one else 0,
                expected=len(one.invited) if one else 0,
                deadline=one.deadline if one and math.isfinite(one.deadline) else None,
                online=self.desk.names(),
            )
        )


def federate(
    grid: RoundGrid,
    plan: FederationPlan,
    initial: Tensors,
    frozen: Tensors,
    settings: LoopSettings,
    store: Store | None = None,
    events: Callable[[FederationEvent], None] = lambda _: None,
    *,
    name_of: Callable[[int], str] = lambda node_id: f"client {node_id}",
    directory: Directory | None = None,
) -> FederationResult:
    """Play a federation from where ``store`` left it to its end.

    Args:
        grid: The way to the clients.
        plan: What is announced.
        initial: The adapter before round 1 (the tensors that are trained).
        frozen: The tensors that travel with the plan.
        settings: How the rounds are played.
        store: Where the state after each round goes, and comes from after a crash; default: memory.
        events: Told what happens.
        name_of: A client's name for people.
        directory: Who has joined with which key; needed where the plan has secure aggregation.

    Raises:
        Declined: Nobody who is there accepts the plan, and the patience is over.
        ConnectionFailure: Too few clients answer, and the patience is over.
        PolicyError: The tensors do not fit the plan.
    """
    kept = store or MemoryStore()
    return Federation(grid, plan, initial, frozen, settings, kept, events, name_of, directory).run()
