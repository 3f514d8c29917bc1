"""How a backbone is pretrained: a TOML file for each shipped size, checked at load."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trend_common.errors import UsageError

__all__ = ["RECIPES", "ModelShape", "Recipe", "load_recipe"]

RECIPES: Final = ("trend-small", "trend-base")
"""Recipes in the package."""


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
        model: Sizes.
        steps: Steps of AdamW.
        batch: Series a step, over all processes and accumulation.
        micro_batch: Series at a time in one process.
        learning_rate: Largest step size.
        warmup, decay: Steps in which the step size rises and falls.
        weight_decay: Of matrices; vectors have none.
        seed: Of the initial weights and of the world.
        bf16: Compute the forward pass in bfloat16; weights and optimiser stay float32.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: ModelShape = ModelShape()
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
        return self

    def rate(self, step: int) -> float:
        """The step size of ``step``, counted from 0."""
        rising = min((step + 1) / self.warmup, 1.0) if self.warmup else 1.0
        falling = min((self.steps - step) / self.decay, 1.0) if self.decay else 1.0
        return self.learning_rate * rising * (0.02 + 0.98 * falling)


def load_recipe(name_or_path: str, **changes: Any) -> Recipe:
    """A recipe of the package by name, or a TOML file, with some values changed.

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
        return Recipe(**{**values, **{key: value for key, value in changes.items() if value is not None}})
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"The recipe {name_or_path} is not TOML: {error}.", "Mend that line.") from error
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'recipe'}: {one['msg']}" for one in error.errors())
        raise UsageError(f"The recipe {name_or_path} does not fit: {found}.", "Mend these values.") from error
