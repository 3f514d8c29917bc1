"""The command line: help in a moment, mistakes explained, offline commands on an empty home."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from trend_client.cli import main
from trend_client.workplace import Workplace
from trend_common.errors import ExitCode


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["trend-client", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


def test_help_and_version_import_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "sys.argv = ['trend-client', '--help']\n"
        "from trend_client.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'peft', 'opacus', 'flwr', 'statsforecast', 'scipy', 'matplotlib'}\n"
        "found = heavy & set(sys.modules)\n"
        "assert not found, found\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "--server" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--data", "x.csv"], ExitCode.USAGE, "No server"),
        (["--nonsense"], ExitCode.USAGE, "No such option"),
        (["forecast"], ExitCode.USAGE, "knows no sales file"),
        (["--home", "x", "forecast"], ExitCode.USAGE, "trend-client forecast --home"),
        (["--server", "a:1", "--data", "x.csv", "budget"], ExitCode.USAGE, "leave budget out"),
        (["check", "--data", "missing.csv"], ExitCode.DATA, "no file"),
        (["--server", "127.0.0.1:1", "--data", "missing.csv"], ExitCode.DATA, "no file"),
        (["forecast", "--data", "x.csv", "--freq", "hour"], ExitCode.USAGE, "D for days"),
        (["forecast", "--data", "x.csv", "--device", "tpu"], ExitCode.USAGE, "cuda"),
        (["forecast", "--data", "x.csv", "--until", "30.06.2024"], ExitCode.USAGE, "YYYY-MM-DD"),
        (["check", "--data", "x.csv", "--until", "2024-02-30"], ExitCode.USAGE, "no day"),
        (["--server", "127.0.0.1:1", "--data", "x.csv", "--columns", "units"], ExitCode.USAGE, "role=name"),
    ],
)
def test_a_mistake_is_explained_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: ExitCode,
    words: str,
) -> None:
    assert run(monkeypatch, *arguments) == code
    shown = capsys.readouterr()
    assert words in " ".join((shown.err + shown.out).split())
    assert "Traceback" not in shown.err


def test_a_home_that_never_joined_has_spent_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "budget.json"
    assert run(monkeypatch, "budget", "--home", str(tmp_path / "h"), "--json", str(out)) == 0
    assert "Nothing computed from your sales has left this computer" in " ".join(capsys.readouterr().out.split())
    found = json.loads(out.read_text())
    assert (found["epsilon_spent"], found["chain_ok"], found["epsilon_cap"]) == (0, True, 8.0)
    assert run(monkeypatch, "sent", "--home", str(tmp_path / "h")) == 0
    assert "No message ever left" in capsys.readouterr().out


def test_an_edited_ledger_exits_with_4(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "h" / "ledger"
    folder.mkdir(parents=True)
    (folder / "ledger.jsonl").write_text('{"seq": 1, "kind": "accept"}\n')
    assert run(monkeypatch, "budget", "--home", str(tmp_path / "h")) == ExitCode.POLICY
    assert "not intact" in capsys.readouterr().err


def test_the_declared_last_day_is_kept_in_the_home(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, sales: pd.DataFrame
) -> None:
    data = tmp_path / "sales.csv"
    sales.to_csv(data, index=False)
    last = pd.Timestamp(sales["date"].max()) + pd.Timedelta(days=2)
    first = Workplace(tmp_path / "h", data=data, until=str(last.date())).panel()
    again = Workplace(tmp_path / "h").panel()
    assert first.until == again.until == last
    assert f"to {last.date()} as declared" in " ".join(capsys.readouterr().out.split())
    assert Workplace(tmp_path / "h", data=data).panel().until is None, "another export, another last day"


def test_forecasts_and_report_without_any_federation(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    sales: pd.DataFrame,
    tiny_backbone: Path,
) -> None:
    data, home, result = tmp_path / "sales.csv", tmp_path / "h", tmp_path / "result.json"
    sales.to_csv(data, index=False)
    common = ["--home", str(home), "--backbone", str(tiny_backbone), "--device", "cpu"]
    assert run(monkeypatch, "forecast", "--data", str(data), "--json", str(result), *common) == 0
    found = json.loads(result.read_text())
    assert Path(found["forecasts"]).is_file()
    assert Path(found["report"]).is_file()
    assert {"seasonal-naive", "zero-shot", "chosen"} <= set(found["backtest"]["methods"])
    assert found["sent"] == {"messages": 0, "bytes": 0}
    # The second time the file is known.
    assert run(monkeypatch, "backtest", *common) == 0
    assert "Backtest" in capsys.readouterr().out
