"""``trend-sim demo``: a real federation on this machine, with every part a process of its own, over TLS.

A server and three synthetic retailers, each with its own home, sales file, invitation, policy and ledger. What is
printed is what the processes themselves print; the summary at the end is read from the files that they wrote.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.markup import escape
from rich.table import Table

from trend_common.console import console
from trend_common.errors import TrendError, UsageError
from trend_simulations.retailers import write_retailers

__all__ = ["demo"]

_COLOURS: Final = ("cyan", "magenta", "yellow", "green", "blue")
_ANSI: Final = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
_DRAWN: Final = re.compile(r"^\s*[┏┃┡│└╭╰]")
"""Lines of the processes' own tables; they are in the logs, and the summary has its own."""
_MARKER: Final = ".trend-demo"
_SHOWN: Final = ("seasonal-naive", "auto-ets", "zero-shot", "shared", "personal", "chosen")


def closing_hint(out: Path, name: str) -> str:
    """What to type to see all that a retailer of the demo sent.

    The demo keeps the heads of its ledgers in ``out``, not in the user's own state folder, so the command names them.
    """
    return f"TREND_STATE_HOME={out / 'state' / name} trend-client sent --home {out / 'homes' / name}"


def demo(
    out: Path, *, retailers: int = 3, rounds: int = 8, epsilon: float = 4.0, seed: int = 1, patience_s: float = 900.0
) -> None:
    """Play the federation and print its summary.

    Args:
        out: Folder for everything; an earlier demo there is replaced, anything else is left alone.
        retailers: How many.
        rounds: Training rounds.
        epsilon: Of the whole federation, for each retailer.
        seed: Of the synthetic retailers.
        patience_s: When to give up.

    Raises:
        UsageError: ``out`` holds something else than a demo.
        TrendError: A process failed; its last lines are in the message.
    """
    started = time.monotonic()
    _fresh(out)
    console.rule("Three retailers, one server, no shared sales" if retailers == 3 else "The federation")
    files = write_retailers(out / "sales", retailers, seed=seed, series=(36, 48))
    for path in files:
        console.print(f"  {path.name}: {path.stat().st_size / 1e6:.1f} MB of synthetic daily sales", highlight=False)
    port = _free_port()
    server_home = out / "server"
    address = f"127.0.0.1:{port}"
    common = ["--home", str(server_home)]
    invites = []
    for path in files:
        invite = out / "invites" / f"{path.stem}.json"
        invite.parent.mkdir(parents=True, exist_ok=True)
        _run("trend-server", "invite", path.stem, "--out", str(invite), "--address", address, *common)
        invites.append(invite)
    processes = _Processes(out / "logs")
    try:
        server = ["--host", "127.0.0.1", "--port", str(port), "--freq", "D", "--horizon", "28", "--exit-when-done"]
        plan = ["--rounds", str(rounds), "--epsilon", str(epsilon), "--min-clients", str(retailers)]
        result = ["--round-timeout", "5m", "--json", str(out / "server.json")]
        processes.start("server", "trend-server", *common, *server, *plan, *result)
        for path, invite in zip(files, invites, strict=True):
            home = out / "homes" / path.stem
            processes.start(
                path.stem,
                "trend-client",
                *("--server", address, "--data", str(path), "--invite", str(invite)),
                *("--home", str(home), "--json", str(out / f"{path.stem}.json")),
                state=out / "state" / path.stem,
            )
        processes.wait(patience_s)
    finally:
        processes.stop()
    _summary(out, [path.stem for path in files], time.monotonic() - started)


def _fresh(out: Path) -> None:
    marker = out / _MARKER
    if out.exists() and any(out.iterdir()):
        if not marker.exists():
            raise UsageError(f"{out} is not empty and not an earlier demo.", "Name another folder with --out.")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    marker.touch()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _command(name: str) -> str:
    """The installed command beside this Python, so that the demo needs no activated environment."""
    return str(Path(sys.executable).with_name(name))


def _run(name: str, *arguments: str) -> None:
    done = subprocess.run([_command(name), *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise TrendError(f"{name} {arguments[0]} ended with exit code {done.returncode}: {done.stderr.strip()}")


class _Processes:
    """The processes of the demo, their output on one screen with names before the lines, and in log files."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._tails: dict[str, list[str]] = {}
        self._readers: list[threading.Thread] = []
        logs.mkdir(parents=True, exist_ok=True)

    def start(self, label: str, name: str, *arguments: str, state: Path | None = None) -> None:
        """Start one and follow its output."""
        environment = {**os.environ, "NO_COLOR": "1", "PYTHONUNBUFFERED": "1", "COLUMNS": "150"}
        # The processes share the machine's cores; one thread each keeps them out of each other's way.
        environment.setdefault("OMP_NUM_THREADS", "1")
        if state is not None:
            environment["TREND_STATE_HOME"] = str(state.absolute())
        process = subprocess.Popen(
            [_command(name), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=environment,
        )
        colour = _COLOURS[len(self._running) % len(_COLOURS)]
        self._running[label] = process
        self._tails[label] = []
        reader = threading.Thread(target=self._follow, args=(label, process, colour), daemon=True)
        reader.start()
        self._readers.append(reader)

    def _follow(self, label: str, process: subprocess.Popen[str], colour: str) -> None:
        assert process.stdout is not None
        with (self._logs / f"{label}.log").open("w", encoding="utf-8") as log:
            for line in process.stdout:
                text = _ANSI.sub("", line).rstrip()
                log.write(text + "\n")
                log.flush()
                if text.strip() and not _DRAWN.match(text):
                    self._tails[label] = [*self._tails[label][-14:], text]
                    console.print(f"[{colour}]{label:>14}[/] {escape(text)}", soft_wrap=True)

    def wait(self, seconds: float) -> None:
        """Return when all have ended well.

        Raises:
            TrendError: One failed, or the time is over.
        """
        deadline = time.monotonic() + seconds
        while any(process.poll() is None for process in self._running.values()):
            for label, process in self._running.items():
                if process.poll() not in (None, 0):
                    self._fail(label, f"ended with exit code {process.returncode}")
            if time.monotonic() > deadline:
                slow = [label for label, process in self._running.items() if process.poll() is None]
                self._fail(slow[0], f"was not done after {seconds:.0f} s")
            time.sleep(0.1)
        for reader in self._readers:
            reader.join(timeout=5)
        for label, process in self._running.items():
            if process.returncode != 0:
                self._fail(label, f"ended with exit code {process.returncode}")

    def _fail(self, label: str, what: str) -> None:
        tail = "\n".join(self._tails[label])
        raise TrendError(f"The process {label} {what}.", f"Its last lines:\n{tail}\nAll logs: {self._logs}")

    def stop(self) -> None:
        """End what is still running, by its process id."""
        for process in self._running.values():
            if process.poll() is None:
                process.terminate()
        for process in self._running.values():
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _summary(out: Path, names: Sequence[str], seconds: float) -> None:
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        found[name] = json.loads((out / f"{name}.json").read_text("utf-8"))
    table = Table(title="Scaled quantile loss on the last 28 days, which no choice has seen (lower is better)")
    table.add_column("method")
    for name in names:
        table.add_column(name, justify="right")
    for method in _SHOWN:
        cells = []
        for name in names:
            scores = {key: value["sql"] for key, value in found[name]["backtest"]["methods"].items()}
            best = min(value for value in scores.values() if value is not None)
            value = scores.get(method)
            text = "–" if value is None else f"{value:.3f}"
            cells.append(f"[bold green]{text}[/]" if value == best else text)
        table.add_row("chosen per product" if method == "chosen" else method, *cells)
    console.print(table)
    privacy = Table(title="What each retailer has revealed")
    for column in ("retailer", "ε spent", "δ", "bytes sent in all", "ledger"):
        privacy.add_column(column, justify="left" if column == "retailer" else "right")
    for name in names:
        budget = found[name]["budget"]
        sent = found[name]["sent"]
        intact = "intact" if budget["chain_ok"] else "NOT INTACT"
        spent = f"{budget['epsilon_spent']:.2f} of {budget['epsilon_cap']:g}"
        privacy.add_row(name, spent, f"{budget['delta']:g}", f"{sent['bytes']:,}", intact)
    console.print(privacy)
    for name in names:
        console.print(f"{name}: {found[name]['report']}", soft_wrap=True)
    console.print(f"Done in {seconds:.0f} s. Look also at: {closing_hint(out, names[0])}", soft_wrap=True)
