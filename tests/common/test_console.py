"""How a command ends: as a process, with the code and the words that people and scripts rely on."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import signal, sys, time
import typer
from trend_common.console import run_app

# A shell that starts a process in the background leaves it deaf to Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def work(how: str) -> None:
    if how == "abort":
        raise typer.Abort
    if how == "exit":
        raise typer.Exit(7)
    if how == "wait":
        print("ready", flush=True)
        time.sleep(60)


run_app(app)()
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM, "utf-8")
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent otherwise there")
def test_ctrl_c_is_said_and_exits_with_130(program: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, str(program), "wait"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert errors == "Interrupted. The same command continues where this one stopped.\n"


@pytest.mark.parametrize(("how", "code", "said"), [("abort", 130, "Interrupted."), ("exit", 7, ""), ("done", 0, "")])
def test_other_ends(program: Path, how: str, code: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, str(program), how], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code
    assert done.stderr.startswith(said)
    assert bool(done.stderr) == bool(said)
