"""What a retailer can do without any learned model: naive forecasts, means of equal weekdays, ETS, Theta and Croston.

AutoETS, AutoTheta and Croston's method are statsforecast's. The naive ones are written here because they must live
with missing values and short histories; on complete series they agree with statsforecast's to the last digit.

How quantiles come about:

- ``naive``, ``seasonal-naive``: normal, around the point forecast, with the root mean square of the in-sample
  residuals times the root of the number of (seasonal) steps ahead. This is what statsforecast's own levels do.
- ``same-phase-mean``, ``same-phase-mean-4``: empirical, the quantiles of its own in-sample one-step residuals.
- ``auto-ets``, ``auto-theta``: statsforecast's prediction intervals.
- ``croston``: for products that sell now and then. The mean is Croston's with the correction of Syntetos and Boylan
  (2005), statsforecast's; the quantiles are those of the series' own past, scaled to that mean, so that days without
  a sale keep their share. It knows no season.

All are clipped at zero. Days on which a store is expected to be closed are zero where the panel says so
(:mod:`trend_common.closures`); of weekdays on which a single series never sells the methods know nothing.
Shapes: S series, T steps of history, H horizon steps, Q levels.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_common.closures import without_shut_days
from trend_common.covariates import SEASON, YEAR
from trend_common.forecasts import LEVELS, Forecast
from trend_common.scoring import future_dates, grid

if TYPE_CHECKING:
    from trend_common.panel import SalesPanel

__all__ = ["BASELINES", "MAX_HISTORY", "PHASES", "baseline_forecast", "fill_forward"]

Array = NDArray[np.float64]

BASELINES: Final = (
    "naive",
    "seasonal-naive",
    "same-phase-mean",
    "same-phase-mean-4",
    "auto-ets",
    "auto-theta",
    "croston",
)

PHASES: Final = {"D": 8, "W": 8, "M": 4}
"""Values that ``same-phase-mean`` averages: 8 equal weekdays, 8 weeks, 4 equal months."""

MAX_HISTORY: Final = {"D": 364, "W": 208, "M": 120}
"""Steps of history that AutoETS, AutoTheta and Croston look at: a year of days, four of weeks, ten of months.

Neither models the year in daily data (their season is the week), and a second year made both four times slower and
no better.
"""

_RUNAWAY: Final = 10.0
"""A multiplicative model whose interval passes this multiple of the largest sale has run away: its series gets the
seasonal naive forecast instead."""

_STATISTICAL: Final = {"auto-ets": "AutoETS", "auto-theta": "AutoTheta"}
_CROSTON: Final = "croston"


def baseline_forecast(
    names: Sequence[str],
    panel: SalesPanel,
    origin: pd.Timestamp,
    horizon: int,
    *,
    max_history: int | None = None,
) -> dict[str, Forecast]:
    """Forecast every series that has a known value before ``origin``.

    Args:
        names: Of :data:`BASELINES`.
        panel: Sales; values on or after ``origin`` are not looked at.
        origin: First step to forecast.
        horizon: H.
        max_history: Steps that AutoETS, AutoTheta and Croston may use; default :data:`MAX_HISTORY`.

    Returns:
        Method → forecast, all with the same series in the same order.

    Raises:
        ValueError: A name is unknown.
    """
    unknown = [name for name in names if name not in BASELINES]
    if unknown:
        raise ValueError(f"names: {unknown[0]!r} is not one of {', '.join(BASELINES)}")
    values = grid(panel, before=origin)
    known = ~np.isnan(values.y)
    rows = np.flatnonzero(known.any(axis=1))
    ids = tuple(values.ids[row] for row in rows)
    history = values.y[rows]
    dates = future_dates(panel, origin, horizon).to_numpy(dtype="datetime64[ns]")
    season = SEASON[panel.freq]

    def finish(quantiles: Array, mean: Array) -> Forecast:
        return without_shut_days(Forecast.repaired(ids, dates, quantiles, mean), panel)

    result: dict[str, Forecast] = {}
    length = max_history or MAX_HISTORY[panel.freq]
    for name in names:
        if name in _STATISTICAL or name in result:
            continue
        if name == "naive":
            result[name] = finish(*_lagged(history, np.ones(len(ids), dtype=np.int64), horizon))
        elif name == "seasonal-naive":
            result[name] = finish(*_lagged(history, _seasonal_lags(history, panel.freq), horizon))
        elif name == _CROSTON:
            result[name] = finish(*_croston(fill_forward(history, season)[:, -length:], horizon))
        else:
            count = 4 if name == "same-phase-mean-4" else PHASES[panel.freq]
            result[name] = finish(*_phase_mean(history, season, count, horizon))
    statistical = [name for name in dict.fromkeys(names) if name in _STATISTICAL]
    if statistical and ids:
        filled = fill_forward(history, season)[:, -length:]
        fitted = _statsforecast(statistical, filled, season, horizon)
        spare = _lagged(history, _seasonal_lags(history, panel.freq), horizon)
        ceiling = _RUNAWAY * np.nanmax(filled, axis=1)
        for name in statistical:
            quantiles, mean = fitted[name]
            top = np.maximum(quantiles.max(axis=(1, 2)), mean.max(axis=1))
            sound = np.isfinite(quantiles).all(axis=(1, 2)) & np.isfinite(mean).all(axis=1) & (top <= ceiling)
            kept = np.asarray(sound)[:, None]
            result[name] = finish(np.where(kept[..., None], quantiles, spare[0]), np.where(kept, mean, spare[1]))
    elif statistical:
        empty = np.zeros((0, horizon, len(LEVELS)))
        result.update({name: finish(empty, empty[..., 0]) for name in statistical})
    return {name: result[name] for name in names}


def fill_forward(history: Array, season: int) -> Array:
    """Fill missing values by the value one season before, else by the last known one.

    Args:
        history: [S, T], NaN where unknown.
        season: Lag in steps.

    Returns:
        [S, T]; NaN remain only before a series' first known value.
    """
    filled = history.copy()
    for step in range(1, filled.shape[1]):
        column = filled[:, step]
        gap = np.isnan(column)
        if not gap.any():
            continue
        if step >= season:
            column[gap] = filled[gap, step - season]
            gap = np.isnan(column)
        column[gap] = filled[gap, step - 1]
    return filled


def _seasonal_lags(history: Array, freq: str) -> NDArray[np.int64]:
    """[S] lags of the seasonal naive: the season; in weekly data 52 for series that reach back two years, else 1."""
    lags = np.full(len(history), SEASON[freq], dtype=np.int64)
    if freq == "W":
        first = np.argmax(~np.isnan(history), axis=1)
        lags[history.shape[1] - first >= 2 * YEAR["W"]] = YEAR["W"]
    return lags


def _lagged(history: Array, lags: NDArray[np.int64], horizon: int) -> tuple[Array, Array]:
    """Quantiles [S, H, Q] and mean [S, H] of repeating the last ``lag`` values."""
    mean = np.empty((len(history), horizon))
    spread = np.empty((len(history), horizon))
    steps = np.arange(horizon)
    for lag in np.unique(lags):
        rows = np.flatnonzero(lags == lag)
        part = history[rows]
        last = fill_forward(part, int(lag))[:, -lag:]
        if last.shape[1] < lag:  # Less history than one season: start the cycle with the earliest value known.
            last = np.concatenate([np.repeat(last[:, :1], lag - last.shape[1], axis=1), last], axis=1)
        last = np.where(np.isnan(last), np.nanmean(part, axis=1, keepdims=True), last)
        mean[rows] = last[:, steps % lag]
        residual = part[:, lag:] - part[:, :-lag]
        sigma = np.sqrt(np.nansum(residual**2, axis=1) / np.maximum((~np.isnan(residual)).sum(axis=1), 1))
        spread[rows] = sigma[:, None] * np.sqrt(steps // lag + 1)
    z = np.array([NormalDist().inv_cdf(level) for level in LEVELS])
    return mean[..., None] + spread[..., None] * z, mean


def _phase_mean(history: Array, season: int, count: int, horizon: int) -> tuple[Array, Array]:
    """Quantiles and mean of averaging the last ``count`` known values of the same phase."""
    series, length = history.shape
    padded = -(-length // season) * season
    cycles = np.full((series, padded), np.nan)
    cycles[:, padded - length :] = history  # Aligned at the end: the last column is the last phase.
    cycles = cycles.reshape(series, -1, season)
    residuals = np.full_like(cycles, np.nan)
    # Per phase a buffer of each series' last known values; missing ones are passed over, not counted as zero.
    buffer = np.full((series, season, count), np.nan)
    for cycle in range(cycles.shape[1]):
        value = cycles[:, cycle]
        if cycle:
            residuals[:, cycle] = value - _mean_known(buffer)
        seen = ~np.isnan(value)
        buffer[seen] = np.concatenate([buffer[seen][:, 1:], value[seen][:, None]], axis=1)
    overall = np.nanmean(history, axis=1)
    phase = _mean_known(buffer)
    phase = np.where(np.isnan(phase), overall[:, None], phase)
    mean = phase[:, np.arange(horizon) % season]
    quantiles = np.empty((series, horizon, len(LEVELS)))
    for row in range(series):
        error = residuals[row][~np.isnan(residuals[row])]
        quantiles[row] = mean[row][:, None] + (np.quantile(error, LEVELS) if error.size else 0.0)
    return quantiles, mean


def _croston(filled: Array, horizon: int) -> tuple[Array, Array]:
    """Quantiles and mean of Croston's method (SBA) with the spread of the series' own past."""
    if not len(filled):
        return np.zeros((0, horizon, len(LEVELS))), np.zeros((0, horizon))
    from statsforecast import StatsForecast, models

    rows, steps = np.nonzero(~np.isnan(filled))
    frame = pd.DataFrame({"unique_id": rows, "ds": steps, "y": filled[rows, steps]})
    # The correction is for series that pause; one that sells at every step would be forecast too low by it.
    chosen = [models.CrostonSBA(), models.CrostonClassic()]
    engine = StatsForecast(models=chosen, freq=1, n_jobs=1, fallback_model=models.Naive())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = engine.forecast(df=frame, h=horizon)
    shape = (len(filled), horizon)
    corrected, plain = (
        table[name].to_numpy(dtype=np.float64).reshape(shape) for name in ("CrostonSBA", "CrostonClassic")
    )
    mean = np.where((filled == 0).any(axis=1)[:, None], corrected, plain)
    past = np.nanmean(filled, axis=1)
    mean = np.where(np.isfinite(mean), mean, past[:, None])
    ratio = np.where(past > 0, mean[:, 0] / np.where(past > 0, past, 1.0), 0.0)
    spread = np.nanquantile(filled, LEVELS, axis=1).T * np.clip(ratio, 0.0, None)[:, None]
    return np.repeat(spread[:, None], horizon, axis=1), mean


def _mean_known(values: Array) -> Array:
    """Means over the last axis, NaN where nothing is known."""
    known = ~np.isnan(values)
    count = known.sum(axis=-1)
    return np.where(count > 0, np.where(known, values, 0.0).sum(axis=-1) / np.maximum(count, 1), np.nan)


def _statsforecast(names: Sequence[str], filled: Array, season: int, horizon: int) -> dict[str, tuple[Array, Array]]:
    """Fit statsforecast models on all series at once; a model that fails on a series falls back to Naive."""
    from statsforecast import StatsForecast, models

    rows, steps = np.nonzero(~np.isnan(filled))
    # Integer steps stand for dates: the models use the order alone, and an odd grid needs no alias of its own.
    frame = pd.DataFrame({"unique_id": rows, "ds": steps, "y": filled[rows, steps]})
    chosen: list[Any] = [getattr(models, _STATISTICAL[name])(season_length=season) for name in names]
    engine = StatsForecast(models=chosen, freq=1, n_jobs=1, fallback_model=models.Naive())
    widths = sorted({_width(level) for level in LEVELS} - {0})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = engine.forecast(df=frame, h=horizon, level=widths)
    result: dict[str, tuple[Array, Array]] = {}
    for name in names:
        column = _STATISTICAL[name]
        shape = (len(filled), horizon)
        mean = table[column].to_numpy(dtype=np.float64).reshape(shape)
        parts = []
        for level in LEVELS:
            side = "lo" if level < 0.5 else "hi"
            source = column if _width(level) == 0 else f"{column}-{side}-{_width(level)}"
            parts.append(table[source].to_numpy(dtype=np.float64).reshape(shape))
        result[name] = (np.stack(parts, axis=-1), mean)
    return result


def _width(level: float) -> int:
    """The prediction level in percent whose interval ends at ``level``: 0.05 and 0.95 → 90, 0.5 → 0."""
    return round(abs(1 - 2 * level) * 100)
