"""PatchTST (Nie et al. 2023, arXiv:2211.14730) and PatchTSMixer (Ekambaram et al. 2023, arXiv:2306.09364).

The core encodes the patches of one channel, which is the one series; a head of our own reads its state together with
the known covariates of each patch of the horizon. Two configurations are refused, since they would break the privacy
of a series without any sign: batch normalisation (the default of PatchTST) and more than one channel.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel

from trend_common.backbones.base import Batch, Capabilities, ForecastOutput
from trend_common.backbones.foreign import ForeignNetwork, Settings
from trend_common.backbones.heads import PatchHead, steps_to_patches
from trend_common.backbones.scaling import ScaledWindow
from trend_common.covariates import FREQUENCIES, SEASON
from trend_common.errors import UsageError
from trend_common.tasks import Task

__all__ = ["PATCH_MODELS", "PatchNetwork"]

PATCH_MODELS: Final = {"patchtst": ("q_proj", "v_proj"), "patchtsmixer": ("fc1", "fc2")}
"""Model types with the linear layers of the core that carry adapters."""

_SUMMARY: Final = 8


class PatchNetwork(ForeignNetwork):
    """See the module."""

    family = "patchtst"
    capabilities = Capabilities(covariates=True, text=False, cold_start=False)
    tasks = ("demand", "trend", "all")
    random_heads = True

    def __init__(self, body: nn.Module, settings: Settings) -> None:
        super().__init__(body, settings)
        width = int(self.body.config.d_model)
        self.state = nn.Linear(2 * width + _SUMMARY, width)
        self.query_in = nn.Linear(settings.patch * (2 + settings.n_covariates), width)
        self.norm = nn.LayerNorm(width)
        self.head = PatchHead(width, settings.patch, settings.levels)
        self._season = [SEASON[freq] for freq in FREQUENCIES]

    @classmethod
    def body_class(cls, config: Any) -> Any:
        """See :meth:`ForeignNetwork.body_class`."""
        norm = str(getattr(config, "norm_type", None) or getattr(config, "norm_mlp", ""))
        if "batch" in norm.lower():
            raise UsageError(
                f"This {config.model_type} uses batch normalisation ({norm!r}), which mixes the series of a batch: "
                "one retailer's gradient for a series would depend on the others, and no privacy of a series holds.",
                "Use a core that was trained with layer normalisation (norm_type or norm_mlp = 'layernorm').",
            )
        if int(config.num_input_channels) != 1:
            raise UsageError(
                f"This {config.model_type} has {config.num_input_channels} channels, which it folds into the batch: "
                "gradients would be clipped for each channel instead of for each series.",
                "Use a core of one channel; the series is the channel, and covariates go to the head.",
            )
        return AutoModel

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """Attention or mixing of the core, and our own layers."""
        return (*PATCH_MODELS[self.body.config.model_type], "state", "query_in", "head1", "head2")

    @property
    def max_context(self) -> int:
        """The core's."""
        return int(self.body.config.context_length)

    def forward(self, batch: Batch, task: Task = "demand") -> ForecastOutput:
        """See :meth:`ForeignNetwork.forward`."""
        settings, window = self.settings, ScaledWindow.of(batch)
        season = torch.tensor(self._season, device=batch.freq.device)[batch.freq]
        missing = self.max_context - window.values.shape[1]
        values = F.pad(torch.asinh(window.filled(season)), (missing, 0), value=float(torch.asinh(torch.tensor(1.0))))
        known = F.pad(window.known, (missing, 0))
        mask = "past_observed_mask" if self.body.config.model_type == "patchtst" else "observed_mask"
        hidden = self.body(past_values=values[..., None], **{mask: known[..., None]}).last_hidden_state[:, 0]
        hidden = hidden.to(self.levels.dtype)
        state = self.state(torch.cat([hidden.mean(1), hidden[:, -1], window.summary(batch)], -1))
        has_past = (~window.empty).to(window.base.dtype)[:, None].expand_as(window.base)
        future = torch.cat([torch.stack([window.base, has_past], -1), batch.future_cov], -1)
        queries = self.query_in(steps_to_patches(future, settings.patch, front=False))
        found: ForecastOutput = self.head(
            self.norm(F.gelu(state[:, None] + queries)), batch, window, self.levels, task
        )
        return found
