"""A private training step on the adapter against the same step without privacy: ratios of times in one run.

    python benchmarks/dp_step.py [--windows 1 4 8] [--repeats 20] [--json FILE]

All ways draw the same number of windows of the same synthetic retailer and go through the same forward pass. The
plain step is autograd's gradient of the mean loss; ours has per-series gradients by hand, clipping in float64 and
noise from the system's entropy. Beside it are Opacus's own modes on the same adapter: hooks, expanded weights (ew),
functorch and ghost clipping (which clips windows and not series, and so promises less where a series has several).
The steps take turns, so that what else the machine does hits all alike; medians of the ratios within a turn are
given. Peak memory is that of further processes that take one kind of step only.

Before anything is timed, our per-series gradients are compared with autograd's of one series at a time.
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
from numpy.typing import NDArray
from peers.opacus_modes import MODES, OpacusStep

from trend_client.engine import Engine
from trend_client.training import TrainingData, Uniforms
from trend_common import __version__
from trend_common.errors import TrendError
from trend_common.files import write_json
from trend_common.privacy.noise import SecureGenerator
from trend_common.privacy.per_series import PerSeriesGradients
from trend_common.privacy.step import Losses, private_gradient
from trend_common.protocol import BucketPlan
from trend_common.windows import PanelWindows
from trend_simulations.sources import synthetic

Step = Callable[[], None]


WAYS = ("plain", "private", *MODES)
CLIP, SIGMA, RANK = 0.02, 4.8, 2


class Bench:
    """One retailer's windows and engines that are alike.

    Args:
        backbone: Name or folder.
        series: Number of series, all of which are in a step.
    """

    def __init__(self, backbone: str, series: int) -> None:
        self.backbone = backbone
        panel = synthetic(1, seed=0, freq="D", sizes=(series, series))[0].panel
        windows = PanelWindows(panel, context=252)
        self.data = TrainingData.of(windows, train_end=windows.n_steps, horizon=28)

    def engine(self) -> Engine:
        """The backbone with an untrained adapter."""
        engine = Engine(self.backbone, device="cpu")
        engine.install_local(RANK)
        engine.use(None)
        return engine

    def losses(self, engine: Engine, windows: int, draws: Uniforms) -> Losses:
        """Unit indices → the loss of each window."""

        def made(units: NDArray[np.int64]) -> torch.Tensor:
            found: torch.Tensor | None = engine.backbone(self.data.draw(units, windows, draws)).loss_per_sample
            assert found is not None
            return found

        return made

    def step(self, way: str, windows: int) -> Step:
        """A step of this kind."""
        engine, units = self.engine(), self.data.n_units
        losses = self.losses(engine, windows, np.random.default_rng(0).random)
        if way == "plain":
            return self._plain(engine, losses, windows)
        if way == "private":
            core, generator = engine.backbone.core, SecureGenerator()
            bucket = BucketPlan(q=1.0, noise_multiplier=SIGMA, expected_batch=units)

            def private() -> None:
                private_gradient(
                    core,
                    losses,
                    n_units=units,
                    windows_per_series=windows,
                    bucket=bucket,
                    clip=CLIP,
                    generator=generator,
                )

            return private
        return OpacusStep(engine, losses, way, units=units, windows=windows, clip=CLIP, sigma=SIGMA)

    def _plain(self, engine: Engine, losses: Losses, windows: int) -> Step:
        trained = [p for p in engine.backbone.core.parameters() if p.requires_grad]
        units = np.arange(self.data.n_units)

        def plain() -> None:
            for value in trained:
                value.grad = None
            (losses(units).sum() / (windows * len(units))).backward()  # type: ignore[no-untyped-call]

        return plain

    def inexactness(self, windows: int, units: int = 4) -> float:
        """The largest relative difference between a gradient by hand and autograd's of that series alone."""
        engine = self.engine()
        core = engine.backbone.core
        # B is 0 in a fresh adapter, which would hide a fault in A's; here only B is trained, and from anywhere.
        with torch.no_grad():
            for parameter in core.parameters():
                if parameter.requires_grad:
                    parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(0))
        chosen = np.arange(min(units, self.data.n_units))
        with PerSeriesGradients(core, windows) as gradients:
            gradients.start(len(chosen) * windows)
            gradients.backward(self.losses(engine, windows, np.random.default_rng(1).random)(chosen))
            by_hand = {name: value.clone() for name, value in gradients.collect().items()}
        worst = 0.0
        batch = self.data.draw(chosen, windows, np.random.default_rng(1).random)
        for number in range(len(chosen)):
            engine.backbone.zero_grad()
            rows = slice(number * windows, (number + 1) * windows)
            engine.backbone(batch.rows(rows)).loss_per_sample.mean().backward()
            alone = {name: p.grad for name, p in core.named_parameters() if p.requires_grad}
            scale = max(float(value.abs().max()) for value in alone.values())
            for name, value in alone.items():
                worst = max(worst, float((by_hand[name][number] - value).abs().max()) / scale)
        return worst


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


def peak_megabytes(arguments: list[str], way: str) -> float:
    """Peak memory of a process that takes three steps of one kind."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, *arguments, "--only", way],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.strip().splitlines()[-1])


def compared(bench: Bench, ways: list[str], windows: int, repeats: int) -> dict[str, Any]:
    """CPU time of each way over the plain step's, k = ``windows``."""
    steps: dict[str, Step] = {}
    failed: dict[str, str] = {}
    for way in ways:
        try:
            steps[way] = bench.step(way, windows)
            steps[way]()
        except Exception as error:
            if way in ("plain", "private"):
                raise
            steps.pop(way, None)
            failed[way] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    samples: dict[str, list[float]] = {way: [] for way in steps}
    for _ in range(repeats):
        for way, step in steps.items():
            samples[way].append(timed(step))
    plain = np.array(samples["plain"])
    return {
        "windows_per_series": windows,
        "plain_ms": round(1000 * float(np.median(plain)), 2),
        "over_plain": {
            way: round(float(np.median(np.array(found) / plain)), 4)
            for way, found in samples.items()
            if way != "plain"
        },
        "failed": failed,
        "samples_ms": {way: [round(1000 * one, 2) for one in found] for way, found in samples.items()},
    }


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code: 1 if a gradient is not exact."""
    given = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", default="trend-small")
    parser.add_argument("--series", type=int, default=32)
    parser.add_argument("--windows", type=int, nargs="+", default=[1, 4, 8], help="windows a series")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    torch.set_num_threads(1)
    bench = Bench(options.backbone, options.series)
    typical = options.windows[len(options.windows) // 2]
    if options.only:
        step = bench.step(options.only, typical)
        for _ in range(3):
            step()
        print(_peak())
        return 0
    ways = [way for way in WAYS if way in options.ways.split(",")]
    exact = bench.inexactness(typical)
    rows = [compared(bench, ways, windows, options.repeats) for windows in options.windows]
    row = rows[len(rows) // 2]
    memory = {way: peak_megabytes(given, way) for way in ways if way not in row["failed"]}
    result: dict[str, Any] = {
        "dp_step_over_plain_step": row["over_plain"]["private"],
        "dp_memory_over_plain": round(memory["private"] / memory["plain"], 4),
        "memory_mb": {way: round(value, 1) for way, value in memory.items()},
        "largest_relative_gradient_error": exact,
        "series": options.series,
        "rows": rows,
    }
    print(json.dumps({**result, "rows": [{k: v for k, v in one.items() if k != "samples_ms"} for one in rows]}))
    if options.json:
        write_json(options.json, {"schema": 1, "version": __version__, "command": "dp_step", **result})
    return int(exact > 1e-4)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TrendError as error:
        sys.exit(str(error))
