"""Recent days that went otherwise: outside the interval of the forecast that was made before them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from trend_common.forecasts import Forecast
from trend_common.panel import SalesPanel
from trend_common.scoring import actuals, panel_before

if TYPE_CHECKING:
    from trend_client.contest import Forecaster

__all__ = ["COVERAGE", "anomalies", "outside"]

COVERAGE: Final = 0.98
"""Of the interval; so 2 of 100 days lie outside of it by chance, if the forecast knows its own errors."""


def outside(forecast: Forecast, y: np.ndarray) -> pd.DataFrame:
    """The values outside their interval, the most surprising first.

    Args:
        forecast: Made before.
        y: [S, H] what came, NaN where unknown.

    Returns:
        ``unique_id, ds, y, expected, low, high, times``: how many half-widths of its side of the interval the value
        lies from the median.
    """
    low, high = forecast.interval(COVERAGE)
    middle = forecast.median
    row, step = np.nonzero(np.nan_to_num((y < low) | (y > high), nan=False))
    above = y[row, step] > high[row, step]
    width = np.where(above, high[row, step] - middle[row, step], middle[row, step] - low[row, step])
    distance = np.abs(y[row, step] - middle[row, step])
    # An interval without width (never sold before) leaves the distance in units of one sale.
    table = pd.DataFrame(
        {
            "unique_id": [forecast.ids[one] for one in row],
            "ds": forecast.ds[row, step],
            "y": y[row, step],
            "expected": middle[row, step],
            "low": low[row, step],
            "high": high[row, step],
            "times": distance / np.maximum(width, 1.0),
        }
    )
    return table.sort_values(["times", "unique_id", "ds"], ascending=[False, True, True], ignore_index=True)


def anomalies(
    panel: SalesPanel, forecaster: Forecaster, steps: int, of: Sequence[str] | None = None
) -> tuple[pd.DataFrame, int]:
    """Look back ``steps`` steps, forecast from there, and compare.

    Args:
        panel: All sales.
        forecaster: The home's model.
        steps: How far to look back.
        of: Series to look at. Default: all.

    Returns:
        :func:`outside`, and the number of values looked at. Empty where the history is too short.
    """
    calendar = pd.date_range(panel.start, panel.calendar_end, freq=panel.offset)
    if len(calendar) <= 2 * steps:
        return outside(
            Forecast(
                (), np.zeros((0, 1), dtype="datetime64[ns]"), (0.01, 0.5, 0.99), np.zeros((0, 1, 3)), np.zeros((0, 1))
            ),
            np.zeros((0, 1)),
        ), 0
    origin = calendar[len(calendar) - steps]
    truth = actuals(panel, origin, steps)
    rows = [row for row, name in enumerate(truth.ids) if of is None or name in of]
    made = forecaster(panel_before(panel, origin), origin, steps).select([truth.ids[row] for row in rows])
    return outside(made, truth.y[rows]), int(np.isfinite(truth.y[rows]).sum())
