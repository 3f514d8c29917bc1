"""The backtest: every method on the same two windows of this retailer's own sales, and what follows from it.

The order is the promise: methods are scored on validation, the gate chooses there, and only then is the test window
looked at, once, with the choice fixed. Forecasters receive a panel from which everything dated on or after the origin
was removed but planned prices, promotions and holidays, so that none can look ahead.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from trend_client import gate
from trend_client.gate import CHOSEN, Choice, Gain, Window
from trend_common import __version__
from trend_common.baselines import BASELINES, baseline_forecast
from trend_common.errors import DataError
from trend_common.forecasts import Forecast
from trend_common.metrics import SeasonalError, series_losses
from trend_common.panel import SalesPanel
from trend_common.scoring import Actuals, Origins, Score, actuals, origins, panel_before, scale_of, score

__all__ = ["METHOD_NAMES", "Backtest", "Forecaster", "MethodResult", "backtest", "baseline_forecasters"]

Forecaster = Callable[[SalesPanel, pd.Timestamp, int], Forecast]
"""(panel, origin, horizon) → forecast of the steps from ``origin`` on, for any of the panel's series."""

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
        methods: Method → scores, in the order given, :data:`~trend_client.gate.CHOSEN` last.
        old: The best old method on validation, which the verdict compares with.
        choice: The gate's choice, to be applied to the forecasts that a planner gets.
        validation_gain, test_gain: The choice against ``old``.
        verdict: The decision in words.
        new_series: Sold in the test window but too young to be scored.
        forecast: The chosen forecast of the test window.
        actuals: What came to pass there, for the same series.
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

    def table(self) -> pd.DataFrame:
        """One row a method and window: ``method, window, wape, ..., dropped, seconds``."""
        rows = [
            {"method": name, "window": window, **values, "seconds": round(result.seconds, 3)}
            for name, result in self.methods.items()
            for window, values in (("validation", result.validation), ("test", result.test))
        ]
        return pd.DataFrame(rows)

    def to_json(self) -> dict[str, Any]:
        """The backtest as JSON values; a method's own figures are of the test window, undefined ones are null."""
        return {
            "schema": 1,
            "version": __version__,
            "command": "backtest",
            "freq": self.freq,
            "horizon": self.horizon,
            "validation": str(self.origins.validation.date()),
            "test": str(self.origins.test.date()),
            "methods": {
                name: {
                    **_finite(result.test),
                    "validation": _finite(result.validation),
                    "seconds": round(result.seconds, 3),
                }
                for name, result in self.methods.items()
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
        progress: Called with a method's name before it forecasts.

    Raises:
        DataError: The data are too short, or no series can be scored.
        ValueError: There is no old method to compare with.
    """
    old = [name for name in forecasters if name in BASELINES] if incumbents is None else list(incumbents)
    if not old:
        raise ValueError("incumbents: at least one old method is needed to compare with")
    cut = origins(panel, horizon, windows=windows)
    seconds = dict.fromkeys(forecasters, 0.0)

    def forecasts(origin: pd.Timestamp) -> dict[str, Forecast]:
        known = panel_before(panel, origin)
        result = {}
        for name, forecaster in forecasters.items():
            if progress is not None:
                progress(name)
            started = time.perf_counter()
            result[name] = forecaster(known, origin, horizon)
            seconds[name] += time.perf_counter() - started
        return result

    truth = [actuals(panel, origin, horizon) for origin in cut.rolling]
    made = [forecasts(origin) for origin in cut.rolling]
    ids = _common([*(known.ids for known in truth), *(one.ids for window in made for one in window.values())])
    if not ids:
        raise DataError(
            f"No series has enough sales before {cut.rolling[0].date()} and any in the {horizon} steps after it.",
            "Use a shorter horizon or a longer history.",
        )
    scale = scale_of(panel, ids, cut.rolling[0])
    judged = [
        Window(known.select(ids).y, {name: one.select(ids) for name, one in window.items()})
        for known, window in zip(truth, made, strict=True)
    ]
    choice = gate.choose(judged, scale, incumbents=old)
    reference = min(old, key=lambda name: choice.losses.get(name, math.inf))
    judged = [Window(w.y, {**w.forecasts, CHOSEN: choice.apply(w.forecasts).select(ids)}) for w in judged]
    validation = {
        name: _average([score(w.y, w.forecasts[name], scale) for w in judged]) for name in judged[0].forecasts
    }
    validation_gain = gate.gain(*_pair(judged, scale, reference), against=reference)

    # Nothing above has seen the test window; nothing below changes the choice.
    final_truth = actuals(panel, cut.test, horizon)
    final = forecasts(cut.test)
    kept = _common([final_truth.ids, *(one.ids for one in final.values())])
    if not kept:
        raise DataError(
            f"No series has sales in the last {horizon} steps, from {cut.test.date()} on.",
            "Remove discontinued products or end the file where sales end.",
        )
    final = {name: one.select(kept) for name, one in final.items()}
    final[CHOSEN] = choice.apply(final).select(kept)
    final_truth = final_truth.select(kept)
    final_scale = scale_of(panel, kept, cut.rolling[0])
    test = {name: score(final_truth.y, one, final_scale) for name, one in final.items()}
    test_gain = gate.gain(*_pair([Window(final_truth.y, final)], final_scale, reference), against=reference)
    return Backtest(
        freq=panel.freq,
        horizon=horizon,
        origins=cut,
        methods={name: MethodResult(validation[name], test[name], seconds.get(name, 0.0)) for name in test},
        old=reference,
        choice=choice,
        validation_gain=validation_gain,
        test_gain=test_gain,
        verdict=gate.verdict(choice, validation_gain, test_gain, names=METHOD_NAMES),
        new_series=final_truth.excluded,
        forecast=final[CHOSEN],
        actuals=final_truth,
    )


def _pair(windows: Sequence[Window], scale: SeasonalError, old: str) -> tuple[Any, Any]:
    """[S] losses of the choice and of the old method, over all windows."""
    chosen, reference = (
        np.mean([series_losses(w.y, w.forecasts[name], scale) for w in windows], axis=0) for name in (CHOSEN, old)
    )
    return chosen, reference


def _common(groups: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The ids in all groups, in the first one's order."""
    shared = set(groups[0]).intersection(*groups[1:])
    return tuple(name for name in groups[0] if name in shared)


def _average(scores: Sequence[Score]) -> Score:
    """The mean of each measure over windows; counts are the windows' largest."""
    if len(scores) == 1:
        return scores[0]
    merged: dict[str, float] = {}
    for key in scores[0]:
        values = [float(one[key]) for one in scores]  # type: ignore[literal-required]
        merged[key] = max(values) if key in ("series", "dropped") else float(np.mean(values))
    return Score(**{**merged, "series": int(merged["series"]), "dropped": int(merged["dropped"])})  # type: ignore[typeddict-item]


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
