"""The files that a retailer keeps: forecasts and the backtest. All hold private sales and are readable by their owner
alone; each appears whole or not at all.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from trend_common.errors import UsageError
from trend_common.files import replacing, write_json
from trend_common.forecasts import Forecast

if TYPE_CHECKING:
    from trend_client.backtest import Backtest

__all__ = ["read_forecasts", "write_backtest", "write_forecasts"]


def write_forecasts(folder: Path, forecast: Forecast, static: pd.DataFrame) -> tuple[Path, Path]:
    """Write ``forecasts.csv`` and ``forecasts.parquet``.

    Args:
        folder: Created if it is missing.
        forecast: S series, H steps.
        static: The panel's static table, for store and product.

    Returns:
        The two paths.
    """
    table = forecast.to_frame(static)
    csv, parquet = folder / "forecasts.csv", folder / "forecasts.parquet"
    with replacing(parquet, private=True) as temporary:
        table.to_parquet(temporary, index=False)
    with replacing(csv, private=True) as temporary:
        dated = table.assign(ds=table["ds"].dt.strftime("%Y-%m-%d"))
        # Six significant digits: more than any forecast knows, and the file stays half as large.
        dated.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n", encoding="utf-8")
    return csv, parquet


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
