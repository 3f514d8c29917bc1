"""One federation's work, the same for every engine: retailers, plan, draws and local steps.

The engines differ in what they do around ``train``: who holds the model, how an adapter reaches a client and its
update comes back, how the mean is taken. All draw the same windows, so that without noise they end with the same
weights. This module runs in the peers' environments too and imports nothing of Flower.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from trend_client.engine import Engine
from trend_client.training import TrainingData, difference, fit
from trend_common import adapters
from trend_common.panel import SalesPanel
from trend_common.protocol import FederationPlan, parse
from trend_common.scoring import training_panel
from trend_common.tensors import Tensors
from trend_common.windows import PanelWindows

BATCH = 32
"""Windows of a local step, as in a rehearsal of the client."""


@dataclass(frozen=True)
class Work:
    """How much there is to do: FedAvg over ``steps`` local steps of 32 windows."""

    clients: int
    rounds: int
    steps: int
    series: int

    @property
    def visits(self) -> int:
        """Clients' rounds."""
        return self.clients * self.rounds


@dataclass(frozen=True)
class Prepared:
    """The work as it lies in its folder."""

    folder: Path
    work: Work
    plan: FederationPlan
    initial: Tensors
    frozen: Tensors

    def panel(self, client: int) -> SalesPanel:
        """A client's sales."""
        text = (self.folder / f"panel-{client:04d}.pickle").read_bytes()
        found: SalesPanel = pickle.loads(text)  # noqa: S301  This benchmark wrote it a moment ago.
        return found

    def data(self, client: int) -> TrainingData:
        """What a client trains on, made as a session makes it."""
        panel = training_panel(self.panel(client), self.plan.horizon)
        windows = PanelWindows(panel, context=self.plan.context)
        return TrainingData.of(windows, train_end=windows.n_steps, horizon=self.plan.horizon)

    def engine(self) -> Engine:
        """The backbone with the plan's adapter."""
        torch.set_num_threads(1)
        engine = Engine(self.plan.backbone, device="cpu")
        engine.install(self.plan.adapter, self.frozen)
        return engine


def save(
    folder: Path, work: Work, plan: FederationPlan, initial: Tensors, frozen: Tensors, panels: list[SalesPanel]
) -> None:
    """Write the work into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "work.json").write_text(json.dumps(asdict(work)))
    (folder / "plan.json").write_text(plan.canonical())
    save_file(initial, folder / "initial.safetensors")
    save_file(frozen, folder / "frozen.safetensors")
    for number, panel in enumerate(panels):
        (folder / f"panel-{number:04d}.pickle").write_bytes(pickle.dumps(panel))


def load(folder: Path) -> Prepared:
    """Read the work from ``folder``."""
    work = Work(**json.loads((folder / "work.json").read_text()))
    plan = parse(FederationPlan, (folder / "plan.json").read_text())
    initial, frozen = (load_file(folder / f"{name}.safetensors") for name in ("initial", "frozen"))
    return Prepared(folder, work, plan, initial, frozen)


def generator(client: int, round_number: int) -> np.random.Generator:
    """A client's draws in a round from 1, as its session seeds them."""
    return np.random.default_rng([client, round_number])


def train(
    engine: Engine, plan: FederationPlan, data: TrainingData, rng: np.random.Generator, start: Tensors
) -> Tensors:
    """A client's round: the change of its adapter."""
    engine.use(start)
    fit(
        engine.backbone,
        data,
        steps=plan.steps,
        learning_rate=plan.local_learning_rate,
        batch_size=BATCH,
        rng=rng,
    )
    return difference(adapters.export(engine.backbone), start)


def batches(data: TrainingData, steps: int, rng: np.random.Generator) -> Iterator[dict[str, torch.Tensor]]:
    """The windows of each local step as named tensors, for an engine that has training loops of its own."""
    for _ in range(steps):
        chosen = rng.integers(0, data.n_units, min(BATCH, max(data.n_units * 4, 8)))
        batch = data.draw(chosen, 1, rng.random)
        yield {name: value for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}


def finish(
    weights: dict[str, NDArray[np.float32]], *, training: float, out: Path, extra: dict[str, float] | None = None
) -> None:
    """Write what an engine ended with: ``OUT.safetensors`` and ``OUT.json``.

    Args:
        weights: The shared adapter after the last round.
        training: CPU seconds inside the local steps, where the engine can tell; NaN where it cannot.
        out: Path without its ending.
        extra: Further figures.
    """
    save_file({name: np.ascontiguousarray(value) for name, value in weights.items()}, f"{out}.safetensors")
    figures = {"training_cpu_s": None if np.isnan(training) else training, **(extra or {})}
    Path(f"{out}.json").write_text(json.dumps(figures))


def arguments() -> tuple[Prepared, Path]:
    """The work's folder and where to write, from the command line."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return load(Path(sys.argv[1])), Path(sys.argv[2])


class Stopwatch:
    """CPU seconds of this process inside its ``with`` blocks."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started = 0.0

    def __enter__(self) -> None:
        self._started = time.process_time()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.process_time() - self._started
