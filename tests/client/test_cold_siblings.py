"""The level that is expected of a product without history: whose, and never from later."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from trend_client.siblings import Siblings, level_hints
from trend_common.panel import SalesPanel, from_frame
from trend_common.windows import PanelWindows

DAYS, ORIGIN = 140, 112


def sales(
    levels: dict[tuple[str, str], float], words: dict[str, str] | None = None, days: int = DAYS
) -> pd.DataFrame:
    """Constant sales of each store and product, so that every level is known exactly."""
    dates = pd.date_range("2024-01-01", periods=days)
    rows = [
        pd.DataFrame(
            {
                "date": dates,
                "store": store,
                "product": product,
                "units": level,
                "category": "odd" if int(product[1:]) % 2 else "even",
                "description": (words or {}).get(product, ""),
            }
        )
        for (store, product), level in levels.items()
    ]
    return pd.concat(rows, ignore_index=True)


def without(frame: pd.DataFrame, store: str, product: str, days: int = ORIGIN) -> pd.DataFrame:
    """The same with a product that is new in a store after so many days."""
    gone = (frame["store"] == store) & (frame["product"] == product)
    return frame[~gone | (frame["date"] >= frame["date"].min() + pd.Timedelta(days=days))]


def panel_of(frame: pd.DataFrame) -> SalesPanel:
    return from_frame(frame, freq="D")


def windows_of(frame: pd.DataFrame) -> PanelWindows:
    return PanelWindows(panel_of(frame), context=56)


def test_the_same_product_elsewhere_counts_relative_to_its_store() -> None:
    """Store b sells a tenth of what store a sells of everything."""
    levels = {("a", f"p{n}"): 10.0 * (n + 1) for n in range(6)} | {("b", f"p{n}"): 1.0 * (n + 1) for n in range(6)}
    windows = windows_of(without(sales(levels), "b", "p2"))
    hints = level_hints(windows, ORIGIN)
    row = windows.ids.index("b/p2")
    mean_a, mean_b = 35.0, float(np.mean([1, 2, 4, 5, 6]))
    # One product stands for itself: its own level over its store's mean, times the other store's mean.
    assert hints[row] == pytest.approx(30 / mean_a * mean_b, rel=1e-4)
    assert (np.delete(hints, row) == 0).all()


def test_nearest_descriptions_of_the_store_come_before_its_category() -> None:
    words = {f"p{n}": f"{'giant candle' if n < 10 else 'tiny spoon'} number {n}" for n in range(30)}
    levels = {("a", f"p{n}"): 100.0 if n < 10 else 2.0 for n in range(30)}
    levels[("a", "p30")] = 7.0
    words["p30"] = "giant candle"
    frame = without(sales(levels, words), "a", "p30")
    windows = windows_of(frame)
    row = windows.ids.index("a/p30")
    assert level_hints(windows, ORIGIN)[row] == pytest.approx(100.0)
    blank = windows_of(frame.assign(description=frame["description"].where(frame["product"] != "p30", "")))
    even = np.mean([100.0 if n < 10 else 2.0 for n in range(30) if n % 2 == 0])
    assert level_hints(blank, ORIGIN)[row] == pytest.approx(even)


def test_nothing_on_or_after_the_origin_is_used() -> None:
    levels = {(store, f"p{n}"): float(n + 1) for store in "ab" for n in range(8)}
    frame = without(sales(levels), "b", "p3", 60)
    late = frame["date"] >= frame["date"].min() + pd.Timedelta(days=60)
    poisoned = frame.assign(units=np.where(late, 1e6, frame["units"]))
    clean, spoilt = Siblings(windows_of(frame)), Siblings(windows_of(poisoned))
    for row in range(16):
        assert clean.hint(row, 60) == pytest.approx(spoilt.hint(row, 60))
        assert clean.hint(row, 60, new_everywhere=True) == pytest.approx(spoilt.hint(row, 60, new_everywhere=True))
    np.testing.assert_array_equal(clean.hints(60), spoilt.hints(60))


def test_a_series_says_nothing_about_itself() -> None:
    """Training hides a history; the level must not come from what was hidden."""
    levels = {(store, f"p{n}"): float(n + 1) for store in "ab" for n in range(8)}
    frame = sales(levels)
    one = (frame["store"] == "b") & (frame["product"] == "p3")
    other = Siblings(windows_of(frame.assign(units=np.where(one, 777.0, frame["units"]))))
    windows = windows_of(frame)
    row = windows.ids.index("b/p3")
    found, moved = Siblings(windows).hint(row, 100), other.hint(row, 100)
    assert moved == pytest.approx(found)


def test_a_product_new_everywhere_does_not_look_at_itself_elsewhere() -> None:
    levels = {(store, f"p{n}"): float(n + 1) for store in "ab" for n in range(8)}
    frame = sales(levels)
    one = (frame["store"] == "a") & (frame["product"] == "p3")
    windows = windows_of(frame)
    row = windows.ids.index("b/p3")
    moved = Siblings(windows_of(frame.assign(units=np.where(one, 500.0, frame["units"]))))
    assert moved.hint(row, 100, new_everywhere=True) == pytest.approx(
        Siblings(windows).hint(row, 100, new_everywhere=True)
    )
    assert moved.hint(row, 100) > 2 * Siblings(windows).hint(row, 100)


def test_without_any_history_there_is_no_level() -> None:
    windows = windows_of(sales({("a", "p1"): 3.0, ("a", "p2"): 4.0}))
    assert (level_hints(windows, 0) == 0).all()
    assert (level_hints(windows, 2) == 0).all()
    assert len(Siblings(windows).young(13)) == 2
    assert len(Siblings(windows).young(14)) == 0
