"""Boosted trees on top of the pretrained model: what they learn, what they may not see, and where they are kept."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from trend_client import outcome
from trend_client.decisions.blend import Blend
from trend_client.engine import Engine
from trend_client.gate import Choice
from trend_client.outcome import Model, forecasters
from trend_client.trees import TREES, fit, forecaster
from trend_client.trees.features import FITTED, IDENTITIES, Base, levels_of
from trend_client.trees.fit import Trees, _interpolated, mean_of
from trend_client.trees.forecaster import TreeForecaster
from trend_common.errors import UsageError
from trend_common.forecasts import LEVELS, Forecast
from trend_common.metrics import wql
from trend_common.panel import SalesPanel, from_frame
from trend_common.scoring import actuals, next_origin, panel_before
from trend_common.windows import PanelWindows

HORIZON = 7


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough to see what is learned, and quick."""
    monkeypatch.setattr(fit, "HISTORY", {"D": 40})
    monkeypatch.setattr(fit, "_TREES", 40)
    monkeypatch.setattr(fit, "_CELLS", 4000)


def promoted(days: int = 168, series: int = 10, effect: float = 3.0) -> pd.DataFrame:
    """Sales that a promotion, known ahead and on random days, multiplies."""
    rng = np.random.default_rng(5)
    dates = pd.date_range("2024-01-01", periods=days)
    parts = []
    for row in range(series):
        promo = (rng.uniform(size=days) < 0.25).astype(int)
        rate = (20.0 + 5 * row) * np.where(promo, effect, 1.0)
        parts.append(pd.DataFrame({"date": dates, "product": f"p{row}", "units": rng.poisson(rate), "promo": promo}))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def engine(tiny_backbone: Path) -> Engine:
    made = Engine(str(tiny_backbone), device="cpu")
    made.install_local(2)
    return made


@pytest.fixture(scope="module")
def panel() -> SalesPanel:
    return from_frame(promoted())


def trees_of(engine: Engine, sales: SalesPanel | None, **more: object) -> TreeForecaster:
    return TreeForecaster(engine, sales, context=28, horizon=HORIZON, **more)  # type: ignore[arg-type]


def same(one: Forecast, other: Forecast) -> bool:
    return one.ids == other.ids and np.array_equal(one.quantiles, other.quantiles)


def test_trees_learn_what_the_backbone_does_not_know(engine: Engine, panel: SalesPanel) -> None:
    origin = panel.calendar_end - pd.Timedelta(days=HORIZON - 1)
    known, truth = panel_before(panel, origin), actuals(panel, origin, HORIZON)
    plain = engine.forecaster(None, context=28)(known, origin, HORIZON)
    made = trees_of(engine, panel)(known, origin, HORIZON)
    assert wql(truth.y, made.select(truth.ids)) < 0.6 * wql(truth.y, plain.select(truth.ids))
    promo = known.future.pivot(index="unique_id", columns="ds", values="promo").loc[list(made.ids)].to_numpy() > 0
    assert made.median[promo].mean() > 2 * made.median[~promo].mean()


def test_nothing_from_the_origin_on_is_seen(engine: Engine, panel: SalesPanel) -> None:
    origin = panel.calendar_end - pd.Timedelta(days=2 * HORIZON)
    later = panel.frame.assign(y=panel.frame["y"].where(panel.frame["ds"] < origin, 10 * panel.frame["y"] + 7))
    other = replace(panel, frame=later)
    ours, theirs = trees_of(engine, panel), trees_of(engine, other)
    assert same(ours(panel, origin, HORIZON), theirs(other, origin, HORIZON))
    assert ours.fitted(panel, origin, HORIZON).dumps() == theirs.fitted(other, origin, HORIZON).dumps()
    # What lies before is looked at.
    earlier = panel.frame.assign(y=panel.frame["y"].where(panel.frame["ds"] >= origin, 2 * panel.frame["y"]))
    changed = trees_of(engine, replace(panel, frame=earlier))
    assert changed.fitted(panel, origin, HORIZON).dumps() != ours.fitted(panel, origin, HORIZON).dumps()


def test_a_part_of_the_panel_or_another_plan_is_forecast_by_the_same_trees(
    engine: Engine, panel: SalesPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = next_origin(panel)
    trees = trees_of(engine, panel)
    days = pd.date_range(origin, periods=HORIZON)
    keys = pd.MultiIndex.from_product([panel.ids, days], names=["unique_id", "ds"]).to_frame(index=False)
    calm = replace(panel, future=keys.assign(promo=0.0))
    busy = replace(panel, future=keys.assign(promo=1.0))
    whole = trees(calm, origin, HORIZON)
    monkeypatch.setattr(forecaster, "fit_trees", lambda *_args, **_more: pytest.fail("fitted anew"))
    part = replace(calm.select(panel.ids[:3]), until=panel.calendar_end)
    np.testing.assert_allclose(
        trees(part, origin, HORIZON).quantiles, whole.select(part.ids).quantiles, rtol=1e-4, atol=1e-3
    )
    raised = trees(busy, origin, HORIZON)
    assert (raised.mean.sum(axis=1) > 1.8 * whole.mean.sum(axis=1)).all()
    shorter = trees(calm, origin, 3)
    assert shorter.horizon == 3
    # A forecast of the backbone that is at hand takes the place of asking it.
    plain = engine.forecaster(None, context=28)(calm, origin, HORIZON)
    assert same(trees(calm, origin, HORIZON, plain=plain), whole)


def test_with_too_little_to_learn_from_the_backbone_stays_as_it_is(engine: Engine) -> None:
    small = from_frame(promoted(days=30, series=2))
    origin = next_origin(small)
    trees = trees_of(engine, small)
    assert not trees.fitted(small, origin, HORIZON).boosters
    plain = engine.forecaster(None, context=28)(small, origin, HORIZON)
    assert same(trees(small, origin, HORIZON), plain)


def test_with_less_than_a_year_the_backbone_stays_as_it_is(
    engine: Engine, panel: SalesPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = len(pd.date_range(panel.start, panel.calendar_end))
    for least, learned in ((days, True), (days + 1, False)):
        monkeypatch.setattr(fit, "HISTORY", {"D": least})
        assert bool(trees_of(engine, panel).fitted(panel, next_origin(panel), HORIZON).boosters) is learned
    monkeypatch.undo()
    assert fit.HISTORY == {"D": 420, "W": 68, "M": 24}


def test_a_product_without_a_sale_before_the_origin_is_left_to_the_others(engine: Engine, panel: SalesPanel) -> None:
    late = panel.frame[(panel.frame["unique_id"] != panel.ids[0]) | (panel.frame["ds"] >= "2024-06-01")]
    known = panel_before(replace(panel, frame=late), pd.Timestamp("2024-06-01"))
    made = trees_of(engine, None)(known, pd.Timestamp("2024-06-01"), HORIZON)
    assert set(made.ids) == set(panel.ids[1:])


class Constant:
    """Trees that add the same to every step."""

    def __init__(self, value: float) -> None:
        self.value = value

    def predict(self, values: np.ndarray, **_: object) -> np.ndarray:
        return np.full(len(values), self.value)


def test_a_series_that_would_run_away_keeps_the_backbone(engine: Engine, panel: SalesPanel) -> None:
    windows = PanelWindows(panel, context=504)
    rows, origin = np.arange(2), windows.step_of(next_origin(panel))
    plain = engine.forecaster(None, context=28)(panel, next_origin(panel), HORIZON).select(panel.ids[:2])
    base = Base(plain.quantiles, plain.mean)
    largest = np.nanmax(windows.history(origin)[:2], axis=1)
    # Just below and above ten times the first series' largest sale; the second one's is of another size.
    for times, kept in ((9.0, False), (12.0, True)):
        wanted = times * largest[0] - base.quantiles[0, :, LEVELS.index(0.95)].max()
        added = wanted / levels_of(windows.history(origin)[:1], "D")[0]
        made = Trees(HORIZON, (Constant(added),) * len(FITTED), {name: {} for name in IDENTITIES}, 1)
        found = made.correct(windows, rows, origin, base)
        assert np.array_equal(found.quantiles[0], base.quantiles[0]) is kept
        assert np.array_equal(found.mean[0], base.mean[0]) is kept


def test_one_wild_step_teaches_nothing_to_the_others(engine: Engine, panel: SalesPanel) -> None:
    frame = panel.frame.copy()
    mine = np.flatnonzero((frame["unique_id"] == panel.ids[0]) & (frame["ds"] >= "2024-05-01"))
    frame.loc[mine[:28], "y"] = 0.0
    frame.loc[mine[28:30], "y"] = 1e6  # a thousand times its level and more, after a rest
    wild = replace(panel, frame=frame)
    origin = next_origin(panel)
    usual, found = trees_of(engine, panel)(panel, origin, HORIZON), trees_of(engine, wild)(wild, origin, HORIZON)
    others = panel.ids[1:]
    assert found.select(others).quantiles.max() < 3 * usual.select(others).quantiles.max()


def test_closed_days_stay_closed(engine: Engine) -> None:
    frame = promoted()
    frame.loc[frame["date"].dt.dayofweek == 6, "units"] = 0
    frame["open"] = (frame["date"].dt.dayofweek != 6).astype(int)
    shop = from_frame(frame)
    origin = next_origin(shop)
    made = trees_of(engine, shop)(shop, origin, HORIZON)
    sunday = pd.DatetimeIndex(made.ds[0]).dayofweek == 6
    assert (made.quantiles[:, sunday] == 0).all()
    assert (made.mean[:, sunday] == 0).all()
    assert (made.median[:, ~sunday] > 0).all()


def test_fits_are_kept_in_a_folder_of_the_owner_alone(
    engine: Engine, panel: SalesPanel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin, folder = next_origin(panel), tmp_path / "trees"
    first = trees_of(engine, panel, kept=folder)(panel, origin, HORIZON)
    (kept,) = folder.glob("*.json")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert not [name for name in panel.static["product"] if f'"{name}"' in kept.read_text()], "names in clear"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    fitted = forecaster.fit_trees
    monkeypatch.setattr(forecaster, "fit_trees", lambda *_args, **_more: pytest.fail("fitted anew"))
    assert same(trees_of(engine, panel, kept=folder)(panel, origin, HORIZON), first)
    # Nothing of a plan was learned, so tomorrow's plan is no reason to learn again.
    days = pd.date_range(origin, periods=HORIZON)
    keys = pd.MultiIndex.from_product([panel.ids, days], names=["unique_id", "ds"]).to_frame(index=False)
    planned = replace(panel, future=keys.assign(promo=1.0), shut={"": frozenset(days[:1])})
    assert not same(trees_of(engine, planned, kept=folder)(planned, origin, HORIZON), first)
    monkeypatch.setattr(forecaster, "fit_trees", fitted)
    # Other sales, another country: other trees.
    more = panel.frame.assign(y=panel.frame["y"] + 1)
    other = replace(panel, frame=more)
    trees_of(engine, other, kept=folder)(other, origin, HORIZON)
    trees_of(engine, panel, kept=folder, country="DE")(panel, origin, HORIZON)
    assert len(list(folder.glob("*.json"))) == 3
    # A damaged file is fitted again, and of many the newest stay.
    kept.write_text('{"horizon": 7}')
    assert same(trees_of(engine, panel, kept=folder)(panel, origin, HORIZON), first)
    monkeypatch.setattr(forecaster, "_KEPT", 2)
    one_less = panel.select(panel.ids[1:])
    trees_of(engine, one_less, kept=folder)(one_less, origin, HORIZON)
    assert len(list(folder.glob("*.json"))) == 2


def test_trees_that_look_back_are_older_than_the_origin_never_younger(panel: SalesPanel, engine: Engine) -> None:
    trees = trees_of(engine, panel, every=14)
    calendar = pd.date_range(panel.start, next_origin(panel))
    cuts = [trees._cut(panel, day) for day in calendar]
    assert cuts[-1] == next_origin(panel)
    for day, cut in zip(calendar[:-1], cuts[:-1], strict=True):
        assert pd.Timedelta(0) <= day - cut < pd.Timedelta(days=14)
    assert len(set(cuts)) <= len(calendar) / 14 + 2
    exact = trees_of(engine, panel)
    assert [exact._cut(panel, day) for day in calendar] == list(calendar)


def test_text_goes_both_ways_and_other_text_is_refused(engine: Engine, panel: SalesPanel) -> None:
    trees = trees_of(engine, panel).fitted(panel, next_origin(panel), HORIZON)
    assert len(trees.boosters) == len(FITTED)
    again = Trees.loads(trees.dumps())
    assert again.dumps() == trees.dumps()
    for wrong in ("", "{}", '{"horizon": 7, "known": {}, "cells": 1, "boosters": ["x"]}', "[1]"):
        with pytest.raises(ValueError, match="no trees"):
            Trees.loads(wrong)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=len(FITTED), max_size=len(FITTED)))
def test_corrections_between_levels_lie_between(added: list[float]) -> None:
    found = _interpolated(np.array(added)[None, None])[0, 0]
    for level, value in zip(LEVELS, found, strict=True):
        if level in FITTED:
            assert value == pytest.approx(added[FITTED.index(level)], abs=1e-9)
        assert min(added) - 1e-9 <= value <= max(added) + 1e-9
    assert found[0] == pytest.approx(added[0])
    assert found[-1] == pytest.approx(added[-1])


def test_level_and_mean_by_hand() -> None:
    history = np.full((3, 100), np.nan)
    history[0, -56:] = 4.0
    history[1, :44], history[1, 44:] = 10.0, 0.0
    assert levels_of(history, "D") == pytest.approx([4.0, 0.1 * 4.4, 1.0])
    assert mean_of(np.full((1, 1, len(LEVELS)), 3.0)) == pytest.approx(3.0)
    assert mean_of(np.array(LEVELS)[None]) == pytest.approx(0.5, abs=0.01)
    base = Base(np.arange(len(LEVELS), dtype=float)[None, None], np.ones((1, 1)))
    assert base.fitted()[0, 0] == pytest.approx([LEVELS.index(level) for level in FITTED])


def test_the_methods_have_trees_where_lightgbm_is_there(
    engine: Engine, panel: SalesPanel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Model("local", HORIZON, 28, {"zero-shot": None})
    monkeypatch.setattr(outcome, "_BASELINES", ("seasonal-naive",))
    methods = forecasters(engine, model, sales=panel)
    assert list(methods) == ["seasonal-naive", TREES, "zero-shot"]
    result = outcome.measured(panel, model, methods)
    assert result.choice.shares[TREES] > 0.5  # they alone know what a promotion does
    assert result.methods[TREES].test["sql"] < result.methods["zero-shot"].test["sql"]
    assert result.scored_on[TREES] == len(result.origins.rolling) == 4
    # With a longer past asked for they are scored in the later windows alone, or not at all.
    steps = len(pd.date_range(panel.start, result.origins.rolling[2])) - 1
    for least, windows in ((steps, 2), (steps + HORIZON, 1), (steps + HORIZON + 1, 0)):
        monkeypatch.setattr(fit, "HISTORY", {"D": least})
        found = outcome.measured(panel, model, forecasters(engine, model, sales=panel))
        assert found.scored_on.get(TREES, 0) == windows
        assert (TREES in found.methods) == bool(windows)
    monkeypatch.setattr(outcome, "why_no_trees", lambda: "no libgomp [here]")
    without = forecasters(engine, model, sales=panel)
    assert list(without) == ["seasonal-naive", "zero-shot"]
    capsys.readouterr()
    outcome.measured(panel, model, without)
    said = " ".join(capsys.readouterr().out.split())
    assert "Boosted trees are left out" in said
    assert "no libgomp [here]" in said


def test_further_ahead_than_they_learned_trees_are_left_out(
    engine: Engine, panel: SalesPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model("local", HORIZON, 28, {"zero-shot": None})
    choice = Choice(TREES, {}, (TREES, "zero-shot"), {}, "blend", {}, {TREES: 0.9, "zero-shot": 0.1})
    blend = Blend(engine, model, choice, sales=panel)
    origin = next_origin(panel)
    assert blend.trees is not None
    near, plain = blend(panel, origin, HORIZON), engine.forecaster(None, context=28)
    assert not same(near, plain(panel, origin, HORIZON).select(near.ids))
    monkeypatch.setattr(forecaster, "fit_trees", lambda *_args, **_more: pytest.fail("fitted anew"))
    far = blend(panel, origin, 3 * HORIZON)
    assert same(far, plain(panel, origin, 3 * HORIZON).select(far.ids))


def test_a_comparison_names_them_and_says_why_they_cannot_be_had(
    tiny_backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trend_client.cli import app

    promoted().to_csv(tmp_path / "sales.csv", index=False)
    given_options = ["--home", str(tmp_path / "h"), "--backbone", str(tiny_backbone), "--horizon", "7"]
    asked = ["backtest", "--data", str(tmp_path / "sales.csv"), "--compare", f"zero-shot,{TREES}", *given_options]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert "Boosted-tree model" in done.output
    monkeypatch.setattr(forecaster, "why_no_trees", lambda: "libgomp.so.1: cannot open")
    refused = CliRunner().invoke(app, asked)
    assert isinstance(refused.exception, UsageError)
    assert "libgomp1" in str(refused.exception.hint)
