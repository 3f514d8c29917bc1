"""What is trained and what stays frozen, by the name of the policy.

Used around a run of fine-tuning: on the way in gradients are let into the policy's parameters, on the way out
everything is frozen again and scalings and layers are as they were. What was learned is exported in between, always
in the form in which a personal model is stored: the attached adapter's tensors in the plan's own scaling, and tensors
of the backbone itself.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from trend_client.finetune import FineTuneSettings
from trend_client.weights import WORDS, BaseWeights, base_parameters
from trend_common import adapters
from trend_common.backbones.base import Backbone
from trend_common.errors import UsageError
from trend_common.protocol import AdapterPlan
from trend_common.tensors import Tensors

__all__ = ["Training", "training"]

_ADAPTER: Final = "default"
_HEADS: Final = ("head", "head1", "head2", "trend")
_ORTHOGONAL: Final = 0.5
"""Weight of AdaLoRA's pull of its factors towards orthogonal ones; the paper's and peft's own default."""


@dataclass
class Training:
    """A backbone ready to be trained.

    Attributes:
        backbone: With gradients let into the policy's parameters.
        parameters: Those of adapters, the head or the body.
        words: Those of descriptions and categories, which may have a step size of their own.
    """

    backbone: Backbone
    weights: BaseWeights
    base_names: tuple[str, ...]
    parameters: list[nn.Parameter] = field(default_factory=list)
    words: list[nn.Parameter] = field(default_factory=list)
    dropouts: list[nn.Module] = field(default_factory=list)

    def mode(self, train: bool) -> None:
        """Dropout on for a step, off for a look at validation."""
        for module in self.dropouts:
            module.train(train)

    def penalty(self) -> Tensor | None:
        """What the policy adds to the loss, if anything."""
        return None

    def after_step(self, step: int) -> None:
        """Called after the gradients of a step are used and before they are dropped."""

    def export(self) -> Tensors:
        """What was learned, as a personal model is stored."""
        return {**adapters.export(self.backbone), **self.weights.export(self.base_names)}


class _RsLora(Training):
    """B in the units of its own scaling while it is trained."""

    def export(self) -> Tensors:
        """See :meth:`Training.export`."""
        root = math.sqrt(_rank(self.backbone))
        return {name: value * root if "lora_B" in name else value for name, value in super().export().items()}


@dataclass
class _AdaLora(Training):
    """An adapter of peft's own over the backbone with the shared adapter merged in."""

    shared: Tensors = field(default_factory=dict)

    @property
    def _core(self) -> Any:
        core: Any = self.backbone.core
        return core

    def penalty(self) -> Tensor:
        """Distance of the factors from orthogonal ones (Zhang et al. 2023, equation 4)."""
        total, count = torch.zeros(()), 0
        for name, factor in self._core.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                gram = factor @ factor.T if "lora_A" in name else factor.T @ factor
                total = total.to(gram.device) + torch.linalg.norm(gram - torch.eye(len(gram), device=gram.device))
                count += 1
        return _ORTHOGONAL * total / max(count, 1)

    def after_step(self, step: int) -> None:
        """Move rank to where it matters."""
        self._core.base_model.update_and_allocate(step)

    def export(self) -> Tensors:
        """The shared adapter as it was, and the backbone's own weights with what was learned added."""
        found = dict(self.shared)
        shipped = self.weights.shipped
        for name, layer in _layers(self._core):
            found[f"{name}.weight"] = (
                (shipped(f"{name}.weight") + layer.get_delta_weight(_ADAPTER)).detach().cpu().numpy().copy()
            )
        return {**found, **self.weights.export(self.base_names)}


@contextmanager
def training(
    backbone: Backbone, plan: AdapterPlan, weights: BaseWeights, settings: FineTuneSettings, *, seed: int
) -> Iterator[Training]:
    """A backbone whose chosen parameters can be trained; everything is frozen again afterwards.

    The tensors are not put back: use the engine's ``use`` for that.

    Args:
        backbone: With the adapter of ``plan`` attached and set to where training starts.
        plan: Of the adapter.
        weights: The backbone's shipped tensors.
        settings: What to train.
        seed: Of AdaLoRA's draw.

    Raises:
        UsageError: The backbone has nothing that this policy could train.
    """
    named = base_parameters(backbone)
    words = tuple(name for name in WORDS if name in named) if settings.words else ()
    base: tuple[str, ...] = ()
    if settings.freeze == "full":
        base = tuple(named)
    elif settings.freeze == "head":
        base = tuple(name for name in named if any(part in _HEADS for part in name.split(".")))
        if not base:
            raise UsageError(f"The backbone {backbone.name} has no head of its own to train.", 'Use freeze = "lora".')
    base = tuple(dict.fromkeys((*base, *words)))
    weights.keep(base)
    adapters.set_trained(backbone, "AB")
    try:
        if settings.freeze == "adalora":
            with _adalora(backbone, plan, weights, settings, base, seed) as pruned:
                _let(pruned, words)
                yield pruned
            return
        made = (_RsLora if settings.freeze == "rslora" else Training)(backbone, weights, base)
        if settings.freeze in ("head", "full"):
            backbone.requires_grad_(False)
        _let(made, words)
        with _scaled(backbone, settings), _dropout(made, settings):
            yield made
    finally:
        adapters.set_trained(backbone, plan.train, plan.layers)
        for parameter in backbone.parameters():
            parameter.grad = None


def _let(made: Training, words: tuple[str, ...]) -> None:
    """Let gradients into the policy's parameters and sort them into groups."""
    named = base_parameters(made.backbone)
    for name in made.base_names:
        named[name].requires_grad_(True)
    made.words = [named[name] for name in words]
    chosen = {id(parameter) for parameter in made.words}
    made.parameters = [p for p in made.backbone.parameters() if p.requires_grad and id(p) not in chosen]


@contextmanager
def _scaled(backbone: Backbone, settings: FineTuneSettings) -> Iterator[None]:
    """rsLoRA: the update is (alpha / √r) B A; B is divided by as much, so that the model is the same."""
    if settings.freeze != "rslora":
        yield
        return
    layers, root = _lora_layers(backbone), math.sqrt(_rank(backbone))
    before = [layer.scaling[_ADAPTER] for layer in layers]
    with torch.no_grad():
        for layer, scaling in zip(layers, before, strict=True):
            layer.scaling[_ADAPTER] = scaling * root
            layer.lora_B[_ADAPTER].weight.div_(root)
    try:
        yield
    finally:
        with torch.no_grad():
            for layer, scaling in zip(layers, before, strict=True):
                layer.scaling[_ADAPTER] = scaling
                layer.lora_B[_ADAPTER].weight.mul_(root)


@contextmanager
def _dropout(made: Training, settings: FineTuneSettings) -> Iterator[None]:
    if not settings.dropout:
        yield
        return
    layers = _lora_layers(made.backbone)
    before = [layer.lora_dropout[_ADAPTER] for layer in layers]
    for layer in layers:
        layer.lora_dropout[_ADAPTER] = nn.Dropout(settings.dropout).eval()
        made.dropouts.append(layer.lora_dropout[_ADAPTER])
    try:
        yield
    finally:
        for layer, module in zip(layers, before, strict=True):
            layer.lora_dropout[_ADAPTER] = module


@contextmanager
def _adalora(
    backbone: Backbone,
    plan: AdapterPlan,
    weights: BaseWeights,
    settings: FineTuneSettings,
    words: tuple[str, ...],
    seed: int,
) -> Iterator[_AdaLora]:
    """peft's AdaLoRA in place of the attached adapter, which is merged into the weights meanwhile."""
    core: Any = backbone.core
    shared = adapters.export(backbone)
    merged = {f"{name}.weight": layer.get_delta_weight(_ADAPTER) for name, layer in _layers(core)}
    weights.keep(list(merged))
    adapters.detach(backbone)
    named = base_parameters(backbone)
    with torch.no_grad():
        for name, delta in merged.items():
            named[name].add_(delta)
    warm = max(settings.steps // 10, 1)
    config = AdaLoraConfig(
        target_r=plan.rank,
        init_r=2 * plan.rank,
        lora_alpha=2 * plan.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(plan.targets),
        tinit=warm,
        tfinal=max(settings.steps // 3, 1),
        total_step=max(settings.steps, warm + settings.steps // 3 + 2),
        deltaT=1,
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        torch.manual_seed(seed)
        try:
            backbone.core = get_peft_model(backbone.core, config)
        except (TypeError, ValueError) as error:
            _reattach(backbone, plan, shared)
            raise UsageError(
                f"AdaLoRA does not fit the layers of {backbone.name}: {error}.", 'Use freeze = "lora".'
            ) from error
    backbone.eval()
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_("lora_A" in name or "lora_B" in name or "lora_E" in name)
    made = _AdaLora(backbone, weights, words, shared=shared)
    made.dropouts = [module for name, module in backbone.named_modules() if name.endswith(f"lora_dropout.{_ADAPTER}")]
    try:
        yield made
    finally:
        adapters.detach(backbone)
        _reattach(backbone, plan, shared)


def _reattach(backbone: Backbone, plan: AdapterPlan, tensors: Tensors) -> None:
    adapters.attach(backbone, rank=plan.rank, alpha=plan.alpha, targets=plan.targets, train=plan.train)
    adapters.load(backbone, tensors)


def _layers(core: Any) -> list[tuple[str, Any]]:
    """The adapted layers by their names in the backbone as shipped."""
    assert isinstance(core, PeftModel)
    return [
        (name.removeprefix("base_model.model."), module)
        for name, module in core.named_modules()
        if hasattr(module, "get_delta_weight") and hasattr(module, "lora_A")
    ]


def _lora_layers(backbone: Backbone) -> list[LoraLayer]:
    return [module for module in backbone.core.modules() if isinstance(module, LoraLayer)]


def _rank(backbone: Backbone) -> int:
    return int(_lora_layers(backbone)[0].r[_ADAPTER])
