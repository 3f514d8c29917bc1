"""``trend-client forecast`` as a person types it: every option, every file, and what a mistake is answered with."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from numpy.testing import assert_allclose
from typer.testing import CliRunner

from trend_client.cli import app
from trend_common.errors import DataError, UsageError


@pytest.fixture
def files(sales: pd.DataFrame, tmp_path: Path) -> Path:
    mine = sales[sales["product"].isin(["p0", "p1"])].replace({"product": {"p0": "=p0"}})
    mine.to_csv(tmp_path / "sales.csv", index=False)
    days = pd.date_range(sales["date"].max() + pd.Timedelta(days=1), periods=7)
    pd.DataFrame({"date": days, "promo": [0, 1, 0, 0, 0, 0, 1]}).to_csv(tmp_path / "plan.csv", index=False)
    return tmp_path


def run(files: Path, backbone: Path, *options: str) -> str:
    arguments = [
        "forecast",
        "--data",
        str(files / "sales.csv"),
        "--home",
        str(files / "home"),
        "--backbone",
        str(backbone),
    ]
    done = CliRunner().invoke(app, [*arguments, "--horizon", "7", "--out", str(files / "out"), *options])
    if done.exception is not None:
        raise done.exception
    return done.output


def test_all_that_can_be_asked_for(files: Path, tiny_backbone: Path) -> None:
    out = files / "out"
    shown = run(
        files, tiny_backbone, "--future", str(files / "plan.csv"), "--reconcile", "mint", "--format", "csv,xlsx",
        "--margin", "0.3", "--json", str(files / "found.json"),
    )  # fmt: skip
    assert {path.name for path in out.iterdir()} >= {
        "forecasts.csv", "forecasts.xlsx", "forecasts.parquet", "forecasts_totals.csv", "forecasts_totals.xlsx",
        "trend.csv", "trend.xlsx", "prices.csv", "prices.xlsx", "report.html", "backtest.csv", "backtest.json",
    }  # fmt: skip
    series = pd.read_parquet(out / "forecasts.parquet")
    assert len(series) == 4 * 7
    assert "'=p0" in set(pd.read_csv(out / "forecasts.csv")["product"])
    totals = pd.read_csv(out / "forecasts_totals.csv", parse_dates=["ds"])
    assert set(totals["level"]) == {"total", "store", "category", "store and category", "product"}
    for _, rows in totals.groupby("level"):
        assert_allclose(rows.groupby("ds")["mean"].sum(), series.groupby("ds")["mean"].sum(), rtol=1e-4)
    found = json.loads((files / "found.json").read_text("utf-8"))["backtest"]
    assert found["value"]["margin"] == 0.3
    assert found["value"]["money"]["series"] == 4
    assert found["style"] in ("blend", "choice")
    assert len(found["windows"]) == 4
    assert re.search(r"the errors were (smaller|LARGER) by [\d.,]+ in all", shown)
    assert "at a margin of 30" in shown
    assert "Intervals were set right" in shown
    run(files, tiny_backbone, "--format", "csv")
    left = {path.name for path in out.iterdir()}
    assert {"forecasts.csv", "forecasts.parquet", "trend.csv"} <= left
    assert not left & {"forecasts.xlsx", "forecasts_totals.csv", "forecasts_totals.xlsx", "trend.xlsx"}


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        (("--format", "doc"), UsageError, "no format 'doc'"),
        (("--reconcile", "top"), UsageError, "--reconcile"),
        (("--margin", "30"), UsageError, "--margin is 30"),
        (("--future", "nowhere.csv"), DataError, "no file nowhere.csv"),
    ],
)
def test_mistakes_are_answered_before_any_work(
    files: Path, tiny_backbone: Path, options: tuple[str, ...], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        run(files, tiny_backbone, *options)
    assert not (files / "out").exists()
