"""Who is there, what each was asked, and what came back: the part of the loop that talks to clients."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from flwr.app import Message, RecordDict

from trend_common.errors import PolicyError
from trend_common.flower.grid import RoundGrid
from trend_common.flower.records import pack, unpack
from trend_common.protocol import ACTION_ADOPT, ACTION_DESCRIBE, BucketName, DescribeReply, FederationPlan
from trend_common.tensors import Tensors

__all__ = ["Answer", "Desk", "EventKind", "FederationEvent", "Member"]

EventKind = Literal[
    "online",
    "offline",
    "accepted",
    "declined",
    "waiting",
    "resumed",
    "opened",
    "received",
    "rejected",
    "failed",
    "extended",
    "closed",
    "skipped",
    "adopted",
    "finished",
]

_DESCRIBE_PAUSE: Final = 5.0
_MOST_REFUSALS: Final = 2
_LONGEST: Final = 12 * 3600.0


@dataclass(frozen=True)
class FederationEvent:
    """Something for the operator's screen, or for a simulation's progress.

    Attributes:
        kind: What happened.
        text: One sentence, with names.
        round, rounds: Where the federation stands.
        node_id: Whom it concerns, 0 for nobody in particular.
        received, expected: Answers in this round.
        deadline: When the round closes (seconds of :func:`time.monotonic`), None without one.
        online: Names of the clients that are online.
    """

    kind: EventKind
    text: str
    round: int = 0
    rounds: int = 0
    node_id: int = 0
    received: int = 0
    expected: int = 0
    deadline: float | None = None
    online: tuple[str, ...] = ()


@dataclass
class Member:
    """A client in this federation.

    Attributes:
        session: Its present session; another text means that it started anew.
        answer: What it said to the plan: None while it has not.
        bucket: What it declared.
        adopted: Whether it has received the final adapter in this session.
        refusals: How often it could not take the final adapter.
        pause_until: Not announced to again before this time.
    """

    session: str = ""
    answer: Literal["accepted", "declined"] | None = None
    bucket: BucketName | None = None
    adopted: bool = False
    refusals: int = 0
    pause_until: float = 0.0


@dataclass(frozen=True)
class Answer:
    """A reply to a question other than ``describe``; ``message`` is None where the client failed or went offline."""

    node_id: int
    action: str
    message: Message | None


@dataclass
class Desk:
    """Asks and listens; see the module.

    Attributes:
        grid: The way to the clients.
        plan, frozen: What is announced.
        say: Told what happens.
        name_of: A client's name for people.
        members: Everybody who was seen.
        online: Sessions of those who are there now.
    """

    grid: RoundGrid
    plan: FederationPlan
    frozen: Tensors
    say: Callable[[FederationEvent], None]
    name_of: Callable[[int], str]
    members: dict[int, Member] = field(default_factory=dict)
    online: dict[int, str] = field(default_factory=dict)
    _questions: dict[str, tuple[int, str]] = field(default_factory=dict)
    _announcement: RecordDict | None = None

    def ask(self, node_ids: list[int], action: str, content: RecordDict, *, seconds: float | None) -> None:
        """Send one question to several clients; whoever has one of that kind open is not asked twice."""
        ttl = _LONGEST if seconds is None else min(_LONGEST, seconds + 60.0)
        targets = [node_id for node_id in node_ids if not self.outstanding(action, node_id)]
        messages = [Message(content, node_id, action, ttl=ttl) for node_id in targets]
        for node_id, identity in zip(targets, self.grid.push_messages(messages), strict=True):
            if identity:
                self._questions[identity] = (node_id, action)

    def outstanding(self, action: str, node_id: int | None = None) -> set[int]:
        """Return the clients (or whether this one) from whom an answer to ``action`` is still awaited."""
        return {
            one for one, asked in self._questions.values() if asked == action and (node_id is None or one == node_id)
        }

    def withdraw(self, action: str, node_ids: set[int] | None = None) -> None:
        """Stop waiting for answers to ``action``."""
        gone = [
            identity
            for identity, (node_id, asked) in self._questions.items()
            if asked == action and (node_ids is None or node_id in node_ids)
        ]
        self.grid.withdraw(gone)
        for identity in gone:
            del self._questions[identity]

    def accepted(self) -> set[int]:
        """Return the clients that are online and have accepted the plan in their present session."""
        return {
            node_id
            for node_id, session in self.online.items()
            if (member := self.members.get(node_id)) is not None
            and member.session == session
            and member.answer == "accepted"
        }

    def names(self) -> tuple[str, ...]:
        """Return the names of those who are online."""
        return tuple(sorted(self.name_of(node_id) for node_id in self.online))

    def look(self) -> Iterator[Answer]:
        """See who is there, announce the plan to whoever came, and yield what was answered meanwhile.

        One by one, so that the answers of many clients are never in memory together.
        """
        self._see_who_is_there()
        for message in self.grid.pull_messages(list(self._questions)):
            found = self._questions.pop(message.metadata.reply_to_message_id, None)
            if found is None:
                continue
            node_id, action = found
            content = None if message.has_error() else message
            if action == ACTION_DESCRIBE:
                self._described(node_id, content)
            else:
                yield Answer(node_id, action, content)

    def _see_who_is_there(self) -> None:
        before, self.online = self.online, self.grid.presence()
        for node_id in before.keys() - self.online.keys():
            self._tell("offline", node_id, "is offline")
        now = time.monotonic()
        strangers = []
        for node_id, session in self.online.items():
            member = self.members.setdefault(node_id, Member())
            if node_id not in before:
                self._tell("online", node_id, "is online")
            if member.session != session:
                # It started anew and has lost what it was working on: its questions are asked again.
                self.members[node_id] = Member(session=session)
                for action in {asked for one, asked in self._questions.values() if one == node_id}:
                    self.withdraw(action, {node_id})
                strangers.append(node_id)
            elif member.answer is None and member.pause_until <= now:
                strangers.append(node_id)
        if strangers:
            if self._announcement is None:
                self._announcement = pack(self.plan, self.frozen)
            self.ask(strangers, ACTION_DESCRIBE, self._announcement, seconds=None)

    def _described(self, node_id: int, message: Message | None) -> None:
        member = self.members[node_id]
        reason = "did not answer to the plan"
        if message is not None:
            try:
                reply, _ = unpack(message.content, DescribeReply, tensors=False)
                known = self.plan.privacy.buckets if self.plan.privacy is not None else None
                if reply.bucket is not None and known is not None and reply.bucket not in known:
                    raise PolicyError(f"It names a bucket {reply.bucket} that the plan does not have.", "")
            except PolicyError as error:
                reason = f"answered what cannot be read: {error.message}"
            else:
                member.answer, member.bucket = reply.answer, reply.bucket
                text = f"accepts the plan (bucket {reply.bucket})" if reply.bucket else "declines the plan"
                self._tell(reply.answer, node_id, text)
                return
        member.pause_until = time.monotonic() + _DESCRIBE_PAUSE
        self._tell("failed", node_id, reason)

    def _tell(self, kind: EventKind, node_id: int, text: str) -> None:
        name = self.name_of(node_id)
        self.say(FederationEvent(kind, f"{name} {text}.", node_id=node_id, online=self.names()))

    def adopted(self, answer: Answer) -> None:
        """Note that a client has received the final adapter, or could not take it."""
        if answer.action != ACTION_ADOPT:
            return
        if answer.message is None:
            self.members[answer.node_id].refusals += 1
            self._tell("failed", answer.node_id, "could not take the shared adapter")
        else:
            self.members[answer.node_id].adopted = True
            self._tell("adopted", answer.node_id, "has received the shared adapter")

    def wants_adapter(self, node_id: int) -> bool:
        """Whether a client may still take the final adapter: also one that declined to train."""
        member = self.members.get(node_id)
        return member is not None and not member.adopted and member.refusals < _MOST_REFUSALS
