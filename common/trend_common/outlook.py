"""Can a federation of a given size work? What an operator can know before anybody has been asked.

With q = 1 every one of n clients adds noise of σ·C to the sum over its N series, so the mean gradient over all n·N
series carries noise of s·C in each element, where

    s = σ / (N · √n)

and C is the longest gradient that a single series may have: s is the noise in units of the most that one series could
say. What a federation is worth at a given s was measured on synthetic retailers (``docs/benchmark.md``). Their world
leaves a pretrained model little to learn, and a real federation may gain more, or nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from trend_common.defaults import DEFAULT_ROUNDS
from trend_common.privacy.accounting import noise_multiplier_for

__all__ = ["MEASURED", "Lever", "Measured", "Outlook", "expected", "noise_share", "outlook"]


@dataclass(frozen=True)
class Measured:
    """What synthetic federations gained at one noise share.

    Attributes:
        s: The noise share.
        gain: How much lower WQL was than the pretrained model's, in percent of it.
        error: Standard error of ``gain`` over retailers and markets.
        better: Share of retailers that were better.
    """

    s: float
    gain: float
    error: float
    better: float


MEASURED: Final = (
    Measured(0, 1.04, 0.52, 0.58),
    Measured(0.003, 0.73, 0.42, 0.61),
    Measured(0.01, 0.70, 0.34, 0.67),
    Measured(0.03, 0.51, 0.23, 0.65),
    Measured(0.1, 0.11, 0.14, 0.60),
)
"""Twelve weekly retailers of up to 30 series and 26 weeks in each of three synthetic markets, ten rounds."""


@dataclass(frozen=True)
class Lever:
    """One thing that an operator could change, and what it would do."""

    name: str
    s: float
    gain: float


@dataclass(frozen=True)
class Outlook:
    """What is known beforehand about a federation.

    Attributes:
        retailers, series, epsilon, delta, rounds: As asked.
        sigma: Noise multiplier of each client.
        s: The noise share.
        gain, error, better: As in :class:`Measured`, between the measured shares.
        ceiling: The gain without noise.
        levers: Changes, the one that lowers the noise most first.
    """

    retailers: int
    series: int
    epsilon: float
    delta: float
    rounds: int
    sigma: float
    s: float
    gain: float
    error: float
    better: float
    ceiling: float
    levers: tuple[Lever, ...]

    @property
    def verdict(self) -> str:
        """One sentence."""
        if self.s > MEASURED[-1].s:
            return "This is more noise than any federation that was measured could bear: expect nothing of it."
        kept = "at least half" if self.gain < 0.8 * self.ceiling else "most"
        if self.gain < 0.5 * self.ceiling:
            return "The noise eats most of what training together is worth: more signal is needed."
        told = f"At this size {kept} of what training together is worth survives the noise"
        if self.gain - 2 * self.error <= 0:
            return f"{told}; on synthetic retailers that is too little to tell from chance."
        return f"{told}."

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"schema": 1, "command": "trend-sim plan", **asdict(self), "verdict": self.verdict}


def noise_share(*, sigma: float, series: int, retailers: int) -> float:
    """s = σ / (N · √n).

    Args:
        sigma: σ of each client.
        series: N, series of each client.
        retailers: n.

    Raises:
        ValueError: There are no series or retailers.
    """
    if series < 1 or retailers < 1:
        raise ValueError(f"series {series}, retailers {retailers}: expected at least 1 each")
    return sigma / (series * math.sqrt(retailers))


def expected(s: float, measured: Sequence[Measured] = MEASURED) -> Measured:
    """The measured gain at ``s``: between two shares linear in log s, below the least one linear in s.

    Beyond the largest share nothing was measured; the gain there is taken to fall as 1 / s.
    """
    known = sorted((one for one in measured if one.s > 0), key=lambda one: one.s)
    silent = next((one for one in measured if one.s == 0), known[0])
    if s <= 0:
        return silent
    if s > known[-1].s:
        fading = known[-1].s / s
        return Measured(s, known[-1].gain * fading, known[-1].error, 0.5 + (known[-1].better - 0.5) * fading)
    log = s >= known[0].s
    rows = known if log else [silent, known[0]]
    at = [math.log(one.s) if log else one.s for one in rows]
    found = {
        name: float(np.interp(math.log(s) if log else s, at, [getattr(one, name) for one in rows]))
        for name in ("gain", "error", "better")
    }
    return Measured(s, **found)


def outlook(
    *, retailers: int, series: int, epsilon: float, delta: float = 1e-5, rounds: int = DEFAULT_ROUNDS
) -> Outlook:
    """What a federation of this size can expect.

    Args:
        retailers: n.
        series: N of each.
        epsilon, delta: Of each series, over all rounds.
        rounds: T.
    """

    def at(n: int, size: int, budget: float, steps: int) -> tuple[float, float]:
        sigma = noise_multiplier_for(epsilon=budget, delta=delta, q=1.0, steps=steps)
        return sigma, noise_share(sigma=sigma, series=size, retailers=n)

    sigma, s = at(retailers, series, epsilon, rounds)
    here, silent = expected(s), expected(0.0)
    changed = {
        f"{2 * retailers} retailers": (2 * retailers, series, epsilon, rounds),
        f"{2 * series} series each": (retailers, 2 * series, epsilon, rounds),
        f"ε = {2 * epsilon:g}": (retailers, series, 2 * epsilon, rounds),
    }
    if rounds > 1:
        changed[f"{rounds // 2} rounds"] = (retailers, series, epsilon, rounds // 2)
    levers = [Lever(name, at(*one)[1], expected(at(*one)[1]).gain) for name, one in changed.items()]
    return Outlook(
        retailers,
        series,
        epsilon,
        delta,
        rounds,
        sigma,
        s,
        here.gain,
        here.error,
        here.better,
        silent.gain,
        tuple(sorted(levers, key=lambda one: one.s)),
    )
