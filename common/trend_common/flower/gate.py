"""What the public port lets through: eight calls of Flower's Fleet API, and the redemption of invitations.

The application behind it also has a Control API without authentication (whoever reaches it can start programs) and a
Runtime API. The gate is an allow-list of exact paths, so these answer 404 like any path that does not exist.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import math
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final

from trend_common.flower.authority import AUTHORITY_PATH
from trend_common.flower.invite import ENROL_PATH

__all__ = ["FLEET_PATHS", "Bell", "Gate", "RateLimit", "Receive", "Scope", "Send", "read_body"]

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
EnrolHandler = Callable[[bytes], tuple[int, dict[str, str]]]

_ACTIVATE: Final = "/v1/fleet/activate-node"
_DEACTIVATE: Final = "/v1/fleet/deactivate-node"
_PUSH: Final = "/v1/fleet/push-messages"
_PULL: Final = "/v1/fleet/pull-messages"
_UPLOADS: Final = (_PUSH, "/v1/fleet/push-object")
FLEET_PATHS: Final = frozenset(
    {
        _ACTIVATE,
        _DEACTIVATE,
        "/v1/fleet/send-node-heartbeat",
        _PULL,
        *_UPLOADS,
        "/v1/fleet/get-run",
        "/v1/fleet/pull-object",
    }
)
"""All that our client needs. Not ``get-fab``: no code is fetched. Not ``register-node``: that takes an invitation."""

PUBLIC_KEY_HEADER: Final = b"flwr-public-key"


@dataclass
class RateLimit:
    """A bucket of tokens for each address.

    Attributes:
        burst: Requests at once.
        per_second: Requests that are given back each second.
        addresses: How many addresses are remembered; the one that was quiet for longest is forgotten first.
    """

    burst: int = 30
    per_second: float = 2.0
    addresses: int = 10_000
    clock: Callable[[], float] = time.monotonic
    _buckets: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def allow(self, address: str) -> bool:
        """Take one token of ``address``; False if it has none left."""
        now = self.clock()
        tokens, last = self._buckets.pop(address, (float(self.burst), now))
        tokens = min(float(self.burst), tokens + (now - last) * self.per_second)
        allowed = tokens >= 1.0
        self._buckets[address] = (tokens - 1.0 if allowed else tokens, now)
        while len(self._buckets) > self.addresses:
            self._buckets.popitem(last=False)
        return allowed


_IDLE_CALLS: Final = 20.0
_LONGEST_HOLD: Final = 20.0
_FLOWER_ASKED: Final = 3
"""Of so many requests for work for which nobody rang, one goes to Flower all the same: a ring can be missed."""


class Bell:
    """Rings where somebody waits, so that neither side has to ask again and again.

    A client's request for work is held until there is some, or until the hold is over; the round loop sleeps until
    something was uploaded. Only ever a shortcut: a ring that is missed costs a delay, not a message.

    It also lets nobody leave while an answer of theirs lies there: Flower would put an error in the answer's place.

    Args:
        hold: Seconds that a request for work is held at most; well below the time-outs of proxies. Where many wait it
            is longer, so that all of them together ask no more than twenty times a second, up to 20 seconds.
        leave: Seconds that a goodbye is held at most.
    """

    def __init__(self, hold: float = 5.0, leave: float = 3.0) -> None:
        self._hold = hold
        self._leave = leave
        self._untaken: Counter[bytes] = Counter()
        self._idle: Counter[bytes] = Counter()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: dict[bytes, asyncio.Event] = {}
        self._work: Counter[bytes] = Counter()
        self._closed = False
        self._lock = threading.Lock()
        self._uploaded = threading.Event()

    def ring(self, keys: Iterable[bytes]) -> None:
        """Say that there is one more message for each of these clients (public keys); from any thread."""
        found = list(keys)
        with self._lock:
            self._work.update(found)
            loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._wake, found)

    def close(self) -> None:
        """Let everybody go, for good."""
        self._closed = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake, list(self._waiting))

    async def work(self, key: bytes) -> bool:
        """Return when there may be a message for this client.

        Returns:
            Whether Flower should be asked. Where so many wait that they are held for longer, it is spared most
            questions to which the answer is that there is nothing.
        """
        self._loop = asyncio.get_running_loop()
        if self._take(key) or self._closed:
            return True
        event = self._waiting.setdefault(key, asyncio.Event())
        # Each request costs some milliseconds: hundreds that come again and again would leave no time for work.
        hold = max(self._hold, min(len(self._waiting) / _IDLE_CALLS, _LONGEST_HOLD))
        try:
            await asyncio.wait_for(event.wait(), hold)
        except TimeoutError:
            self._idle[key] += 1
            return hold <= self._hold or self._idle[key] % _FLOWER_ASKED == 0
        finally:
            if self._waiting.get(key) is event:
                del self._waiting[key]
        self._take(key)
        return True

    def answered(self, key: bytes) -> None:
        """Say that a client's answer lies there."""
        with self._lock:
            self._untaken[key] += 1

    def took(self, key: bytes) -> None:
        """Say that the round loop has taken an answer; from any thread."""
        with self._lock:
            self._untaken[key] = max(0, self._untaken[key] - 1)

    async def all_taken(self, key: bytes) -> None:
        """Return when no answer of this client lies there, or when the wait is over."""
        end = time.monotonic() + self._leave
        while self._untaken[key] > 0 and not self._closed and time.monotonic() < end:
            await asyncio.sleep(0.05)
        with self._lock:
            del self._untaken[key]
        del self._idle[key]

    def uploaded(self) -> None:
        """Say that a client has sent something."""
        self._uploaded.set()

    def wait_for_upload(self, seconds: float) -> None:
        """Sleep until a client has sent something, at most this long."""
        if self._uploaded.wait(seconds):
            self._uploaded.clear()

    def _take(self, key: bytes) -> bool:
        with self._lock:
            if self._work[key] > 0:
                self._work[key] -= 1
                return True
            del self._work[key]
            return False

    def _wake(self, keys: list[bytes]) -> None:
        for key in keys:
            if key in self._waiting:
                self._waiting[key].set()


class TooLarge(Exception):
    """A body exceeds its limit."""


class Gate:
    """The ASGI application of the public port.

    Args:
        inner: Flower's SuperLink application.
        enrol: Redeems an invitation: request body → status and answer. Called in a thread.
        knows_key: Whether a public key (PEM) is registered; must not block.
        bell: Rung when there is work for a client, and by uploads.
        authority: Certificates that vouch for a renewed authority; handed out to anybody.
        rate: Limits ``POST /v1/enrol`` and ``POST /v1/authority`` by address.
        enrol_bytes, fleet_bytes: The largest bodies.
    """

    def __init__(
        self,
        inner: Application,
        enrol: EnrolHandler,
        knows_key: Callable[[bytes], bool],
        bell: Bell,
        *,
        authority: bytes = b"",
        rate: RateLimit | None = None,
        enrol_bytes: int = 8 * 1024,
        fleet_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self._inner = inner
        self._enrol = enrol
        self._knows_key = knows_key
        self._bell = bell
        self._authority = authority
        self._rate = rate or RateLimit()
        self._enrol_bytes = enrol_bytes
        self._fleet_bytes = fleet_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        path, method = scope["path"], scope["method"]
        if method != "POST" or (path not in FLEET_PATHS and path not in (ENROL_PATH, AUTHORITY_PATH)):
            await _answer(send, 404, b"")
        elif path == AUTHORITY_PATH:
            address = (scope.get("client") or ("", 0))[0]
            allowed = self._rate.allow(address)
            await _answer(send, 200 if allowed else 429, self._authority if allowed else b"")
        elif path == ENROL_PATH:
            await self._redeem(scope, receive, send)
        else:
            await self._pass_on(scope, receive, send)

    async def _redeem(self, scope: Scope, receive: Receive, send: Send) -> None:
        address = (scope.get("client") or ("", 0))[0]
        if not self._rate.allow(address):
            await _answer_json(send, 429, {"code": "busy"})
            return
        try:
            body = await read_body(receive, self._enrol_bytes)
        except TooLarge:
            await _answer_json(send, 413, {"code": "invalid"})
            return
        status, answer = await asyncio.to_thread(self._enrol, body)
        await _answer_json(send, status, answer)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, key = scope["path"], _public_key(scope)
        if not self._knows_key(key):  # told before anything of the body is read
            if path == _ACTIVATE:
                # Flower answers a stranger and a session that did not end cleanly alike; a person wants to know.
                await _answer_json(send, 403, {"code": "unknown-key"})
            else:
                await _answer(send, 401, b"")
            return
        if path == _PULL:
            if not await self._bell.work(key):
                # "No messages", which says nothing; so it matters little that nobody looked at the signature.
                await _answer(send, 200, b"", b"application/protobuf")
                return
        elif path == _DEACTIVATE:
            await self._bell.all_taken(key)
        started = False
        received = 0

        async def limited() -> Event:
            nonlocal received
            event = await receive()
            received += len(event.get("body", b""))
            if received > self._fleet_bytes:
                raise TooLarge
            return event

        async def watched(event: Event) -> None:
            nonlocal started
            if path == _PUSH and not started and event.get("status") == 200:
                self._bell.answered(key)
            started = True
            await send(event)

        if _length(scope) > self._fleet_bytes:
            await _answer(send, 413, b"")
            return
        try:
            await self._inner(scope, limited, watched)
        except TooLarge:
            if not started:
                await _answer(send, 413, b"")
        if path in _UPLOADS:
            self._bell.uploaded()


def _length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0


def _public_key(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == PUBLIC_KEY_HEADER:
            try:
                return base64.b64decode(bytes(value), validate=True)
            except (binascii.Error, ValueError):
                return b""
    return b""


async def read_body(receive: Receive, limit: float = math.inf) -> bytes:
    """The whole body; empty if the client went away.

    Raises:
        TooLarge: It has more bytes than ``limit``.
    """
    body = bytearray()
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            return b""
        body += event.get("body", b"")
        if len(body) > limit:
            raise TooLarge
        if not event.get("more_body", False):
            return bytes(body)


async def _answer(send: Send, status: int, body: bytes, kind: bytes = b"text/plain") -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _answer_json(send: Send, status: int, value: dict[str, str]) -> None:
    await _answer(send, status, json.dumps(value).encode(), b"application/json")
