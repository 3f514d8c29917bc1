"""The backtest: nobody looks ahead, the choice is made before the test, and the table says what happened."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from trend_client import backtest as module
from trend_client.backtest import backtest, baseline_forecasters
from trend_client.gate import CHOSEN
from trend_common.baselines import baseline_forecast
from trend_common.errors import DataError
from trend_common.forecasts import Forecast
from trend_common.panel import SalesPanel

HORIZON = 7


def retailer(series: int = 8, days: int = 84, seed: int = 0) -> SalesPanel:
    rng = np.random.default_rng(seed)
    parts = []
    for row in range(series):
        length = days if row else 20  # The first one is new.
        dates = pd.date_range(end="2024-06-30", periods=length)
        promo = (rng.random(length) < 0.2).astype(float)
        y = rng.poisson((20 + 5 * row) * (1 + 0.3 * (dates.dayofweek >= 5)) * (1 + promo)).astype(float)
        parts.append(pd.DataFrame({"unique_id": f"s/p{row}", "ds": dates, "y": y, "closed": False, "promo": promo}))
    frame = pd.concat(parts, ignore_index=True)
    ids = [f"s/p{row}" for row in range(series)]
    static = pd.DataFrame({"store": "s", "product": [f"p{row}" for row in range(series)]}, index=ids)
    static = static.assign(category="", description="")
    future = frame.loc[[], ["unique_id", "ds", "promo"]]
    return SalesPanel("Shop", "D", "D", frame, future, static, {"units": "y"}, (), len(frame))


def knows_promotions(panel: SalesPanel, origin: pd.Timestamp, horizon: int) -> Forecast:
    """A stand-in for a model: the weekday mean, doubled on promoted days, which it reads from the plan."""
    calm = panel.frame.assign(y=panel.frame["y"].where(panel.frame["promo"] == 0))
    base = baseline_forecast(["same-phase-mean"], replace(panel, frame=calm), origin, horizon)["same-phase-mean"]
    plan = panel.future.set_index(["unique_id", "ds"])["promo"]
    rows = pd.MultiIndex.from_arrays([np.repeat(np.array(base.ids), horizon), base.ds.reshape(-1)])
    lift = 1 + plan.reindex(rows).fillna(0.0).to_numpy().reshape(base.mean.shape)
    return Forecast.repaired(base.ids, base.ds, base.quantiles * lift[..., None], base.mean * lift)


def oracle(truth: SalesPanel) -> Callable[[SalesPanel, pd.Timestamp, int], Forecast]:
    """Cheats on validation and is hopeless on the test."""
    values = truth.frame.set_index(["unique_id", "ds"])["y"]

    def forecaster(panel: SalesPanel, origin: pd.Timestamp, horizon: int) -> Forecast:
        base = baseline_forecast(["naive"], panel, origin, horizon)["naive"]
        rows = pd.MultiIndex.from_arrays([np.repeat(np.array(base.ids), horizon), base.ds.reshape(-1)])
        mean = values.reindex(rows).fillna(0.0).to_numpy().reshape(base.mean.shape)
        mean = mean if origin < pd.Timestamp("2024-06-24") else mean + 1000
        return Forecast.repaired(base.ids, base.ds, np.repeat(mean[..., None], len(base.levels), axis=-1), mean)

    return forecaster


METHODS = baseline_forecasters(("seasonal-naive", "same-phase-mean"))


def test_a_better_method_is_found_chosen_and_said_to_be_better() -> None:
    result = backtest(retailer(), HORIZON, {**METHODS, "shared": knows_promotions})
    assert list(result.methods) == ["seasonal-naive", "same-phase-mean", "shared", CHOSEN]
    assert result.choice.default == "shared"
    assert result.old == "same-phase-mean"
    assert result.test_gain.relative > 0.1
    assert result.methods["shared"].test["sql"] < result.methods["same-phase-mean"].test["sql"]
    assert "Shared model" in result.verdict
    assert result.new_series == 1
    assert result.methods[CHOSEN].test["series"] == 7


def test_the_choice_is_not_worse_than_the_old_methods_on_validation_and_matches_the_table() -> None:
    result = backtest(retailer(seed=3), HORIZON, {**METHODS, "shared": knows_promotions})
    chosen = result.methods[CHOSEN].validation["sql"]
    assert chosen <= min(result.methods[name].validation["sql"] for name in result.methods)
    assert chosen == pytest.approx(result.choice.losses[CHOSEN])


def test_the_test_window_does_not_change_the_choice() -> None:
    """Other sales in the last week: the same choice, another score."""
    panel = retailer()
    last = panel.frame["ds"] >= pd.Timestamp("2024-06-24")
    other = replace(panel, frame=panel.frame.assign(y=panel.frame["y"].where(~last, 3.0)))
    methods = {**METHODS, "shared": knows_promotions}
    first, second = backtest(panel, HORIZON, methods), backtest(other, HORIZON, methods)
    assert first.choice == second.choice
    assert first.methods[CHOSEN].test != second.methods[CHOSEN].test


def test_a_method_that_fails_on_the_test_is_reported_as_it_is() -> None:
    panel = retailer()
    result = backtest(panel, HORIZON, {**METHODS, "lucky": oracle(panel)})
    assert result.choice.default == "lucky"
    assert result.test_gain.outcome == "worse"
    assert "The old method would have been better" in result.verdict


def test_forecasters_are_shown_nothing_after_the_origin_but_plans() -> None:
    seen: list[tuple[pd.Timestamp, SalesPanel]] = []

    def spy(panel: SalesPanel, origin: pd.Timestamp, horizon: int) -> Forecast:
        seen.append((origin, panel))
        return baseline_forecast(["naive"], panel, origin, horizon)["naive"]

    backtest(retailer(), HORIZON, {**METHODS, "spy": spy}, windows=2)
    assert [origin.day for origin, _ in seen] == [10, 17, 24]
    for origin, panel in seen:
        assert panel.frame["ds"].max() < origin
        assert "y" not in panel.future
        assert panel.future["ds"].min() == origin


def test_methods_are_compared_on_the_series_that_all_can_forecast() -> None:
    def picky(panel: SalesPanel, origin: pd.Timestamp, horizon: int) -> Forecast:
        return baseline_forecast(["naive"], panel, origin, horizon)["naive"].select(["s/p3", "s/p5"])

    result = backtest(retailer(), HORIZON, {**METHODS, "picky": picky})
    assert {one.test["series"] for one in result.methods.values()} == {2}
    assert result.forecast.ids == ("s/p3", "s/p5")


def test_the_json_has_the_agreed_keys_and_no_nan() -> None:
    panel = retailer()
    flat = replace(panel, frame=panel.frame.assign(y=5.0))
    for one in (panel, flat):
        text = json.dumps(backtest(one, HORIZON, METHODS).to_json(), allow_nan=False)
    found = json.loads(text)
    assert found["command"] == "backtest"
    assert found["choice"] in METHODS
    assert isinstance(found["verdict"], str)
    assert found["methods"]["seasonal-naive"]["wape"] == 0
    assert found["methods"]["seasonal-naive"]["sql"] is None, "a series that never changes has no scale"
    assert {"wape", "mase", "sql"} <= found["methods"][CHOSEN].keys()
    assert {"wape", "mase", "sql"} <= found["methods"][CHOSEN]["validation"].keys()


def test_the_table_has_a_row_a_method_and_window() -> None:
    table = backtest(retailer(), HORIZON, METHODS).table()
    assert table[["method", "window"]].apply(tuple, axis=1).is_unique
    assert len(table) == 6


def test_what_cannot_be_tested_is_refused_for_people() -> None:
    with pytest.raises(DataError, match="needs"):
        backtest(retailer(days=30), 14, METHODS)
    with pytest.raises(ValueError, match="old method"):
        backtest(retailer(), HORIZON, {"shared": knows_promotions})
    panel = retailer()
    unknown = replace(panel, frame=panel.frame.assign(y=panel.frame["y"].where(panel.frame["ds"] < "2024-06-17")))
    with pytest.raises(DataError, match="No series"):
        backtest(unknown, HORIZON, METHODS)


def test_every_method_has_a_name_for_people() -> None:
    assert all(module.METHOD_NAMES[name] for name in ("zero-shot", "shared", "personal", CHOSEN, *METHODS))


def test_progress_names_each_method_in_turn() -> None:
    heard: list[str] = []
    backtest(retailer(), HORIZON, METHODS, progress=heard.append)
    assert heard == [*METHODS, *METHODS]
