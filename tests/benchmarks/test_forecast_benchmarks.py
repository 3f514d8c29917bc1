"""The benchmark of forecasts and the measure of promotions: they run, and say what they claim to say."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from trend_common.baselines import baseline_forecast
from trend_common.errors import DataError
from trend_common.panel import SalesPanel, from_frame

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def script(name: str) -> ModuleType:
    """A benchmark as a module."""
    found = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module  # dataclasses look their module up
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def forecasting() -> ModuleType:
    return script("forecasting")


@pytest.fixture(scope="module")
def promo_ratio() -> ModuleType:
    return script("promo_ratio")


def test_all_methods_forecast_the_same_window(
    forecasting: ModuleType, sales: pd.DataFrame, tiny_backbone: Path, tmp_path: Path
) -> None:
    file, target = tmp_path / "sales.csv", tmp_path / "out.json"
    sales.to_csv(file, index=False)
    options = ["--backbone", str(tiny_backbone), "--slow", "3", "--repeats", "1", "--json", str(target)]
    assert forecasting.main(["--data", str(file), *options]) == 0
    (found,) = json.loads(target.read_text("utf-8"))["results"]
    assert (found["history"], found["horizon"]) == (112, 28)
    rows = {row["model"]: row for row in found["methods"]}
    assert rows.keys() == {
        *(f"{tiny_backbone} ({engine})" for engine in ("torch", "int8")),
        *("seasonal-naive", "auto-ets", "auto-theta"),
    }
    assert [rows[name]["series"] for name in ("seasonal-naive", "auto-ets")] == [12, 3]
    assert all(row["per_second"] > 0 and row["sql"] > 0 for row in rows.values())


def test_statsforecast_and_our_seasonal_naive_agree(forecasting: ModuleType, panel: SalesPanel) -> None:
    origin = panel.end - pd.Timedelta(days=27)
    theirs = forecasting.statsforecast_naive(panel, origin, 28)
    ours = baseline_forecast(["seasonal-naive"], panel, origin, 28)["seasonal-naive"]
    assert theirs.ids == ours.ids
    np.testing.assert_allclose(theirs.median, ours.median, rtol=1e-5)
    assert (theirs.quantiles.max(axis=-1) > theirs.median).all()


def test_the_ratio_is_taken_at_equal_weekday(promo_ratio: ModuleType) -> None:
    """Promotions double sales; they fall on strong days, which a ratio of plain means would count in."""
    phase = np.tile(np.arange(7), 100)
    promoted = (phase >= 4) & (np.arange(700) % 2 == 0) | (phase == 3)
    values = np.where(phase >= 4, 50.0, 5.0) * np.where(promoted, 2.0, 1.0)
    assert promo_ratio.ratio(values, promoted, phase) == pytest.approx(2.0)
    assert values[promoted].mean() / values[~promoted].mean() > 3
    assert np.isnan(promo_ratio.ratio(values[:21], promoted[:21], phase[:21]))


def test_the_predicted_ratio_of_a_clear_promotion_is_that_observed(promo_ratio: ModuleType) -> None:
    from trend_common.backbones import load_backbone

    rng, dates = np.random.default_rng(0), pd.date_range("2023-01-01", periods=364)
    rows = []
    for store in range(8):
        promo = (rng.random(364) < 0.3).astype(float)
        level = 60 * (1 + 0.5 * (dates.weekday >= 5)) * (1 + 0.6 * promo)
        rows.append(
            pd.DataFrame(
                {"date": dates, "store": f"s{store}", "product": "p", "units": rng.poisson(level), "promo": promo}
            )
        )
    found = promo_ratio.measure(from_frame(pd.concat(rows)), load_backbone("trend-small"), 2)
    assert found["observed"] == pytest.approx(1.6, abs=0.05)
    assert abs(found["off_by"]) < 0.1
    assert found["flipped"] == pytest.approx(1.6, abs=0.2)


def test_a_file_without_promotions_is_named(promo_ratio: ModuleType, sales: pd.DataFrame) -> None:
    with pytest.raises(DataError, match="no column of promotions"):
        promo_ratio.measure(from_frame(sales.drop(columns="promo")), None, 1)
