"""Boosted trees as a rival: they know nothing later, learn what a promotion does, and say what is not installed."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from trend_client.engine import Engine
from trend_common.baselines import baseline_forecast
from trend_common.errors import UsageError
from trend_common.metrics import wql
from trend_common.panel import SalesPanel, from_frame
from trend_common.scoring import actuals, origins, panel_before
from trend_simulations import boosted
from trend_simulations.arms import Study, run_models
from trend_simulations.boosted import BOOSTED, boosted_forecast, choose_boosted, require_boosted
from trend_simulations.cases import make_case
from trend_simulations.settings import LocalRecipe, Settings, split_arm
from trend_simulations.sources import Retailer

try:
    require_boosted()
except UsageError as missing:
    pytest.skip(str(missing), allow_module_level=True)


def sales(steps: int = 60, freq: str = "W") -> pd.DataFrame:
    """Four series whose promotions double what is sold; one begins late, one has a gap and a price."""
    rng = np.random.default_rng(3)
    dates = pd.date_range("2023-01-02", periods=steps, freq={"W": "W-MON", "D": "D"}[freq])
    frames = []
    for number, level in enumerate((10.0, 40.0, 160.0, 640.0)):
        promo = (rng.random(steps) < 0.3).astype(int)
        frame = pd.DataFrame(
            {
                "date": dates,
                "store": "s",
                "product": f"p{number}",
                "units": np.round(level * (1 + promo) * rng.uniform(0.9, 1.1, steps), 1),
                "promo": promo,
                "price": 2.0,
            }
        )
        frames.append(frame.iloc[20:] if number == 1 else frame)
    table = pd.concat(frames, ignore_index=True)
    return table[~((table["product"] == "p2") & table["date"].isin(dates[25:28]))]


@pytest.fixture(autouse=True)
def _few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    for chosen in BOOSTED.values():
        monkeypatch.setitem(chosen, "n_estimators", 20)
        monkeypatch.setitem(chosen, "min_child_samples", 5)


@pytest.fixture
def panel() -> SalesPanel:
    """The sales, weekly."""
    return from_frame(sales(), freq="W")


def test_it_learns_from_all_series_what_a_promotion_does(panel: SalesPanel) -> None:
    cut = origins(panel, 4)
    truth = actuals(panel, cut.test, 4)
    made = boosted_forecast(panel_before(panel, cut.test), cut.test, 4)
    assert made.ids == truth.ids
    assert made.quantiles.shape == (4, 4, 13)
    naive = baseline_forecast(["seasonal-naive"], panel, cut.test, 4)["seasonal-naive"]
    assert wql(truth.y, made) < 0.6 * wql(truth.y, naive)
    assert (np.diff(made.quantiles, axis=-1) >= 0).all()
    np.testing.assert_allclose(made.mean, made.median, rtol=0.5)
    # Another plan is another forecast.
    known = panel_before(panel, cut.test)
    more = replace(known, future=known.future.assign(promo=1.0))
    fewer = replace(known, future=known.future.assign(promo=0.0))
    assert boosted_forecast(more, cut.test, 4).median.sum() > 1.2 * boosted_forecast(fewer, cut.test, 4).median.sum()


def test_nothing_after_the_origin_is_seen(panel: SalesPanel) -> None:
    cut = origins(panel, 4)
    spoilt = replace(panel, frame=panel.frame.assign(y=panel.frame["y"].where(panel.frame["ds"] < cut.test, 9999.0)))
    one, other = (boosted_forecast(it, cut.test, 4) for it in (panel, spoilt))
    np.testing.assert_array_equal(one.quantiles, other.quantiles)


def test_no_model_sees_its_own_forecasts(panel: SalesPanel, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlforecast

    lags: list[tuple[int, int]] = []
    real = mlforecast.MLForecast.predict

    def predict(self: Any, h: int, *args: Any, **more: Any) -> Any:
        lags.append((h, min(self.ts.lags or [0])))
        return real(self, h, *args, **more)

    monkeypatch.setattr(mlforecast.MLForecast, "predict", predict)
    cut = origins(panel, 5)
    boosted_forecast(panel, cut.test, 5)
    assert [h for h, _ in lags] == [2, 4, 5]
    assert all(lag >= h for h, lag in lags)


def test_days_are_forecast_too() -> None:
    panel = from_frame(sales(70, "D"), freq="D")
    cut = origins(panel, 10)
    made = boosted_forecast(panel, cut.test, 10)
    assert made.quantiles.shape == (4, 10, 13)
    assert (made.ds[0] == pd.date_range(cut.test, periods=10).to_numpy()).all()


def test_a_retailer_chooses_on_its_validation_and_fits_once(
    panel: SalesPanel, tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings("W", 4, 28, seeds=(0,), backbone=str(tiny_backbone), local=LocalRecipe((1e-2,), (1,)))
    spoilt = panel.frame.assign(y=panel.frame["y"].where(panel.frame["ds"] < origins(panel, 4).test, 7.0))
    found = []
    for one in (panel, replace(panel, frame=spoilt)):
        case = make_case(Retailer("one", one), settings)
        fitted: list[str] = []

        def counted(*given: Any, fitted: list[str] = fitted) -> Any:
            fitted.append(given[-1])
            return boosted_forecast(*given)

        monkeypatch.setattr(boosted, "boosted_forecast", counted)
        engine = Engine(str(tiny_backbone), device="cpu")
        model = run_models(Study([case], engine, settings, seed=0), "lightgbm")[0]
        again = run_models(Study([case], engine, settings, seed=1), "lightgbm")[0]
        monkeypatch.setattr(boosted, "boosted_forecast", boosted_forecast)
        assert fitted == list(BOOSTED), "one fit of each, whatever the seeds"
        assert (model.parts, model.calibration) == (again.parts, again.calibration)
        assert not model.calibration.changes_nothing
        losses = {
            name: case.validation.relative_wql(boosted.for_case(case, name, case.cut.validation)) for name in BOOSTED
        }
        assert model.parts[0][0] == choose_boosted(case) == min(losses, key=lambda name: losses[name])
        found.append((model.parts, model.calibration))
    assert found[0] == found[1], "the test enters neither the choice nor the calibration"


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, panel: SalesPanel) -> None:
    assert split_arm("lightgbm") == ("lightgbm", None)
    require_boosted()
    monkeypatch.setitem(sys.modules, "lightgbm", None)  # as if it were not there
    with pytest.raises(UsageError, match="lightgbm is not installed") as refused:
        boosted_forecast(panel, origins(panel, 4).test, 4)
    assert "trend-federated[benchmark]" in refused.value.hint
