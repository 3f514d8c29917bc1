"""Kill -9 in mid-round, of the server and of a client: restarted, the federation goes on to its end."""

from __future__ import annotations

import json

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


def orders_of(federation, name: str) -> list[list[str]]:
    """The train orders that a client has seen: round, hash, new or again."""
    path = federation.client_home(name) / "orders.txt"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def test_kill_of_the_server_in_mid_round(fake_federation) -> None:
    federation, processes = fake_federation, fake_federation.processes
    server = federation.server(rounds=3, minimum=2)
    clients = [federation.client(name, federation.invite(name), seconds=1.5) for name in ("one", "two")]
    processes.wait_for(lambda: len(orders_of(federation, "one")) >= 2, 60, "Round 2")
    server.kill()
    server.wait(10)
    server = federation.server(rounds=3, minimum=2)
    assert processes.finish(server, 90) == 0, processes.log("server.log")
    assert [processes.finish(client, 20) for client in clients] == [0, 0]
    summary = json.loads(federation.summary.read_text())
    assert [one["round"] for one in summary["rounds"]] == [1, 2, 3]
    for name in ("one", "two"):
        seen = orders_of(federation, name)
        # Each round is one question, however often it was asked: a client never computes a round twice.
        hashes = {number: {h for n, h, _ in seen if n == number} for number in ("1", "2", "3")}
        assert all(len(found) == 1 for found in hashes.values()), seen
        assert [n for n, _, state in seen if state == "new"] == ["1", "2", "3"]


def test_kill_of_a_client_in_mid_round(fake_federation) -> None:
    """Its messages are lost; back at once under the same key, it is asked again in the same round."""
    federation, processes = fake_federation, fake_federation.processes
    server = federation.server(rounds=3, minimum=2, timeout="60s")
    invites = {name: federation.invite(name) for name in ("one", "two")}
    clients = {name: federation.client(name, invites[name], seconds=1.5) for name in invites}
    processes.wait_for(lambda: len(orders_of(federation, "one")) >= 2, 60, "Round 2")
    clients["one"].kill()
    clients["one"].wait(10)
    clients["one"] = federation.client("one", invites["one"], seconds=0.1)
    assert processes.finish(server, 60) == 0, processes.log("server.log")
    assert [processes.finish(client, 20) for client in clients.values()] == [0, 0]
    summary = json.loads(federation.summary.read_text())
    assert [one["participants"] for one in summary["rounds"]] == [2, 2, 2]
    assert summary["rounds"][1]["seconds"] < 30, "the killed client should be back long before the deadline"


def test_a_round_closes_without_a_client_that_is_gone(fake_federation) -> None:
    federation, processes = fake_federation, fake_federation.processes
    server = federation.server(rounds=2, minimum=1, timeout="5s")
    goes = federation.client("goes", federation.invite("goes"), seconds=60.0)
    processes.wait_for(lambda: len(orders_of(federation, "goes")) >= 1, 60, "Its first round")
    # Only now: whoever stays answers at once, and alone could end both rounds before the other is there.
    stays = federation.client("stays", federation.invite("stays"), seconds=0.2)
    processes.wait_for(lambda: len(orders_of(federation, "stays")) >= 1, 60, "The other's first round")
    goes.kill()
    goes.wait(10)
    assert processes.finish(server, 90) == 0, processes.log("server.log")
    assert processes.finish(stays, 20) == 0
    summary = json.loads(federation.summary.read_text())
    assert [one["participants"] for one in summary["rounds"]] == [1, 1]
