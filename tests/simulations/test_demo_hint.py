"""The last line of the demo is a command that works when it is pasted."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from trend_client.cli import app
from trend_client.home import ClientHome
from trend_common.privacy.sent import SentLog
from trend_simulations.demo import closing_hint


def test_the_closing_hint_shows_what_was_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREND_STATE_HOME", str(tmp_path / "state" / "grocer-1"))
    home = ClientHome(tmp_path / "homes" / "grocer-1")
    with SentLog(home.ledger_folder / "sent.jsonl", head_path=home.head_folder / "sent-head.json") as sent:
        sent.note("enrol", b"invitation token and public key")
    setting, command, *arguments = shlex.split(closing_hint(tmp_path, "grocer-1"))
    assert command == "trend-client"
    name, value = setting.split("=")
    assert list(Path(value).rglob("sent-head.json")), "the heads lie where the hint says"
    monkeypatch.setenv(name, value)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "1 message" in done.output
