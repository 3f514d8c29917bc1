"""The advice: what a retailer's own sales and public facts say, and that nothing is claimed that was not measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from trend_client.advise import ONE_SIDED, Facts, Measurements, advise, measure
from trend_client.cli import app
from trend_client.gate import Gain
from trend_client.outcome import Model
from trend_common.errors import DataError, UsageError
from trend_common.forecasts import LEVELS, Forecast
from trend_common.panel import SalesPanel
from trend_common.scoring import actuals, future_dates

FACTS = Facts(retailers=100, series=200, epsilon=4, delta=1e-5, rounds=10)
UNKNOWN = Gain("zero-shot", 0.0, -0.01, 0.01, 50)


def better(low: float, high: float) -> Gain:
    return Gain("zero-shot", (low + high) / 2, low, high, 50)


def advised(**given: object) -> str:
    measured = Measurements(UNKNOWN, given.pop("shared", None), given.pop("personal", None))  # type: ignore[arg-type]
    settings = {"units": 100, "min_units": 20, "facts": FACTS, "remaining": 8.0, **given}
    return advise(measured, **settings).recommendation  # type: ignore[arg-type]


def test_few_series_never_train() -> None:
    assert advised(units=19) == "adapter-only"
    assert advised(units=20) == "train"


def test_after_a_federation_the_own_sales_decide() -> None:
    assert advised(shared=better(0.01, 0.05)) == "train"
    assert advised(shared=better(-0.01, 0.05)) == "adapter-only"
    assert advised(shared=better(-0.05, -0.01)) == "alone"


def test_before_it_nothing_is_promised_without_facts() -> None:
    assert advised(facts=None) == "adapter-only"


def test_too_much_noise_is_said() -> None:
    crowd = Facts(retailers=3, series=20, epsilon=0.5, delta=1e-5, rounds=50)
    found = advise(Measurements(UNKNOWN, None, None), units=100, min_units=20, facts=crowd, remaining=8.0)
    assert found.recommendation == "adapter-only"
    assert found.outlook is not None
    assert found.outlook.s == pytest.approx(crowd.noise_share)


def test_who_gains_more_alone_stays_alone() -> None:
    assert advised(personal=better(0.2, 0.3)) == "alone"
    assert advised(personal=better(-0.1, 0.3)) == "train"


def test_a_spent_budget_is_no_budget() -> None:
    assert advised(remaining=3.9) == "adapter-only"
    assert advised(remaining=4.0) == "train"


@given(st.integers(1, 500), st.integers(1, 5000), st.floats(0.1, 20), st.integers(1, 100))
def test_nobody_is_sent_to_train_where_no_gain_can_be_told_from_chance(n: int, size: int, eps: float, t: int) -> None:
    facts = Facts(retailers=n, series=size, epsilon=eps, delta=1e-5, rounds=t)
    found = advise(Measurements(UNKNOWN, None, None), units=100, min_units=20, facts=facts, remaining=100.0)
    assert found.outlook is not None
    assert (found.recommendation == "train") == (found.outlook.gain > ONE_SIDED * found.outlook.error)
    json.dumps(found.to_json(), allow_nan=False)


class Known:
    """Forecasts the truth times a factor, with a spread."""

    def __init__(self, panel: SalesPanel, factor: float) -> None:
        self.panel, self.factor = panel, factor
        self.origins: list[pd.Timestamp] = []

    def __call__(self, known: SalesPanel, origin: pd.Timestamp, horizon: int) -> Forecast:
        assert known.end < origin
        self.origins.append(origin)
        truth = actuals(self.panel, origin, horizon)
        middle = np.nan_to_num(truth.y) * self.factor
        spread = 1 + 0.2 * (np.asarray(LEVELS) - 0.5)
        dates = np.tile(future_dates(self.panel, origin, horizon).to_numpy(), (len(truth.ids), 1))
        return Forecast(truth.ids, dates, LEVELS, middle[..., None] * spread, middle)


def test_each_method_is_scored_where_it_has_not_looked(panel: SalesPanel) -> None:
    methods = {
        "seasonal-naive": Known(panel, 2.0),
        "same-phase-mean": Known(panel, 1.6),
        "zero-shot": Known(panel, 1.3),
        "shared": Known(panel, 1.1),
        "personal": Known(panel, 1.4),
    }
    found = measure(panel, Model("local", 7, 56, {}), methods)
    assert found.zero_shot.against == "same-phase-mean"
    assert found.zero_shot.outcome == "better"
    assert found.shared is not None
    assert found.shared.outcome == "better"
    assert found.personal is not None
    assert found.personal.outcome == "worse"
    assert len(set(methods["shared"].origins)) == 2


def test_without_sales_to_compare_on_it_says_so(panel: SalesPanel) -> None:
    methods = {name: Known(panel, 1.0) for name in ("seasonal-naive", "same-phase-mean", "zero-shot")}
    with pytest.raises(DataError):
        measure(panel, Model("local", 400, 56, {}), methods)


def test_the_command(sales: pd.DataFrame, tiny_backbone: Path, tmp_path: Path) -> None:
    out, path = tmp_path / "advice.json", tmp_path / "sales.csv"
    sales.to_csv(path, index=False)
    arguments = ["--data", str(path), "--home", str(tmp_path / "home"), "--backbone", str(tiny_backbone)]
    done = CliRunner().invoke(app, ["advise", *arguments, "--retailers", "30", "--json", str(out)])
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())
    assert found["recommendation"] in ("alone", "adapter-only", "train")
    assert found["expected"]["noise_share"] > 0
    wrong = CliRunner().invoke(app, ["advise", *arguments, "--epsilon", "0"])
    assert isinstance(wrong.exception, UsageError)
