"""Before against after in one command, and settings from a file all the way to the stored model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from trend_client.change import compare_methods, methods_of
from trend_client.cli import main
from trend_client.home import ClientHome
from trend_client.parts import Parts, rank_of
from trend_common.console import console
from trend_common.errors import DataError, ExitCode, UsageError
from trend_common.forecasts import Forecast
from trend_common.panel import SalesPanel, from_frame
from trend_common.scoring import future_dates


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["trend-client", *arguments])
    monkeypatch.setattr(console, "width", 160)
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


@pytest.fixture
def place(tmp_path: Path, sales: pd.DataFrame, tiny_backbone: Path) -> list[str]:
    sales.to_csv(tmp_path / "sales.csv", index=False)
    options = ["--home", str(tmp_path / "h"), "--backbone", str(tiny_backbone), "--device", "cpu"]
    return ["--data", str(tmp_path / "sales.csv"), *options]


def settings_file(tmp_path: Path, **values: Any) -> str:
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    path = tmp_path / "settings.toml"
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return str(path)


def constant(level: float) -> Any:
    def forecaster(panel: SalesPanel, origin: pd.Timestamp, horizon: int) -> Forecast:
        assert panel.end < origin, "a method sees nothing of the test window"
        shape = (panel.n_series, horizon)
        return Forecast.repaired(
            panel.ids, future_dates(panel, origin, horizon), np.full((*shape, 13), level), np.full(shape, level)
        )

    return forecaster


def test_the_last_method_is_set_against_the_first(panel: SalesPanel) -> None:
    good, bad = constant(12.0), constant(500.0)
    found = compare_methods(panel, 14, {"before": bad, "naive": constant(50.0), "after": good})
    assert list(found.scores) == ["before", "naive", "after"]
    assert (found.change.against, found.change.outcome) == ("before", "better")
    assert found.change.relative == pytest.approx(1 - found.scores["after"]["sql"] / found.scores["before"]["sql"])
    back = compare_methods(panel, 14, {"after": good, "before": bad})
    assert back.change.outcome == "worse"
    assert compare_methods(panel, 14, {"before": good, "after": good}).change.outcome == "unclear"
    assert found.test == str((panel.end - pd.Timedelta(days=13)).date())


def test_a_history_too_short_is_a_data_error(sales: pd.DataFrame) -> None:
    short = from_frame(sales[sales["date"] < sales["date"].min() + pd.Timedelta(days=30)])
    with pytest.raises(DataError):
        compare_methods(short, 14, {"before": constant(1.0), "after": constant(2.0)})


@pytest.mark.parametrize("text", ["before", "before,before", "before,tea", "", ","])
def test_methods_that_are_not_there(text: str) -> None:
    with pytest.raises(UsageError, match="Name two or more"):
        methods_of(text)


def test_before_and_after_in_one_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, place: list[str]
) -> None:
    out = tmp_path / "change.json"
    file = settings_file(tmp_path, rank=3, learning_rate=0.02, steps=30, look_every=10)
    asked = ["backtest", "--compare", "seasonal-naive,before,after", "--settings", file, "--horizon", "14"]
    assert run(monkeypatch, *asked, "--json", str(out), *place) == 0
    found = json.loads(out.read_text("utf-8"))
    assert list(found["methods"]) == ["seasonal-naive", "before", "after"]
    assert (found["change"]["of"], found["change"]["against"]) == ("after", "seasonal-naive")
    assert found["methods"]["before"]["sql"] != found["methods"]["after"]["sql"]
    shown = " ".join(capsys.readouterr().out.split())
    assert "After fine-tuning" in shown
    assert "which no method has seen" in shown
    assert ClientHome(tmp_path / "h").personal("local") is None, "what is trained for a comparison is not kept"


def test_settings_reach_the_stored_model_which_the_next_command_uses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, place: list[str]
) -> None:
    file = settings_file(tmp_path, rank=3, words=True, learning_rate=0.02, steps=20, look_every=10, ensemble=2)
    assert run(monkeypatch, "personalise", "--settings", file, *place) == 0
    stored = ClientHome(tmp_path / "h").personal("local")
    assert stored is not None
    assert rank_of(Parts.of(stored).members[0]) == 3
    record = json.loads((tmp_path / "h" / "federations" / "local" / "personal.json").read_text("utf-8"))
    assert "model 2: 20 steps" in record["validation_wql"]
    result = tmp_path / "r.json"
    assert run(monkeypatch, "backtest", "--compare", "before,personal", "--json", str(result), *place) == 0
    assert list(json.loads(result.read_text("utf-8"))["methods"]) == ["before", "personal"]
    wide = settings_file(tmp_path, rank=5, steps=1)
    assert run(monkeypatch, "backtest", "--compare", "personal,after", "--settings", wide, *place) == ExitCode.USAGE
    assert "has rank 3" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["backtest", "--compare", "before"], "does not name two methods"),
        (["backtest", "--compare", "before,shared"], "no shared model"),
        (["backtest", "--settings", "x.toml"], "Add --compare"),
        (["personalise", "--settings", "nowhere.toml"], "nowhere.toml cannot be read"),
    ],
)
def test_mistakes_are_explained(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: list[str],
    arguments: list[str],
    words: str,
) -> None:
    assert run(monkeypatch, *arguments, *place) == ExitCode.USAGE
    shown = capsys.readouterr()
    assert words in " ".join(shown.err.split())
    assert "Traceback" not in shown.err
