"""A private training step on the adapter against the same step without privacy: a ratio of times in one run.

    python benchmarks/dp_step.py [--backbone trend-small] [--repeats 20] [--json FILE]

Both draw the same number of windows of the same synthetic retailer and go through the same forward pass. The plain
step is autograd's gradient of the mean loss; the private one has per-series gradients, clipping, noise from the
system's entropy and float64 sums. The steps take turns, so that what else the machine does hits both alike;
medians of CPU time are compared. Peak memory is that of two further processes that take one kind of step only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trend_client.engine import Engine
from trend_client.training import TrainingData
from trend_common import __version__
from trend_common.errors import TrendError
from trend_common.files import write_json
from trend_common.privacy.noise import SecureGenerator
from trend_common.privacy.step import private_gradient
from trend_common.protocol import BucketPlan
from trend_common.windows import PanelWindows
from trend_simulations.sources import synthetic

Step = Callable[[], None]


def steps(backbone: str, *, series: int, windows: int, rank: int) -> tuple[Step, Step]:
    """The plain and the private step, on one engine and the same data."""
    engine = Engine(backbone, device="cpu")
    engine.install_local(rank)
    engine.use(None)
    panel = synthetic(1, seed=0, freq="D", sizes=(series, series))[0].panel
    panel_windows = PanelWindows(panel, context=252)
    data = TrainingData.of(panel_windows, train_end=panel_windows.n_steps, horizon=28)
    generator, rng = SecureGenerator(), np.random.default_rng(0)
    core, backbone_ = engine.backbone.core, engine.backbone
    trained = [p for p in core.parameters() if p.requires_grad]

    def losses(units: np.ndarray) -> torch.Tensor:
        found: torch.Tensor | None = backbone_(data.draw(units, windows, rng.random)).loss_per_sample
        assert found is not None
        return found

    def plain() -> None:
        for value in trained:
            value.grad = None
        # In the same chunks as the private step, so that both have the same batches.
        for begin in range(0, data.n_units, 64):
            units = np.arange(begin, min(begin + 64, data.n_units))
            (losses(units).sum() / (windows * data.n_units)).backward()  # type: ignore[no-untyped-call]

    def private() -> None:
        private_gradient(
            core,
            losses,
            n_units=data.n_units,
            windows_per_series=windows,
            bucket=BucketPlan(q=1.0, noise_multiplier=4.8, expected_batch=30),
            clip=0.02,
            generator=generator,
        )

    return plain, private


def timed(step: Step) -> float:
    """CPU seconds of one step."""
    started = time.process_time()
    step()
    return time.process_time() - started


def _peak() -> float:
    """Peak resident memory of this process in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent held when it started this process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)


def peak_megabytes(arguments: list[str], kind: str) -> float:
    """Peak memory of a process that takes three steps of one kind."""
    done = subprocess.run(
        [sys.executable, __file__, *arguments, "--only", kind], capture_output=True, text=True, check=True
    )
    return float(done.stdout.strip().splitlines()[-1])


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", default="trend-small")
    parser.add_argument("--series", type=int, default=32)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--rank", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=("plain", "private"), help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    torch.set_num_threads(1)
    plain, private = steps(options.backbone, series=options.series, windows=options.windows, rank=options.rank)
    if options.only:
        for _ in range(3):
            plain() if options.only == "plain" else private()
        print(_peak())
        return 0
    timed(plain), timed(private)
    pairs = np.array([(timed(plain), timed(private)) for _ in range(options.repeats)])
    without, with_ = np.median(pairs, axis=0)
    memory = {kind: peak_megabytes(given, kind) for kind in ("plain", "private")}
    result: dict[str, Any] = {
        "plain_ms": round(1000 * float(without), 2),
        "private_ms": round(1000 * float(with_), 2),
        "ratio": round(float(np.median(pairs[:, 1] / pairs[:, 0])), 4),
        "memory_mb": {kind: round(value, 1) for kind, value in memory.items()},
        "memory_ratio": round(memory["private"] / memory["plain"], 4),
        "series": options.series,
        "windows_per_series": options.windows,
    }
    print(json.dumps(result))
    if options.json:
        write_json(options.json, {"schema": 1, "version": __version__, "command": "dp_step", **result})
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TrendError as error:
        sys.exit(str(error))
