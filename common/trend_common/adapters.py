"""LoRA on a backbone, and its tensors as they travel and are stored: peft's own names and format.

With ``train="B"`` the A matrices are drawn once and frozen (FFA-LoRA: Sun et al. 2024, arXiv:2403.12313), so that the
mean of the clients' B is exactly the mean of their updates, and half as many parameters carry noise.
"""

from __future__ import annotations

import operator
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model
from transformers.pytorch_utils import Conv1D

from trend_common.backbones.base import Backbone
from trend_common.errors import PolicyError, UsageError
from trend_common.files import fsync_directory
from trend_common.lora_layers import quicken
from trend_common.protocol import AdapterPlan
from trend_common.tensors import Tensors, TensorSpec, check_shapes, tensors_sha256

__all__ = [
    "attach",
    "core_parameters",
    "detach",
    "export",
    "initial_adapter",
    "load",
    "lora_parameters",
    "save",
    "set_trained",
    "trained_parameters",
    "wire_name",
]


class _Listing:
    """The parameters of a backbone that carries an adapter, by name.

    A walk through all modules takes about a millisecond and a simulation changes adapters at every client's turn, so
    the list is kept for as long as the adapter is.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.core = dict(backbone.core.named_parameters())
        # The layer of each parameter of the backbone, and "A" or "B" where it is the adapter's.
        parted = ((name.partition(".lora_"), value) for name, value in backbone.named_parameters())
        self.factors = tuple((layer, factor[:1], value) for (layer, _, factor), value in parted)
        self.lora = {wire_name(name): value for name, value in self.core.items() if "lora_" in name}
        found = [
            (module._parameters, key, value)
            for module in backbone.modules()
            for key, value in module._parameters.items()
        ]
        self._places = tuple(zip(*found, strict=True))

    def holds(self) -> bool:
        """Whether each parameter is still where it was found."""
        places, keys, values = self._places
        return all(map(operator.is_, map(dict.get, places, keys), values))


# An attached adapter is a core of its own, and the list goes with it.
_LISTINGS: WeakKeyDictionary[torch.nn.Module, _Listing] = WeakKeyDictionary()


def _listing(backbone: Backbone) -> _Listing:
    found = _LISTINGS.get(backbone.core)
    if found is None or not found.holds():
        found = _Listing(backbone)
        if isinstance(backbone.core, PeftModel):
            _LISTINGS[backbone.core] = found
    return found


def core_parameters(backbone: Backbone) -> Mapping[str, torch.nn.Parameter]:
    """What the core's ``named_parameters`` gives; not to be changed."""
    return _listing(backbone).core


def lora_parameters(backbone: Backbone) -> Mapping[str, torch.nn.Parameter]:
    """The adapter's parameters by the names under which they travel; not to be changed."""
    return _listing(backbone).lora


def attach(
    backbone: Backbone, *, rank: int, alpha: float, targets: tuple[str, ...], train: Literal["B", "AB"], seed: int = 0
) -> None:
    """Put a fresh LoRA on ``backbone`` in place; everything else is frozen and in evaluation mode.

    Args:
        rank: r.
        alpha: The update is (alpha / rank) B A.
        targets: Names of linear layers, or the ends of their names within the core.
        train: Which of A and B get gradients.
        seed: Of A's draw; torch's global generator is left as it was.

    Raises:
        PolicyError: The backbone has no layer of these names, or one on which gradients of a series would be wrong.
    """
    core: Any = backbone.core
    if isinstance(core, PeftModel):
        raise ValueError("the backbone already carries an adapter")
    linear = [name for name, module in core.named_modules() if isinstance(module, torch.nn.Linear | Conv1D)]
    carrying = {target: [n for n in linear if n == target or n.endswith(f".{target}")] for target in targets}
    missing = sorted(target for target, layers in carrying.items() if not layers)
    if missing:
        raise PolicyError(
            f"The backbone {backbone.name} has no linear layer named {', '.join(missing)}.",
            f"It can carry adapters on {', '.join(backbone.lora_targets)}.",
        )
    backbone.refuse_targets(tuple(name for layers in carrying.values() for name in layers))
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), lora_dropout=0.0, bias="none")
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft asks transformers for an attribute of an old name; nothing that a user could act on.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        # GPT-2 keeps its weights transposed; peft sees it, says so for each layer, and does what is right.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to", category=UserWarning)
        torch.manual_seed(seed)
        backbone.core = get_peft_model(core, config)
    quicken(backbone.core)
    backbone.eval()
    set_trained(backbone, train)


def set_trained(backbone: Backbone, train: Literal["B", "AB"], layers: tuple[str, ...] = ()) -> None:
    """Let gradients flow into B alone, or into A and B, of ``layers`` or of all; everything else stays frozen."""
    ends = tuple(f".{one}" for one in layers)
    for layer, factor, parameter in _listing(backbone).factors:
        wanted = not ends or layer.endswith(ends)
        parameter.requires_grad_(wanted and (factor == "B" or (train == "AB" and factor == "A")))


def detach(backbone: Backbone) -> None:
    """Take the LoRA off again, leaving the backbone as it was."""
    core: Any = backbone.core
    if isinstance(core, PeftModel):
        backbone.core = core.unload()


def trained_parameters(backbone: Backbone) -> dict[str, torch.nn.Parameter]:
    """The parameters that are trained, by the names under which they travel."""
    return {wire_name(name): value for name, value in core_parameters(backbone).items() if value.requires_grad}


def wire_name(name: str) -> str:
    """A parameter of the peft model by the name under which peft stores it, and under which it travels."""
    return name.replace(".default.", ".")


def export(backbone: Backbone) -> Tensors:
    """All LoRA tensors, in peft's names, as float32 copies."""
    return {
        name: parameter.detach().cpu().numpy().astype(np.float32, copy=True)
        for name, parameter in lora_parameters(backbone).items()
    }


def load(backbone: Backbone, tensors: Mapping[str, NDArray[np.generic]]) -> None:
    """Set the LoRA tensors that are named; the others stay.

    Raises:
        PolicyError: A name is not one of the adapter's, or a shape differs.
    """
    current = lora_parameters(backbone)
    if unknown := sorted(tensors.keys() - current.keys()):
        raise PolicyError(f"The adapter has no tensor named {', '.join(unknown[:5])}.", "Use the plan's own names.")
    shapes = {name: tuple(current[name].shape) for name in tensors}
    with torch.no_grad():
        for name, value in check_shapes(tensors, shapes, "the adapter").items():
            current[name].copy_(torch.from_numpy(value))


def initial_adapter(
    backbone: Backbone,
    *,
    rank: int,
    alpha: float,
    targets: tuple[str, ...],
    train: Literal["B", "AB"],
    seed: int = 0,
    layers: tuple[str, ...] = (),
) -> tuple[AdapterPlan, Tensors, Tensors]:
    """A fresh adapter as a server announces it.

    Args:
        backbone: Without an adapter.
        rank, alpha, targets, train, seed: As for :func:`attach`.
        layers: Of the targets those that are trained and travel; all by default. The others' B stays zero, until a
            personal model trains it.

    Returns:
        The plan, the tensors that are trained (B is zero, so the model starts as the backbone), and the frozen ones.

    Raises:
        UsageError: The backbone's heads are still random; no adapter, least of all one under noise, mends that. Or a
            layer is none of the targets.
    """
    if strange := sorted(set(layers) - set(targets)):
        raise UsageError(
            f"The backbone {backbone.name} has no layer {strange[0]!r} that could be trained.",
            f"Its layers are {', '.join(targets)}.",
        )
    if backbone.needs_pretraining:
        raise UsageError(
            f"The input layers and heads around {backbone.name} are as they were drawn at random, so that its "
            "forecasts are noise.",
            f"Train them on synthetic data first: trend-server pretrain --backbone {backbone.name} --freeze-core "
            "--out FOLDER; then name that folder as the backbone.",
        )
    attach(backbone, rank=rank, alpha=alpha, targets=targets, train=train, seed=seed)
    try:
        set_trained(backbone, train, layers)
        everything = export(backbone)
        trained = set(trained_parameters(backbone))
    finally:
        detach(backbone)
    moving = {name: value for name, value in everything.items() if name in trained}
    # A B that is not trained is zero, and need not travel.
    frozen = {name: value for name, value in everything.items() if name not in trained and "lora_B" not in name}
    plan = AdapterPlan(
        rank=rank,
        alpha=alpha,
        targets=targets,
        train=train,
        layers=layers,
        tensors=tuple(TensorSpec(name=name, shape=moving[name].shape) for name in sorted(moving)),
        frozen=tuple(TensorSpec(name=name, shape=frozen[name].shape) for name in sorted(frozen)),
        frozen_sha256=tensors_sha256(frozen),
    )
    return plan, moving, frozen


def save(backbone: Backbone, folder: Path) -> None:
    """Write the adapter in peft's format, so that ``PeftModel.from_pretrained(core, folder)`` loads it.

    The folder is written beside its place and swapped in whole.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-", suffix=".tmp"))
    try:
        core: Any = backbone.core
        core.save_pretrained(str(temporary))
        if folder.exists():
            old = folder.with_name(f".{folder.name}-old.tmp")
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
            temporary.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.rename(folder)
        fsync_directory(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
