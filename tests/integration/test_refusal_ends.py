"""A real client whose plan does not fit, with an invitation from before the authority was renewed, to its end."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from trend_client.home import ClientHome
from trend_server.certificates import ensure_authority, rotate_authority

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


def test_a_refused_plan_ends_with_4_under_an_authority_renewed_since_the_invitation(
    fake_federation, tiny_backbone: Path, tmp_path: Path
) -> None:
    old = fake_federation.invite("bert")
    tls = fake_federation.home / "tls"
    before = ensure_authority(tls)
    rotate_authority(tls)
    new = fake_federation.invite("anna")
    server = fake_federation.server(rounds=1, minimum=1)
    fake_federation.listening()

    sales = tmp_path / "sales.csv"
    days = pd.date_range("2024-01-01", periods=160)
    rng = np.random.default_rng(0)
    pd.concat(
        pd.DataFrame({"date": days, "store": "main", "product": f"p{n}", "units": rng.poisson(9, 160)})
        for n in range(24)
    ).to_csv(sales, index=False)
    processes, root = fake_federation.processes, tmp_path / "bert"
    bert = processes.start_command(
        [sys.executable, "-m", "trend_client.cli"],
        *("--server", fake_federation.address, "--data", sales, "--home", root, "--invite", old),
        *("--backbone", tiny_backbone, "--device", "cpu"),
        log="bert.log",
        env={"TREND_STATE_HOME": str(tmp_path / "state"), "NO_COLOR": "1", "COLUMNS": "200"},
    )
    # It declines, and the federation goes on with the other one.
    processes.wait_for(lambda: "declines the plan" in processes.log("server.log"), 120, "The refusal")
    fake_federation.client("anna", new)
    assert bert.wait(120) == 4, processes.log("bert.log")
    assert server.wait(60) == 0, processes.log("server.log")

    said = processes.log("bert.log")
    assert "has renewed its certificate authority" in said
    assert "does not fit" in said
    assert "Error:" in said
    assert "Traceback" not in said
    assert "does not fit" not in processes.log("server.log"), "the reason stays with the client"
    home = ClientHome(root)
    assert home.ca_path.read_text() == ensure_authority(tls) != before, "the new authority is pinned"
    assert (home.ledger_folder / "ledger.jsonl").read_bytes() == b"", "nothing was charged"
