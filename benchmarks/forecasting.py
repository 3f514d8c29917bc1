"""Series forecast a second on one thread, and what the forecasts are worth: the backbone beside statsforecast.

    python benchmarks/forecasting.py [--data FILE...] [--backbone trend-small] [--repeats 5] [--json FILE]

All methods forecast the last horizon (28 days, 8 weeks) of the same panel from the same sales, with quantiles, in one
process on one thread, by turns; medians of CPU time count. The backbone's time includes making the windows from the
panel's arrays and sorting the quantiles; int8 checks itself against torch in the first repetition alone. Slow
statistical methods run twice, on fewer series. ``seasonal-naive`` is statsforecast's here, not our own. Without files
it is a synthetic retailer. SQL is the scaled quantile loss of docs/scoring.md on series that all methods forecast.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

from trend_common import __version__
from trend_common.backbones import load_backbone
from trend_common.baselines import MAX_HISTORY, baseline_forecast, fill_forward
from trend_common.covariates import DEFAULT_HORIZON, SEASON
from trend_common.errors import TrendError
from trend_common.files import write_json
from trend_common.forecasts import LEVELS, Forecast
from trend_common.panel import SalesPanel, read
from trend_common.predicting import predict
from trend_common.scoring import actuals, grid, panel_before, scale_of, score
from trend_common.windows import PanelWindows
from trend_simulations.sources import synthetic

Method = Callable[[], Forecast]

_STATISTICAL = ("auto-ets", "auto-theta")


@dataclass
class Timed:
    """One method: what it forecast, and how long it took each time."""

    made: Forecast
    seconds: list[float]

    @property
    def per_second(self) -> float:
        """Series a CPU second."""
        return len(self.made) / float(np.median(self.seconds))


def statsforecast_naive(panel: SalesPanel, origin: pd.Timestamp, horizon: int) -> Forecast:
    """statsforecast's SeasonalNaive with its own intervals."""
    from statsforecast import StatsForecast
    from statsforecast.models import SeasonalNaive

    season, values = SEASON[panel.freq], grid(panel, before=origin)
    history = np.nan_to_num(fill_forward(values.y, season)[:, -MAX_HISTORY[panel.freq] :])
    count, steps = history.shape
    frame = pd.DataFrame(
        {
            "unique_id": np.repeat(np.arange(count), steps),
            "ds": np.tile(np.arange(steps), count),
            "y": history.ravel(),
        }
    )
    wide = sorted({round(abs(2 * level - 1) * 100) for level in LEVELS} - {0})
    fitted = StatsForecast([SeasonalNaive(season)], freq=1, n_jobs=1).forecast(df=frame, h=horizon, level=wide)
    fitted = fitted.sort_values(["unique_id", "ds"])

    def column(level: float) -> str:
        size = round(abs(2 * level - 1) * 100)
        return "SeasonalNaive" if size == 0 else f"SeasonalNaive-{'hi' if level > 0.5 else 'lo'}-{size}"

    quantiles = np.stack([fitted[column(level)].to_numpy().reshape(count, horizon) for level in LEVELS], axis=-1)
    mean = fitted["SeasonalNaive"].to_numpy().reshape(count, horizon)
    dates = pd.date_range(origin, periods=horizon, freq=panel.offset).to_numpy(dtype="datetime64[ns]")
    return Forecast.repaired(values.ids, dates, quantiles.astype(np.float64), mean.astype(np.float64))


def compare(panel: SalesPanel, backbone_name: str, *, repeats: int, slow: int) -> dict[str, Any]:
    """All methods on one panel."""
    horizon = DEFAULT_HORIZON[panel.freq]
    origin = pd.date_range(end=panel.end, periods=horizon, freq=panel.offset)[0]
    known, truth = panel_before(panel, origin), actuals(panel, origin, horizon)
    known = known.select(truth.ids)
    backbone = load_backbone(backbone_name)
    windows = PanelWindows(known, context=backbone.max_context)
    at, few = windows.step_of(origin), known.select(truth.ids[:slow])
    methods: dict[str, Method] = {
        f"{backbone_name} (torch)": lambda: predict(backbone, windows, origin=at, horizon=horizon),
        f"{backbone_name} (int8)": lambda: predict(backbone, windows, origin=at, horizon=horizon, engine="int8"),
        "seasonal-naive": lambda: statsforecast_naive(known, origin, horizon),
        **{
            name: (lambda name=name: baseline_forecast([name], few, origin, horizon)[name])  # type: ignore[misc]
            for name in _STATISTICAL
        },
    }
    timed: dict[str, Timed] = {}
    for number in range(repeats):
        for name, method in methods.items():
            if name in _STATISTICAL and number >= 2:
                continue
            started = time.process_time()
            made = method()
            timed.setdefault(name, Timed(made, [])).seconds.append(time.process_time() - started)
    shared = truth.select(timed["auto-ets"].made.ids)
    scale = scale_of(panel, shared.ids, origin)
    rows = [
        {
            "model": name,
            "series": len(one.made),
            "per_second": round(one.per_second, 1),
            "milliseconds": round(1000 / one.per_second, 3),
            "sql": round(score(shared.y, one.made.select(shared.ids), scale)["sql"], 4),
        }
        for name, one in timed.items()
    ]
    steps = int(min(windows.n_steps, windows.context))
    return {"data": panel.name, "freq": panel.freq, "history": steps, "horizon": horizon, "methods": rows}


def table(found: dict[str, Any]) -> Table:
    """One panel for the console."""
    title = f"{found['data']}: {found['history']} steps of history, {found['horizon']} ahead"
    made = Table("model", "series", "series/s", "ms", "SQL", title=title, box=None, title_justify="left")
    for row in found["methods"]:
        cells = (row["series"], f"{row['per_second']:,.0f}", f"{row['milliseconds']:.2f}", f"{row['sql']:.3f}")
        made.add_row(row["model"], *(str(cell) for cell in cells))
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="+", help="sales files; default: a synthetic retailer")
    parser.add_argument("--backbone", default="trend-small")
    parser.add_argument(
        "--series", type=int, default=1500, help="most series of a file, and of the synthetic retailer"
    )
    parser.add_argument("--slow", type=int, default=60, help="series for AutoETS and AutoTheta")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.data:
        panels = [read(path) for path in options.data]
    else:
        panels = [synthetic(1, seed=0, freq="D", sizes=(options.series, options.series))[0].panel]
    results = []
    for panel in panels:
        chosen = panel.select(panel.ids[: options.series])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results.append(compare(chosen, options.backbone, repeats=max(options.repeats, 1), slow=options.slow))
        Console().print(table(results[-1]))
    if options.json:
        write_json(options.json, {"schema": 1, "version": __version__, "command": "forecasting", "results": results})
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TrendError as error:
        sys.exit(str(error))
