"""Real processes over TLS: three clients join with invitations and finish; strangers are refused."""

from __future__ import annotations

import json
import ssl
import time
from pathlib import Path

import httpx
import pytest

from trend_common.flower.keys import new_private_key, public_key_text

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


def test_three_clients_join_train_and_adopt(fake_federation) -> None:
    rounds = 3
    clients = []
    server = fake_federation.server(rounds=rounds, minimum=3)
    for name in ("one", "two", "three"):
        clients.append(fake_federation.client(name, fake_federation.invite(name)))
    assert fake_federation.processes.finish(server, 90) == 0, fake_federation.processes.log("server.log")
    for client in clients:
        assert fake_federation.processes.finish(client, 20) == 0
    summary = json.loads(fake_federation.summary.read_text())
    assert [one["participants"] for one in summary["rounds"]] == [3] * rounds
    adopted = {(fake_federation.client_home(name) / "adopted.txt").read_text() for name in ("one", "two", "three")}
    assert adopted == {summary["adapter_sha256"]}
    for name in ("one", "two", "three"):
        orders = (fake_federation.client_home(name) / "orders.txt").read_text().splitlines()
        assert [line.split()[0] for line in orders] == ["1", "2", "3"]
        assert all(line.endswith("new") for line in orders)
    print([one["seconds"] for one in summary["rounds"]])


def test_strangers_are_refused(fake_federation, tmp_path: Path) -> None:
    """A used invitation, an unregistered key, a wrong authority, and every path that is not for clients."""
    federation, processes = fake_federation, fake_federation.processes
    server = federation.server(rounds=1, minimum=2)
    invite = federation.invite("one")
    federation.listening()
    first = federation.client("one", invite)
    processes.wait_for(lambda: "online" in processes.log("one.log"), 60, "The first client's arrival")

    thief = federation.client("thief", invite)
    assert processes.finish(thief, 60) == 5
    assert "already used" in processes.log("thief.log")
    assert "Traceback" not in processes.log("thief.log")

    stranger = federation.client("stranger", federation.invite("two"), env={"FAKE_SKIP_ENROL": "1"})
    assert processes.finish(stranger, 60) == 5
    assert "does not know this client's key" in processes.log("stranger.log")

    from trend_server.certificates import ensure_certificates, server_names

    other = ensure_certificates(tmp_path / "other", server_names("127.0.0.1")).authority
    wary = federation.client("wary", federation.invite("three"), env={"FAKE_SKIP_ENROL": "1", "FAKE_CA": str(other)})
    assert processes.finish(wary, 60) == 5
    assert "is not trusted" in processes.log("wary.log")

    context = ssl.create_default_context(cafile=str(federation.home / "tls" / "ca.pem"))
    with httpx.Client(verify=context, base_url=f"https://{federation.address}") as web:
        for path in (
            "/",
            "/health",
            "/docs",
            "/openapi.json",
            "/v1/control/start-run",
            "/v1/control/list-nodes",
            "/v1/runtime/acquire-task",
            "/v1/fleet/register-node",
            "/v1/fleet/get-fab",
            "/v1/fleet/../control/start-run",
            "/v1/fleet/%2e%2e/control/start-run",
        ):
            for method in ("GET", "POST"):
                assert web.request(method, path).status_code == 404, (method, path)
        assert web.get("/v1/fleet/pull-messages").status_code == 404
        assert web.post("/v1/fleet/pull-messages").status_code in (400, 401, 415, 422)
        assert web.post("/v1/enrol", content=b"x" * 20_000).status_code == 413
        assert web.post("/v1/enrol", content=b"{}").json() == {"code": "invalid"}
        unknown = {"version": 1, "token": "A" * 43, "public_key": public_key_text(new_private_key())}
        answer = web.post("/v1/enrol", json=unknown)
        assert (answer.status_code, answer.json()) == (403, {"code": "unknown"})
        codes = [web.post("/v1/enrol", content=b"{}").status_code for _ in range(60)]
        assert 429 in codes

    assert first.poll() is None
    assert server.poll() is None


def test_a_revoked_client_is_shut_out(fake_federation) -> None:
    from trend_server.roster import Roster

    federation, processes = fake_federation, fake_federation.processes
    federation.server(rounds=1, minimum=2)
    client = federation.client("one", federation.invite("one"))
    processes.wait_for(lambda: _online(processes), 60, "The client's arrival")
    Roster(federation.home / "roster.sqlite").revoke("one")
    assert processes.finish(client, 40) == 5
    assert "revoked" in processes.log("one.log")


def test_the_server_stops_cleanly_and_the_same_command_goes_on(fake_federation) -> None:
    import signal

    federation, processes = fake_federation, fake_federation.processes
    server = federation.server(rounds=4, minimum=1)
    client = federation.client("one", federation.invite("one"), seconds=1.0)
    orders = federation.client_home("one") / "orders.txt"
    processes.wait_for(lambda: orders.exists() and len(orders.read_text().splitlines()) >= 2, 60, "Round 2")
    server.send_signal(signal.SIGINT)
    assert processes.finish(server, 20) == 130
    time.sleep(0.5)
    server = federation.server(rounds=4, minimum=1)
    assert processes.finish(server, 60) == 0, processes.log("server.log")
    assert processes.finish(client, 20) == 0
    assert "Resuming after round" in processes.log("server.log")


def _online(processes) -> bool:
    return (processes.folder / "one.log").exists() and "online" in processes.log("one.log")
