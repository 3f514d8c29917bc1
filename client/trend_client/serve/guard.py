"""What every request passes first: the token, the size, the log, and the net under all errors.

The log names the endpoint, never the path or the query, which may hold names of products; an unforeseen error is
logged by its kind and place, never by its words, which may hold sales.
"""

from __future__ import annotations

import logging
import secrets
import time
import traceback
from collections.abc import Callable
from pathlib import PurePath
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trend_client.serve.problems import ProblemError, answer
from trend_client.serve.token import matches

__all__ = ["OPEN_PATHS", "Guard", "place_of"]

OPEN_PATHS: Final = frozenset({"/live", "/ready", "/openapi.json"})
"""What answers without a token: nothing of the retailer is in it."""

_LOG = logging.getLogger("trend_client.serve")


class Guard:
    """ASGI middleware.

    Args:
        app: What it guards.
        token: The bearer token.
        max_body: Bytes of a request's body.
        observe: Told of each answer: endpoint, method, status, seconds.
    """

    def __init__(
        self, app: ASGIApp, *, token: str, max_body: int, observe: Callable[[str, str, int, float], None]
    ) -> None:
        self._app, self._token, self._max_body, self._observe = app, token, max_body, observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, request_id, status = time.perf_counter(), secrets.token_hex(6), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", []),
                    (b"x-request-id", request_id.encode()),
                    (b"cache-control", b"no-store"),
                ]
            await send(message)

        try:
            headers = dict(scope["headers"])
            self._check(scope, headers)
            await self._app(scope, self._counted(receive), sending)
        except ProblemError as error:
            await answer(error)(scope, receive, sending)
        except Exception as error:
            _LOG.error("%s %s at %s", request_id, type(error).__name__, place_of(error))
            if not status:
                await answer(_unforeseen(request_id))(scope, receive, sending)
        finally:
            seconds = time.perf_counter() - start
            endpoint = getattr(scope.get("route"), "path", None) or "(none)"
            self._observe(endpoint, scope["method"], status, seconds)
            _LOG.info("%s %s %s %d %.1f ms", request_id, scope["method"], endpoint, status, 1000 * seconds)

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        if scope["path"] not in OPEN_PATHS and not matches(headers.get(b"authorization"), self._token):
            raise ProblemError(
                401,
                "token",
                "The token is missing or wrong.",
                "Send the header Authorization: Bearer TOKEN; the token lies in the file serve/token of the home.",
                headers={"WWW-Authenticate": "Bearer"},
            )
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._max_body:
            raise self._too_large()

    def _counted(self, receive: Receive) -> Receive:
        total = 0

        async def counting() -> Message:
            nonlocal total
            message = await receive()
            total += len(message.get("body", b""))
            if total > self._max_body:
                raise self._too_large()
            return message

        return counting

    def _too_large(self) -> ProblemError:
        return ProblemError(
            413,
            "body-too-large",
            f"The body is larger than {self._max_body:,} bytes.",
            "Send fewer rows at a time, or start the service with a larger --max-body.",
            headers={"Connection": "close"},
        )


def place_of(error: BaseException) -> str:
    """Where an error was raised, as ``module.py:12 in name``; none of its words."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "unknown"
    last = frames[-1]
    return f"{PurePath(last.filename).name}:{last.lineno} in {last.name}"


def _unforeseen(request_id: str) -> ProblemError:
    return ProblemError(
        500,
        "unforeseen",
        "The service made a mistake; the request may be fine.",
        f"Look for {request_id} in the service's log, and report that line; it holds nothing of your sales.",
    )
