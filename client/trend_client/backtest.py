"""The backtest: every method on the same two windows of this retailer's own sales, and what follows from it.

The order is the promise: methods are scored on validation, the gate chooses there, and only then is the test window
looked at, once, with the choice fixed. Forecasters receive a panel from which everything dated on or after the origin
was removed but planned prices, promotions and holidays, so that none can look ahead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pandas as pd

from trend_client import gate
from trend_client.contest import Contest, Forecaster, Runner, common, contest
from trend_client.gate import CHOSEN, Choice, Gain, Style, Window
from trend_client.trees import TREES
from trend_client.trial import Trial, Tryout, losses
from trend_client.value import Pricing, Value, last_prices, value
from trend_common import __version__
from trend_common.baselines import BASELINES, baseline_forecast
from trend_common.errors import DataError
from trend_common.forecasts import Forecast
from trend_common.metrics import SeasonalError
from trend_common.panel import SalesPanel
from trend_common.scoring import (
    Actuals,
    Origins,
    Score,
    actuals,
    most_windows,
    origins,
    panel_before,
    scale_of,
    score,
)

__all__ = ["METHOD_NAMES", "Backtest", "Forecaster", "MethodResult", "backtest", "baseline_forecasters"]

METHOD_NAMES: Final = {
    "naive": "Naive (last value)",
    "seasonal-naive": "Seasonal naive",
    "same-phase-mean": "Recent average",
    "auto-ets": "AutoETS",
    "auto-theta": "AutoTheta",
    "croston": "Croston (intermittent)",
    TREES: "Boosted-tree model",
    "zero-shot": "Pretrained model",
    "shared": "Shared model",
    "personal": "Personal model",
    CHOSEN: "Chosen per product",
}
"""Method → what people call it. "Zero-shot" is the pretrained model before any federation."""


@dataclass(frozen=True)
class MethodResult:
    """One method's scores; ``seconds`` to forecast all windows."""

    validation: Score
    test: Score
    seconds: float


@dataclass(frozen=True, eq=False)
class Backtest:
    """What was measured, what was chosen, and the reasons. Private: about this retailer's sales.

    Attributes:
        freq, horizon, origins: The cut.
        methods: Method → scores, in the order given, :data:`~trend_client.gate.CHOSEN` last; all on the same series.
        old: The best old method on validation, which the verdict compares with.
        choice: The gate's choice, to be applied to the forecasts that a planner gets.
        validation_gain, test_gain: The choice against ``old``.
        verdict: The decision in words.
        new_series: Sold in the test window but too young to be scored.
        forecast: The chosen forecast of the test window.
        actuals: What came to pass there, for the same series.
        sample: Method → scores on the sample on which slow methods were tried: those that were left out, and all of
            ``methods`` on the same series. Empty if none was left out.
        trials: What was tried on a sample first, and what followed.
        scored_on: Method → validation windows in which it was scored; fewer than all for a model that was trained on
            the sales of the others.
        uncalibrated: The choice on the test window before its spread was calibrated.
        value: The gain in units and money, if a backtest was asked for it.
    """

    freq: str
    horizon: int
    origins: Origins
    methods: Mapping[str, MethodResult]
    old: str
    choice: Choice
    validation_gain: Gain
    test_gain: Gain
    verdict: str
    new_series: int
    forecast: Forecast
    actuals: Actuals
    sample: Mapping[str, MethodResult] = field(default_factory=dict)
    trials: tuple[Trial, ...] = ()
    scored_on: Mapping[str, int] = field(default_factory=dict)
    uncalibrated: Score | None = None
    value: Value | None = None

    @property
    def left_out(self) -> tuple[str, ...]:
        """Methods that were scored on the sample alone, and are no candidates."""
        return tuple(name for name in self.sample if name not in self.methods)

    def table(self) -> pd.DataFrame:
        """One row a method, window and set of series: ``method, window, on, wape, ..., dropped, seconds``.

        ``on`` is "all" or "sample"; rows can be compared within one window and one set.
        """
        rows = [
            {"method": name, "window": window, "on": on, **values, "seconds": round(result.seconds, 3)}
            for on, methods in (("all", self.methods), ("sample", self.sample))
            for name, result in methods.items()
            for window, values in (("validation", result.validation), ("test", result.test))
        ]
        return pd.DataFrame(rows)

    def to_json(self) -> dict[str, Any]:
        """The backtest as JSON values; a method's own figures are of the test window, undefined ones are null.

        A method whose ``on`` is "sample" was left out: its figures are of the sample, and ``sample`` has the figures
        of all methods on the same series.
        """
        alone = {name: self.sample[name] for name in self.left_out}
        return {
            "schema": 1,
            "version": __version__,
            "command": "backtest",
            "freq": self.freq,
            "horizon": self.horizon,
            "validation": str(self.origins.validation.date()),
            "test": str(self.origins.test.date()),
            "methods": {
                **{name: {"on": "all", **_result(result)} for name, result in self.methods.items()},
                **{name: {"on": "sample", **_result(result)} for name, result in alone.items()},
            },
            "sample": {name: _result(result) for name, result in self.sample.items()},
            "trials": {
                one.method: {
                    "series": one.series,
                    "of": one.of,
                    "gain": _gain(one.gain),
                    "share": _number(one.share),
                    "run_on_all": one.competitive,
                }
                for one in self.trials
            },
            "choice": self.choice.default,
            "chosen": self.choice.counts,
            "style": self.choice.style,
            "weights": {name: _number(weight) for name, weight in self.choice.shares.items()},
            "windows": [str(origin.date()) for origin in self.origins.rolling],
            "scored_on": dict(self.scored_on),
            "calibration": self._calibration(),
            "old": self.old,
            "gain": {"validation": _gain(self.validation_gain), "test": _gain(self.test_gain)},
            "value": None if self.value is None else self.value.to_json(),
            "new_series": self.new_series,
            "verdict": self.verdict,
        }

    def _calibration(self) -> dict[str, Any] | None:
        """The factors, and what they did to the coverage on the test window."""
        if self.uncalibrated is None:
            return None
        after, keys = self.methods[CHOSEN].test, ("coverage80", "coverage90", "sql")
        return {
            "below": _number(self.choice.calibration.below),
            "above": _number(self.choice.calibration.above),
            "windows": self.choice.calibration.windows,
            "before": {key: _number(self.uncalibrated[key]) for key in keys},  # type: ignore[literal-required]
            "after": {key: _number(after[key]) for key in keys},  # type: ignore[literal-required]
        }


def baseline_forecasters(
    names: Sequence[str] = ("seasonal-naive", "same-phase-mean", "auto-ets"), *, max_history: int | None = None
) -> dict[str, Forecaster]:
    """The statistical baselines as forecasters."""

    def one(name: str) -> Forecaster:
        def forecaster(panel: SalesPanel, origin: pd.Timestamp, horizon: int) -> Forecast:
            return baseline_forecast([name], panel, origin, horizon, max_history=max_history)[name]

        return forecaster

    return {name: one(name) for name in names}


def backtest(
    panel: SalesPanel,
    horizon: int,
    forecasters: Mapping[str, Forecaster],
    *,
    incumbents: Sequence[str] | None = None,
    windows: int | None = 1,
    since: Mapping[str, pd.Timestamp] | None = None,
    style: Style = "choice",
    calibrate: bool = False,
    tryout: Tryout | None = None,
    pricing: Pricing | None = None,
    progress: Callable[[str], None] | None = None,
) -> Backtest:
    """Compare methods on validation, choose, and report the test.

    Args:
        panel: All sales, the test window included.
        horizon: H.
        forecasters: Method → forecaster. None may have trained on sales of a window that it is scored in: either on
            none after ``origins(panel, horizon, windows=windows).train_end``, or ``since`` says so.
        incumbents: The old methods, than which the choice is never worse on validation; default: the statistical
            baselines among ``forecasters``.
        windows: Validation windows; None takes as many as the history allows, at most
            :data:`~trend_common.scoring.MOST_WINDOWS`.
        since: Method → first origin from which it may be scored; models that were trained on this retailer's sales.
        style: "choice" gives each series one method, "blend" a weighted mean (:mod:`trend_client.gate`).
        calibrate: Whether the spread of the chosen forecasts is fitted to the validation windows.
        tryout: Slow methods that are run on all series only if a sample shows that they could matter
            (:mod:`trend_client.trial`); None runs every method on all series.
        pricing: What a unit brings, for the gain in units and money; None leaves it out.
        progress: Called with a method's name before it forecasts.

    Raises:
        DataError: The data are too short, or no series can be scored.
        ValueError: There is no old method to compare with.
    """
    old = [name for name in forecasters if name in BASELINES] if incumbents is None else list(incumbents)
    if not old:
        raise ValueError("incumbents: at least one old method is needed to compare with")
    count = most_windows(panel, horizon) if windows is None else windows
    cut = origins(panel, horizon, windows=count)
    run = Runner(forecasters, horizon, progress)
    found = contest(panel, cut, run, incumbents=old, since=since, tryout=tryout, style=style, calibrated=calibrate)
    choice = found.choice
    reference = min(found.incumbents, key=lambda name: choice.losses.get(name, math.inf))
    validation_gain = gate.gain(*_pair(found.windows, found.scale, reference), against=reference)

    # Nothing above has seen the test window; nothing below changes the choice.
    truth = actuals(panel, cut.test, horizon)
    known = panel_before(panel, cut.test)
    compared = [name for name in found.windows[-1].forecasts if name != CHOSEN]
    final = {name: run(name, known, cut.test) for name in compared}
    kept = common([truth.ids, *(one.ids for one in final.values())])
    if not kept:
        raise DataError(
            f"No series has sales in the last {horizon} steps, from {cut.test.date()} on.",
            "Remove discontinued products or end the file where sales end.",
        )
    final = {name: one.select(kept) for name, one in final.items()}
    plain = choice.apply(final, calibrated=False).select(kept)
    final[CHOSEN] = choice.calibration.apply(plain)
    truth = truth.select(kept)
    scale = scale_of(panel, kept, cut.validation)
    test_gain = gate.gain(*_pair([Window(truth.y, final)], scale, reference), against=reference)
    sentences = [gate.verdict(choice, validation_gain, test_gain, names=METHOD_NAMES)]
    sentences += [one.sentence(METHOD_NAMES) for one in found.trials if not one.competitive]
    return Backtest(
        freq=panel.freq,
        horizon=horizon,
        origins=cut,
        methods=_results(found.windows, found.scale, Window(truth.y, final), scale, run.seconds),
        old=reference,
        choice=choice,
        validation_gain=validation_gain,
        test_gain=test_gain,
        verdict=" ".join(sentences),
        new_series=truth.excluded,
        forecast=final[CHOSEN],
        actuals=truth,
        sample=_on_sample(found, run, known, cut.test, truth, final, scale),
        trials=found.trials,
        scored_on={name: sum(name in one.forecasts for one in found.windows) for name in compared},
        uncalibrated=score(truth.y, plain, scale) if calibrate else None,
        value=None if pricing is None else _value(panel, cut.test, truth, final, reference, pricing),
    )


def _value(
    panel: SalesPanel,
    test: pd.Timestamp,
    truth: Actuals,
    final: Mapping[str, Forecast],
    reference: str,
    pricing: Pricing,
) -> Value:
    """The gain of the choice on the test window, at the prices before it."""
    prices = last_prices(panel, test, truth.ids)
    return value(truth.y, final[CHOSEN], final[reference], prices, pricing, against=reference)


def _results(
    windows: Sequence[Window],
    scale: SeasonalError,
    test: Window,
    test_scale: SeasonalError,
    seconds: Mapping[str, float],
) -> dict[str, MethodResult]:
    """Scores of all methods of ``test``."""
    return {
        name: MethodResult(
            _average([score(w.y, w.forecasts[name], scale) for w in windows if name in w.forecasts]),
            score(test.y, forecast, test_scale),
            seconds.get(name, 0.0),
        )
        for name, forecast in test.forecasts.items()
    }


def _on_sample(
    found: Contest,
    run: Runner,
    known: SalesPanel,
    origin: pd.Timestamp,
    truth: Actuals,
    final: Mapping[str, Forecast],
    scale: SeasonalError,
) -> dict[str, MethodResult]:
    """All methods on the sampled series that can be scored in both windows, if any method was left out."""
    slow = [one.method for one in found.trials if not one.competitive]
    if not slow:
        return {}
    wanted = common([found.sample, truth.ids])
    if not wanted:
        return {}
    made = {name: run(name, known, origin, wanted) for name in slow}
    ids = common([wanted, *(one.ids for one in made.values())])
    rows = [truth.ids.index(name) for name in ids]
    part = SeasonalError(scale.absolute[rows], scale.squared[rows])
    both = {**made, **final}
    forecasts = {name: both[name].select(ids) for name in (*run.forecasters, CHOSEN)}
    test = Window(truth.y[rows], forecasts)
    return _results(found.sample_windows, found.sample_scale, test, part, run.seconds)


def _pair(windows: Sequence[Window], scale: SeasonalError, old: str) -> tuple[Any, Any]:
    """[S] losses of the choice and of the old method, over the windows that the old one is in."""
    windows = [one for one in windows if old in one.forecasts]
    return losses(windows, CHOSEN, scale), losses(windows, old, scale)


def _average(scores: Sequence[Score]) -> Score:
    """The mean of each measure over windows; counts are the windows' largest."""
    if len(scores) == 1:
        return scores[0]
    merged: dict[str, float] = {}
    for key in scores[0]:
        values = [float(one[key]) for one in scores]  # type: ignore[literal-required]
        known = [value for value in values if math.isfinite(value)]
        merged[key] = max(values) if key in ("series", "dropped") else float(np.mean(known)) if known else math.nan
    return Score(**{**merged, "series": int(merged["series"]), "dropped": int(merged["dropped"])})  # type: ignore[typeddict-item]


def _result(result: MethodResult) -> dict[str, Any]:
    return {
        **_finite(result.test),
        "validation": _finite(result.validation),
        "seconds": round(result.seconds, 3),
    }


def _finite(values: Score) -> dict[str, float | int | None]:
    return {key: value if isinstance(value, int) else _number(value) for key, value in values.items()}  # type: ignore[arg-type]


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), 6)


def _gain(value: Gain) -> dict[str, Any]:
    return {
        "against": value.against,
        "relative": _number(value.relative),
        "low": _number(value.low),
        "high": _number(value.high),
        "series": value.series,
        "outcome": value.outcome,
    }
