"""Sums fit: whatever the assortment, whatever was forecast, the parts add up to the whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from trend_client import totals
from trend_client.paths import past_ranks, sample_paths
from trend_client.totals import Sums, fitted, labels, parse_reconciliation, summed_panel
from trend_common.baselines import baseline_forecast
from trend_common.errors import UsageError
from trend_common.forecasts import LEVELS, Forecast
from trend_common.panel import SalesPanel
from trend_common.scoring import next_origin

H = 5


def assortment(rng: np.random.Generator, series: int) -> pd.DataFrame:
    static = pd.DataFrame(
        {
            "store": rng.choice(["north", "south", ""], series),
            "product": [f"p{number}" for number in rng.integers(0, 4, series)],
            "category": rng.choice(["bread", "cake", ""], series),
            "description": "",
        },
        index=[f"s{row}" for row in range(series)],
    )
    return static.rename_axis("unique_id")


def any_forecast(rng: np.random.Generator, ids: list[str]) -> Forecast:
    quantiles = np.sort(rng.gamma(1, 10, (len(ids), H, len(LEVELS))), axis=-1)
    mean = rng.gamma(1, 10, (len(ids), H))
    return Forecast.repaired(ids, pd.date_range("2024-06-01", periods=H), quantiles, mean)


def any_ranks(rng: np.random.Generator, series: int, paths: int) -> np.ndarray:
    order = np.argsort(rng.random((series, paths, H)), axis=1)
    return (np.argsort(order, axis=1) + 0.5) / paths


@given(st.integers(0, 100_000), st.integers(1, 20), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_a_sum_s_mean_is_the_sum_of_its_series_means(seed: int, series: int, pieces: int) -> None:
    rng = np.random.default_rng(seed)
    static, paths = assortment(rng, series), 20
    forecast = any_forecast(rng, list(static.index))
    sums = Sums(static, H, paths)
    for rows in np.array_split(np.arange(series), pieces):
        ids = [forecast.ids[row] for row in rows]
        if ids:
            sums.add(forecast.select(ids), any_ranks(rng, len(ids), paths))
    table = sums.frame()
    of_series = pd.DataFrame(forecast.mean, index=list(forecast.ids))
    assert_allclose(table[table["level"] == "total"]["mean"], of_series.sum(), rtol=1e-12)
    for (level, *keys), rows in table.groupby(["level", "store", "category", "product"], sort=False):
        named = {k: v for k, v in zip(("store", "category", "product"), keys, strict=True) if v}
        mine = np.logical_and.reduce([static[k] == v for k, v in named.items()]) if named else np.full(series, True)
        assert_allclose(rows["mean"], of_series[mine].sum(), rtol=1e-12, err_msg=str(level))
        assert (rows["series"] == mine.sum()).all()
    quantiles = table[[name for name in table if name[0] == "q"]].to_numpy()
    assert (np.diff(quantiles, axis=1) >= -1e-9).all()
    assert (quantiles >= 0).all()


def test_a_level_that_would_only_repeat_another_is_left_out() -> None:
    one_store = pd.DataFrame({"store": ["a"] * 3, "product": list("xyz"), "category": [""] * 3}, index=list("123"))
    assert list(labels(one_store)) == ["total"]
    two = pd.DataFrame({"store": list("aab"), "product": list("xyx"), "category": list("cdc")}, index=list("123"))
    assert list(labels(two)) == ["total", "store", "category", "store and category", "product"]


def moved_together(panel: SalesPanel, together: bool) -> SalesPanel:
    """All series with one common shock a week, or each with its own."""
    rng = np.random.default_rng(0)
    frame = panel.frame.copy()
    week = (frame["ds"] - frame["ds"].min()).dt.days // 7
    names = pd.factorize(frame["unique_id"])[0]
    shocks = rng.normal(0, 8, (week.max() + 1, names.max() + 1))
    frame["y"] = 50 + (shocks[week, 0] if together else shocks[week, names])
    return replace(panel, frame=frame)


def test_sums_of_series_that_move_together_are_less_sure(panel: SalesPanel) -> None:
    widths = {}
    for together in (True, False):
        ids, ranks = past_ranks(moved_together(panel, together), 7)
        quantiles = np.repeat(
            np.quantile(np.random.default_rng(1).normal(50, 8, 10_000), LEVELS)[None, None], 7, axis=1
        )
        forecast = Forecast.repaired(
            ids, pd.date_range("2024-06-01", periods=7), np.repeat(quantiles, 12, axis=0), np.full((12, 7), 50.0)
        )
        sums = Sums(panel.static, 7)
        sums.add(forecast, ranks)
        total = sums.frame().query("level == 'total'")
        widths[together] = float((total["q90"] - total["q10"]).mean())
    assert widths[True] > 2 * widths[False]
    assert widths[True] == pytest.approx(12 * 2 * 1.28 * 8, rel=0.2), "as if all were one"


def test_paths_keep_each_step_s_distribution(panel: SalesPanel) -> None:
    ids, ranks = past_ranks(panel, H, paths=50)
    assert ids == panel.ids
    assert_allclose(np.sort(ranks, axis=1), np.broadcast_to(((np.arange(50) + 0.5) / 50)[None, :, None], ranks.shape))
    forecast = any_forecast(np.random.default_rng(0), list(ids))
    paths = sample_paths(forecast, ranks)
    assert_allclose(np.quantile(paths, 0.5, axis=1), forecast.median, rtol=0.25, atol=1.0)
    assert (paths >= forecast.quantiles[..., 0][:, None] - 1e-9).all()
    assert (paths <= forecast.quantiles[..., -1][:, None] + 1e-9).all()


def test_a_panel_of_sums(panel: SalesPanel) -> None:
    frame = panel.frame.copy()
    first = frame.index[frame["unique_id"] == panel.ids[0]][3]
    frame.loc[first, "y"] = np.nan
    made = summed_panel(replace(panel, frame=frame))
    day = frame.loc[first, "ds"]
    store, product = panel.static.loc[panel.ids[0], ["store", "product"]]
    by = made.frame.set_index(["unique_id", "ds"])["y"]
    assert np.isnan(by[f"store/{store}", day]), "unknown in a part, unknown in the sum"
    assert np.isnan(by[f"product/{product}", day])
    other = panel.frame["ds"].iloc[10]
    assert by["total/total", other] == panel.frame.loc[panel.frame["ds"] == other, "y"].sum()


def test_mint_moves_series_so_that_they_fit_their_sums(panel: SalesPanel) -> None:
    """The sums know that sales double; the series do not."""

    def series(one: SalesPanel, origin: pd.Timestamp, horizon: int) -> Forecast:
        return baseline_forecast(["same-phase-mean"], one, origin, horizon)["same-phase-mean"]

    def doubled(one: SalesPanel, origin: pd.Timestamp, horizon: int) -> Forecast:
        found = series(one, origin, horizon)
        times = 2 if origin == next_origin(panel) else 1
        return Forecast(found.ids, found.ds, found.levels, found.quantiles * times, found.mean * times)

    bottom = series(panel, next_origin(panel), 7)
    (same, _), (more, _) = (fitted(panel, bottom, sums, series) for sums in (series, doubled))
    assert_allclose(same.mean, bottom.mean, atol=1e-6, err_msg="what fits already stays")
    assert more.mean.sum() > 1.05 * bottom.mean.sum()
    assert (np.diff(more.quantiles, axis=-1) >= -1e-9).all()
    assert (more.quantiles >= 0).all()


def average(one: SalesPanel, origin: pd.Timestamp, horizon: int) -> Forecast:
    return baseline_forecast(["same-phase-mean"], one, origin, horizon)["same-phase-mean"]


def test_mint_opens_no_closed_door(panel: SalesPanel) -> None:
    """Sums that expect twice as much move no series on a day on which a store is closed."""
    origin = next_origin(panel)
    closed = origin + pd.Timedelta(days=2)
    shut = replace(panel, shut={"s0": frozenset({closed})})

    def doubled(one: SalesPanel, day: pd.Timestamp, horizon: int) -> Forecast:
        found, times = average(one, day, horizon), 2 if day == origin else 1
        return Forecast(found.ids, found.ds, found.levels, found.quantiles * times, found.mean * times)

    bottom = average(shut, origin, 7)
    assert (bottom.mean[:6, 2] == 0).all(), "the store is closed on that day, or the test shows nothing"
    found, _ = fitted(shut, bottom, doubled, average)
    assert_allclose(found.mean[:, 2], bottom.mean[:, 2], atol=1e-6)
    assert found.mean[:, 3].sum() > 1.05 * bottom.mean[:, 3].sum()


@pytest.mark.parametrize("best", totals.METHODS)
def test_the_covariance_that_was_better_on_validation_is_kept(
    panel: SalesPanel, monkeypatch: pytest.MonkeyPatch, best: str
) -> None:
    used: list[tuple[str, int]] = []
    original = totals._reconciled

    def watched(matrix: np.ndarray, told: np.ndarray, errors: list[np.ndarray], method: totals.Method) -> np.ndarray:
        used.append((method, len(errors)))
        made = original(matrix, told, errors, method)
        assert_allclose(made, matrix @ made[-12:], atol=1e-6, err_msg="sums fit")
        return made if method == best else made + 50

    monkeypatch.setattr(totals, "_reconciled", watched)
    found, fit = fitted(panel, average(panel, next_origin(panel), 7), average, average)
    assert (fit.method, fit.windows, fit.reason) == (best, 3, "")
    assert used == [("wls_var", 2), ("mint_shrink", 2), (best, 3)], "compared on a window that neither has seen"
    assert fit.errors[fit.method] == min(fit.errors.values())
    assert ("with errors" in fit.sentence()) == (best == "mint_shrink")
    assert len(found) == 12


def test_errors_that_come_together_move_the_forecasts_otherwise(panel: SalesPanel) -> None:
    static = totals.labels(panel.static)
    nodes = list(summed_panel(panel).ids)
    matrix = totals._summing(static, nodes)
    rng = np.random.default_rng(0)
    told = matrix @ rng.gamma(2, 10, (12, 7)) + rng.normal(0, 9, (len(matrix), 7))
    errors = [rng.normal(0, 3, (len(matrix), 60)) + rng.normal(0, 20, (1, 60))]
    plain, together = (totals._reconciled(matrix, told, errors, method) for method in totals.METHODS)
    assert np.abs(plain - together).max() > 0.5


def test_where_nothing_can_be_compared_the_reason_is_said(panel: SalesPanel, monkeypatch: pytest.MonkeyPatch) -> None:
    short = panel.last_steps(60)
    _, fit = fitted(short, average(short, next_origin(short), 7), average, average)
    assert (fit.method, fit.windows, fit.errors) == ("wls_var", 3, fit.errors)
    short = panel.last_steps(50)
    _, fit = fitted(short, average(short, next_origin(short), 7), average, average)
    assert (fit.method, fit.windows, fit.errors) == ("wls_var", 1, {})
    assert "room for 2 past window(s)" in fit.sentence()
    monkeypatch.setattr(totals, "_MOST_TOGETHER", 20)
    _, fit = fitted(panel, average(panel, next_origin(panel), 7), average, average)
    assert "more than the 20" in fit.sentence()


def test_kinds_of_reconciliation() -> None:
    assert parse_reconciliation(None) is None
    assert parse_reconciliation("mint") == "mint"
    with pytest.raises(UsageError, match="--reconcile"):
        parse_reconciliation("top-down")
