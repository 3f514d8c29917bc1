"""Our own backbone: a bidirectional patch encoder that forecasts a whole horizon at once, with known covariates.

The tokens are one for the series' statics, one for each patch of history and one for each patch of the horizon. Each
horizon step is given several simple forecasts (:mod:`trend_common.backbones.simple`). The head mixes them by a
softmax and adds a residual for each quantile, on the scale asinh(value / window mean), in units of how far values of
the same phase lie apart; the loss is stated in the same units, so that a calm product counts as much as a wild one. A
window is scaled by itself alone. Two more heads on the same body give the probability of no sale and the trend class.
Patching follows Nie et al. 2023 (arXiv:2211.14730); the quantile head trained by the pinball loss is that of direct
multi-horizon forecasters such as Chronos-Bolt (arXiv:2403.07815).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from trend_common.backbones.base import LEVELS, Backbone, Batch, Capabilities, ForecastOutput
from trend_common.backbones.losses import mean_over, no_sale_loss, pinball_steps, poisson_deviance, trend_loss
from trend_common.backbones.scaling import LARGEST, lag_distance, window_scale
from trend_common.backbones.simple import N_SIMPLE, RESPONSES, TABLES, Steps, responses, simple_forecasts
from trend_common.covariates import CHANNELS, FREQUENCIES, INDEX
from trend_common.tasks import TREND_CLASSES, Task, trend_class

__all__ = ["Prepared", "TrendBackbone", "TrendConfig", "TrendForecast", "TrendModel"]


class TrendConfig(PretrainedConfig):
    """Configuration of :class:`TrendModel`; ``patch``, ``max_context`` and ``max_horizon`` are in steps.

    ``spread`` has a factor for each of :data:`trend_common.covariates.FREQUENCIES`, by which the quantiles lie nearer
    to the median, or farther from it, than pretraining put them.
    """

    model_type = "trend"

    def __init__(
        self,
        d_model: int = 128,
        n_layers: int = 4,
        n_heads: int = 4,
        d_ff: int = 384,
        patch: int = 14,
        max_context: int = 504,
        max_horizon: int = 56,
        n_covariates: int = len(CHANNELS),
        n_text: int = 256,
        n_static: int = 512,
        levels: tuple[float, ...] = LEVELS,
        mean_weight: float = 0.1,
        zero_weight: float = 0.05,
        trend_weight: float = 0.02,
        spread: tuple[float, ...] = (1.0,) * len(FREQUENCIES),
        **kwargs: Any,
    ) -> None:
        self.d_model = d_model
        self.n_layers = n_layers
        self.n_heads = n_heads
        self.d_ff = d_ff
        self.patch = patch
        self.max_context = max_context
        self.max_horizon = max_horizon
        self.n_covariates = n_covariates
        self.n_text = n_text
        self.n_static = n_static
        self.levels = list(levels)
        self.mean_weight = mean_weight
        self.zero_weight = zero_weight
        self.trend_weight = trend_weight
        self.spread = list(spread)
        super().__init__(**kwargs)


@dataclass
class TrendForecast(ModelOutput):
    """Output of :class:`TrendModel`: see :class:`trend_common.backbones.base.ForecastOutput`."""

    loss: Tensor | None = None
    quantiles: Tensor | None = None
    mean: Tensor | None = None
    loss_per_sample: Tensor | None = None
    no_sale: Tensor | None = None
    trend: Tensor | None = None


class Block(nn.Module):
    """A pre-norm transformer layer with plain linear projections, so that LoRA can sit on each."""

    def __init__(self, config: TrendConfig) -> None:
        super().__init__()
        d = config.d_model
        self.heads = config.n_heads
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.q_proj, self.k_proj = nn.Linear(d, d), nn.Linear(d, d)
        self.v_proj, self.o_proj = nn.Linear(d, d), nn.Linear(d, d)
        self.fc1, self.fc2 = nn.Linear(d, config.d_ff), nn.Linear(config.d_ff, d)

    def forward(self, x: Tensor, mask: Tensor, ahead: int | None = None) -> Tensor:
        """A token of each kind, mixed and transformed.

        Args:
            x: [N, tokens, d].
            mask: [N, 1, 1, tokens] true where a token may be attended to.
            ahead: Give the first token and so many last ones alone, as nothing else of the last layer is read.

        Returns:
            [N, tokens, d], or [N, 1 + ahead, d].
        """
        n, _, d = x.shape

        def split(z: Tensor) -> Tensor:
            return z.view(n, -1, self.heads, d // self.heads).transpose(1, 2)

        y = self.norm1(x)
        keys, values = split(self.k_proj(y)), split(self.v_proj(y))
        if ahead is not None:
            x, y = (torch.cat([z[:, :1], z[:, -ahead:]], 1) for z in (x, y))
        mixed = F.scaled_dot_product_attention(split(self.q_proj(y)), keys, values, attn_mask=mask)
        x = x + self.o_proj(mixed.transpose(1, 2).reshape(n, -1, d))
        out: Tensor = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return out


@dataclass(frozen=True)
class Prepared:
    """Windows as the encoder reads them. P patches of history and horizon, F of the horizon, K simple forecasts.

    Attributes:
        tokens: [N, P, patch · channels].
        summary: [N, d] the token of the series' statics.
        visible: [N, 1 + P] true where a token may be attended to.
        n_future: F.
        scale, spread: [N].
        width: [N] the configuration's factor of the spread.
        values, known: [N, L] over the scale, and 1 where known.
        options, allowed: [N, H, K] simple forecasts over the scale, and 1 where there is one.
    """

    tokens: Tensor
    summary: Tensor
    visible: Tensor
    n_future: int
    scale: Tensor
    spread: Tensor
    width: Tensor
    values: Tensor
    known: Tensor
    options: Tensor
    allowed: Tensor


class TrendModel(PreTrainedModel):
    """The network. Use :class:`TrendBackbone` for the common interface."""

    config_class = TrendConfig
    base_model_prefix = "trend"
    main_input_name = "past_values"

    def __init__(self, config: TrendConfig) -> None:
        super().__init__(config)
        d, patch = config.d_model, config.patch
        channels = 2 + 2 * N_SIMPLE + config.n_covariates
        self.in1, self.in2 = nn.Linear(patch * channels, d), nn.Linear(d, d)
        self.in_skip = nn.Linear(patch * channels, d)
        self.position = nn.Embedding((config.max_context + config.max_horizon) // patch, d)
        self.statics = nn.Linear(12 + len(RESPONSES), d)
        self.text = nn.Linear(config.n_text, d, bias=False)
        # The unknown, 0, stays a zero: pretraining sees nothing else and would make it a bias that known ones lack.
        self.categories = nn.Embedding(config.n_static, d, padding_idx=0)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.n_layers)])
        self.norm = nn.LayerNorm(d)
        self.head1 = nn.Linear(d, d)
        self.head2 = nn.Linear(d, patch * (len(config.levels) + 2 + N_SIMPLE))
        self.trend = nn.Linear(d, len(TREND_CLASSES))
        self.register_buffer("levels", torch.tensor(config.levels), persistent=False)
        self.register_buffer("width", torch.tensor(config.spread), persistent=False)
        for name, table in TABLES.items():
            self.register_buffer(name, torch.tensor([table[freq] for freq in FREQUENCIES]), persistent=False)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # transformers' init functions leave alone what was loaded from a checkpoint; in-place arithmetic would not.
        if isinstance(module, nn.Linear):
            gain = 0.1 if module in (self.head2, self.trend) else 1.0
            init.normal_(module.weight, std=gain / math.sqrt(module.in_features))
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=0.0 if module is self.categories else 0.02)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, TrendModel):
            # Non-persistent buffers are not in a checkpoint, so they are rebuilt wherever the model is made.
            init.copy_(module.levels, torch.tensor(self.config.levels))
            init.copy_(module.width, torch.tensor(self.config.spread))
            for name, table in TABLES.items():
                init.copy_(getattr(module, name), torch.tensor([table[freq] for freq in FREQUENCIES]))

    def forward(
        self,
        past_values: Tensor,
        past_mask: Tensor,
        past_cov: Tensor,
        future_cov: Tensor,
        freq: Tensor,
        text: Tensor | None = None,
        static_ids: Tensor | None = None,
        level_hint: Tensor | None = None,
        future_values: Tensor | None = None,
        future_mask: Tensor | None = None,
        task: Task = "demand",
        return_dict: bool = True,
        **kwargs: object,
    ) -> TrendForecast:
        """Shapes as in :class:`trend_common.backbones.base.Batch`; ``task`` says which loss is given."""
        ready = self.prepare(past_values, past_mask, past_cov, future_cov, freq, text, static_ids, level_hint)
        hidden, first = self.encode(ready)
        return self.conclude(ready, hidden, first, future_cov, future_values, future_mask, task)

    def prepare(
        self,
        past_values: Tensor,
        past_mask: Tensor,
        past_cov: Tensor,
        future_cov: Tensor,
        freq: Tensor,
        text: Tensor | None = None,
        static_ids: Tensor | None = None,
        level_hint: Tensor | None = None,
    ) -> Prepared:
        """What each window says by itself: scale, simple forecasts, tokens."""
        config, patch = self.config, self.config.patch
        n, horizon = past_values.shape[0], future_cov.shape[1]
        # A longer history is cut to what there are positions for.
        past_values, past_mask, past_cov = (
            one[:, -config.max_context :] for one in (past_values, past_mask, past_cov)
        )
        pad_past, pad_future = (-past_values.shape[1]) % patch, (-horizon) % patch
        past_values, past_mask = F.pad(past_values, (pad_past, 0)), F.pad(past_mask, (pad_past, 0))
        past_cov = F.pad(past_cov, (0, 0, pad_past, 0))
        future_cov = F.pad(future_cov, (0, 0, 0, pad_future))
        steps_past, steps_future = past_values.shape[1], future_cov.shape[1]
        n_past, n_future = steps_past // patch, steps_future // patch

        known = past_mask.to(past_values.dtype)
        scale = window_scale(past_values * known, known, level_hint)
        x = past_values * known / scale[:, None]
        z = torch.asinh(x)
        steps_of = Steps(*(getattr(self, name)[freq] for name in Steps._fields))
        effects = responses(z, known, past_cov, steps_of, freq == 0)
        simple = simple_forecasts(x, known, steps_of, past_cov, future_cov, effects)

        # Channels: value, known, K simple forecasts, K of their masks, covariates. Of history only the same phase
        # and last year (channels 0 and 3 of K) have something to say.
        features = x.new_zeros(n, steps_past + steps_future, 2 + 2 * N_SIMPLE + config.n_covariates)
        past, ahead = features[:, :steps_past], features[:, steps_past:]
        past[..., 0], past[..., 1] = z, known
        for channel, (value, there) in zip((2, 5), simple.past, strict=True):
            past[..., channel], past[..., channel + N_SIMPLE] = torch.asinh(value), there
        ahead[..., 2 : 2 + N_SIMPLE] = torch.asinh(simple.ahead)
        ahead[..., 2 + N_SIMPLE : 2 + 2 * N_SIMPLE] = simple.ahead_known
        past[..., 2 + 2 * N_SIMPLE :] = past_cov
        ahead[..., 2 + 2 * N_SIMPLE :] = future_cov

        seasonal, seasonal_ok = lag_distance(z, known, steps_of.season)
        yearly, yearly_ok = lag_distance(z, known, steps_of.year)
        spread, yearly = seasonal.clamp(0.01, 2.0), yearly.clamp(0.01, 2.0)
        far = torch.stack([torch.log(spread), seasonal_ok, torch.log(yearly), yearly_ok], -1)
        summary = self.statics(torch.cat([_statics(x, known, scale, freq, level_hint), far, effects], -1))
        if text is not None:
            summary = summary + self.text(text)
        if static_ids is not None:
            summary = summary + self.categories(static_ids % config.n_static).sum(1)
        seen = known.view(n, n_past, patch).sum(-1) > 0
        always = torch.ones(n, 1 + n_future, dtype=torch.bool, device=x.device)
        return Prepared(
            tokens=features.reshape(n, n_past + n_future, -1),
            summary=summary,
            visible=torch.cat([always[:, :1], seen, always[:, 1:]], 1),
            n_future=n_future,
            scale=scale,
            spread=spread,
            width=self.width[freq],
            values=x,
            known=known,
            options=simple.ahead[:, :horizon],
            allowed=simple.ahead_known[:, :horizon],
        )

    def positions(self, ready: Prepared) -> Tensor:
        """[P, d] the embeddings of the patches' places, counted from the origin."""
        n_past, origin = ready.tokens.shape[1] - ready.n_future, self.config.max_context // self.config.patch
        found: Tensor = self.position(
            torch.arange(origin - n_past, origin + ready.n_future, device=ready.tokens.device)
        )
        return found

    def encode(self, ready: Prepared) -> tuple[Tensor, Tensor]:
        """The transformer: [N, F, patch · outputs] of the horizon's patches, and [N, d] of the statics' token."""
        tokens = ready.tokens
        embedded = self.in_skip(tokens) + self.in2(F.gelu(self.in1(tokens))) + self.positions(ready)
        hidden = torch.cat([ready.summary[:, None], embedded], 1)
        mask = ready.visible[:, None, None, :]
        for number, block in enumerate(self.blocks, 1):
            hidden = block(hidden, mask, ready.n_future if number == len(self.blocks) else None)
        hidden = self.norm(hidden)
        return self.head2(F.gelu(self.head1(hidden[:, 1:]))), hidden[:, 0]

    def conclude(
        self,
        ready: Prepared,
        hidden: Tensor,
        first: Tensor,
        future_cov: Tensor,
        future_values: Tensor | None = None,
        future_mask: Tensor | None = None,
        task: Task = "demand",
    ) -> TrendForecast:
        """From what :meth:`encode` gives to a forecast in the series' units, and the loss where there are targets."""
        config, horizon = self.config, future_cov.shape[1]
        n_levels = len(config.levels)
        out = hidden.reshape(len(hidden), -1, n_levels + 2 + N_SIMPLE)[:, :horizon].float()
        trend = self.trend(first).float()
        no_sale, options = out[..., n_levels + 1], ready.options
        weights = torch.softmax(out[..., n_levels + 2 :] + (ready.allowed - 1) * 30.0, -1)
        base = (weights * torch.asinh(options)).sum(-1)
        residual, middle = out[..., :n_levels], out[..., n_levels // 2, None]
        if any(factor != 1.0 for factor in config.spread):
            residual = middle + (residual - middle) * ready.width[:, None, None]
        scaled = base[..., None] + residual * ready.spread[:, None, None]
        log_mean = out[..., n_levels] + torch.log((weights * options).sum(-1) + 0.1)
        mean = torch.exp(log_mean.clamp(-8.0, 5.0))

        per_sample = None
        if future_values is not None and future_mask is not None:
            known = future_mask.to(scaled.dtype)
            target = future_values * known / ready.scale[:, None]
            steps = pinball_steps(scaled, self.levels, target, ready.spread.detach())
            demand = mean_over(steps + config.mean_weight * poisson_deviance(mean, target), known)
            open_steps = known * (1 - future_cov[..., INDEX["closed"]])
            demand = demand + config.zero_weight * no_sale_loss(no_sale, target, open_steps)
            change = trend_loss(trend, trend_class(ready.values, ready.known, target, known))
            per_sample = {"demand": demand, "trend": change, "all": demand + config.trend_weight * change}[task]
        over = torch.sinh(scaled.clamp(max=LARGEST)).clamp(min=0).sort(-1).values
        return TrendForecast(
            loss=None if per_sample is None else per_sample.mean(),
            quantiles=over * ready.scale[:, None, None],
            mean=mean * ready.scale[:, None],
            loss_per_sample=per_sample,
            no_sale=torch.sigmoid(no_sale),
            trend=torch.softmax(trend, -1),
        )


def _statics(x: Tensor, known: Tensor, scale: Tensor, freq: Tensor, hint: Tensor | None) -> Tensor:
    """[N, 8] what a window is like: level, share of zeros, variation, length, frequency."""
    count = known.sum(1)
    zeros = ((x == 0) * known).sum(1) / count.clamp(min=1)
    variation = (((x - 1) ** 2 * known).sum(1) / count.clamp(min=1)).sqrt()
    one_hot = F.one_hot(freq, 3).to(x.dtype)
    has_hint = torch.zeros_like(scale) if hint is None else (hint > 0).to(scale.dtype)
    columns = [torch.log(scale) / 4, zeros, torch.log1p(variation), torch.log1p(count) / 6, has_hint]
    return torch.cat([torch.stack(columns, -1), one_hot], -1)


class TrendBackbone(Backbone):
    """:class:`TrendModel` behind the common interface."""

    lora_targets = ("q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2", "in1", "in2", "in_skip", "head1", "head2")
    capabilities = Capabilities(covariates=True, text=True, cold_start=True)

    def __init__(self, core: TrendModel, name: str = "trend") -> None:
        super().__init__()
        self.core = core
        self.name = name
        self.max_context = int(core.config.max_context)
        self.max_horizon = int(core.config.max_horizon)
        self.blind_patch = int(core.config.patch)
        self.task: Task = "demand"

    def forward(self, batch: Batch) -> ForecastOutput:
        """See :meth:`Backbone.forward`."""
        out = self.core(
            past_values=batch.past_values,
            past_mask=batch.past_mask,
            past_cov=batch.past_cov,
            future_cov=batch.future_cov,
            freq=batch.freq,
            text=batch.text,
            static_ids=batch.static_ids,
            level_hint=batch.level_hint,
            future_values=batch.future_values,
            future_mask=batch.future_mask,
            task=self.task,
        )
        return ForecastOutput(out.quantiles, out.mean, out.loss_per_sample, out.no_sale, out.trend)

    @property
    def config(self) -> Mapping[str, object]:
        """The transformers configuration as a dictionary."""
        core: Any = self.core
        found: Mapping[str, object] = core.config.to_dict()
        return found


AutoConfig.register("trend", TrendConfig)
AutoModel.register(TrendConfig, TrendModel)
