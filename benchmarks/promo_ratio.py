"""Does the backbone know what a promotion is worth? Sales with a promotion over sales without, at equal weekday.

    python benchmarks/promo_ratio.py --data FILE... [--backbone trend-small] [--windows 3] [--json FILE]

Rolling windows that end with each file, as in ``trend-server evaluate``; nothing is trained. On steps on which
something was sold, for each weekday that has both kinds: the mean of what was sold (or forecast) on promoted steps
over the mean on the others; then the geometric mean over the weekdays. ``forecast`` is that of the median and
``forecast_mean`` that of the mean, on the steps that were truly promoted. ``flipped`` is the forecast for the very
same steps with all of them promoted over that with none, which no other difference between the days can blur.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from trend_common import __version__
from trend_common.backbones import Backbone, load_backbone
from trend_common.covariates import DEFAULT_HORIZON
from trend_common.errors import DataError, TrendError
from trend_common.files import write_json
from trend_common.forecasts import Forecast
from trend_common.panel import SalesPanel, read
from trend_common.predicting import predict
from trend_common.scoring import panel_before
from trend_common.windows import PanelWindows

_FEWEST = 20
"""Steps of each kind that a weekday needs."""


def ratio(values: NDArray[np.float64], promoted: NDArray[np.bool_], phase: NDArray[np.int64]) -> float:
    """Geometric mean over the phases of mean(values where promoted) / mean(values elsewhere).

    Args:
        values: [N] steps.
        promoted: [N].
        phase: [N] what is compared with its like alone: the weekday.

    Returns:
        NaN where no phase has enough of both.
    """
    logs = []
    for one in np.unique(phase):
        on, off = values[promoted & (phase == one)], values[~promoted & (phase == one)]
        if min(len(on), len(off)) >= _FEWEST and on.mean() > 0 and off.mean() > 0:
            logs.append(np.log(on.mean() / off.mean()))
    return float(np.exp(np.mean(logs))) if logs else float("nan")


def forecast(backbone: Backbone, known: SalesPanel, origin: pd.Timestamp, horizon: int) -> Forecast:
    """Of the panel as it was known at ``origin``."""
    windows = PanelWindows(known, context=backbone.max_context)
    return predict(backbone, windows, origin=windows.step_of(origin), horizon=horizon)


def with_promotion(known: SalesPanel, value: float) -> SalesPanel:
    """The same plans, but every step ahead is promoted, or none is."""
    return replace(known, future=known.future.assign(promo=value))


def measure(panel: SalesPanel, backbone: Backbone, windows: int) -> dict[str, float | str]:
    """Observed and predicted ratios over all windows of one panel.

    Raises:
        DataError: The panel has no promotions.
    """
    if "promo" not in panel.frame.columns:
        raise DataError(f"{panel.name} has no column of promotions.", "Name files that have one.")
    horizon = DEFAULT_HORIZON[panel.freq]
    truth = panel.frame[["unique_id", "ds", "y", "promo"]]
    tables = []
    for origin in pd.date_range(end=panel.end, periods=horizon * windows, freq=panel.offset)[::horizon]:
        known = panel_before(panel, origin)
        made = {
            "": forecast(backbone, known, origin, horizon),
            "_on": forecast(backbone, with_promotion(known, 1.0), origin, horizon),
            "_off": forecast(backbone, with_promotion(known, 0.0), origin, horizon),
        }
        table = pd.DataFrame(
            {
                "unique_id": np.repeat(made[""].ids, horizon),
                "ds": made[""].ds.reshape(-1),
                **{f"median{name}": one.median.reshape(-1) for name, one in made.items()},
                **{f"mean{name}": one.mean.reshape(-1) for name, one in made.items()},
            }
        )
        tables.append(table.merge(truth, on=["unique_id", "ds"]))
    steps = pd.concat(tables)
    steps = steps[(steps["y"] > 0) & steps["promo"].notna()]
    weekday = steps["ds"].dt.weekday.to_numpy() if panel.freq == "D" else np.zeros(len(steps))
    promoted, phase = steps["promo"].to_numpy() > 0, weekday.astype(np.int64)
    flat = np.ones(2 * len(steps), dtype=bool)
    flat[len(steps) :] = False
    found = {name: ratio(steps[key].to_numpy(), promoted, phase) for name, key in (
        ("observed", "y"), ("forecast", "median"), ("forecast_mean", "mean"),
    )}  # fmt: skip
    flipped = np.concatenate([steps["median_on"], steps["median_off"]])
    found["flipped"] = ratio(flipped, flat, np.tile(phase, 2))
    return {"data": panel.name, **found, "off_by": found["forecast"] / found["observed"] - 1}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--backbone", default="trend-small")
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    backbone = load_backbone(options.backbone)
    rows = []
    for path in options.data:
        rows.append(measure(read(path), backbone, options.windows))
        print(json.dumps({key: round(one, 3) if isinstance(one, float) else one for key, one in rows[-1].items()}))
    if options.json:
        found = [
            {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in row.items()} for row in rows
        ]
        write_json(options.json, {"schema": 1, "version": __version__, "command": "promo_ratio", "rows": found})
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TrendError as error:
        sys.exit(str(error))
