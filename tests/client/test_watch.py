"""A watched folder: complete files only, bad ones passed over, state that survives, drift and advice."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from trend_client.cli import main
from trend_client.drift import Drift, Expected, StepScore, drift_of, scores_of
from trend_client.watching import Ran, Watcher, WatchState, rejoin_advice
from trend_common.errors import UsageError
from trend_common.panel import SalesPanel, from_frame, read

DAYS = pd.date_range("2024-01-01", periods=200)
PROMISED = Expected(wape=0.2, coverage80=0.8)


def export(folder: Path, until: int, name: str = "", level: float = 10.0) -> Path:
    """Sales of 20 products up to a day; after day 100 at another level."""
    rng = np.random.default_rng(0)
    units = rng.normal(10, 1, (20, len(DAYS))).clip(0)
    units[:, 100:] *= level / 10.0
    parts = [
        pd.DataFrame({"date": DAYS[:until], "product": f"p{k}", "units": units[k, :until].round(2)})
        for k in range(20)
    ]
    path = folder / (name or f"sales-{until:03d}.csv")
    pd.concat(parts).to_csv(path, index=False)
    settle(path, until)
    return path


def settle(path: Path, order: int) -> None:
    """Its last change is long ago."""
    os.utime(path, (1_700_000_000 + order, 1_700_000_000 + order))


class Desk:
    """A watcher over stand-ins: the forecast of the next 28 days is 10 +- 1.3."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder, self.home = tmp_path / "in", tmp_path / "home"
        self.folder.mkdir(exist_ok=True)
        self.said: list[str] = []
        self.runs: list[str] = []
        self.adapter = ""
        self.broken: Callable[[], None] = lambda: None

    def watcher(self, **more: object) -> Watcher:
        return Watcher(
            self.folder,
            self.home,
            read=read,
            run=self._run,
            adapter=lambda: self.adapter,
            say=self.said.append,
            **more,  # type: ignore[arg-type]
        )

    def _run(self, path: Path, panel: SalesPanel) -> Ran:
        self.broken()
        self.runs.append(path.name)
        ahead = pd.date_range(panel.end, periods=29)[1:]
        rows = [
            pd.DataFrame({"unique_id": uid, "ds": ahead, "q10": 8.7, "q50": 10.0, "q90": 11.3}) for uid in panel.ids
        ]
        return Ran(pd.concat(rows), PROMISED, path.with_name("report.html"))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_each_new_export_is_run_once_and_the_last_forecast_is_held_against_it(desk: Desk) -> None:
    watcher = desk.watcher()
    for until in range(80, 90):
        export(desk.folder, until)
        assert watcher.once() == "done"
        assert watcher.once() == "nothing"
    assert desk.runs == [f"sales-{until:03d}.csv" for until in range(80, 90)]
    assert list(watcher.state.scores) == [str(day.date()) for day in DAYS[80:89]]
    assert watcher.drift is not None
    assert watcher.drift.outcome == "as expected"
    assert 0.7 < watcher.drift.coverage80 < 0.9
    assert any("Too early" in line for line in desk.said)


def test_a_changed_file_of_the_same_name_is_new(desk: Desk) -> None:
    export(desk.folder, 80, "sales.csv")
    assert desk.watcher().once() == "done"
    export(desk.folder, 81, "sales.csv")
    assert desk.watcher().once() == "done"
    assert desk.runs == ["sales.csv", "sales.csv"]
    assert desk.watcher().once() == "nothing"


def test_a_growing_file_waits(desk: Desk) -> None:
    path = export(desk.folder, 80)

    def grow(_: float) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write("2024-03-21,p0,5\n")

    watcher = desk.watcher(sleep=grow, clock=lambda: path.stat().st_mtime + 1)
    assert watcher.once() == "nothing"
    watcher.sleep = lambda _: None
    assert watcher.once() == "done"


def test_unfinished_hidden_empty_and_other_files_are_left_alone(desk: Desk) -> None:
    for name in (".hidden.csv", "sales.csv.part", "~$book.xlsx", "notes.txt"):
        settle(export(desk.folder, 80, name), 1)
    (desk.folder / "empty.csv").touch()
    settle(desk.folder / "empty.csv", 1)
    (desk.folder / "folder.csv").mkdir()
    assert desk.watcher(pattern="*.csv").once() == "nothing"


def test_a_bad_file_is_reported_and_the_next_one_is_used(desk: Desk) -> None:
    export(desk.folder, 80)
    bad = desk.folder / "sales-081.csv"
    bad.write_bytes(b"\x89PNG....")
    settle(bad, 81)
    watcher = desk.watcher()
    assert watcher.once() == "failed"
    assert desk.runs == ["sales-080.csv"]
    assert "a picture" in watcher.state.seen["sales-081.csv"].message
    assert any("cannot be used" in line for line in desk.said)
    assert watcher.once() == "nothing"  # not tried again until it changes
    export(desk.folder, 82)
    assert watcher.once() == "done"


def test_an_error_of_our_own_does_not_end_the_watch(desk: Desk) -> None:
    def fail() -> None:
        raise ZeroDivisionError("oops")

    desk.broken = fail
    export(desk.folder, 80)
    watcher = desk.watcher()
    assert watcher.once() == "failed"
    assert "ZeroDivisionError" in watcher.state.seen["sales-080.csv"].message


def test_of_many_the_newest_is_run(desk: Desk) -> None:
    for until in (80, 82, 81):
        export(desk.folder, until)
    watcher = desk.watcher()
    assert watcher.once() == "done"
    assert desk.runs == ["sales-082.csv"]
    assert {one.result for one in watcher.state.seen.values()} == {"done", "older"}


@pytest.mark.parametrize("at", ["run", "keep"])
def test_a_kill_loses_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    export(desk.folder, 80)
    assert desk.watcher().once() == "done"
    first = desk.watcher().state.forecast

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    export(desk.folder, 90)
    with monkeypatch.context() as patch:
        if at == "run":
            desk.broken = killed
        else:
            patch.setattr("trend_client.watching.drift_of", killed)
        with pytest.raises(KeyboardInterrupt):
            desk.watcher().once()
    desk.broken = lambda: None
    state = desk.watcher().state
    assert (state.forecast, len(state.scores)) == (first, 10)
    assert (desk.home / "watch" / first).is_file()
    assert desk.watcher().once() == "done"
    state = desk.watcher().state
    assert len(state.scores) == 10
    assert len(list((desk.home / "watch").glob("forecast-*"))) == 1


def test_a_damaged_state_is_said(desk: Desk) -> None:
    (desk.home / "watch").mkdir(parents=True)
    (desk.home / "watch" / "state.json").write_text("{", "utf-8")
    with pytest.raises(UsageError, match="damaged"):
        desk.watcher()


def test_drift_is_told_with_its_reason_and_what_to_do(desk: Desk) -> None:
    desk.adapter = "abc"
    watcher = desk.watcher()
    for until in (95, 100):
        export(desk.folder, until, level=16.0)
        watcher.once()
    export(desk.folder, 112, level=16.0)
    watcher.once()
    assert watcher.drift is not None
    assert watcher.drift.outcome == "drift"
    text = "\n".join(desk.said)
    assert "DRIFT" in text
    assert "Joining again looks worth it" in text
    assert "docs/watch.md" in text
    assert watcher.summary()["rejoin"]


def scores(coverage: float, wape: float, n: int = 28, spread: float = 0.0) -> list[StepScore]:
    rng = np.random.default_rng(1)
    return [
        StepScore(str(day.date()), 100, int(100 * (coverage + spread * rng.normal())), 1000 * wape, 1000.0)
        for day in DAYS[:n]
    ]


@pytest.mark.parametrize(
    ("found", "outcome"),
    [
        (scores(0.79, 0.21), "as expected"),
        (scores(0.95, 0.1), "as expected"),
        (scores(0.6, 0.2), "drift"),
        (scores(0.8, 0.3), "drift"),
        (scores(0.8, 0.24), "as expected"),
        (scores(0.6, 0.2, n=6), "too early"),
        (scores(0.66, 0.2, n=7, spread=0.25), "as expected"),  # within two standard errors
        ([], "too early"),
    ],
)
def test_the_stated_rule(found: list[StepScore], outcome: str) -> None:
    assert drift_of(found, PROMISED, "D").outcome == outcome


def test_without_a_backtest_nothing_is_called_drift() -> None:
    assert drift_of(scores(0.1, 3.0), Expected(float("nan"), float("nan")), "D").outcome == "as expected"


def test_only_the_newest_steps_count() -> None:
    old = [replace(one, day=f"2023{one.day[4:]}", inside=0) for one in scores(0.8, 0.2)]
    assert drift_of([*old, *scores(0.8, 0.2)], PROMISED, "D").outcome == "as expected"


def test_closed_and_unknown_steps_are_not_scored() -> None:
    frame = pd.DataFrame({"unique_id": "a", "ds": DAYS[:3], "y": [5.0, np.nan, 0.0], "closed": [False, False, True]})
    forecast = pd.DataFrame({"unique_id": "a", "ds": DAYS[:5], "q10": 1.0, "q50": 3.0, "q90": 4.0})
    assert scores_of(forecast, frame) == [StepScore("2024-01-01", 1, 0, 2.0, 5.0)]


def test_new_sales_since_the_shared_model_arrived_speak_for_joining_again() -> None:
    panel = from_frame(pd.DataFrame({"date": DAYS, "product": "a", "units": 5.0}))
    fine = Drift(28, 0.8, 0.2, PROMISED, "as expected", ())
    state = WatchState(joined="abc", joined_end=str((panel.end - pd.Timedelta(days=56)).date()))
    assert "56 new steps" in rejoin_advice(state, fine, panel)[0]
    state.joined_end = str((panel.end - pd.Timedelta(days=55)).date())
    assert rejoin_advice(state, fine, panel) == []
    assert rejoin_advice(WatchState(), fine, panel) == []


def test_the_command_for_cron(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    sales: pd.DataFrame,
    tiny_backbone: Path,
) -> None:
    folder, home, out = tmp_path / "in", tmp_path / "h", tmp_path / "out.json"
    folder.mkdir()
    options = ["--once", "--home", str(home), "--backbone", str(tiny_backbone), "--device", "cpu", "--json", str(out)]

    def run() -> int:
        monkeypatch.setattr(sys, "argv", ["trend-client", "watch", str(folder), *options])
        with pytest.raises(SystemExit) as caught:
            main()
        return int(caught.value.code or 0)

    assert run() == 0
    assert "Nothing new" in capsys.readouterr().out
    first = folder / "sales.csv"
    sales[sales["date"] < sales["date"].max() - pd.Timedelta(days=9)].to_csv(first, index=False)
    settle(first, 1)
    ahead = pd.date_range(sales["date"].max() + pd.Timedelta(days=1), periods=60)
    pd.DataFrame({"date": ahead, "promo": 1}).iloc[20:].to_csv(tmp_path / "plan.csv", index=False)
    options += ["--future", str(tmp_path / "plan.csv")]
    capsys.readouterr()
    assert run() == 0
    assert "plan.csv is not used" in capsys.readouterr().out.replace("\n", " "), (
        "its days are too far ahead: no fault"
    )
    assert (home / "output" / "report.html").is_file()
    sales.to_csv(first, index=False)
    settle(first, 2)
    assert run() == 0
    assert "plan.csv is used" in capsys.readouterr().out.replace("\n", " ")
    written = json.loads(out.read_text("utf-8"))
    assert (written["command"], written["result"], written["drift"]["steps"]) == ("watch", "done", 10)
    assert written["drift"]["expected"]["wape"] is not None
    bad = folder / "later.csv"
    bad.write_text("nothing", "utf-8")
    settle(bad, 3)
    assert run() == 3
    assert json.loads(out.read_text("utf-8"))["result"] == "failed"
