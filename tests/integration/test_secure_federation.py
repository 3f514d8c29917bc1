"""Secure aggregation over TLS: the real server and three enrolled clients; the roster comes from their enrolment."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


def test_three_retailers_sum_over_tls(fake_federation, tmp_path: Path) -> None:
    names = ("anna", "bert", "carl")
    invites = [fake_federation.invite(name) for name in names]
    processes, out = fake_federation.processes, fake_federation.summary
    server = processes.start("secure_server.py", fake_federation.home, fake_federation.port, 2, out, log="server.log")
    fake_federation.listening()
    clients = processes.start("secure_clients.py", tmp_path / "clients", *invites, log="clients.log")
    processes.wait_for(lambda: server.poll() is not None, 120, "The end of the federation")
    assert server.returncode == 0, processes.log("server.log")
    assert clients.wait(30) == 0, processes.log("clients.log")

    result = json.loads(out.read_text())
    assert [one["participants"] for one in result["rounds"]] == [3, 3]
    # Rounds of ones and twos, subtracted by descent: √11 and 2·√11 are the norms of the means.
    np.testing.assert_allclose([one["update_norm"] for one in result["rounds"]], [11**0.5, 2 * 11**0.5], rtol=1e-6)
    rosters = {(tmp_path / "clients" / name / "federation-1" / "roster.json").read_text() for name in names}
    assert len(rosters) == 1
    assert [one["name"] for one in json.loads(rosters.pop())["members"]] == list(names)
    for name in names:
        sent = [line.split()[-1] for line in processes.log("clients.log").splitlines() if f"{name} sends" in line]
        assert sent == ["keys", "shares", "train", "confirm", "unmask"] * 2
