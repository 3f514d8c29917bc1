"""What a run keeps on disk: the training state, the log, and of which recipe they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trend_common import __version__
from trend_common.errors import UsageError
from trend_common.files import replacing, write_json, write_text
from trend_server.pretraining.recipe import Recipe

__all__ = ["Saved", "Shelf", "TrainingLog", "locked", "require_tensorboard"]


@dataclass(frozen=True)
class Saved:
    """A run at one step.

    Attributes:
        step: Steps taken.
        elapsed_s: Seconds of training so far.
        running: The exponential mean of the loss.
        model: The trained parameters.
        optimiser: State of AdamW.
    """

    step: int
    elapsed_s: float
    running: float
    model: dict[str, Tensor]
    optimiser: dict[str, Any]


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the folder ``out`` for one run; make it where it is not there.

    Raises:
        UsageError: Another run uses it, or it cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".lock")
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UsageError(f"A pretraining is running in {out}.", "Wait for it, or name another --out.") from error
    except OSError as error:
        raise UsageError(f"The folder {out} cannot be used: {error.strerror}.", "Name another --out.") from error
    try:
        yield
    finally:
        lock.release()


class Shelf:
    """The folder of one run. A state is of one recipe, one start and one set of files; another's is refused.

    Args:
        out: The folder; made when something is written.
        recipe: What this run trains by.
        origin: :attr:`Pupil.origin`.
    """

    def __init__(self, out: Path, recipe: Recipe, origin: str | None) -> None:
        self.out = out
        self.state_path, self.recipe_path = out / "state.pt", out / "recipe.json"
        self.recipe = recipe
        self._start = {"model": origin, "data": [_file_sha256(Path(name)) for name in recipe.data]}

    def load(self) -> Saved | None:
        """The state to go on from, or None where nothing was kept yet.

        Raises:
            UsageError: It is another run's, or cannot be read.
        """
        if not self.state_path.exists():
            if (self.out / "model.safetensors").exists():
                raise UsageError(
                    f"{self.out} holds a model and no state of its training.",
                    "Name another --out; to train that model on, name it with --init.",
                )
            return None
        try:
            state = torch.load(self.state_path, map_location="cpu", weights_only=True)
            saved = Saved(
                int(state["step"]),
                float(state["elapsed_s"]),
                float(state["running"]),
                state["model"],
                state["optimiser"],
            )
            # A state from before recipes were kept with it says nothing; its parameters must fit all the same.
            kept = Recipe(**json.loads(state["recipe"])) if "recipe" in state else None
            start = json.loads(state["start"]) if "start" in state else self._start
        except Exception as error:  # torch raises many kinds for a damaged file
            raise UsageError(
                f"The training state {self.state_path} cannot be read ({type(error).__name__}).",
                "Name another --out, or remove that file to begin anew.",
            ) from error
        differing = self._differing(kept, start, saved.step)
        if differing:
            raise UsageError(
                f"{self.out} holds {saved.step} steps of another training: {', '.join(differing)} differ.",
                "Go on with what it began with, or name another --out.",
            )
        return saved

    def _differing(self, kept: Recipe | None, start: dict[str, Any], step: int) -> list[str]:
        """What the kept state's training had otherwise."""
        found = [f"the {part}" for part in self._start if start.get(part) != self._start[part]]
        if kept is None:
            return found
        # Models and files are known by their content: they may lie elsewhere now.
        own = self.recipe
        kept = kept.model_copy(update={name: getattr(own, name) for name in ("init", "data")})
        if kept.agrees(own, step):
            return found
        fields = [name for name in Recipe.model_fields if getattr(kept, name) != getattr(own, name)]
        return found + fields

    def save(self, saved: Saved) -> None:
        """Keep ``saved`` in place of the state before it."""
        with replacing(self.state_path) as temporary:
            kept = {"recipe": self.recipe.model_dump_json(), "start": json.dumps(self._start)}
            torch.save({**vars(saved), **kept}, temporary)

    def describe(self) -> None:
        """Write ``recipe.json``: what the model in this folder was made by, for people."""
        found = self.recipe.model_dump(mode="json")
        found["data"] = [
            {"name": Path(name).name, "sha256": sha256}
            for name, sha256 in zip(self.recipe.data, self._start["data"] or (), strict=True)
        ]
        write_json(self.recipe_path, {"schema": 1, "version": __version__, "start": self._start["model"], **found})


class TrainingLog:
    """One row a checkpoint, as JSON lines and, if wanted, as TensorBoard's event files.

    Args:
        out: The run's folder.
        step: Where the run goes on; rows after it are of a future that was lost.
        tensorboard: Also write ``out/tensorboard``.
    """

    def __init__(self, out: Path, step: int, *, tensorboard: bool) -> None:
        self._path = out / "training-log.jsonl"
        self._rows: list[dict[str, Any]] = []
        if self._path.exists():
            rows = [json.loads(line) for line in self._path.read_text("utf-8").splitlines()]
            self._rows = [row for row in rows if row["step"] <= step]
        self._board = require_tensorboard()(out / "tensorboard", purge_step=step + 1) if tensorboard else None

    def add(self, row: dict[str, Any]) -> None:
        """Keep one more row; its measures go to TensorBoard under their names."""
        self._rows.append(row)
        write_text(self._path, "".join(json.dumps(one) + "\n" for one in self._rows))
        if self._board is not None:
            for name in ("loss", "validation_loss", "data_loss"):
                if name in row:
                    self._board.add_scalar(name, row[name], row["step"])
            self._board.flush()

    def close(self) -> None:
        """Let TensorBoard's file go."""
        if self._board is not None:
            self._board.close()


def require_tensorboard() -> Any:
    """TensorBoard's writer.

    Raises:
        UsageError: It is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError(
            "TensorBoard is not installed.", "Install it with pip install 'trend-federated[pretrain]'."
        ) from error
    return SummaryWriter


def _file_sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
