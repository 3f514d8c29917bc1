"""How the cost of a private federation grows with clients, series, rounds and parameters.

    python benchmarks/growth.py [--quick] [--json FILE]

Each axis is doubled a few times while the others stay. CPU seconds of the federation in this process (data and model
are there already) are fitted by a power law; the exponent is 1 where cost is proportional. ``bytes_up`` is what one
client sends in one round, as it travels: int8 after the noise, with its framing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trend_client.engine import Engine
from trend_common import __version__
from trend_common.errors import TrendError
from trend_common.files import write_json
from trend_simulations.federation import Outcome, announce, federate_in_process, members
from trend_simulations.settings import DpRecipe, Settings
from trend_simulations.sources import Retailer, synthetic

BASE = {"clients": 8, "series": 16, "rounds": 4, "rank": 2}
AXES = {"clients": (4, 8, 16, 32), "series": (8, 16, 32, 64), "rounds": (2, 4, 8, 16), "rank": (1, 2, 4, 8)}
QUICK = {"clients": (2, 4), "series": (4, 8), "rounds": (1, 2), "rank": (1, 2)}


def played(engine: Engine, retailers: list[Retailer], rounds: int, rank: int) -> tuple[float, Outcome]:
    """CPU seconds of one federation, and its outcome."""
    settings = Settings.of("D", backbone=engine.backbone.name)
    recipe = replace(DpRecipe(), rounds=rounds, rank=rank)
    announced = announce(engine, settings, recipe, name="growth", seed=0)
    with tempfile.TemporaryDirectory(prefix="trend-growth-") as folder:
        joined = members(retailers, engine, announced.plan, Path(folder), seed=0)
        started = time.process_time()
        outcome = federate_in_process(joined, announced, server_lr=recipe.server_lr)
        seconds = time.process_time() - started
        for member in joined:
            member.ledger.close()
    return seconds, outcome


def exponent(sizes: list[float], seconds: list[float]) -> float:
    """The power of the law that fits best in logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", default="trend-small")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    engine = Engine(options.backbone, device="cpu")
    axes = QUICK if options.quick else AXES
    base = {name: values[len(values) // 2 - 1] for name, values in axes.items()} if options.quick else BASE
    drawn: dict[tuple[int, int], list[Retailer]] = {}
    played(engine, synthetic(1, seed=0, sizes=(4, 4)), 1, 2)  # what is loaded late is loaded now
    rows: dict[str, Any] = {}
    sent: dict[str, Any] = {}
    for axis, sizes in axes.items():
        seconds, counted = [], []
        for size in sizes:
            asked = {**base, axis: size}
            key = (asked["clients"], asked["series"])
            if key not in drawn:
                drawn[key] = synthetic(key[0], seed=0, sizes=(key[1], key[1]))
            found, outcome = played(engine, drawn[key], asked["rounds"], asked["rank"])
            parameters = outcome.plan.adapter.parameters
            seconds.append(round(found, 3))
            counted.append(parameters if axis == "rank" else size)
            if asked == base:
                sent = {"bytes_up": outcome.bytes_up, "parameters": parameters}
        name = "parameters" if axis == "rank" else axis
        rows[name] = {"sizes": counted, "cpu_s": seconds, "exponent": round(exponent(counted, seconds), 3)}
        print(f"   {name}: {counted} → {seconds} s", file=sys.stderr, flush=True)
    result = {
        **sent,
        "bytes_up_over_float32": round(sent["bytes_up"] / (4 * sent["parameters"]), 4),
        "base": base,
        "rows": rows,
    }
    print(json.dumps(result))
    if options.json:
        write_json(options.json, {"schema": 1, "version": __version__, "command": "growth", **result})
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TrendError as error:
        sys.exit(str(error))
