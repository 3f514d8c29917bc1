"""Peak memory and time of a forecast of many series, forecast and written piece by piece.

    python benchmarks/large_panel.py --series 100000 [--weeks 60] [--naive] [--folder DIR] [--json FILE]

Weekly made-up sales are built in memory; then methods are compared on a sample of series and all are forecast with
the weights of that sample and written as CSV and Parquet, as ``trend-client forecast`` does after reading the file.
Memory is the process's own peak: before the forecast (interpreter, model, sales) and after it.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from trend_client.delivery import deliver
from trend_client.engine import Engine
from trend_client.gate import Choice
from trend_client.outcome import Model, Wishes, combined, forecasters, measured
from trend_common import __version__
from trend_common.covariates import DEFAULT_CONTEXT
from trend_common.files import write_json
from trend_common.panel import SalesPanel
from trend_common.scoring import next_origin

HORIZON = 8


def made_up(series: int, weeks: int) -> SalesPanel:
    """Poisson sales of ``series`` products in stores of 500."""
    rng = np.random.default_rng(0)
    dates = pd.date_range("2023-01-01", periods=weeks, freq="W-SUN")
    ids = np.array([f"s{row // 500:04d}/p{row % 500:03d}" for row in range(series)], dtype=object)
    y = rng.poisson(np.exp(rng.normal(2, 1, (series, 1))), (series, weeks)).astype(float)
    frame = pd.DataFrame(
        {"unique_id": np.repeat(ids, weeks), "ds": np.tile(dates, series), "y": y.reshape(-1), "closed": False}
    )
    static = pd.DataFrame(
        {
            "store": [name[:5] for name in ids],
            "product": [name[6:] for name in ids],
            "category": "",
            "description": "",
        },
        index=pd.Index(ids, name="unique_id"),
    )
    return SalesPanel("large", "W", "W-SUN", frame, frame.loc[[], ["unique_id", "ds"]], static, {}, (), len(frame))


def peak_mb() -> float:
    """Peak resident memory of this process so far, in MB."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (1e6 if sys.platform == "darwin" else 1e3)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--backbone", default="trend-small")
    parser.add_argument("--series", type=int, default=10_000)
    parser.add_argument("--weeks", type=int, default=60)
    parser.add_argument(
        "--naive", action="store_true", help="compare nothing, and forecast all by the seasonal naive"
    )
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(arguments)
    engine = Engine(asked.backbone, device="cpu")
    engine.install_local(2)
    panel = made_up(asked.series, asked.weeks)
    before = peak_mb()
    started = time.perf_counter()
    model = Model("local", HORIZON, min(DEFAULT_CONTEXT["W"], engine.backbone.max_context), {"zero-shot": None})
    methods = forecasters(engine, model, sales=panel)
    if asked.naive:
        choice = Choice("seasonal-naive", {}, ("seasonal-naive",), {})
    else:
        choice = measured(panel, model, methods).choice
    compared = time.perf_counter() - started

    def made(part: SalesPanel) -> object:
        return combined(choice, methods, part, next_origin(panel), HORIZON)

    def told(done: int, total: int) -> None:
        print(f"{done:,} of {total:,}, {peak_mb():,.0f} MB", flush=True)

    with tempfile.TemporaryDirectory() as spare:
        folder = asked.folder or Path(spare)
        started = time.perf_counter()
        shown, _ = deliver(folder, panel, made, HORIZON, Wishes(reconcile="bottom-up"), pieces=told)  # type: ignore[arg-type]
        delivered = time.perf_counter() - started
    after = peak_mb()
    print(
        f"{asked.series:,} series of {asked.weeks} weeks: peak {before:,.0f} MB with the sales, {after:,.0f} in all; "
        f"compared in {compared:.0f} s, forecast and written in {delivered:.0f} s; report of {len(shown):,}."
    )
    if asked.json is not None:
        body = {
            "schema": 1,
            "version": __version__,
            "command": "large-panel",
            "series": asked.series,
            "weeks": asked.weeks,
            "method": "seasonal naive" if asked.naive else "blend",
            "peak_mb": {"sales": before, "all": after},
            "seconds": {"compared": compared, "delivered": delivered},
        }
        write_json(asked.json, body)
    return 0


if __name__ == "__main__":
    sys.exit(main())
