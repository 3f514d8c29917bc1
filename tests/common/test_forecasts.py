"""A forecast that is malformed must not come into being: every table, plot and score trusts it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal

from trend_common.forecasts import LEVELS, Forecast, choose_rows, level_name

DATES = np.array(["2024-01-01", "2024-01-02"], dtype="datetime64[ns]")


def forecast(ids: tuple[str, ...] = ("a/x", "b/y"), base: float = 10.0) -> Forecast:
    quantiles = np.array(LEVELS) * base + np.arange(len(ids) * 2).reshape(len(ids), 2, 1)
    return Forecast.repaired(ids, DATES, quantiles, quantiles.mean(axis=-1))


def test_the_columns_are_the_ones_every_tool_reads() -> None:
    static = pd.DataFrame({"store": ["a"], "product": ["x"]}, index=["a/x"])
    table = forecast().to_frame(static)
    assert list(table.columns) == [
        *("unique_id", "store", "product", "ds", "mean", "q01", "q05", "q10", "q20"),
        *("q30", "q40", "q50", "q60", "q70", "q80", "q90", "q95", "q99"),
    ]
    assert table["store"].tolist() == ["a", "a", "", ""], "a series without a static row is described by nothing"
    assert_allclose(table["q90"].iloc[1], 0.9 * 10 + 1)


def test_a_table_comes_back_as_the_same_forecast_whatever_its_row_order() -> None:
    original = forecast(("z", "a", "m"))
    table = original.to_frame(pd.DataFrame(columns=["store", "product"]))
    shuffled = pd.concat([table.iloc[[0]], table.iloc[1:].sample(frac=1, random_state=0)])
    again = Forecast.from_frame(shuffled).select(original.ids)
    assert again.levels == original.levels
    assert_array_equal(again.ds, original.ds)
    assert_allclose(again.quantiles, original.quantiles)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"ids": ("a", "a")}, "ids"),
        ({"ids": ("a",)}, "ds"),
        ({"levels": (0.5, 0.1)}, "levels"),
        ({"levels": (0.0, 0.5)}, "levels"),
        ({"mean": np.zeros((2, 3))}, "mean"),
        ({"quantiles": np.zeros((2, 2, 3))}, "quantiles"),
        ({"quantiles": np.array([[[2.0, 1.0]] * 2] * 2)}, "crossing"),
        ({"quantiles": np.full((2, 2, 2), np.nan)}, "not finite"),
        ({"mean": np.full((2, 2), np.inf)}, "not finite"),
        ({"ds": np.array([DATES, DATES[::-1]])}, "ascending"),
        ({"ds": np.full((2, 2), np.datetime64("NaT", "ns"))}, "missing"),
    ],
)
def test_a_malformed_forecast_is_refused_and_the_field_named(change: dict[str, object], named: str) -> None:
    good: dict[str, object] = {
        "ids": ("a", "b"),
        "ds": np.array([DATES, DATES]),
        "levels": (0.1, 0.5),
        "quantiles": np.array([[[1.0, 2.0]] * 2] * 2),
        "mean": np.ones((2, 2)),
    }
    Forecast(**good)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=named):
        Forecast(**{**good, **change})  # type: ignore[arg-type]


@given(arrays(np.float64, (2, 2, len(LEVELS)), elements=st.floats(-1e6, 1e6)))
def test_repair_makes_any_finite_output_a_forecast_of_sales(raw: np.ndarray) -> None:
    repaired = Forecast.repaired(("a", "b"), DATES, raw, raw.mean(axis=-1))
    assert (np.diff(repaired.quantiles, axis=-1) >= 0).all()
    assert repaired.quantiles.min() >= 0
    assert repaired.mean.min() >= 0


def test_repair_keeps_negatives_where_they_mean_something() -> None:
    raw = np.full((1, 2, len(LEVELS)), -3.0)
    assert Forecast.repaired(("a",), DATES, raw, raw[..., 0], non_negative=False).mean.min() == -3


def test_a_quantile_between_two_levels_is_interpolated_and_outside_refused() -> None:
    some = forecast(("a",), base=100.0)
    assert_allclose(some.quantile(0.25)[0], [25, 26])
    low, high = some.interval(0.5)
    assert_allclose(high - low, 50)
    with pytest.raises(ValueError, match="outside"):
        some.quantile(0.005)


def test_select_takes_rows_by_name_and_names_a_missing_one() -> None:
    some = forecast(("a", "b", "c"))
    assert_allclose(some.select(["c", "a"]).mean, some.mean[[2, 0]])
    with pytest.raises(ValueError, match="'nobody'"):
        some.select(["a", "nobody"])


def test_rows_are_chosen_from_the_right_method_in_the_order_asked() -> None:
    low, high = forecast(("a", "b", "c"), 1.0), forecast(("a", "b", "c"), 100.0)
    mixed = choose_rows({"low": low, "high": high}, {"c": "low", "a": "high"})
    assert mixed.ids == ("c", "a")
    assert_allclose(mixed.mean, [low.mean[2], high.mean[0]])
    with pytest.raises(ValueError, match="'neither'"):
        choose_rows({"low": low}, {"a": "neither"})


def test_level_names() -> None:
    assert [level_name(level) for level in (0.05, 0.1, 0.5, 0.95)] == ["q05", "q10", "q50", "q95"]
