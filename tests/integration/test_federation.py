"""Real servers and real clients as processes over TLS on 127.0.0.1, with a tiny backbone and small sales files."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from trend_common.forecasts import LEVELS, level_name
from trend_common.privacy.budget import read_budget

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]

ROUNDS = 2


def write_sales(path: Path, seed: int, steps: int = 160, products: int = 24) -> Path:
    rng = np.random.default_rng(seed)
    dates = pd.date_range("2024-01-01", periods=steps)
    season = 1 + 0.4 * np.sin(2 * np.pi * np.arange(steps) / 7)
    tables = [
        pd.DataFrame({"date": dates, "store": "main", "product": f"p{n:02d}", "units": rng.poisson(8 * season)})
        for n in range(products)
    ]
    pd.concat(tables).to_csv(path, index=False)
    return path


class Federation:
    """The processes of one test; all that was started is ended with it."""

    def __init__(self, root: Path, backbone: Path) -> None:
        self.root, self.backbone = root, backbone
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.started: list[subprocess.Popen[bytes]] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def run(
        self, package: str, *arguments: object, name: str, env: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        with (self.root / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"{package}.cli", *map(str, arguments)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "200", **(env or {})},
            )
        self.started.append(process)
        return process

    def log(self, name: str) -> str:
        path = self.root / f"{name}.log"
        return path.read_text("utf-8", errors="replace") if path.exists() else ""

    def logs(self) -> str:
        return "\n".join(f"--- {path.name}\n{self.log(path.stem)}" for path in sorted(self.root.glob("*.log")))

    def server(self, rounds: int = ROUNDS, minimum: int = 3, **options: object) -> subprocess.Popen[bytes]:
        extra = [part for key, value in options.items() for part in (f"--{key.replace('_', '-')}", value)]
        return self.run(
            "trend_server",
            *("--home", self.root / "server", "--port", self.port, "--rounds", rounds, "--min-clients", minimum),
            *("--freq", "D", "--horizon", 14, "--context", 56, "--backbone", self.backbone, "--exit-when-done"),
            *("--round-timeout", "60s", "--json", self.root / "server.json", *extra),
            name="server",
        )

    def invite(self, name: str) -> Path:
        out = self.root / f"{name}.invite"
        done = self.run(
            "trend_server",
            *("invite", name, "--out", out, "--address", self.address, "--home", self.root / "server"),
            name="invite",
        )
        assert done.wait(60) == 0, self.log("invite")
        return out

    def client(
        self, name: str, invite: Path | None, *extra: object, data: Path | None = None
    ) -> subprocess.Popen[bytes]:
        sales = data or self.root / f"{name}.csv"
        if not sales.exists():
            write_sales(sales, seed=len(name) + sum(map(ord, name)))
        invitation = () if invite is None else ("--invite", invite)
        return self.run(
            "trend_client",
            *("--server", self.address, "--data", sales, "--home", self.home(name), "--backbone", self.backbone),
            *("--device", "cpu", "--json", self.root / f"{name}.json", *invitation, *extra),
            name=name,
            env={"TREND_STATE_HOME": str(self.root / "state" / name)},
        )

    def home(self, name: str) -> Path:
        return self.root / "homes" / name

    def ledger(self, name: str) -> list[dict[str, Any]]:
        path = self.home(name) / "ledger" / "ledger.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    def wait_for(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                pytest.fail(f"{what} did not happen within {seconds} s.\n{self.logs()}")
            time.sleep(0.02)

    def stop(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait(timeout=10)


@pytest.fixture
def federation(tmp_path: Path, tiny_backbone: Path) -> Iterator[Federation]:
    made = Federation(tmp_path, tiny_backbone)
    try:
        yield made
    finally:
        made.stop()


def test_three_clients_join_train_adopt_and_strangers_stay_out(federation: Federation) -> None:
    server = federation.server()
    names = ("anna", "bert", "carl")
    invites = {name: federation.invite(name) for name in names}
    clients = {name: federation.client(name, invites[name]) for name in names}
    codes = {name: process.wait(240) for name, process in clients.items()}
    assert codes == dict.fromkeys(names, 0), federation.logs()
    assert server.wait(60) == 0, federation.log("server")

    for name in names:
        result = json.loads((federation.root / f"{name}.json").read_text())
        assert result["budget"]["chain_ok"]
        assert result["budget"]["epsilon_spent"] == pytest.approx(4.0, rel=0.02)
        assert {"seasonal-naive", "auto-ets", "zero-shot", "shared", "personal", "chosen"} <= set(
            result["backtest"]["methods"]
        )
        table = pd.read_csv(result["forecasts"])
        quantiles = [level_name(level) for level in LEVELS]
        assert list(table.columns) == ["unique_id", "store", "product", "ds", "mean", *quantiles]
        assert len(table) == 24 * 14
        assert (np.diff(table[quantiles].to_numpy(), axis=1) >= -1e-6).all()
        report = Path(result["report"]).read_text("utf-8")
        assert "ε" in report
        assert "http://" not in report.replace("http://www.w3.org", "")
        kinds = [record["kind"] for record in federation.ledger(name)]
        assert kinds == ["accept", *["reserve", "seal", "sent"] * ROUNDS, "close"]
    folders = [federation.home(name) / "federations" / "federation-1" for name in names]
    adopted = {json.loads((folder / "shared.json").read_text())["adapter_sha256"] for folder in folders}
    assert len(adopted) == 1

    # The list of messages is the whole list, and offline commands still work with the server gone.
    env = {"TREND_STATE_HOME": str(federation.root / "state" / "anna")}
    sent = federation.root / "sent.json"
    home = federation.home("anna")
    assert federation.run("trend_client", "sent", "--home", home, "--json", sent, name="sent", env=env).wait(60) == 0
    kinds = [one["kind"] for one in json.loads(sent.read_text())["messages"]]
    assert kinds == ["enrol", "describe", *["train"] * ROUNDS, "adopt"]
    assert federation.run("trend_client", "budget", "--home", home, name="budget", env=env).wait(60) == 0
    assert "intact" in federation.log("budget")

    # peft itself reads what a client keeps of the server's registry (the adapter in its own format).
    assert any((federation.root / "server").rglob("*.safetensors"))


def test_who_is_refused_and_with_which_exit_code(federation: Federation) -> None:
    federation.server(minimum=2)  # one client alone never starts a round
    good = federation.invite("good")
    first = federation.client("good", good)
    federation.wait_for(lambda: "accepted" in federation.log("good").lower(), 90, "The first join")

    # An invitation that was used, in another home.
    second = federation.client("second", good)
    assert second.wait(90) == 5, federation.log("second")
    assert "already used" in federation.log("second")
    # No invitation at all.
    nobody = federation.client("nobody", None)
    assert nobody.wait(90) == 5
    assert "trend-server invite" in federation.log("nobody")
    # A key that the server never registered, under an identity copied from another client.
    thief = federation.home("thief")
    thief.mkdir(parents=True)
    for name in ("identity.json", "ca.pem"):
        (thief / name).write_bytes((federation.home("good") / name).read_bytes())
    stranger = federation.client("thief", None)
    assert stranger.wait(90) == 5, federation.log("thief")
    assert "not" in federation.log("thief")
    # A client that trusts another authority: somebody stands in for the server.
    other = Federation(federation.root / "other", federation.backbone)
    other.root.mkdir()
    foreign = json.loads(other.invite("x").read_text())
    wrong = federation.home("wrong")
    wrong.mkdir(parents=True)
    (wrong / "identity.json").write_bytes((federation.home("good") / "identity.json").read_bytes())
    (wrong / "ca.pem").write_text(foreign["ca_pem"])
    misled = federation.client("wrong", None)
    assert misled.wait(90) == 5, federation.log("wrong")
    other.stop()
    # A file that cannot be used is found before the network is touched.
    bad = federation.root / "bad.csv"
    bad.write_text("colour,shape\nred,round\n")
    broken = federation.client("broken", good, data=bad)
    assert broken.wait(90) == 3, federation.log("broken")
    # Too few series to hide in.
    few = federation.client("few", good, data=write_sales(federation.root / "few-sales.csv", 3, products=5))
    assert few.wait(90) == 4, federation.log("few")
    for name in ("second", "nobody", "thief", "wrong", "broken", "few"):
        assert "Traceback" not in federation.log(name), federation.log(name)
        assert "Error:" in federation.log(name)
        assert federation.ledger(name) == []
    # A client that is interrupted stops cleanly.
    first.send_signal(signal.SIGINT)
    assert first.wait(60) == 130, federation.log("good")


def test_a_plan_that_costs_too_much_is_declined_by_the_clients_policy(federation: Federation) -> None:
    federation.server(minimum=1, epsilon=50)
    client = federation.client("anna", federation.invite("anna"))
    federation.wait_for(lambda: "epsilon_per_federation" in federation.log("anna"), 120, "The refusal")
    assert federation.ledger("anna") == []
    federation.wait_for(lambda: "declines" in federation.log("server"), 30, "The server's notice")
    assert "epsilon_per_federation" not in federation.log("server"), "the reason stays with the client"
    client.send_signal(signal.SIGINT)
    assert client.wait(60) == 130


def test_kill_nine_of_client_and_server_in_mid_round(federation: Federation) -> None:
    """The federation finishes; every released step is in the ledger, and the plan is not overrun."""
    rounds = 4
    server = federation.server(rounds=rounds, minimum=2)
    names = ("anna", "bert")
    clients = {name: federation.client(name, federation.invite(name)) for name in names}

    def reserved(name: str) -> int:
        return sum(record["kind"] == "reserve" for record in federation.ledger(name))

    federation.wait_for(lambda: reserved("anna") >= 2, 150, "Round 2")
    clients["anna"].kill()
    clients["anna"].wait(10)
    server.kill()
    server.wait(10)
    server = federation.server(rounds=rounds, minimum=2)
    clients["anna"] = federation.client("anna", None)
    codes = {name: process.wait(200) for name, process in clients.items()}
    assert codes == {"anna": 0, "bert": 0}, federation.logs()
    assert server.wait(60) == 0, federation.log("server")
    for name in names:
        records = federation.ledger(name)
        sealed = [record["round"] for record in records if record["kind"] == "seal"]
        charged = sum(record["steps"] for record in records if record["kind"] == "reserve")
        assert sealed == sorted(set(sealed)), "a round was released twice with different bytes"
        assert set(sealed) <= set(range(1, rounds + 1))
        assert len(sealed) <= charged <= rounds, "every released step is charged, and no more than the plan"
        budget = read_budget(
            federation.home(name) / "ledger" / "ledger.jsonl",
            head_path=next((federation.root / "state" / name).rglob("ledger-head.json")),
            epsilon_total=8,
            delta=1e-5,
        )
        assert budget.chain_ok
        assert budget.epsilon_spent <= 4.01
