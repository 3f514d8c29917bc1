"""A foreign core behind the common interface: the core, our own layers around it, and both as one folder.

A :class:`ForeignNetwork` holds a core that somebody else trained (``body``) and whatever it needs to forecast sales:
input layers for covariates, a head for quantiles. Those layers start at random, or at zero where the core forecasts
by itself; pretraining on synthetic data with the core frozen trains them (:meth:`ForeignBackbone.fresh_parameters`).
Core and layers are saved as one folder, a *composite*, and the backbone's hash covers all of it.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn
from transformers import AutoConfig
from transformers.initialization import no_init_weights

from trend_common.backbones.base import Backbone, Batch, Capabilities, ForecastOutput
from trend_common.backbones.precision import Precision, narrow
from trend_common.covariates import CHANNELS
from trend_common.errors import UsageError
from trend_common.files import replacing, write_json
from trend_common.forecasts import LEVELS
from trend_common.tasks import Task
from trend_common.tensors import tensors_sha256

__all__ = ["COMPOSITE", "ForeignBackbone", "ForeignNetwork", "Settings", "canonical"]

COMPOSITE: Final = "trend-composite"
"""``model_type`` of a saved core with its layers."""

_BODY: Final = "body."
_WEIGHTS: Final = "model.safetensors"
_VOLATILE: Final = ("transformers_version", "name_or_path", "architectures", "dtype", "torch_dtype")


@dataclass(frozen=True)
class Settings:
    """Shape of our own layers around a core; saved with it.

    Attributes:
        patch: Steps of a patch of history or horizon.
        max_context, max_horizon: In steps; the core may allow less.
        n_covariates: C.
        n_text: T, hashed features of a description.
        n_tokens: Description tokens that are read at most.
        levels: Of the quantiles.
        precision: Of the core's large matrices.
        seed: Of the draw of the fresh layers.
    """

    patch: int = 14
    max_context: int = 504
    max_horizon: int = 56
    n_covariates: int = len(CHANNELS)
    n_text: int = 256
    n_tokens: int = 24
    levels: tuple[float, ...] = LEVELS
    precision: Precision = "float32"
    seed: int = 0


class ForeignNetwork(nn.Module, ABC):
    """A core with our own layers; the module that carries the adapter.

    Attributes:
        body: The core, a transformers model.
        rows_per_window: Rows that the core sees for each window, side by side.
    """

    family: ClassVar[str]
    capabilities: ClassVar[Capabilities]
    tasks: ClassVar[tuple[Task, ...]] = ("demand",)
    random_heads: ClassVar[bool]
    """Whether forecasts are noise until the fresh layers are trained."""

    body: Any
    levels: torch.Tensor
    rows_per_window: int = 1

    def __init__(self, body: nn.Module, settings: Settings) -> None:
        super().__init__()
        self.body = body
        self.settings = settings
        self.register_buffer("levels", torch.tensor(settings.levels), persistent=False)

    @classmethod
    @abstractmethod
    def body_class(cls, config: Any) -> Any:
        """The class whose ``from_pretrained`` loads the core of this transformers configuration.

        Raises:
            UsageError: A core of this configuration cannot be used; the reason is named.
        """

    @classmethod
    def body_options(cls, config: Any) -> dict[str, Any]:
        """Further arguments of the core's constructor."""
        return {}

    @classmethod
    def read_config(cls, document: Mapping[str, Any]) -> Any:
        """The core's configuration object from its saved dictionary."""
        rest = dict(document)
        return AutoConfig.for_model(rest.pop("model_type"), **rest)

    @classmethod
    def load_extras(cls, folder: str | Path, **options: Any) -> dict[str, Any]:
        """What the network takes beside the core, such as a tokenizer, from a folder or the hub."""
        return {}

    def save_extras(self, folder: Path) -> None:
        """Write the same beside the weights."""

    def identity(self) -> dict[str, object]:
        """What of it decides about forecasts, for the hash."""
        return {}

    @property
    @abstractmethod
    def lora_targets(self) -> tuple[str, ...]:
        """Suffixes of the names of linear layers that carry adapters by default."""

    @property
    @abstractmethod
    def max_context(self) -> int:
        """Longest history, in steps."""

    @property
    def max_horizon(self) -> int:
        """Longest horizon, in steps."""
        return self.settings.max_horizon

    @abstractmethod
    def forward(self, batch: Batch, task: Task = "demand") -> ForecastOutput:
        """Forecast ``batch``."""

    def refuse_targets(self, layers: tuple[str, ...]) -> None:
        """See :meth:`Backbone.refuse_targets`."""


class ForeignBackbone(Backbone):
    """A :class:`ForeignNetwork` behind the common interface.

    Args:
        network: Core and layers.
        name: What the user called it.
        source: Where the core came from, for the record: name, revision.
        drawn: Hash of the fresh layers as they were drawn; default: as they are now.
    """

    def __init__(
        self, network: ForeignNetwork, *, name: str, source: Mapping[str, str | None], drawn: str | None = None
    ) -> None:
        super().__init__()
        self.core = network
        self.name = name
        self.source = dict(source)
        self.lora_targets = network.lora_targets
        self.capabilities = network.capabilities
        self.max_context, self.max_horizon = network.max_context, network.max_horizon
        self._task: Task = "demand"
        self._drawn = drawn or self._fresh_sha256()

    @property
    def network(self) -> ForeignNetwork:
        """Core and layers, whether or not they carry an adapter."""
        core: Any = self.core
        found: ForeignNetwork = core if isinstance(core, ForeignNetwork) else core.get_base_model()
        return found

    @property
    def task(self) -> Task:
        """Which loss :meth:`forward` gives."""
        return self._task

    @task.setter
    def task(self, wanted: Task) -> None:
        if wanted not in self.network.tasks:
            raise UsageError(
                f"The backbone {self.name} has no head for the task {wanted!r}.",
                f"It can do {', '.join(self.network.tasks)}; trend-small and the language models give trend classes.",
            )
        self._task = wanted

    def forward(self, batch: Batch) -> ForecastOutput:
        """See :meth:`Backbone.forward`.

        Raises:
            UsageError: The horizon is longer than the core allows.
        """
        if batch.future_cov.shape[1] > self.max_horizon:
            raise UsageError(
                f"The backbone {self.name} forecasts at most {self.max_horizon} steps, not "
                f"{batch.future_cov.shape[1]}.",
                "Ask for a shorter horizon.",
            )
        prepared = _prepared(batch, self.max_context, self.network.levels.dtype)
        found: ForecastOutput = self.core(prepared, task=self._task)
        return found

    @property
    def config(self) -> Mapping[str, object]:
        """What, with the weights, identifies the model: the same from the hub, a folder or a composite."""
        network = self.network
        return {
            "model_type": COMPOSITE,
            "family": network.family,
            "settings": asdict(network.settings),
            "body": canonical(network.body.config.to_dict()),
            **network.identity(),
        }

    def fresh_parameters(self) -> tuple[str, ...]:
        """See :meth:`Backbone.fresh_parameters`.

        Raises:
            ValueError: An adapter is attached; the names are then others.
        """
        if not isinstance(self.core, ForeignNetwork):
            raise ValueError("detach the adapter first")
        return tuple(
            name
            for name, _ in self.named_parameters()
            if name.startswith("core.") and not name.startswith(f"core.{_BODY}")
        )

    @property
    def needs_pretraining(self) -> bool:
        """See :attr:`Backbone.needs_pretraining`."""
        return self.network.random_heads and self._fresh_sha256() == self._drawn

    def _fresh_sha256(self) -> str:
        fresh = {
            name: value.detach().cpu().numpy().astype(np.float32)
            for name, value in self.network.named_parameters()
            if not name.startswith(_BODY) and "lora_" not in name
        }
        names = {name.replace(".base_layer.", "."): value for name, value in fresh.items()}
        return tensors_sha256(names)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write core, layers and tokenizer as one folder.

        Raises:
            ValueError: An adapter is attached; adapters are saved by themselves.
        """
        if not isinstance(self.core, ForeignNetwork):
            raise ValueError("detach the adapter first")
        folder, network = Path(folder), self.core
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / _WEIGHTS) as temporary:
            save_model(network, str(temporary))
        network.save_extras(folder)
        body = network.body.config.to_dict()
        body["architectures"] = [type(network.body).__name__]
        document = {
            **self.config,
            "body": json.loads(json.dumps(body, default=str)),
            "source": self.source,
            "drawn": self._drawn,
        }
        write_json(folder / "config.json", document)

    def refuse_targets(self, layers: tuple[str, ...]) -> None:
        """See :meth:`Backbone.refuse_targets`."""
        self.network.refuse_targets(layers)

    @classmethod
    def wrap(
        cls,
        family: type[ForeignNetwork],
        body: nn.Module,
        settings: Settings,
        *,
        name: str,
        source: Mapping[str, str | None],
        extras: Mapping[str, Any] | None = None,
    ) -> ForeignBackbone:
        """Put fresh layers around a core; the same for the same seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            network = family(body.float(), settings, **(extras or {}))
        narrow(network.body, settings.precision)
        return cls(network, name=name, source=source)

    @classmethod
    def load(cls, family: type[ForeignNetwork], folder: Path, document: Mapping[str, Any], name: str) -> Self:
        """Read a folder that :meth:`save_pretrained` wrote.

        Raises:
            UsageError: It was made by a version with other covariates or levels, or does not hold what it should.
        """
        try:
            settings = Settings(**{**document["settings"], "levels": tuple(document["settings"]["levels"])})
            config = family.read_config(document["body"])
            drawn, source = str(document["drawn"]), dict(document["source"])
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f"The config.json in {folder} is not that of a composite of this version: {error}.",
                "Copy the folder again, or pretrain it again.",
            ) from error
        current = Settings()
        for field in ("n_covariates", "n_text", "levels"):
            if getattr(settings, field) != getattr(current, field):
                raise UsageError(
                    f"The backbone in {folder} was made with {field} = {getattr(settings, field)}; this version has "
                    f"{getattr(current, field)}.",
                    "Pretrain it again with this version: trend-server pretrain --backbone CORE --freeze-core.",
                )
        kind = family.body_class(config)
        with no_init_weights():
            build = getattr(kind, "from_config", None) or kind._from_config
            body = build(config, dtype=torch.float32, **family.body_options(config))
        body.tie_weights()  # which the construction without initial weights leaves out
        network = family(body, settings, **family.load_extras(folder))
        narrow(network.body, settings.precision)
        try:
            load_model(network, str(folder / _WEIGHTS))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise UsageError(
                f"The backbone in {folder} cannot be read: {error}.", "Copy the folder again, or pretrain it again."
            ) from error
        return cls(network, name=name, source=source, drawn=drawn)


def canonical(config: Mapping[str, Any]) -> dict[str, Any]:
    """A transformers configuration without what differs between equal models."""
    return {
        key: canonical(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in _VOLATILE and not str(key).startswith("_")
    }


def _prepared(batch: Batch, context: int, dtype: torch.dtype) -> Batch:
    """The last ``context`` steps, and all that is not an index in our layers' precision."""
    past = ("past_values", "past_mask", "past_cov")
    start = max(batch.past_values.shape[1] - context, 0)
    found = {field.name: getattr(batch, field.name) for field in fields(batch)}
    cut = {name: value[:, start:] if name in past else value for name, value in found.items()}
    indices = ("freq", "static_ids", "description")
    return Batch(**{n: v if v is None or n in indices else v.to(dtype) for n, v in cut.items()})
