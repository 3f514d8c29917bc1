"""Our own backbone: a bidirectional patch encoder that forecasts a whole horizon at once, with known covariates.

The tokens are one for the series' statics, one for each patch of history and one for each patch of the horizon. Each
horizon step is given several simple forecasts: same phase, recent level, last year, last year adjusted for growth,
and same phase corrected for promotions, prices, holidays and the retailer's own columns by a regression within the
window. The head mixes them by a softmax and adds a residual for each quantile, on the scale asinh(value / window
mean), in units of how far values of the same phase lie apart; the loss is stated in the same units, so that a calm
product counts as much as a wild one. A window is scaled by itself alone. Two more heads on the same body give the
probability of no sale and the trend class. Patching follows Nie et al. 2023 (arXiv:2211.14730);
the quantile head trained by the pinball loss is that of direct multi-horizon forecasters such as Chronos-Bolt
(arXiv:2403.07815).
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
from trend_common.covariates import CHANNELS, FREQUENCIES, INDEX, SEASON, YEAR
from trend_common.tasks import TREND_CLASSES, Task, trend_class

__all__ = ["TrendBackbone", "TrendConfig", "TrendForecast", "TrendModel"]

_N_CANDIDATES = 7
_RECENT = {"D": 28, "W": 8, "M": 6}
_YEAR_SMOOTHING = {"D": 7, "W": 1, "M": 1}
_HALF_WIDTH = {"D": 14, "W": 5, "M": 6}
_RESPONSES = ("promo", "log_relative_price", "holiday", "holiday_lead", "own_1", "own_2")
"""Covariates whose effect on a series is estimated within its own window."""
_RIDGE = (1.0, 0.001)
"""Ridge penalty: a constant, and as much again for each thousand known steps."""
_TABLES = {"season": SEASON, "year": YEAR, "recent": _RECENT, "near": _YEAR_SMOOTHING, "smoothing": _HALF_WIDTH}
_CALM = 0.05
"""Added to a window's spread where the loss is divided by it: errors below that share of the mean do not matter."""
_LOSS_SCALE = 0.3
"""About the mean spread, so that the loss keeps the size of one that is not divided."""
_LARGEST = 8.0
"""asinh-scale ceiling of a forecast: about 1,500 times the window's mean."""


class TrendConfig(PretrainedConfig):
    """Configuration of :class:`TrendModel`; ``patch``, ``max_context`` and ``max_horizon`` are in steps."""

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

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [N, tokens, d]; mask [N, 1, 1, tokens] true where a token may be attended to."""
        n, tokens, d = x.shape

        def split(z: Tensor) -> Tensor:
            return z.view(n, tokens, self.heads, d // self.heads).transpose(1, 2)

        y = self.norm1(x)
        mixed = F.scaled_dot_product_attention(
            split(self.q_proj(y)), split(self.k_proj(y)), split(self.v_proj(y)), attn_mask=mask
        )
        x = x + self.o_proj(mixed.transpose(1, 2).reshape(n, tokens, d))
        out: Tensor = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return out


@dataclass(frozen=True)
class _Candidates:
    """Simple forecasts in scaled space: ``values`` and ``known`` are [N, steps, K]."""

    values: Tensor
    known: Tensor


class TrendModel(PreTrainedModel):
    """The network. Use :class:`TrendBackbone` for the common interface."""

    config_class = TrendConfig
    base_model_prefix = "trend"
    main_input_name = "past_values"

    def __init__(self, config: TrendConfig) -> None:
        super().__init__(config)
        d, patch = config.d_model, config.patch
        channels = 2 + 2 * _N_CANDIDATES + config.n_covariates
        self.in1, self.in2 = nn.Linear(patch * channels, d), nn.Linear(d, d)
        self.in_skip = nn.Linear(patch * channels, d)
        self.position = nn.Embedding((config.max_context + config.max_horizon) // patch, d)
        self.statics = nn.Linear(12 + len(_RESPONSES), d)
        self.text = nn.Linear(config.n_text, d, bias=False)
        # The unknown, 0, stays a zero: pretraining sees nothing else and would make it a bias that known ones lack.
        self.categories = nn.Embedding(config.n_static, d, padding_idx=0)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.n_layers)])
        self.norm = nn.LayerNorm(d)
        self.head1 = nn.Linear(d, d)
        self.head2 = nn.Linear(d, patch * (len(config.levels) + 2 + _N_CANDIDATES))
        self.trend = nn.Linear(d, len(TREND_CLASSES))
        self.register_buffer("levels", torch.tensor(config.levels), persistent=False)
        for name, table in _TABLES.items():
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
            for name, table in _TABLES.items():
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
        config, patch = self.config, self.config.patch
        n, horizon = past_values.shape[0], future_cov.shape[1]
        pad_past, pad_future = (-past_values.shape[1]) % patch, (-horizon) % patch
        past_values, past_mask = F.pad(past_values, (pad_past, 0)), F.pad(past_mask, (pad_past, 0))
        past_cov = F.pad(past_cov, (0, 0, pad_past, 0))
        future_cov = F.pad(future_cov, (0, 0, 0, pad_future))
        steps_past, steps_future = past_values.shape[1], future_cov.shape[1]

        known = past_mask.to(past_values.dtype)
        scale = _window_scale(past_values * known, known, level_hint)
        x = past_values * known / scale[:, None]
        has_hint = torch.zeros_like(scale) if level_hint is None else (level_hint > 0).to(scale.dtype)
        effects = self._responses(torch.asinh(x), known, past_cov, freq)
        candidates = self._candidates(x, known, freq, past_cov, future_cov, effects)

        zeros = x.new_zeros(n, steps_future)
        series = torch.stack([torch.cat([torch.asinh(x), zeros], 1), torch.cat([known, zeros], 1)], -1)
        features = torch.cat(
            [series, torch.asinh(candidates.values), candidates.known, torch.cat([past_cov, future_cov], 1)], -1
        )
        tokens = features.reshape(n, (steps_past + steps_future) // patch, -1)
        embedded = self.in_skip(tokens) + self.in2(F.gelu(self.in1(tokens)))
        n_past, n_future = steps_past // patch, steps_future // patch
        origin = config.max_context // patch
        embedded = embedded + self.position(torch.arange(origin - n_past, origin + n_future, device=x.device))

        spread, spread_features = self._spread(x, known, freq)
        summary = self.statics(torch.cat([_statics(x, known, scale, freq, has_hint), spread_features, effects], -1))
        if text is not None:
            summary = summary + self.text(text)
        if static_ids is not None:
            summary = summary + self.categories(static_ids % config.n_static).sum(1)
        hidden = torch.cat([summary[:, None], embedded], 1)
        visible = torch.cat(
            [known.new_ones(n, 1), known.view(n, n_past, patch).amax(-1), known.new_ones(n, n_future)], 1
        )
        mask = (visible > 0)[:, None, None, :]
        for block in self.blocks:
            hidden = block(hidden, mask)
        hidden = self.norm(hidden)
        out = self.head2(F.gelu(self.head1(hidden[:, -n_future:])))
        out = out.reshape(n, steps_future, -1)[:, :horizon].float()
        trend = self.trend(hidden[:, 0]).float()

        n_levels = len(config.levels)
        options = candidates.values[:, steps_past : steps_past + horizon]
        allowed = candidates.known[:, steps_past : steps_past + horizon]
        no_sale = out[..., n_levels + 1]
        weights = torch.softmax(out[..., n_levels + 2 :] + (allowed - 1) * 30.0, -1)
        base = (weights * torch.asinh(options)).sum(-1)
        scaled = base[..., None] + out[..., :n_levels] * spread[:, None, None]
        log_mean = out[..., n_levels] + torch.log((weights * options).sum(-1) + 0.1)
        mean = torch.exp(log_mean.clamp(-8.0, 5.0))

        per_sample = None
        if future_values is not None and future_mask is not None:
            target_known = future_mask.to(scaled.dtype)
            target = future_values * target_known / scale[:, None]
            demand = _loss(scaled, mean, target, target_known, spread, self.levels, config.mean_weight)
            open_days = target_known * (1 - future_cov[:, :horizon, INDEX["closed"]])
            demand = demand + config.zero_weight * _no_sale_loss(no_sale, target, open_days)
            change = _trend_loss(trend, trend_class(x, known, target, target_known))
            per_sample = {"demand": demand, "trend": change, "all": demand + config.trend_weight * change}[task]
        quantiles = torch.sinh(scaled.clamp(max=_LARGEST)).clamp(min=0).sort(-1).values * scale[:, None, None]
        return TrendForecast(
            loss=None if per_sample is None else per_sample.mean(),
            quantiles=quantiles,
            mean=mean * scale[:, None],
            loss_per_sample=per_sample,
            no_sale=torch.sigmoid(no_sale),
            trend=torch.softmax(trend, -1),
        )

    def _responses(self, z: Tensor, known: Tensor, past_cov: Tensor, freq: Tensor) -> Tensor:
        """[N, R] how strongly this series has answered to each of ``_RESPONSES``, on the asinh scale.

        Ridge regression within the window, after a moving average and (daily data) the mean of each weekday have been
        taken from both sides: what a promotion or a price did here before, as a planner would read it off a chart.
        """
        n, steps = z.shape
        if steps == 0:
            return z.new_zeros(n, len(_RESPONSES))
        # Sums of squares over hundreds of steps do not survive bfloat16.
        with torch.autocast(z.device.type, enabled=False):
            weight = known * (1 - past_cov[..., INDEX["closed"]]) * (1 - past_cov[..., INDEX["unavailable"]])
            columns = [past_cov[..., INDEX[name]] for name in _RESPONSES]
            both = torch.stack([z, *columns], -1)
            both = both - _moving_mean(both, weight, self.smoothing[freq])
            # Windows end at the origin and are padded to whole fortnights, so a column of this view is one weekday.
            by_phase, weights = both.view(n, -1, 7, both.shape[-1]), weight.view(n, -1, 7, 1)
            phase_mean = (by_phase * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True).clamp(min=1)
            daily = (freq == 0).to(z.dtype)[:, None, None, None]
            both = (by_phase - daily * phase_mean).reshape(both.shape) * weight[..., None]
            target, design = both[..., :1], both[..., 1:]
            gram = design.transpose(1, 2) @ design
            penalty = _RIDGE[0] + _RIDGE[1] * weight.sum(1)[:, None, None]
            gram = gram + torch.eye(len(_RESPONSES), device=z.device, dtype=gram.dtype) * penalty
            effects: Tensor = torch.linalg.solve(gram, design.transpose(1, 2) @ target)[..., 0]
        return effects.clamp(-4.0, 4.0)

    def _candidates(
        self, x: Tensor, known: Tensor, freq: Tensor, past_cov: Tensor, future_cov: Tensor, effects: Tensor
    ) -> _Candidates:
        """Simple forecasts for each step; for history, what they would have been a season or a year before."""
        n, steps = x.shape
        steps_future = future_cov.shape[1]
        season, year = self.season[freq][:, None], self.year[freq][:, None]
        recent, near = self.recent[freq][:, None], self.near[freq][:, None]
        ahead = torch.arange(steps_future, device=x.device)[None]

        def gather(index: Tensor) -> tuple[Tensor, Tensor]:
            inside = (index >= 0) & (index < steps)
            flat = index.clamp(0, max(steps - 1, 0)).reshape(n, -1)
            if steps == 0:
                empty = x.new_zeros(index.shape)
                return empty, empty
            value = torch.gather(x, 1, flat).view(index.shape) * inside
            return value, torch.gather(known, 1, flat).view(index.shape) * inside

        def mean_of(index: Tensor) -> tuple[Tensor, Tensor]:
            value, ok = gather(index)
            count = ok.sum(-1)
            return (value * ok).sum(-1) / count.clamp(min=1), count

        back = torch.arange(8, device=x.device)
        phase = steps - season + (ahead % season)
        same_phase = phase[..., None] - season[..., None] * back
        phase4, count4 = mean_of(same_phase[..., :4])
        phase8, count8 = mean_of(same_phase)
        day = torch.arange(steps, device=x.device)[None]
        in_recent = known * (day >= steps - recent)
        level_count = in_recent.sum(1)
        overall = (x * known).sum(1) / known.sum(1).clamp(min=1)
        level = torch.where(level_count > 0, (x * in_recent).sum(1) / level_count.clamp(min=1), overall)
        years = torch.arange(1, 4, device=x.device)
        last_year = steps + ahead - year * (1 + (ahead // year))
        exact, exact_count = mean_of(last_year[..., None] - year[..., None] * (years - 1))
        around = torch.tensor([-1, 0, 1], device=x.device)
        smooth, smooth_count = mean_of(last_year[..., None] + near[..., None] * around)
        # Growth since last year: the recent level over the level one year before it.
        in_old = known * (day >= steps - recent - year) * (day < steps - year)
        old_count = in_old.sum(1)
        old_level = (x * in_old).sum(1) / old_count.clamp(min=1)
        growth = torch.where((old_count > 0) & (old_level > 0.02), level / old_level.clamp(min=0.02), x.new_ones(n))
        adjusted = smooth * growth.clamp(0.25, 4.0)[:, None]
        nothing = (known.sum(1) == 0).to(x.dtype)
        # With no history at all the scale itself is the best guess: 1 in scaled space.
        flat = torch.where(nothing > 0, torch.ones_like(level), level)[:, None].expand(n, steps_future)
        # The same weekdays again, but with what is known of the days ahead: promotion, price, holiday.
        columns = [INDEX[name] for name in _RESPONSES]
        impulse = (future_cov[..., columns] * effects[:, None]).sum(-1)
        if steps:
            past_impulse = (past_cov[..., columns] * effects[:, None]).sum(-1)
            index = same_phase[..., :4]
            flat_index = index.clamp(0, steps - 1).expand(n, -1, -1).reshape(n, -1)
            counted = gather(index)[1]
            reference = torch.gather(past_impulse, 1, flat_index).view(counted.shape)
            impulse = impulse - (reference * counted).sum(-1) / counted.sum(-1).clamp(min=1)
        informed = torch.sinh((torch.asinh(phase4) + impulse).clamp(max=_LARGEST)).clamp(min=0)
        values = torch.stack([phase4, phase8, flat, exact, smooth, adjusted, informed], -1)
        full, yearly = torch.full_like(count4, 4.0), smooth_count * 1.3
        ok = torch.stack([count4, count8 / 2, full, exact_count * 4, yearly, yearly, count4], -1)
        ok = (ok / 4).clamp(max=1)
        previous, previous_ok = gather(day - season)
        before, before_ok = gather(day - year)
        blank = torch.zeros_like(previous)
        past_values = torch.stack([previous, blank, blank, before, blank, blank, blank], -1)
        past_known = torch.stack([previous_ok, blank, blank, before_ok, blank, blank, blank], -1)
        return _Candidates(torch.cat([past_values, values], 1), torch.cat([past_known, (ok > 0).to(x.dtype)], 1))

    def _spread(self, x: Tensor, known: Tensor, freq: Tensor) -> tuple[Tensor, Tensor]:
        """How far values of the same phase lie apart: the unit in which the head states its quantiles.

        Returns:
            [N] the mean absolute difference on the asinh scale to the value one season before (0.5 with fewer than 3
            pairs), and [N, 4] features of it and of the same to the value one year before.
        """
        z, steps = torch.asinh(x), x.shape[1]
        day = torch.arange(steps, device=x.device)[None]
        found = []
        for lag in (self.season[freq], self.year[freq]):
            index = day - lag[:, None]
            pair = known * torch.gather(known, 1, index.clamp(min=0)) * (index >= 0)
            difference = (z - torch.gather(z, 1, index.clamp(min=0))).abs() * pair
            count = pair.sum(1)
            mean = difference.sum(1) / count.clamp(min=1)
            found.append((torch.where(count >= 3, mean, torch.full_like(mean, 0.5)), (count >= 3).to(x.dtype)))
        (seasonal, seasonal_ok), (yearly, yearly_ok) = found
        spread = seasonal.clamp(0.01, 2.0)
        features = [torch.log(spread), seasonal_ok, torch.log(yearly.clamp(0.01, 2.0)), yearly_ok]
        return spread, torch.stack(features, -1)


def _moving_mean(values: Tensor, weight: Tensor, half: Tensor) -> Tensor:
    """[N, T, F] centred weighted mean over 2 · ``half`` + 1 steps, ``half`` [N] by window."""
    steps = values.shape[1]
    weighted = torch.cat([values * weight[..., None], weight[..., None]], -1)
    total = F.pad(torch.cumsum(weighted, 1), (0, 0, 1, 0))
    step = torch.arange(steps, device=values.device)[None]
    high = (step + half[:, None] + 1).clamp(max=steps)[..., None].expand(-1, -1, total.shape[-1])
    low = (step - half[:, None]).clamp(min=0)[..., None].expand(-1, -1, total.shape[-1])
    inside = torch.gather(total, 1, high) - torch.gather(total, 1, low)
    return inside[..., :-1] / inside[..., -1:].clamp(min=1)


def _window_scale(values: Tensor, known: Tensor, level_hint: Tensor | None) -> Tensor:
    """[N] the mean of the known values, shrunk to a hint by one pseudo-value; at least a small positive number."""
    total, count = values.abs().sum(1), known.sum(1)
    if level_hint is None:
        scale = total / count.clamp(min=1)
    else:
        has = (level_hint > 0).to(values.dtype)
        scale = (total + has * level_hint) / (count + has).clamp(min=1)
    return torch.where(scale > 0, scale, torch.full_like(scale, 0.05)).clamp(min=1e-4)


def _statics(x: Tensor, known: Tensor, scale: Tensor, freq: Tensor, has_hint: Tensor) -> Tensor:
    """[N, 8] what a window is like: level, share of zeros, variation, length, frequency."""
    count = known.sum(1)
    zeros = ((x == 0) * known).sum(1) / count.clamp(min=1)
    variation = (((x - 1) ** 2 * known).sum(1) / count.clamp(min=1)).sqrt()
    one_hot = F.one_hot(freq, 3).to(x.dtype)
    columns = [torch.log(scale) / 4, zeros, torch.log1p(variation), torch.log1p(count) / 6, has_hint]
    return torch.cat([torch.stack(columns, -1), one_hot], -1)


def _loss(
    scaled: Tensor, mean: Tensor, target: Tensor, known: Tensor, spread: Tensor, levels: Tensor, mean_weight: float
) -> Tensor:
    """[N] pinball loss on the asinh scale in units of ``spread``, plus a Poisson deviance for the mean."""
    error = torch.asinh(target)[..., None] - scaled
    pinball = 2 * torch.maximum(levels * error, (levels - 1) * error).mean(-1)
    pinball = pinball * (_LOSS_SCALE / (spread.detach() + _CALM))[:, None]
    y = target.clamp(0, 20)
    deviance = mean - y * torch.log(mean) - (y - y * torch.log(y.clamp(min=1e-4)))
    return ((pinball + mean_weight * deviance) * known).sum(1) / known.sum(1).clamp(min=1)


def _no_sale_loss(logit: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """[N] cross-entropy of whether nothing is sold, over known open steps."""
    found = F.binary_cross_entropy_with_logits(logit, (target <= 0).to(logit.dtype), reduction="none")
    return (found * known).sum(1) / known.sum(1).clamp(min=1)


def _trend_loss(logits: Tensor, label: Tensor) -> Tensor:
    """[N] cross-entropy of the trend class; 0 where there is no label."""
    found = F.cross_entropy(logits, label.clamp(min=0), reduction="none")
    return found * (label >= 0).to(found.dtype)


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
