"""``trend-client check``: what a person sees, what a script reads, and that nothing else is written."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.cells import cell_len
from rich.console import Console

from trend_client.check import check, parse_columns
from trend_common.console import console
from trend_common.errors import DataError, UsageError
from trend_common.panel.describe import bars

HEAVY = ("torch", "transformers", "peft", "opacus", "scipy", "flwr", "matplotlib", "pyarrow.parquet", "statsforecast")


@pytest.fixture
def sales(tmp_path: Path) -> Path:
    dates = pd.date_range("2024-01-01", periods=100)
    dates = dates[dates.weekday != 6]
    parts = [
        pd.DataFrame({"Datum": dates, "Artikel": f"[b]{k}", "Umsatz": np.arange(len(dates)) + k}) for k in range(7)
    ]
    path = tmp_path / "sales.csv"
    pd.concat(parts).to_csv(path, index=False)
    return path


def shown(path: Path, **options: object) -> str:
    output = io.StringIO()
    check(path, output=Console(file=output, width=160), **options)  # type: ignore[arg-type]
    return output.getvalue()


def test_a_person_sees_columns_findings_and_five_series(sales: Path) -> None:
    text = shown(sales)
    for part in ("units = Umsatz", "daily (D)", "2024-01-01 to 2024-04-09", "7 of 1 store(s) and 7 product(s)"):
        assert part in text
    assert "revenue_target" in text
    assert "closed_weekdays" in text
    assert sum("█" in line for line in text.splitlines()) == 5
    assert "[b]6" in text


def test_courses_of_sales_fit_a_narrow_screen(
    sales: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pd.read_csv(sales)
    table.assign(Artikel=table["Artikel"] + " with a long name of its own").to_csv(sales, index=False)
    monkeypatch.setattr(console, "width", 80)
    check(sales, output=console)
    lines = capsys.readouterr().out.splitlines()
    first = lines.index("The largest series" + " " * 62) + 1
    assert [cell_len(line) for line in lines[first:]] == [80] * 9, "one table, with the whole width"
    assert "Findings" in "".join(lines)


def test_a_script_reads_the_same(sales: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    shown(sales, json_out=out)
    written = json.loads(out.read_text("utf-8"))
    assert written["command"] == "check"
    assert written["schema"] == 1
    assert (written["freq"], written["series"]) == ("D", 7)
    assert (written["start"], written["end"]) == ("2024-01-01", "2024-04-09")
    assert written["columns"] == {"date": "Datum", "product": "Artikel", "units": "Umsatz"}
    assert {"code", "severity", "count", "action"} <= set(written["findings"][0])


def test_the_declared_last_day_is_shown_and_written(sales: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert "declared to end 2024-04-12" in shown(sales, json_out=out, until="2024-04-12")
    assert json.loads(out.read_text("utf-8"))["until"] == "2024-04-12"
    shown(sales, json_out=out)
    assert json.loads(out.read_text("utf-8"))["until"] is None


def test_own_columns_are_shown_with_what_is_known_of_them_ahead(tmp_path: Path) -> None:
    path, out = tmp_path / "own.csv", tmp_path / "out.json"
    days = np.arange(80)
    frame = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=80), "units": 5 + days % 7})
    frame.assign(school_holiday=days % 2, temperature=days / 4).to_csv(path, index=False)
    text = shown(path, json_out=out)
    assert "own_2; 0 step(s) after the last sale; of own_1 the past alone" in text
    assert "own_1 = temperature" in text
    assert json.loads(out.read_text("utf-8"))["known_ahead"] == ["own_2"]


def test_a_file_that_cannot_be_used_leaves_nothing_behind(tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("a,b\nx,y\n", "utf-8")
    with pytest.raises(DataError):
        shown(bad, json_out=tmp_path / "out.json")
    assert list(tmp_path.iterdir()) == [bad]


def test_options_are_checked_first(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--freq"):
        check(tmp_path / "none.csv", freq="H")
    with pytest.raises(UsageError, match="--until"):
        check(tmp_path / "none.csv", until="yesterday")
    with pytest.raises(UsageError, match="--decimal"):
        check(tmp_path / "none.csv", decimal="x")


def test_column_pairs() -> None:
    assert parse_columns(["units=Umsatz", " date = Tag = neu"]) == {"units": "Umsatz", "date": "Tag = neu"}
    for wrong in (["units"], ["=x"], ["units="], ["units=a", "units=b"]):
        with pytest.raises(UsageError):
            parse_columns(wrong)


def test_bars() -> None:
    assert bars(np.array([0.0, 7.0, 3.5, np.nan])) == "▁█▅·"
    assert bars(np.zeros(3)) == "▁▁▁"
    assert len(bars(np.arange(1000.0), 40)) == 40
    assert bars(np.array([])) == ""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trend_client.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_command_and_its_exit_codes(sales: Path, tmp_path: Path) -> None:
    good = run("check", "--data", str(sales), "--columns", "units=Umsatz", "--json", str(tmp_path / "o.json"))
    assert good.returncode == 0, good.stderr
    assert (tmp_path / "o.json").is_file()
    missing = run("check", "--data", str(tmp_path / "nothing.csv"))
    assert missing.returncode == 3
    assert "There is no file" in missing.stderr
    assert "Traceback" not in missing.stderr
    assert run("check", "--data", str(sales), "--columns", "units").returncode == 2
    assert run("check").returncode == 2
    assert run("--version").stdout.startswith("trend-client ")


def test_checking_a_file_imports_nothing_heavy(sales: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from trend_client import cli; from trend_client.check import check;"
        f"check(Path({str(sales)!r}));"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip().endswith("[]")
