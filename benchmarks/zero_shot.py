"""The backbone as it is shipped against the statistical baselines, on every data set of a folder.

    TREND_DATA=DIR python benchmarks/zero_shot.py [--backbone trend-small] [--json FILE] [--markdown FILE]

Up to 150 random series of each file, three windows that end with the panel and do not overlap, 28 days, 8 weeks or 6
months each. Nothing is trained: the backbone has seen synthetic series alone. Scores are means over the windows.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from trend_common import __version__
from trend_common.baselines import baseline_forecast
from trend_common.covariates import DEFAULT_HORIZON
from trend_common.errors import DataError, TrendError
from trend_common.files import write_json, write_text
from trend_common.forecasts import Forecast
from trend_common.panel import SalesPanel, read
from trend_common.scoring import Score, actuals, panel_before, scale_of, score

STATISTICAL = ("auto-ets", "auto-theta")
SHOWN = ("sql", "mase", "wql", "wape", "coverage80", "coverage90")


@dataclass
class Result:
    """One model on one data set; ``scores`` has one entry a window."""

    data: str
    model: str
    scores: list[Score] = field(default_factory=list)
    seconds: float = 0.0

    def mean(self, key: str) -> float:
        """Mean over the windows."""
        return float(np.nanmean([float(one[key]) for one in self.scores]))  # type: ignore[literal-required]

    def to_json(self) -> dict[str, Any]:
        """One entry of ``results``."""
        keys = ("wape", "mase", "rmse", "sql", "wql", "coverage80", "coverage90")
        values: dict[str, Any] = {key: round(self.mean(key), 6) for key in keys}
        return {
            "data": self.data,
            "model": self.model,
            **values,
            "series": max(one["series"] for one in self.scores),
            "windows": len(self.scores),
            "seconds": round(self.seconds, 3),
        }


Forecaster = Callable[[SalesPanel, pd.Timestamp, int], Forecast]


def baseline(name: str) -> Forecaster:
    """A statistical method."""
    return lambda panel, origin, horizon: baseline_forecast([name], panel, origin, horizon)[name]


def zero_shot(name: str, context: int) -> Forecaster:
    """The backbone as it is; ``context`` 0 takes its longest."""
    from trend_common.backbones import load_backbone
    from trend_common.predicting import predict
    from trend_common.windows import PanelWindows

    backbone = load_backbone(name)

    def forecaster(panel: SalesPanel, origin: pd.Timestamp, horizon: int) -> Forecast:
        windows = PanelWindows(panel, context=context or backbone.max_context)
        return predict(backbone, windows, origin=windows.step_of(origin), horizon=horizon)

    return forecaster


def sample(panel: SalesPanel, most: int, seed: int) -> SalesPanel:
    """At most ``most`` random series."""
    if panel.n_series <= most:
        return panel
    rows = np.random.default_rng(seed).choice(panel.n_series, most, replace=False)
    return panel.select(panel.ids[row] for row in sorted(rows))


def compare(panel: SalesPanel, forecasters: Mapping[str, Forecaster], windows: int) -> list[Result]:
    """Score every forecaster on the same windows and series of one panel."""
    horizon = DEFAULT_HORIZON[panel.freq]
    origins = pd.date_range(end=panel.end, periods=horizon * windows, freq=panel.offset)[::horizon]
    results = {name: Result(panel.name, name) for name in forecasters}
    for origin in origins:
        known, truth = panel_before(panel, origin), actuals(panel, origin, horizon)
        made: dict[str, Forecast] = {}
        for name, forecaster in forecasters.items():
            started = time.perf_counter()
            made[name] = forecaster(known, origin, horizon)
            results[name].seconds += time.perf_counter() - started
        ids = [name for name in truth.ids if all(name in forecast.ids for forecast in made.values())]
        if not ids:
            continue
        y, scale = truth.select(ids).y, scale_of(panel, ids, origins[0])
        for name, forecast in made.items():
            results[name].scores.append(score(y, forecast.select(ids), scale))
    return [one for one in results.values() if one.scores]


def table(results: list[Result]) -> str:
    """A Markdown table: a row a data set and model, the best value of each measure in bold."""
    lines = [
        "| data | model | SQL | MASE | WQL | WAPE | cov. 80 | cov. 90 | s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for data in dict.fromkeys(one.data for one in results):
        group = [one for one in results if one.data == data]
        best = {key: min(one.mean(key) for one in group) for key in SHOWN[:4]}
        for one in group:
            cells = [
                f"**{one.mean(key):.3f}**" if key in best and one.mean(key) == best[key] else f"{one.mean(key):.3f}"
                for key in SHOWN
            ]
            lines.append(f"| {data} | {one.model} | {' | '.join(cells)} | {one.seconds:.1f} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("TREND_DATA"), help="folder (default $TREND_DATA)"
    )
    parser.add_argument("--backbone", default="trend-small")
    parser.add_argument("--context", type=int, default=0, help="steps (default: the backbone's longest)")
    parser.add_argument("--series", type=int, default=150)
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="part of a file's name")
    parser.add_argument("--no-statistical", action="store_true", help="leave AutoETS and AutoTheta out")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args(arguments)
    if not options.data:
        print("No data: set TREND_DATA or give --data. Nothing was measured.")
        return 0
    import torch

    torch.set_num_threads(1)
    names = ["seasonal-naive", "same-phase-mean", *([] if options.no_statistical else STATISTICAL)]
    forecasters = {name: baseline(name) for name in names}
    forecasters[options.backbone] = zero_shot(options.backbone, options.context)
    results: list[Result] = []
    for path in sorted(Path(options.data).glob("*.csv*")):
        if options.only not in path.name:
            continue
        try:
            panel = sample(read(path), options.series, options.seed)
        except DataError as error:
            print(f"{path.name}: {error}", file=sys.stderr)
            continue
        found = compare(panel, forecasters, options.windows)
        results += found
        print(table(found), flush=True)
    if not results:
        print(f"No data set in {options.data} could be used.", file=sys.stderr)
        return 3
    if options.markdown:
        write_text(options.markdown, table(results))
    if options.json:
        body = [one.to_json() for one in results]
        write_json(
            options.json, {"schema": 1, "version": __version__, "command": "evaluate", "results": body}, private=False
        )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TrendError as error:
        sys.exit(f"{error}")
