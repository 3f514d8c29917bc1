"""A core that forecasts by itself, and a linear residual for what it cannot see: the covariates of the days ahead.

The core's quantiles are read at our levels on the asinh scale; to them a linear function of how a step's covariates
differ from the window's average ones is added. It starts at zero, so that an untrained composite forecasts exactly as
its core does.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trend_common.backbones.base import Batch, ForecastOutput
from trend_common.backbones.foreign import ForeignNetwork, Settings
from trend_common.backbones.scaling import LARGEST, ScaledWindow, finish, read_levels, window_losses
from trend_common.errors import UsageError

__all__ = ["ResidualNetwork", "check_levels"]


class ResidualNetwork(ForeignNetwork):
    """A forecasting core with the covariate residual.

    Args:
        body: The core.
        settings: Shape of our layers.
        given: The quantile levels that the core gives.
        covariates: Whether it gets the residual.
    """

    random_heads = False

    def __init__(self, body: nn.Module, settings: Settings, given: list[float], covariates: bool = True) -> None:
        super().__init__(body, settings)
        self.register_buffer("given", torch.tensor(given), persistent=False)
        self.covariates = nn.Linear(settings.n_covariates, len(settings.levels)) if covariates else None
        if self.covariates is not None:
            nn.init.zeros_(self.covariates.weight)
            nn.init.zeros_(self.covariates.bias)

    given: Tensor

    def read(self, batch: Batch, window: ScaledWindow, quantiles: Tensor) -> ForecastOutput:
        """The core's ``quantiles`` [N, H, G], over the window's scale, as a forecast."""
        ordered = quantiles.to(self.levels.dtype).sort(-1).values
        limit = float(torch.sinh(torch.tensor(LARGEST)))
        scaled = read_levels(torch.asinh(ordered.clamp(-limit, limit)), self.given, self.levels)
        if self.covariates is not None:
            past = batch.past_cov
            usual = (past * window.known[..., None]).sum(1) / window.known.sum(1).clamp(min=1)[:, None]
            scaled = scaled + self.covariates(batch.future_cov - usual[:, None])
        losses = window_losses(batch, window, scaled, self.levels)
        return finish(window, scaled, self.levels, losses)


def check_levels(levels: object, name: str) -> list[float]:
    """The core's own quantile levels.

    Raises:
        UsageError: They are not on both sides of the median, so that nothing can be read from them.
    """
    found = [float(level) for level in levels] if isinstance(levels, list | tuple) else []
    if not found or found != sorted(found) or not found[0] < 0.5 < found[-1]:
        raise UsageError(
            f"The core {name} forecasts the quantiles {found}.", "They must ascend and lie on both sides of 0.5."
        )
    return found
