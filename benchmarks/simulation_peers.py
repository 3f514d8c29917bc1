"""A simulated federation on four engines: a bare loop, this project, pfl-research, and Flower's engine on Ray.

    python benchmarks/simulation_peers.py [--clients 20] [--rounds 5] [--repeats 3] [--json FILE]

All do the same work (FedAvg on the shipped backbone's LoRA, 5 local steps of 32 windows) and must end with the same
weights up to rounding, or the benchmark fails. Each runs as a process of its own, by turns. What is compared is CPU
seconds and peak memory of the whole process tree, start-up included, because wall time says more about what else the
machine does.
"norm" is an engine's CPU seconds over the bare loop's in the same turn.

The peers get environments of their own under ``benchmarks/.environments``, made at the first run (network needed).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from peers import environments
from peers import work as peers_work
from safetensors.numpy import load_file

from trend_client.engine import Engine
from trend_common import __version__
from trend_common.files import write_json
from trend_simulations.federation import announce
from trend_simulations.settings import PlainRecipe, Settings
from trend_simulations.sources import synthetic

HERE = Path(__file__).resolve().parent
_MARK = "TREND_BENCHMARK_RUN"
_POLL_S = 0.1
_TOLERANCE = 0.01

ENGINES = {
    "floor": (None, "floor.py"),
    "trend-sim": (None, "ours.py"),
    "pfl": ("pfl", "pfl_engine.py"),
    "flower-ray": ("flower-ray", "flower_ray.py"),
}
"""Engine → its environment (None: this one) and script."""


@dataclass(frozen=True)
class Cost:
    """Of one process tree: CPU seconds, wall seconds, largest sum of unique memory in MB."""

    cpu: float
    wall: float
    memory: float


def measured(command: list[str], environment: dict[str, str], log: Path) -> Cost:
    """Run a command and watch all processes that descend from it, also those that left their parent.

    They are known by a mark in their environment. A process is seen every tenth of a second, so what it computes in
    its last tenth is missed.

    Raises:
        RuntimeError: It failed, with the end of its output.
    """
    mark = uuid.uuid4().hex
    seen: dict[tuple[int, float], float] = {}
    peak, started = 0.0, time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env={**environment, _MARK: mark}, stdout=output, stderr=subprocess.STDOUT, cwd=log.parent
        )
        try:
            while process.poll() is None:
                peak = max(peak, _look(mark, seen))
                time.sleep(_POLL_S)
        finally:
            _end(mark)
    wall = time.monotonic() - started
    if process.returncode:
        raise RuntimeError(
            f"{command[1]} failed with {process.returncode}: {log.read_text(errors='replace')[-3000:]}"
        )
    return Cost(sum(seen.values()), wall, peak)


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(_MARK) == mark:
                found.append(process)
        except psutil.Error:
            continue
    return found


def _look(mark: str, seen: dict[tuple[int, float], float]) -> float:
    """Note the CPU seconds of every marked process; return the sum of their unique memory in MB."""
    total = 0.0
    for process in _marked(mark):
        try:
            with process.oneshot():
                times = process.cpu_times()
                seen[process.pid, process.create_time()] = times.user + times.system
                # Pages shared between processes count once each in RSS; the proportional share counts them once.
                total += (
                    process.memory_full_info().pss if hasattr(os, "sched_getaffinity") else process.memory_info().rss
                )
        except psutil.Error:
            continue
    return total / 1e6


def _end(mark: str) -> None:
    for process in _marked(mark):
        try:
            process.kill()
        except psutil.Error:
            continue


def prepare(folder: Path, work: peers_work.Work, backbone: str) -> None:
    """Draw the retailers and the plan."""
    engine = Engine(backbone, device="cpu")
    settings = Settings.of("D", backbone=backbone)
    recipe = PlainRecipe("weights", rounds=work.rounds, steps=work.steps, local_lr=1e-3, rank=2)
    announced = announce(engine, settings, recipe, name="benchmark", seed=0)
    retailers = synthetic(work.clients, seed=0, sizes=(work.series, work.series))
    initial = {name: np.asarray(value, np.float32) for name, value in announced.initial.items()}
    peers_work.save(folder, work, announced.plan, initial, dict(announced.frozen), [one.panel for one in retailers])


def differences(paths: dict[str, Path], start: Path) -> dict[str, float]:
    """Engine → ‖its final weights − the bare loop's‖ / ‖the bare loop's − the initial ones‖.

    After one round the weights agree to the last digits. Later Adam, which divides each gradient by its own size,
    magnifies what rounding makes of gradients near zero, so a thousandth is agreement and a tenth is not.
    """
    weights = {name: load_file(f"{path}.safetensors") for name, path in paths.items()}
    initial, reference = load_file(start), weights.pop("floor", {})
    moved = np.sqrt(sum(float(((value - initial[name]) ** 2).sum()) for name, value in reference.items()))
    return {
        engine: float(np.sqrt(sum(((other[name] - value) ** 2).sum() for name, value in reference.items())) / moved)
        for engine, other in weights.items()
        if reference
    }


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code: 1 if the engines do not agree."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", default="trend-small")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--series", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--engines", default=",".join(ENGINES), help="of " + ", ".join(ENGINES))
    parser.add_argument("--environments", type=Path, default=HERE / ".environments")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    wanted = [name for name in ENGINES if name in options.engines.split(",")]
    size = peers_work.Work(options.clients, options.rounds, options.steps, options.series)
    pythons = {
        name: Path(sys.executable) if home is None else environments.python(home, options.environments)
        for name, (home, _) in ENGINES.items()
        if name in wanted
    }
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    costs: dict[str, list[Cost]] = {name: [] for name in wanted}
    training: list[float] = []
    with tempfile.TemporaryDirectory(prefix="trend-peers-") as name_:
        folder = Path(name_)
        prepare(folder / "work", size, options.backbone)
        for turn in range(options.repeats):
            for name in wanted:
                script, out = HERE / "peers" / ENGINES[name][1], folder / f"{name}"
                command = [str(pythons[name]), str(script), str(folder / "work"), str(out)]
                costs[name].append(measured(command, environment, folder / f"{name}.log"))
                print(f"   turn {turn + 1}, {name}: {costs[name][-1].cpu:.1f} CPU s", file=sys.stderr, flush=True)
            if "floor" in wanted:
                training.append(json.loads((folder / "floor.json").read_text())["training_cpu_s"])
        apart = differences({name: folder / name for name in wanted}, folder / "work" / "initial.safetensors")
    result = summary(costs, training, size, apart)
    print(json.dumps(result))
    if options.json:
        write_json(options.json, {"schema": 1, "version": __version__, "command": "simulation_peers", **result})
    return int(max(apart.values(), default=0.0) > _TOLERANCE)


def summary(
    costs: dict[str, list[Cost]], training: list[float], size: peers_work.Work, apart: dict[str, float]
) -> dict[str, Any]:
    """The figures: medians over the turns, ratios within each turn."""
    rows = {}
    for name, runs in costs.items():
        row: dict[str, Any] = {
            "cpu_s": round(float(np.median([one.cpu for one in runs])), 2),
            "wall_s": round(float(np.median([one.wall for one in runs])), 2),
            "memory_mb": round(float(np.median([one.memory for one in runs])), 0),
            "samples_cpu_s": [round(one.cpu, 2) for one in runs],
        }
        if training:
            beyond = [one.cpu - busy for one, busy in zip(runs, training, strict=True)]
            row["beyond_training_cpu_s"] = round(float(np.median(beyond)), 2)
            norms = [one.cpu / floor.cpu for one, floor in zip(runs, costs["floor"], strict=True)]
            row["norm"] = round(float(np.median(norms)), 4)
        rows[name] = row
    return {
        "clients": size.clients,
        "rounds": size.rounds,
        "steps": size.steps,
        "series": size.series,
        "engines": rows,
        "training_cpu_s": [round(one, 2) for one in training],
        "relative_weight_difference": apart,
    }


if __name__ == "__main__":
    sys.exit(main())
