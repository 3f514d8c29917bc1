"""The simulation's grid: every client answers, none shares anything with another."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from trend_common.errors import PolicyError
from trend_common.flower.inprocess import InProcessGrid
from trend_common.flower.node import ERROR_REASON
from trend_common.flower.records import pack, reply, unpack
from trend_common.protocol import AdoptOrder, AdoptReply

ORDER = AdoptOrder(federation="f", round=0, plan_sha256="0" * 64, adapter_sha256="0" * 64, final=False)


def echo(node_id: int, log: list[int] | None = None) -> ClientApp:
    """An app that returns its tensors plus its number, and spoils what it was given."""
    app = ClientApp()

    @app.query("adopt")
    def adopt(message: Message, context: Context) -> Message:
        if log is not None:
            log.append(node_id)
        assert context.node_id == node_id
        _, tensors = unpack(message.content, AdoptOrder, tensors=True)
        answer = reply(message, AdoptReply(), {"x": (tensors["x"] + node_id).astype(np.float32)})
        message.content["body"]["tensors"] = b"spoiled"
        message.content["spoiled"] = message.content["body"]
        return answer

    return app


def ask(grid: InProcessGrid, nodes: list[int]) -> dict[int, float]:
    """Send one shared record to all, and return each one's number."""
    content = pack(ORDER, {"x": np.zeros(2, np.float32)})
    messages = [Message(content, node, "query.adopt") for node in nodes]
    out = {}
    for message in grid.send_and_receive(messages):
        assert not message.has_error(), message.error
        out[message.metadata.src_node_id] = float(unpack(message.content, AdoptReply, tensors=True)[1]["x"][0])
    return out


@pytest.mark.parametrize("workers", [1, 3])
def test_everybody_answers_and_nobody_sees_what_another_did(workers: int) -> None:
    nodes = list(range(10, 20))
    with InProcessGrid(echo, nodes, workers=workers) as grid:
        assert list(grid.get_node_ids()) == nodes
        for _ in range(3):
            assert ask(grid, nodes) == {node: float(node) for node in nodes}


def test_one_worker_starts_no_thread_and_keeps_the_order() -> None:
    log: list[int] = []
    before = threading.active_count()
    grid = InProcessGrid(lambda node: echo(node, log), [5, 3, 9])
    ask(grid, [9, 5, 3])
    assert log == [9, 5, 3]
    assert threading.active_count() == before


def test_apps_are_made_once_and_only_for_those_who_are_asked() -> None:
    made: list[int] = []

    def make(node: int) -> ClientApp:
        made.append(node)
        return echo(node)

    grid = InProcessGrid(make, range(100))
    ask(grid, [1, 2])
    ask(grid, [2, 1])
    assert made == [1, 2]


def failing(error: Exception) -> ClientApp:
    """An app that raises."""
    app = ClientApp()

    @app.query("adopt")
    def adopt(message: Message, context: Context) -> Message:
        raise error

    return app


def test_an_error_for_people_becomes_the_constant_reply() -> None:
    grid = InProcessGrid(lambda _: failing(PolicyError("207 series", "")), [1])
    (answer,) = grid.send_and_receive([Message(pack(ORDER), 1, "query.adopt")])
    assert answer.has_error()
    assert answer.error.reason == ERROR_REASON


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bug_in_a_client_is_not_hidden_in_a_simulation(workers: int) -> None:
    with (
        InProcessGrid(lambda _: failing(KeyError("bug")), [1], workers=workers) as grid,
        pytest.raises(KeyError, match="bug"),
    ):
        list(grid.send_and_receive([Message(pack(ORDER), 1, "query.adopt")]))


def test_unless_it_is_asked_to_be_as_a_server_would_see_it() -> None:
    grid = InProcessGrid(lambda _: failing(KeyError("bug")), [1], raise_errors=False)
    (answer,) = grid.send_and_receive([Message(pack(ORDER), 1, "query.adopt")])
    assert answer.error.reason == ERROR_REASON


def test_a_withdrawn_question_is_not_worked_on() -> None:
    log: list[int] = []
    grid = InProcessGrid(lambda node: echo(node, log), [1, 2])
    ids = list(
        grid.push_messages([Message(pack(ORDER, {"x": np.zeros(1, np.float32)}), n, "query.adopt") for n in (1, 2)])
    )
    grid.withdraw(ids[:1])
    assert [m.metadata.src_node_id for m in grid.pull_messages(ids)] == [2]
    assert log == [2]


def test_there_is_at_least_one_worker() -> None:
    with pytest.raises(ValueError, match="workers"):
        InProcessGrid(echo, [1], workers=0)
