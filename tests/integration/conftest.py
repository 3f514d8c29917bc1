"""Processes of a small federation: started by a test, and ended with it whatever happens."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


@dataclass
class Processes:
    """Starts scripts of this folder; everything it started is killed at the end of the test."""

    folder: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(
        self, script: str, *arguments: object, log: str, env: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start ``script`` with its output in ``log``."""
        return self.start_command([sys.executable, str(HERE / script)], *arguments, log=log, env=env)

    def start_command(
        self, command: list[str], *arguments: object, log: str, env: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start any command with its output in ``log``."""
        import os

        with (self.folder / log).open("ab") as output:
            process = subprocess.Popen(
                [*command, *map(str, arguments)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
            )
        self.started.append(process)
        return process

    def log(self, name: str) -> str:
        """What a process has written."""
        return (self.folder / name).read_text("utf-8", errors="replace")

    def finish(self, process: subprocess.Popen[bytes], seconds: float) -> int:
        """Wait for the end and return the exit code."""
        return process.wait(timeout=seconds)

    def wait_for(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait until ``condition`` holds, or fail with all logs."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return
            time.sleep(0.05)
        logs = "\n".join(f"--- {path.name}\n{self.log(path.name)}" for path in sorted(self.folder.glob("*.log")))
        pytest.fail(f"{what} did not happen within {seconds} s.\n{logs}")

    def stop(self) -> None:
        """Kill what still runs."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait(timeout=10)


@dataclass
class FakeFederation:
    """A server with a tiny plan, and invitations to it."""

    processes: Processes
    home: Path
    port: int

    @property
    def address(self) -> str:
        """``HOST:PORT``."""
        return f"127.0.0.1:{self.port}"

    @property
    def summary(self) -> Path:
        """What the server writes when it is done."""
        return self.home.parent / "summary.json"

    def server(self, *, rounds: int, minimum: int, timeout: str = "20s") -> subprocess.Popen[bytes]:
        """Start (or restart) the server."""
        return self.processes.start(
            "fake_server.py", self.home, self.port, rounds, minimum, timeout, self.summary, log="server.log"
        )

    def invite(self, name: str) -> Path:
        """Make an invitation."""
        from trend_server.certificates import ensure_authority
        from trend_server.enrolment import write_invite
        from trend_server.home import ServerHome
        from trend_server.roster import Roster

        home = ServerHome(self.home).create()
        out = self.home.parent / f"{name}.invite"
        pem = ensure_authority(home.tls)
        roster = Roster(home.roster_path)
        write_invite(roster, pem, name=name, server=self.address, lifetime=timedelta(hours=1), out=out)
        return out

    def client(
        self, name: str, invite: Path, seconds: float = 0.0, env: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start (or restart) a client."""
        return self.processes.start(
            "fake_client.py", self.client_home(name), invite, seconds, log=f"{name}.log", env=env
        )

    def client_home(self, name: str) -> Path:
        """A client's folder."""
        return self.home.parent / f"home-{name}"

    def listening(self, seconds: float = 60.0) -> None:
        """Wait until the server accepts connections."""

        def accepts() -> bool:
            with socket.socket() as probe:
                probe.settimeout(0.5)
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        self.processes.wait_for(accepts, seconds, "The server's start")


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Start processes; they are gone after the test."""
    made = Processes(tmp_path)
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def fake_federation(processes: Processes, tmp_path: Path) -> FakeFederation:
    """A tiny federation that is not started yet."""
    return FakeFederation(processes, tmp_path / "server", free_port())
