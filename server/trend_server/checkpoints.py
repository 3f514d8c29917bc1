"""The state of a federation between two rounds, on disk before the next round opens.

A checkpoint is one safetensors file: the shared adapter, the optimiser's state, and in its header the round, the
plan's hash and how many took part. It is written beside its place, fsynced and renamed, so there is always a whole
one. The plan and the frozen tensors lie beside it: after a crash the very same question is asked again, and a client
answers it with the very same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from trend_common.errors import PolicyError, UsageError
from trend_common.files import private_directory, replacing, write_text
from trend_common.protocol import FederationPlan, parse
from trend_common.tensors import Tensors, check_tensors, tensors_sha256

__all__ = ["Announcement", "Checkpoint", "DiskStore", "MemoryStore", "RoundRecord", "Store"]

_KEEP: Final = 3


@dataclass(frozen=True)
class Announcement:
    """What a federation starts from: the plan, the adapter before round 1, and the frozen tensors."""

    plan: FederationPlan
    initial: Tensors
    frozen: Tensors


@dataclass(frozen=True)
class RoundRecord:
    """What is remembered of a round: public numbers only."""

    round: int
    participants: int
    update_norm: float
    adapter_sha256: str
    seconds: float


@dataclass(frozen=True)
class Checkpoint:
    """The state after ``round`` rounds (0 before the first).

    Attributes:
        round: Rounds that are complete.
        plan_sha256: Of the plan that they belong to.
        adapter: The shared adapter.
        optimiser: The optimiser's tensors.
        optimiser_steps: Its number of steps.
        history: One record for each round.
        answers: Node id → how many rounds that client has answered; it is told, to compare with its own ledger.
    """

    round: int
    plan_sha256: str
    adapter: Tensors
    optimiser: Tensors = field(default_factory=dict)
    optimiser_steps: int = 0
    history: tuple[RoundRecord, ...] = ()
    answers: Mapping[int, int] = field(default_factory=dict)


class Store(Protocol):
    """Where checkpoints go."""

    def load(self, plan: FederationPlan) -> Checkpoint | None:
        """Return the newest whole checkpoint of ``plan``, or None before the first round."""
        ...

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep ``checkpoint``; when this returns it survives a crash."""
        ...

    def keep(self, name: str, text: str) -> None:
        """Keep a small text of the open round under ``name``; when this returns it survives a crash."""
        ...

    def kept(self, name: str) -> str | None:
        """Return the text that was kept last under ``name``."""
        ...


class MemoryStore:
    """For simulations, which start anew rather than resume."""

    def __init__(self) -> None:
        self.newest: Checkpoint | None = None
        self.texts: dict[str, str] = {}

    def load(self, plan: FederationPlan) -> Checkpoint | None:
        """See :class:`Store`."""
        if self.newest is not None and self.newest.plan_sha256 == plan.sha256():
            return self.newest
        return None

    def save(self, checkpoint: Checkpoint) -> None:
        """See :class:`Store`."""
        self.newest = checkpoint

    def keep(self, name: str, text: str) -> None:
        """See :class:`Store`."""
        self.texts[name] = text

    def kept(self, name: str) -> str | None:
        """See :class:`Store`."""
        return self.texts.get(name)


class DiskStore:
    """Checkpoints of one federation in a folder.

    Args:
        folder: Of this federation.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def announced(self) -> Announcement | None:
        """Return what was announced here before, or None in a new folder.

        Raises:
            UsageError: The folder is damaged.
        """
        path = self.folder / "plan.json"
        if not path.exists():
            return None
        hint = "Restore the home from a backup, or start another federation with --federation NAME."
        try:
            plan = parse(FederationPlan, path.read_text("utf-8"))
            _, tensors = read_tensors(self.folder / "start.safetensors")
            initial = check_tensors(_under(tensors, "adapter/"), plan.adapter.tensors, "the saved start")
            frozen = check_tensors(_under(tensors, "frozen/"), plan.adapter.frozen, "the saved frozen tensors")
        except (PolicyError, OSError, ValueError) as error:
            raise UsageError(f"The saved federation in {self.folder} is damaged.", hint) from error
        if tensors_sha256(frozen) != plan.adapter.frozen_sha256:
            raise UsageError(f"The saved frozen tensors in {self.folder} are not those of the plan.", hint)
        return Announcement(plan, initial, frozen)

    def announce(self, announcement: Announcement) -> None:
        """Write down what this federation starts from, before anybody is told; the plan is written last."""
        private_directory(self.folder)
        tensors = {f"adapter/{name}": value for name, value in announcement.initial.items()}
        tensors |= {f"frozen/{name}": value for name, value in announcement.frozen.items()}
        write_tensors(self.folder / "start.safetensors", tensors, {"plan": announcement.plan.sha256()})
        write_text(self.folder / "plan.json", announcement.plan.canonical() + "\n")

    def load(self, plan: FederationPlan) -> Checkpoint | None:
        """See :class:`Store`. A checkpoint that cannot be read is passed over for the one before it."""
        wanted = plan.sha256()
        for path in sorted(self.folder.glob("round-*.safetensors"), reverse=True):
            try:
                found = _read_checkpoint(path, plan)
            except (PolicyError, OSError, ValueError, KeyError, TypeError):
                continue
            if found.plan_sha256 == wanted:
                return found
        return None

    def save(self, checkpoint: Checkpoint) -> None:
        """See :class:`Store`."""
        private_directory(self.folder)
        tensors = {f"adapter/{name}": value for name, value in checkpoint.adapter.items()}
        tensors |= {f"optimiser/{name}": value for name, value in checkpoint.optimiser.items()}
        header = {
            "round": checkpoint.round,
            "plan_sha256": checkpoint.plan_sha256,
            "adapter_sha256": tensors_sha256(checkpoint.adapter),
            "optimiser_steps": checkpoint.optimiser_steps,
            "history": [vars(record) for record in checkpoint.history],
            "answers": {str(node_id): count for node_id, count in checkpoint.answers.items()},
        }
        write_tensors(
            self.folder / f"round-{checkpoint.round:06d}.safetensors", tensors, {"checkpoint": json.dumps(header)}
        )
        for old in sorted(self.folder.glob("round-*.safetensors"))[:-_KEEP]:
            old.unlink(missing_ok=True)

    def keep(self, name: str, text: str) -> None:
        """See :class:`Store`."""
        private_directory(self.folder)
        write_text(self.folder / f"{name}.json", text, private=True)

    def kept(self, name: str) -> str | None:
        """See :class:`Store`."""
        path = self.folder / f"{name}.json"
        return path.read_text("utf-8") if path.is_file() else None


def _read_checkpoint(path: Path, plan: FederationPlan) -> Checkpoint:
    metadata, tensors = read_tensors(path)
    header = json.loads(metadata["checkpoint"])
    adapter = check_tensors(_under(tensors, "adapter/"), plan.adapter.tensors, "the checkpoint")
    if tensors_sha256(adapter) != header["adapter_sha256"]:
        raise ValueError("the checkpoint's adapter does not have its hash")
    return Checkpoint(
        round=int(header["round"]),
        plan_sha256=str(header["plan_sha256"]),
        adapter=adapter,
        optimiser={name: value.astype(np.float32) for name, value in _under(tensors, "optimiser/").items()},
        optimiser_steps=int(header["optimiser_steps"]),
        history=tuple(RoundRecord(**record) for record in header["history"]),
        answers={int(node_id): int(count) for node_id, count in header.get("answers", {}).items()},
    )


def _under(tensors: Mapping[str, NDArray[np.generic]], prefix: str) -> dict[str, NDArray[np.generic]]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def write_tensors(path: Path, tensors: Mapping[str, NDArray[np.generic]], metadata: dict[str, str]) -> None:
    """Replace ``path`` by a safetensors file, atomically and durably."""
    from safetensors.numpy import save_file

    with replacing(path) as temporary:
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, temporary, metadata)


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, NDArray[np.generic]]]:
    """Return a safetensors file's metadata and tensors.

    Raises:
        ValueError: It is not a whole safetensors file.
        OSError: It cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as handle:
            metadata = dict(handle.metadata() or {})
            return metadata, {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file") from error
