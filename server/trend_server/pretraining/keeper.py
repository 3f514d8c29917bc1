"""Checkpoints of a run: when one is due, what is measured for it, and in which order it goes to disk."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import torch

from trend_common.backbones import Backbone, Batch
from trend_server.pretraining.pupil import Pupil, fitted
from trend_server.pretraining.sources import Panels
from trend_server.pretraining.state import Saved, Shelf, TrainingLog
from trend_server.pretraining.world import World

__all__ = ["Keeper", "Watch", "data_loss", "validation_loss"]

_VALIDATION_SEED = 2**40
_VALIDATION_ROWS = 256
_VALIDATION_ROWS_FOREIGN = 32
"""Foreign cores are larger by orders of magnitude; a validation must not take longer than the steps between two."""


class Watch:
    """What a run tells whoever looks on; this one says nothing."""

    def step(self, step: int, loss: float) -> None:
        """``step`` steps are taken; ``loss`` is the mean of late."""

    def checkpoint(self, row: dict[str, Any]) -> None:
        """A checkpoint is on disk; ``row`` is its line of the log."""


class Keeper:
    """Writes checkpoints in the first process of a run.

    Args:
        pupil: What is trained.
        optimiser: Its optimiser, as accelerate wrapped it.
        panels: Sales files whose held-out windows are measured, too.
        shelf, log: Where to write.
        watch: Whom to tell.
        every_s: Seconds between two checkpoints.
        saved: The state that the run goes on from.
    """

    def __init__(
        self,
        pupil: Pupil,
        optimiser: Any,
        panels: Panels | None,
        shelf: Shelf,
        log: TrainingLog,
        watch: Watch,
        every_s: float,
        saved: Saved | None,
    ) -> None:
        self._pupil, self._optimiser, self._panels = pupil, optimiser, panels
        self._shelf, self._log, self._watch, self._every_s = shelf, log, watch, every_s
        self._before = saved.elapsed_s if saved else 0.0
        self._started = self._last = time.monotonic()
        shelf.describe()
        watch.step(saved.step if saved else 0, saved.running if saved else float("nan"))

    def stepped(self, step: int, loss: float, *, last: bool) -> None:
        """Note a step; write a checkpoint if it is time, or the last one."""
        self._watch.step(step, loss)
        if last or time.monotonic() - self._last >= self._every_s:
            self._save(step, loss)
            self._last = time.monotonic()
        if last:
            self._log.close()

    def _save(self, step: int, loss: float) -> None:
        elapsed = self._before + time.monotonic() - self._started
        backbone = self._pupil.backbone
        row = {
            "step": step,
            "series": step * self._shelf.recipe.batch,
            "elapsed_s": round(elapsed),
            "loss": round(loss, 5),
            "validation_loss": round(validation_loss(backbone, foreign=self._shelf.recipe.backbone is not None), 5),
        }
        if self._panels is not None:
            row["data_loss"] = round(data_loss(backbone, self._panels), 5)
        # The state is what a run goes on from: whatever it says must be on disk before it.
        self._pupil.save(self._shelf.out)
        self._log.add(row)
        self._shelf.save(Saved(step, elapsed, loss, self._pupil.state(), _plain(self._optimiser)))
        self._watch.checkpoint(row)


def validation_loss(backbone: Backbone, *, foreign: bool = False) -> float:
    """Mean demand loss over a fixed synthetic set that training never draws."""
    rows = _VALIDATION_ROWS_FOREIGN if foreign else _VALIDATION_ROWS
    sets = (World(_VALIDATION_SEED + n).batch(rows, freq) for n, freq in enumerate(("D", "W", "M", "D", "W")))
    found = [_demand_loss(backbone, [one]) for one in sets]
    return sum(found) / len(found)


def data_loss(backbone: Backbone, panels: Panels) -> float:
    """Mean over the files of the mean demand loss over each one's held-out windows."""
    found = [_demand_loss(backbone, file.held_out()) for file in panels.files]
    return sum(found) / len(found)


def _demand_loss(backbone: Backbone, batches: Iterable[Batch]) -> float:
    device = next(backbone.parameters()).device
    task, losses = backbone.task, []
    backbone.task = "demand"
    try:
        with torch.no_grad():
            for batch in batches:
                out = backbone(fitted(batch, backbone).to(device))
                assert out.loss_per_sample is not None
                losses.append(out.loss_per_sample)
    finally:
        backbone.task = task
    return float(torch.cat(losses).mean())


def _plain(optimiser: Any) -> dict[str, Any]:
    inner = getattr(optimiser, "optimizer", optimiser)
    found: dict[str, Any] = inner.state_dict()
    return found
