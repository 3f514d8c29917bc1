"""What a pretraining shows: bars on a terminal, else one line of JSON a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from trend_common.console import console
from trend_server.pretraining.keeper import Watch

__all__ = ["Bars", "Lines", "watching"]


class Lines(Watch):
    """The rows of the log, as they are written."""

    def checkpoint(self, row: dict[str, Any]) -> None:
        """See :class:`Watch`."""
        print(json.dumps(row), flush=True)


class Bars(Watch):
    """A bar of steps with the loss of late, and a line a checkpoint."""

    def __init__(self, progress: Progress, end: int) -> None:
        self._progress = progress
        self._task = progress.add_task("steps", total=end, loss="")

    def step(self, step: int, loss: float) -> None:
        """See :class:`Watch`."""
        shown = "" if loss != loss else f"loss {loss:.4f}"
        self._progress.update(self._task, completed=step, loss=shown)

    def checkpoint(self, row: dict[str, Any]) -> None:
        """See :class:`Watch`."""
        parts = [f"loss {row['loss']:.4f}", f"validation {row['validation_loss']:.4f}"]
        if "data_loss" in row:
            parts.append(f"held-out sales {row['data_loss']:.4f}")
        self._progress.print(f"step {row['step']:,}: {', '.join(parts)}; {row['series']:,} series seen")


@contextmanager
def watching(end: int) -> Iterator[Watch]:
    """The watch that suits the console; ``end`` is the last step of this run."""
    if not console.is_terminal:
        yield Lines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    with Progress(*columns, console=console) as progress:
        yield Bars(progress, end)
