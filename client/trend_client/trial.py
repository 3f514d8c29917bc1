"""A slow method is tried on a sample of series before it is run on all.

AutoETS needs minutes for a thousand daily series, and on many panels it ends up chosen for none of them. So with many
series it is first scored on a fixed sample in the last validation window, and is left out where the sample shows that
it does not matter. All of this must hold there:

1. Its mean loss is clearly above that of the best other old method: the 95 % bootstrap interval over the sampled
   series excludes no difference. Where the sample cannot tell, the method is run on all.
2. The gate, given all methods, would take it for fewer than 5 % of the sampled series.
3. Its mean loss is not below that of the choice that was made without it. So on the series that it was tried on, the
   choice is never worse than the method that was left out; on all series, never worse than the old methods that were
   run on all.

A method that was left out is no candidate for any series, and its scores stand beside the other methods' scores on
the very same sample. The sample is drawn by a hash of the series' names: it is the same at every run, and blind to
sales.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trend_client import gate
from trend_client.gate import CHOSEN, Gain, Window
from trend_common.metrics import SeasonalError, series_losses

__all__ = ["Trial", "Tryout", "judge", "losses", "sampled"]

_WORTHWHILE: Final = 0.05
"""Share of the sampled series from which on a method is worth running on all."""


@dataclass(frozen=True)
class Tryout:
    """Which methods are tried on a sample first.

    Attributes:
        methods: Slow methods. Each must forecast a series by that series' own rows alone.
        series: Size of the sample.
        above: Frequency → number of series up to which every method is run on all. Weeks and months have short
            histories and no season of seven, so they are quick.
        windows: Validation windows, the last ones, in which a method that passed its trial is then scored.
    """

    methods: tuple[str, ...] = ("auto-ets", "auto-theta")
    series: int = 150
    above: Mapping[str, int] = field(default_factory=lambda: {"D": 300, "W": 2000, "M": 2000})
    windows: int = 2


@dataclass(frozen=True)
class Trial:
    """What a slow method showed on the sample, on validation.

    Attributes:
        method: Its name.
        series, of: Sampled series, and series that the other methods are compared on.
        gain: Against the best other old method on the sample; negative where the slow one is worse.
        share: Of the sampled series, those that the gate would give to it.
        competitive: Whether it was then run on all series.
    """

    method: str
    series: int
    of: int
    gain: Gain
    share: float
    competitive: bool

    def sentence(self, names: Mapping[str, str]) -> str:
        """What became of it, for people."""
        called, old = (names.get(name, name) for name in (self.method, self.gain.against))
        tried = f"{called} was first tried on a sample of {self.series:,} of {self.of:,} series"
        if self.competitive:
            return f"{tried}, could matter there, and was then run on all."
        return (
            f"{tried}. Its error there was {gate.compared(self.gain)} than with {old}, so it was not run on the "
            "others, and no series uses it."
        )


def sampled(ids: Sequence[str], count: int) -> tuple[str, ...]:
    """``count`` of the names, those with the lowest SHA-256, in the order given; all of them if there are no more."""
    ranked = sorted(ids, key=lambda name: hashlib.sha256(f"sample:{name}".encode()).digest())
    chosen = set(ranked[:count])
    return tuple(name for name in ids if name in chosen)


def losses(windows: Sequence[Window], name: str, scale: SeasonalError) -> NDArray[np.float64]:
    """[S] a method's scaled quantile losses, averaged over the windows where it has one; NaN where it has none."""
    found = np.stack([series_losses(one.y, one.forecasts[name], scale) for one in windows if name in one.forecasts])
    known = ~np.isnan(found)
    count = known.sum(axis=0)
    return np.asarray(np.where(count > 0, np.where(known, found, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan))


def judge(
    method: str, windows: Sequence[Window], scale: SeasonalError, *, incumbents: Sequence[str], of: int
) -> Trial:
    """Whether a slow method could matter, by the three rules of this module.

    Args:
        method: The slow one.
        windows: Validation windows of the sampled series, with all methods and the choice made without the slow one
            (:data:`~trend_client.gate.CHOSEN`).
        scale: [S] seasonal errors of the sampled series.
        incumbents: The other old methods.
        of: Series that the other methods are compared on.
    """
    own, chosen = losses(windows, method, scale), losses(windows, CHOSEN, scale)
    others = {name: losses(windows, name, scale) for name in incumbents}
    scored = ~np.isnan(own)
    best = min(others, key=lambda name: float(others[name][scored].mean()) if scored.any() else 0.0)
    found = gate.gain(own, others[best], against=best)
    candidates = [Window(one.y, {n: f for n, f in one.forecasts.items() if n != CHOSEN}) for one in windows]
    choice = gate.choose(candidates, scale, incumbents=[*incumbents])
    share = choice.counts.get(method, 0) / len(choice.methods)
    beats_choice = bool(scored.any()) and float(own[scored].mean()) < float(chosen[scored].mean())
    competitive = found.outcome != "worse" or share >= _WORTHWHILE or beats_choice
    return Trial(method, len(choice.methods), of, found, share, competitive)
