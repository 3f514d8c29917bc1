"""The client's end of Flower's Fleet API: one connection, plain calls, and errors sorted into three kinds.

``Unreachable``         try again later: the network, or a server that is restarting
``Gone``                the thing asked for is no more: a run that ended, a question that was withdrawn
``ConnectionFailure``   for people: trying again cannot help
"""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ObjectTree, PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.error import FlowerError
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    ObjectUnavailableError,
    pull_and_inflate_object_from_tree,
    push_objects,
)
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from trend_common.errors import ConnectionFailure
from trend_common.flower.faults import as_failure, is_fatal

__all__ = ["HEARTBEAT_SECONDS", "Fleet", "Gone", "StillOnline", "Unreachable"]

HEARTBEAT_SECONDS: Final = 10.0
"""What a client promises; Flower counts it as offline after twice this. 10 is the least that Flower allows."""

_LONGEST_HEARTBEAT: Final = 60.0
_CALM_HOLD: Final = 6.0
"""Seconds that a server holds a request for work where few wait for any."""
_HOLDS: Final = 4.0
"""Heartbeats are as far apart as so many holds; a server that has many clients holds each for longer."""

_MOST_OBJECTS: Final = 10_000
_MOST_BYTES: Final = 512 * 1024 * 1024

T = TypeVar("T")


class Unreachable(Exception):
    """The server cannot be reached at the moment; ``str()`` says why, for the person's own screen."""


class StillOnline(Unreachable):
    """The server still counts a session of this key that did not end cleanly; it lapses within two minutes."""


class Gone(Exception):
    """What was asked for, or what was answered, nobody waits for any longer."""


class Fleet:
    """A connection to the Fleet API with this client's key.

    Args:
        server: ``HOST:PORT``.
        ca_pem: The only certificate authorities that are trusted.
        private_key: This client's identity (EC P-384).
        timeout: Seconds for one request.

    Attributes:
        node_id: What the server calls this client while a session lasts.
        interval: Seconds that are promised from one heartbeat to the next.
    """

    def __init__(
        self, server: str, ca_pem: Path, private_key: ec.EllipticCurvePrivateKey, *, timeout: float = 30.0
    ) -> None:
        self.server = server
        self.node_id: int | None = None
        self.interval = HEARTBEAT_SECONDS
        self._public_key = private_key.public_key()
        try:
            context = ssl.create_default_context(cafile=str(ca_pem))
        except (OSError, ssl.SSLError) as error:
            raise ConnectionFailure(
                f"{ca_pem} cannot be read as a certificate authority.",
                "It comes with the invitation: join again with --invite FILE.",
            ) from error
        try:
            self._client = FleetHttpClient(
                f"https://{server}",
                interceptors=[NodeAuthHttpInterceptor(private_key, self._public_key)],
                verify=context,
                timeout=timeout,
            )
        except httpx.InvalidURL as error:
            raise as_failure(error, server) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def connect(self, remembered: int | None) -> int:
        """Start a session and return this client's node id.

        Args:
            remembered: The node id of an earlier session, if known. A session that did not end cleanly is closed
                first, so that a client that was killed is back at once.

        Raises:
            StillOnline, Unreachable: Try again.
            ConnectionFailure: The key is not registered (any more), TLS fails, the clock is wrong.
        """
        if remembered is not None:
            self._close_session(remembered)
        request = ActivateNodeRequest(
            public_key=public_key_to_bytes(self._public_key), heartbeat_interval=HEARTBEAT_SECONDS
        )
        self.interval = HEARTBEAT_SECONDS
        try:
            self.node_id = int(self._call(self._client.ActivateNode, request).node_id)
        except Gone as error:
            raise StillOnline(
                "an earlier session of this client did not end cleanly; the server lets it lapse within 20 seconds, "
                "or two minutes where hundreds take part"
            ) from error
        return self.node_id

    def disconnect(self) -> None:
        """End the session; quietly, since the server notices anyway."""
        if self.node_id is not None:
            self._close_session(self.node_id)
            self.node_id = None

    def heartbeat(self) -> None:
        """Tell the server that this client is there."""
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=self.interval)
        self._call(self._client.SendNodeHeartbeat, request)

    def held(self, seconds: float) -> None:
        """Note how long the server held a request for work: a crowd is left in peace for longer.

        A thousand clients that told of themselves every few seconds would leave a server no time for anything else.
        """
        calm = seconds <= _CALM_HOLD
        self.interval = HEARTBEAT_SECONDS if calm else min(_HOLDS * seconds, _LONGEST_HEARTBEAT)

    def pull(self) -> tuple[Message, ObjectTree] | None:
        """Return the next message without its content, and the tree of its objects; None if there is none."""
        response = self._call(self._client.PullMessages, PullMessagesRequest(node=self._node))
        if not response.messages_list:
            return None
        return message_from_proto(response.messages_list[0]), response.message_object_trees[0]

    def fab_hash(self, run_id: int) -> str:
        """Return the hash of the bundle that a run names. The bundle itself is never fetched."""
        response = self._call(self._client.GetRun, GetRunRequest(node=self._node, run_id=run_id))
        return str(response.run.fab_hash)

    def fetch(self, message: Message, tree: ObjectTree) -> Message:
        """Return the message with its content.

        Raises:
            Gone: It was withdrawn meanwhile, or is larger than any message of the protocol.
        """
        run_id = message.metadata.run_id
        left = threading.Semaphore(_MOST_OBJECTS)
        received = 0

        def pull_object(object_id: str) -> bytes:
            nonlocal received
            request = PullObjectRequest(node=self._node, run_id=run_id, object_id=object_id)
            response = self._call(self._client.PullObject, request)
            if not response.object_found:
                raise ObjectPullError(object_id, "it is not there")
            if not response.object_available:
                raise ObjectUnavailableError(object_id)
            received += len(response.object_content)
            if not left.acquire(blocking=False) or received > _MOST_BYTES:
                raise Gone("the message is larger than any message of this protocol")
            return bytes(response.object_content)

        if sum(1 for _ in iterate_object_tree(tree)) > _MOST_OBJECTS:
            raise Gone("the message has more parts than any message of this protocol")
        try:
            # No confirmation, which would be one more request: the server deletes the question with its answer.
            full: Message = pull_and_inflate_object_from_tree(tree, pull_object, lambda _: None, return_type=Message)
        except (ObjectPullError, TypeError, ValueError, KeyError) as error:
            raise Gone("the server withdrew the message, or it cannot be read") from error
        full.metadata.__dict__["_message_id"] = tree.object_id
        return full

    def push(self, reply: Message) -> None:
        """Send an answer.

        Raises:
            Gone: Nobody waits for it any longer.
        """
        run_id = reply.metadata.run_id
        reply.metadata.__dict__["_message_id"] = ""
        reply.metadata.__dict__["_message_id"] = reply.object_id
        with no_object_id_recompute():
            header = remove_content_from_message(reply) if reply.has_content() else reply
            request = PushMessagesRequest(
                node=self._node,
                messages_list=[message_to_proto(header)],
                message_object_trees=[get_object_tree(reply)],
                # Flower reports here how long the app took. That depends on the data, so it stays here.
                clientapp_runtime_list=[0.0],
            )
            response = self._call(self._client.PushMessages, request)
            session = response.session_id

            def push_object(object_id: str, content: bytes) -> None:
                item = PushObjectRequest(
                    node=self._node, run_id=run_id, object_id=object_id, object_content=content, session_id=session
                )
                if not self._call(self._client.PushObject, item).stored:
                    raise ObjectPushError(object_id, run_id, session)

            try:
                push_objects(
                    get_all_nested_objects(reply), push_object, object_ids_to_push=set(response.objects_to_push)
                )
            except (ObjectPushError, Gone) as error:
                # All of an error is in the header, so the server may have taken it before its one object arrived.
                if not reply.has_error():
                    raise Gone("the server no longer waits for this answer") from error

    @property
    def _node(self) -> Node:
        if self.node_id is None:
            raise Unreachable("no session")
        return Node(node_id=self.node_id)

    def _close_session(self, node_id: int) -> None:
        # Refused when that session has ended already, which is what is wanted.
        with contextlib.suppress(Gone, Unreachable, ConnectionFailure):
            self._call(self._client.DeactivateNode, DeactivateNodeRequest(node_id=node_id))

    def _call(self, method: Callable[..., T], request: object) -> T:
        try:
            return method(request)
        except httpx.TransportError as error:
            failure = as_failure(error, self.server)
            if is_fatal(error):
                raise failure from error
            raise Unreachable(failure.message) from error
        except httpx.HTTPStatusError as error:
            raise self._refusal(error.response) from error
        except RuntimeError as error:  # what Flower raises for a body that is not protobuf
            raise Unreachable(f"the server {self.server} gave an answer that cannot be read") from error

    def _refusal(self, response: httpx.Response) -> Exception:
        status = response.status_code
        if status == 401:
            return ConnectionFailure(
                f"The server {self.server} does not accept this client's signature.",
                "The key may have been revoked: ask the operator. Check this machine's clock too: it may be wrong by "
                "at most five minutes.",
            )
        if status == 403 and "unknown-key" in response.text:
            return ConnectionFailure(
                f"The server {self.server} does not know this client's key: it never joined, or was revoked.",
                "Ask the operator for an invitation and join with --invite FILE.",
            )
        if status >= 500 or status in (408, 425, 429):
            return Unreachable(f"the server {self.server} answers with status {status}")
        if FlowerError.from_json(response.text) is not None:
            # Flower's own refusals: a run that has ended, a session that is still counted.
            return Gone(f"the server answers with status {status}")
        if status in (403, 404, 405) or 300 <= status < 400:
            return ConnectionFailure(
                f"{self.server} answers with status {status}: that is not a trend-server.",
                "Check host and port with the operator.",
            )
        return Gone(f"the server answers with status {status}")
