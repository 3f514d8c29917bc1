"""What a series is trained on follows from its own rows and from what a person declared, bit for bit.

Any other series may be taken out of the file: also the one that ends last, and the one that starts first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from trend_client.training import TrainingData
from trend_common.errors import DataError
from trend_common.panel import Freq, SalesPanel, from_frame
from trend_common.scoring import origins, training_panel
from trend_common.windows import PanelWindows

PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much]
START = pd.Timestamp("2023-01-02")
UNTIL = pd.Timestamp("2023-12-31")
CONTEXT, HORIZON, K = 28, 5, 4
LAUNCHES = 0.5
"""Share of the windows that hide the history, so that the level in its place is looked at, too."""


@st.composite
def one_series(draw: st.DrawFn, number: int, step: int) -> pd.DataFrame:
    """A product with its own first and last day, plans beyond it, and holes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    steps = 364 // step
    first = draw(st.integers(0, steps // 2))
    length = draw(st.integers(10, steps - first))
    planned = draw(st.sampled_from([0, 3, 20, 90]))
    dates = START + pd.to_timedelta(step * np.arange(first, first + length + planned), unit="D")
    count = len(dates)
    rows = pd.DataFrame({"date": dates, "store": "S", "product": f"P{number}"})
    units = rng.poisson(draw(st.sampled_from([0.3, 3.0, 40.0])), count).astype(float)
    rows["units"] = np.where(np.arange(count) < length, units, np.nan)
    rows["price"] = rng.choice([1.5, 2.0], count)
    rows["promo"] = (rng.random(count) < 0.2).astype(float)
    rows["holiday"] = (rng.random(count) < 0.05).astype(float)
    rows["stock"] = np.where(rng.random(count) < 0.05, 0.0, 10.0)
    # Columns of one's own: marks for some series and counts of leaflets for others, and the weather.
    rows["flyer"] = rng.random(count) < 0.3 if draw(st.booleans()) else rng.poisson(20, count)
    rows["flyer"] = rows["flyer"].astype(float)
    rows["temperature"] = rng.normal(draw(st.sampled_from([0.5, 12.0])), draw(st.sampled_from([0.0, 6.0])), count)
    rows["description"] = draw(st.sampled_from(["mug", "blue cup"]))
    if draw(st.booleans()):  # a list of sales alone: days without a row are zeros
        rows = rows[(rows["units"] != 0) | (np.arange(count) >= length)]
    return rows[rng.random(len(rows)) >= draw(st.sampled_from([0.0, 0.1]))]


@st.composite
def a_file(draw: st.DrawFn, step: int = 1) -> list[pd.DataFrame]:
    return [draw(one_series(number, step)) for number in range(draw(st.integers(2, 4)))]


Windows = dict[str, tuple[tuple[pd.Timestamp, pd.Timestamp], list[torch.Tensor]]]


def trained_on(panel: SalesPanel, country: str | None, horizon: int = HORIZON) -> Windows:
    """Of each series that is trained on: its first and last possible origin, and its tensors for fixed uniforms."""
    windows = PanelWindows(training_panel(panel, horizon), context=CONTEXT, country=country)
    data = TrainingData.of(windows, train_end=windows.n_steps, horizon=horizon, launch_share=LAUNCHES)
    found: Windows = {}
    for unit, rows in enumerate(data.units):
        ends = [windows.draw_origins(rows, data.train_end, horizon, np.array([u])) for u in (1e-12, 1 - 1e-12)]
        batch = data.draw([unit], K, lambda n: np.linspace(0.01, 0.99, n))
        fields = [getattr(batch, name) for name in batch.__dataclass_fields__]
        tensors = [value for value in fields if isinstance(value, torch.Tensor)]
        found[windows.ids[rows[0]]] = ((windows.dates[ends[0][0]], windows.dates[ends[1][0]]), tensors)
    return found


def assert_untouched(
    whole: SalesPanel, part: SalesPanel, gone: str, country: str | None = None, horizon: int = HORIZON
) -> None:
    try:
        alone = trained_on(part, country, horizon)
    except DataError:  # too short for a backtest without it
        return
    together = trained_on(whole, country, horizon)
    assert set(together) - {gone} == set(alone)
    for name, (span, tensors) in alone.items():
        assert span == together[name][0], f"the range of {name} depends on {gone}"
        for one, other in zip(tensors, together[name][1], strict=True):
            assert torch.equal(one, other), f"{name} depends on {gone}"


def out_of(parts: Sequence[pd.DataFrame], which: str) -> int:
    """The series that ends last, or starts first, or any."""
    if which == "the last to end":
        return max(range(len(parts)), key=lambda n: parts[n]["date"].max())
    return min(range(len(parts)), key=lambda n: parts[n]["date"].min()) if which == "the first" else 0


@settings(max_examples=25, deadline=None, phases=PHASES, suppress_health_check=QUIET)
@given(a_file(), st.sampled_from(["the last to end", "the first", "any"]), st.sampled_from([None, "DE"]))
def test_with_a_declared_last_day_no_series_moves_anothers_training(
    parts: list[pd.DataFrame], which: str, country: str | None
) -> None:
    parts = [part.drop(columns="holiday") for part in parts] if country else parts
    removed = out_of(parts, which)
    rest = pd.concat([part for number, part in enumerate(parts) if number != removed])
    if not (rest["units"] > 0).any():
        return
    whole, part = (from_frame(one, freq="D", period=(None, UNTIL)) for one in (pd.concat(parts), rest))
    assert whole.until == part.until == UNTIL
    assert_untouched(whole, part, f"S/P{removed}", country)


@settings(max_examples=25, deadline=None, phases=PHASES, suppress_health_check=QUIET)
@given(
    st.sampled_from([("D", 1), ("W", 7)]).flatmap(lambda kind: st.tuples(st.just(kind[0]), a_file(kind[1]))),
    st.sampled_from(["the last to end", "the first", "any"]),
    st.sampled_from([None, "DE"]),
)
def test_without_one_each_series_own_last_step_ends_its_training(
    file: tuple[Freq, list[pd.DataFrame]], which: str, country: str | None
) -> None:
    """The panel is read once: how far lists of sales alone are zeros is then the one thing the file's end decides."""
    freq, parts = file
    parts = [part.drop(columns="holiday") for part in parts] if country else parts
    gone = f"S/P{out_of(parts, which)}"
    try:
        whole = from_frame(pd.concat(parts), freq=freq)
    except DataError:  # hardly any sale
        return
    rest = [name for name in whole.ids if name != gone]
    if gone in whole.ids and rest:
        assert_untouched(whole, whole.select(rest), gone, country)


@settings(max_examples=20, deadline=None, phases=PHASES, suppress_health_check=QUIET)
@given(a_file(), st.booleans())
def test_training_never_sees_a_step_of_validation_or_test(parts: list[pd.DataFrame], declared: bool) -> None:
    try:
        panel = from_frame(pd.concat(parts), freq="D", period=(None, UNTIL) if declared else None)
        kept = training_panel(panel, HORIZON)
    except DataError:
        return
    cut = origins(panel, HORIZON)
    assert kept.end <= cut.train_end
    assert "y" not in kept.future
    sold = panel.frame.merge(kept.frame, on=["unique_id", "ds"], suffixes=("", "_kept"))
    pd.testing.assert_series_equal(sold["y"], sold["y_kept"], check_names=False)
    planned = kept.future.merge(panel.frame, on=["unique_id", "ds"], suffixes=("", "_file"))
    pd.testing.assert_series_equal(planned["promo"], planned["promo_file"], check_names=False)
    if not declared:
        own = panel.frame.groupby("unique_id")["ds"].max() - kept.frame.groupby("unique_id")["ds"].max()
        assert set(own.dropna().dt.days) == {2 * HORIZON}


def late_sibling() -> tuple[SalesPanel, SalesPanel]:
    """Three series that end in June, and one that sells until August; with it and without it."""
    dates = pd.date_range("2024-01-01", "2024-06-30")
    rng = np.random.default_rng(0)
    parts = [pd.DataFrame({"date": dates, "product": f"p{k}", "units": rng.poisson(9, len(dates))}) for k in range(3)]
    later = pd.date_range("2024-02-01", "2024-08-31")
    parts.append(pd.DataFrame({"date": later, "product": "late", "units": rng.poisson(9, len(later))}))
    return from_frame(pd.concat(parts), freq="D"), from_frame(pd.concat(parts[:-1]), freq="D")


def test_the_checks_above_would_see_an_end_that_is_counted_back_from_the_panels_last_day() -> None:
    """The mutation: the cut of the backtest, which all series share, moves with the late one."""
    whole, part = late_sibling()
    assert origins(whole, HORIZON).train_end != origins(part, HORIZON).train_end
    assert_untouched(whole, part, "all/late")


def test_a_series_that_ended_long_ago_gives_up_its_own_last_steps() -> None:
    whole, _ = late_sibling()
    spans = {name: span for name, (span, _) in trained_on(whole, None).items()}
    assert spans["all/p0"][1] == pd.Timestamp("2024-06-30") - pd.Timedelta(days=3 * HORIZON - 1)
    assert spans["all/late"][1] == pd.Timestamp("2024-08-31") - pd.Timedelta(days=3 * HORIZON - 1)


def test_nothing_left_to_train_on_is_said() -> None:
    dates = pd.date_range("2024-01-01", periods=120)
    parts = [
        pd.DataFrame({"date": dates[12 * k : 12 * k + 10], "product": f"p{k}", "units": 1.0 + k}) for k in range(10)
    ]
    with pytest.raises(DataError, match="more than 10 steps"):
        training_panel(from_frame(pd.concat(parts), freq="D"), HORIZON)


def with_and_without(one: pd.DataFrame, other: pd.DataFrame, freq: Freq = "D") -> tuple[SalesPanel, SalesPanel]:
    whole = from_frame(pd.concat([one.assign(product="one"), other.assign(product="other")]), freq=freq)
    return whole, whole.select(["all/one"])


def test_a_sibling_that_starts_earlier_moves_no_public_holiday() -> None:
    """A week stands for the seven days that end with it; 1 January was the day on which the week before ended."""
    weeks = pd.DataFrame({"date": pd.date_range("2024-01-08", periods=40, freq="W-MON"), "units": 5.0})
    older = pd.DataFrame({"date": pd.date_range("2023-10-02", periods=60, freq="W-MON"), "units": 5.0})
    assert_untouched(*with_and_without(weeks, older, "W"), "all/other", "DE")


def test_a_sibling_that_ends_later_shows_no_holiday_beyond_the_longest_horizon() -> None:
    for shift in range(0, 21, 2):
        days = pd.DataFrame({"date": pd.date_range("2023-06-01", periods=150 + shift), "units": 5.0})
        later = pd.DataFrame({"date": pd.date_range("2023-06-01", periods=320), "units": 5.0})
        assert_untouched(*with_and_without(days, later), "all/other", "DE", horizon=56)


def test_a_sibling_that_ends_later_shows_no_plan_of_the_distant_future() -> None:
    """Announced beyond any horizon: the only price that the series has, and the only flyer that is no mark."""
    days = pd.DataFrame({"date": pd.date_range("2023-01-01", periods=100), "units": 5.0, "flyer": [0.0, 1.0] * 50})
    plan = pd.DataFrame({"date": [pd.Timestamp("2023-07-15")], "price": 2.0, "promo": 1.0, "flyer": 30.0})
    later = pd.DataFrame({"date": pd.date_range("2023-01-01", periods=300), "units": 5.0, "price": 3.0, "promo": 0.0})
    assert_untouched(*with_and_without(pd.concat([days, plan]), later), "all/other")
