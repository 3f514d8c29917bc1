"""Windows: what a tensor depends on, and what it must not know."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from trend_common.backbones.base import Batch
from trend_common.covariates import INDEX
from trend_common.panel import SalesPanel, from_frame
from trend_common.windows import PanelWindows, text_features

CONTEXT, HORIZON = 42, 14


def window(panel: SalesPanel, series: str, origin: int) -> Batch:
    windows = PanelWindows(panel, context=CONTEXT)
    row = windows.ids.index(series)
    return windows.batch([row], [origin], HORIZON, targets_end=origin + HORIZON)


def same(one: Batch, other: Batch) -> bool:
    return all(
        torch.equal(getattr(one, name), getattr(other, name))
        for name in one.__dataclass_fields__
        if getattr(one, name) is not None
    )


def test_taking_any_series_out_leaves_the_others_bit_for_bit_the_same(panel: SalesPanel) -> None:
    for gone in panel.ids:
        rest = panel.select([name for name in panel.ids if name != gone])
        for name in rest.ids[:4]:
            assert same(window(panel, name, 100), window(rest, name, 100)), f"{name} depends on {gone}"


def test_the_check_above_would_see_a_sibling_scale(panel: SalesPanel) -> None:
    """The mutation: scale by the panel's mean, and the same comparison must fail."""
    rest = panel.select(panel.ids[1:])
    name = rest.ids[0]
    scaled = []
    for one in (panel, rest):
        factor = float(one.frame["y"].mean())
        scaled.append(window(one, name, 100).past_values / factor)
    assert not torch.equal(scaled[0], scaled[1])


def test_a_window_does_not_know_what_comes_after_its_origin(sales: pd.DataFrame) -> None:
    name, origin = "s0/p0", 100
    cut = sales["date"] >= sales["date"].min() + pd.Timedelta(days=origin)
    changed = sales.assign(units=np.where(cut, sales["units"] * 7 + 3, sales["units"]))
    before, after = (window(from_frame(table), name, origin) for table in (sales, changed))
    for field in ("past_values", "past_mask", "past_cov", "future_cov"):
        assert torch.equal(getattr(before, field), getattr(after, field)), field
    assert before.future_values is not None
    assert after.future_values is not None
    assert not torch.equal(before.future_values, after.future_values)


def test_targets_end_where_training_ends(panel: SalesPanel) -> None:
    windows = PanelWindows(panel, context=CONTEXT)
    batch = windows.batch([0], [100], HORIZON, targets_end=105)
    assert batch.future_mask is not None
    assert batch.future_mask[0].tolist() == [1.0] * 5 + [0.0] * 9


def test_origins_stay_inside_the_training_range(panel: SalesPanel) -> None:
    windows = PanelWindows(panel, context=CONTEXT)
    rows = np.arange(len(windows.ids)).repeat(50)
    drawn = windows.draw_origins(rows, 112, HORIZON, np.random.default_rng(0).random(len(rows)))
    assert drawn.min() >= 14
    assert drawn.max() == 112 - HORIZON


def test_a_short_series_is_trained_on_in_part_and_a_late_one_not_at_all(sales: pd.DataFrame) -> None:
    start = sales["date"].min()
    short = sales[(sales["product"] != "p0") | (sales["date"] >= start + pd.Timedelta(days=90))]
    late = short[(short["product"] != "p1") | (short["date"] >= start + pd.Timedelta(days=120))]
    windows = PanelWindows(from_frame(late), context=CONTEXT)
    trainable = {windows.ids[row] for row in windows.trainable(112)}
    assert "s0/p0" in trainable
    assert "s0/p1" not in trainable
    row = windows.ids.index("s0/p0")
    origin = windows.draw_origins(np.array([row]), 112, HORIZON, np.array([0.99]))
    batch = windows.batch([row], origin, HORIZON, targets_end=112)
    assert batch.future_mask is not None
    assert batch.future_mask.sum() > 0


def test_prices_are_relative_to_the_windows_own_past(panel: SalesPanel) -> None:
    batch = window(panel, "s0/p0", 100)
    channel = batch.past_cov[0, :, INDEX["log_relative_price"]]
    assert abs(float(channel.mean())) < 1e-5
    assert float(channel.min()) < -0.1


def test_a_price_that_comes_from_order_lines_is_not_known_ahead(sales: pd.DataFrame) -> None:
    listed = PanelWindows(from_frame(sales), context=CONTEXT)
    assert listed.price_known_ahead
    ordered = PanelWindows(from_frame(sales.assign(returns=0.0)), context=CONTEXT)
    assert not ordered.price_known_ahead
    batch = ordered.batch([0], [100], HORIZON)
    assert float(batch.future_cov[0, :, INDEX["log_relative_price"]].abs().sum()) == 0
    assert float(batch.future_cov[0, :, INDEX["price_known"]].sum()) == 0


def test_public_holidays_fill_in_where_the_file_has_none(panel: SalesPanel) -> None:
    windows = PanelWindows(panel, context=CONTEXT, country="DE")
    batch = windows.batch([0], [CONTEXT], HORIZON)
    assert float(batch.past_cov[0, 0, INDEX["holiday"]]) == 1  # the first of January
    assert float(batch.past_cov[0, :, INDEX["holiday_known"]].mean()) == 1
    with pytest.raises(Exception, match="ISO code"):
        PanelWindows(panel, context=CONTEXT, country="XX")


def test_steps_beyond_the_panel_know_nothing_that_was_not_announced(panel: SalesPanel) -> None:
    windows = PanelWindows(panel, context=CONTEXT)
    batch = windows.batch([0], [windows.n_steps], HORIZON)
    for name in ("promo_known", "price_known"):
        assert float(batch.future_cov[0, :, INDEX[name]].sum()) == 0
        assert float(batch.past_cov[0, :, INDEX[name]].mean()) == 1


def test_text_is_hashed_without_a_vocabulary() -> None:
    alone = text_features(["Red apple juice"])
    together = text_features(["Bread", "Red apple juice", ""])
    np.testing.assert_array_equal(alone[0], together[1])
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), [1, 1, 0], rtol=1e-6)
