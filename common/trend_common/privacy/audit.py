"""How much privacy was really lost, measured from outside: lower bounds on ε to hold against the ε that is claimed.

An audit puts *canaries*, units that an attacker made himself, into the data or leaves them out, by the toss of a coin
for each, runs the mechanism once, gives each canary a score from what was released, and guesses. If the mechanism is
(ε, δ)-private, only so many guesses can be right; if more are, the claim is false (Steinke, Nasr & Jagielski 2023,
arXiv:2305.08846). The bound holds for every mechanism and every score, with the stated confidence:

>>> round(epsilon_lower_bound(canaries=1000, guesses=100, right=100, delta=1e-5, confidence=0.95), 1)
3.5
>>> epsilon_lower_bound(canaries=1000, guesses=100, right=55, delta=1e-5, confidence=0.95)
0.0

One run can prove only so much, so a bound far below the claim does not say that the claim is loose. Beside it stands
an *estimate* for mechanisms whose scores are independent and Gaussian with one variance (every unit in every step,
Gaussian noise, one coordinate a canary), in the manner of Andrew et al. 2023 (arXiv:2302.03098). It comes near to the
true ε, but it is evidence under those assumptions and no proof.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trend_common.privacy.accounting import gaussian_epsilon

__all__ = [
    "Audit",
    "Membership",
    "audit_scores",
    "draw_p_value",
    "epsilon_lower_bound",
    "gaussian_estimate",
    "gaussian_limits",
    "membership",
    "p_value",
]

SHARES: Final = (0.02, 0.05, 0.1, 0.25, 0.5)
"""Shares of the canaries that are guessed to be in, and as many to be out; the rest is not guessed."""
_MOST: Final = 60.0
"""No bound beyond this is looked for: there the mechanism protects nothing."""


@dataclass(frozen=True, slots=True)
class Audit:
    """What one run showed.

    Attributes:
        canaries: m.
        guesses, right: Of the number of guesses that gave the best bound.
        lower_bound: ε is at least this, with probability ``confidence``, whatever the mechanism.
        estimate: The ε that the scores look like (lower end of its interval) if they are independent and Gaussian;
            None where they are known not to be.
        auc: Probability that a canary that was in has a higher score than one that was not.
        confidence: Of the two bounds.
    """

    canaries: int
    guesses: int
    right: int
    lower_bound: float
    estimate: float | None
    auc: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Membership:
    """How well a score tells members from others.

    Attributes:
        auc: Area under the curve, ties counted half; 0.5 is a coin.
        auc_interval: 95 % interval of it (Hanley & McNeil 1982).
        tpr, fpr: Share of the members, and of the others, above the threshold.
        members, others: How many there were of each (the others without those that set the threshold).
    """

    auc: float
    auc_interval: tuple[float, float]
    tpr: float
    fpr: float
    members: int
    others: int


def p_value(*, canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """The chance of at least ``right`` right guesses if the mechanism is (ε, δ)-private: theorem 5.2 of the paper.

    Without δ the number of right guesses is at most a binomial with success probability e^ε / (1 + e^ε); δ adds at
    most 2·m·δ · max_i P[v − i ≤ X < v] / i.

    Args:
        canaries: m, each included by a fair coin of its own.
        guesses: r, those not abstained from.
        right: v.
        epsilon, delta: The claim.

    Raises:
        ValueError: The counts are not 0 ≤ v ≤ r ≤ m, or ε or δ is out of range.
    """
    from scipy.stats import binom

    if not 0 <= right <= guesses <= canaries:
        raise ValueError(f"right is {right}, guesses {guesses}, canaries {canaries}; they must be in that order")
    if epsilon < 0 or not 0 <= delta < 1:
        raise ValueError(f"epsilon is {epsilon} and delta {delta}; they must be 0 or more, and delta below 1")
    success = 1.0 / (1.0 + math.exp(-epsilon))
    tail = float(binom.sf(right - 1, guesses, success))
    if right == 0 or delta == 0:
        return min(1.0, tail)
    below = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), guesses, success))
    slack = float(np.max(below / np.arange(1, right + 1)))
    return min(1.0, tail + 2.0 * canaries * delta * slack)


def epsilon_lower_bound(*, canaries: int, guesses: int, right: int, delta: float, confidence: float) -> float:
    """The largest ε that the guesses refute: any smaller claim at ``delta`` is false, with this confidence."""

    def refuted(epsilon: float) -> bool:
        found = p_value(canaries=canaries, guesses=guesses, right=right, epsilon=epsilon, delta=delta)
        return found < 1.0 - confidence

    if not refuted(0.0):
        return 0.0
    low, high = 0.0, _MOST
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def gaussian_estimate(
    scores: NDArray[np.float64], included: NDArray[np.bool_], *, delta: float, confidence: float = 0.95
) -> float:
    """The ε at δ of a Gaussian mechanism whose scores look like these: the lower end of a one-sided interval.

    The distance of the two means over the common standard deviation estimates μ; its standard error is about
    √(1/n₁ + 1/n₀ + μ²/(2m)).

    Returns:
        ε ≥ 0; infinity where the scores hardly vary.

    Raises:
        ValueError: Fewer than two canaries are in, or fewer than two are out.
    """
    from scipy.stats import norm

    inside, outside = scores[included], scores[~included]
    if min(len(inside), len(outside)) < 2:
        raise ValueError("at least two canaries must be in and two out")
    squares = ((inside - inside.mean()) ** 2).sum() + ((outside - outside.mean()) ** 2).sum()
    deviation = math.sqrt(squares / (len(scores) - 2))
    apart = float(inside.mean() - outside.mean())
    if deviation <= 1e-6 * abs(apart):
        return math.inf
    mu = apart / deviation
    error = math.sqrt(1 / len(inside) + 1 / len(outside) + mu**2 / (2 * len(scores)))
    return gaussian_epsilon(max(0.0, mu - float(norm.ppf(confidence)) * error), delta)


def audit_scores(
    scores: NDArray[np.float64],
    included: NDArray[np.bool_],
    *,
    delta: float,
    confidence: float = 0.95,
    shares: Sequence[float] = SHARES,
    gaussian: bool = True,
) -> Audit:
    """Guess the highest scores in and the lowest out, for each share, and take the best bound.

    The shares are fixed beforehand and the error probability is divided by their number (Bonferroni), so trying
    several costs no confidence.

    Args:
        scores: [m], higher for a canary that seems to be in.
        included: [m], the truth: fair coins.
        delta: δ of the claim.
        confidence: Of the bounds.
        shares: Of the canaries guessed to be in, at most 0.5 each.
        gaussian: Whether an estimate makes sense.
    """
    m = len(scores)
    order = np.argsort(scores, kind="stable")
    best = (0.0, 0, 0)
    for share in shares:
        half = int(m * share)
        right = int((~included[order[:half]]).sum() + included[order[m - half :]].sum())
        bound = epsilon_lower_bound(
            canaries=m,
            guesses=2 * half,
            right=right,
            delta=delta,
            confidence=1.0 - (1.0 - confidence) / len(shares),
        )
        best = max(best, (bound, 2 * half, right))
    estimate = gaussian_estimate(scores, included, delta=delta, confidence=confidence) if gaussian else None
    return Audit(
        canaries=m,
        guesses=best[1],
        right=best[2],
        lower_bound=best[0],
        estimate=estimate,
        auc=_auc(scores[included], scores[~included]),
        confidence=confidence,
    )


def draw_p_value(drawn: NDArray[np.bool_], q: float) -> float:
    """How likely draws as odd as these are, if every unit is drawn with probability ``q`` in every step, by itself.

    Two questions, each both ways: do the units' totals spread as binomials do (batches dealt from a shuffle give
    every unit the same), and do the steps' totals (batches of a fixed size do not spread at all)?

    Args:
        drawn: [T, n], unit i took part in step t; n in the hundreds.
        q: Below 1.

    Returns:
        The smaller of the two p-values, doubled for having two.

    Raises:
        ValueError: q is not in (0, 1).
    """
    from scipy.stats import chi2, norm

    if not 0 < q < 1:
        raise ValueError(f"q is {q}; it must be in (0, 1)")
    steps, units = drawn.shape
    # Of a binomial with T trials: variance v and fourth central moment 3v² + v(1 − 6q(1 − q)).
    v = steps * q * (1 - q)
    spread = float(((drawn.sum(axis=0) - steps * q) ** 2).sum())
    z = (spread - units * v) / math.sqrt(units * (2 * v**2 + v * (1 - 6 * q * (1 - q))))
    by_unit = 2.0 * float(norm.sf(abs(z)))
    sizes = float(((drawn.sum(axis=1) - units * q) ** 2).sum()) / (units * q * (1 - q))
    by_step = 2.0 * float(min(chi2.cdf(sizes, steps), chi2.sf(sizes, steps)))
    return min(1.0, 2.0 * min(by_unit, by_step))


def membership(
    members: NDArray[np.float64],
    others: NDArray[np.float64],
    calibration: NDArray[np.float64],
    *,
    fpr: float = 0.01,
) -> Membership:
    """How well a score tells members from others, with a threshold that was set on yet others.

    Args:
        members, others: Scores, higher for what seems to be a member.
        calibration: Scores of non-members that the attacker has; ``fpr`` of these lie above the threshold.
        fpr: The false-positive rate that he aims at.

    Raises:
        ValueError: One of the three is empty.
    """
    if not (len(members) and len(others) and len(calibration)):
        raise ValueError("there must be members, others, and others for the threshold")
    auc = _auc(members, others)
    n, k = len(members), len(others)
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = (auc * (1 - auc) + (n - 1) * (q1 - auc**2) + (k - 1) * (q2 - auc**2)) / (n * k)
    half = 1.96 * math.sqrt(max(variance, 0.0))
    threshold = float(np.quantile(calibration, 1 - fpr))
    return Membership(
        auc=auc,
        auc_interval=(max(0.0, auc - half), min(1.0, auc + half)),
        tpr=float((members > threshold).mean()),
        fpr=float((others > threshold).mean()),
        members=n,
        others=k,
    )


def gaussian_limits(mu: float, fpr: float) -> tuple[float, float]:
    """The largest AUC, and true-positive rate at ``fpr``, that any attack on a Gaussian mechanism can reach.

    Φ(μ/√2) and Φ(Φ⁻¹(fpr) + μ), by the Neyman–Pearson lemma (Dong, Roth & Su 2022, arXiv:1905.02383).

    >>> [round(value, 3) for value in gaussian_limits(0.925, 0.01)]
    [0.743, 0.081]
    """
    from scipy.stats import norm

    return float(norm.cdf(mu / math.sqrt(2))), float(norm.cdf(norm.ppf(fpr) + mu))


def _auc(members: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """The chance that a member scores higher than another, ties counted half (Mann & Whitney 1947)."""
    from scipy.stats import rankdata

    n, k = len(members), len(others)
    if not n or not k:
        return 0.5
    ranks = rankdata(np.concatenate([members, others]))
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * k))
