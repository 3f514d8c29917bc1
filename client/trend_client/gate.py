"""The choice among methods: per series, shrunk towards the retailer's ranking, never worse than the old method.

One validation window says little about a single product, so its verdict is trusted in part only:

1. A method's loss on a series is its scaled quantile loss; the retailer's *default* is the method of the lowest mean.
2. What a method promises a series is log(its loss / the default's loss), pulled towards log(its mean / the default's
   mean) over all series: W validation windows give the series' own evidence the weight W / (W + 2). The series takes
   the method that promises most.
3. Since no method promises less than the default over all series, a series leaves the default only for a method that
   was better on that very series. So the combination's mean loss on validation is never above that of the best single
   method, and the old methods are among the candidates: the choice is never worse than they are there.

The logarithm keeps one wild series from deciding about the others. A weight estimated per series (empirical Bayes)
did no better on eight retail panels, and taking each series' own winner did worse (``docs/scoring.md``).

The choice, the losses and the verdict are about private sales. They live in objects and files of this machine.
Shapes: S series, M methods, H horizon steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from trend_common.forecasts import Forecast, choose_rows
from trend_common.metrics import SeasonalError, pinball

__all__ = ["CHOSEN", "Choice", "Gain", "Window", "choose", "compared", "gain", "verdict"]

Array = NDArray[np.float64]

CHOSEN: Final = "chosen"
"""The name of the combination in tables of methods."""

_PRIOR_WINDOWS: Final = 2
"""How many windows of a series' own evidence the retailer's overall ranking is worth."""

_FLOOR: Final = 0.05
"""Part of the median loss that is added to each loss, so that a perfect window does not weigh without bound."""

_RESAMPLES: Final = 2000
_FEWEST_FOR_INTERVAL: Final = 5


@dataclass(frozen=True, eq=False)
class Window:
    """One validation window.

    Attributes:
        y: [S, H] what came to pass, NaN where unknown.
        forecasts: Method → forecast of the same S series in the same order.
    """

    y: Array
    forecasts: Mapping[str, Forecast]


@dataclass(frozen=True)
class Choice:
    """Which method each series gets.

    Attributes:
        default: The method for series that were not on validation (new products among them).
        methods: Series → method.
        ranking: All methods, best mean loss on validation first.
        losses: Method → mean loss on validation; ``chosen`` is the combination's.
    """

    default: str
    methods: Mapping[str, str]
    ranking: tuple[str, ...]
    losses: Mapping[str, float]

    @property
    def counts(self) -> dict[str, int]:
        """Method → number of series, most first."""
        used = list(self.methods.values())
        return {name: used.count(name) for name in sorted(set(used), key=lambda name: (-used.count(name), name))}

    def apply(self, forecasts: Mapping[str, Forecast]) -> Forecast:
        """The chosen forecast of every series that any method can forecast.

        A series without a choice, or whose method has no forecast for it, takes the best-ranked method that has one.

        Args:
            forecasts: Method → forecast, all of one horizon; a method may lack series, or be absent.

        Returns:
            Series in the order of their first appearance over the ranking.
        """
        order = [name for name in (self.default, *self.ranking) if name in forecasts]
        available = {name: frozenset(forecasts[name].ids) for name in order}
        rows: dict[str, str] = {}
        for name in order:
            for series in forecasts[name].ids:
                wanted = self.methods.get(series, self.default)
                rows.setdefault(series, wanted if series in available.get(wanted, ()) else name)
        return choose_rows(forecasts, rows)


@dataclass(frozen=True)
class Gain:
    """How the choice compares with an old method on one window.

    Attributes:
        against: The old method.
        relative: 1 − loss of the choice / loss of the old method; 0.1 is 10 % lower, negative is higher.
        low, high: 95 % bootstrap interval over series, or None with too few series.
        series: Series compared.
    """

    against: str
    relative: float
    low: float | None
    high: float | None
    series: int

    @property
    def outcome(self) -> Literal["better", "unclear", "worse"]:
        """Whether the interval excludes no difference."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return "unclear"
        return "better" if self.low > 0 else "worse"


def choose(windows: Sequence[Window], scale: SeasonalError, *, incumbents: Sequence[str] = ()) -> Choice:
    """Choose a method for each series.

    Args:
        windows: One or more validation windows with the same series and methods. No method may have trained on them.
        scale: [S] seasonal errors. Series that cannot be scaled take the default; if none can, losses are unscaled.
        incumbents: The old methods, which win ties; each must be among the methods.

    Raises:
        ValueError: No window or method, or an incumbent that is not among the methods.
    """
    if not windows or not windows[0].forecasts:
        raise ValueError("windows: at least one window with one method is needed")
    names = list(windows[0].forecasts)
    strange = [name for name in incumbents if name not in names]
    if strange:
        raise ValueError(f"incumbents: {strange[0]!r} is not among the methods {names}")
    # Incumbents first: argmin takes the first of equals, so a newcomer must be strictly better.
    names = [*dict.fromkeys(incumbents), *(name for name in names if name not in incumbents)]
    ids = windows[0].forecasts[names[0]].ids
    divisor = scale.absolute if scale.usable.any() else np.ones(len(ids))
    divisor = np.where(divisor > 0, divisor, np.nan)[:, None]
    loss = np.stack(
        [_known_mean(np.concatenate([pinball(w.y, w.forecasts[name]) for w in windows], axis=1)) for name in names],
        axis=-1,
    )
    loss = loss / divisor
    judged = np.flatnonzero(~np.isnan(loss).any(axis=1))
    if not judged.size:
        return Choice(names[0], dict.fromkeys(ids, names[0]), tuple(names), {})
    loss = loss[judged]
    mean = loss.mean(axis=0)
    best = int(np.argmin(mean))
    picked = np.full(len(ids), best)
    picked[judged] = np.argmin(_promise(loss, mean, best, len(windows)), axis=1)
    combined = float(loss[np.arange(len(judged)), picked[judged]].mean())
    order = np.argsort(mean, kind="stable")
    return Choice(
        names[best],
        {name: names[column] for name, column in zip(ids, picked, strict=True)},
        tuple(names[column] for column in order),
        {**{names[column]: float(mean[column]) for column in order}, CHOSEN: combined},
    )


def gain(chosen: Array, reference: Array, *, against: str, seed: int = 0) -> Gain:
    """How much lower the chosen losses are than the reference's, with a paired bootstrap over series.

    Args:
        chosen: [S] losses of the choice, NaN where a series has none.
        reference: [S] losses of the old method on the same series.
        against: The old method's name.
        seed: Of the resampling.
    """
    both = ~np.isnan(chosen) & ~np.isnan(reference)
    new, old = chosen[both], reference[both]
    if not len(new) or old.sum() <= 0:
        return Gain(against, float("nan"), None, None, len(new))
    relative = 1 - new.sum() / old.sum()
    if len(new) < _FEWEST_FOR_INTERVAL:
        return Gain(against, float(relative), None, None, len(new))
    rng = np.random.default_rng(seed)
    draws = np.empty(_RESAMPLES)
    for position in range(_RESAMPLES):
        rows = rng.integers(0, len(new), len(new))
        total = old[rows].sum()
        draws[position] = 1 - new[rows].sum() / total if total > 0 else 0.0
    low, high = np.quantile(draws, (0.025, 0.975))
    return Gain(against, float(relative), float(low), float(high), len(new))


def verdict(choice: Choice, validation: Gain, test: Gain | None, *, names: Mapping[str, str] | None = None) -> str:
    """The decision in plain words for the planner who has to trust it.

    Args:
        choice: What was chosen.
        validation: The gain over the old method where it was chosen.
        test: The gain on the later window that the choice never saw, if there is one.
        names: Method → its name for people; default the method's own name.
    """
    called = dict(names or {})
    counts = choice.counts
    total = sum(counts.values())
    if len(counts) == 1:
        only = next(iter(counts))
        first = f"{called.get(only, only)} is used for {_all(total)}"
    else:
        parts = [f"{called.get(name, name)} for {count}" for name, count in counts.items()]
        first = f"Of {total} product series, " + ", ".join(parts[:-1]) + f" and {parts[-1]}"
    old = called.get(validation.against, validation.against)
    if set(counts) == {validation.against}:
        sentences = [first, "It is what a retailer could do before: nothing beat it on validation"]
        if test is not None:
            sentences.append("So the test window holds no gain and no loss")
        return ". ".join(sentences) + "."
    sentences = [first, f"On validation the error was {compared(validation)} than with {old}"]
    sentences.append("The choice was made there, so this figure flatters it")
    if test is not None:
        outcome = {
            "better": "The gain held",
            "unclear": "The difference is within what chance among series can do",
            "worse": "The old method would have been better in those weeks",
        }[test.outcome]
        sentences.append(f"On the test window, which the choice never saw, it was {compared(test)}. {outcome}")
    return ". ".join(sentences) + "."


def _all(total: int) -> str:
    return "the only product series" if total == 1 else f"all {total} product series"


def compared(value: Gain) -> str:
    """ "14 % lower (95 % interval over series: 9 % lower to 19 % lower)"."""
    if np.isnan(value.relative):
        return "not comparable (nothing sold)"
    text = _percent(value.relative)
    if value.low is None or value.high is None:
        return f"{text} ({value.series} series: too few for an interval)"
    ends = (value.low, value.high) if value.high > 0 else (value.high, value.low)  # the lesser difference first
    return f"{text} (95 % interval over series: {_percent(ends[0])} to {_percent(ends[1])})"


def _percent(relative: float) -> str:
    share = abs(relative) * 100
    digits = 0 if share >= 9.5 else 1
    if round(share, digits) == 0:
        return "the same"
    return f"{share:.{digits}f} % {'lower' if relative > 0 else 'higher'}"


def _promise(loss: Array, mean: Array, best: int, windows: int) -> Array:
    """[S, M] log loss relative to the default, each series' own shrunk towards the retailer's."""
    floor = _FLOOR * (np.median(loss) or loss.mean() or 1.0)
    own = np.log((loss + floor) / (loss[:, [best]] + floor))
    overall = np.log((mean + floor) / (mean[best] + floor))
    weight = windows / (windows + _PRIOR_WINDOWS)
    # ``overall`` is nowhere below 0 (the default has the lowest mean), so a promise below 0 needs ``own`` below
    # 0. The guarantee in the docstring of this module rests on it: keep this a mean of the two.
    return np.asarray(weight * own + (1 - weight) * overall)


def _known_mean(values: Array) -> Array:
    """Means over axis 1, NaN where nothing is known."""
    known = ~np.isnan(values)
    count = known.sum(axis=1)
    return np.asarray(np.where(count > 0, np.where(known, values, 0.0).sum(axis=1) / np.maximum(count, 1), np.nan))
