"""What the round loop needs of a Grid besides Flower's own calls, for the network and for the simulation alike."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

__all__ = ["RoundGrid"]


class RoundGrid(Grid):
    """A Flower Grid that knows when a client has started anew, and that can withdraw a question.

    A client that was killed has lost the message it was working on: Flower delivers a message once. The loop asks
    again when the client's *session* has changed; asking twice is harmless, since the same order gets the same bytes.
    """

    poll_interval: float = 0.25
    """Seconds between two looks for replies, at most."""

    def wait(self, seconds: float) -> None:
        """Sleep until an answer may have come, at most this long."""
        time.sleep(seconds)

    @abstractmethod
    def presence(self) -> dict[int, str]:
        """Return the clients that are online: node id → a text that changes whenever the client connects anew."""

    @abstractmethod
    def withdraw(self, message_ids: Iterable[str]) -> None:
        """Forget messages whose answers nobody waits for any longer; a late answer is then dropped."""

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the clients that are online."""
        return list(self.presence())

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return ``Message(...)``; part of Flower's interface."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send all and wait for the answers, at most ``timeout`` seconds; Flower's strategies call this."""
        deadline = None if timeout is None else time.monotonic() + timeout
        waiting = set(self.push_messages(messages))
        replies: list[Message] = []
        while waiting:
            for message in self.pull_messages(waiting):
                replies.append(message)
                waiting.discard(message.metadata.reply_to_message_id)
            if not waiting or (deadline is not None and time.monotonic() >= deadline):
                break
            self.wait(self.poll_interval)
        self.withdraw(waiting)
        return replies
