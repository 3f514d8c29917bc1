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
from trend_client.gate import CHOSEN, Choice, Gain, Window
from trend_client.trial import Trial, Tryout, losses
from trend_common import __version__
from trend_common.baselines import BASELINES, baseline_forecast
from trend_common.errors import DataError
from trend_common.forecasts import Forecast
from trend_common.metrics import SeasonalError
from trend_common.panel import SalesPanel
from trend_common.scoring import Actuals, Origins, Score, actuals, origins, panel_before, scale_of, score

__all__ = ["METHOD_NAMES", "Backtest", "Forecaster", "MethodResult", "backtest", "baseline_forecasters"]

METHOD_NAMES: Final = {
    "naive": "Naive (last value)",
    "seasonal-naive": "Seasonal naive",
    "same-phase-mean": "Recent average",
    "auto-ets": "AutoETS",
    "auto-theta": "AutoTheta",
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
            "old": self.old,
            "gain": {"validation": _gain(self.validation_gain), "test": _gain(self.test_gain)},
            "new_series": self.new_series,
            "verdict": self.verdict,
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
    windows: int = 1,
    tryout: Tryout | None = None,
    progress: Callable[[str], None] | None = None,
) -> Backtest:
    """Compare methods on validation, choose, and report the test.

    Args:
        panel: All sales, the test window included.
        horizon: H.
        forecasters: Method → forecaster. None may have trained on steps after
            ``origins(panel, horizon, windows=windows).train_end``.
        incumbents: The old methods, than which the choice is never worse on validation; default: the statistical
            baselines among ``forecasters``.
        windows: Validation windows.
        tryout: Slow methods that are run on all series only if a sample shows that they could matter
            (:mod:`trend_client.trial`); None runs every method on all series.
        progress: Called with a method's name before it forecasts.

    Raises:
        DataError: The data are too short, or no series can be scored.
        ValueError: There is no old method to compare with.
    """
    old = [name for name in forecasters if name in BASELINES] if incumbents is None else list(incumbents)
    if not old:
        raise ValueError("incumbents: at least one old method is needed to compare with")
    cut = origins(panel, horizon, windows=windows)
    run = Runner(forecasters, horizon, progress)
    found = contest(panel, cut, run, incumbents=old, tryout=tryout)
    choice = found.choice
    reference = min(found.incumbents, key=lambda name: choice.losses.get(name, math.inf))
    validation_gain = gate.gain(*_pair(found.windows, found.scale, reference), against=reference)

    # Nothing above has seen the test window; nothing below changes the choice.
    truth = actuals(panel, cut.test, horizon)
    known = panel_before(panel, cut.test)
    compared = [name for name in found.windows[0].forecasts if name != CHOSEN]
    final = {name: run(name, known, cut.test) for name in compared}
    kept = common([truth.ids, *(one.ids for one in final.values())])
    if not kept:
        raise DataError(
            f"No series has sales in the last {horizon} steps, from {cut.test.date()} on.",
            "Remove discontinued products or end the file where sales end.",
        )
    final = {name: one.select(kept) for name, one in final.items()}
    final[CHOSEN] = choice.apply(final).select(kept)
    truth = truth.select(kept)
    scale = scale_of(panel, kept, cut.rolling[0])
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
    )


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
            _average([score(w.y, w.forecasts[name], scale) for w in windows]),
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
    """[S] losses of the choice and of the old method, over all windows."""
    return losses(windows, CHOSEN, scale), losses(windows, old, scale)


def _average(scores: Sequence[Score]) -> Score:
    """The mean of each measure over windows; counts are the windows' largest."""
    if len(scores) == 1:
        return scores[0]
    merged: dict[str, float] = {}
    for key in scores[0]:
        values = [float(one[key]) for one in scores]  # type: ignore[literal-required]
        merged[key] = max(values) if key in ("series", "dropped") else float(np.mean(values))
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
