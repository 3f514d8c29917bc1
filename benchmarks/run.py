"""All benchmarks, one after another, each in a process of its own.

python benchmarks/run.py [--quick] [--json FOLDER]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent

# Script → (arguments, arguments of a quick run)
SCRIPTS: dict[str, tuple[list[str], list[str]]] = {
    "dp_step": (["--repeats", "30"], ["--repeats", "5"]),
    "simulation_overhead": (
        ["--retailers", "20", "--rounds", "5"],
        ["--retailers", "6", "--rounds", "2", "--repeats", "2"],
    ),
    "zero_shot": ([], ["--series", "40", "--windows", "1", "--no-statistical"]),
}


def main() -> int:
    """Command line; returns the first exit code that is not 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes: minutes become seconds")
    parser.add_argument("--json", type=Path, help="folder for NAME.json of each")
    parser.add_argument("--backbone", default="trend-small")
    options = parser.parse_args()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "OMP_NUM_THREADS": "1"}
    failed = 0
    for name, (whole, quick) in SCRIPTS.items():
        command = [sys.executable, "-W", "ignore", str(HERE / f"{name}.py"), "--backbone", options.backbone]
        command += quick if options.quick else whole
        if options.json:
            command += ["--json", str(options.json / f"{name}.json")]
        print(f"== {name}", flush=True)
        started = time.monotonic()
        code = subprocess.run(command, env=environment, check=False).returncode
        print(f"   {time.monotonic() - started:.0f} s" + (f", exit code {code}" if code else ""), flush=True)
        failed = failed or code
    return failed


if __name__ == "__main__":
    sys.exit(main())
