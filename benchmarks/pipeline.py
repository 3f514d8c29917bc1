"""The whole pipeline against the best single statistical method, chosen in hindsight.

    TREND_DATA=DIR python benchmarks/pipeline.py [--series 150] [--no-personal] [--json FILE] [--markdown FILE]

Each file is what one retailer has: a personal model is trained on it, every method is scored on the validation
windows, weights and spreads are fitted there, and the last horizon is looked at once. The yardstick is what no
retailer can have: of all statistical methods, for each file the one that turned out best on that very test.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trend_client.engine import Engine
from trend_client.gate import CHOSEN
from trend_client.outcome import Model, fine_tune, forecasters, measured
from trend_client.trees import TREES
from trend_client.trial import sampled
from trend_common import __version__
from trend_common.baselines import BASELINES, baseline_forecast
from trend_common.covariates import DEFAULT_CONTEXT, DEFAULT_HORIZON
from trend_common.errors import DataError, TrendError
from trend_common.files import write_json, write_text
from trend_common.panel import read
from trend_common.scoring import origins, panel_before, scale_of, score


@dataclass(frozen=True)
class Row:
    """One file: method → SQL on the test, and what the pipeline did."""

    data: str
    series: int
    windows: int
    sql: dict[str, float]
    coverage: dict[str, tuple[float, float]]
    weights: dict[str, float]
    seconds: float

    @property
    def best(self) -> str:
        """The statistical method with the lowest loss on the test."""
        return min((name for name in self.sql if name in BASELINES), key=lambda name: self.sql[name])

    def relative(self, name: str) -> float:
        """The loss of a method over that of the best statistical one."""
        return self.sql[name] / self.sql[self.best]


def one_file(path: Path, engine: Engine, *, series: int, personal: bool, seed: int = 0) -> Row:
    """Run the pipeline on one file.

    Raises:
        DataError: The file is too short for a backtest.
    """
    started = time.perf_counter()
    panel = read(path)
    panel = panel.select(sampled(panel.ids, series))
    engine.install_local(2)
    model = Model(
        "local",
        DEFAULT_HORIZON[panel.freq],
        min(DEFAULT_CONTEXT[panel.freq], engine.backbone.max_context),
        {"zero-shot": None},
    )
    if personal:
        tensors, _, _ = fine_tune(engine, panel, model, seed=seed)
        last = origins(panel, model.horizon).validation
        model = replace(model, adapters={**model.adapters, "personal": tensors}, since={"personal": last})
    found = measured(panel, model, forecasters(engine, model, sales=panel), full=True)
    sql = {name: result.test["sql"] for name, result in found.methods.items()}
    coverage = {
        name: (result.test["coverage80"], result.test["coverage90"]) for name, result in found.methods.items()
    }
    # Those that the pipeline does not use belong to the yardstick, too.
    others = [name for name in BASELINES if name not in sql]
    known = panel_before(panel, found.origins.test)
    made = baseline_forecast(others, known, found.origins.test, model.horizon)
    ids = found.actuals.ids
    scale = scale_of(panel, ids, found.origins.validation)
    sql |= {name: score(found.actuals.y, one.select(ids), scale)["sql"] for name, one in made.items()}
    if found.uncalibrated is not None:
        sql["uncalibrated"] = found.uncalibrated["sql"]
        coverage["uncalibrated"] = (found.uncalibrated["coverage80"], found.uncalibrated["coverage90"])
    return Row(
        path.name.split(".")[0],
        int(found.methods[CHOSEN].test["series"]),
        len(found.origins.rolling),
        sql,
        coverage,
        found.choice.shares,
        time.perf_counter() - started,
    )


def geometric(rows: Sequence[Row], name: str) -> float:
    """Geometric mean over files of a method's loss over the best statistical one's."""
    values = [row.relative(name) for row in rows if name in row.sql]
    return math.exp(float(np.mean(np.log(values)))) if values else math.nan


def markdown(rows: Sequence[Row]) -> str:
    """The table of results."""
    wanted = (CHOSEN, "uncalibrated", TREES, "personal", "zero-shot")
    names = [name for name in wanted if any(name in row.sql for row in rows)]
    lines = [
        "| data | series, windows | best statistical, in hindsight (SQL) | "
        + " | ".join("the pipeline" if name == CHOSEN else name for name in names)
        + " | 80 / 90 % cover before | after | weights |",
        "| --- | --- | --- |" + " --- |" * (len(names) + 3),
    ]
    for row in rows:
        shares = ", ".join(f"{name} {weight:.2f}" for name, weight in row.weights.items() if weight >= 0.05)
        cover = [
            "{:.0f} / {:.0f} %".format(*(100 * one for one in row.coverage[name]))
            for name in ("uncalibrated", CHOSEN)
            if name in row.coverage
        ]
        cells = [f"{row.relative(name):.3f}" if name in row.sql else "" for name in names]
        lines.append(
            f"| {row.data} | {row.series}, {row.windows} | {row.best} ({row.sql[row.best]:.3f}) | "
            + " | ".join([*cells, *cover, shares])
            + " |"
        )
    means = [f"**{geometric(rows, name):.3f}**" for name in names]
    lines.append("| geometric mean | | 1 | " + " | ".join(means) + " | | | |")
    fixed = ", ".join(f"{name} {geometric(rows, name):.3f}" for name in BASELINES)
    return "\n".join(lines) + f"\n\nThe same for one method on all files: {fixed}.\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("files", nargs="*", type=Path, help="sales files; default: all in TREND_DATA")
    parser.add_argument(
        "--series", type=int, default=150, help="at most so many series of a file, by the hash of names"
    )
    parser.add_argument("--no-personal", action="store_true", help="train no personal model")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    asked = parser.parse_args(arguments)
    files: list[Path] = asked.files or sorted(Path(os.environ.get("TREND_DATA", ".")).glob("*.csv.gz"))
    if not files:
        print("No files: name some, or set TREND_DATA.", file=sys.stderr)
        return 2
    engine = Engine("trend-small", device="cpu")
    rows: list[Row] = []
    for path in files:
        try:
            row = one_file(path, engine, series=asked.series, personal=not asked.no_personal)
        except DataError as error:
            print(f"{path.name}: {error.message}", file=sys.stderr)
            continue
        except TrendError as error:
            print(error, file=sys.stderr)
            return int(error.exit_code)
        rows.append(row)
        print(
            f"{row.data}: {row.relative(CHOSEN):.3f} of {row.best}, personal "
            f"{row.relative('personal') if 'personal' in row.sql else math.nan:.3f}, {row.seconds:.0f} s",
            flush=True,
        )
    table = markdown(rows)
    print(table)
    if asked.markdown is not None:
        write_text(asked.markdown, table)
    if asked.json is not None:
        body: dict[str, Any] = {
            "schema": 1,
            "version": __version__,
            "command": "pipeline",
            "results": [
                {
                    "data": row.data,
                    "series": row.series,
                    "windows": row.windows,
                    "best": row.best,
                    "sql": row.sql,
                    "coverage": {name: list(one) for name, one in row.coverage.items()},
                    "weights": row.weights,
                    "seconds": row.seconds,
                }
                for row in rows
            ],
            "geometric": {name: geometric(rows, name) for name in (*BASELINES, "zero-shot", CHOSEN)},
        }
        write_json(asked.json, body)
    return 0


if __name__ == "__main__":
    sys.exit(main())
