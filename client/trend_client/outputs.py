"""The files that a retailer keeps: forecasts and the backtest. All hold private sales and are readable by their owner
alone; each appears whole or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from trend_client.stream import Format, TableWriter
from trend_common.errors import UsageError
from trend_common.files import replacing, write_json
from trend_common.forecasts import Forecast

if TYPE_CHECKING:
    from trend_client.backtest import Backtest

__all__ = ["read_forecasts", "write_backtest", "write_forecasts"]


def write_forecasts(
    folder: Path, forecast: Forecast, static: pd.DataFrame, *, formats: Sequence[Format] = ("csv", "parquet")
) -> tuple[Path, ...]:
    """Write ``forecasts.csv``, ``forecasts.parquet`` or ``forecasts.xlsx``.

    Args:
        folder: Created if it is missing.
        forecast: S series, H steps.
        static: The panel's static table, for store and product.
        formats: Which of the files.

    Returns:
        Their paths, in the order csv, parquet, xlsx.
    """
    with TableWriter(folder, "forecasts", formats) as writer:
        writer.write(forecast.to_frame(static))
    return tuple(writer.paths.values())


def read_forecasts(folder: Path) -> Forecast:
    """The forecast that :func:`write_forecasts` wrote.

    Raises:
        UsageError: There is none, or it cannot be read.
    """
    path = folder / "forecasts.parquet"
    hint = "Run `trend-client forecast` to make it."
    if not path.is_file():
        raise UsageError(f"There is no forecast at {path}.", hint)
    try:
        return Forecast.from_frame(pd.read_parquet(path))
    except (ValueError, OSError) as error:
        raise UsageError(f"{path} cannot be read as a forecast: {error}", hint) from error


def write_backtest(folder: Path, result: Backtest) -> tuple[Path, Path]:
    """Write ``backtest.json`` and ``backtest.csv``; return their paths."""
    json, csv = folder / "backtest.json", folder / "backtest.csv"
    write_json(json, result.to_json(), private=True)
    with replacing(csv, private=True) as temporary:
        result.table().to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
    return json, csv
