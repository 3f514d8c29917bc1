"""``trend-server evaluate``: rolling windows, the same for all; measures that somebody else's code agrees with."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from typer.testing import CliRunner

import trend_server.evaluate as evaluation
from trend_common.backbones import Batch, load_backbone
from trend_common.baselines import baseline_forecast
from trend_common.covariates import CHANNELS, INDEX
from trend_common.errors import DataError, TrendError, UsageError
from trend_common.forecasts import LEVELS, Forecast
from trend_common.panel import SalesPanel, from_frame
from trend_server.cli import app
from trend_server.evaluate import Evaluation, Result, Settings, evaluate, read_panels, relative
from trend_server.evaluation_tables import data_table, markdown, summary_table
from trend_server.head_scores import HeadScores, auroc, brier, macro_f1

QUICK = ("seasonal-naive", "naive", "same-phase-mean-4")
KEYS = {"wape", "mase", "rmse", "sql", "wql", "coverage80", "coverage90", "pit80", "pit90"} | {
    "series",
    "windows",
    "seconds",
}
runner = CliRunner()


def invoke(*arguments: object) -> str:
    """Run the command; its error for people is raised."""
    result = runner.invoke(app, ["evaluate", *(str(one) for one in arguments)], env={"COLUMNS": "200"})
    if isinstance(result.exception, TrendError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def folder(tmp_path: Path, sales: pd.DataFrame) -> Path:
    """Two daily files of 140 days, and one that is none."""
    made = tmp_path / "data"
    made.mkdir()
    sales.to_csv(made / "one.csv", index=False)
    sales[sales["store"] == "s0"].to_csv(made / "two.csv", index=False)
    (made / "zz_notes.csv").write_text("nothing\nof\nuse\n")
    return made


def test_the_command_scores_models_and_methods_on_the_same_windows(
    folder: Path, tiny_backbone: Path, tmp_path: Path
) -> None:
    target, tables = tmp_path / "out.json", tmp_path / "out.md"
    shown = invoke(
        *("--data", folder / "one.csv", folder / "two.csv", "--model", tiny_backbone),
        *("--baselines", ",".join(QUICK), "--windows", 2, "--series", 7, "--json", target, "--markdown", tables),
    )
    found = json.loads(target.read_text("utf-8"))
    assert (found["schema"], found["command"]) == (1, "evaluate")
    names = [str(tiny_backbone), f"{tiny_backbone}+calibrated", *QUICK]
    assert [(one["data"], one["model"]) for one in found["results"]] == [
        (data, name) for data in ("one", "two") for name in names
    ]
    for one in found["results"]:
        assert one.keys() >= KEYS
        assert one["windows"] == 2
        assert one["series"] == (7 if one["data"] == "one" else 6)
    ours = found["results"][0]
    assert 0 <= ours["trend"]["macro_f1"] <= 1
    assert 0 <= ours["trend"]["auroc"] <= 1
    assert 0 <= ours["no_sale"]["brier"] <= 1
    assert found["summary"]["relative_to"]["seasonal-naive"].keys() == set(names) - {"seasonal-naive"}
    assert found["summary"]["relative_to"]["naive"].keys() == set(names[:2])
    assert "Geometric mean" in shown
    written = tables.read_text("utf-8")
    assert written.count("\n| one |") == written.count("\n| two |") == 5
    assert "macro F1" in written


def test_the_windows_are_the_last_ones_and_the_scores_are_theirs() -> None:
    """WAPE of repeating the last value, by hand: three windows of 28 days that end with the file."""
    rng = np.random.default_rng(0)
    y = rng.poisson(20, (2, 150)).astype(float)
    dates = pd.date_range("2024-01-01", periods=150)
    frame = pd.concat([pd.DataFrame({"unique_id": f"s{row}", "ds": dates, "y": y[row]}) for row in range(2)])
    found = evaluate([from_frame(frame)], Settings(models=(), baselines=("naive",)))
    expected = []
    for start in (150 - 84, 150 - 56, 150 - 28):
        window, last = y[:, start : start + 28], y[:, start - 1 : start]
        expected.append(np.abs(window - last).sum() / window.sum())
    (result,) = found.results
    assert [one["wape"] for one in result.scores] == pytest.approx(expected)
    assert result.to_json()["wape"] == pytest.approx(np.mean(expected))


def test_nothing_of_a_window_is_seen_before_it(sales: pd.DataFrame, tiny_backbone: Path) -> None:
    last = sales["date"] >= sales["date"].max() - pd.Timedelta(days=27)
    spoiled = sales.assign(units=sales["units"].mask(last, 10_000))
    made: list[dict[str, Forecast]] = []

    def keep(windows: dict[str, Forecast]) -> Callable[..., Any]:
        def scored(_y: object, forecast: Forecast, _scale: object) -> Any:
            windows[str(len(windows))] = forecast
            return dict.fromkeys([*KEYS, "series"], 0.0)

        return scored

    for frame in (sales, spoiled):
        made.append({})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(evaluation, "score", keep(made[-1]))
            settings = Settings(models=(str(tiny_backbone),), baselines=("same-phase-mean",), windows=1)
            evaluate([from_frame(frame)], settings)
    assert len(made[0]) == 3, "the backbone, the same calibrated, and the mean of equal weekdays"
    for name, forecast in made[0].items():
        assert_allclose(made[1][name].quantiles, forecast.quantiles)


@pytest.mark.parametrize("cut", [True, False])
def test_a_model_that_peeks_gains_nothing(
    panel: SalesPanel, tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch, cut: bool
) -> None:
    """It forecasts what the panel it was handed says was sold: nothing is there, unless the cut is taken away."""

    def peek(_: object, windows: Any, *, origin: int, horizon: int, **_options: object) -> Forecast:
        seen = np.nan_to_num(windows.actuals(origin, horizon))
        dates = windows.dates[origin : origin + horizon].to_numpy()
        return Forecast.repaired(windows.ids, dates, np.repeat(seen[..., None], len(LEVELS), -1), seen)

    monkeypatch.setattr(evaluation, "predict", peek)
    if not cut:
        monkeypatch.setattr(evaluation, "panel_before", lambda whole, _origin: whole)
    found = evaluate([panel], Settings(models=(str(tiny_backbone),), baselines=(), windows=2, calibrate=0))
    assert found.results[0].mean("wape") == pytest.approx(1.0 if cut else 0.0)


def test_a_calibration_is_fitted_to_earlier_windows_and_sets_the_spread_right(
    panel: SalesPanel, tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model five times too unsure of itself: its calibrated row has the lower loss and the tighter intervals."""
    rng = np.random.default_rng(0)
    frame = panel.frame.assign(y=100 + rng.normal(0, 4, len(panel.frame)))
    noise = from_frame(frame[["unique_id", "ds", "y"]])
    origins: list[int] = []

    def unsure(_: object, windows: Any, *, origin: int, horizon: int, **_options: object) -> Forecast:
        origins.append(origin)
        assert windows.n_steps == origin, "the panel ends at the origin"
        scores = np.array([NormalDist().inv_cdf(level) for level in LEVELS])
        shape = (len(windows.ids), horizon, len(LEVELS))
        dates = windows.dates[origin : origin + horizon].to_numpy()
        return Forecast.repaired(
            windows.ids, dates, np.broadcast_to(100 + 20 * scores, shape), np.full(shape[:2], 100.0)
        )

    monkeypatch.setattr(evaluation, "predict", unsure)
    settings = Settings(models=(str(tiny_backbone),), baselines=(), windows=1, calibrate=3)
    plain, calibrated = evaluate([noise], settings).results
    assert calibrated.model == f"{tiny_backbone}+calibrated"
    assert sorted(origins) == [28, 56, 84, 112], "140 days: no window before 28 days of history"
    assert plain.mean("coverage80") > 0.99
    assert calibrated.mean("sql") < 0.7 * plain.mean("sql")
    assert calibrated.mean("mase") == pytest.approx(plain.mean("mase"))
    assert calibrated.mean("coverage80") < 0.97
    plain, untouched = evaluate([noise], replace(settings, calibrate=8)).results
    assert untouched.scores == plain.scores, "three windows are too few where more are asked for"


def test_windows_at_the_end_can_be_left_for_later(panel: SalesPanel, sales: pd.DataFrame) -> None:
    """Two windows before the last one are those of a file that ends there."""
    early = from_frame(sales[sales["date"] < sales["date"].max() - pd.Timedelta(days=27)])
    settings = Settings(models=(), baselines=("naive",), windows=2)
    skipped = evaluate([panel], Settings(models=(), baselines=("naive",), windows=2, skip=1))
    assert skipped.results[0].scores == evaluate([early], settings).results[0].scores
    assert skipped.to_json()["settings"]["skip"] == 1


def test_the_quick_engine_is_taken_where_it_is_named(folder: Path, tiny_backbone: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    options = ("--data", folder / "one.csv", "--model", tiny_backbone, "--baselines", "none", "--windows", 1)
    invoke(*options, "--engine", "int8", "--calibrate", 0, "--json", target)
    quick = json.loads(target.read_text("utf-8"))
    assert quick["settings"]["engine"] == "int8"
    invoke(*options, "--calibrate", 0, "--json", target)
    exact = json.loads(target.read_text("utf-8"))
    assert [one["model"] for one in quick["results"]] == [str(tiny_backbone)]
    assert quick["results"][0]["sql"] == pytest.approx(exact["results"][0]["sql"], rel=0.05)
    with pytest.raises(UsageError, match="no engine 'int4'"):
        invoke(*options, "--engine", "int4")


def test_the_draw_of_series_is_of_its_seed(folder: Path) -> None:
    def drawn(seed: int) -> tuple[str, ...]:
        return read_panels([folder / "one.csv"], Settings(series=5, seed=seed), print)[0].ids

    assert drawn(0) == drawn(0)
    assert len(drawn(0)) == 5
    assert drawn(0) != drawn(1)


def test_a_folder_passes_over_what_cannot_be_used(folder: Path) -> None:
    said: list[str] = []
    panels = read_panels([folder], Settings(), said.append)
    assert [panel.name for panel in panels] == ["one", "two"]
    assert len(said) == 1
    assert "zz_notes.csv is passed over" in said[0]


def test_mistakes_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no file .*missing\.csv"):
        invoke("--data", folder / "missing.csv")
    with pytest.raises(DataError):
        invoke("--data", folder / "zz_notes.csv")
    with pytest.raises(DataError, match="5 windows of 28"):
        invoke("--data", folder / "one.csv", "--windows", 5)
    with pytest.raises(UsageError, match="no method 'arima'"):
        invoke("--data", folder / "one.csv", "--baselines", "naive,arima")
    with pytest.raises(UsageError, match="Two files are called one"):
        invoke("--data", folder / "one.csv", folder / "one.csv")
    with pytest.raises(UsageError, match="nobody"):
        invoke("--data", folder / "one.csv", "--model", tmp_path / "nobody")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no sales file"):
        invoke("--data", tmp_path / "empty")


def test_a_panel_of_new_products_alone_cannot_be_scored() -> None:
    dates = pd.date_range("2024-01-01", periods=200)
    late = pd.DataFrame({"unique_id": "new", "ds": dates[-20:], "y": 1.0})
    early = pd.DataFrame({"unique_id": "old", "ds": dates[:60], "y": 1.0})
    with pytest.raises(DataError, match="no series with enough sales"):
        evaluate([from_frame(pd.concat([late, early]))], Settings(models=(), baselines=("naive",), windows=1))


def test_a_core_whose_layers_were_never_trained_is_refused(
    panel: SalesPanel, tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load_backbone(str(tiny_backbone))
    monkeypatch.setattr(type(backbone), "needs_pretraining", True)
    with pytest.raises(UsageError, match="noise") as caught:
        evaluate([panel], Settings(models=(str(tiny_backbone),), baselines=()))
    assert "--freeze-core" in caught.value.hint


def result(data: str, model: str, sql: float, mase: float = 1.0) -> Result:
    """A made-up result of one window."""
    values = dict.fromkeys(("wape", "wape_mean", "rmsse", "rmse", "wql", "coverage80", "coverage90"), 0.5)
    return Result(data, model, [{**values, "sql": sql, "mase": mase, "series": 1, "dropped": 0}])  # type: ignore[typeddict-item]


def test_the_summary_is_a_geometric_mean_over_data_sets() -> None:
    results = [
        *(result("a", "ours", 1.0), result("a", "auto-ets", 2.0), result("a", "seasonal-naive", 4.0)),
        *(result("b", "ours", 2.0), result("b", "auto-ets", 1.0), result("b", "seasonal-naive", 2.0)),
        *(result("c", "ours", math.nan), result("c", "auto-ets", 9.0), result("c", "seasonal-naive", 0.0)),
    ]
    ratio = relative(results, "ours", "seasonal-naive")
    assert ratio["sql"] == pytest.approx(math.sqrt(1 / 4 * 1))
    assert (ratio["data_sets"], ratio["better"]) == (2, 1)
    assert ratio["mase"] == pytest.approx(1.0)
    whole = Evaluation(Settings(models=("ours",), baselines=("seasonal-naive", "auto-ets")), tuple(results))
    found = whole.summary()
    assert found["auto-ets"].keys() == {"ours"}
    assert found["auto-ets"]["ours"]["sql"] == pytest.approx(math.sqrt(1 / 2 * 2 / 1))
    assert found["seasonal-naive"].keys() == {"ours", "auto-ets"}
    body = whole.to_json()
    assert json.dumps(body, allow_nan=False)
    assert body["results"][6]["sql"] is None
    assert "**1.000**" in markdown(whole)
    assert data_table(results).row_count == 9
    assert summary_table(whole).row_count == 3


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)), max_size=40))
def test_auroc_is_the_share_of_ordered_pairs(rows: list[tuple[int, int, int, int]]) -> None:
    labels = np.array([row[0] for row in rows], dtype=np.int64)
    scores = np.array([row[1:] for row in rows], dtype=np.float64).reshape(-1, 3)
    areas = []
    for one in range(3):
        inside, outside = scores[labels == one, one], scores[labels != one, one]
        if len(inside) and len(outside):
            pairs = inside[:, None] - outside[None]
            areas.append(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    assert_allclose(auroc(labels, scores), np.mean(areas) if areas else np.nan)


def test_measures_of_classes_agree_with_scikit_learn() -> None:
    """Of ``f1_score(average="macro")`` and ``roc_auc_score(multi_class="ovr")``, version 1.7, on these draws."""
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 3, 40)
    scores = rng.dirichlet(np.ones(3) * 2, 40).round(1) + 0.0
    scores = scores / scores.sum(1, keepdims=True)
    scores[np.arange(40), labels] += 0.3
    scores /= scores.sum(1, keepdims=True)
    assert macro_f1(labels, scores.argmax(1)) == pytest.approx(0.6669534050179212)
    assert auroc(labels, scores) == pytest.approx(0.8624812703925491)
    assert macro_f1(np.array([0, 1, 2, 0, 1, 2]), np.array([0, 2, 1, 0, 0, 1])) == pytest.approx(0.2666667)
    assert math.isnan(macro_f1(labels[:0], labels[:0]))
    assert brier(np.array([0.0, 1.0, 0.5]), np.array([False, False, True])) == pytest.approx((0 + 1 + 0.25) / 3)


class Seer:
    """A backbone that knows the trend class and the days without a sale of windows made here."""

    def __init__(self, trend: np.ndarray, no_sale: np.ndarray) -> None:
        self.trend, self.no_sale = torch.from_numpy(trend), torch.from_numpy(no_sale)

    def __call__(self, _: Batch) -> Any:
        return SimpleNamespace(trend=self.trend, no_sale=self.no_sale)


def windows_of(past: np.ndarray, closed_ahead: np.ndarray) -> Any:
    """Windows whose batch holds ``past`` [N, L] and closed days ahead [N, H]."""
    n, context = past.shape
    horizon = closed_ahead.shape[1]
    future = torch.zeros(n, horizon, len(CHANNELS))
    future[..., INDEX["closed"]] = torch.from_numpy(closed_ahead).float()
    batch = Batch(
        past_values=torch.from_numpy(past).float(),
        past_mask=torch.ones(n, context),
        past_cov=torch.zeros(n, context, len(CHANNELS)),
        future_cov=future,
        freq=torch.zeros(n, dtype=torch.int64),
        text=torch.zeros(n, 256),
        static_ids=torch.zeros(n, 3, dtype=torch.int64),
        level_hint=torch.zeros(n),
    )
    return SimpleNamespace(ids=tuple(f"s{row}" for row in range(n)), batch=lambda *_: batch)


def test_the_other_heads_are_scored_against_what_came_true() -> None:
    past = np.full((4, 8), 10.0)
    past[:, 0] = 0.0  # an eighth of the days so far sold nothing
    y = np.array([[20.0] * 4, [1.0] * 4, [10.0, 10, 0, 20], [np.nan, np.nan, np.nan, 5]])
    closed = np.zeros((4, 4))
    closed[2, 2] = 1
    truth = np.array([2, 0, 1, 0])  # up, down, flat, and too little known
    no_sale = np.where(np.nan_to_num(y, nan=1.0) <= 0, 1.0, 0.2)
    phases = Forecast.repaired(
        [f"s{row}" for row in range(4)],
        pd.date_range("2024-01-01", periods=4),
        np.zeros((4, 4, len(LEVELS))),
        np.array([[12.0] * 4, [12.0] * 4, [10.0] * 4, [10.0] * 4]),
    )
    heads = HeadScores()
    seer: Any = Seer(np.eye(3)[truth], no_sale)
    heads.add(seer, windows_of(past, closed), 8, y, phases)
    found = heads.to_json()
    assert found["trend"]["windows"] == 3
    assert (found["trend"]["macro_f1"], found["trend"]["auroc"]) == (1.0, 1.0)
    # The rule says up, up, flat: F1 of down 0, of flat 1, of up 2/3.
    assert found["trend"]["baseline"]["macro_f1"] == pytest.approx(5 / 9)
    # Eleven open days of which something is known, and something is sold on all of them.
    assert found["no_sale"]["brier"] == pytest.approx(0.04)
    assert found["no_sale"]["share"] == 0
    assert found["no_sale"]["baseline"]["brier"] == pytest.approx((1 / 8) ** 2)


def test_a_backbone_without_these_heads_has_no_scores_of_them() -> None:
    heads = HeadScores()
    assert heads.to_json() == {}
    blind: Any = lambda _: SimpleNamespace(trend=None, no_sale=None)  # noqa: E731
    phases = Forecast.repaired(
        ["s0"], pd.date_range("2024-01-01", periods=4), np.zeros((1, 4, len(LEVELS))), np.zeros((1, 4))
    )
    heads.add(blind, windows_of(np.ones((1, 8)), np.zeros((1, 4))), 8, np.ones((1, 4)), phases)
    assert heads.to_json() == {}


def test_a_baseline_result_is_that_of_the_baseline(panel: SalesPanel) -> None:
    found = evaluate([panel], Settings(models=(), baselines=("seasonal-naive",), windows=1))
    origin = panel.end - pd.Timedelta(days=27)
    forecast = baseline_forecast(["seasonal-naive"], panel, origin, 28)["seasonal-naive"]
    truth = evaluation.actuals(panel, origin, 28)
    scale = evaluation.scale_of(panel, truth.ids, origin)
    assert found.results[0].scores == [evaluation.score(truth.y, forecast.select(truth.ids), scale)]
