"""The channels of a retailer's own columns: what a window shows of them, and what it must not know."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from trend_common.covariates import INDEX
from trend_common.panel import SalesPanel, from_frame
from trend_common.scoring import panel_before
from trend_common.windows import PanelWindows

CONTEXT, HORIZON, STEPS, ORIGIN = 42, 14, 120, 100
DATES = pd.date_range("2024-01-01", periods=STEPS)
MARKS = (np.arange(STEPS) % 11 < 4).astype(float)
CURVE = 12 + 9 * np.sin(np.arange(STEPS) / 17) + np.random.default_rng(0).normal(0, 1, STEPS)
COUNTS = np.random.default_rng(1).poisson(200, STEPS).astype(float)

Channels = dict[str, np.ndarray]


def sales(product: str = "p", **cells: object) -> pd.DataFrame:
    units = np.random.default_rng(len(product)).poisson(9, STEPS)
    return pd.DataFrame({"date": DATES, "product": product, "units": units, **cells})


def seen(panel: SalesPanel, origin: int = ORIGIN, series: str = "all/p", number: int = 1) -> Channels:
    """``past, ahead, past_known, ahead_known`` of one own channel."""
    windows = PanelWindows(panel, context=CONTEXT)
    batch = windows.batch([windows.ids.index(series)], [origin], HORIZON)
    name = f"own_{number}"
    tensors = {
        "past": batch.past_cov[0, :, INDEX[name]],
        "ahead": batch.future_cov[0, :, INDEX[name]],
        "past_known": batch.past_cov[0, :, INDEX[f"{name}_known"]],
        "ahead_known": batch.future_cov[0, :, INDEX[f"{name}_known"]],
    }
    return {key: value.numpy() for key, value in tensors.items()}


def test_marks_stay_as_they_are_and_plans_are_known_ahead() -> None:
    found = seen(from_frame(sales(school_holiday=MARKS)))
    np.testing.assert_array_equal(found["past"], MARKS[ORIGIN - CONTEXT : ORIGIN].astype(np.float32))
    np.testing.assert_array_equal(found["ahead"], MARKS[ORIGIN : ORIGIN + HORIZON].astype(np.float32))
    assert found["past_known"].tolist() == [1.0] * CONTEXT
    assert found["ahead_known"].tolist() == [1.0] * HORIZON


def test_the_weather_is_counted_in_spreads_of_the_windows_own_past_and_unknown_ahead() -> None:
    found = seen(from_frame(sales(temperature=CURVE)))
    past = CURVE[ORIGIN - CONTEXT : ORIGIN]
    expected = ((past - past.mean()) / past.std()).clip(-2.5, 2.5) / 2
    np.testing.assert_allclose(found["past"], expected, rtol=1e-5, atol=1e-6)
    assert found["past_known"].tolist() == [1.0] * CONTEXT
    assert not found["ahead"].any()
    assert not found["ahead_known"].any()


def test_planned_numbers_are_put_in_the_same_proportion_ahead_and_cut_off() -> None:
    counts = COUNTS.copy()
    counts[ORIGIN + 2] = 1e6
    found = seen(from_frame(sales(flyer=counts)))
    past = counts[ORIGIN - CONTEXT : ORIGIN]
    expected = ((counts[ORIGIN : ORIGIN + HORIZON] - past.mean()) / past.std()).clip(-2.5, 2.5) / 2
    np.testing.assert_allclose(found["ahead"], expected, rtol=1e-5, atol=1e-6)
    assert found["ahead"][2] == 1.25
    assert found["ahead_known"].all()


def test_beyond_the_series_only_what_is_announced_is_known() -> None:
    plan = pd.DataFrame({"date": DATES[-1] + pd.to_timedelta([1, 3], unit="D"), "product": "p", "flyer": [1.0, 0.0]})
    panel = from_frame(pd.concat([sales(flyer=MARKS), plan]))
    found = seen(panel, STEPS)
    assert found["ahead"].tolist() == [1.0] + [0.0] * 13
    assert found["ahead_known"].tolist() == [1.0, 0.0, 1.0] + [0.0] * 11
    assert found["past_known"].all()


def test_a_backtest_shows_the_plans_that_the_whole_file_shows() -> None:
    panel = from_frame(sales(flyer=MARKS, temperature=CURVE))
    origin = DATES[ORIGIN]
    for number in (1, 2):
        then, now = seen(panel_before(panel, origin), number=number), seen(panel, number=number)
        for key, value in now.items():
            np.testing.assert_array_equal(then[key], value, err_msg=f"own_{number} {key}")


def test_a_window_does_not_know_the_weather_to_come_and_knows_the_plan() -> None:
    later = np.arange(STEPS) >= ORIGIN
    one = from_frame(sales(flyer=MARKS, temperature=CURVE))
    other = from_frame(sales(flyer=np.where(later, 1 - MARKS, MARKS), temperature=np.where(later, -40.0, CURVE)))
    for key in ("past", "ahead", "past_known", "ahead_known"):
        np.testing.assert_array_equal(seen(one)[key], seen(other)[key])
    assert not np.array_equal(seen(one, number=2)["ahead"], seen(other, number=2)["ahead"])
    np.testing.assert_array_equal(seen(one, number=2)["past"], seen(other, number=2)["past"])


@pytest.mark.parametrize("cells", [np.full(STEPS, 7.0), np.where(np.arange(STEPS) < ORIGIN, np.nan, CURVE)])
def test_a_curve_that_cannot_be_put_in_proportion_is_unknown(cells: np.ndarray) -> None:
    """It never changes, or nothing of it lies in the window."""
    found = seen(from_frame(sales(temperature=cells)))
    assert not any(value.any() for value in found.values())


def test_unknown_days_are_the_mean_of_a_curve_and_no_mark() -> None:
    gap = np.isin(np.arange(STEPS), [ORIGIN - 3, ORIGIN - 9])
    curve = seen(from_frame(sales(temperature=np.where(gap, np.nan, CURVE))))["past"]
    marks = seen(from_frame(sales(flyer=np.where(gap, np.nan, 1 - 0.5 * MARKS))))["past"]
    for values in (curve, marks):
        assert values[-3] == values[-9] == 0
        assert (values != 0).sum() == CONTEXT - 2


def test_files_without_own_columns_have_empty_channels() -> None:
    found = seen(from_frame(sales()))
    assert not any(value.any() for value in found.values())


def test_a_series_without_a_value_has_none_though_its_siblings_have() -> None:
    panel = from_frame(pd.concat([sales(flyer=MARKS), sales("other")]))
    assert not any(value.any() for value in seen(panel, series="all/other").values())
    assert seen(panel)["past_known"].all()


def test_whether_a_column_holds_marks_is_read_off_the_series_own_rows() -> None:
    alone = from_frame(sales(flyer=MARKS))
    together = from_frame(pd.concat([sales(flyer=MARKS), sales("other", flyer=COUNTS)]))
    for key, value in seen(alone).items():
        np.testing.assert_array_equal(seen(together)[key], value)
    assert seen(together, series="all/other")["past"].min() < 0


def test_the_backbone_takes_the_channels(tiny_backbone: object) -> None:
    """Marks ahead change a forecast of the real network; the weather's values ahead cannot."""
    from trend_common.backbones import load_backbone

    backbone = load_backbone(str(tiny_backbone))
    later = np.arange(STEPS) >= ORIGIN
    made = []
    for flyer in (MARKS, np.where(later, 1 - MARKS, MARKS)):
        windows = PanelWindows(from_frame(sales(flyer=flyer)), context=CONTEXT)
        with torch.inference_mode():
            made.append(backbone(windows.batch([0], [ORIGIN], HORIZON)).quantiles)
    assert torch.isfinite(made[0]).all()
    assert not torch.equal(made[0], made[1])
