"""How a backbone is pretrained: a TOML file for each shipped size and purpose, checked at load."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trend_common.errors import UsageError

__all__ = ["RECIPES", "ModelShape", "Recipe", "load_recipe"]

RECIPES: Final = ("trend-small", "trend-base", "continue", "frozen-core")
"""Recipes in the package: two sizes from nothing, going on from a shipped model, and the layers of a foreign core."""


class ModelShape(BaseModel):
    """Sizes of :class:`trend_common.backbones.trend.TrendConfig`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    d_model: int = Field(128, ge=8)
    n_layers: int = Field(4, ge=1)
    n_heads: int = Field(4, ge=1)
    d_ff: int = Field(384, ge=8)


class Recipe(BaseModel):
    """Everything that decides which weights come out, but for the number of processes and the device.

    The learning rate warms up, stays, and falls linearly to 2 % over the last steps (warmup-stable-decay: Hu et al.
    2024, arXiv:2404.06395). Until the fall begins a run does not depend on ``steps``, so a stopped run may be given
    more or fewer of them.

    Attributes:
        model: Sizes; of no account with ``init`` or ``backbone``, which have their own.
        init: A model to start from instead of random weights: a shipped one's name, or a folder.
        backbone: A foreign core, by name or folder: it stays as it is, and the layers around it that start at random
            are trained.
        data: Sales files. Some micro-batches are drawn from them instead of the synthetic world.
        data_share: Which share of the micro-batches, where there are files.
        steps: Steps of AdamW.
        batch: Series a step, over all processes and accumulation.
        micro_batch: Series at a time in one process.
        learning_rate: Largest step size.
        warmup, decay: Steps in which the step size rises and falls.
        weight_decay: Of matrices; vectors have none.
        seed: Of the initial weights and of all draws.
        bf16: Compute the forward pass in bfloat16; weights and optimiser stay float32.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: ModelShape = ModelShape()
    init: str | None = None
    backbone: str | None = None
    data: tuple[str, ...] = ()
    data_share: float = Field(0.5, ge=0.001, le=1)
    steps: int = Field(20_000, ge=1)
    batch: int = Field(256, ge=1)
    micro_batch: int = Field(128, ge=1)
    learning_rate: float = Field(1.5e-3, gt=0)
    warmup: int = Field(200, ge=0)
    decay: int = Field(5_000, ge=0)
    weight_decay: float = Field(0.02, ge=0)
    seed: int = Field(0, ge=0)
    bf16: bool = True

    @model_validator(mode="after")
    def _whole(self) -> Recipe:
        if self.batch % self.micro_batch:
            raise ValueError(f"batch {self.batch} is not a multiple of micro_batch {self.micro_batch}")
        if self.warmup + self.decay > self.steps:
            raise ValueError(f"warmup {self.warmup} and decay {self.decay} are more than the {self.steps} steps")
        if self.init is not None and self.backbone is not None:
            raise ValueError("init and backbone exclude each other: one is trained whole, the other stays as it is")
        return self

    @property
    def micro_batches(self) -> int:
        """Micro-batches in a step, over all processes."""
        return self.batch // self.micro_batch

    def rate(self, step: int) -> float:
        """The step size of ``step``, counted from 0."""
        rising = min((step + 1) / self.warmup, 1.0) if self.warmup else 1.0
        falling = min((self.steps - step) / self.decay, 1.0) if self.decay else 1.0
        return self.learning_rate * rising * (0.02 + 0.98 * falling)

    def agrees(self, other: Recipe, step: int) -> bool:
        """Whether both have trained alike in the first ``step`` steps, from the same start on the same draws."""
        schedule = {"steps", "learning_rate", "warmup", "decay"}
        if self.model_dump(exclude=schedule) != other.model_dump(exclude=schedule):
            return False
        return all(self.rate(earlier) == other.rate(earlier) for earlier in range(step))


def load_recipe(name_or_path: str, *, steps: int | None = None, **changes: Any) -> Recipe:
    """A recipe of the package by name, or a TOML file, with some values changed.

    Args:
        name_or_path: One of :data:`RECIPES`, or a file.
        steps: Another number of steps. Rise and fall of the step size stay as they are where they fit, so that a run
            can be made longer; a run too short for them gets its share of each.
        **changes: Other values; None leaves one as it is.

    Raises:
        UsageError: There is none, or a value does not fit.
    """
    if name_or_path in RECIPES:
        text = resources.files("trend_server.pretraining").joinpath(f"recipes/{name_or_path}.toml").read_text("utf-8")
    elif Path(name_or_path).is_file():
        text = Path(name_or_path).read_text("utf-8")
    else:
        raise UsageError(
            f"There is no recipe {name_or_path!r}.", f"Shipped ones are {', '.join(RECIPES)}; or name a TOML file."
        )
    try:
        values = tomllib.loads(text)
        recipe = Recipe(**{**values, **{key: value for key, value in changes.items() if value is not None}})
        return recipe if steps is None else Recipe(**{**recipe.model_dump(), **_shortened(recipe, steps)})
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"The recipe {name_or_path} is not TOML: {error}.", "Mend that line.") from error
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'recipe'}: {one['msg']}" for one in error.errors())
        raise UsageError(f"The recipe {name_or_path} does not fit: {found}.", "Mend these values.") from error


def _shortened(recipe: Recipe, steps: int) -> dict[str, int]:
    """``steps``, with the same shares of rise and fall where both would not fit."""
    if recipe.warmup + recipe.decay <= steps:
        return {"steps": steps}
    share = steps / recipe.steps
    return {"steps": steps, "warmup": int(recipe.warmup * share), "decay": int(recipe.decay * share)}
