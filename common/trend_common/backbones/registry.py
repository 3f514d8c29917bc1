"""Backbones by name: what ``--backbone`` accepts, and the hash that says which weights they are."""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Final

import numpy as np
from transformers import AutoConfig, AutoModel
from transformers.utils import logging as transformers_logging

from trend_common.backbones.base import Backbone
from trend_common.backbones.trend import TrendBackbone
from trend_common.errors import UsageError
from trend_common.tensors import tensors_sha256

__all__ = ["SHIPPED", "backbone_sha256", "load_backbone", "shipped_folder"]

SHIPPED: Final = ("trend-small",)
"""Backbones whose weights are in the package."""

_VOLATILE: Final = ("transformers_version", "_name_or_path", "name_or_path", "architectures", "dtype", "torch_dtype")


def shipped_folder(name: str) -> Path:
    """The folder of a shipped backbone: config.json, model.safetensors and its model card."""
    return Path(str(resources.files("trend_common.backbones"))) / "weights" / name


def load_backbone(name_or_path: str) -> Backbone:
    """Load a backbone, frozen and in evaluation mode.

    Args:
        name_or_path: One of :data:`SHIPPED`, or a folder that ``save_pretrained`` wrote.

    Raises:
        UsageError: There is no such backbone, or its model type has no place here.
    """
    folder = shipped_folder(name_or_path) if name_or_path in SHIPPED else Path(name_or_path)
    if not (folder / "config.json").is_file():
        raise UsageError(
            f"There is no backbone {name_or_path!r}.",
            f"Shipped ones are {', '.join(SHIPPED)}; or name a folder with config.json and model.safetensors.",
        )
    transformers_logging.disable_progress_bar()
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if config.model_type != "trend":
        raise UsageError(
            f"The backbone in {folder} is of type {config.model_type!r}.", "This version knows the type 'trend'."
        )
    core = AutoModel.from_pretrained(folder, config=config, local_files_only=True)
    backbone = TrendBackbone(core, name=name_or_path)
    backbone.requires_grad_(False)
    backbone.eval()
    return backbone


def backbone_sha256(backbone: Backbone) -> str:
    """Hash of configuration and weights, the same on every machine; LoRA tensors are left out.

    Raises:
        ValueError: The backbone carries an adapter (its weights would be renamed).
    """
    if any("lora_" in name for name, _ in backbone.named_parameters()):
        raise ValueError("hash the backbone before an adapter is attached")
    config = {key: value for key, value in backbone.config.items() if key not in _VOLATILE}
    text = json.dumps(config, sort_keys=True, default=str)
    weights = {name: value.detach().cpu().numpy().astype(np.float32) for name, value in backbone.state_dict().items()}
    return hashlib.sha256(f"{text}|{tensors_sha256(weights)}".encode()).hexdigest()
