"""The choice among methods: per series, shrunk towards the retailer's ranking, never worse than the old method.

There are two styles. A *choice* gives each series one method, a *blend* a weighted mean of several
(:mod:`trend_client.weighing`). A blend that was worse on validation than an old method gives way to the choice.

A few validation windows say little about a single product, so its verdict is trusted in part only:

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
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from trend_client.weighing import Evidence, panel_weights, pruned, series_weights
from trend_common.blending import blend
from trend_common.calibration import Calibration
from trend_common.forecasts import Forecast
from trend_common.metrics import SeasonalError, pinball

__all__ = ["CHOSEN", "Choice", "Gain", "Style", "Window", "choose", "compared", "gain", "verdict"]

Style = Literal["choice", "blend"]

Array = NDArray[np.float64]

CHOSEN: Final = "chosen"
"""The name of the combination in tables of methods."""

_PRIOR_WINDOWS: Final = 2
"""How many windows of a series' own evidence the retailer's overall ranking is worth."""

_FLOOR: Final = 0.05
"""Part of the median loss that is added to each loss, so that a perfect window does not weigh without bound."""

_ROUNDING: Final = 1e-9

_TOLD: Final = 0.005
"""Mean weights below it are not worth a word."""

_RESAMPLES: Final = 2000
_FEWEST_FOR_INTERVAL: Final = 5


@dataclass(frozen=True, eq=False)
class Window:
    """One validation window.

    Attributes:
        y: [S, H] what came to pass, NaN where unknown; a series that cannot be scored here has NaN throughout.
        forecasts: Method → forecast of the same S series in the same order. A method that was trained on sales of
            this window is not here, but each is in the last window, and one at least is in all.
    """

    y: Array
    forecasts: Mapping[str, Forecast]


@dataclass(frozen=True)
class Choice:
    """Which method, or mean of methods, each series gets.

    Attributes:
        default: The method for series that were not on validation (new products among them), in the style "choice".
        methods: Series → the method that it gets, or that weighs most in its blend.
        ranking: All methods, best mean loss on validation first.
        losses: Method → mean loss on validation; ``chosen`` is the combination's.
        style: "choice" or "blend".
        weights: Series → method → weight, in the style "blend".
        panel: Method → weight for series that were not on validation, in the style "blend".
        calibration: What is then done to the spread of the quantiles.
    """

    default: str
    methods: Mapping[str, str]
    ranking: tuple[str, ...]
    losses: Mapping[str, float]
    style: Style = "choice"
    weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    panel: Mapping[str, float] = field(default_factory=dict)
    calibration: Calibration = field(default_factory=Calibration)

    @property
    def counts(self) -> dict[str, int]:
        """Method → number of series that it forecasts, or weighs most for; most first."""
        used = list(self.methods.values())
        return {name: used.count(name) for name in sorted(set(used), key=lambda name: (-used.count(name), name))}

    @property
    def shares(self) -> dict[str, float]:
        """Method → its mean weight over series, largest first."""
        total: dict[str, float] = {}
        for series in self.methods:
            for name, weight in self.weights_of(series).items():
                total[name] = total.get(name, 0.0) + weight / len(self.methods)
        return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))

    @property
    def used(self) -> tuple[str, ...]:
        """The methods that some series needs, and those for new products."""
        found = {name for series in self.methods for name in self.weights_of(series)}
        return tuple(name for name in self.ranking if name in found | set(self.weights_of("")))

    def weights_of(self, series: str) -> Mapping[str, float]:
        """Method → weight, summing to 1."""
        if self.style == "choice":
            return {self.methods.get(series, self.default): 1.0}
        return self.weights.get(series, self.panel)

    def apply(self, forecasts: Mapping[str, Forecast], *, calibrated: bool = True) -> Forecast:
        """The combined forecast of every series that any method can forecast.

        The weight of a method that has no forecast of a series falls to the others that the series uses; where it
        uses none that has one, to the best-ranked method that has one.

        Args:
            forecasts: Method → forecast, all of one horizon; a method may lack series, or be absent.
            calibrated: Whether the calibration is applied as well.

        Returns:
            Series in the order of their first appearance over the ranking.
        """
        order = [name for name in dict.fromkeys((self.default, *self.ranking)) if name in forecasts]
        ids = tuple(dict.fromkeys(series for name in order for series in forecasts[name].ids))
        column = {name: position for position, name in enumerate(order)}
        weights = np.zeros((len(ids), len(order)))
        for row, series in enumerate(ids):
            for name, weight in self.weights_of(series).items():
                if name in column:
                    weights[row, column[name]] = weight
        available = np.stack([np.isin(np.array(ids), forecasts[name].ids) for name in order], axis=1)
        lost = np.flatnonzero((weights * available).sum(axis=1) <= 0)
        weights[lost, available[lost].argmax(axis=1)] = 1.0
        found = blend({name: forecasts[name] for name in order}, ids, weights)
        return self.calibration.apply(found) if calibrated else found


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


def choose(
    windows: Sequence[Window], scale: SeasonalError, *, incumbents: Sequence[str] = (), style: Style = "choice"
) -> Choice:
    """Choose a method, or weights of methods, for each series.

    Args:
        windows: One or more validation windows of the same series, oldest first. No method may have trained on one
            that it is in.
        scale: [S] seasonal errors. Series that cannot be scaled take the default; if none can, losses are unscaled.
        incumbents: The old methods, which win ties; each must be among the methods.
        style: What is wanted. A blend that is worse on validation than an incumbent gives way to the choice.

    Raises:
        ValueError: No window or method, or an incumbent that is not among the methods.
    """
    if not windows or not windows[-1].forecasts:
        raise ValueError("windows: at least one window with one method is needed")
    names = list(windows[-1].forecasts)
    strange = [name for name in incumbents if name not in names]
    if strange:
        raise ValueError(f"incumbents: {strange[0]!r} is not among the methods {names}")
    # Incumbents first: argmin takes the first of equals, so a newcomer must be strictly better.
    names = [*dict.fromkeys(incumbents), *(name for name in names if name not in incumbents)]
    twins = _twins(windows, names)
    names = [name for name in names if name not in twins]
    ids = windows[-1].forecasts[names[0]].ids
    divisor = scale.absolute if scale.usable.any() else np.ones(len(ids))
    divisor = np.where(divisor > 0, divisor, np.nan)
    evidence = _evidence(windows, divisor, names)
    if evidence is None:
        return Choice(names[0], dict.fromkeys(ids, names[0]), (*names, *twins), {})
    mean = evidence.mean
    # A twin is told of with the figures of the one that it repeats, and is given nothing.
    losses: dict[str, float] = {}
    for column in np.argsort(mean, kind="stable"):
        alike = [names[column], *(twin for twin, first in twins.items() if first == names[column])]
        losses |= dict.fromkeys(alike, float(mean[column]))
    ranking = tuple(losses)
    best = int(np.argmin(mean))
    picked = np.full(len(ids), best)
    judged = np.flatnonzero(~np.isnan(evidence.loss[:, evidence.default]))
    picked[judged] = np.argmin(_promise(evidence, best)[judged], axis=1)
    single = Choice(
        names[best], {name: names[column] for name, column in zip(ids, picked, strict=True)}, ranking, losses
    )
    single = _measured(single, windows, divisor)
    found = single
    if style == "blend":
        pairs = [(window.y, window.forecasts) for window in windows]
        panel = panel_weights(pairs, divisor, names, evidence)
        own = series_weights(panel, evidence, prior=_PRIOR_WINDOWS)
        found = _measured(_blended(single, names, panel, own), windows, divisor)
        if _above_old(found, incumbents):
            found = single
    if _above_old(found, incumbents):  # only where a method that lacks windows misled: the old one it is
        old = min(incumbents, key=lambda name: losses[name])
        found = _measured(Choice(old, dict.fromkeys(ids, old), ranking, losses), windows, divisor)
    return found


def _twins(windows: Sequence[Window], names: Sequence[str]) -> dict[str, str]:
    """Method → the one before it whose very forecasts it makes, of the two that which is in fewer windows.

    A personal model for which no training was better than some is the model that it started from. Two of a kind
    among the methods would weigh twice without being any better.
    """
    there = {name: [window.forecasts[name] for window in windows if name in window.forecasts] for name in names}
    ordered = sorted(names, key=lambda name: -len(there[name]))  # stable: of equals the earlier stays
    found: dict[str, str] = {}
    for number, name in enumerate(ordered):
        for first in ordered[:number]:
            if first not in found and all(
                _same(window.forecasts[first], window.forecasts[name])
                for window in windows
                if first in window.forecasts and name in window.forecasts
            ):
                found[name] = first
                break
    return found


def _same(one: Forecast, other: Forecast) -> bool:
    return np.array_equal(one.quantiles, other.quantiles) and np.array_equal(one.mean, other.mean)


def _above_old(choice: Choice, incumbents: Sequence[str]) -> bool:
    best = min((choice.losses[name] for name in incumbents), default=np.inf)
    return choice.losses[CHOSEN] > best * (1 + _ROUNDING)


def _blended(single: Choice, names: Sequence[str], panel: Array, own: Array) -> Choice:
    """The blend of the given weights [M] and [S, M]."""

    def named(row: Array) -> dict[str, float]:
        return {names[int(column)]: float(row[column]) for column in np.flatnonzero(row)}

    weights = {series: named(row) for series, row in zip(single.methods, own, strict=True)}
    heaviest = {series: max(row, key=lambda name: row[name]) for series, row in weights.items()}
    return replace(single, methods=heaviest, style="blend", weights=weights, panel=named(pruned(panel)))


def _measured(choice: Choice, windows: Sequence[Window], divisor: Array) -> Choice:
    """The choice with its own mean loss on validation."""
    ids = tuple(choice.methods)
    rows = [
        _known_mean(pinball(w.y, choice.apply(w.forecasts, calibrated=False).select(ids))) / divisor for w in windows
    ]
    own = _over_windows(np.stack(rows))
    return replace(choice, losses={**choice.losses, CHOSEN: float(np.nanmean(own))})


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
    if len(counts) == 1 and len(choice.shares) == 1:
        only = next(iter(counts))
        first = f"{called.get(only, only)} is used for {_all(total)}"
    elif choice.style == "blend":
        shares = [(called.get(name, name), weight) for name, weight in choice.shares.items() if weight >= _TOLD]
        told = ", ".join(f"{name} {100 * weight:.0f} %" for name, weight in shares)
        first = f"The forecast of {_all(total)} is a weighted mean: on average {told}"
    else:
        parts = [f"{called.get(name, name)} for {count}" for name, count in counts.items()]
        first = f"Of {total} product series, " + ", ".join(parts[:-1]) + f" and {parts[-1]}"
    old = called.get(validation.against, validation.against)
    if set(choice.shares) == {validation.against}:
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


def _evidence(windows: Sequence[Window], divisor: Array, names: Sequence[str]) -> Evidence | None:
    """Each method's losses beside the default's on the same windows; None where nothing can be judged."""
    series = len(divisor)
    loss = np.full((len(windows), series, len(names)), np.nan)
    for row, window in enumerate(windows):
        for column, name in enumerate(names):
            if name in window.forecasts:
                loss[row, :, column] = _known_mean(pinball(window.y, window.forecasts[name])) / divisor
    everywhere = [column for column, name in enumerate(names) if all(name in one.forecasts for one in windows)]
    if not everywhere or np.isnan(loss[..., everywhere]).all():
        return None
    mean = _over_windows(loss)
    default = everywhere[int(np.argmin(np.nanmean(mean[:, everywhere], axis=0)))]
    reference = np.where(np.isnan(loss), np.nan, loss[..., [default]])
    against = _over_windows(reference)
    both = ~np.isnan(mean) & ~np.isnan(against)
    floor = _FLOOR * float(np.nanmedian(mean[:, everywhere]) or np.nanmean(mean[:, everywhere]) or 1.0)
    own, other = (np.where(both, values, 0.0).sum(axis=0) for values in (mean, against))
    # A method of few windows is counted as if its ratio to the default had been the same in the others.
    level = float(np.nanmean(mean[:, default]))
    total = np.where(other > 0, own / np.where(other > 0, other, 1.0) * level, own / np.maximum(both.sum(axis=0), 1))
    counted = (~np.isnan(loss)).sum(axis=0)
    return Evidence(mean, against, counted, default, total, floor)


def _promise(evidence: Evidence, best: int) -> Array:
    """[S, M] log loss relative to the best method, each series' own shrunk towards the retailer's."""
    share = evidence.windows / (evidence.windows + _PRIOR_WINDOWS)
    own = evidence.own() - evidence.own()[:, [best]]
    overall = evidence.overall - evidence.overall[best]
    # ``overall`` is nowhere below 0 (the best has the lowest mean), so a promise below 0 needs ``own`` below 0. The
    # guarantee in the docstring of this module rests on it: keep this a mean of the two.
    return np.asarray(share * own + (1 - share) * overall)


def _over_windows(values: Array) -> Array:
    """Means over the first axis of what is known, NaN where nothing is (and no warning about it)."""
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    return np.asarray(np.where(count > 0, np.where(known, values, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan))


def _known_mean(values: Array) -> Array:
    """Means over axis 1, NaN where nothing is known."""
    known = ~np.isnan(values)
    count = known.sum(axis=1)
    return np.asarray(np.where(count > 0, np.where(known, values, 0.0).sum(axis=1) / np.maximum(count, 1), np.nan))
