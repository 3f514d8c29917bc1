"""The functions for notebooks are the commands' own, and the example of the documentation runs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from trend_client import api
from trend_client.finetune import FineTuneSettings
from trend_common.errors import UsageError

DOCS = Path(__file__).resolve().parents[2] / "docs" / "forecasts.md"


def long_frame(series: int = 4, days: int = 120) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    dates = pd.date_range("2024-01-01", periods=days)
    parts = []
    for row in range(series):
        promo = (rng.random(days) < 0.15).astype(float)
        y = rng.poisson((10 + 5 * row) * (1 + 0.3 * (dates.dayofweek >= 5)) * (1 + promo))
        parts.append(pd.DataFrame({"unique_id": f"shop/p{row}", "ds": dates, "y": y, "promo": promo}))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def fitted(tiny_backbone: Path) -> api.Fitted:
    settings = FineTuneSettings(steps=2, look_every=1)
    return api.fit(long_frame(), horizon=7, settings=settings, backbone=str(tiny_backbone))


def test_a_frame_becomes_a_forecast(fitted: api.Fitted) -> None:
    made = api.predict(fitted)
    assert list(made.columns[:5]) == ["unique_id", "store", "product", "ds", "mean"]
    assert len(made) == 4 * 7
    assert made["ds"].min() == pd.Timestamp("2024-04-30")
    assert fitted.backtest is not None
    assert set(fitted.backtest.scored_on) >= {"zero-shot", "personal", "auto-ets", "croston"}
    assert fitted.backtest.scored_on["personal"] == 1, "it was trained on the sales of the others"
    assert fitted.backtest.scored_on["zero-shot"] == 4


def test_plans_reach_the_model_and_strangers_do_not(fitted: api.Fitted) -> None:
    dates = pd.date_range("2024-04-30", periods=7)
    plan = pd.DataFrame({"unique_id": "shop/p1", "ds": dates, "promo": 1.0})
    changed = api.predict(fitted, plan).set_index("unique_id")["mean"]
    before = api.predict(fitted).set_index("unique_id")["mean"]
    assert not np.allclose(changed["shop/p1"], before["shop/p1"])
    assert np.allclose(changed["shop/p2"], before["shop/p2"])
    with pytest.raises(UsageError, match="'nobody'"):
        api.predict(fitted, plan.assign(unique_id="nobody"))
    with pytest.raises(UsageError, match="columns"):
        api.predict(fitted, plan[["unique_id", "ds"]])


def test_too_little_history_is_forecast_without_a_backtest(tiny_backbone: Path) -> None:
    fitted = api.fit(long_frame(days=30), horizon=7, backbone=str(tiny_backbone))
    assert fitted.backtest is None
    assert len(api.predict(fitted)) == 4 * 7


def test_the_example_of_the_documentation_runs(tiny_backbone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = re.search(r"```python\n(.*?)```", DOCS.read_text("utf-8"), flags=re.DOTALL)
    assert found is not None
    code = found[1].replace("api.fit(sales, ", f'api.fit(sales, backbone="{tiny_backbone.as_posix()}", ')
    code = code.replace("api.backtest(sales, ", f'api.backtest(sales, backbone="{tiny_backbone.as_posix()}", ')
    assert code.count("tiny") == 2
    scope: dict[str, object] = {}
    exec(compile(code, str(DOCS), "exec"), scope)
    made = scope["forecast"]
    assert isinstance(made, pd.DataFrame)
    assert len(made)
    assert "%" in capsys.readouterr().out
