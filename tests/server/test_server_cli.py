"""The commands of trend-server, as a person types them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import small_plan
from typer.testing import CliRunner

from trend_common.errors import TrendError
from trend_common.flower.invite import Invite
from trend_common.flower.keys import new_private_key, public_key_text
from trend_server.cli import app
from trend_server.registry import Registry
from trend_server.roster import Roster

runner = CliRunner()


def invoke(*arguments: object) -> str:
    """Run a command; its error for people is raised."""
    result = runner.invoke(app, [str(one) for one in arguments], catch_exceptions=True)
    if isinstance(result.exception, TrendError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_invite_status_revoke(tmp_path: Path) -> None:
    home, out = tmp_path / "home", tmp_path / "shop.invite"
    invoke("--home", home, "invite", "shop", "--out", out, "--address", "fed.example:9443", "--expires", "2h")
    invite = Invite.load(out)
    assert (invite.name, invite.server) == ("shop", "fed.example:9443")
    invoke("invite", "other", "--out", tmp_path / "o", "--address", "fed.example:9443", "--home", home)
    roster = Roster(home / "roster.sqlite")
    roster.bind(invite.token, public_key_text(new_private_key()))
    invoke("status", "--home", home, "--json", tmp_path / "s.json")
    status = json.loads((tmp_path / "s.json").read_text())
    assert status["running"] is False
    assert [(one["name"], one["state"]) for one in status["clients"]] == [("other", "invited"), ("shop", "joined")]
    invoke("revoke", "shop", "--home", home)
    assert {entry.name: entry.state for entry in roster.entries()} == {"other": "invited", "shop": "revoked"}


def test_an_invitation_needs_an_address(tmp_path: Path) -> None:
    with pytest.raises(TrendError, match="--address"):
        invoke("invite", "shop", "--out", tmp_path / "x", "--home", tmp_path / "home")
    (tmp_path / "home" / "address.json").write_text('{"host": "10.0.0.1", "port": 9443}')
    invoke("invite", "shop", "--out", tmp_path / "x", "--home", tmp_path / "home")
    assert Invite.load(tmp_path / "x").server == "10.0.0.1:9443"


@pytest.mark.parametrize("command", [["status"], ["models"], ["revoke", "a"], ["export", "--out", "x"]])
def test_a_home_that_is_none_is_said_and_not_made(tmp_path: Path, command: list[str]) -> None:
    with pytest.raises(TrendError, match="no server"):
        invoke("--home", tmp_path / "none", *command)
    assert not (tmp_path / "none").exists()


def test_models_and_export(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    plan, initial, frozen = small_plan()
    Registry(home / "registry").add(plan, initial, frozen, initial, ())
    invoke("models", "--home", home, "--json", tmp_path / "m.json")
    assert json.loads((tmp_path / "m.json").read_text())["models"][0]["version"] == 1
    invoke("export", "--home", home, "--out", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "card.json",
    }


def test_a_mistake_on_the_command_line_ends_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(TrendError, match="rounds"):
        invoke("--home", tmp_path / "home", "--rounds", "0")
    with pytest.raises(TrendError, match="duration"):
        invoke("--home", tmp_path / "home", "--round-timeout", "soon")


def test_help_loads_nothing_heavy() -> None:
    """What makes it quick; a clock would measure the machine."""
    code = (
        "import sys\n"
        "from trend_server.cli import main\n"
        "sys.argv = ['trend-server', '--help']\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "heavy = {'torch', 'flwr', 'transformers', 'peft', 'scipy', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True)
    assert b"--rounds" in done.stdout


def test_errors_exit_with_their_code_and_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from trend_server.cli import main; main()",
            "--home",
            str(tmp_path / "none"),
            "status",
        ],
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert b"There is no server" in done.stderr
