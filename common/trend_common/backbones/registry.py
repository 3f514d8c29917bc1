"""Backbones by name: what ``--backbone`` accepts, and the hash that says which weights they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModel
from transformers.utils import logging as transformers_logging

from trend_common.backbones.base import Backbone
from trend_common.backbones.trend import TrendBackbone
from trend_common.errors import UsageError
from trend_common.tensors import tensors_sha256

if TYPE_CHECKING:
    from trend_common.backbones.foreign import ForeignNetwork
    from trend_common.backbones.precision import Precision

__all__ = ["MODEL_TYPES", "SHIPPED", "backbone_sha256", "load_backbone", "shipped_folder"]

SHIPPED: Final = ("trend-small",)
"""Backbones whose weights are in the package."""

_PACKAGE: Final = "trend_common.backbones"
_TEXT, _TIMESFM, _PATCHES = (f"{_PACKAGE}.text", f"{_PACKAGE}.timesfm", f"{_PACKAGE}.patchtst")
_FAMILIES: Final = {
    "text": (_TEXT, "TextNetwork"),
    "timesfm": (_TIMESFM, "TimesFmNetwork"),
    "patchtst": (_PATCHES, "PatchNetwork"),
    "chronos-bolt": (f"{_PACKAGE}.chronos", "ChronosBoltNetwork"),
    "chronos-2": (f"{_PACKAGE}.chronos", "Chronos2Network"),
}
"""Where each kind of wrapper lives; imported when it is needed."""

MODEL_TYPES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("gpt2", "bert", "llama", "mistral", "qwen2", "qwen3"), "text"),
    **dict.fromkeys(("timesfm", "timesfm2_5"), "timesfm"),
    **dict.fromkeys(("patchtst", "patchtsmixer"), "patchtst"),
    "t5": "chronos",
}
"""transformers' ``model_type`` → kind of wrapper; beside "trend" and saved composites."""

_VOLATILE: Final = ("transformers_version", "_name_or_path", "name_or_path", "architectures", "dtype", "torch_dtype")


def shipped_folder(name: str) -> Path:
    """The folder of a shipped backbone: config.json, model.safetensors and its model card."""
    return Path(str(resources.files("trend_common.backbones"))) / "weights" / name


def load_backbone(name_or_path: str, *, revision: str | None = None, precision: Precision | None = None) -> Backbone:
    """Load a backbone, frozen and in evaluation mode.

    Args:
        name_or_path: One of :data:`SHIPPED`; a folder that ``save_pretrained`` wrote (ours, transformers', or a
            composite of a core and our layers); or a model on the hub, ``OWNER/MODEL`` or ``OWNER/MODEL@REVISION``.
        revision: Branch, tag or commit on the hub; pin a commit, since a branch moves.
        precision: Of a foreign core's large matrices; None is float32, or what a composite was saved with.

    Raises:
        UsageError: There is no such backbone, its weights cannot be had, or its model type has no place here.
    """
    from trend_common.backbones.hub import Source, composite_folder, read_config

    backbone: Backbone
    with _quiet():
        if name_or_path in SHIPPED:
            source = Source(name_or_path, None, shipped_folder(name_or_path))
        else:
            source = Source.parse(name_or_path, revision)
        config = read_config(source)
        if isinstance(config, Mapping):
            backbone = _composite(composite_folder(source), config, name_or_path, precision)
        elif config.model_type == "trend":
            if precision not in (None, "float32"):
                raise UsageError(f"{name_or_path} is small and always float32.", "Leave the precision out.")
            try:
                core = AutoModel.from_pretrained(source.where, config=config, use_safetensors=True, **source.options)
            except (OSError, ValueError, RuntimeError, SafetensorError) as error:
                raise source.failed("its weights", error) from error
            backbone = TrendBackbone(core, name=name_or_path)
        else:
            backbone = _wrapped(source, config, name_or_path, precision)
    backbone.requires_grad_(False)
    backbone.eval()
    return backbone


def _wrapped(source: Any, config: Any, name: str, precision: Precision | None) -> Backbone:
    """A foreign core with fresh layers."""
    from trend_common.backbones.foreign import ForeignBackbone, Settings
    from trend_common.backbones.hub import load_body

    kind = MODEL_TYPES.get(config.model_type)
    if kind is None:
        raise UsageError(
            f"The backbone {name} is of type {config.model_type!r}.",
            f"Known are our own ('trend'), composites, and {', '.join(MODEL_TYPES)}.",
        )
    if kind == "chronos":
        from trend_common.backbones.chronos import chronos_family

        family: type[ForeignNetwork] = chronos_family(config)
    else:
        family = _family(kind)
    body = load_body(source, family, config)
    extras = family.load_extras(source.where, **source.options)
    settings = Settings(precision=precision or "float32")
    return ForeignBackbone.wrap(family, body, settings, name=name, source=source.record(body.config), extras=extras)


def _composite(folder: Path, document: Mapping[str, Any], name: str, precision: Precision | None) -> Backbone:
    from trend_common.backbones.foreign import ForeignBackbone

    saved = document.get("settings", {}).get("precision")
    if precision not in (None, saved):
        raise UsageError(
            f"The backbone in {folder} was saved in {saved}; asked for was {precision}.",
            "Its hash is that of the saved precision: leave the precision out, or wrap the core again.",
        )
    if document.get("family") not in _FAMILIES:
        raise UsageError(
            f"The composite in {folder} is of the unknown kind {document.get('family')!r}.",
            f"This version knows {', '.join(_FAMILIES)}.",
        )
    return ForeignBackbone.load(_family(document["family"]), folder, document, name)


def _family(kind: str) -> type[ForeignNetwork]:
    module, name = _FAMILIES[kind]
    found: type[ForeignNetwork] = getattr(import_module(module), name)
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers tells of every unused head of a checkpoint; what matters is checked here and raised."""
    before = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


class _Lazy(Mapping[str, NDArray[np.float32]]):
    """Tensors as float32 arrays, one at a time, so that hashing a large model needs no second copy of it."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self._tensors[name].detach().to("cpu", torch.float32).numpy()
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def backbone_sha256(backbone: Backbone) -> str:
    """Hash of configuration and weights, the same on every machine; LoRA tensors are left out.

    Raises:
        ValueError: The backbone carries an adapter (its weights would be renamed).
    """
    if any("lora_" in name for name, _ in backbone.named_parameters()):
        raise ValueError("hash the backbone before an adapter is attached")
    config = {key: value for key, value in backbone.config.items() if key not in _VOLATILE}
    text = json.dumps(config, sort_keys=True, default=str)
    return hashlib.sha256(f"{text}|{tensors_sha256(_Lazy(backbone.state_dict()))}".encode()).hexdigest()
