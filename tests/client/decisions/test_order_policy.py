"""The arithmetic of stock: joint paths, levels, orders; rules that hold for all terms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trend_client.decisions.levels import ServiceLevels, ranks
from trend_client.decisions.paths import Dependence, Sampler, normal_scores
from trend_client.decisions.policy import Position, Terms, critical_fractile, propose, rounded_order
from trend_common.errors import UsageError
from trend_common.forecasts import LEVELS, Forecast

STEPS = 20


def normal_forecast(series: int = 3, steps: int = STEPS, mean: float = 50.0, sd: float = 10.0) -> Forecast:
    from scipy.special import ndtri

    q = np.broadcast_to(mean + sd * ndtri(np.array(LEVELS)), (series, steps, len(LEVELS)))
    ds = np.datetime64("2024-01-01") + np.arange(steps)
    return Forecast.repaired([f"s/p{row}" for row in range(series)], ds, q, np.full((series, steps), mean))


def sums(dependence: Dependence, steps: int = STEPS) -> np.ndarray:
    sampler = Sampler(dependence, steps, paths=4096)
    return np.concatenate([one.sum(2) for _, one in sampler.demand(normal_forecast(1))])[0]


@pytest.mark.parametrize(("common", "carry"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.6), (0.2, 0.5)])
def test_the_spread_of_a_sum_follows_from_the_dependence(common: float, carry: float) -> None:
    dependence = Dependence(common, carry)
    expected = 10 * math.sqrt(dependence.correlation(STEPS).sum())
    assert sums(dependence).std() == pytest.approx(expected, rel=0.03)
    assert sums(dependence).mean() == pytest.approx(50 * STEPS, rel=0.002)


def test_each_step_keeps_its_own_distribution() -> None:
    sampler = Sampler(Dependence(0.4, 0.5), STEPS, paths=4096)
    (_, demand), *_ = sampler.demand(normal_forecast(1))
    for level in (0.1, 0.5, 0.9):
        assert np.allclose(np.quantile(demand[0], level, axis=0), normal_forecast(1).quantile(level)[0], rtol=0.02)


def test_dependence_is_found_again_in_what_it_made() -> None:
    truth = Dependence(0.3, 0.4)
    rng = np.random.default_rng(0)
    root = np.linalg.cholesky(truth.correlation(STEPS))
    windows = [50 + 10 * rng.standard_normal((300, STEPS)) @ root.T for _ in range(4)]
    found = Dependence.fit([normal_scores(normal_forecast(300), y) for y in windows])
    assert found.common == pytest.approx(0.3, abs=0.06)
    assert found.carry == pytest.approx(0.4, abs=0.1)
    assert found.pairs == 4 * 300 * STEPS * (STEPS - 1) // 2
    assert Dependence.fit([]) == Dependence()


def test_scores_of_many_zeros_take_the_middle_of_their_levels() -> None:
    q = np.array([0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6], dtype=float)
    forecast = Forecast(
        ("a",),
        np.array([["2024-01-01", "2024-01-02"]], dtype="datetime64[ns]"),
        LEVELS,
        np.broadcast_to(q, (1, 2, 13)).copy(),
        np.ones((1, 2)),
    )
    score = normal_scores(forecast, np.array([[0.0, 1.5]]))
    from scipy.special import ndtr

    assert ndtr(score)[0] == pytest.approx([0.25, 0.65])  # zero spans 0 to .5; 1.5 lies between .6 and .7
    assert np.isnan(normal_scores(forecast, np.array([[np.nan, 1.0]]))[0, 0])


def test_levels_learn_from_sums_that_were_too_low_and_stay_in_order() -> None:
    rng = np.random.default_rng(1)
    # The truth is wider than the paths: their 95 % quantile is met less often.
    paths, truth = rng.normal(0, 1, (2000, 400)), rng.normal(0, 1.5, 2000)
    past = [ranks(paths[part::8], truth[part::8]) for part in range(8)]
    found = ServiceLevels.fit(past)
    met = (ranks(paths, truth) <= found.at(0.95)).mean()
    assert (ranks(paths, truth) <= 0.95).mean() < 0.9
    assert met == pytest.approx(0.95, abs=0.02)
    grid = [found.at(level) for level in np.linspace(0.5, 0.999, 60)]
    assert np.all(np.diff(grid) > 0)
    assert ServiceLevels.fit([]).at(0.9) == pytest.approx(0.9)


def draws(level: float = 8.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.gamma(2.0, level / 2, (512, 60)), rng.standard_normal(512)


terms_given = st.fixed_dictionaries(
    {
        "lead_time": st.integers(0, 12).map(float),
        "lead_time_sd": st.floats(0, 3),
        "review": st.integers(1, 14),
        "service_level": st.floats(0.5, 0.99),
        "moq": st.floats(0, 100),
        "pack": st.sampled_from([0.5, 1.0, 6.0, 24.0]),
        "shelf_life": st.none() | st.integers(1, 14),
    }
)


@settings(max_examples=80, deadline=None)
@given(terms_given, st.floats(0, 300), st.floats(0, 100))
def test_orders_are_whole_packs_and_never_negative(given_terms: dict, on_hand: float, on_order: float) -> None:  # type: ignore[type-arg]
    terms = Terms(**given_terms)
    found = propose(*draws(), Position(on_hand, on_order), terms)
    assert found.order >= 0
    assert found.order / terms.pack == pytest.approx(round(found.order / terms.pack))
    assert found.order == 0 or found.order >= terms.moq - 1e-6
    assert 0 <= found.stockout_with <= found.stockout_without <= 1
    assert 0 <= found.waste <= found.order
    assert found.order_up_to >= found.reorder_point


@settings(max_examples=60, deadline=None)
@given(terms_given, st.floats(0.001, 0.2), st.integers(1, 5))
def test_more_service_or_a_longer_lead_time_never_asks_for_less(given_terms: dict, more: float, later: int) -> None:  # type: ignore[type-arg]
    base = Terms(**given_terms)
    one = propose(*draws(), Position(0), base)
    served = propose(
        *draws(), Position(0), Terms(**{**given_terms, "service_level": min(base.service_level + more, 0.995)})
    )
    slower = propose(*draws(), Position(0), Terms(**{**given_terms, "lead_time": base.lead_time + later}))
    assert served.order_up_to >= one.order_up_to
    assert served.reorder_point >= one.reorder_point
    assert slower.order_up_to >= one.order_up_to
    assert slower.reorder_point >= one.reorder_point


@settings(max_examples=60, deadline=None)
@given(terms_given, st.floats(0, 200), st.floats(0, 100))
def test_more_stock_never_asks_for_a_larger_order(given_terms: dict, on_hand: float, more: float) -> None:  # type: ignore[type-arg]
    terms = Terms(**given_terms)
    assert (
        propose(*draws(), Position(on_hand + more), terms).order <= propose(*draws(), Position(on_hand), terms).order
    )


@given(st.floats(-5, 500), st.sampled_from([1.0, 6.0, 12.0, 0.1]), st.floats(0, 50))
def test_rounding_covers_the_need_with_less_than_a_pack_to_spare(need: float, pack: float, moq: float) -> None:
    order = rounded_order(need, pack=pack, moq=moq)
    if need <= 1e-9:
        assert order == 0
    else:
        assert max(need, moq) - 1e-6 * pack <= order < max(need, moq) + pack + 1e-6


def test_a_perishable_is_ordered_at_the_critical_fractile() -> None:
    demand, normal = draws(seed=3)
    assert critical_fractile(5, 2, 1) == pytest.approx(0.75)
    fresh = Terms(lead_time=0, review=1, shelf_life=1, price=5.0, cost=2.0, salvage=1.0, pack=0.001)
    found = propose(demand, normal, Position(0), fresh)
    assert found.order == pytest.approx(np.quantile(demand[:, 0], 0.75), abs=0.01)

    def profit(order: float) -> float:
        sold = np.minimum(order, demand[:, 0])
        return float((5 * sold + 1 * (order - sold) - 2 * order).mean())

    assert profit(found.order) >= max(profit(found.order * factor) for factor in (0.8, 0.95, 1.05, 1.2))


def test_what_will_be_spoilt_on_arrival_is_no_stock() -> None:
    demand, normal = draws()
    terms = Terms(lead_time=4, review=3, shelf_life=3)
    assert propose(demand, normal, Position(1000), terms).order == propose(demand, normal, Position(0), terms).order
    keeps = Terms(lead_time=4, review=3)
    assert propose(demand, normal, Position(1000), keeps).order == 0


def test_a_lead_time_with_spread_asks_for_more() -> None:
    demand, normal = draws()
    sure = propose(demand, normal, Position(0), Terms(lead_time=6, review=7))
    unsure = propose(demand, normal, Position(0), Terms(lead_time=6, review=7, lead_time_sd=2.0))
    assert unsure.safety_stock > sure.safety_stock


def test_the_date_when_stock_runs_out() -> None:
    demand, normal = np.full((64, 30), 5.0), np.zeros(64)
    assert propose(demand, normal, Position(12), Terms(lead_time=2, review=2)).days_left == 2  # 5, 10, then 15
    assert propose(demand, normal, Position(500), Terms(lead_time=2, review=2)).days_left is None


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"service_level": 1.0}, "service level"),
        ({"lead_time": -1.0}, "lead time"),
        ({"pack": 0.0}, "pack"),
        ({"review": 0}, "between orders"),
        ({"moq": float("nan")}, "minimum order"),
        ({"shelf_life": 0}, "shelf life"),
    ],
)
def test_terms_out_of_range_are_refused(change: dict, names: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(UsageError) as error:
        Terms(**{"lead_time": 3.0, "review": 7, **change})
    assert names in error.value.message


def test_a_price_below_cost_gives_no_fractile() -> None:
    with pytest.raises(UsageError):
        critical_fractile(2.0, 3.0)


def test_what_was_learned_of_demand_is_not_said_of_lead_times() -> None:
    rng = np.random.default_rng(2)
    sums = np.concatenate([np.zeros((1024, 1)), np.cumsum(rng.normal(10, 0.01, (1024, 20)), axis=1)], axis=1)
    until = rng.integers(5, 15, 1024)
    narrow = ServiceLevels(shift=0.0, spread=0.3, windows=8)
    # Demand is all but certain: the quantile is that of the lead times, however narrow past sums were.
    plain = np.quantile(sums[np.arange(1024), until], [0.5, 0.95])
    assert narrow.quantiles(sums, until, [0.5, 0.95]) == pytest.approx(plain, rel=0.02)
    fixed = np.full(1024, 8)
    assert narrow.quantiles(sums, fixed, [0.9])[0] == np.quantile(sums[:, 8], narrow.at(0.9))
