"""The grid of several processes: each client in one of them, answers in order, an end for everything that fails."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from hypothesis import given
from hypothesis import strategies as st

from trend_common.errors import ConnectionFailure, PolicyError, UsageError
from trend_common.flower import forked
from trend_common.flower.forked import ForkedGrid
from trend_common.flower.node import ERROR_REASON
from trend_common.flower.records import pack, reply, unpack
from trend_common.protocol import AdoptOrder, AdoptReply

ORDER = AdoptOrder(federation="f", round=0, plan_sha256="0" * 64, adapter_sha256="0" * 64, final=False)
NODES = list(range(10, 19))


def counting(node_id: int) -> ClientApp:
    """Answers with its number, its process, and how often it was asked; large enough to fill a pipe."""
    app, asked = ClientApp(), [0]

    @app.query("adopt")
    def adopt(message: Message, _: Context) -> Message:
        _, tensors = unpack(message.content, AdoptOrder, tensors=True)
        asked[0] += 1
        answer = np.full(50_000, node_id, np.float32) + tensors["x"][0]
        answer[1], answer[2] = os.getpid() % 1_000_000, asked[0]
        return reply(message, AdoptReply(), {"x": answer})

    return app


def ask(grid: ForkedGrid[str], nodes: Sequence[int], add: float = 0.0) -> list[tuple[int, int, int]]:
    """(node, process, how often) in the order of the answers."""
    content = pack(ORDER, {"x": np.full(2, add, np.float32)})
    found = []
    for message in grid.send_and_receive([Message(content, node, "query.adopt") for node in nodes]):
        values = unpack(message.content, AdoptReply, tensors=True)[1]["x"]
        assert values[0] == message.metadata.src_node_id + add
        found.append((message.metadata.src_node_id, int(values[1]), int(values[2])))
    return found


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_each_client_lives_in_one_process_and_answers_come_in_order(processes: int) -> None:
    with ForkedGrid(counting, NODES, processes=processes) as grid:
        rounds = [ask(grid, NODES, add=number) for number in range(3)]
    for number, found in enumerate(rounds, 1):
        assert [node for node, _, _ in found] == NODES
        assert {asked for _, _, asked in found} == {number}
        assert [place for _, place, _ in found] == [place for _, place, _ in rounds[0]]
    assert len({place for _, place, _ in rounds[0]}) == processes


@pytest.mark.parametrize("processes", [1, 3])
def test_reports_come_from_where_the_clients_are(processes: int) -> None:
    def report(nodes: Sequence[int]) -> dict[int, str]:
        return {node: f"{node} in {os.getpid()}" for node in nodes}

    with ForkedGrid(counting, NODES, processes=processes, report=report) as grid:
        found = grid.reports()
        assert list(sorted(found)) == NODES
        assert len({text.split()[-1] for text in found.values()}) == processes
        assert len(ask(grid, NODES)) == len(NODES)


def test_what_is_withdrawn_is_not_answered() -> None:
    with ForkedGrid(counting, NODES, processes=2) as grid:
        content = pack(ORDER, {"x": np.zeros(2, np.float32)})
        ids = list(grid.push_messages([Message(content, node, "query.adopt") for node in NODES]))
        grid.withdraw(ids[:4])
        answers = list(grid.pull_messages(ids))
        assert [one.metadata.src_node_id for one in answers] == NODES[4:]
        assert [node for node, _, _ in ask(grid, NODES)] == NODES


def failing(node_id: int) -> ClientApp:
    app = ClientApp()

    @app.query("adopt")
    def adopt(_message: Message, _: Context) -> Message:
        if node_id == 11:
            raise PolicyError("no", "")
        if node_id == 12:
            raise ValueError("the client's own fault")
        os._exit(3)

    return app


def test_a_refusal_is_a_reply_and_a_fault_is_an_error_with_its_place() -> None:
    content = pack(ORDER, {"x": np.zeros(2, np.float32)})
    with ForkedGrid(failing, [11, 12], processes=2) as grid:
        answer = next(iter(grid.pull_messages(list(grid.push_messages([Message(content, 11, "query.adopt")])))))
        assert answer.has_error()
        assert answer.error.reason == ERROR_REASON
        with pytest.raises(RuntimeError, match=r"(?s)worker process.*the client's own fault"):
            list(grid.pull_messages(list(grid.push_messages([Message(content, 12, "query.adopt")]))))


def test_a_process_that_ends_is_an_error_and_not_a_wait() -> None:
    content = pack(ORDER, {"x": np.zeros(2, np.float32)})
    with ForkedGrid(failing, [11, 13], processes=2) as grid:
        ids = list(grid.push_messages([Message(content, 13, "query.adopt")]))
        with pytest.raises(ConnectionFailure, match="fewer --workers"):
            list(grid.pull_messages(ids))


def test_nothing_runs_on_afterwards() -> None:
    with ForkedGrid(counting, NODES, processes=3) as grid:
        workers = list(grid._workers)
        assert all(worker.is_alive() for worker in workers)
    assert not any(worker.is_alive() for worker in workers)


def test_elsewhere_than_on_linux_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forked.sys, "platform", "darwin")
    with pytest.raises(UsageError, match="--engine ray"):
        ForkedGrid(counting, NODES, processes=2)


@given(loads=st.lists(st.floats(0.1, 100), min_size=1, max_size=40), groups=st.integers(1, 6))
def test_the_work_is_spread_evenly_and_whole(loads: list[float], groups: int) -> None:
    nodes = list(range(len(loads)))
    found = forked._spread(nodes, loads, groups)
    assert sorted(node for group in found for node in group) == nodes
    totals = [sum(loads[node] for node in group) for group in found]
    assert max(totals) - min(totals) <= max(loads) + 1e-6
