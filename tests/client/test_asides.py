"""Prices and trend classes are scored against what anybody could say, and distrusted where they are no better."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from trend_client.asides import CLASSES, Asides, _auroc, _f1, price_scores, trend_scores
from trend_client.outcome import Model
from trend_client.report.language import language
from trend_client.report.reasons import aside_sentences
from trend_common.errors import UsageError
from trend_common.forecasts import LEVELS, Forecast
from trend_common.panel import SalesPanel, from_frame
from trend_common.scoring import actuals, panel_before

HORIZON = 10


def panel_of(series: int = 30, steps: int = 120) -> SalesPanel:
    """Products whose prices step up and down every 20 days, and whose level turns at the last ten."""
    rng = np.random.default_rng(0)
    days = pd.date_range("2024-01-01", periods=steps)
    parts = []
    for number in range(series):
        price = 2.0 + 0.5 * ((np.arange(steps) // 20 + number) % 2)
        turn = np.where(np.arange(steps) >= steps - HORIZON, (0.5, 1.0, 1.6)[number % 3], 1.0)
        units = np.round(200 * turn + rng.normal(0, 3, steps))
        parts.append(pd.DataFrame({"date": days, "product": f"p{number}", "units": units, "price": price}))
    return from_frame(pd.concat(parts))


def exact(values: np.ndarray, truth: Any, spread: float = 0.0) -> Forecast:
    width = np.linspace(-spread, spread, len(LEVELS))
    return Forecast.repaired(truth.ids, truth.ds, values[..., None] * (1 + width), values)


def engine_that_says(make: Any) -> Any:
    return SimpleNamespace(forecaster=lambda tensors, *, context: make)


def test_prices_known_beforehand_beat_the_last_one_and_a_poor_guess_does_not() -> None:
    panel, model = panel_of(), Model("local", HORIZON, 64, {"zero-shot": None})
    raw = replace(panel, frame=panel.frame.assign(y=panel.frame["price"]))

    def prophet(known: SalesPanel, day: pd.Timestamp, horizon: int) -> Forecast:
        assert known.frame["ds"].max() < day
        truth = actuals(raw, day, horizon)
        return exact(truth.y, truth)

    good = price_scores(engine_that_says(prophet), model, panel)
    assert good is not None
    assert good.trusted
    assert (good.sql, good.wql) == (0, 0)
    assert good.last_sql > 0
    assert good.windows == 2
    assert 0 < good.changed < 1

    def guess(known: SalesPanel, day: pd.Timestamp, horizon: int) -> Forecast:
        truth = actuals(raw, day, horizon)
        return exact(np.full_like(truth.y, 9.0), truth, 0.1)

    bad = price_scores(engine_that_says(guess), model, panel)
    assert bad is not None
    assert not bad.trusted
    assert bad.sql > bad.last_sql
    assert (bad.last_sql, bad.last_wql) == (good.last_sql, good.last_wql)
    bare = replace(panel, frame=panel.frame.drop(columns="price"))
    assert price_scores(engine_that_says(guess), model, bare) is None


def test_trends_that_were_seen_coming_beat_the_recent_average() -> None:
    panel = panel_of()
    origin = panel.calendar_end - pd.Timedelta(days=HORIZON - 1)
    truth = actuals(panel, origin, HORIZON)
    good = trend_scores(panel, exact(truth.y, truth, 0.05), origin)
    assert good is not None
    assert good.counts == dict.fromkeys(CLASSES, 10)
    assert (good.f1, good.trusted) == (1.0, True)
    assert good.auroc > 0.99 > 0.7 > good.old_auroc
    level = np.full_like(truth.y, 200.0)
    flat = trend_scores(panel, exact(level, truth, 0.05), origin)
    assert flat is not None
    assert not flat.trusted
    assert flat.f1 == pytest.approx(flat.old_f1)
    assert good.old_f1 == flat.old_f1
    few = actuals(panel.select(panel.ids[:5]), origin, HORIZON)
    assert trend_scores(panel, exact(few.y, few), origin) is None
    assert len(panel_before(panel, origin).frame) < len(panel.frame)


def test_the_measures_by_hand() -> None:
    real, said = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1])
    assert _f1(real, said) == pytest.approx((2 / 3 + 2 / 4 + 0) / 3)
    scores = np.array([[0.9, 0, 0], [0.4, 0, 0], [0.5, 0, 0], [0.1, 0, 0]])
    # Class 0: of the four pairs (0.9, 0.4) over (0.5, 0.1) three are in order; the other classes say nothing.
    assert _auroc(real, scores) == pytest.approx((3 / 4 + 0.5 + 0.5) / 3)
    assert np.isnan(_auroc(np.zeros(3, dtype=np.int64), scores[:3]))


def test_the_backtest_and_the_report_say_what_not_to_rely_on(
    sales: pd.DataFrame, tiny_backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trend_client import asides, outcome
    from trend_client.cli import app

    monkeypatch.setattr(asides, "_FEWEST", 5)
    monkeypatch.setattr(outcome, "_BASELINES", ("seasonal-naive", "same-phase-mean"))
    sales.to_csv(tmp_path / "sales.csv", index=False)
    out = tmp_path / "out.json"
    given = ["--home", str(tmp_path / "h"), "--backbone", str(tiny_backbone), "--data", str(tmp_path / "sales.csv")]
    done = CliRunner().invoke(app, ["backtest", "--horizon", "7", "--json", str(out), *given])
    assert done.exit_code == 0, done.output
    beside = json.loads(out.read_text())["beside"]
    assert beside["prices"]["trusted"] is False
    assert set(beside["trends"]["counts"]) == set(CLASSES)
    told = done.output.replace("\n", " ")
    assert "Do not rely on the forecasts of prices" in told
    assert "macro F1" in told
    done = CliRunner().invoke(app, ["backtest", "--horizon", "7", "--language", "zh", *given])
    assert done.exit_code == 0, done.output
    told = done.output.split("\n", 1)[1]  # the first line is about reading the file
    assert [line for line in told.splitlines() if re.search("[A-Za-z]{3,} [A-Za-z]{3,}", line)] == []
    assert all(
        part in told for part in ("选择方法时从未见过", "验证窗口上", "销量之外", "最近价格", "请勿依赖价格预测")
    )
    done = CliRunner().invoke(app, ["backtest", "--language", "xx", *given])
    assert isinstance(done.exception, UsageError)
    done = CliRunner().invoke(app, ["forecast", "--horizon", "7", "--language", "zh", *given])
    assert done.exit_code == 0, done.output
    assert "请勿依赖价格预测" in (tmp_path / "h" / "output" / "report.html").read_text("utf-8")


def test_nothing_known_is_nothing_said() -> None:
    assert aside_sentences(None, language("en")) == []
    assert aside_sentences(Asides(), language("en")) == []
