"""The validation windows of a backtest: who forecasts what, and the choice among those that forecast all series."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from trend_client import gate
from trend_client.gate import CHOSEN, Choice, Window
from trend_client.trial import Trial, Tryout, judge, sampled
from trend_common.errors import DataError
from trend_common.forecasts import Forecast, choose_rows
from trend_common.metrics import SeasonalError
from trend_common.panel import SalesPanel
from trend_common.scoring import Actuals, Origins, actuals, panel_before, scale_of

__all__ = ["Contest", "Forecaster", "Runner", "common", "contest"]

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
        sample_windows: Their windows, with the methods that were left out as well.
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
    panel: SalesPanel, cut: Origins, run: Runner, *, incumbents: Sequence[str], tryout: Tryout | None = None
) -> Contest:
    """Forecast the validation windows and choose.

    Args:
        panel: All sales.
        cut: The calendar cut.
        run: The forecasters.
        incumbents: The old methods.
        tryout: Which methods are tried on a sample first; None runs all on all series.

    Raises:
        DataError: No series can be scored.
    """
    slow = _tried_first(panel, run.forecasters, incumbents, tryout)
    known = [panel_before(panel, origin) for origin in cut.rolling]
    truth = [actuals(panel, origin, run.horizon) for origin in cut.rolling]
    quick = [name for name in run.forecasters if name not in slow]
    made = [{name: run(name, one, origin) for name in quick} for one, origin in zip(known, cut.rolling, strict=True)]
    found = _settled(panel, cut, run, truth, made, incumbents)
    if tryout is None or not slow:
        return found
    sample = sampled(found.ids, tryout.series)
    tried = [
        {name: run(name, one, origin, sample) for name in slow}
        for one, origin in zip(known, cut.rolling, strict=True)
    ]
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
            for one, origin, whole, part in zip(known, cut.rolling, made, tried, strict=True):
                rest = [series for series in one.ids if series not in set(sample)]
                whole[name] = _joined(part.pop(name), run(name, one, origin, rest))
        slow = [name for name in slow if name not in joining]
        found = _settled(panel, cut, run, truth, made, incumbents)
    return replace(found, trials=tuple(trials.values()))


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


def _settled(
    panel: SalesPanel,
    cut: Origins,
    run: Runner,
    truth: Sequence[Actuals],
    made: Sequence[Mapping[str, Forecast]],
    incumbents: Sequence[str],
) -> Contest:
    """The choice among the methods that forecast all series so far."""
    ids = common([*(known.ids for known in truth), *(one.ids for window in made for one in window.values())])
    if not ids:
        raise DataError(
            f"No series has enough sales before {cut.rolling[0].date()} and any in the {run.horizon} steps after it.",
            "Use a shorter horizon or a longer history.",
        )
    scale = scale_of(panel, ids, cut.rolling[0])
    # In the order in which the methods were given, however late a slow one joined.
    windows = [
        Window(known.select(ids).y, {name: window[name].select(ids) for name in run.forecasters if name in window})
        for known, window in zip(truth, made, strict=True)
    ]
    old = tuple(name for name in incumbents if name in windows[0].forecasts)
    choice = gate.choose(windows, scale, incumbents=old)
    windows = [Window(w.y, {**w.forecasts, CHOSEN: choice.apply(w.forecasts).select(ids)}) for w in windows]
    return Contest(ids, scale, windows, choice, old)


def _with_sample(found: Contest, tried: Sequence[Mapping[str, Forecast]], sample: Sequence[str]) -> Contest:
    """The windows of the sampled series, with the methods that were tried on them alone."""
    ids = common([sample, found.ids, *(one.ids for window in tried for one in window.values())])
    row = {name: position for position, name in enumerate(found.ids)}
    rows = np.array([row[name] for name in ids], dtype=np.intp)
    windows = [
        Window(w.y[rows], {name: one.select(ids) for name, one in {**w.forecasts, **extra}.items()})
        for w, extra in zip(found.windows, tried, strict=True)
    ]
    scale = SeasonalError(found.scale.absolute[rows], found.scale.squared[rows])
    return replace(found, sample=ids, sample_scale=scale, sample_windows=windows)


def _without(window: Window, names: Sequence[str]) -> Window:
    return Window(window.y, {name: one for name, one in window.forecasts.items() if name not in names})


def _joined(one: Forecast, other: Forecast) -> Forecast:
    """The forecasts of two sets of series as one."""
    return choose_rows(
        {"one": one, "other": other}, {**dict.fromkeys(one.ids, "one"), **dict.fromkeys(other.ids, "other")}
    )
