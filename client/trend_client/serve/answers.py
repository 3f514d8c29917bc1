"""Forecasts as JSON: numbers with six significant digits, as in ``forecasts.csv``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trend_client.serve.served import Job
from trend_common.forecasts import Forecast, level_name

__all__ = ["forecast_json", "six_digits"]

_DIGITS = 6
_SMALLEST = -12
"""Parts of a trillion of a piece are rounded to zero."""


def six_digits(values: NDArray[np.float64]) -> list[Any]:
    """The values as nested lists, rounded to six significant digits."""
    with np.errstate(divide="ignore"):
        exponent = np.where(values == 0, 0, np.floor(np.log10(np.abs(values))))
    # These powers of ten are exact, so each quotient is the double nearest to its decimal.
    shift = 10.0 ** np.abs(_DIGITS - 1 - exponent.clip(_SMALLEST))
    small = exponent < _DIGITS
    rounded = np.where(small, np.rint(values * shift) / shift, np.rint(values / shift) * shift)
    found: list[Any] = rounded.tolist()
    return found


def forecast_json(job: Job, forecast: Forecast, levels: Sequence[float] | None, precision: str) -> bytes:
    """The body of a :class:`~trend_client.serve.schemas.ForecastAnswer`."""
    wanted = sorted(set(levels or forecast.levels))
    at = [forecast.levels.index(level) for level in wanted]
    names = [level_name(level) for level in wanted]
    quantiles = six_digits(np.moveaxis(forecast.quantiles[..., at], -1, 1))
    means = six_digits(forecast.mean)
    days = forecast.ds.astype("datetime64[D]").astype(str).tolist()
    static = job.panel.static.loc[list(forecast.ids), ["store", "product"]].to_numpy().tolist()
    body = {
        "method": job.method,
        "precision": precision if job.ready is None else "float32",
        "freq": job.panel.freq,
        "forecasts": [
            {
                "id": series,
                "store": static[row][0],
                "product": static[row][1],
                "dates": days[row],
                "mean": means[row],
                "quantiles": dict(zip(names, quantiles[row], strict=True)),
            }
            for row, series in enumerate(forecast.ids)
        ],
        "findings": [
            {"code": one.code, "severity": one.severity, "count": one.count, "action": one.action}
            for one in job.findings
        ],
    }
    return json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
