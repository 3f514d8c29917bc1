"""Flower's Fleet API without the web framework around it.

Flower puts ten layers of middleware before each of its handlers, most of them for its other APIs, and they take most
of a request's time. Here a request is read, authenticated by Flower's own function and answered by Flower's own
handler, and what goes wrong is told as Flower tells it. Only the calls of
:data:`trend_common.flower.gate.FLEET_PATHS` exist.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from fastapi import FastAPI
from flwr.proto.message_pb2 import PullObjectResponse
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.error.http import http_error_translator
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.superlink.routers.fleet.node_auth import authenticate_node
from flwr.superlink.servicer.fleet import fleet_handlers
from google.protobuf.message import DecodeError
from starlette.requests import Request
from starlette.responses import Response

from trend_common.flower.gate import Receive, Scope, Send, read_body

__all__ = ["FleetApi"]

Handler = Callable[[Any, Any], Any]

_PULL: Final = "/v1/fleet/pull-messages"
_PUSH: Final = "/v1/fleet/push-messages"
_PULL_OBJECT: Final = "/v1/fleet/pull-object"
_MOST_PARTS: Final = 64
"""Objects that an answer is made of; ours are of three or four."""

_HANDLERS: Final[Mapping[str, Handler]] = {
    "/v1/fleet/activate-node": fleet_handlers.activate_node,
    "/v1/fleet/deactivate-node": fleet_handlers.deactivate_node,
    "/v1/fleet/send-node-heartbeat": fleet_handlers.send_node_heartbeat,
    _PULL: lambda request, state: fleet_handlers.pull_messages(request, state, state.object_store),
    _PUSH: fleet_handlers.push_messages,
    "/v1/fleet/get-run": fleet_handlers.get_run,
    "/v1/fleet/push-object": fleet_handlers.push_object,
    _PULL_OBJECT: fleet_handlers.pull_object,
}


class FleetApi:
    """An ASGI application that answers the Fleet API's calls.

    Args:
        application: Flower's SuperLink, of whose database and settings this makes use.
    """

    def __init__(self, application: FastAPI) -> None:
        self._application = application
        self._state: Any = application.state.linkstate_factory.state()
        self._handed: dict[int, set[str]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one POST to one of the paths."""
        # Before errors are translated: a body that is too large is the gate's business.
        body = await read_body(receive)
        request = Request({**scope, "app": self._application, "state": {}})

        async def answer(request: Request) -> Response:
            return await self._answer(request, body)

        response = await http_error_translator(request, answer)
        await response(scope, receive, send)

    async def _answer(self, request: Request, body: bytes) -> Response:
        path = request.scope["path"]  # what the gate has looked at, not what a Host header makes of it
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != PROTOBUF_MEDIA_TYPE:
            raise FlowerError(ApiErrorCode.UNSUPPORTED_CONTENT_TYPE, f"Content-Type {kind!r}")
        return Response(await asyncio.to_thread(self._work, request, path, body), media_type=PROTOBUF_MEDIA_TYPE)

    def _work(self, request: Request, path: str, body: bytes) -> bytes:
        """In a thread, so that nobody else waits for it."""
        message = PROTOBUF_REQUEST_TYPES["POST", path]()
        try:
            message.ParseFromString(body)
        except DecodeError as error:
            raise FlowerError(ApiErrorCode.INVALID_PROTOBUF_PAYLOAD, repr(error)) from error
        request.state.protobuf_request = message
        authenticate_node(request)
        if path == _PUSH:
            _check_answer(message)
        run_id = _run_of(message)
        if run_id is not None and not self._state.get_run_info(run_ids=[run_id]):
            # As of a run that has ended: an answer to what was asked before a restart. Flower has no word for it.
            raise FlowerError(ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED, f"Run {run_id} is unknown")
        if path == _PULL_OBJECT and message.object_id not in self._handed.get(message.node.node_id, ()):
            # Another's: Flower would give it to any client that knows its hash.
            return bytes(PullObjectResponse(object_found=False).SerializeToString())
        found = _HANDLERS[path](message, self._state)
        if path == _PULL and found.message_object_trees:
            trees = found.message_object_trees
            self._handed[message.node.node_id] = {
                one.object_id for tree in trees for one in iterate_object_tree(tree)
            }
        return bytes(found.SerializeToString())


def _run_of(message: Any) -> int | None:
    """The run that a request is about; None if it is about none."""
    if hasattr(message, "messages_list"):
        return int(message.messages_list[0].metadata.run_id)
    return int(message.run_id) if hasattr(message, "run_id") else None


def _check_answer(request: Any) -> None:
    """One answer, by the client that sends it, of as few parts as answers have.

    Raises:
        FlowerError: Flower would believe another name in it, and follow parts that are parts of one another.
    """
    messages, trees = request.messages_list, request.message_object_trees
    fits = len(messages) == len(trees) == 1 and messages[0].metadata.src_node_id == request.node.node_id
    parts: dict[str, list[str]] = {}
    waiting, count = list(trees), 0
    while fits and waiting:
        tree, count = waiting.pop(), count + 1
        children = [child.object_id for child in tree.children]
        fits = count <= _MOST_PARTS and parts.setdefault(tree.object_id, children) == children
        waiting.extend(tree.children)
    if not fits:
        raise FlowerError(ApiErrorCode.INVALID_PROTOBUF_PAYLOAD, "That is no answer of one client")
