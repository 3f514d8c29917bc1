"""The Grid of a SuperLink in this process: straight to its database, with no request to ourselves."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from flwr.app import Error, Message
from flwr.app.message import remove_content_from_message
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.supercore.constant import NodeStatus
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from trend_common.flower.gate import Bell
from trend_common.flower.grid import RoundGrid

__all__ = ["LinkGrid"]

_GATHERED: Final = 1e-3
_LONGEST_PAUSE: Final = 0.5
"""Seconds for each outstanding answer, and at most, in which uploads gather before all are looked through: where a
thousand answer at once, a look at each upload would take the time that the uploads need."""


class LinkGrid(RoundGrid):
    """Questions to clients, and their answers, by way of the SuperLink's database.

    Flower's own grids either go through HTTP, which needs a port for the Runtime API, or skip the object store, which
    network clients need. This one does neither. A reply whose parts are still being uploaded never blocks the others.

    Args:
        state: Flower's LinkState.
        run: The run that the questions belong to.
        bell: Rung for clients that have work; rings when they have sent something.
        keys: Public keys (PEM) by node id.
    """

    def __init__(self, state: Any, run: Run, bell: Bell, keys: Mapping[int, bytes]) -> None:
        self._state = state
        self._run = run
        self._bell = bell
        self._keys = keys
        self._arriving: dict[str, tuple[Message, list[str]]] = {}
        self._outstanding = 0
        TaskIdentity.run_id, TaskIdentity.node_id = run.run_id, SUPERLINK_NODE_ID
        TaskIdentity.task_id = run.primary_task_id or 0

    def set_run(self, run: Run) -> None:
        """Part of Flower's interface."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that the questions belong to."""
        return self._run

    def wait(self, seconds: float) -> None:
        """Sleep until a client has sent something, at most this long."""
        self._bell.wait_for_upload(seconds)
        time.sleep(min(_GATHERED * self._outstanding, _LONGEST_PAUSE, seconds))

    def presence(self) -> dict[int, str]:
        """Return the clients that are online, with the time at which each session began."""
        nodes = self._state.get_node_info(statuses=[NodeStatus.ONLINE])
        return {int(node.node_id): str(node.last_activated_at) for node in nodes}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Put the messages where the clients look for them.

        Returns:
            One id for each message, in order; "" where the client is not registered any more.
        """
        ids: list[str] = []
        run_id = self._run.run_id
        for message in messages:
            # Flower closes an upload session with its last object, so each message has its own.
            session = self._state.start_session(run_id)
            message.metadata.__dict__.update(_run_id=run_id, _src_node_id=SUPERLINK_NODE_ID, _message_id="")
            with no_object_id_recompute():
                identity = message.object_id
                message.metadata.__dict__["_message_id"] = identity
                stored, missing = self._state.store_message_and_object_tree(
                    remove_content_from_message(message), get_object_tree(message), session
                )
                if stored and missing:
                    objects = get_all_nested_objects(message)
                    for object_id in missing:
                        self._state.store_object(run_id, session, object_id, objects[object_id].deflate())
            ids.append(identity if stored else "")
            if stored and message.metadata.dst_node_id in self._keys:
                self._bell.ring([self._keys[message.metadata.dst_node_id]])
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Yield the answers that have fully arrived; an answer that was lost on the way comes as an error."""
        wanted = {identity for identity in message_ids if identity}
        self._outstanding = len(wanted)
        if not wanted:
            return
        for reply in self._state.get_message_res(message_ids=set(wanted), run_id=self._run.run_id):
            if reply.has_error():
                self.withdraw([reply.metadata.reply_to_message_id])
                self._state.object_store.delete(reply.metadata.message_id)
                self._took(reply)
                yield reply
                continue
            try:
                tree = self._state.object_store.get_object_tree(reply.metadata.message_id)
            except Exception:  # whatever a client may have sent: it must not end the round for the others
                yield self._lost(reply)
                continue
            parts = list(dict.fromkeys(part.object_id for part in iterate_object_tree(tree)))
            self._arriving[reply.metadata.message_id] = (reply, parts)
        for identity, (reply, parts) in list(self._arriving.items()):
            if reply.metadata.reply_to_message_id not in wanted:
                continue
            contents: dict[str, bytes] = {}
            lost = False
            for part in parts:
                content = self._state.get_object(self._run.run_id, part)
                lost = lost or content is None
                if not content:
                    break
                contents[part] = content
            if lost:
                del self._arriving[identity]
                yield self._lost(reply)
            elif len(contents) == len(parts):
                del self._arriving[identity]
                yield self._inflate(identity, reply, contents)

    def withdraw(self, message_ids: Iterable[str]) -> None:
        """Delete questions, and answers to them that nobody has taken."""
        gone = {identity for identity in message_ids if identity}
        if not gone:
            return
        self._state.delete_messages(message_ins_ids=gone)
        for identity in gone:
            self._state.object_store.delete(identity)
        for identity, (reply, _) in list(self._arriving.items()):
            if reply.metadata.reply_to_message_id in gone:
                del self._arriving[identity]
                self._state.object_store.delete(identity)

    def _inflate(self, identity: str, reply: Message, contents: dict[str, bytes]) -> Message:
        self.withdraw([reply.metadata.reply_to_message_id])
        self._took(reply)
        self._state.object_store.delete(identity)
        try:
            message = inflate_object_from_contents(identity, contents)
        except Exception:  # whatever a client may have uploaded: it must not end the round for the others
            return self._lost(reply)
        # The header was checked when it was stored (sender, question); the uploaded copy of it was not.
        if not isinstance(message, Message) or _header(message) != _header(reply):
            return self._lost(reply)
        message.metadata.__dict__["_message_id"] = identity
        return message

    def _took(self, reply: Message) -> None:
        key = self._keys.get(reply.metadata.src_node_id)
        if key is not None:
            self._bell.took(key)

    def _lost(self, reply: Message) -> Message:
        self._took(reply)
        self.withdraw([reply.metadata.reply_to_message_id])
        self._state.object_store.delete(reply.metadata.message_id)
        reply.__dict__["_content"] = None
        reply.__dict__["_error"] = Error(ErrorCode.REPLY_MESSAGE_UNAVAILABLE, "The answer did not arrive in full.")
        return reply


def _header(message: Message) -> tuple[object, ...]:
    metadata = message.metadata
    return (
        metadata.run_id,
        metadata.src_node_id,
        metadata.dst_node_id,
        metadata.reply_to_message_id,
        metadata.message_type,
    )
