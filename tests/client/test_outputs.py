"""The files that a retailer's other tools read."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from trend_client import outputs
from trend_client.backtest import Backtest, MethodResult
from trend_client.gate import CHOSEN, Choice, Gain
from trend_common.errors import UsageError
from trend_common.forecasts import LEVELS, Forecast
from trend_common.scoring import Actuals, Origins, Score

DATES = pd.date_range("2024-07-01", periods=2)
STATIC = pd.DataFrame({"store": ['Süd, "A"'], "product": ["Brötchen; klein"]}, index=["x"])


def forecast() -> Forecast:
    quantiles = np.tile(np.array(LEVELS) * 1234.56789, (1, 2, 1))
    return Forecast.repaired(["x"], DATES, quantiles, quantiles.mean(axis=-1))


def result() -> Backtest:
    score = Score(
        wape=0.1, wape_mean=0.1, mase=float("nan"), rmsse=1.0, rmse=1.0, sql=float("nan"), wql=0.1,
        coverage80=0.8, coverage90=0.9, series=1, dropped=1,
    )  # fmt: skip
    day = pd.Timestamp("2024-06-01")
    nothing = Gain("seasonal-naive", float("nan"), None, None, 0)
    return Backtest(
        "D", 2, Origins(day, day, day, (day,)), {CHOSEN: MethodResult(score, score, 0.5)}, "seasonal-naive",
        Choice("seasonal-naive", {"x": "seasonal-naive"}, ("seasonal-naive",), {}), nothing, nothing,
        "Kept.", 0, forecast(), Actuals(("x",), DATES.to_numpy(), np.ones((1, 2)), 0),
    )  # fmt: skip


def test_both_tables_hold_the_forecast(tmp_path: Path) -> None:
    csv, parquet = outputs.write_forecasts(tmp_path / "new", forecast(), STATIC)
    columns = [*("unique_id", "store", "product", "ds", "mean"), *(f"q{round(level * 100):02d}" for level in LEVELS)]
    for table in (pd.read_csv(csv, parse_dates=["ds"]), pd.read_parquet(parquet)):
        assert list(table.columns) == columns
        assert table["product"].tolist() == ["Brötchen; klein"] * 2
        assert table["store"].tolist() == ['Süd, "A"'] * 2
        assert table["ds"].tolist() == list(DATES)
        assert_allclose(table["q90"], 0.9 * 1234.56789, rtol=1e-5)
    assert "2024-07-01," in csv.read_text("utf-8"), "a date without a time of day"


def test_the_parquet_comes_back_exactly(tmp_path: Path) -> None:
    outputs.write_forecasts(tmp_path, forecast(), STATIC)
    again = outputs.read_forecasts(tmp_path)
    assert again.ids == ("x",)
    assert again.levels == LEVELS
    assert (again.quantiles == forecast().quantiles).all()


@pytest.mark.skipif(os.name == "nt", reason="POSIX modes")
def test_private_files_are_for_their_owner(tmp_path: Path) -> None:
    for path in (*outputs.write_forecasts(tmp_path, forecast(), STATIC), *outputs.write_backtest(tmp_path, result())):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_failed_write_leaves_the_last_good_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    csv, parquet = outputs.write_forecasts(tmp_path, forecast(), STATIC)
    before = csv.read_bytes(), parquet.read_bytes()

    def full(self: pd.DataFrame, path: Path, **_: object) -> None:
        Path(path).write_text("half")
        raise OSError("no space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    with pytest.raises(OSError, match="space"):
        outputs.write_forecasts(tmp_path, forecast(), STATIC)
    assert (csv.read_bytes(), parquet.read_bytes()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["forecasts.csv", "forecasts.parquet"]


def test_an_undefined_measure_is_null_and_empty(tmp_path: Path) -> None:
    json_path, csv = outputs.write_backtest(tmp_path, result())
    assert json.loads(json_path.read_text("utf-8"))["methods"][CHOSEN]["sql"] is None
    assert pd.read_csv(csv)["sql"].isna().all()


def test_a_missing_or_broken_forecast_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no forecast") as caught:
        outputs.read_forecasts(tmp_path)
    assert "trend-client forecast" in caught.value.hint
    (tmp_path / "forecasts.parquet").write_bytes(b"not parquet")
    with pytest.raises(UsageError, match="cannot be read"):
        outputs.read_forecasts(tmp_path)
