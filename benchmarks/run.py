"""All benchmarks, one after another, each in a process of its own, and the page about them.

    python benchmarks/run.py [--quick] [--only NAME,...] [--json FOLDER] [--page]

With ``--page`` the figures are gathered into ``benchmarks/results.json`` and ``docs/benchmarks.md``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Benchmark:
    """How one is started: before and after the backbone's name ("": it has no such option), and in a quick run."""

    start: tuple[str, ...]
    whole: tuple[str, ...]
    quick: tuple[str, ...]
    backbone: str = "--backbone"
    needs_data: bool = False


BENCHMARKS = {
    "dp_step": Benchmark((str(HERE / "dp_step.py"),), ("--repeats", "30"), ("--repeats", "5", "--windows", "4")),
    "simulation_peers": Benchmark(
        (str(HERE / "simulation_peers.py"),), (), ("--clients", "6", "--rounds", "2", "--repeats", "1")
    ),
    "simulation_overhead": Benchmark(
        (str(HERE / "simulation_overhead.py"),),
        ("--retailers", "20", "--rounds", "5"),
        ("--retailers", "6", "--rounds", "2", "--repeats", "2"),
    ),
    "simulation_scale": Benchmark(
        (str(HERE / "simulation_scale.py"),), ("--clients", "10", "100", "1000", "--whole"), ("--clients", "4", "8")
    ),
    "wire": Benchmark((str(HERE / "wire.py"),), (), ("--clients", "3", "10", "--rounds", "3")),
    "secure_aggregation": Benchmark((str(HERE / "secure_aggregation.py"),), (), ("--clients", "10", "30")),
    "startup": Benchmark((str(HERE / "startup.py"),), (), ("--repeats", "2")),
    "float_rounding": Benchmark((str(HERE / "float_rounding.py"),), (), ("--series", "70")),
    "forecasting": Benchmark(
        (str(HERE / "forecasting.py"),), (), ("--series", "200", "--slow", "10", "--repeats", "3")
    ),
    "growth": Benchmark((str(HERE / "growth.py"),), (), ("--quick",)),
    "large_panel": Benchmark((str(HERE / "large_panel.py"),), ("--series", "100000", "--naive"), ("--series", "500")),
    "serve_load": Benchmark(
        (str(HERE / "serve_load.py"),),
        (),
        ("--callers", "1,8", "--seconds", "3", "--precisions", "int8"),
        backbone="",
    ),
    "evaluate": Benchmark(
        ("-m", "trend_server.cli", "evaluate"),
        (),
        ("--series", "40", "--windows", "1", "--baselines", "seasonal-naive,same-phase-mean,same-phase-mean-4"),
        backbone="--model",
        needs_data=True,
    ),
}


def main() -> int:
    """Command line; returns the first exit code that is not 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes: minutes become seconds")
    parser.add_argument("--only", default="", metavar="NAME,...", help="of " + ", ".join(BENCHMARKS))
    parser.add_argument("--json", type=Path, help="folder for NAME.json of each; default with --page: runs/bench")
    parser.add_argument("--page", action="store_true", help="write results.json and docs/benchmarks.md")
    parser.add_argument("--machine", default="", help="with --page: more about the machine")
    parser.add_argument("--backbone", default="trend-small")
    options = parser.parse_args()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "OMP_NUM_THREADS": "1"}
    folder = options.json or (HERE.parent / "runs" / "bench" if options.page else None)
    wanted = options.only.split(",") if options.only else list(BENCHMARKS)
    failed = 0
    data = os.environ.get("TREND_DATA")
    for name, one in BENCHMARKS.items():
        if name not in wanted:
            continue
        print(f"== {name}", flush=True)
        if one.needs_data and not data:
            print("   No data: TREND_DATA does not name a folder. Nothing was measured.", flush=True)
            continue
        command = [sys.executable, "-W", "ignore", *one.start]
        command += [one.backbone, options.backbone] if one.backbone else []
        command += one.quick if options.quick else one.whole
        if one.needs_data and data:
            command += ["--data", data]
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            command += ["--json", str(folder / f"{name}.json")]
        started = time.monotonic()
        code = subprocess.run(command, env=environment, check=False).returncode
        print(f"   {time.monotonic() - started:.0f} s" + (f", exit code {code}" if code else ""), flush=True)
        failed = failed or code
    if options.page:
        command = [sys.executable, str(HERE / "gather.py"), str(folder), "--machine", options.machine]
        failed = failed or subprocess.run(command, env=environment, check=False).returncode
    return failed


if __name__ == "__main__":
    sys.exit(main())
