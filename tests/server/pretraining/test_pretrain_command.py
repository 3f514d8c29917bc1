"""``trend-server pretrain``, as a person types it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

import trend_server.pretraining.screen as screen
from trend_common.errors import DataError, TrendError, UsageError
from trend_server.cli import app
from trend_server.pretraining.recipe import Recipe, load_recipe

runner = CliRunner()
PROGRAM = [sys.executable, "-W", "ignore", "-c", "from trend_server.cli import main; main()", "pretrain"]


def invoke(*arguments: object) -> str:
    """Run the command; its error for people is raised."""
    result = runner.invoke(app, ["pretrain", *(str(one) for one in arguments)])
    if isinstance(result.exception, TrendError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.usefixtures("_no_validation")
def test_one_line_of_json_a_checkpoint_and_on_again(tmp_path: Path, toml: Path) -> None:
    out = tmp_path / "out"
    arguments = ("--recipe", toml, "--out", out, "--processes", 1, "--save-every", 0)
    first = [json.loads(line) for line in invoke(*arguments, "--stop-after", 2).splitlines()]
    assert [row["step"] for row in first] == [1, 2]
    rest = [json.loads(line) for line in invoke(*arguments).splitlines()]
    assert [row["step"] for row in rest] == [3, 4, 5, 6]
    assert rest[-1]["series"] == 48
    assert invoke(*arguments) == "", "a finished run has nothing to do"
    with pytest.raises(UsageError, match="another training: steps"):
        invoke(*arguments, "--steps", 9)  # the step size has begun to fall
    names = {"model.safetensors", "config.json", "recipe.json", "training-log.jsonl", "state.pt"}
    assert names <= {path.name for path in out.iterdir()}


@pytest.mark.usefixtures("_no_validation")
def test_it_goes_on_with_sales_files(tmp_path: Path, toml: Path, sales_file: Callable[..., Path]) -> None:
    first, second = sales_file("a.csv"), sales_file("b.csv", days=200)
    out = tmp_path / "out"
    shown = invoke("--recipe", toml, "--data", first, second, "--out", out, "--processes", 1)
    assert 0 < json.loads(shown.splitlines()[-1])["data_loss"] < 2
    made = json.loads((out / "recipe.json").read_text())
    assert [one["name"] for one in made["data"]] == ["a.csv", "b.csv"]
    first.write_text(first.read_text().replace("2023-01-02", "2023-01-01", 1))
    with pytest.raises(UsageError, match="another training: the data"):
        invoke("--recipe", toml, "--data", first, second, "--out", out, "--processes", 1)
    short = sales_file("short.csv", days=90)
    with pytest.raises(DataError, match=r"short\.csv"):
        invoke("--recipe", toml, "--data", short, "--out", tmp_path / "none", "--processes", 1)
    assert not (tmp_path / "none").exists()


def test_what_it_trains_follows_from_what_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import trend_server.pretraining.launch as launch

    asked: list[Recipe] = []
    monkeypatch.setattr(launch, "pretrain_in_processes", lambda recipe, *_, **__: asked.append(recipe))
    invoke("--out", tmp_path)
    invoke("--out", tmp_path, "--data", "a.csv")
    invoke("--out", tmp_path, "--init", "trend-small", "--steps", 50)
    invoke("--out", tmp_path, "--backbone", "gpt2", "--freeze-core")
    assert [(one.init, one.backbone, one.data) for one in asked] == [
        (None, None, ()),
        ("trend-small", None, ("a.csv",)),
        ("trend-small", None, ()),
        (None, "gpt2", ()),
    ]
    assert [one.steps for one in asked] == [load_recipe("trend-small").steps, 2000, 50, 3000]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--recipe", "huge"], "no recipe 'huge'"),
        (["--processes", "3"], "does not divide among 3"),
        (["--backbone", "gpt2"], "--freeze-core|around the core"),
        (["--freeze-core"], "foreign core"),
        (["--init", "nobody/nothing-here"], "nothing-here"),
        (["--device", "abacus"], "no device"),
        (["--recipe", "continue", "--backbone", "gpt2", "--freeze-core"], "exclude"),
    ],
)
def test_a_mistake_is_said_before_anything_is_written(tmp_path: Path, arguments: list[str], said: str) -> None:
    with pytest.raises(TrendError, match=said):
        invoke("--out", tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


def test_its_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from trend_server.cli import app\n"
        "shown = CliRunner().invoke(app, ['pretrain', '--help'])\n"
        "assert shown.exit_code == 0 and '--freeze-core' in shown.output, shown.output\n"
        "heavy = {'torch', 'numpy', 'pandas', 'transformers', 'rich.progress'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30, env={"COLUMNS": "200", "PATH": ""})


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_leaves_a_checkpoint_from_which_it_goes_on(tmp_path: Path, toml: Path, processes: int) -> None:
    out = tmp_path / "out"
    toml.write_text(toml.read_text().replace("steps = 6", "steps = 100000"))
    command = [*PROGRAM, "--recipe", str(toml), "--out", str(out), "--processes", str(processes), "--save-every", "0"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None
    assert running.stdout.readline(), "a checkpoint"
    running.send_signal(signal.SIGINT)
    shown, complaint = running.communicate(timeout=120)
    assert running.returncode == 130, complaint
    assert "Traceback" not in complaint
    assert "the same command goes on" in complaint
    log = (out / "training-log.jsonl").read_text().splitlines()
    assert shown.splitlines()[-1] == log[-1], "the last checkpoint is of the last step"
    if processes > 1:
        return  # whether another number of processes goes on is another test's question
    step = json.loads(log[-1])["step"]
    again = subprocess.run(
        [*command, "--stop-after", str(step + 2)], capture_output=True, text=True, timeout=120, check=True
    )
    assert [json.loads(line)["step"] for line in again.stdout.splitlines()] == [step + 1, step + 2]


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path: Path, toml: Path) -> None:
    out = tmp_path / "out"
    toml.write_text(toml.read_text().replace("steps = 6", "steps = 100000"))
    command = [*PROGRAM, "--recipe", str(toml), "--out", str(out), "--processes", "1", "--save-every", "0"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert running.stdout is not None
    assert running.stdout.readline()
    running.kill()
    running.communicate(timeout=60)
    subprocess.run([*command, "--steps", "100000", "--stop-after", "1"], capture_output=True, timeout=120, check=True)
    steps = [json.loads(line)["step"] for line in (out / "training-log.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
    assert steps[-1] >= 1


def test_on_a_terminal_there_are_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(force_terminal=True, width=100, record=True, file=StringIO())
    monkeypatch.setattr(screen, "console", terminal)
    with screen.watching(10) as watch:
        watch.step(0, float("nan"))
        watch.step(4, 0.5)
        watch.checkpoint({"step": 4, "series": 1024, "loss": 0.5, "validation_loss": 0.4, "data_loss": 0.3})
    shown = terminal.export_text()
    assert "step 4: loss 0.5000, validation 0.4000, held-out sales 0.3000; 1,024 series seen" in shown
    assert "4/10" in shown
