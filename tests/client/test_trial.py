"""A slow method is tried on a sample first: when it is run on all, when it is left out, and what is said of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trend_client.backtest import Backtest, Forecaster, backtest
from trend_client.commands.scores import show_backtest
from trend_client.gate import CHOSEN, Window
from trend_client.outcome import combined
from trend_client.report import ReportData, render_report
from trend_client.trial import Tryout, judge, sampled
from trend_common.forecasts import LEVELS, Forecast
from trend_common.metrics import SeasonalError
from trend_common.panel import SalesPanel
from trend_common.scoring import next_origin

SERIES, HORIZON = 40, 7
TRYOUT = Tryout(("slow",), series=12, above={"D": 20, "W": 20, "M": 20})
OLD = ("old", "slow")

Miss = Mapping[str, float] | float


def retailer(series: int = SERIES, days: int = 70, seed: int = 0) -> SalesPanel:
    rng = np.random.default_rng(seed)
    dates = pd.date_range(end="2024-06-30", periods=days)
    ids = [f"s/p{row:02d}" for row in range(series)]
    y = rng.poisson(30, (series, days)).astype(float)
    frame = pd.DataFrame(
        {"unique_id": np.repeat(ids, days), "ds": np.tile(dates, series), "y": y.reshape(-1), "closed": False}
    )
    static = pd.DataFrame({"store": "s", "product": [name[2:] for name in ids]}, index=ids)
    static = static.assign(category="", description="")
    return SalesPanel("Shop", "D", "D", frame, frame.loc[[], ["unique_id", "ds"]], static, {}, (), len(frame))


class Method:
    """Misses the truth of every series by a given amount, and remembers for which series it was asked."""

    def __init__(self, truth: SalesPanel, miss: Miss) -> None:
        self.values = truth.frame.set_index(["unique_id", "ds"])["y"]
        self.miss = miss
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, panel: SalesPanel, origin: pd.Timestamp, horizon: int) -> Forecast:
        self.asked.append(panel.ids)
        dates = pd.date_range(origin, periods=horizon)
        wanted = pd.MultiIndex.from_product([panel.ids, dates])
        mean = self.values.reindex(wanted).fillna(0.0).to_numpy().reshape(len(panel.ids), horizon)
        amounts = [self.miss if isinstance(self.miss, float) else self.miss[name] for name in panel.ids]
        mean = mean + np.array(amounts)[:, None]
        return Forecast.repaired(panel.ids, dates, np.repeat(mean[..., None], len(LEVELS), axis=-1), mean)


def contest(panel: SalesPanel, misses: Mapping[str, Miss], tryout: Tryout | None = TRYOUT) -> Backtest:
    methods: dict[str, Forecaster] = {name: Method(panel, miss) for name, miss in misses.items()}
    return backtest(panel, HORIZON, methods, incumbents=[name for name in OLD if name in methods], tryout=tryout)


def noisy(panel: SalesPanel, level: float, seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    return {name: float(level * rng.gamma(4, 0.25)) for name in panel.ids}


def test_a_clearly_worse_method_is_left_out_and_forecasts_the_sample_alone() -> None:
    panel = retailer()
    slow = Method(panel, 9.0)
    methods: dict[str, Forecaster] = {"old": Method(panel, 4.0), "slow": slow, "new": Method(panel, 2.0)}
    result = backtest(panel, HORIZON, methods, incumbents=OLD, tryout=TRYOUT)
    sample = sampled(panel.ids, 12)
    assert set(slow.asked) == {sample}, "validation and test, the sampled series each time"
    assert result.left_out == ("slow",)
    assert list(result.methods) == ["old", "new", CHOSEN]
    assert "slow" not in result.choice.ranking
    assert result.old == "old"
    (trial,) = result.trials
    assert (trial.series, trial.of, trial.competitive) == (12, SERIES, False)
    assert trial.gain.against == "old"


def test_what_was_left_out_stands_beside_the_others_on_the_same_series() -> None:
    panel = retailer()
    result = contest(panel, {"old": 4.0, "slow": 9.0, "new": 2.0})
    assert list(result.sample) == ["old", "slow", "new", CHOSEN]
    for window in ("validation", "test"):
        counts = {name: getattr(one, window)["series"] for name, one in result.sample.items()}
        assert set(counts.values()) == {12}
        assert {getattr(one, window)["series"] for one in result.methods.values()} == {SERIES}
    alone = contest(panel.select(sampled(panel.ids, 12)), {"old": 4.0, "slow": 9.0, "new": 2.0}, None)
    assert result.sample["slow"].test["sql"] == pytest.approx(alone.methods["slow"].test["sql"])
    assert result.sample["old"].test["sql"] == pytest.approx(alone.methods["old"].test["sql"])


def test_the_table_the_json_and_the_verdict_say_so() -> None:
    result = contest(retailer(), {"old": 4.0, "slow": 9.0, "new": 2.0})
    found = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert {name: one["on"] for name, one in found["methods"].items()} == {
        "old": "all", "new": "all", CHOSEN: "all", "slow": "sample"
    }  # fmt: skip
    assert found["methods"]["slow"]["series"] == 12
    assert set(found["sample"]) == {"old", "slow", "new", CHOSEN}
    assert found["trials"]["slow"]["run_on_all"] is False
    assert found["trials"]["slow"]["of"] == SERIES
    assert "slow was first tried on a sample of 12 of 40 series. Its error there was 125 % higher" in result.verdict
    table = result.table()
    assert set(table.loc[table["method"] == "slow", "on"]) == {"sample"}
    assert (table.groupby(["window", "on"])["series"].nunique() == 1).all()


def test_a_slow_method_that_is_best_is_used_for_all() -> None:
    panel = retailer()
    slow = Method(panel, 1.0)
    methods: dict[str, Forecaster] = {"old": Method(panel, 4.0), "slow": slow, "new": Method(panel, 2.0)}
    result = backtest(panel, HORIZON, methods, incumbents=OLD, tryout=TRYOUT)
    assert result.choice.counts == {"slow": SERIES}
    assert result.old == "slow"
    assert result.left_out == ()
    assert [one.competitive for one in result.trials] == [True]
    assert [len(ids) for ids in slow.asked] == [12, SERIES - 12, SERIES], "nothing is forecast twice"
    assert "first tried" not in result.verdict


def test_a_method_that_joins_makes_the_backtest_that_would_have_been_made_without_a_sample() -> None:
    panel = retailer()
    for level in (1.0, 3.8, 4.1):
        misses = {
            name: noisy(panel, amount, seed)
            for seed, (name, amount) in enumerate({"old": 4.0, "slow": level, "new": 3.9}.items())
        }
        tried, full = contest(panel, misses), contest(panel, misses, None)
        assert tried.trials[0].competitive
        assert tried.choice == full.choice
        assert list(tried.methods) == list(full.methods)
        for name, one in full.methods.items():
            assert (tried.methods[name].validation, tried.methods[name].test) == (one.validation, one.test)


def test_where_the_sample_cannot_tell_the_method_is_run_on_all() -> None:
    panel = retailer()
    mixed = {name: 1.0 if place % 2 else 7.4 for place, name in enumerate(sampled(panel.ids, 12))}
    result = contest(panel, {"old": 4.0, "slow": {**dict.fromkeys(panel.ids, 4.0), **mixed}, "new": 0.5})
    assert result.trials[0].gain.relative < 0
    assert result.trials[0].gain.outcome == "unclear"
    assert result.trials[0].share == 0
    assert result.left_out == ()


def test_a_worse_method_that_suits_some_series_is_run_on_all() -> None:
    panel = retailer()
    few = sampled(panel.ids, 12)[:2]
    slow = {name: 0.01 if name in few else 9.0 for name in panel.ids}
    result = contest(panel, {"old": 4.0, "slow": slow})
    assert result.trials[0].gain.outcome == "worse"
    assert result.trials[0].share == pytest.approx(2 / 12)
    assert result.choice.counts["slow"] == 2


def test_a_method_that_beats_the_choice_on_the_sample_is_run_on_all() -> None:
    """The choice suits all series and not the sampled ones: there the slow method would have been better."""
    count = 12
    y = np.full((count, 4), 10.0)
    dates = pd.date_range("2024-01-01", periods=4)

    def sure(miss: float) -> Forecast:
        mean = y + miss
        ids = [f"s{row}" for row in range(count)]
        return Forecast.repaired(ids, dates, np.repeat(mean[..., None], len(LEVELS), axis=-1), mean)

    scale = SeasonalError(np.ones(count), np.ones(count))
    window = {"old": sure(1.0), "new": sure(0.9), "slow": sure(2.0)}
    for chosen, run_on_all in ((2.5, True), (1.5, False)):
        found = judge("slow", [Window(y, {**window, CHOSEN: sure(chosen)})], scale, incumbents=["old"], of=40)
        assert found.gain.outcome == "worse"
        assert found.competitive is run_on_all


@given(st.integers(0, 10_000), st.floats(0.5, 2.5))
@settings(max_examples=25, deadline=None)
def test_the_choice_is_never_worse_on_validation_than_the_old_methods_where_they_were_tried(
    seed: int, level: float
) -> None:
    panel = retailer(seed=seed)
    misses = {
        "old": noisy(panel, 4.0, seed),
        "slow": noisy(panel, 4.0 * level, seed + 1),
        "new": noisy(panel, 4.0, 7),
    }
    result = contest(panel, misses)
    for table in (result.methods, result.sample):
        for name in OLD:
            if name in table and (table is result.methods or name in result.left_out):
                assert table[CHOSEN].validation["sql"] <= table[name].validation["sql"] * (1 + 1e-9)
    assert result.left_out or list(result.methods) == ["old", "slow", "new", CHOSEN]


def test_with_few_series_or_no_other_old_method_nothing_is_tried_first() -> None:
    few = contest(retailer(series=20), {"old": 4.0, "slow": 9.0})
    assert (few.trials, few.sample) == ((), {})
    assert "slow" in few.methods
    only = contest(retailer(), {"slow": 9.0, "new": 2.0})
    assert only.trials == ()
    assert only.old == "slow"


def test_the_sample_is_the_same_whatever_the_order_and_the_sales() -> None:
    names = [f"s/p{row}" for row in range(500)]
    drawn = sampled(names, 150)
    assert len(drawn) == 150
    assert set(sampled(names[::-1], 150)) == set(drawn)
    assert list(drawn) == [name for name in names if name in set(drawn)]
    assert set(sampled([name for name in names if name != drawn[0]], 150)) >= set(drawn[1:])
    assert sampled(names[:3], 150) == tuple(names[:3])
    # No part of the names is preferred: a share of each hundred.
    assert all(
        15 <= sum(name in set(names[start : start + 100]) for name in drawn) <= 45 for start in range(0, 500, 100)
    )


def test_a_slow_method_forecasts_no_series_but_its_own() -> None:
    panel = retailer(series=30)
    some = sampled(panel.ids, 4)
    ets, old = Method(panel, {name: 0.01 if name in some else 9.0 for name in panel.ids}), Method(panel, 4.0)
    methods: dict[str, Forecaster] = {"old": old, "auto-ets": ets}
    choice = backtest(panel, HORIZON, methods, incumbents=["old"]).choice
    ets.asked.clear()
    made = combined(choice, methods, panel, next_origin(panel), HORIZON)
    assert ets.asked == [some]
    assert set(made.ids) == set(panel.ids)


def test_the_report_and_the_screen_keep_the_sample_in_a_table_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    panel = retailer()
    result = contest(panel, {"seasonal-naive": 4.0, "slow": 9.0, "shared": 2.0, "old": 5.0})
    html = render_report(ReportData(panel, result.forecast, datetime(2024, 7, 1), result))
    first, second = re.findall(r"<table class=\"methods\">.*?</table>", html, flags=re.DOTALL)
    assert ">slow<" not in first
    assert re.search(r">slow<span class=\"tag\">not run on all</span>", second)
    assert "a sample of 12 series" in second
    assert all(">Shared model<" in table for table in (first, second))
    show_backtest(result)
    shown = capsys.readouterr().out
    above, below = shown.split("On a sample of 12 series alone")
    assert "slow" not in above
    assert "slow (not run on all)" in below
    unsampled = contest(panel, {"old": 4.0, "shared": 2.0})
    html = render_report(ReportData(panel, unsampled.forecast, datetime(2024, 7, 1), unsampled))
    assert len(re.findall(r"<table class=\"methods\">", html)) == 1
