"""The validation windows of a backtest: who forecasts what, and the choice among those that forecast all series.

All windows hold the series that can be scored in the last one. In an earlier window a series that was too young then,
or was not sold, counts for nothing, and a method that was trained on sales of that window is left out of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_client import gate
from trend_client.gate import CHOSEN, Choice, Style, Window
from trend_client.trial import Trial, Tryout, judge, sampled
from trend_common.calibration import Calibration
from trend_common.errors import DataError
from trend_common.forecasts import Forecast, choose_rows
from trend_common.metrics import SeasonalError
from trend_common.panel import SalesPanel
from trend_common.scoring import Origins, actuals, panel_before, scale_of

__all__ = ["Contest", "Forecaster", "Runner", "calibrated", "common", "contest"]

_REPRESENTED = 0.5

Forecaster = Callable[[SalesPanel, pd.Timestamp, int], Forecast]
"""(panel, origin, horizon) → forecast of the steps from ``origin`` on, for any of the panel's series."""


class Runner:
    """Calls forecasters, and notes how long each took.

    Args:
        forecasters: Method → forecaster.
        horizon: H.
        progress: Called with a method's name before it forecasts.
    """

    def __init__(
        self, forecasters: Mapping[str, Forecaster], horizon: int, progress: Callable[[str], None] | None = None
    ) -> None:
        self.forecasters = forecasters
        self.horizon = horizon
        self.seconds = dict.fromkeys(forecasters, 0.0)
        self._progress = progress

    def __call__(
        self, name: str, known: SalesPanel, origin: pd.Timestamp, series: Sequence[str] | None = None
    ) -> Forecast:
        """One method's forecast of all series of ``known``, or of some."""
        if self._progress is not None:
            self._progress(name if series is None else f"{name}, {len(series):,} series")
        panel = known if series is None else known.select(series)
        started = time.perf_counter()
        made = self.forecasters[name](panel, origin, self.horizon)
        self.seconds[name] += time.perf_counter() - started
        return made


@dataclass(frozen=True, eq=False)
class Contest:
    """What validation showed.

    Attributes:
        ids: The S series that all methods are compared on.
        scale: [S] seasonal errors.
        windows: Validation windows with every method that was run on all series, and the choice
            (:data:`~trend_client.gate.CHOSEN`).
        choice: Which method each series gets.
        incumbents: The old methods that were run on all series.
        trials: What was tried on a sample first.
        sample: The sampled series; empty if no method was left out.
        sample_scale: Their seasonal errors.
        sample_windows: Their last window, with the methods that were left out as well.
    """

    ids: tuple[str, ...]
    scale: SeasonalError
    windows: Sequence[Window]
    choice: Choice
    incumbents: tuple[str, ...]
    trials: tuple[Trial, ...] = ()
    sample: tuple[str, ...] = ()
    sample_scale: SeasonalError = field(default_factory=lambda: SeasonalError(np.zeros(0), np.zeros(0)))
    sample_windows: Sequence[Window] = ()


def contest(
    panel: SalesPanel,
    cut: Origins,
    run: Runner,
    *,
    incumbents: Sequence[str],
    since: Mapping[str, pd.Timestamp] | None = None,
    tryout: Tryout | None = None,
    style: Style = "choice",
    calibrated: bool = False,
) -> Contest:
    """Forecast the validation windows and choose.

    Args:
        panel: All sales.
        cut: The calendar cut.
        run: The forecasters.
        incumbents: The old methods.
        since: Method → the first origin from which it may be scored, since it was trained on what lies before; none
            may be later than the last validation origin. Default: all methods are in all windows.
        tryout: Which methods are tried on a sample first; None runs all on all series.
        style: Whether one method or a weighted mean is wanted.
        calibrated: Whether the spread of the combination is then fitted to what came to pass.

    Raises:
        DataError: No series can be scored.
    """
    return _Contest(panel, cut, run, incumbents, dict(since or {}), tryout, style, calibrated).held()


class _Contest:
    """One contest in the making."""

    def __init__(
        self,
        panel: SalesPanel,
        cut: Origins,
        run: Runner,
        incumbents: Sequence[str],
        since: Mapping[str, pd.Timestamp],
        tryout: Tryout | None,
        style: Style,
        calibrated: bool,
    ) -> None:
        late = [name for name, first in since.items() if first > cut.rolling[-1]]
        if late:
            raise ValueError(f"since: {late[0]!r} cannot be scored in any validation window")
        self.panel, self.cut, self.run, self.since = panel, cut, run, since
        self.incumbents, self.tryout, self.style, self.calibrated = incumbents, tryout, style, calibrated
        self.known = [panel_before(panel, origin) for origin in cut.rolling]
        self.truth = [actuals(panel, origin, run.horizon) for origin in cut.rolling]
        # Window → method → forecast.
        self.made: list[dict[str, Forecast]] = [{} for _ in cut.rolling]

    def held(self) -> Contest:
        """Who wins."""
        tryout = self.tryout
        slow = _tried_first(self.panel, self.run.forecasters, self.incumbents, tryout)
        for name in self.run.forecasters:
            if name not in slow:
                self._forecast(name)
        found = self._settled()
        if tryout is None or not slow:
            return found
        sample = sampled(found.ids, tryout.series)
        tried = {name: self.run(name, self.known[-1], self.cut.rolling[-1], sample) for name in slow}
        trials: dict[str, Trial] = {}
        while slow:
            found = _with_sample(found, tried, sample)
            for name in slow:
                others = [one for one in slow if one != name]
                trials[name] = judge(
                    name,
                    [_without(one, others) for one in found.sample_windows],
                    found.sample_scale,
                    incumbents=found.incumbents,
                    of=len(found.ids),
                )
            joining = [name for name in slow if trials[name].competitive]
            if not joining:
                break
            for name in joining:
                self._forecast(name, tried.pop(name))
            slow = [name for name in slow if name not in joining]
            found = self._settled()
        return replace(found, trials=tuple(trials.values()))

    def _forecast(self, name: str, part: Forecast | None = None) -> None:
        """Run a method in every window that it may be scored in; ``part`` is what the last one has already."""
        last = len(self.known) - 1
        first = self.since.get(name, self.cut.rolling[0])
        if part is not None and self.tryout is not None:
            first = max(first, self.cut.rolling[-min(self.tryout.windows, len(self.known))])
        for number, (known, origin) in enumerate(zip(self.known, self.cut.rolling, strict=True)):
            if origin < first:
                continue
            if number == last and part is not None:
                rest = [series for series in known.ids if series not in set(part.ids)]
                self.made[number][name] = _joined(part, self.run(name, known, origin, rest)) if rest else part
            else:
                self.made[number][name] = self.run(name, known, origin)

    def _settled(self) -> Contest:
        """The choice among the methods that forecast all series so far."""
        ids = common([self.truth[-1].ids, *(one.ids for one in self.made[-1].values())])
        if not ids:
            raise DataError(
                f"No series has enough sales before {self.cut.rolling[-1].date()} and any in the {self.run.horizon} "
                "steps after it.",
                "Use a shorter horizon or a longer history.",
            )
        scale = scale_of(self.panel, ids, self.cut.rolling[-1])
        windows = [self._window(number, ids) for number in range(len(self.made))]
        old = tuple(name for name in self.incumbents if name in windows[-1].forecasts)
        choice = gate.choose(windows, scale, incumbents=old, style=self.style)
        if self.calibrated:
            choice = calibrated(choice, windows, scale)
        combined = [choice.apply(window.forecasts).select(ids) for window in windows]
        windows = [
            Window(window.y, {**window.forecasts, CHOSEN: one}) for window, one in zip(windows, combined, strict=True)
        ]
        return Contest(ids, scale, windows, choice, old)

    def _window(self, number: int, ids: Sequence[str]) -> Window:
        """A window of the given series; rows that cannot be scored in it are unknown."""
        truth, made = self.truth[number], self.made[number]
        # In the order in which the methods were given, however late a slow one joined.
        names = [name for name in self.run.forecasters if name in made]
        scored = set(common([truth.ids, *(made[name].ids for name in names)]))
        row = {name: position for position, name in enumerate(truth.ids)}
        y = np.full((len(ids), self.run.horizon), np.nan)
        for position, name in enumerate(ids):
            if name in scored:
                y[position] = truth.y[row[name]]
        dates = truth.ds
        return Window(y, {name: _filled(made[name], ids, dates) for name in names})


def calibrated(choice: Choice, windows: Sequence[Window], scale: SeasonalError) -> Choice:
    """The choice with its spread fitted to the validation windows.

    A series counts in a window only if the methods that make up half of its forecast are there: how sure the others
    are of themselves says nothing of them.
    """
    ids = tuple(choice.methods)
    pairs = []
    for window in windows:
        there = [
            sum(weight for name, weight in choice.weights_of(series).items() if name in window.forecasts)
            for series in ids
        ]
        y = np.where(np.array(there)[:, None] >= _REPRESENTED, window.y, np.nan)
        pairs.append((y, choice.apply(window.forecasts, calibrated=False).select(ids)))
    divisor = scale.absolute if scale.usable.any() else np.ones(len(ids))
    return replace(choice, calibration=Calibration.fit(pairs, divisor))


def common(groups: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The ids in all groups, in the first one's order."""
    shared = set(groups[0]).intersection(*groups[1:])
    return tuple(name for name in groups[0] if name in shared)


def _tried_first(
    panel: SalesPanel, forecasters: Mapping[str, Forecaster], incumbents: Sequence[str], tryout: Tryout | None
) -> list[str]:
    """The slow methods, where there are many series and an old method that is quick."""
    if tryout is None or panel.n_series <= max(tryout.above[panel.freq], tryout.series):
        return []
    quick = [name for name in incumbents if name not in tryout.methods]
    return [name for name in forecasters if name in tryout.methods] if quick else []


def _with_sample(found: Contest, tried: Mapping[str, Forecast], sample: Sequence[str]) -> Contest:
    """The last window of the sampled series, with the methods that were tried on them alone."""
    ids = common([sample, found.ids, *(one.ids for one in tried.values())])
    row = {name: position for position, name in enumerate(found.ids)}
    rows = np.array([row[name] for name in ids], dtype=np.intp)
    last = found.windows[-1]
    window = Window(last.y[rows], {name: one.select(ids) for name, one in {**last.forecasts, **tried}.items()})
    scale = SeasonalError(found.scale.absolute[rows], found.scale.squared[rows])
    return replace(found, sample=ids, sample_scale=scale, sample_windows=[window])


def _filled(forecast: Forecast, ids: Sequence[str], dates: NDArray[np.datetime64]) -> Forecast:
    """The forecasts of ``ids``, zeros for series that there is none of; those are scored nowhere."""
    position = {name: row for row, name in enumerate(forecast.ids)}
    rows = np.array([position.get(name, -1) for name in ids], dtype=np.intp)
    there = (rows >= 0)[:, None]
    if not len(forecast):
        shape = (len(ids), len(dates))
        empty = np.zeros((*shape, len(forecast.levels)))
        return Forecast(tuple(ids), np.broadcast_to(dates, shape), forecast.levels, empty, empty[..., 0])
    quantiles = np.where(there[..., None], forecast.quantiles[rows], 0.0)
    mean = np.where(there, forecast.mean[rows], 0.0)
    ds = np.where(there, forecast.ds[rows], dates[None])
    return Forecast(tuple(ids), ds, forecast.levels, quantiles, mean)


def _without(window: Window, names: Sequence[str]) -> Window:
    return Window(window.y, {name: one for name, one in window.forecasts.items() if name not in names})


def _joined(one: Forecast, other: Forecast) -> Forecast:
    """The forecasts of two sets of series as one."""
    return choose_rows(
        {"one": one, "other": other}, {**dict.fromkeys(one.ids, "one"), **dict.fromkeys(other.ids, "other")}
    )
