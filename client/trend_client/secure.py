"""A client's part in secure rounds: what it pins, what it remembers, and what it answers at most once.

The secrets of an attempt are in memory alone, and only those of the latest. So a client that is started anew is a
dropout of the attempt that ran. What must outlive a restart is on disk before the answer goes: the roster that was
pinned, and of the round that ran last its first members and threshold, and whether shares were given in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from numpy.typing import NDArray

from trend_client.session import ClientSession, SessionEvent
from trend_common.errors import PolicyError
from trend_common.files import private_directory, write_text
from trend_common.flower.records import tensors_from_bytes, tensors_to_bytes
from trend_common.protocol import FederationPlan, SecureAggregationPlan, TrainOrder, TrainReply, WireModel, parse
from trend_common.secagg.fixedpoint import FIXED_KEY
from trend_common.secagg.messages import (
    ConfirmOrder,
    ConfirmReply,
    FederationRoster,
    KeysOrder,
    KeysReply,
    MaskedOrder,
    SharesOrder,
    SharesReply,
    UnmaskOrder,
    UnmaskReply,
)
from trend_common.secagg.participant import Participant, place_of

__all__ = ["RoundMemory", "SecureRounds"]

Reply = TypeVar("Reply")


class RoundMemory(WireModel):
    """What a client must not forget of the last round in which it sent a masked vector.

    Attributes:
        round: Which.
        members, threshold: Of the first attempt with a masked vector: a retry has no others, and asks for no fewer.
        unmasked: Whether shares were given: then there is no retry.
    """

    round: int
    members: tuple[int, ...]
    threshold: int
    unmasked: bool = False


class SecureRounds:
    """Answers the five questions of a secure round for ``session``.

    Args:
        session: Which has accepted the plan.
        key: The enrolled key; None declines every secure round.
    """

    def __init__(self, session: ClientSession, key: ec.EllipticCurvePrivateKey | None) -> None:
        self._session, self._key = session, key
        self._participant: Participant | None = None
        self._answers: dict[str, tuple[str, object]] = {}

    def keys(self, order: KeysOrder) -> KeysReply:
        """Fresh public keys for a new attempt."""
        number = order.attempt.order.round

        def answer() -> KeysReply:
            plan, rules = self._rules(order.attempt.order)
            roster = self._pinned(plan, order)
            memory = self._memory(plan.federation)
            if memory is not None and number < memory.round:
                raise PolicyError(f"Round {number} comes after round {memory.round}.", "A round is over when it is.")
            if memory is not None and number == memory.round and memory.unmasked:
                raise PolicyError(
                    f"Round {number} was unmasked already.",
                    "Two sums of the same round could be subtracted from each other, so there is no second one.",
                )
            assert self._key is not None
            self._participant = Participant(order.attempt, roster, rules, self._key)
            return KeysReply(advert=self._participant.advert())

        if self._participant is None or self._participant.attempt.name != order.attempt.name:
            self._participant, self._answers = None, {}
        return self._once("keys", order.attempt.sha256(), number, answer, KeysReply())

    def shares(self, order: SharesOrder) -> SharesReply:
        """Check everybody's keys, and deal shares."""

        def answer() -> SharesReply:
            one = self._running(order.attempt)
            memory = self._memory(one.attempt.order.federation)
            if memory is not None and memory.round == one.attempt.order.round:
                strangers = {advert.member for advert in order.adverts} - set(memory.members)
                if strangers or order.threshold < memory.threshold:
                    raise PolicyError(
                        "The round is tried again with other clients, or with a smaller threshold.",
                        "What two such tries reveal could be subtracted from each other.",
                    )
            return SharesReply(boxes=one.share(order.adverts, order.threshold))

        return self._once("shares", order.sha256(), self._round, answer, SharesReply())

    def masked(self, order: MaskedOrder, adapter: dict[str, NDArray[np.generic]]) -> tuple[TrainReply, bytes | None]:
        """Train, seal and mask; a retry masks the same sealed bytes anew."""
        told = order.order
        declined = TrainReply(answer="declined", federation=told.federation, round=told.round)

        def answer() -> tuple[TrainReply, bytes | None]:
            one = self._running(order.attempt)
            if one.attempt.order != told.model_copy(update={"answered": one.attempt.order.answered}):
                raise PolicyError("The order to train is not the one of this attempt.", "")
            words = np.asarray(tensors_from_bytes(self._session.sealed(told, adapter))[FIXED_KEY], dtype=np.uint32)
            hidden = one.mask(words, order.boxes)
            memory = self._memory(told.federation)
            if memory is None or memory.round != told.round:
                first = RoundMemory(round=told.round, members=one.members, threshold=one.threshold)
                self._remember(told.federation, first)
            reply = TrainReply(answer="delta", federation=told.federation, round=told.round)
            return reply, tensors_to_bytes({FIXED_KEY: hidden})

        nothing: tuple[TrainReply, bytes | None] = (declined, None)
        return self._once("masked", order.sha256(), told.round, answer, nothing)

    def confirm(self, order: ConfirmOrder) -> ConfirmReply:
        """Sign who is in the sum."""

        def answer() -> ConfirmReply:
            return ConfirmReply(signature=self._running(order.attempt).confirm(order.survivors))

        return self._once("confirm", order.sha256(), self._round, answer, ConfirmReply())

    def unmask(self, order: UnmaskOrder) -> UnmaskReply:
        """Give one share for each member, once a round."""

        def answer() -> UnmaskReply:
            one = self._running(order.attempt)
            told = one.attempt.order
            memory = self._memory(told.federation)
            if memory is None or memory.round != told.round or memory.unmasked:
                raise PolicyError(f"Round {told.round} is not open for unmasking.", "")
            self._remember(told.federation, memory.model_copy(update={"unmasked": True}))
            return UnmaskReply(shares=one.unmask(order.signatures))

        return self._once("unmask", order.sha256(), self._round, answer, UnmaskReply())

    @property
    def _round(self) -> int:
        return self._participant.attempt.order.round if self._participant is not None else 0

    def _once(self, step: str, question: str, number: int, answer: Callable[[], Reply], declined: Reply) -> Reply:
        """One answer for each step of an attempt; the same question again gets the same answer, another none."""
        try:
            known = self._answers.get(step)
            if known is not None:
                if known[0] != question:
                    raise PolicyError(f"The step {step} was asked for before, and otherwise.", "It has one answer.")
                return known[1]  # type: ignore[return-value]
            made = answer()
        except PolicyError as error:
            text = f"Refused the step {step} of secure round {number}: {error}"
            self._session.say(SessionEvent("declined", text, number))
            return declined
        self._answers[step] = (question, made)
        return made

    def _running(self, attempt: str) -> Participant:
        if self._participant is None or self._participant.attempt.name != attempt:
            raise PolicyError(
                "This client is not in that attempt.", "It was started anew, or the attempt is an old one."
            )
        return self._participant

    def _rules(self, order: TrainOrder) -> tuple[FederationPlan, SecureAggregationPlan]:
        plan = self._session.agreed(order)
        if plan.secure_aggregation is None:
            raise PolicyError("The accepted plan has no secure rounds.", "A plan cannot change.")
        if self._key is None:
            raise PolicyError("There is no enrolled key to sign with.", "")
        return plan, plan.secure_aggregation

    def _pinned(self, plan: FederationPlan, order: KeysOrder) -> FederationRoster:
        """The roster, pinned when it came first."""
        path = self._session.home.federation(plan.federation) / "roster.json"
        if path.is_file():
            roster = parse(FederationRoster, path.read_text("utf-8"))
        elif order.roster is None:
            raise PolicyError("The server names a roster that it never sent.", "")
        else:
            roster = order.roster
        if (roster.federation, roster.plan_sha256) != (plan.federation, plan.sha256()):
            raise PolicyError("The roster is of another federation or plan.", "")
        if roster.sha256() != order.attempt.roster_sha256:
            raise PolicyError(
                "The server's roster is not the one that was pinned at the first round.",
                "Retailers were added, or their keys were exchanged. Ask the operator for a new federation.",
            )
        if not path.is_file():
            assert self._key is not None
            place_of(roster, self._key)
            private_directory(path.parent)
            write_text(path, roster.canonical(), private=True)
            text = f"Pinned the roster of {len(roster.members)} retailers, fingerprint {roster.fingerprint}."
            self._session.say(SessionEvent("accepted", text, 0, plan.rounds))
        return roster

    def _memory(self, federation: str) -> RoundMemory | None:
        path = self._session.home.federation(federation) / "secure-round.json"
        return parse(RoundMemory, path.read_text("utf-8")) if path.is_file() else None

    def _remember(self, federation: str, memory: RoundMemory) -> None:
        path = self._session.home.federation(federation) / "secure-round.json"
        try:
            private_directory(path.parent)
            write_text(path, memory.canonical(), private=True)
        except OSError as error:
            raise PolicyError(
                f"{path} cannot be written: {error.strerror or error}.", "Without it nothing may be sent."
            ) from error
