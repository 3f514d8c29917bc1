"""What is trained: our own model whole, from nothing or from given weights, or the layers around a foreign core."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from trend_common.backbones import Backbone, Batch, backbone_sha256, load_backbone
from trend_common.backbones.trend import TrendBackbone, TrendConfig, TrendModel
from trend_common.errors import UsageError
from trend_common.files import replacing
from trend_server.pretraining.recipe import Recipe

__all__ = ["Pupil", "fitted", "make_pupil"]


@dataclass(frozen=True, eq=False)
class Pupil:
    """A backbone with the parameters of it that are trained.

    Attributes:
        backbone: The whole; its loss is what is minimised.
        module: The part by whose names the training state knows the parameters.
        origin: Hash of what was there before training; None where it all started at random.
        write: Writes the model's folder.
    """

    backbone: Backbone
    module: nn.Module
    origin: str | None
    write: Callable[[Path], object]

    def state(self) -> dict[str, Tensor]:
        """The trained parameters."""
        return {name: value.detach() for name, value in self.module.named_parameters() if value.requires_grad}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take the trained parameters from an earlier :meth:`state`.

        Raises:
            ValueError: The names or shapes are others.
        """
        own = self.state()
        if {name: value.shape for name, value in own.items()} != {k: v.shape for k, v in state.items()}:
            raise ValueError("state: the parameters have other names or shapes")
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(state[name])

    def save(self, folder: Path) -> None:
        """Write the model into ``folder``, each file whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".model-") as place:
            self.write(Path(place))
            for made in sorted(path for path in Path(place).rglob("*") if path.is_file()):
                with replacing(folder / made.relative_to(place)) as temporary:
                    shutil.copyfile(made, temporary)


def make_pupil(recipe: Recipe) -> Pupil:
    """What the recipe trains.

    Raises:
        UsageError: A model that it names cannot be had, or has nothing to train.
    """
    transformers_logging.disable_progress_bar()
    if recipe.init is not None:
        found = load_backbone(recipe.init)
        if not isinstance(found, TrendBackbone):
            raise UsageError(
                f"{recipe.init} is not one of our own models.",
                "A foreign core is named by --backbone and stays as it is.",
            )
        model = found.core
        assert isinstance(model, TrendModel)
        return _whole(model.float(), backbone_sha256(found))
    if recipe.backbone is not None:
        return _around(load_backbone(recipe.backbone))
    return _whole(TrendModel(TrendConfig(**recipe.model.model_dump())), None)


def _whole(model: TrendModel, origin: str | None) -> Pupil:
    # What was set right after an earlier training would only be learned away.
    model.config.spread = [1.0] * len(model.config.spread)
    backbone = TrendBackbone(model)
    backbone.requires_grad_(True)
    backbone.task = "all"
    return Pupil(backbone, model, origin, model.save_pretrained)


def _around(backbone: Backbone) -> Pupil:
    """The layers that the foreign core of ``backbone`` did not bring; the core stays as it is."""
    fresh = set(backbone.fresh_parameters())
    if not fresh:
        raise UsageError(
            f"{backbone.name} has no layers that start at random: there is nothing to train around it.",
            "Use it as it is; one of our own models is trained on with --init.",
        )
    digest = hashlib.sha256()
    for name, value in backbone.named_parameters():
        value.requires_grad_(name in fresh)
        if name not in fresh:
            digest.update(name.encode())
            digest.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    backbone.task = "all" if "all" in backbone.tasks else "demand"
    return Pupil(backbone, backbone, digest.hexdigest(), backbone.save_pretrained)


def fitted(batch: Batch, backbone: Backbone) -> Batch:
    """The same windows with no more history and no longer targets than ``backbone`` takes."""
    context, horizon = backbone.max_context, backbone.max_horizon
    if batch.past_values.shape[1] <= context and batch.future_cov.shape[1] <= horizon:
        return batch
    assert batch.future_values is not None
    assert batch.future_mask is not None
    return replace(
        batch,
        past_values=batch.past_values[:, -context:],
        past_mask=batch.past_mask[:, -context:],
        past_cov=batch.past_cov[:, -context:],
        future_cov=batch.future_cov[:, :horizon],
        future_values=batch.future_values[:, :horizon],
        future_mask=batch.future_mask[:, :horizon],
    )
