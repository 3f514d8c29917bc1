"""The command trend-sim: quick help, clear refusals, and results on the screen and as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from trend_client.engine import Engine
from trend_common.console import console
from trend_common.errors import UsageError
from trend_simulations import cli
from trend_simulations.retailers import write_retailers
from trend_simulations.settings import DpRecipe


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["trend-sim", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    code = ended.value.code
    return code if isinstance(code, int) else 0


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys; from trend_simulations import cli; "
        "print([name for name in ('torch', 'pandas', 'numpy', 'flwr', 'statsforecast') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_retailers_it_shows_its_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch) == 0
    assert "--retailers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--data", "nowhere.csv"], 3, "nowhere.csv"),
        (["--retailers", "2", "--freq", "Y"], 2, "--freq Y"),
        (["--retailers", "2", "--freq", "M"], 2, "daily or weekly"),
        (["--retailers", "2", "--sizes", "5"], 2, "--sizes 5"),
        (["--retailers", "2", "--out", "x"], 2, "--write-data"),
        (["--retailers", "2", "--write-data"], 2, "--out"),
        (["--retailers", "2", "--split-by", "store"], 2, "exactly one file"),
        (["--retailers", "2", "--split-by", "city"], 2, "--split-by city"),
        (["--data", "a.csv", "b.csv", "--split-by", "store"], 2, "2 are given"),
        (["--data", "a.csv", "--group-stores", "3"], 2, "--split-by store"),
        (["--retailers", "1", "--compare", "gossip"], 2, "There is no arm 'gossip'"),
        (["--retailers", "1", "--compare", "local", "--baselines", "tea"], 2, "There is no method 'tea'"),
        (["--retailers", "1", "--backbone", "nowhere", "--compare", "local"], 2, "nowhere"),
        (["--retailers", "1", "--history", "3"], 2, "--history 3"),
        (["--retailers", "2", "--secure-aggregation"], 2, "needs 3 retailers"),
    ],
)
def test_mistakes_have_a_message_and_an_exit_code(
    arguments: list[str],
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, *arguments) == code
    shown = capsys.readouterr()
    assert message in shown.err
    assert "Traceback" not in shown.err + shown.out


def test_several_files_may_follow_one_data_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--data", str(tmp_path / "a.csv"), str(tmp_path / "b.csv"), "--group-stores", "2") == 2
    assert "each file is a retailer" in capsys.readouterr().err


def test_synthetic_sales_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "--write-data", "--retailers", "2", "--sizes", "3-4", "--out", str(tmp_path / "d")) == 0
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == ["drugstore-1.csv", "grocer-1.csv"]


def parameters(backbone: Path) -> int:
    """Numbers in the default adapter of a backbone."""
    engine = Engine(str(backbone), device="cpu")
    engine.install_local(DpRecipe().rank)
    return engine.plan.parameters


@pytest.mark.parametrize("secure", [False, True])
def test_a_private_federation_is_played(
    tmp_path: Path,
    tiny_backbone: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    secure: bool,
) -> None:
    monkeypatch.setattr(console, "width", 160)
    paths = [str(path) for path in write_retailers(tmp_path / "sales", 3, series=(4, 6), days=200)]
    target = tmp_path / "out.json"
    arguments = ["--data", *paths, "--horizon", "7", "--rounds", "2", "--backbone", str(tiny_backbone)]
    arguments += ["--secure-aggregation"] if secure else []
    assert run(monkeypatch, *arguments, "--json", str(target)) == 0
    found = json.loads(target.read_text("utf-8"))
    # A masked answer is 4 bytes a number, a plain one is 1.
    assert (found["bytes_up_per_client_round"]["federated-dp"] > 3.5 * parameters(tiny_backbone)) == secure
    assert [one["name"] for one in found["clients"]] == ["grocer-1", "drugstore-1", "homeware-1"]
    for one in found["clients"]:
        assert 3.8 < one["epsilon_spent"] <= 4.0
        assert {"seasonal-naive", "zero-shot", "shared", "chosen"} <= set(one["backtest"]["methods"])
    assert found["privacy"]["epsilon"] <= 4.0
    shown = capsys.readouterr().out
    assert "homeware-1" in shown
    assert "at δ = 1e-05 over 2 rounds" in shown


def test_arms_are_compared(
    tmp_path: Path, tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "width", 160)
    target = tmp_path / "out.json"
    arguments = ["--retailers", "3", "--sizes", "4-6", "--freq", "W", "--history", "20", "--horizon", "4"]
    arguments += ["--rounds", "1", "--seeds", "1", "--epsilon", "8", "--backbone", str(tiny_backbone)]
    arguments += ["--compare", "zero-shot,local,federated-dp", "--baselines", "naive", "--json", str(target)]
    assert run(monkeypatch, *arguments) == 0
    found = json.loads(target.read_text("utf-8"))
    assert list(found["arms"]) == ["zero-shot", "local", "federated-dp"]
    assert list(found["baselines"]) == ["naive", "seasonal-naive"]
    assert 7.5 < found["privacy"]["epsilon"] <= 8.0
    assert list(found["bytes_up_per_client_round"]) == ["federated-dp"]
    shown = capsys.readouterr().out
    assert "federated-dp" in shown
    assert "against local" in shown


@pytest.mark.parametrize(
    "options",
    [
        ["--workers", "2", "--compare", "zero-shot"],
        ["--workers", "2", "--threads", "2"],
        ["--workers", "2", "--engine", "ray"],
        ["--workers", "2", "--device", "cuda"],
        ["--engine", "slurm"],
        ["--engine", "ray", "--compare", "zero-shot"],
        ["--shared", "/nowhere"],
    ],
)
def test_options_that_do_not_go_together_are_refused_before_anything_is_drawn(options: list[str]) -> None:
    result = CliRunner().invoke(cli.app, ["--retailers", "3", *options])
    assert isinstance(result.exception, UsageError)
    assert result.exception.hint
