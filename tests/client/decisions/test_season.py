"""Seasons: the shortest run that holds them, orders before them, sell-through."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from trend_client.decisions.season import by_week, season_of, shortest_runs
from trend_common.errors import DataError, UsageError
from trend_common.panel import from_frame

WEEKS = pd.date_range("2024-01-01", periods=52, freq="W-MON").to_numpy()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=2, max_size=30), st.floats(0.1, 0.95))
def test_a_run_holds_the_share_and_no_shorter_one_does(values: list[float], share: float) -> None:
    path = np.array([values])
    (start,), (length,) = shortest_runs(path, share)
    total = path.sum()
    if total > 0:
        assert path[0, start : start + length].sum() >= share * total * (1 - 1e-9) - 1e-6
        for shorter in range(1, length):
            sums = np.convolve(path[0], np.ones(shorter), mode="valid")
            assert sums.max() < share * total + 1e-6
    else:
        assert (start, length) == (0, len(values))


def bump(centre: int, width: float, noise: float = 0.1) -> np.ndarray:
    rng = np.random.default_rng(0)
    steps = np.arange(52)
    shape = 5 + 200 * np.exp(-((steps - centre) ** 2) / (2 * width**2))
    return shape * np.exp(noise * rng.standard_normal((256, 52)) + 0.2 * rng.standard_normal((256, 1)))


def test_a_bump_is_a_season_with_its_peak_and_even_sales_are_none() -> None:
    found = season_of("ice", bump(30, 4), WEEKS, target=0.8, pack=10, freq="W")
    assert found.seasonal
    assert not found.running
    assert abs(pd.Timestamp(found.peak[1]) - pd.Timestamp(WEEKS[30])) <= pd.Timedelta(weeks=1)
    assert found.start[0] <= found.start[1] <= found.start[2] < found.peak[1] < found.end[1]
    assert found.total[0] < found.total[1] < found.total[2]
    assert found.order % 10 == 0
    assert found.total[1] < found.order < found.total[2]
    shares = [mean for _, _, mean, _ in found.sell_through]
    assert shares == sorted(shares)
    assert all(low <= mean + 1e-9 and mean <= high + 1e-9 <= 1 + 1e-6 for _, low, mean, high in found.sell_through)
    even = season_of("bread", bump(30, 1e6), WEEKS, target=0.8, pack=1, freq="W")
    assert not even.seasonal
    assert season_of("now", bump(2, 4), WEEKS, target=0.8, pack=1, freq="W").running
    none = season_of("gone", np.zeros((64, 52)), WEEKS, target=0.8, pack=1, freq="W")
    assert (none.seasonal, none.order) == (False, 0)


def test_a_higher_target_buys_more_and_misses_less() -> None:
    low, high = (season_of("ice", bump(30, 4), WEEKS, target=level, pack=1, freq="W") for level in (0.5, 0.9))
    assert high.order > low.order
    assert high.missed < low.missed
    assert high.leftover > low.leftover


def test_days_are_summed_to_whole_weeks_over_stores(sales: pd.DataFrame) -> None:
    days = pd.date_range("2023-01-04", "2024-03-19")
    rows = [
        pd.DataFrame({"date": days, "store": store, "product": "p", "category": "c", "units": 2}) for store in "ab"
    ]
    weekly = by_week(from_frame(pd.concat(rows)), "product")
    assert (weekly.freq, weekly.n_series) == ("W", 1)
    assert set(weekly.frame["y"]) == {28.0}
    assert (weekly.start, weekly.end) == (pd.Timestamp("2023-01-09"), pd.Timestamp("2024-03-11"))
    with pytest.raises(DataError, match="20 whole weeks"):
        by_week(from_frame(sales), "product")
    with pytest.raises(UsageError):
        by_week(from_frame(pd.concat(rows)), "shelf")
    with pytest.raises(UsageError, match="no categories"):
        by_week(from_frame(pd.concat(rows).drop(columns="category")), "category")


def test_the_command(tiny_backbone: Path, tmp_path: Path) -> None:
    from trend_client.cli import app

    days = pd.date_range("2022-01-03", "2024-03-31")
    year = 2 * np.pi * days.dayofyear.to_numpy() / 365
    rows = [
        pd.DataFrame(
            {"date": days, "store": "s", "product": name, "units": np.round(50 + size * np.cos(year)).astype(int)}
        )
        for name, size in (("warm", 45), ("even", 0))
    ]
    pd.concat(rows).to_csv(tmp_path / "sales.csv", index=False)
    out = tmp_path / "out.json"
    common = ["--home", str(tmp_path / "home"), "--backbone", str(tiny_backbone), "--json", str(out)]
    given = ["season", "--price", "5", "--cost", "3", "--salvage", "1", "--pack", "12"]
    done = CliRunner().invoke(app, [*given, "--data", str(tmp_path / "sales.csv"), *common])
    assert done.exit_code == 0, done.output
    body = json.loads(out.read_text())
    assert {one["name"] for one in body["seasons"]} == {"warm", "even"}
    assert all(one["target"] == 0.5 and one["order"] % 12 == 0 for one in body["seasons"])
    done = CliRunner().invoke(app, ["season", "--name", "even", "--name", "warm", *common])
    seasonal = [one["seasonal"] for one in json.loads(out.read_text())["seasons"]]
    assert done.output.count(" bought before, sold by") == sum(seasonal)
    assert ("No season: three fifths" in done.output) == (sum(seasonal) < 2)
    done = CliRunner().invoke(app, ["season", "--name", "warn", *common])
    assert isinstance(done.exception, UsageError)
    assert "'warm'" in done.exception.hint
