"""What a person may set about fine-tuning, and what of it private training must refuse.

The settings are one flat TOML file, which ``trend-sim tune`` prints and ``trend-client personalise --settings``
reads; ``docs/fine-tuning.md`` explains each.
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any, Final, Literal, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trend_common.errors import PolicyError, UsageError

__all__ = [
    "FREEZE",
    "FineTuneSettings",
    "Freeze",
    "LaunchSettings",
    "load_settings",
    "refuse_private",
    "to_toml",
]

Freeze = Literal["head", "lora", "rslora", "adalora", "full", "prefix"]

FREEZE: Final[tuple[Freeze, ...]] = ("head", "lora", "rslora", "adalora", "full")
"""Policies that work; "prefix" is known and refused with the reason."""

_PREFIX: Final = (
    "Prefix tuning cannot be used: peft hands its prefixes to a model as past keys and values of a decoder with a "
    "vocabulary, and the attention of a forecasting backbone takes neither."
)


class LaunchSettings(BaseModel):
    """How the part for products without history is trained: on windows that look like a launch, and on nothing else.

    Attributes:
        steps: At most so many; 0 makes no such part.
        learning_rate: Step size, which falls to 0 linearly.
        words: Also train the projection of descriptions and the embedding of categories, where the backbone has them.
        words_rate: Step size of ``words`` as a multiple of ``learning_rate``.
        batch_size: Windows in a step; they are short and cheap.
        look_every: Steps between two looks at products that were held out.
        patience: As in :class:`FineTuneSettings`.
        synonyms: As in :class:`FineTuneSettings`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    steps: int = Field(600, ge=0, le=100_000)
    learning_rate: float = Field(3e-3, gt=0, le=10)
    words: bool = True
    words_rate: float = Field(3.0, gt=0, le=1000)
    batch_size: int = Field(64, ge=1, le=4096)
    look_every: int = Field(50, ge=1)
    patience: int = Field(4, ge=0)
    synonyms: float = Field(0.0, ge=0, le=1)


class FineTuneSettings(BaseModel):
    """How a personal model is trained from the shared one or from the backbone as shipped.

    Attributes:
        freeze: What is trained: "head" the forecasting head itself, "lora" adapters, "rslora" adapters whose update
            is scaled by alpha / √rank (Kalajdzievski 2023, arXiv:2312.03732), "adalora" adapters whose ranks are
            pruned while they train (Zhang et al. 2023, arXiv:2303.10512), "full" every weight.
        words: As in :class:`LaunchSettings`, for all products.
        rank: r of adapters where no shared adapter says.
        loss: "quantile" is the backbone's own; "squared" the squared error of the mean over the window's level.
        optimiser: "adamw" or "sgd" (with ``momentum``).
        learning_rate: Step size after the warm-up.
        words_rate: Step size of ``words`` as a multiple of ``learning_rate``.
        schedule: Course of the step size after the warm-up: constant, or falling to 0 linearly or as a cosine.
        warmup: Share of ``steps`` over which the step size grows from 0.
        weight_decay: Decoupled (Loshchilov and Hutter, arXiv:1711.05101), of AdamW; plain L2 with SGD.
        clip_norm: Largest norm of a step's gradient.
        dropout: Of the adapters' inputs.
        batch_size: Windows whose gradient is computed at once.
        accumulate: Batches in a step.
        steps: At most so many.
        look_every: Steps between two looks at validation.
        patience: Looks without improvement after which training ends; 0 never ends early.
        precision: "bf16" computes the forward pass in bfloat16 where that is safe.
        cold_start: Share of the windows that are shown with 0 to 14 steps of history, and a level from siblings.
        jitter_level: Standard deviation of a window's level on the log scale, drawn anew each time.
        jitter_scale: The same for how far its values swing around their mean.
        drop_covariates: Probability with which a window loses a group of covariates: promotion, price, holidays, own.
        synonyms: Probability with which a word of a description is replaced by one of the same meaning.
        adversarial: Size of the worst small change of a window's text and values that is trained on as well (FGM:
            Miyato et al. 2017, arXiv:1605.07725), relative to their own norm; 0 for none.
        replay: Share of the windows that are of made-up sales (:mod:`trend_client.memory`), against forgetting.
        ensemble: Models trained with different seeds, whose quantiles are averaged.
        launch: The part for products without history.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    freeze: Freeze = "lora"
    words: bool = False
    rank: int = Field(2, ge=1, le=64)
    loss: Literal["quantile", "squared"] = "quantile"
    optimiser: Literal["adamw", "sgd"] = "adamw"
    momentum: float = Field(0.9, ge=0, lt=1)
    learning_rate: float = Field(2e-3, gt=0, le=10)
    words_rate: float = Field(1.0, gt=0, le=1000)
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup: float = Field(0.05, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0, le=10)
    clip_norm: float = Field(1.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    batch_size: int = Field(32, ge=1, le=4096)
    accumulate: int = Field(1, ge=1, le=1024)
    steps: int = Field(100, ge=1, le=100_000)
    look_every: int = Field(10, ge=1)
    patience: int = Field(3, ge=0)
    precision: Literal["float32", "bf16"] = "float32"
    cold_start: float = Field(0.0, ge=0, le=1)
    jitter_level: float = Field(0.0, ge=0, le=2)
    jitter_scale: float = Field(0.0, ge=0, le=2)
    drop_covariates: float = Field(0.0, ge=0, le=1)
    synonyms: float = Field(0.0, ge=0, le=1)
    adversarial: float = Field(0.0, ge=0, le=1)
    replay: float = Field(0.0, ge=0, lt=1)
    ensemble: int = Field(1, ge=1, le=20)
    launch: LaunchSettings = LaunchSettings()

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.freeze == "prefix":
            raise ValueError(_PREFIX)
        if self.dropout and self.freeze in ("head", "full"):
            raise ValueError(f'dropout is of adapters, and freeze = "{self.freeze}" has none')
        return self


def load_settings(path: Path) -> FineTuneSettings:
    """Read a TOML file; what it does not name keeps its default.

    Raises:
        UsageError: There is no such file, it is not TOML, a key is unknown (the nearest is named), or a value does
            not fit.
    """
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read.", "Name a file that trend-sim tune wrote.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}.", "Correct that line.") from error
    try:
        return FineTuneSettings.model_validate(values)
    except ValidationError as error:
        hint = "docs/fine-tuning.md lists the settings."
        raise UsageError(f"The settings in {path} do not fit: {_problems(error)}.", hint) from error


def to_toml(settings: FineTuneSettings) -> str:
    """All settings as the TOML that :func:`load_settings` reads."""
    return tomli_w.dumps(settings.model_dump())


def refuse_private(settings: FineTuneSettings) -> None:
    """Raise if differential privacy cannot be had with these settings.

    Raises:
        PolicyError: Naming each of them and the reason.
    """
    reasons: dict[str, Any] = {
        f'freeze = "{settings.freeze}"': {
            "full": "the noise grows with the number of weights, and weights outside linear layers have no gradient "
            "of a single series",
            "adalora": "which ranks remain is decided by sums over the sales that carry no noise",
        }.get(settings.freeze),
        "words": settings.words and "embeddings have no gradient of a single series here",
        'precision = "bf16"': settings.precision != "float32"
        and "a norm that was rounded can be larger than the clip that the noise was made for",
        "cold_start or launch": (settings.cold_start > 0 or settings.launch.steps > 0)
        and "a level from siblings makes the gradient of one series depend on others",
        "adversarial": settings.adversarial > 0 and "it takes a second gradient, which the accounting does not count",
        "ensemble": settings.ensemble > 1 and "each member spends the privacy of a whole federation",
        "patience": settings.patience > 0 and "when to stop would be told by sales without noise",
    }
    found = [f"{name} ({reason})" for name, reason in reasons.items() if reason]
    if found:
        raise PolicyError(
            f"Private training refuses {'; '.join(found)}.",
            'Private are adapters (freeze = "lora", "rslora", "head") in float32 with words = false, cold_start = 0, '
            "launch.steps = 0, adversarial = 0, ensemble = 1 and patience = 0. The personal model may use "
            "everything: it never leaves.",
        )


def _problems(error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        key = ".".join(map(str, item["loc"]))
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(item["loc"][-1]), _known(item["loc"]), n=1)
            lines.append(f"there is no setting {key}" + (f"; did you mean {near[0]}?" if near else ""))
        else:
            message = item["msg"].removeprefix("Value error, ").rstrip(".")
            lines.append(f"{key}: {message}" if key else message)
    return "; ".join(lines)


def _known(location: tuple[str | int, ...]) -> list[str]:
    return list((LaunchSettings if location[0] == "launch" and len(location) > 1 else FineTuneSettings).model_fields)
