"""The calendar cut is the promise that no figure was made with data it is judged on."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from trend_common import scoring
from trend_common.errors import DataError
from trend_common.forecasts import LEVELS, Forecast
from trend_common.metrics import SeasonalError
from trend_common.panel import SalesPanel
from trend_common.scoring import _from_the_end


def panel_of(
    series: dict[str, tuple[str, list[float]]], *, freq: str = "D", offset: str = "D", **extra: float
) -> SalesPanel:
    """A panel of {id: (first step, values)}; ``extra`` adds constant columns."""
    parts = []
    for name, (start, values) in series.items():
        dates = pd.date_range(start, periods=len(values), freq=offset)
        parts.append(pd.DataFrame({"unique_id": name, "ds": dates, "y": values, "closed": False, **extra}))
    frame = pd.concat(parts, ignore_index=True)
    static = pd.DataFrame(
        {"store": "s", "product": list(series), "category": "", "description": ""}, index=list(series)
    )
    static.index.name = "unique_id"
    ahead = [name for name in frame.columns if name not in ("y", "closed", "stock", "returns")]
    return SalesPanel("test", freq, offset, frame, frame.loc[[], ahead], static, {}, (), len(frame))  # type: ignore[arg-type]


def test_the_last_horizon_is_the_test_and_the_one_before_the_validation() -> None:
    panel = panel_of({"a": ("2024-01-01", [1.0] * 100)})
    cut = scoring.origins(panel, 7)
    assert [cut.test, cut.validation, cut.train_end] == [
        pd.Timestamp("2024-01-01") + pd.Timedelta(days=days) for days in (93, 86, 85)
    ]
    assert scoring.future_dates(panel, cut.test, 7)[-1] == panel.end
    assert scoring.next_origin(panel) == panel.end + pd.Timedelta(days=1)


@pytest.mark.parametrize(("freq", "offset"), [("W", "W-FRI"), ("M", "MS"), ("M", "ME")])
def test_the_cut_stays_on_the_grid(freq: str, offset: str) -> None:
    panel = panel_of({"a": ("2020-01-03", [1.0] * 60)}, freq=freq, offset=offset)
    cut = scoring.origins(panel, 4)
    calendar = scoring.grid(panel).calendar
    assert cut.test == calendar[-4]
    assert cut.validation == calendar[-8]
    assert scoring.next_origin(panel) == pd.date_range(panel.end, periods=2, freq=offset)[1]


@given(st.integers(1, 10), st.integers(1, 4), st.integers(1, 10))
@settings(max_examples=40, deadline=None)
def test_no_validation_window_reaches_the_test_and_training_ends_before_all(
    horizon: int, windows: int, step: int
) -> None:
    panel = panel_of({"a": ("2024-01-01", [1.0] * 120)})
    cut = scoring.origins(panel, horizon, windows=windows, step=step)
    day = pd.Timedelta(days=1)
    assert len(cut.rolling) == windows
    assert all(origin + horizon * day <= cut.test for origin in cut.rolling)
    assert cut.train_end < min(cut.rolling)
    assert cut.rolling[-1] == cut.validation


def test_too_short_a_calendar_is_refused_with_the_horizon_that_would_fit() -> None:
    panel = panel_of({"a": ("2024-01-01", [1.0] * 60)})
    with pytest.raises(DataError, match="60 steps") as caught:
        scoring.origins(panel, 28)
    assert "horizon of 16 or less" in caught.value.hint
    scoring.origins(panel, 16)


def test_the_grid_aligns_series_that_start_and_end_apart() -> None:
    panel = panel_of({"b": ("2024-01-03", [5.0, 6.0]), "a": ("2024-01-01", [1.0, np.nan, 3.0])})
    values = scoring.grid(panel)
    assert values.ids == ("a", "b")
    assert_allclose(values.y, [[1, np.nan, 3, np.nan], [np.nan, np.nan, 5, 6]])
    assert scoring.grid(panel, before=pd.Timestamp("2024-01-03")).y.shape == (2, 2)
    longer = scoring.grid(panel, before=pd.Timestamp("2024-01-07"))
    assert_allclose(longer.y[:, 4:], np.nan)
    assert longer.calendar[-1] == pd.Timestamp("2024-01-06")


def test_a_stray_date_is_an_error_and_not_a_silent_shift() -> None:
    panel = panel_of({"a": ("2024-01-05", [1.0] * 5)}, freq="W", offset="W-FRI")
    panel.frame["ds"] = panel.frame["ds"].where(panel.frame.index != 2, pd.Timestamp("2024-01-20"))
    with pytest.raises(ValueError, match="not on the grid"):
        scoring.grid(panel)


def test_before_the_origin_only_plans_are_known_of_what_follows() -> None:
    panel = panel_of({"a": ("2024-01-01", [1.0] * 10)}, price=2.0, stock=3.0, returns=1.0)
    origin = pd.Timestamp("2024-01-08")
    known = scoring.panel_before(panel, origin)
    assert known.frame["ds"].max() < origin
    assert sorted(known.future.columns) == ["ds", "price", "unique_id"]
    assert known.future["ds"].tolist() == list(pd.date_range(origin, periods=3))
    assert list(known.static.index) == list(panel.static.index)


def test_a_second_cut_keeps_the_plans_of_the_first() -> None:
    panel = panel_of({"a": ("2024-01-01", [1.0] * 10), "b": ("2024-01-02", [1.0] * 9)}, promo=1.0)
    once = scoring.panel_before(panel, pd.Timestamp("2024-01-06"))
    twice = scoring.panel_before(scoring.panel_before(panel, pd.Timestamp("2024-01-08")), pd.Timestamp("2024-01-06"))
    pd.testing.assert_frame_equal(once.future, twice.future)
    pd.testing.assert_frame_equal(once.frame, twice.frame)


def test_actuals_need_history_before_and_a_value_inside() -> None:
    values = [1.0] * 40
    panel = panel_of(
        {
            "whole": ("2024-01-01", values),
            "ended": ("2024-01-01", values[:36]),
            "silent": ("2024-01-01", [*values[:36], *[np.nan] * 4]),
            "young": ("2024-02-01", values[:9]),
        }
    )
    found = scoring.actuals(panel, pd.Timestamp("2024-02-06"), 4)
    assert found.ids == ("whole",)
    assert found.excluded == 1
    everybody = scoring.actuals(panel, pd.Timestamp("2024-02-06"), 4, minimum=1)
    assert everybody.ids == ("whole", "young")
    assert everybody.select(["young"]).y.shape == (1, 4)
    with pytest.raises(ValueError, match="leaves 4 steps"):
        scoring.actuals(panel, pd.Timestamp("2024-02-06"), 5)


def test_the_yardstick_does_not_see_the_windows() -> None:
    history = list(np.arange(60.0))
    calm, wild = ({"a": ("2024-01-01", [*history, *tail])} for tail in ([0.0] * 14, [1e6] * 14))
    cut = scoring.origins(panel_of(calm), 7)
    scales = [scoring.scale_of(panel_of(series), ["a"], cut.validation).absolute for series in (calm, wild)]
    assert_allclose(scales, [[7.0], [7.0]])


def test_the_score_has_every_measure_and_counts_what_it_left_out() -> None:
    dates = pd.date_range("2024-01-01", periods=2)
    quantiles = np.full((2, 2, len(LEVELS)), 4.0)
    forecast = Forecast.repaired(["a", "b"], dates, quantiles, quantiles[..., 0])
    scale = SeasonalError(np.array([2.0, 0.0]), np.array([4.0, 0.0]))
    result = scoring.score(np.array([[6.0, np.nan], [4.0, 4.0]]), forecast, scale)
    assert result == {
        "wape": pytest.approx(2 / 14),
        "wape_mean": pytest.approx(2 / 14),
        "mase": 1.0,
        "rmsse": 1.0,
        "rmse": pytest.approx(np.sqrt(4 / 3)),
        "sql": pytest.approx(1.0),
        "wql": pytest.approx(2 / 14),
        "coverage80": pytest.approx(2 / 3),
        "coverage90": pytest.approx(2 / 3),
        "series": 2,
        "dropped": 1,
    }
    with pytest.raises(ValueError, match="shape"):
        scoring.score(np.ones((1, 2)), forecast, scale)


def test_rows_are_counted_from_the_end_of_their_own_series_in_any_order() -> None:
    ids = pd.Series(["b", "a", "b", "a", "b", "c"])
    assert _from_the_end(ids).tolist() == [3, 2, 2, 1, 1, 1]
    assert _from_the_end(ids.iloc[:0]).tolist() == []
