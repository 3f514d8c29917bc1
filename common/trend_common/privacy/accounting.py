"""What a run of noised gradients costs: ε from the noise, the sampling probability, the number of steps and δ.

The number is that of a privacy loss distribution (dp-accounting; Sommer et al. 2019, Doroshenko et al. 2022), an
upper bound for add/remove adjacency, Poisson sampling and Gaussian noise of standard deviation σ·C:

>>> round(epsilon_of(sigma=1.0, q=0.05, steps=150, delta=1e-5), 2)
4.18
>>> round(epsilon_of(sigma=10.0, q=0.5, steps=150, delta=1e-5), 2)
2.53

Where every unit takes part in every step (q = 1) T steps are one Gaussian mechanism with μ = √T/σ, and ε has an exact
formula (Balle & Wang 2018, arXiv:1805.06530, theorem 8) that needs no library:

>>> round(epsilon_of(sigma=4.84, q=1.0, steps=20, delta=1e-5), 3)
3.995
>>> noise_multiplier_for(epsilon=4.0, delta=1e-5, q=1.0, steps=20)
4.836

The "Gaussian DP" central-limit formula is used nowhere: for q < 1 it under-reports.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any

__all__ = [
    "Run",
    "best_guess",
    "compose",
    "epsilon_of",
    "gaussian_delta",
    "gaussian_epsilon",
    "group_run",
    "noise_multiplier_for",
    "upper_epsilon",
]

_INTERVAL = 1e-4
_COARSE_INTERVAL = 1e-3
_LEAST_SIGMA = 0.1
_MOST_STEPS = 100_000
"""Beyond these two the distribution is no longer computed; the ε of q = 1, which is larger, is reported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Steps of one mechanism: each is a Poisson-sampled sum of vectors of norm ≤ C, with noise N(0, σ²C²).

    Attributes:
        sigma: σ, the noise multiplier; 0 means no noise at all, and ε = ∞.
        q: Sampling probability of each unit.
        steps: T, how often; 0 costs nothing.
    """

    sigma: float
    q: float
    steps: int

    def __post_init__(self) -> None:
        if not (self.sigma >= 0 and math.isfinite(self.sigma)):
            raise ValueError(f"sigma is {self.sigma}; it must be a finite number, 0 or more")
        if not 0 < self.q <= 1:
            raise ValueError(f"q is {self.q}; it must be in (0, 1]")
        if self.steps < 0:
            raise ValueError(f"steps is {self.steps}; it must be 0 or more")


def epsilon_of(*, sigma: float, q: float, steps: int, delta: float) -> float:
    """ε of ``steps`` Poisson-sampled Gaussian steps.

    Raises:
        ValueError: A parameter is out of its range.
    """
    return compose([Run(sigma=sigma, q=q, steps=steps)], delta)


def compose(runs: Iterable[Run], delta: float) -> float:
    """ε at δ of several runs on the same units, one after another.

    Within a run the parameters are fixed beforehand. Across runs the total is exact for parameters fixed beforehand,
    and for q = 1 also when somebody chooses each run's noise after seeing the earlier results (Smith & Thakurta 2022,
    arXiv:2208.07784: Gaussian DP composes fully adaptively).

    Returns:
        ε ≥ 0, or infinity where a run has no noise.

    Raises:
        ValueError: δ is not in (0, 1).
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta is {delta}; it must be in (0, 1)")
    totals: dict[tuple[float, float], int] = {}
    for run in runs:
        if run.steps:
            totals[run.sigma, run.q] = totals.get((run.sigma, run.q), 0) + run.steps
    # Sorted, so that the cache answers whatever the order of the runs.
    return _compose(tuple(sorted((sigma, q, steps) for (sigma, q), steps in totals.items())), delta)


@lru_cache(maxsize=4096)
def _compose(runs: tuple[tuple[float, float, int], ...], delta: float) -> float:
    if any(sigma == 0 for sigma, _, _ in runs):
        return math.inf
    exact = [run for run in runs if run[1] == 1 or run[0] < _LEAST_SIGMA or run[2] > _MOST_STEPS]
    mu = math.sqrt(math.fsum(steps / sigma**2 for sigma, _, steps in exact))
    sampled = [run for run in runs if run not in exact]
    if not sampled:
        return gaussian_epsilon(mu, delta)
    if mu >= 1 / _LEAST_SIGMA:
        # So much is spent already that sampling no longer matters: every run as if q were 1 is an upper bound.
        return gaussian_epsilon(math.sqrt(math.fsum(steps / sigma**2 for sigma, _, steps in runs)), delta)
    interval = _INTERVAL if min(sigma for sigma, _, _ in sampled) >= 0.5 else _COARSE_INTERVAL
    parts = [_distribution(sigma, q, steps, interval) for sigma, q, steps in sampled]
    if mu > 0:
        parts.append(_distribution(1 / mu, 1.0, 1, interval))
    total = reduce(lambda left, right: left.compose(right), parts)
    return float(total.get_epsilon_for_delta(delta))


def upper_epsilon(runs: Iterable[Run], delta: float) -> float:
    """An ε that :func:`compose` does not exceed, in milliseconds: for searching, never for what is reported.

    Exact where every unit takes part; else by Rényi differential privacy of whole orders (Mironov et al. 2019,
    arXiv:1908.10530), which lies 5 to 15 % above.

    Raises:
        ValueError: δ is not in (0, 1).
    """
    used = [run for run in runs if run.steps]
    if all(run.q == 1 or run.sigma < _LEAST_SIGMA or run.steps > _MOST_STEPS for run in used):
        return compose(used, delta)
    if any(run.sigma == 0 for run in used):
        return math.inf
    from dp_accounting import dp_event
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(orders=[*range(2, 33), 40, 48, 64, 96, 128, 256])
    for run in used:
        one: Any = dp_event.GaussianDpEvent(run.sigma)
        if run.q < 1:
            one = dp_event.PoissonSampledDpEvent(run.q, one)
        accountant.compose(one, run.steps)
    return float(accountant.get_epsilon(delta))


def group_run(run: Run, *, whole: int = 1, changed: int = 0) -> Run:
    """What ``run`` is for a secret that takes part as several units: the run to compose in its place.

    A product in m stores, under series units, is m units that are there or not: together they move a sum by at most
    m·C. A series under product units is a part of one unit, whose clipped gradient may turn from g to −g without it:
    2·C. So for ``whole`` units added or removed and ``changed`` units replaced, with s = whole + 2·changed,

        q = 1:                μ becomes s·μ, that is σ becomes σ/s                 (exact for the worst such group)
        q < 1, changed = 0:   σ becomes σ/s and q becomes 1 − (1 − q)^whole        (an upper bound)
        q < 1, changed > 0:   σ becomes σ/s and q becomes 1                        (an upper bound)

    The first is group privacy of a Gaussian mechanism (Dong, Roth & Su 2022, arXiv:1905.02383, theorem 2.14). In the
    second, some unit of the group is drawn with probability 1 − (1 − q)^whole, and what is then added is a mixture of
    shifts of at most s·C: hockey-stick divergences are convex, so the largest shift bounds the mixture. The tight
    figure is a mixture of Gaussians (Ganesh 2024, arXiv:2401.10294), which takes dp-accounting minutes. The third
    holds by the same convexity for every outcome of the draw.

    >>> group_run(Run(sigma=6.0, q=1.0, steps=20), whole=3)
    Run(sigma=2.0, q=1.0, steps=20)
    >>> group_run(Run(sigma=6.0, q=0.5, steps=20), whole=3)
    Run(sigma=2.0, q=0.875, steps=20)

    Raises:
        ValueError: There are fewer than no units, or none at all.
    """
    shift = whole + 2 * changed
    if whole < 0 or changed < 0 or shift == 0:
        raise ValueError(f"whole is {whole} and changed is {changed}; both must be 0 or more, and one above 0")
    q = 1.0 if changed or run.q == 1 else -math.expm1(whole * math.log1p(-run.q))
    return Run(sigma=run.sigma / shift, q=q, steps=run.steps)


def best_guess(runs: Iterable[Run]) -> float:
    """How often the best possible guesser is right about one unit, if it is in the data with probability 1/2.

    He knows the mechanism, all that was released and all the other units. By Neyman and Pearson he is right with
    probability (1 + δ(0)) / 2, where δ(0) is the total variation between the two worlds; for q = 1 that is Φ(μ/2).

    >>> round(best_guess([Run(sigma=4.836, q=1.0, steps=20)]), 3)
    0.678

    Returns:
        Between 0.5 (he may as well toss a coin) and 1.
    """
    used = [run for run in runs if run.steps]
    if any(run.sigma == 0 for run in used):
        return 1.0
    exact = [run for run in used if run.q == 1 or run.sigma < _LEAST_SIGMA or run.steps > _MOST_STEPS]
    mu = math.sqrt(math.fsum(run.steps / run.sigma**2 for run in exact))
    delta = gaussian_delta(mu, 0.0) if mu else 0.0
    for run in used:
        if run not in exact:
            # The total variation of a composition is at most the sum: an upper bound, and a quick one.
            one = _distribution(run.sigma, run.q, run.steps, _COARSE_INTERVAL)
            delta += float(one.get_delta_for_epsilon(0.0))
    return (1.0 + min(1.0, delta)) / 2.0


@lru_cache(maxsize=64)
def _distribution(sigma: float, q: float, steps: int, interval: float) -> Any:
    """The privacy loss distribution of a run, rounded upwards to multiples of ``interval``."""
    # 1.3 s of imports, which a client with q = 1 never needs.
    from dp_accounting.pld import privacy_loss_distribution

    one = privacy_loss_distribution.from_gaussian_mechanism(
        sigma, sampling_prob=q, value_discretization_interval=interval, pessimistic_estimate=True
    )
    return one.self_compose(steps)


def noise_multiplier_for(*, epsilon: float, delta: float, q: float, steps: int) -> float:
    """The least σ, rounded up to four digits, for which :func:`epsilon_of` is at most ``epsilon``.

    Raises:
        ValueError: A parameter is out of its range.
    """
    if not (epsilon > 0 and math.isfinite(epsilon)):
        raise ValueError(f"epsilon is {epsilon}; it must be a finite number above 0")
    if steps < 1:
        raise ValueError(f"steps is {steps}; it must be 1 or more")
    if not 0 < q <= 1:
        raise ValueError(f"q is {q}; it must be in (0, 1]")
    if not 0 < delta < 1:
        raise ValueError(f"delta is {delta}; it must be in (0, 1)")
    # Without sampling: exact, and an upper bracket for every q, since sampling only helps.
    mu = _bisect(lambda mu: gaussian_epsilon(mu, delta) <= epsilon, good=0.0, bad=_first_mu_above(epsilon, delta))
    whole = math.sqrt(steps) / mu
    if q == 1:
        return _round_up(whole, lambda sigma: epsilon_of(sigma=sigma, q=1, steps=steps, delta=delta) <= epsilon)

    def excess(log_sigma: float) -> float:
        sigma = math.exp(log_sigma)
        if sigma < _LEAST_SIGMA or steps > _MOST_STEPS:
            return math.log(epsilon_of(sigma=sigma, q=q, steps=steps, delta=delta) / epsilon)
        # Coarse while searching: the result is confirmed below.
        interval = _COARSE_INTERVAL if q / sigma > 0.02 else _INTERVAL
        reached = float(_distribution(sigma, q, steps, interval).get_epsilon_for_delta(delta))
        return math.log(max(reached, 1e-9) / epsilon)

    from scipy.optimize import brentq

    low = math.log(whole)
    while excess(low) <= 0:
        low -= 0.5
    sigma = whole if low == math.log(whole) else math.exp(brentq(excess, low, low + 0.5, xtol=1e-5))
    return _round_up(sigma, lambda s: epsilon_of(sigma=s, q=q, steps=steps, delta=delta) <= epsilon)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The least ε of a Gaussian mechanism with sensitivity over noise ``mu``, at δ (to 1e-12, from above)."""
    if mu == 0 or gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    high = 1.0
    while gaussian_delta(mu, high) > delta:
        high *= 2
    return _bisect(lambda epsilon: gaussian_delta(mu, epsilon) <= delta, good=high, bad=0.0)


def gaussian_delta(mu: float, epsilon: float) -> float:
    """δ(ε) = Φ(μ/2 − ε/μ) − exp(ε)·Φ(−μ/2 − ε/μ): Balle & Wang 2018, theorem 8."""
    first = _log_phi(mu / 2 - epsilon / mu)
    second = epsilon + _log_phi(-mu / 2 - epsilon / mu)
    return math.exp(first) * -math.expm1(min(0.0, second - first))


def _log_phi(x: float) -> float:
    """log Φ(x); below −30 by the asymptotic series of Mills' ratio, whose error there is under 1e-11."""
    if x > -30:
        return math.log(0.5 * math.erfc(-x / math.sqrt(2)))
    series = 1 - 1 / x**2 + 3 / x**4 - 15 / x**6 + 105 / x**8
    return -0.5 * x * x - math.log(-x) - 0.5 * math.log(2 * math.pi) + math.log(series)


def _first_mu_above(epsilon: float, delta: float) -> float:
    mu = 1.0
    while gaussian_epsilon(mu, delta) <= epsilon:
        mu *= 2
    return mu


def _bisect(holds: Callable[[float], bool], *, good: float, bad: float) -> float:
    """The end of [good, bad] (either order) at which ``holds`` still holds, to a relative 1e-13."""
    while abs(good - bad) > 1e-13 * max(abs(good), abs(bad)):
        middle = (good + bad) / 2
        if middle in (good, bad):
            break
        if holds(middle):
            good = middle
        else:
            bad = middle
    return good


def _round_up(sigma: float, enough: Callable[[float], bool]) -> float:
    """``sigma`` rounded up to four significant digits, and further until it is ``enough``."""
    digits = 3 - math.floor(math.log10(sigma))
    units = math.ceil(sigma * 10.0**digits)
    while not enough(round(units / 10.0**digits, digits)):
        units += 1
    return round(units / 10.0**digits, digits)
