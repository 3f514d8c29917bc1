"""The audit's own arithmetic: bounds that hold, attacks that find what is there, tests that see odd draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom, binomtest, norm

from trend_common.privacy.accounting import epsilon_of, gaussian_epsilon, noise_multiplier_for
from trend_common.privacy.audit import (
    audit_scores,
    draw_p_value,
    epsilon_lower_bound,
    gaussian_estimate,
    gaussian_limits,
    membership,
    p_value,
)

DELTA = 1e-5


# --- the bound ---


@given(
    guesses=st.integers(1, 60),
    share=st.floats(0, 1),
    epsilon=st.floats(0, 5),
    delta=st.sampled_from([0.0, 1e-6, 1e-3, 0.1]),
    spare=st.integers(0, 50),
)
@settings(max_examples=60, deadline=None)
def test_the_p_value_is_the_theorems(guesses: int, share: float, epsilon: float, delta: float, spare: int) -> None:
    """Against the formula written out term by term, with scipy's own test for the part without δ."""
    right, m = round(share * guesses), guesses + spare
    success = 1 / (1 + math.exp(-epsilon))
    tail = binomtest(right, guesses, success, alternative="greater").pvalue
    slack = max(
        (sum(binom.pmf(j, guesses, success) for j in range(right - i, right)) / i for i in range(1, right + 1)),
        default=0.0,
    )
    found = p_value(canaries=m, guesses=guesses, right=right, epsilon=epsilon, delta=delta)
    assert found == pytest.approx(min(1.0, tail + 2 * m * delta * slack), rel=1e-9, abs=1e-12)


def test_one_who_knows_everything_is_believed_as_far_as_the_count_allows() -> None:
    """All of r guesses right: p = (e^ε / (1 + e^ε))^r, so the bound has a closed form without δ."""
    for r in (10, 100, 1000):
        wanted = -math.log(0.05 ** (-1 / r) - 1)
        found = epsilon_lower_bound(canaries=r, guesses=r, right=r, delta=0.0, confidence=0.95)
        assert found == pytest.approx(wanted, abs=1e-4)


def randomised_response(
    rng: np.random.Generator, m: int, epsilon: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The mechanism that the theorem is tight for: each coin is told truly with probability e^ε / (1 + e^ε)."""
    included = rng.random(m) < 0.5
    told = included ^ (rng.random(m) > 1 / (1 + math.exp(-epsilon)))
    return told + rng.uniform(-0.1, 0.1, m), included


@pytest.mark.parametrize("epsilon", [0.0, 1.0, 3.0])
def test_true_claims_are_refuted_no_more_often_than_was_said(epsilon: float) -> None:
    rng = np.random.default_rng(1)
    runs = 400
    wrong = sum(
        audit_scores(*randomised_response(rng, 200, epsilon), delta=0.0, gaussian=False).lower_bound > epsilon
        for _ in range(runs)
    )
    assert wrong <= binom.ppf(0.9999, runs, 0.05)


def test_the_bound_comes_near_the_truth_where_it_can() -> None:
    scores, included = randomised_response(np.random.default_rng(2), 20_000, 2.0)
    assert 1.85 < audit_scores(scores, included, delta=0.0, gaussian=False).lower_bound <= 2.0


@given(right=st.integers(50, 99), more=st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_more_right_guesses_prove_more_and_more_delta_less(right: int, more: int) -> None:
    def bound(right: int, delta: float) -> float:
        return epsilon_lower_bound(canaries=200, guesses=120, right=right, delta=delta, confidence=0.95)

    assert bound(right, DELTA) <= bound(right + more, DELTA)
    assert bound(right, 1e-3) <= bound(right, 0.0)


@pytest.mark.parametrize("wrong", [{"right": 11}, {"guesses": 21}, {"epsilon": -1.0}, {"delta": 1.0}])
def test_senseless_counts_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        p_value(**{"canaries": 20, "guesses": 10, "right": 5, "epsilon": 1.0, "delta": 0.0, **wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("epsilon", "q", "canaries", "claimed", "noise", "windows", "away"),
    [
        (4.0, 1.0, 1800, None, 1.0, 1, -5),
        (1.0, 1.0, 1800, None, 1.0, 1, -5),
        (2.0, 0.25, 3600, None, 1.0, 1, -5),
        (4.0, 1.0, 1800, None, 0.25, 1, 3),
        (4.0, 1.0, 1800, 1, 1.0, 1, 3),  # steps not counted: the claim is that of one
        (2.0, 0.25, 3600, None, 0.25, 1, 3),
        (2.0, 0.25, 3600, None, 1.0, 4, 3),  # windows clipped
    ],
)
def test_the_verdicts_of_one_run_are_not_luck(
    epsilon: float, q: float, canaries: int, claimed: int | None, noise: float, windows: int, away: int
) -> None:
    """Scores as an ideal client of the audit's plans would give them: how far is the bound from the claim?"""
    rng, steps = np.random.default_rng(8), 20
    sigma = noise_multiplier_for(epsilon=epsilon, delta=DELTA, q=q, steps=steps)
    claim = epsilon_of(sigma=sigma, q=q, steps=claimed or steps, delta=DELTA)
    found = []
    for _ in range(60):
        included = rng.random(canaries) < 0.5
        took = rng.binomial(steps, q, canaries)
        scores = windows * took * included + noise * sigma * math.sqrt(steps) * rng.standard_normal(canaries)
        found.append(audit_scores(scores, included, delta=DELTA, gaussian=False).lower_bound)
    distance = (np.mean(found) - claim) / np.std(found)
    assert distance < away if away < 0 else distance > away


# --- the estimate ---


@pytest.mark.parametrize("mu", [0.2, 0.925, 2.0])
def test_the_estimate_is_below_the_truth_as_often_as_it_says_and_near_it(mu: float) -> None:
    rng, truth, runs, m = np.random.default_rng(3), gaussian_epsilon(mu, DELTA), 300, 2000
    found = []
    for _ in range(runs):
        included = rng.random(m) < 0.5
        found.append(gaussian_estimate(7 + 3 * (mu * included + rng.standard_normal(m)), included, delta=DELTA))
    assert sum(value > truth for value in found) <= binom.ppf(0.9999, runs, 0.05)
    nearly = gaussian_epsilon(max(0.0, mu - 4 * math.sqrt(4 / m + mu**2 / (2 * m))), DELTA)
    assert np.median(found) >= nearly


def test_scores_that_hardly_vary_look_like_no_privacy_at_all() -> None:
    included = np.arange(100) % 2 == 0
    assert gaussian_estimate(included.astype(np.float64), included, delta=DELTA) == math.inf
    with pytest.raises(ValueError, match="two canaries"):
        gaussian_estimate(np.zeros(5), np.zeros(5, dtype=bool), delta=DELTA)


def test_pure_noise_proves_nothing() -> None:
    rng = np.random.default_rng(4)
    found = audit_scores(rng.standard_normal(1000), rng.random(1000) < 0.5, delta=DELTA)
    assert found.lower_bound < 0.1
    assert 0.45 < found.auc < 0.55
    assert found.guesses == 0 or found.right / found.guesses < 0.6


# --- draws ---


def poisson(rng: np.random.Generator, steps: int, units: int, q: float) -> NDArray[np.bool_]:
    return rng.random((steps, units)) < q


@pytest.mark.parametrize(("steps", "q"), [(4, 0.25), (20, 0.25), (20, 0.1), (10, 0.5)])
def test_true_draws_seldom_look_odd(steps: int, q: float) -> None:
    rng, runs = np.random.default_rng(5), 500
    found = np.array([draw_p_value(poisson(rng, steps, 400, q), q) for _ in range(runs)])
    for level in (0.01, 0.1):
        assert (found < level).sum() <= binom.ppf(0.99999, runs, level)
    assert found.max() > 0.5


def test_odd_draws_are_seen() -> None:
    rng, steps, units, q = np.random.default_rng(6), 20, 400, 0.25
    shuffled = np.zeros((steps, units), dtype=bool)
    for epoch in range(0, steps, 4):
        for step, batch in enumerate(np.array_split(rng.permutation(units), 4)):
            shuffled[epoch + step, batch] = True
    fixed = np.array([np.isin(np.arange(units), rng.choice(units, 100, replace=False)) for _ in range(steps)])
    the_same = np.repeat(poisson(rng, 1, units, q), steps, axis=0)
    for odd in (shuffled, fixed, the_same, poisson(rng, steps, units, 0.3)):
        assert draw_p_value(odd, q) < 1e-6
    with pytest.raises(ValueError, match="q is 1"):
        draw_p_value(fixed, 1.0)


# --- membership ---


@given(seed=st.integers(0, 1000), n=st.integers(1, 20), k=st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_the_auc_counts_pairs(seed: int, n: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    members, others = rng.integers(0, 6, n).astype(float), rng.integers(0, 5, k).astype(float)
    pairs = [(a > b) + 0.5 * (a == b) for a in members for b in others]
    found = membership(members, others, others)
    assert found.auc == pytest.approx(np.mean(pairs))
    assert found.auc_interval[0] <= found.auc <= found.auc_interval[1]


def test_no_attack_on_a_gaussian_beats_the_limits_and_the_best_reaches_them() -> None:
    rng, mu, n = np.random.default_rng(7), 0.925, 200_000
    auc, tpr = gaussian_limits(mu, 0.01)
    found = membership(rng.normal(mu, 1, n), rng.normal(0, 1, n), rng.normal(0, 1, n))
    assert found.auc == pytest.approx(auc, abs=0.005)
    assert found.tpr == pytest.approx(tpr, abs=0.005)
    assert found.fpr == pytest.approx(0.01, abs=0.002)
    # The limits follow from the definition as well: TPR <= e^ε · FPR + δ.
    assert tpr <= math.exp(gaussian_epsilon(mu, DELTA)) * 0.01 + DELTA
    assert gaussian_limits(0.0, 0.01) == pytest.approx((0.5, 0.01))
    assert gaussian_limits(50.0, 0.01) == pytest.approx((1.0, 1.0))
    assert auc == pytest.approx(float(norm.cdf(mu / math.sqrt(2))))


def test_nobody_to_ask_about_is_refused() -> None:
    with pytest.raises(ValueError, match="members"):
        membership(np.zeros(0), np.zeros(3), np.zeros(3))
