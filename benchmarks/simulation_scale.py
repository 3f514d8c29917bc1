"""Memory and time of simulations as the number of clients grows, and of one large one.

    python benchmarks/simulation_scale.py [--clients 10 100 1000] [--whole] [--json FILE]

Each is a process of its own. First private federations of retailers of 4 series, 2 rounds: memory should be flat in
the number of clients. With ``--whole`` also the large one without privacy, 100 retailers × 20 rounds × 5 steps of 32
windows, by one process and by two. Memory is the largest resident set of the process, and of the largest worker.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from trend_client.engine import Engine
from trend_common import __version__
from trend_common.files import write_json
from trend_simulations.federation import announce, federate_in_process, members
from trend_simulations.settings import DpRecipe, PlainRecipe, Settings
from trend_simulations.shelf import Shelf
from trend_simulations.sources import synthetic


def played(backbone: str, clients: int, series: int, rounds: int, steps: int, workers: int) -> dict[str, Any]:
    """One federation in this process; ``steps`` 0 is a private one."""
    torch.set_num_threads(1)
    engine = Engine(backbone, device="cpu")
    settings = Settings.of("D", backbone=backbone)
    recipe: DpRecipe | PlainRecipe = DpRecipe(rounds=rounds)
    if steps:
        recipe = PlainRecipe("weights", rounds=rounds, steps=steps, rank=2, server_lr=1.0)
    with tempfile.TemporaryDirectory(prefix="trend-scale-") as name:
        root = Path(name)
        shelf = Shelf(root / "shelf")
        retailers = synthetic(clients, seed=0, sizes=(series, series), shelf=shelf)
        announced = announce(engine, settings, recipe, name="scale", seed=0)
        joined = members(retailers, engine, announced.plan, root, seed=0, shelf=shelf)
        started, before = time.perf_counter(), _cpu()
        outcome = federate_in_process(joined, announced, server_lr=recipe.server_lr, workers=workers)
        seconds, busy = time.perf_counter() - started, _cpu() - before
        for member in joined:
            member.ledger.close()
    tensors = outcome.adapter.tensors or {}
    digest = hashlib.sha256(b"".join(tensors[key].tobytes() for key in sorted(tensors))).hexdigest()
    return {
        "clients": clients,
        "series": series,
        "rounds": rounds,
        "steps": steps,
        "workers": workers,
        "cpu_s": round(busy, 1),
        "wall_s": round(seconds, 1),
        "memory_mb": round(_largest(resource.RUSAGE_SELF)),
        "worker_memory_mb": round(_largest(resource.RUSAGE_CHILDREN)),
        "adapter": digest[:16] if steps else "",
    }


def _cpu() -> float:
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def _largest(who: int) -> float:
    return resource.getrusage(who).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code: 1 if the number of workers changes the adapter."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", default="trend-small")
    parser.add_argument("--clients", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--whole", action="store_true", help="also 100 retailers × 20 rounds × 5 steps of 32 windows")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.only:
        print(json.dumps(played(options.backbone, *map(int, options.only.split(",")))))
        return 0
    wanted = [(clients, 4, 2, 0, 1) for clients in options.clients]
    if options.whole:
        wanted += [(100, 32, 20, 5, 1), (100, 32, 20, 5, 2)]
    rows = []
    for one in wanted:
        text = ",".join(map(str, one))
        command = [sys.executable, "-W", "ignore", __file__, "--backbone", options.backbone, "--only", text]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout.strip().splitlines()[-1]))
        print(f"   {rows[-1]}", file=sys.stderr, flush=True)
    if options.json:
        write_json(options.json, {"schema": 1, "version": __version__, "command": "simulation_scale", "rows": rows})
    else:
        print(json.dumps(rows))
    return int(len({row["adapter"] for row in rows if row["steps"]}) > 1)


if __name__ == "__main__":
    sys.exit(main())
