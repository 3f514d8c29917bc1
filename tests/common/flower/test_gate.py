"""The public port: an allow-list of paths, limits, and requests for work that wait."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trend_common.flower.gate import FLEET_PATHS, Bell, Gate, RateLimit

KEY = b"-----BEGIN PUBLIC KEY-----\nabc\n-----END PUBLIC KEY-----\n"


class Inner:
    """The application behind the gate: reads the body and says 200."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.body = b""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.paths.append(scope["path"])
        more = True
        while more:
            event = await receive()
            self.body += event.get("body", b"")
            more = event.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})


async def request(
    gate: Gate, path: str, method: str = "POST", chunks: tuple[bytes, ...] = (b"",), key: bytes | None = KEY
) -> tuple[int, bytes]:
    """Play one request."""
    sent: list[Any] = []
    headers = [] if key is None else [(b"flwr-public-key", base64.b64encode(key))]
    events = [
        {"type": "http.request", "body": chunk, "more_body": number + 1 < len(chunks)}
        for number, chunk in enumerate(chunks)
    ]

    async def receive() -> Any:
        return events.pop(0)

    async def send(event: Any) -> None:
        sent.append(event)

    scope = {"type": "http", "path": path, "method": method, "headers": headers, "client": ("10.0.0.1", 1)}
    await gate(scope, receive, send)
    return sent[0]["status"], b"".join(event.get("body", b"") for event in sent[1:])


def make(inner: Inner, *, known: bool = True, hold: float = 0.05, **limits: Any) -> Gate:
    """A gate before ``inner``."""
    return Gate(inner, lambda body: (200, {"code": "registered"}), lambda key: known, Bell(hold), **limits)


@given(st.text(max_size=40), st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"]))
def test_no_other_path_reaches_flower(tail: str, method: str) -> None:
    for path in ("/" + tail, "/v1/control/" + tail, "/v1/runtime/" + tail, "/v1/fleet/" + tail, "/v1/fleet" + tail):
        if path in FLEET_PATHS or path == "/v1/enrol":
            continue
        inner = Inner()
        assert asyncio.run(request(make(inner), path, method))[0] == 404
        assert inner.paths == []


@pytest.mark.parametrize("path", sorted(FLEET_PATHS))
def test_what_a_client_needs_passes_by_post_alone(path: str) -> None:
    inner = Inner()
    assert asyncio.run(request(make(inner), path))[0] == 200
    assert inner.paths == [path]
    assert asyncio.run(request(make(inner), path, "GET"))[0] == 404


def test_a_stranger_is_told_so_when_it_arrives() -> None:
    inner = Inner()
    status, body = asyncio.run(request(make(inner, known=False), "/v1/fleet/activate-node"))
    assert (status, json.loads(body)) == (403, {"code": "unknown-key"})
    assert inner.paths == []


@pytest.mark.parametrize("path", ["/v1/enrol", "/v1/fleet/push-object"])
def test_a_body_has_a_limit_even_without_a_length(path: str) -> None:
    gate = make(Inner(), enrol_bytes=100, fleet_bytes=100)
    assert asyncio.run(request(gate, path, chunks=(b"x" * 60, b"x" * 60)))[0] == 413
    assert asyncio.run(request(gate, path, chunks=(b"x" * 50, b"x" * 40)))[0] == 200


def test_requests_to_join_are_limited_by_address() -> None:
    now = [0.0]
    gate = make(Inner(), rate=RateLimit(burst=3, per_second=1.0, clock=lambda: now[0]))
    codes = [asyncio.run(request(gate, "/v1/enrol"))[0] for _ in range(5)]
    assert codes == [200, 200, 200, 429, 429]
    now[0] = 2.0
    assert [asyncio.run(request(gate, "/v1/enrol"))[0] for _ in range(3)] == [200, 200, 429]


@given(st.integers(1, 5), st.lists(st.floats(0, 3), max_size=40))
def test_no_burst_exceeds_what_was_saved_up(burst: int, pauses: list[float]) -> None:
    now = [0.0]
    limit = RateLimit(burst=burst, per_second=0.5, clock=lambda: now[0])
    allowed = 0
    for pause in pauses:
        now[0] += pause
        allowed += limit.allow("one")
    assert allowed <= burst + 0.5 * now[0] + 1e-6


def test_addresses_that_are_quiet_are_forgotten() -> None:
    limit = RateLimit(burst=1, per_second=0.0, addresses=2)
    assert limit.allow("a")
    assert not limit.allow("a")
    assert limit.allow("b")
    assert limit.allow("c")
    assert limit.allow("a")


def test_a_request_for_work_is_held_until_there_is_some() -> None:
    async def scenario() -> tuple[float, float]:
        bell = Bell(hold=5.0)
        gate = Gate(Inner(), lambda body: (200, {}), lambda key: True, bell)
        loop = asyncio.get_running_loop()
        started = loop.time()
        waiting = asyncio.create_task(request(gate, "/v1/fleet/pull-messages"))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await asyncio.to_thread(bell.ring, [KEY])
        assert (await waiting)[0] == 200
        held = loop.time() - started
        bell.ring([KEY])  # rung while nobody waits: the next one is not held
        started = loop.time()
        await request(gate, "/v1/fleet/pull-messages")
        return held, loop.time() - started

    held, second = asyncio.run(scenario())
    assert 0.1 <= held < 2.0
    assert second < 0.5


def test_where_many_wait_each_is_held_for_longer() -> None:
    async def scenario(waiting: int) -> float:
        bell, loop = Bell(hold=0.05), asyncio.get_running_loop()
        others = [asyncio.create_task(bell.work(b"%d" % number)) for number in range(waiting)]
        await asyncio.sleep(0)
        started = loop.time()
        await bell.work(b"the last")
        held = loop.time() - started
        bell.close()
        await asyncio.gather(*others)
        return held

    assert asyncio.run(scenario(0)) < 0.2
    assert asyncio.run(scenario(9)) >= 0.45, "ten that wait ask twenty times a second together"


def test_where_many_wait_flower_is_spared_most_idle_requests() -> None:
    """One in three gets through, so that a ring that was missed costs a delay and no message."""

    async def scenario(waiting: int) -> tuple[int, set[tuple[int, bytes]]]:
        inner, bell = Inner(), Bell(hold=0.05)
        gate = Gate(inner, lambda body: (200, {}), lambda key: True, bell)
        others = [asyncio.create_task(bell.work(b"%d" % number)) for number in range(waiting)]
        await asyncio.sleep(0)
        answers = set()
        for _ in range(6):
            for _ in range(waiting - len(bell._waiting)):
                others.append(asyncio.create_task(bell.work(b"%d" % len(others))))
            await asyncio.sleep(0)
            answers.add(await request(gate, "/v1/fleet/pull-messages"))
        asked = len(inner.paths)
        bell.ring([KEY])
        await request(gate, "/v1/fleet/pull-messages")
        assert len(inner.paths) == asked + 1, "a message that lies there is always fetched"
        bell.close()
        await asyncio.gather(*others)
        return asked, answers

    assert asyncio.run(scenario(0)) == (6, {(200, b"ok")})
    assert asyncio.run(scenario(5)) == (2, {(200, b""), (200, b"ok")})


def test_a_hold_ends_by_itself_and_when_the_server_closes() -> None:
    async def scenario() -> None:
        gate = make(Inner(), hold=0.1)
        assert (await asyncio.wait_for(request(gate, "/v1/fleet/pull-messages"), 2))[0] == 200
        bell = Bell(hold=60)
        gate = Gate(Inner(), lambda body: (200, {}), lambda key: True, bell)
        waiting = asyncio.create_task(request(gate, "/v1/fleet/pull-messages"))
        await asyncio.sleep(0.05)
        bell.close()
        assert (await asyncio.wait_for(waiting, 2))[0] == 200

    asyncio.run(scenario())


def test_a_stranger_is_not_held() -> None:
    async def scenario() -> None:
        gate = Gate(Inner(), lambda body: (200, {}), lambda key: False, Bell(hold=60))
        await asyncio.wait_for(request(gate, "/v1/fleet/pull-messages"), 2)

    asyncio.run(scenario())


def test_an_upload_wakes_the_round_loop() -> None:
    bell = Bell()
    gate = Gate(Inner(), lambda body: (200, {}), lambda key: True, bell)
    asyncio.run(request(gate, "/v1/fleet/push-messages"))
    assert bell._uploaded.is_set()
    bell.wait_for_upload(5.0)
    assert not bell._uploaded.is_set()


def test_nobody_leaves_while_an_answer_of_theirs_lies_there() -> None:
    async def scenario() -> tuple[float, float, float]:
        bell = Bell(leave=0.6)
        gate = Gate(Inner(), lambda body: (200, {}), lambda key: True, bell)
        loop = asyncio.get_running_loop()
        spent = []
        for taken in (True, False, None):
            if taken is not None:
                await request(gate, "/v1/fleet/push-messages")
            started = loop.time()
            leaving = asyncio.create_task(request(gate, "/v1/fleet/deactivate-node"))
            await asyncio.sleep(0.15)
            if taken:
                bell.took(KEY)
            assert (await leaving)[0] == 200
            spent.append(loop.time() - started)
        return spent[0], spent[1], spent[2]

    taken, never, nothing = asyncio.run(scenario())
    assert 0.15 <= taken < 0.5
    assert never >= 0.6
    assert nothing < 0.3
