"""A series' numbers come from its own rows: taking any other series out of the file changes nothing.

This is what makes one series the unit of privacy. The frequency and the export's period are facts of the whole file;
they are fixed here by ``freq`` and ``period``.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from trend_common.panel import Freq, SalesPanel, from_frame

PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
START = pd.Timestamp("2023-01-02")
PERIOD = ("2023-01-01", "2023-12-31")


@st.composite
def one_series(draw: st.DrawFn, number: int) -> pd.DataFrame:
    """A product of any temper: closed weekdays, zero rows or none, holes, negatives, stock-outs, a future."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    length = draw(st.integers(3, 300))
    first = draw(st.integers(0, 50))
    dates = START + pd.to_timedelta(np.arange(first, first + length), unit="D")
    units = rng.poisson(draw(st.sampled_from([0.05, 0.5, 3.0, 40.0])), length).astype(float)
    if draw(st.booleans()):
        units -= 2.0 * (rng.random(length) < 0.02)
    rows = pd.DataFrame({"date": dates, "store": "S", "product": f"P{number}", "units": units})
    rows["price"] = np.where(rng.random(length) < 0.1, 0.0, rng.choice([1.5, 2.0], length))
    rows["stock"] = np.where(rng.random(length) < 0.05, 0.0, 10.0)
    rows["promo"] = (rng.random(length) < 0.2).astype(float)
    rows["description"] = rng.choice(["mug", "cup"], length)
    if draw(st.booleans()):
        rows = rows[rows["date"].dt.weekday != draw(st.integers(0, 6))]
    if draw(st.booleans()):
        rows = rows[rows["units"] != 0]
    rows = rows[rng.random(len(rows)) >= draw(st.sampled_from([0.0, 0.03, 0.4]))]
    if draw(st.booleans()):
        rows.loc[rows.index[-5:], "units"] = np.nan
    return rows


@st.composite
def a_file(draw: st.DrawFn) -> list[pd.DataFrame]:
    return [draw(one_series(number)) for number in range(draw(st.integers(2, 4)))]


def kept(panel: SalesPanel, ids: set[str]) -> SalesPanel:
    return panel.select(ids & set(panel.ids))


def assert_same(whole: SalesPanel, part: SalesPanel, ids: set[str]) -> None:
    left, right = kept(whole, ids), kept(part, ids)
    pd.testing.assert_frame_equal(left.frame, right.frame)
    pd.testing.assert_frame_equal(left.future, right.future)
    pd.testing.assert_frame_equal(left.static, right.static)


def usable(rows: pd.DataFrame) -> bool:
    return bool((rows["units"] > 0).any()) and rows["date"].nunique() > 1


@settings(
    max_examples=40,
    deadline=None,
    phases=PHASES,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(a_file(), st.integers(0, 3), st.sampled_from(["D", "W", "M"]))
def test_taking_a_series_out_of_a_daily_table_leaves_the_others_identical(
    parts: list[pd.DataFrame], out: int, freq: Freq
) -> None:
    removed = out % len(parts)
    rest = pd.concat([part for number, part in enumerate(parts) if number != removed])
    # Whether summing to months is possible at all is a fact of the file: most of what is left must be by day.
    if not usable(rest) or (freq != "D" and rest["date"].nunique() < 150):
        return
    ids = {f"S/P{number}" for number in range(len(parts)) if number != removed}
    part = from_frame(rest, freq=freq, period=PERIOD)
    whole = from_frame(pd.concat(parts), freq=freq, period=PERIOD)
    assert ids & set(part.ids) == ids & set(whole.ids)
    assert_same(whole, part, ids)


@settings(max_examples=25, deadline=None, phases=PHASES, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32 - 1), st.integers(0, 3))
def test_taking_a_series_out_of_order_lines_leaves_the_others_identical(seed: int, removed: int) -> None:
    rng = np.random.default_rng(seed)
    count = 300
    lines = pd.DataFrame(
        {
            "order_id": [f"{'C' if rng.random() < 0.1 else ''}{5000 + n // 3}" for n in range(count)],
            "date": START
            + pd.to_timedelta(rng.integers(0, 60, count) * 86400 + rng.integers(0, 86400, count), unit="s"),
            "sku": rng.choice(["a1", "A1", "B2", "C3", "D4"], count),
            "description": rng.choice(["mug", "cup", "postage"], count, p=[0.5, 0.45, 0.05]),
            "quantity": rng.choice([1, 2, 3, -1], count),
            "price": rng.choice([0.0, 1.0, 2.5], count),
        }
    )
    gone = ["A1", "B2", "C3", "D4"][removed]
    rest = lines[lines["sku"].str.upper() != gone]
    whole, part = (from_frame(frame, freq="D", period=PERIOD) for frame in (lines, rest))
    ids = {f"all/{sku}" for sku in ("A1", "B2", "C3", "D4") if sku != gone}
    assert ids & set(part.ids) == ids & set(whole.ids)
    assert_same(whole, part, ids)


@pytest.mark.parametrize("weeks", [3, 30])
def test_a_sibling_that_trades_on_sundays_opens_nobody_elses_sunday(weeks: int) -> None:
    dates = pd.date_range(START, periods=7 * weeks)
    open_daily = pd.DataFrame({"date": dates, "product": "open", "units": 5.0})
    closed = open_daily[open_daily["date"].dt.weekday != 6].assign(product="closed")
    panel = from_frame(pd.concat([open_daily, closed]), freq="D")
    sundays = panel.frame[(panel.frame["unique_id"] == "all/closed") & (panel.frame["ds"].dt.weekday == 6)]
    assert sundays["closed"].all() == (weeks == 30)
    assert not panel.frame.loc[panel.frame["unique_id"] == "all/open", "closed"].any()


def test_a_sibling_with_zero_rows_takes_nobody_elses_zeros() -> None:
    dates = pd.date_range(START, periods=120)
    sparse = pd.DataFrame({"date": dates[::4], "product": "sparse", "units": 2.0})
    zeros = pd.DataFrame({"date": dates, "product": "zeros", "units": np.arange(120.0) % 2})
    panel = from_frame(pd.concat([sparse, zeros]), freq="D")
    assert not panel.frame.loc[panel.frame["unique_id"] == "all/sparse", "y"].isna().any()
