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
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.error.http import http_error_translator
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.superlink.routers.fleet.node_auth import authenticate_node
from flwr.superlink.servicer.fleet import fleet_handlers
from google.protobuf.message import DecodeError
from starlette.requests import Request
from starlette.responses import Response

from trend_common.flower.gate import Receive, Scope, Send, read_body

__all__ = ["Counter"]

Handler = Callable[[Any, Any], Any]

_HANDLERS: Final[Mapping[str, Handler]] = {
    "/v1/fleet/activate-node": fleet_handlers.activate_node,
    "/v1/fleet/deactivate-node": fleet_handlers.deactivate_node,
    "/v1/fleet/send-node-heartbeat": fleet_handlers.send_node_heartbeat,
    "/v1/fleet/pull-messages": lambda request, state: fleet_handlers.pull_messages(
        request, state, state.object_store
    ),
    "/v1/fleet/push-messages": fleet_handlers.push_messages,
    "/v1/fleet/get-run": fleet_handlers.get_run,
    "/v1/fleet/push-object": fleet_handlers.push_object,
    "/v1/fleet/pull-object": fleet_handlers.pull_object,
}


class Counter:
    """An ASGI application that answers the Fleet API's calls.

    Args:
        application: Flower's SuperLink, of whose database and settings this makes use.
    """

    def __init__(self, application: FastAPI) -> None:
        self._application = application
        self._state: Any = application.state.linkstate_factory.state()

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
        message = PROTOBUF_REQUEST_TYPES["POST", path]()
        try:
            message.ParseFromString(body)
        except DecodeError as error:
            raise FlowerError(ApiErrorCode.INVALID_PROTOBUF_PAYLOAD, repr(error)) from error
        request.state.protobuf_request = message
        found = await asyncio.to_thread(self._work, request, message, _HANDLERS[path])
        return Response(found, media_type=PROTOBUF_MEDIA_TYPE)

    def _work(self, request: Request, message: Any, handler: Handler) -> bytes:
        """In a thread, since the database makes it wait."""
        authenticate_node(request)
        run_id = _run_of(message)
        if run_id is not None and not self._state.get_run_info(run_ids=[run_id]):
            # As of a run that has ended: an answer to what was asked before a restart. Flower has no word for it.
            raise FlowerError(ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED, f"Run {run_id} is unknown")
        return bytes(handler(message, self._state).SerializeToString())


def _run_of(message: Any) -> int | None:
    """The run that a request is about; None if it is about none."""
    if hasattr(message, "messages_list"):
        if not message.messages_list:
            raise FlowerError(ApiErrorCode.INVALID_PROTOBUF_PAYLOAD, "There is no message in it")
        return int(message.messages_list[0].metadata.run_id)
    return int(message.run_id) if hasattr(message, "run_id") else None
