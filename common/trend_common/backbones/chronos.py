"""Chronos-Bolt and Chronos-2 (Ansari et al. 2024 and 2025, arXiv:2403.07815, arXiv:2510.15821).

They need the package ``chronos-forecasting`` (``pip install 'trend-federated[chronos]'``).

Chronos-2 reads covariates as further rows of the batch that are in one *group* with their series: its group attention
swaps batch and time and attends among the rows of a group. Two things follow. The rows of a window must stand side by
side and be counted as one (``rows_per_window``). And an adapter on the group attention sees time first and rows
second, so that its per-series gradients would be wrong without a sign where the numbers of both happen to agree;
such adapters are refused, Chronos' own default targets among them. What the other layers compute is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from trend_common.backbones.base import Batch, Capabilities, ForecastOutput
from trend_common.backbones.foreign import Settings
from trend_common.backbones.readout import ResidualNetwork, check_levels
from trend_common.backbones.scaling import ScaledWindow
from trend_common.covariates import INDEX
from trend_common.errors import PolicyError, UsageError
from trend_common.tasks import Task

__all__ = ["BOLT", "CHRONOS2", "Chronos2Network", "ChronosBoltNetwork", "chronos_family"]

BOLT: Final = "ChronosBoltModelForForecasting"
CHRONOS2: Final = "Chronos2Model"

_LONGEST: Final = 2048
_GROUP_LAYER: Final = ".layer.1."
"""Chronos-2's blocks hold time attention, group attention and feed-forward, in this order."""

_COVARIATES: Final = (
    ("promo", "promo_known"),
    ("log_relative_price", "price_known"),
    ("holiday", "holiday_known"),
    ("closed", "closed_known"),
    ("own_1", "own_1_known"),
    ("own_2", "own_2_known"),
)
"""What is told to Chronos-2 beside the series, with the flag that says where it is known."""


def chronos_family(config: Any) -> type[ResidualNetwork]:
    """Which of the two a configuration is.

    Raises:
        UsageError: It is a T5 without a Chronos head, or the first Chronos.
    """
    named = [str(name) for name in getattr(config, "architectures", None) or []]
    if BOLT in named:
        return ChronosBoltNetwork
    if CHRONOS2 in named:
        return Chronos2Network
    first = bool(getattr(config, "chronos_config", None))
    raise UsageError(
        "This is the first Chronos, which samples its forecasts token by token."
        if first
        else f"This T5 ({', '.join(named) or 'no architecture named'}) is no forecasting model.",
        "Chronos-Bolt and Chronos-2 are supported: amazon/chronos-bolt-small, amazon/chronos-2.",
    )


def _chronos(module: str, name: str) -> Any:
    try:
        from importlib import import_module

        return getattr(import_module(module), name)
    except ImportError as error:
        raise UsageError(
            "Chronos models need the package chronos-forecasting, which is not installed.",
            "Install it: pip install 'trend-federated[chronos]'.",
        ) from error


class ChronosBoltNetwork(ResidualNetwork):
    """Chronos-Bolt with the covariate residual."""

    family = "chronos-bolt"
    capabilities = Capabilities(covariates=True, text=False, cold_start=False)

    def __init__(self, body: nn.Module, settings: Settings) -> None:
        config: Any = body.config
        super().__init__(body, settings, check_levels(config.chronos_config["quantiles"], "Chronos-Bolt"))

    @classmethod
    def body_class(cls, config: Any) -> Any:
        """See :meth:`ForeignNetwork.body_class`."""
        return _chronos("chronos.chronos_bolt", BOLT)

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """Attention, and the covariate residual.

        Queries of the decoder's own attention are left out: it sees one token, so that they have no effect.
        """
        return ("v", "EncDecAttention.q", "covariates")

    @property
    def max_context(self) -> int:
        """The core's."""
        return min(int(self.body.config.chronos_config["context_length"]), _LONGEST)

    @property
    def max_horizon(self) -> int:
        """The core's, as far as our windows reach."""
        return min(int(self.body.config.chronos_config["prediction_length"]), self.settings.max_horizon)

    def forward(self, batch: Batch, task: Task = "demand") -> ForecastOutput:
        """See :meth:`ForeignNetwork.forward`."""
        window, horizon = ScaledWindow.of(batch), batch.future_cov.shape[1]
        out = self.body(context=_with_gaps(window)).quantile_preds
        return self.read(batch, window, out[..., :horizon].transpose(1, 2))


class Chronos2Network(ResidualNetwork):
    """Chronos-2, which reads covariates by itself."""

    family = "chronos-2"
    capabilities = Capabilities(covariates=True, text=False, cold_start=False)
    rows_per_window = 1 + len(_COVARIATES)

    def __init__(self, body: nn.Module, settings: Settings) -> None:
        config: Any = body.config
        given = check_levels(config.chronos_config["quantiles"], "Chronos-2")
        super().__init__(body, settings, given, covariates=False)

    @classmethod
    def body_class(cls, config: Any) -> Any:
        """See :meth:`ForeignNetwork.body_class`."""
        return _chronos("chronos.chronos2", CHRONOS2)

    @classmethod
    def read_config(cls, document: Mapping[str, Any]) -> Any:
        """Chronos-2 calls itself a T5 and has a configuration class of its own."""
        return _chronos("chronos.chronos2.config", "Chronos2CoreConfig")(**document)

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """The attention over time alone."""
        return ("layer.0.self_attention.q", "layer.0.self_attention.v")

    @property
    def max_context(self) -> int:
        """The core's, at most 2,048."""
        return min(int(self.body.config.chronos_config["context_length"]), _LONGEST)

    @property
    def max_horizon(self) -> int:
        """The core's, as far as our windows reach."""
        config = self.body.config.chronos_config
        return min(
            int(config["output_patch_size"]) * int(config.get("max_output_patches", 1)), self.settings.max_horizon
        )

    def refuse_targets(self, layers: tuple[str, ...]) -> None:
        """See :meth:`Backbone.refuse_targets`."""
        mixed = [name for name in layers if _GROUP_LAYER in name]
        if mixed:
            raise PolicyError(
                f"An adapter on Chronos-2's group attention ({mixed[0]} and {len(mixed) - 1} more) has no gradient "
                "of a single series: that layer swaps batch and time.",
                f"Use {', '.join(self.lora_targets)}; names such as self_attention.q mean both kinds of attention.",
            )

    def forward(self, batch: Batch, task: Task = "demand") -> ForecastOutput:
        """See :meth:`ForeignNetwork.forward`."""
        window, horizon = ScaledWindow.of(batch), batch.future_cov.shape[1]
        context, future, group = self._rows(batch, window)
        patch = int(self.body.config.chronos_config["output_patch_size"])
        out = self.body(
            context=context, group_ids=group, future_covariates=future, num_output_patches=-(-horizon // patch)
        ).quantile_preds
        rows = len(context) // len(batch)
        return self.read(batch, window, out[::rows, :, :horizon].transpose(1, 2))

    def _rows(self, batch: Batch, window: ScaledWindow) -> tuple[Tensor, Tensor, Tensor]:
        """Series and covariates as rows of the core: context [N·r, L], future [N·r, H], group [N·r].

        A covariate that is not known for a series gets a group of its own and so has no part in its forecast.
        """
        n, unknown = len(batch), float("nan")
        target = _with_gaps(window)
        contexts, futures = [target], [batch.future_cov.new_full(batch.future_cov.shape[:2], unknown)]
        own = torch.arange(n, device=target.device)
        groups = [own]
        for position, (name, flag) in enumerate(_COVARIATES, start=1):
            past, past_known = batch.past_cov[..., INDEX[name]], batch.past_cov[..., INDEX[flag]] > 0
            ahead, ahead_known = batch.future_cov[..., INDEX[name]], batch.future_cov[..., INDEX[flag]] > 0
            is_known = past_known.any(1) | ahead_known.any(1)
            if not torch.is_grad_enabled() and not bool(is_known.any()):
                continue  # without gradients nothing counts the rows, and those in groups of their own do nothing
            contexts.append(past.masked_fill(~past_known, unknown))
            futures.append(ahead.masked_fill(~ahead_known, unknown))
            groups.append(torch.where(is_known, own, position * n + own))
        pad = target.shape[1] - batch.past_cov.shape[1]
        contexts = [target, *(nn.functional.pad(c, (pad, 0), value=unknown) for c in contexts[1:])]
        return tuple(torch.stack(rows, 1).flatten(0, 1) for rows in (contexts, futures, groups))  # type: ignore[return-value]


def _with_gaps(window: ScaledWindow) -> Tensor:
    """[N, L] values with NaN where unknown; a series of which nothing is known ends with a 1, the scale itself."""
    values = window.values if window.values.shape[1] else window.values.new_zeros(len(window.scale), 1)
    known = window.known if window.known.shape[1] else torch.zeros_like(values)
    last = torch.arange(values.shape[1], device=values.device) == values.shape[1] - 1
    start = window.empty[:, None] & last
    return torch.where(start, 1.0, values.masked_fill((known == 0) & ~start, float("nan")))
