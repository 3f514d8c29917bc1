"""TimesFM (Das et al. 2024, arXiv:2310.10688) as transformers holds it.

Versions 1.0 and 2.0 are its ``timesfm``, 2.5 its ``timesfm2_5``. The core knows values alone: no covariates, no text,
no mask. A window begins at its first known value, gaps are filled from the season before, and the core's own
normalisation, which is within the window, follows. Its option to cut negative forecasts asks whether *any* series of
the batch has a negative value and so ties series together; it is never used, and negative quantiles are cut one by
one.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import AutoModelForTimeSeriesPrediction

from trend_common.backbones.base import Batch, Capabilities, ForecastOutput
from trend_common.backbones.foreign import Settings
from trend_common.backbones.readout import ResidualNetwork, check_levels
from trend_common.backbones.scaling import ScaledWindow
from trend_common.covariates import FREQUENCIES, SEASON
from trend_common.tasks import Task

__all__ = ["TimesFmNetwork"]

_LONGEST: Final = 2048
"""Steps of context at most: more than five years of days cost memory and tell nothing new."""

_FREQUENCY: Final = {"D": 0, "W": 1, "M": 1}
"""TimesFM's own codes: 0 for up to daily, 1 for weekly and monthly, 2 for quarterly and rarer."""


class TimesFmNetwork(ResidualNetwork):
    """See the module."""

    family = "timesfm"
    capabilities = Capabilities(covariates=True, text=False, cold_start=False)

    def __init__(self, body: nn.Module, settings: Settings) -> None:
        config: Any = body.config
        super().__init__(body, settings, check_levels(config.quantiles, config.model_type))
        self._season = [SEASON[freq] for freq in FREQUENCIES]

    @classmethod
    def body_class(cls, config: Any) -> Any:
        """See :meth:`ForeignNetwork.body_class`."""
        return AutoModelForTimeSeriesPrediction

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """Attention of the core, and the covariate residual."""
        return ("q_proj", "v_proj", "covariates")

    @property
    def max_context(self) -> int:
        """The core's, at most 2,048."""
        return min(int(self.body.config.context_length), _LONGEST)

    @property
    def max_horizon(self) -> int:
        """The core's, as far as our windows reach."""
        return min(int(self.body.config.horizon_length), self.settings.max_horizon)

    def forward(self, batch: Batch, task: Task = "demand") -> ForecastOutput:
        """See :meth:`ForeignNetwork.forward`."""
        window, horizon = ScaledWindow.of(batch), batch.future_cov.shape[1]
        season = torch.tensor(self._season, device=batch.freq.device)[batch.freq]
        patch, longest = int(self.body.config.patch_length), int(self.body.config.context_length)
        context = min(max(-(-window.values.shape[1] // patch), 1) * patch, longest)
        options: dict[str, Any] = {"forecast_context_len": context, "truncate_negative": False}
        if self.body.config.model_type == "timesfm":
            options["freq"] = [_FREQUENCY[FREQUENCIES[code]] for code in batch.freq.tolist()]
        out = self.body(past_values=self._histories(window, season), **options).full_predictions
        # The first of the last axis is the point forecast.
        return self.read(batch, window, out[:, :horizon, 1:])

    @staticmethod
    def _histories(window: ScaledWindow, season: Tensor) -> list[Tensor]:
        """Each row from its first known value on; a single 1, the scale itself, where nothing is known."""
        filled = window.filled(season)
        starts = window.known.argmax(1).tolist() if filled.shape[1] else [0] * len(filled)
        empty = window.empty.tolist()
        return [
            filled.new_ones(1) if nothing else row[start:]
            for row, start, nothing in zip(filled, starts, empty, strict=True)
        ]
