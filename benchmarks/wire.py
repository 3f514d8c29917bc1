"""Rounds without work over TLS: this project's server and clients, and Flower's own, on the same machine.

    python benchmarks/wire.py [--clients 3 10 100] [--rounds 5] [--stock 3] [--json FILE]

A round carries an adapter of the shipped size (9,832 numbers, float32) down and an answer up. Its time is the
server's own clock; the first round, in which clients are still arriving, is left out. The server's peak memory and
CPU time are of its whole life. Stub clients are threads with a key and a TLS connection each; up to 100 share a
process. Of 300 clients and more there are three rounds at most.

``--stock`` clients (0: none) also play with flower-superlink, flower-supernode and ``flwr run`` as they are
installed: over TLS, without node authentication, their defaults otherwise. Each stock client starts processes of its
own, so hundreds of them do not fit a small machine.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from peers import environments
from peers.stock_app import APPS, PYPROJECT

from trend_common import __version__
from trend_common.files import write_json
from trend_server.certificates import ensure_certificates

HERE = Path(__file__).resolve().parent
_PER_PROCESS = 100
_MANY = 300


class Started:
    """Processes that end with the benchmark."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._running = folder, list[subprocess.Popen[bytes]]()

    def __call__(self, name: str, *command: object, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start one with its output in ``NAME.log``."""
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
                start_new_session=True,
            )
        self._running.append(process)
        return process

    def stop(self) -> None:
        """End what runs, with the processes that it started."""
        for process in self._running:
            try:
                os.killpg(process.pid, 9)
            except ProcessLookupError:
                continue
            process.wait(10)

    def logs(self) -> str:
        """The ends of all logs."""
        return "\n".join(f"--- {p.name}\n{p.read_text(errors='replace')[-1500:]}" for p in self._folder.glob("*.log"))


@contextmanager
def _started(folder: Path) -> Iterator[Started]:
    made = Started(folder)
    try:
        yield made
    finally:
        made.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _until(condition: Callable[[], bool], seconds: float, started: Started, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"{what} did not happen within {seconds:.0f} s.\n{started.logs()}")
        time.sleep(0.05)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _arrived(status: Path, clients: int, seconds: float = 90.0) -> None:
    """Wait until nearly so many are online, or for this long: hundreds do not come in the same second."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if status.exists() and len(json.loads(status.read_text()).get("online", [])) >= 0.95 * clients:
            return
        time.sleep(1.0)


def ours(folder: Path, clients: int, rounds: int) -> dict[str, Any]:
    """This project's server with so many stub clients."""
    folder.mkdir()
    port, out, home = _free_port(), folder / "out.json", folder / "home"
    names = [f"client-{number:04d}" for number in range(clients)]
    with _started(folder) as start:
        script = HERE / "peers" / "wire_server.py"
        server = start("server", sys.executable, script, home, port, rounds, clients, out, *names)
        _until(lambda: _listens(port) or server.poll() is not None, 120, start, "The server's start")
        invites = [home / "invites" / f"{name}.invite" for name in names]
        for begin in range(0, clients, _PER_PROCESS):
            some = invites[begin : begin + _PER_PROCESS]
            script = HERE / "peers" / "wire_clients.py"
            start(f"clients-{begin}", sys.executable, script, folder / f"clients-{begin}", *some)
            if clients >= _MANY:
                _arrived(home / "status.json", begin + len(some))
        _until(lambda: server.poll() is not None, 560 + 2 * clients, start, "The end of the federation")
        if server.returncode:
            raise RuntimeError(start.logs())
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def stock(folder: Path, clients: int, rounds: int, interpreter: Path) -> dict[str, Any]:
    """Flower's own processes with the same arrays."""
    folder.mkdir()
    tools, port, out = interpreter.parent, _free_port(), folder / "out.json"
    tls, app, home = folder / "tls", folder / "emptyround", folder / "flwr"
    ensure_certificates(tls, ["127.0.0.1", "localhost"])
    (app / "emptyround").mkdir(parents=True)
    (app / "pyproject.toml").write_text(PYPROJECT)
    (app / "emptyround" / "apps.py").write_text(APPS)
    (app / "emptyround" / "__init__.py").touch()
    home.mkdir()
    authority = tls / "ca.pem"
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "bench"\n\n[superlink.bench]\naddress = "127.0.0.1:{port}"\n'
        f'root-certificates = "{authority}"\n'
    )
    env = {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
    }
    with _started(folder) as start:
        start(
            "superlink",
            tools / "flower-superlink",
            *("--host", "127.0.0.1", "--port", port),
            *("--ssl-certfile", tls / "server.pem", "--ssl-keyfile", tls / "server.key"),
            *("--ssl-ca-certfile", authority),
            env=env,
        )
        _until(lambda: _listens(port), 60, start, "The SuperLink's start")
        for number in range(clients):
            start(
                f"supernode-{number}",
                tools / "flower-supernode",
                *("--superlink", f"127.0.0.1:{port}", "--root-certificates", authority, "--port", _free_port()),
                env=env,
            )
        config = f'clients={clients} rounds={rounds} out="{out}"'
        start("run", tools / "flwr", "run", app, "bench", "--run-config", config, env=env)
        _until(out.exists, 60 + 30 * rounds, start, "The end of the run")
        found: dict[str, Any] = json.loads(out.read_text())
    return found


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", help="not used: the adapter has the shipped size")
    parser.add_argument("--clients", type=int, nargs="+", default=[3, 10, 100])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stock", type=int, default=3)
    parser.add_argument("--environments", type=Path, default=HERE / ".environments")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    rows, reference = [], None
    with tempfile.TemporaryDirectory(prefix="trend-wire-") as name:
        folder = Path(name)
        for clients in options.clients:
            rounds = options.rounds if clients < _MANY else min(options.rounds, 3)
            found = ours(folder / f"ours-{clients}", clients, rounds)
            rows.append({"clients": clients, "seconds": float(np.median(found["round_s"][1:])), **found})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        if options.stock:
            interpreter = environments.python("flower-ray", options.environments)
            reference = stock(folder / "stock", options.stock, options.rounds, interpreter)
            reference = {
                "clients": options.stock,
                "seconds": float(np.median(reference["round_s"][1:])),
                **reference,
            }
    alike = next((row for row in rows if reference and row["clients"] == reference["clients"]), None)
    result: dict[str, Any] = {
        "empty_round_seconds_over_stock_flower": alike["seconds"] / reference["seconds"]
        if alike and reference
        else None,
        "rows": rows,
        "stock": reference,
    }
    print(json.dumps(result))
    if options.json:
        write_json(options.json, {"schema": 1, "version": __version__, "command": "wire", **result})
    return 0


if __name__ == "__main__":
    sys.exit(main())
