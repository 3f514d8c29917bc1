"""A round of secure aggregation as the server plays it; the protocol is that of :mod:`trend_common.secagg`.

An attempt that loses too many clients before shares were asked for is repeated with fresh keys; the clients give it
the same sealed deltas. From then on the same question is asked until enough have answered, or the round is skipped:
the adapter stays as it is, and the next round opens. Before shares are asked for, all that is needed to go on lies on
disk, so a server that was killed asks the same question; killed earlier, it begins the round again with fresh keys,
among the same clients.
"""

from __future__ import annotations

import base64
import math
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from flwr.app import Message, RecordDict

from trend_common.errors import PolicyError
from trend_common.flower.grid import RoundGrid
from trend_common.flower.records import pack, unpack
from trend_common.privacy.plan import norm_bound
from trend_common.protocol import FederationPlan, TrainOrder, TrainReply, WireModel
from trend_common.secagg.fixedpoint import FIXED_KEY, decode
from trend_common.secagg.masks import Words
from trend_common.secagg.messages import (
    ACTION_CONFIRM,
    ACTION_KEYS,
    ACTION_MASKED,
    ACTION_SHARES,
    ACTION_UNMASK,
    Advert,
    Attempt,
    Box,
    ConfirmOrder,
    ConfirmReply,
    FederationRoster,
    KeysOrder,
    KeysReply,
    MaskedOrder,
    RosterEntry,
    SharesOrder,
    SharesReply,
    Signature,
    UnmaskOrder,
    UnmaskReply,
    transcript,
)
from trend_common.secagg.signing import is_signed, verified_advert
from trend_common.tensors import Tensors, total_norm
from trend_server.checkpoints import Store
from trend_server.desk import Desk, EventKind, FederationEvent
from trend_server.unmasking import read_shares, unmask

__all__ = ["Directory", "SecureRounds", "SecureSum"]

Directory = Callable[[], Mapping[int, RosterEntry]]
"""Who has joined: node id → name and enrolled key."""

_QUICK: Final = 60.0
"""Seconds at most for a step in which nobody trains."""
_TRIES: Final = 3
"""Attempts at a round in which masked vectors were sent already."""
_ROSTER: Final = "roster"
_STATE: Final = "secure-round"


@dataclass(frozen=True)
class SecureSum:
    """What came of a round: the mean of ``clients`` (node ids), or None for a round that was skipped."""

    mean: Tensors | None
    clients: set[int]
    seconds: float


class _Unmasking(WireModel):
    """All that the last step needs, so that a server that was killed goes on with the same question."""

    attempt: Attempt
    adverts: tuple[Advert, ...]
    senders: tuple[int, ...]
    survivors: tuple[int, ...]
    signatures: tuple[Signature, ...]
    masked: str


class _State(WireModel):
    """Of the round in which masked vectors were asked for."""

    order: TrainOrder
    members: tuple[int, ...]
    threshold: int
    unmasking: _Unmasking | None = None


class _TooFew(Exception):
    """An attempt has lost too many clients."""


class SecureRounds:
    """Plays the secure rounds of one federation.

    Args:
        grid, desk: The way to the clients.
        plan: With ``secure_aggregation``.
        store: Where the roster and the state of a round are kept.
        directory: Who has joined.
        events: Told what happens.
        enough_clients: Waits until as many as needed have accepted, and returns who has.
        lose_patience: Told since when how many are there, raises when that is too long.
        answered: Of a client, how many rounds it has answered; it is told.
        timeout: Seconds for training; None waits for everybody.
    """

    def __init__(
        self,
        *,
        grid: RoundGrid,
        desk: Desk,
        plan: FederationPlan,
        store: Store,
        directory: Directory,
        events: Callable[[FederationEvent], None],
        enough_clients: Callable[[], set[int]],
        lose_patience: Callable[[float, int], None],
        answered: Callable[[int], int],
        timeout: float | None,
    ) -> None:
        assert plan.secure_aggregation is not None
        self.plan, self.rules = plan, plan.secure_aggregation
        self._grid, self._desk, self._store, self._directory = grid, desk, store, directory
        self._events, self._enough_clients, self._lose_patience = events, enough_clients, lose_patience
        self._answered = answered
        self._timeout = timeout or math.inf
        self._roster: FederationRoster | None = None
        self._told: dict[int, str] = {}
        self._order: TrainOrder | None = None
        self._deadline = math.inf
        self._invited = 0

    def play(self, order: TrainOrder, adapter: Tensors) -> SecureSum:
        """Play one round to its sum, or to its being skipped.

        Raises:
            ConnectionFailure, Declined: Too few clients are there, and the patience is over.
        """
        started = time.monotonic()
        self._order = order
        state = self._kept(order)
        mean, clients = self._play(order, adapter, state)
        if mean is None:
            self._tell("skipped", f"Round {order.round} is skipped: the adapter stays as it is.")
        return SecureSum(mean, clients, time.monotonic() - started)

    def _play(self, order: TrainOrder, adapter: Tensors, state: _State | None) -> tuple[Tensors | None, set[int]]:
        since, pause, tries = time.monotonic(), 1.0, 0
        while True:
            if state is not None and state.unmasking is not None:
                return self._reveal(state.unmasking, state.threshold)
            nodes = self._candidates(state)
            if nodes is None:
                return None, set()
            try:
                state = self._attempt(order, adapter, nodes, state)
                continue
            except _TooFew as error:
                self._tell("extended", f"Round {order.round} begins again with fresh keys: {error}")
            state = self._kept(order)
            if state is not None:
                tries += 1
                if tries >= _TRIES:
                    return None, set()
            else:
                self._lose_patience(since, len(nodes))
                self._grid.wait(pause)
                pause = min(2 * pause, _QUICK)

    # -- who takes part --------------------------------------------------------------------------------------------

    def roster(self) -> FederationRoster:
        """Who may take part: those who had joined when the first round opened."""
        if self._roster is None:
            text = self._store.kept(_ROSTER)
            if text is not None:
                self._roster = FederationRoster.model_validate_json(text)
            else:
                members = sorted(self._directory().values(), key=lambda one: one.name)
                self._roster = FederationRoster(
                    federation=self.plan.federation, plan_sha256=self.plan.sha256(), members=tuple(members)
                )
                self._store.keep(_ROSTER, self._roster.canonical())
            count = len(self._roster.members)
            self._tell("waiting", f"Roster of {count} retailers, fingerprint {self._roster.fingerprint}.")
        return self._roster

    def _places(self) -> dict[int, int]:
        """Node id → place in the roster."""
        of = {entry.public_key: place for place, entry in enumerate(self.roster().members)}
        return {n: of[entry.public_key] for n, entry in self._directory().items() if entry.public_key in of}

    def _candidates(self, state: _State | None) -> dict[int, int] | None:
        """Node id → place of those who may take part; None if a retry does not find enough of its first clients."""
        needed = self.rules.min_clients if state is None else state.threshold
        since = time.monotonic()
        while True:
            accepted = self._enough_clients() if state is None else self._desk.accepted()
            places = self._places()
            found = {n: places[n] for n in accepted if n in places}
            if state is not None:
                found = {n: place for n, place in found.items() if place in state.members}
            if len(found) >= needed:
                return dict(sorted(found.items())[: self.rules.max_clients])
            if state is None:
                self._lose_patience(since, len(found))
            elif time.monotonic() - since > min(self._timeout, _QUICK):
                return None
            for _ in self._desk.look():
                pass  # nothing is open but the plan
            self._grid.wait(max(self._grid.poll_interval, 0.01))

    # -- one attempt -----------------------------------------------------------------------------------------------

    def _attempt(self, order: TrainOrder, adapter: Tensors, nodes: dict[int, int], state: _State | None) -> _State:
        """Everything up to the moment at which shares may be asked for."""
        roster, rules = self.roster(), self.rules
        attempt = Attempt(name=secrets.token_hex(16), order=order, roster_sha256=roster.sha256())
        self._invited = len(nodes)
        self._tell("opened", f"Round {order.round} of {self.plan.rounds} is open, for the sum alone.")
        adverts = self._keys(attempt, roster, nodes)
        threshold = max(rules.required(len(adverts)), state.threshold if state else 0)
        self._need(adverts, threshold, "sent keys")
        nodes = {n: place for n, place in nodes.items() if place in adverts}
        boxes = self._shares(attempt, threshold, adverts, nodes)
        self._need(boxes, threshold, "dealt shares")
        nodes = {n: place for n, place in nodes.items() if place in boxes}
        if state is None:
            state = _State(order=order, members=tuple(sorted(adverts)), threshold=threshold)
        self._store.keep(_STATE, state.canonical())
        total, survivors = self._masked(attempt, adapter, boxes, nodes)
        self._need(survivors, threshold, "sent their masked deltas")
        nodes = {n: place for n, place in nodes.items() if place in survivors}
        data = transcript(attempt, threshold, tuple(adverts.values()), tuple(boxes), tuple(survivors))
        signatures = self._confirm(attempt, survivors, data, nodes)
        self._need(signatures, threshold, "have confirmed the sum")
        unmasking = _Unmasking(
            attempt=attempt,
            adverts=tuple(adverts[place] for place in sorted(adverts)),
            senders=tuple(sorted(boxes)),
            survivors=tuple(sorted(survivors)),
            signatures=tuple(Signature(member=m, signature=s) for m, s in sorted(signatures.items())),
            masked=base64.b64encode(total.astype("<u4").tobytes()).decode("ascii"),
        )
        state = state.model_copy(update={"unmasking": unmasking, "threshold": threshold})
        self._store.keep(_STATE, state.canonical())
        return state

    def _keys(self, attempt: Attempt, roster: FederationRoster, nodes: dict[int, int]) -> dict[int, Advert]:
        with_roster = pack(KeysOrder(attempt=attempt, roster=roster))
        without = pack(KeysOrder(attempt=attempt))
        sessions = dict(self._desk.online)
        questions = {n: without if self._told.get(n) == sessions.get(n) else with_roster for n in nodes}
        found: dict[int, Advert] = {}

        def take(node: int, message: Message) -> None:
            advert = unpack(message.content, KeysReply, tensors=False)[0].advert
            if advert is None:
                raise PolicyError("It takes no part in this attempt.", "")
            if advert.member != nodes[node] or not verified_advert(roster, attempt, advert):
                raise PolicyError("Its keys are not signed with its enrolled key.", "")
            found[advert.member] = advert
            self._told[node] = sessions.get(node, "")

        self._step(ACTION_KEYS, questions, take, _QUICK)
        return found

    def _shares(
        self, attempt: Attempt, threshold: int, adverts: dict[int, Advert], nodes: dict[int, int]
    ) -> dict[int, dict[int, Box]]:
        listed = tuple(adverts[place] for place in sorted(adverts))
        question = pack(SharesOrder(attempt=attempt.name, threshold=threshold, adverts=listed))
        found: dict[int, dict[int, Box]] = {}

        def take(node: int, message: Message) -> None:
            boxes = unpack(message.content, SharesReply, tensors=False)[0].boxes
            if not boxes:
                raise PolicyError("It deals no shares in this attempt.", "")
            by = {box.member: box for box in boxes}
            if len(by) != len(boxes) or by.keys() != adverts.keys() - {nodes[node]}:
                raise PolicyError("It did not deal one share to each of the others.", "")
            found[nodes[node]] = by

        self._step(ACTION_SHARES, dict.fromkeys(nodes, question), take, _QUICK)
        return found

    def _masked(
        self, attempt: Attempt, adapter: Tensors, boxes: dict[int, dict[int, Box]], nodes: dict[int, int]
    ) -> tuple[Words, set[int]]:
        size = self.plan.adapter.parameters
        total, found = np.zeros(size, dtype=np.uint32), set[int]()
        order = attempt.order
        questions = {}
        for node, place in nodes.items():
            own = tuple(
                Box(member=sender, content=dealt[place].content)
                for sender, dealt in sorted(boxes.items())
                if sender != place
            )
            told = order.model_copy(update={"answered": self._answered(node)})
            questions[node] = pack(MaskedOrder(attempt=attempt.name, order=told, boxes=own), adapter)

        def take(node: int, message: Message) -> None:
            reply, arrays = unpack(message.content, TrainReply, tensors=None)
            if (reply.federation, reply.round) != (order.federation, order.round):
                raise PolicyError(f"An answer for {reply.federation}, round {reply.round} came.", "")
            if reply.answer == "declined":
                # Not for good, as it is elsewhere: it may have started anew and lost the attempt's secrets.
                raise PolicyError("It declines this round.", "")
            words = arrays.get(FIXED_KEY)
            if len(arrays) != 1 or words is None or words.dtype != np.uint32 or words.shape != (size,):
                raise PolicyError("Its masked delta does not have the shape of the plan's adapter.", "")
            np.add(total, words, out=total)
            found.add(nodes[node])

        self._step(ACTION_MASKED, questions, take, math.inf)
        return total, found

    def _confirm(self, attempt: Attempt, survivors: set[int], data: bytes, nodes: dict[int, int]) -> dict[int, str]:
        question = pack(ConfirmOrder(attempt=attempt.name, survivors=tuple(sorted(survivors))))
        found: dict[int, str] = {}

        def take(node: int, message: Message) -> None:
            signature = unpack(message.content, ConfirmReply, tensors=False)[0].signature
            if signature is None or not is_signed(self.roster(), nodes[node], data, signature):
                raise PolicyError("It does not confirm the sum.", "")
            found[nodes[node]] = signature

        self._step(ACTION_CONFIRM, dict.fromkeys(nodes, question), take, _QUICK)
        return found

    def _reveal(self, last: _Unmasking, threshold: int) -> tuple[Tensors | None, set[int]]:
        """Ask for shares, and take the masks off; None if that cannot be done."""
        signers = {one.member for one in last.signatures}
        nodes = {n: place for n, place in self._places().items() if place in signers}
        # As many signatures as are needed: a hundred would be a third of the message.
        question = pack(UnmaskOrder(attempt=last.attempt.name, signatures=last.signatures[:threshold]))
        shares: dict[int, dict[int, int]] = {}

        def take(node: int, message: Message) -> None:
            given = unpack(message.content, UnmaskReply, tensors=False)[0].shares
            if not given:
                raise PolicyError("It gives no shares.", "")
            shares[nodes[node]] = read_shares(given, last.senders)

        self._invited = len(nodes)
        self._step(ACTION_UNMASK, dict.fromkeys(nodes, question), take, max(_QUICK, self._finite_timeout))
        if len(shares) < threshold:
            self._tell("failed", f"Only {len(shares)} of {threshold} needed clients gave shares.")
            return None, set()
        try:
            total = unmask(
                np.frombuffer(base64.b64decode(last.masked), dtype="<u4").astype(np.uint32),
                attempt=last.attempt.name,
                threshold=threshold,
                adverts={advert.member: advert for advert in last.adverts},
                senders=last.senders,
                survivors=last.survivors,
                shares=shares,
            )
            mean = decode(total, len(last.survivors), self.plan.adapter.tensors, self.rules)
            self._plausible(mean)
        except PolicyError as error:
            self._tell("rejected", f"The sum of round {last.attempt.order.round} is refused: {error.message}")
            return None, set()
        return mean, {n for n, place in self._places().items() if place in last.survivors}

    def _plausible(self, mean: Tensors) -> None:
        """A mean is no larger than the largest of what it is made of: all that can be checked of norms."""
        if self.plan.privacy is None:
            return
        bound = max(norm_bound(self.plan, bucket) for bucket in self.plan.privacy.buckets)
        norm = total_norm(mean)
        if norm > bound * 1.001:
            raise PolicyError(f"the mean has norm {norm:.3g}; with this plan at most {bound:.3g} can be.", "")

    # -- one step --------------------------------------------------------------------------------------------------

    def _step(
        self,
        action: str,
        questions: Mapping[int, RecordDict],
        take: Callable[[int, Message], None],
        longest: float,
    ) -> None:
        """Ask, and give every answer to ``take``, until all have answered or failed, or the time is over.

        Who starts anew or reconnects in the meantime, and has accepted the plan again, is asked again: one that still
        has the attempt's secrets gives the same answer, another one fails and counts as a dropout.
        """
        waiting, asked, received = set(questions), dict[int, str](), 0
        since = time.monotonic()
        seconds = min(self._timeout, longest)
        self._deadline = since + seconds
        limit = None if math.isinf(seconds) else max(seconds, 1.0)
        while waiting:
            for node in sorted(waiting & self._desk.accepted()):
                if asked.get(node) != self._desk.online[node]:
                    asked[node] = self._desk.online[node]
                    self._desk.ask([node], action, questions[node], seconds=limit)
            for answer in self._desk.look():
                node = answer.node_id
                if answer.action != action or node not in waiting:
                    continue
                waiting.discard(node)
                name = self._desk.name_of(node)
                if answer.message is None:
                    self._tell("failed", f"{name} could not answer {action}.", node, received)
                    continue
                try:
                    take(node, answer.message)
                except PolicyError as error:
                    self._tell("rejected", f"{name} is out of this attempt: {error.message}", node, received)
                    continue
                received += 1
                if action == ACTION_MASKED:
                    self._tell("received", f"{name} has sent its masked delta.", node, received)
            if time.monotonic() >= self._deadline:
                break
            busy = self._desk.outstanding(action) or waiting & self._desk.accepted()
            if not busy and time.monotonic() - since > min(_QUICK, seconds):
                break  # all who are missing are away, and nobody is working on an answer
            self._grid.wait(self._grid.poll_interval)
        self._desk.withdraw(action)
        self._deadline = math.inf

    @property
    def _finite_timeout(self) -> float:
        return self._timeout if math.isfinite(self._timeout) else 0.0

    def _need(self, found: Mapping[int, object] | set[int], threshold: int, what: str) -> None:
        if len(found) < threshold:
            raise _TooFew(f"{len(found)} clients {what}, {threshold} are needed.")

    def _kept(self, order: TrainOrder) -> _State | None:
        """What is on disk of this very round."""
        text = self._store.kept(_STATE)
        state = None if text is None else _State.model_validate_json(text)
        return state if state is not None and state.order == order else None

    def _tell(self, kind: EventKind, text: str, node_id: int = 0, received: int = 0) -> None:
        self._events(
            FederationEvent(
                kind,
                text,
                round=self._order.round if self._order else 0,
                rounds=self.plan.rounds,
                node_id=node_id,
                received=received,
                expected=self._invited,
                deadline=self._deadline if math.isfinite(self._deadline) else None,
                online=self._desk.names(),
            )
        )
