"""The client's side of a federation: one process that asks for work, runs the installed app and answers.

It opens no port, fetches no code, and tells the server nothing about a failure but that there was one.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.proto.message_pb2 import ObjectTree

from trend_common.errors import ConnectionFailure
from trend_common.files import write_json
from trend_common.flower.fleet import Fleet, Gone, StillOnline, Unreachable
from trend_common.protocol import ACTION_ADOPT, ACTION_DESCRIBE, ACTION_TRAIN
from trend_common.secagg.messages import SECURE_ACTIONS

__all__ = ["ACTIONS", "ERROR_CODE", "ERROR_REASON", "NodeEvent", "run_node"]

ACTIONS: Final = frozenset({ACTION_DESCRIBE, ACTION_TRAIN, ACTION_ADOPT}) | SECURE_ACTIONS
"""The only messages that reach the app."""

ERROR_CODE: Final = 2
ERROR_REASON: Final = "The client did not answer."
"""All that the server learns when anything goes wrong on a client."""

_HELD: Final = 1.0
"""Seconds after which an empty answer counts as one that the server held."""

EventKind = Literal["online", "offline", "received", "answered", "refused", "failed", "dropped", "stopped"]


@dataclass(frozen=True)
class NodeEvent:
    """Something for the client's own screen or log.

    Attributes:
        kind: ``online``: a session has begun. ``offline``: the server cannot be reached; trying again. ``received``:
            a message came. ``answered``: its answer has arrived at the server. ``refused``: the message was not of
            this protocol, and was answered with the constant error. ``failed``: the app raised ``error``, and the
            server was told the constant error. ``dropped``: nobody waits for the answer any longer. ``stopped``: the
            session has ended.
        text: One sentence.
        action: The message's type, where there is one.
        seconds: What the app took (``answered``), or how long until the next try (``offline``).
        error: What the app raised; never sent.
    """

    kind: EventKind
    text: str
    action: str = ""
    seconds: float = 0.0
    error: Exception | None = None


def _ignore(_: NodeEvent) -> None:
    """The default listener."""


@dataclass
class _Memory:
    """The node id that the server gave, kept on disk so that a client that was killed is back at once."""

    path: Path | None
    server: str

    def load(self) -> int | None:
        if self.path is None:
            return None
        try:
            found = json.loads(self.path.read_text("utf-8"))
            return int(found["node_id"]) if found["server"] == self.server else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def save(self, node_id: int) -> None:
        if self.path is not None and self.load() != node_id:
            write_json(self.path, {"server": self.server, "node_id": node_id}, private=True)


@dataclass
class _Pace:
    """Waiting times: quick while something happens, slower when nothing does."""

    first: float
    longest: float
    factor: float = 1.3
    current: float = field(init=False)

    def __post_init__(self) -> None:
        self.current = self.first

    def reset(self) -> None:
        self.current = self.first

    def next(self) -> float:
        now, self.current = self.current, min(self.longest, self.current * self.factor)
        return now


def run_node(
    app: ClientApp,
    *,
    server: str,
    ca_pem_path: Path,
    private_key: ec.EllipticCurvePrivateKey,
    expected_fab_hash: str,
    stop: threading.Event,
    on_event: Callable[[NodeEvent], None] = _ignore,
    memory: Path | None = None,
    actions: frozenset[str] = ACTIONS,
    poll: tuple[float, float] = (0.1, 1.0),
    retry: tuple[float, float] = (0.5, 30.0),
) -> None:
    """Serve the federation at ``server`` until ``stop`` is set; reconnect for as long as that takes.

    The app is called in this thread, one message at a time, with an empty Context. It sets ``stop`` itself when the
    federation is over: the answer in hand is still sent. Ctrl-C ends the session and is raised on.

    Args:
        app: The installed ClientApp. What it raises goes to ``on_event``; the server gets the constant error.
        server: ``HOST:PORT``.
        ca_pem_path: The certificate authority of the invitation, the only one trusted.
        private_key: This client's identity.
        expected_fab_hash: The one bundle that is served (from the invitation).
        stop: Ends the loop.
        on_event: Told what happens, from this thread; may raise to end the loop.
        memory: A file for the server's name for this client. Without it, a client that was killed waits up to 20
            seconds until the server lets it in again.
        actions: Message types that reach the app.
        poll: Seconds between two looks for work: at first, and at most.
        retry: Seconds between two tries to connect: at first, and at most.

    Raises:
        ConnectionFailure: Trying again cannot help: unknown or revoked key, wrong certificate, no such server.
    """
    remembered = _Memory(memory, server)
    connecting = _Pace(*retry, factor=2.0)
    with Fleet(server, ca_pem_path, private_key) as fleet:
        worker = _Worker(app, fleet, expected_fab_hash, actions, on_event)
        try:
            while not stop.is_set():
                try:
                    node_id = fleet.connect(remembered.load())
                    remembered.save(node_id)
                    connecting.reset()
                    on_event(NodeEvent("online", f"Connected to {server}."))
                    with _heartbeats(fleet):
                        worker.serve(stop, _Pace(*poll))
                except StillOnline as error:
                    on_event(NodeEvent("offline", f"Waiting to be let in: {error}.", seconds=2.0))
                    stop.wait(2.0)
                except Unreachable as error:
                    wait = connecting.next()
                    on_event(NodeEvent("offline", f"{error} Trying again.", seconds=wait))
                    stop.wait(wait)
        finally:
            fleet.disconnect()
        on_event(NodeEvent("stopped", "Left the server."))


@contextmanager
def _heartbeats(fleet: Fleet) -> Iterator[None]:
    """Say every few seconds that the client is there, also while the app is busy."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(fleet.interval * 0.4):
            try:
                fleet.heartbeat()
            except (Unreachable, Gone, ConnectionFailure):
                continue  # the main thread meets the same trouble, and has the words for it

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=1.0)


class _Worker:
    """Pull, check, run, push; keeps an answer that could not be sent yet."""

    def __init__(
        self,
        app: ClientApp,
        fleet: Fleet,
        fab_hash: str,
        actions: frozenset[str],
        on_event: Callable[[NodeEvent], None],
    ) -> None:
        self._app = app
        self._fleet = fleet
        self._fab_hash = fab_hash
        self._actions = actions
        self._on_event = on_event
        self._pending: tuple[Message, NodeEvent] | None = None
        self._hashes: dict[int, str] = {}
        self._contexts: dict[int, Context] = {}

    def serve(self, stop: threading.Event, pace: _Pace) -> None:
        """Work until ``stop`` is set and the answer in hand is sent."""
        while self._pending is not None or not stop.is_set():
            try:
                if self._pending is not None:
                    self._send()
                    pace.reset()
                    continue
                asked = time.monotonic()
                got = self._fleet.pull()
                if got is None:
                    # The server holds the request while there is no work; where something in between does not let
                    # it, the client paces itself.
                    held = time.monotonic() - asked
                    self._fleet.held(held)
                    stop.wait(0.0 if held > _HELD else pace.next())
                    continue
                self._pending = self._answer(*got)
            except Gone as error:
                self._pending = None
                self._on_event(NodeEvent("dropped", f"A message came to nothing: {error}."))

    def _send(self) -> None:
        assert self._pending is not None
        reply, event = self._pending
        self._fleet.push(reply)
        self._pending = None
        self._on_event(event)

    def _answer(self, stub: Message, tree: ObjectTree) -> tuple[Message, NodeEvent]:
        action, run_id = stub.metadata.message_type, stub.metadata.run_id
        if run_id not in self._hashes:
            self._hashes[run_id] = self._fleet.fab_hash(run_id)
        refusal = ""
        if self._hashes[run_id] != self._fab_hash:
            refusal = "it belongs to an app that this client does not serve"
        elif action not in self._actions:
            refusal = f"{action[:40]!r} is not a message of this protocol"
        if refusal:
            event = NodeEvent("refused", f"Refused a message of the server: {refusal}.", action=action)
            return _error_reply(stub), event
        message = self._fleet.fetch(stub, tree)
        if message.metadata.message_type != action or message.metadata.run_id != run_id:
            event = NodeEvent("refused", "Refused a message whose content is of another kind.", action=action)
            return _error_reply(stub), event
        self._on_event(NodeEvent("received", f"The server asks: {action}.", action=action))
        node_id = self._fleet.node_id or 0
        context = self._contexts.setdefault(run_id, Context(run_id, node_id, {}, RecordDict(), {}))
        started = time.monotonic()
        try:
            reply = self._app(message, context)
        except Exception as error:
            text = f"The request {action} failed here: {error}"
            return _error_reply(message), NodeEvent("failed", text, action=action, error=error)
        event = NodeEvent("answered", f"Answered {action}.", action=action, seconds=time.monotonic() - started)
        return reply, event


def _error_reply(message: Message) -> Message:
    return Message(Error(code=ERROR_CODE, reason=ERROR_REASON), reply_to=message)
