"""The command as a process of its own on 127.0.0.1: starts, refuses to start, several workers, Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from trend_client.serve.settings import ServeSettings, check_address, is_loopback
from trend_client.serve.token import matches, read_token, token_path
from trend_common.errors import ExitCode, UsageError

posix = pytest.mark.skipif(os.name == "nt", reason="signals and file modes of POSIX")


class Server:
    """``trend-client serve`` on a free port."""

    def __init__(self, home: Path, data: Path, backbone: Path, *arguments: str) -> None:
        self.home, self.log = home, home.parent / "serve.log"
        command = [sys.executable, "-m", "trend_client.cli", "serve", "--home", str(home), "--data", str(data)]
        command += ["--backbone", str(backbone), "--device", "cpu", "--port", "0", "--threads", "1", *arguments]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)

    @property
    def text(self) -> str:
        return self.log.read_text("utf-8", errors="replace")

    def wait(self, seconds: float = 120) -> httpx.Client:
        """Until it is ready; a client with the token."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            found = re.search(r"Listening on (http://\S+)", self.text)
            if found and token_path(self.home / "serve").is_file():
                token = token_path(self.home / "serve").read_text().strip()
                client = httpx.Client(
                    base_url=found[1], headers={"Authorization": f"Bearer {token}"}, timeout=60, trust_env=False
                )
                try:
                    if client.get("/ready").status_code == 200:
                        return client
                except httpx.TransportError:
                    pass
                client.close()
            time.sleep(0.1)
        pytest.fail(f"It was not ready.\n{self.text}")

    def stop(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    started: list[Server] = []
    yield started
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait(10)


@posix
@pytest.mark.integration
@pytest.mark.slow
def test_a_service_from_its_first_start_to_ctrl_c(
    tmp_path: Path, sales_file: Path, tiny_backbone: Path, servers: list[Server]
) -> None:
    home = tmp_path / "home"
    # A batch waits long, so that Ctrl-C comes while a request is under way.
    servers.append(Server(home, sales_file, tiny_backbone, "--max-wait", "1000"))
    with closing(servers[0].wait()) as client:
        token = token_path(home / "serve").read_text().strip()
        assert f"Token (shown this once): {token}" in servers[0].text
        assert stat.S_IMODE(token_path(home / "serve").stat().st_mode) == 0o600
        assert httpx.get(f"{client.base_url}/v1/model", trust_env=False).status_code == 401
        found: list[httpx.Response] = []
        asking = threading.Thread(
            target=lambda: found.append(client.post("/v1/forecast", json={"ids": ["s0/p0"], "horizon": 3}))
        )
        asking.start()
        time.sleep(0.4)
        code = servers[0].stop()
        asking.join(30)
    assert code == ExitCode.INTERRUPTED, servers[0].text
    assert [one.status_code for one in found] == [200], servers[0].text
    assert "Traceback" not in servers[0].text
    servers.append(Server(home, sales_file, tiny_backbone))
    with closing(servers[1].wait()) as client:
        assert token not in servers[1].text, "the token is shown once"
        assert client.get("/v1/series").json()["total"] == 12
    assert servers[1].stop(signal.SIGTERM) == ExitCode.INTERRUPTED
    assert "Traceback" not in servers[1].text


@posix
@pytest.mark.integration
@pytest.mark.slow
def test_several_workers_share_a_port_and_what_is_counted(
    tmp_path: Path, sales_file: Path, tiny_backbone: Path, servers: list[Server]
) -> None:
    servers.append(Server(tmp_path / "home", sales_file, tiny_backbone, "--workers", "2"))
    with closing(servers[0].wait()) as client:
        end = time.monotonic() + 60
        while "trend_ready_workers 2.0" not in client.get("/metrics").text and time.monotonic() < end:
            time.sleep(0.2)
        for _ in range(10):  # each over a connection of its own, so that both workers are asked
            asked = httpx.post(
                f"{client.base_url}/v1/forecast",
                json={"ids": ["s0/p0"], "horizon": 2},
                headers=client.headers,
                timeout=60,
                trust_env=False,
            )
            assert asked.status_code == 200
        day = asked.json()["forecasts"][0]["dates"][0]
        client.post("/v1/actuals", json={"rows": [{"id": "s0/p0", "date": day, "units": 3}]})
        text = client.get("/metrics").text
        assert 'trend_requests_total{endpoint="/v1/forecast",method="POST",status="200"} 10.0' in text
        assert "trend_ready_workers 2.0" in text
        assert "trend_drift_outcomes 1.0" in text
    assert servers[0].stop() == ExitCode.INTERRUPTED, servers[0].text
    assert "Traceback" not in servers[0].text


@posix
@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_file_that_cannot_be_used_ends_the_service_with_what_to_do(
    tmp_path: Path, tiny_backbone: Path, servers: list[Server], workers: str
) -> None:
    data = tmp_path / "sales.csv"
    data.write_text("date,units\n")
    servers.append(Server(tmp_path / "home", data, tiny_backbone, "--workers", workers))
    assert servers[0].process.wait(120) == ExitCode.DATA, servers[0].text
    assert "a header but no rows" in servers[0].text
    assert "Traceback" not in servers[0].text


def test_a_port_in_use_and_an_open_address_are_refused(
    tmp_path: Path, tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import socket

    from trend_client.cli import main

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["trend-client", "serve", "--home", str(tmp_path / "home"), *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        return int(caught.value.code or 0)

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert run("--port", str(taken.getsockname()[1])) == ExitCode.USAGE
        assert "--port" in capsys.readouterr().err
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.com"):
        assert run("--host", host) == ExitCode.USAGE
        assert "--allow-remote" in capsys.readouterr().err
    assert run("--max-batch", "12") == ExitCode.USAGE
    assert run("--tls-key", str(tmp_path / "key.pem")) == ExitCode.USAGE


@pytest.mark.parametrize(
    ("host", "own"),
    [
        *((host, True) for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost")),
        *((host, False) for host in ("0.0.0.0", "::", "10.0.0.1", "shop.example", "")),
    ],
)
def test_which_addresses_are_of_this_machine_alone(tmp_path: Path, host: str, own: bool) -> None:
    settings = ServeSettings(home=tmp_path, host=host)
    assert is_loopback(host) == own
    check_address(settings, allow_remote=True)
    if own:
        check_address(settings, allow_remote=False)
    else:
        with pytest.raises(UsageError, match="other machines"):
            check_address(settings, allow_remote=False)


def test_the_token_is_made_once_and_kept_private(tmp_path: Path) -> None:
    token, new = read_token(tmp_path / "serve")
    assert new
    assert len(token) >= 43
    assert read_token(tmp_path / "serve") == (token, False)
    path = token_path(tmp_path / "serve")
    assert matches(f"Bearer {token}".encode(), token)
    assert not matches(f"Bearer {token[:-1]}".encode(), token)
    assert not matches(None, token)
    path.write_text("short")
    with pytest.raises(UsageError, match="does not hold a token"):
        read_token(tmp_path / "serve")
    if os.name != "nt":
        path.chmod(0o640)
        with pytest.raises(UsageError, match="other people"):
            read_token(tmp_path / "serve")
