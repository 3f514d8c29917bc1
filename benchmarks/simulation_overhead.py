"""What a simulation costs beyond the training in it: the whole federation against a bare loop of the same steps.

    python benchmarks/simulation_overhead.py [--retailers 20] [--rounds 5] [--json FILE]

The bare loop computes the same noised gradients of the same retailers on one engine, averages them and takes a step
of Adam: no messages, no checks, no policy, no ledger, no encoding. The federation is ``trend-sim``'s: the server's
loop and every client's app. CPU time of both in one process, by turns; "norm" is federation / bare loop.

Both spend nearly all of it inside the same gradients, whose time on a shared machine varies by more than what is
measured here. So that time is taken apart in both, and both count its mean over all turns; "norm_raw" does without.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trend_client.engine import Engine
from trend_client.training import TrainingData
from trend_common import __version__, adapters
from trend_common.errors import TrendError
from trend_common.files import write_json
from trend_common.privacy import step
from trend_common.privacy.noise import SecureGenerator
from trend_common.scoring import origins
from trend_common.tensors import Tensors
from trend_common.windows import PanelWindows
from trend_server.checkpoints import Announcement
from trend_server.strategy.optimiser import Adam
from trend_simulations.federation import Member, announce, federate_in_process, members
from trend_simulations.settings import DpRecipe, Settings
from trend_simulations.sources import Retailer, synthetic


class Stopwatch:
    """CPU seconds inside the private gradients, whoever asks for them."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._gradient = step.private_gradient

    def __call__(self, *arguments: Any, **settings: Any) -> Tensors:
        """In place of ``private_gradient``."""
        started = time.process_time()
        try:
            return self._gradient(*arguments, **settings)
        finally:
            self.seconds += time.process_time() - started

    def taken(self, work: Callable[[], object]) -> tuple[float, float]:
        """CPU seconds of ``work``, and those of them inside gradients."""
        self.seconds, started = 0.0, time.process_time()
        work()
        return time.process_time() - started, self.seconds


def prepared(retailers: list[Retailer], settings: Settings) -> list[TrainingData]:
    """What each client trains on; both loops need it, and neither is timed for it."""
    found = []
    for one in retailers:
        windows = PanelWindows(one.panel, context=settings.context)
        end = windows.step_of(origins(one.panel, settings.horizon).validation)
        share = settings.dp.launch_share
        found.append(TrainingData.of(windows, train_end=end, horizon=settings.horizon, launch_share=share))
    return found


def bare_loop(engine: Engine, data: list[TrainingData], announced: Announcement, server_lr: float) -> Tensors:
    """The least that computes the same."""
    plan, shared, optimiser, generator = announced.plan, announced.initial, Adam(server_lr), SecureGenerator()
    assert plan.privacy is not None
    engine.install(plan.adapter, announced.frozen)
    for _ in range(plan.rounds):
        total: dict[str, NDArray[np.float64]] = {}
        engine.use(shared)
        for one in data:

            def losses(units: NDArray[np.int64], one: TrainingData = one) -> torch.Tensor:
                batch = one.draw(units, plan.windows_per_series, generator.uniform)
                found: torch.Tensor | None = engine.backbone(batch).loss_per_sample
                assert found is not None
                return found

            noised = step.private_gradient(
                engine.backbone.core,
                losses,
                n_units=one.n_units,
                windows_per_series=plan.windows_per_series,
                bucket=plan.privacy.buckets["S"],
                clip=plan.privacy.clip,
                generator=generator,
            )
            for name, value in noised.items():
                wire = adapters.wire_name(name)
                total[wire] = total.get(wire, np.zeros(1)) + value
        shared = optimiser.step(shared, {k: (v / len(data)).astype(np.float32) for k, v in total.items()})
    return shared


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", default="trend-small")
    parser.add_argument("--retailers", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    engine = Engine(options.backbone, device="cpu")
    settings = Settings.of("D", backbone=options.backbone)
    recipe = DpRecipe(rounds=options.rounds)
    retailers = synthetic(options.retailers, seed=0, sizes=(30, 34))
    data = prepared(retailers, settings)
    announced = announce(engine, settings, recipe, name="benchmark", seed=0)
    warm_up = Announcement(announced.plan.model_copy(update={"rounds": 1}), announced.initial, announced.frozen)
    bare_loop(engine, data[:2], warm_up, 1e-3)
    watch, rows = Stopwatch(), []
    step.private_gradient = watch
    for _ in range(options.repeats):
        bare = watch.taken(lambda: bare_loop(engine, data, announced, recipe.server_lr))
        with tempfile.TemporaryDirectory(prefix="trend-bench-") as folder:
            joined = members(retailers, engine, announced.plan, Path(folder), seed=0)

            def whole(joined: list[Member] = joined) -> None:
                federate_in_process(joined, announced, server_lr=recipe.server_lr)

            rows.append((*bare, *watch.taken(whole)))
            for member in joined:
                member.ledger.close()
    table = np.array(rows)
    gradients = float(table[:, [1, 3]].mean())
    around_bare, around = (float(np.median(table[:, n] - table[:, n + 1])) for n in (0, 2))
    visits = options.retailers * options.rounds
    result = {
        "retailers": options.retailers,
        "rounds": options.rounds,
        "bare_s": round(gradients + around_bare, 3),
        "federation_s": round(gradients + around, 3),
        "norm": round((gradients + around) / (gradients + around_bare), 4),
        "norm_raw": round(float(np.median(table[:, 2] / table[:, 0])), 4),
        "overhead_ms_per_client_round": round(1000 * (around - around_bare) / visits, 2),
    }
    print(json.dumps(result))
    if options.json:
        write_json(options.json, {"schema": 1, "version": __version__, "command": "simulation_overhead", **result})
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TrendError as error:
        sys.exit(str(error))
