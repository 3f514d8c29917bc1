"""The operator's shelf of finished shared adapters: each with its hash, its lineage and how it came about."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from trend_common.errors import UsageError
from trend_common.files import private_directory, write_json
from trend_common.protocol import FederationPlan
from trend_common.tensors import Tensors, tensors_sha256
from trend_server.checkpoints import RoundRecord, read_tensors, write_tensors

__all__ = ["ModelCard", "Registry"]


@dataclass(frozen=True)
class ModelCard:
    """One version.

    Attributes:
        version: 1, 2, ... in the order of completion.
        federation: The run that made it.
        adapter_sha256: Hash of its trained tensors.
        parent_sha256: Hash of the adapter that the run started from.
        plan_sha256: Hash of the plan.
        backbone, backbone_sha256: What it is an adapter of.
        rounds: Rounds that were played.
        participants_mean: Clients that answered, in the mean over the rounds.
        epsilon, delta: The privacy promised to each unit; None where the plan had none.
        created: UTC, ISO 8601.
    """

    version: int
    federation: str
    adapter_sha256: str
    parent_sha256: str
    plan_sha256: str
    backbone: str
    backbone_sha256: str
    rounds: int
    participants_mean: float
    epsilon: float | None
    delta: float | None
    created: str


class Registry:
    """Versions in a folder: ``v0001.safetensors`` (trained and frozen tensors) and ``v0001.json`` (the card)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def cards(self) -> list[ModelCard]:
        """Return all versions, oldest first."""
        found = []
        for path in sorted(self.folder.glob("v*.json")):
            try:
                found.append(ModelCard(**json.loads(path.read_text("utf-8"))))
            except (OSError, ValueError, TypeError) as error:
                raise UsageError(f"The registry's card {path} is damaged.", "Restore it from a backup.") from error
        return found

    def add(
        self,
        plan: FederationPlan,
        adapter: Tensors,
        frozen: Tensors,
        parent: Tensors,
        history: tuple[RoundRecord, ...],
        *,
        now: datetime | None = None,
    ) -> ModelCard:
        """Put a finished adapter on the shelf; the same one again returns its card."""
        digest, plan_digest = tensors_sha256(adapter), plan.sha256()
        cards = self.cards()
        for card in cards:
            if (card.adapter_sha256, card.plan_sha256) == (digest, plan_digest):
                return card
        card = ModelCard(
            version=max((card.version for card in cards), default=0) + 1,
            federation=plan.federation,
            adapter_sha256=digest,
            parent_sha256=tensors_sha256(parent),
            plan_sha256=plan_digest,
            backbone=plan.backbone,
            backbone_sha256=plan.backbone_sha256,
            rounds=len(history),
            participants_mean=sum(record.participants for record in history) / max(len(history), 1),
            epsilon=plan.privacy.epsilon if plan.privacy else None,
            delta=plan.privacy.delta if plan.privacy else None,
            created=(now or datetime.now(UTC)).isoformat(timespec="seconds"),
        )
        private_directory(self.folder)
        stem = f"v{card.version:04d}"
        write_tensors(
            self.folder / f"{stem}.safetensors", {**frozen, **adapter}, {"plan": plan.canonical(), "format": "np"}
        )
        # The card last: without it there is no version.
        write_json(self.folder / f"{stem}.json", asdict(card))
        return card

    def get(self, version: int | None) -> ModelCard:
        """Return a version's card; None asks for the newest.

        Raises:
            UsageError: There is none.
        """
        cards = self.cards()
        for card in reversed(cards):
            if version is None or card.version == version:
                return card
        known = ", ".join(str(card.version) for card in cards) or "none yet"
        raise UsageError(
            "There is no finished adapter." if version is None else f"There is no version {version}.",
            f"Versions: {known}. A version is made when a federation has played all its rounds.",
        )

    def export(self, version: int | None, folder: Path) -> ModelCard:
        """Write a version to ``folder`` in peft's format, with its card.

        ``PeftModel.from_pretrained(core, folder)`` loads it onto the backbone's core.

        Raises:
            UsageError: There is no such version, or its file is damaged.
        """
        card = self.get(version)
        path = self.folder / f"v{card.version:04d}.safetensors"
        try:
            metadata, tensors = read_tensors(path)
            plan = FederationPlan.model_validate_json(metadata["plan"])
            adapter = {spec.name: tensors[spec.name] for spec in plan.adapter.tensors}
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(f"{path} is damaged.", "Restore it from a backup.") from error
        if tensors_sha256(adapter) != card.adapter_sha256:
            raise UsageError(f"{path} does not have the hash of its card.", "Restore it from a backup.")
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / "adapter_model.safetensors", tensors, {"format": "pt"})
        config = {
            "peft_type": "LORA",
            "task_type": None,
            "base_model_name_or_path": plan.backbone,
            "inference_mode": True,
            "r": plan.adapter.rank,
            "lora_alpha": plan.adapter.alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": list(plan.adapter.targets),
        }
        write_json(folder / "adapter_config.json", config)
        write_json(folder / "card.json", asdict(card))
        return card
