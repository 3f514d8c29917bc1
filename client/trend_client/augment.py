"""Other views of one window: another level or swing, less to go by, other words, and the worst small change.

Every view of a window is made from that window and from random numbers alone; no row of a batch looks at another.
N windows, L context steps, H horizon steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trend_client.finetune import FineTuneSettings
from trend_common.backbones.base import Batch
from trend_common.covariates import INDEX
from trend_common.synonyms import paraphrase
from trend_common.windows import description_bytes, text_features

__all__ = ["GROUPS", "Augmenter", "adversarial"]

GROUPS: Final = {
    "promotion": ("promo", "promo_known"),
    "price": ("log_relative_price", "price_known"),
    "holidays": ("holiday", "holiday_lead", "holiday_known"),
    "own 1": ("own_1", "own_1_known"),
    "own 2": ("own_2", "own_2_known"),
}
"""Covariates that are known or unknown together, each with its flag."""


class Augmenter:
    """Makes random views of windows.

    Args:
        settings: Which, and how strong.
        descriptions: [S] of all series.
        rng: Of the draws.
    """

    def __init__(self, settings: FineTuneSettings, descriptions: Sequence[str], rng: np.random.Generator) -> None:
        self._settings, self._descriptions, self._rng = settings, descriptions, rng

    def __call__(self, rows: NDArray[np.int64], batch: Batch) -> Batch:
        """A view of each window.

        Args:
            rows: [N] series of the windows.
            batch: The windows.
        """
        settings = self._settings
        if settings.jitter_level or settings.jitter_scale:
            batch = self._jitter(batch)
        if settings.drop_covariates:
            batch = self._drop(batch)
        if settings.synonyms:
            batch = self._reword(rows, batch)
        return batch

    def _jitter(self, batch: Batch) -> Batch:
        """Past, future and expected level by one factor; swings around the past's mean by another."""
        settings, n = self._settings, len(batch)
        draws = self._rng.standard_normal((2, n))
        level = torch.from_numpy(np.exp(settings.jitter_level * draws[0]).astype(np.float32))[:, None]
        swing = torch.from_numpy(np.exp(settings.jitter_scale * draws[1]).astype(np.float32))[:, None]
        count = batch.past_mask.sum(1, keepdim=True)
        centre = (batch.past_values * batch.past_mask).sum(1, keepdim=True) / count.clamp(min=1)
        swing = torch.where(count > 0, swing, torch.ones_like(swing))

        def moved(values: Tensor, mask: Tensor) -> Tensor:
            # What was not sold stays so: a jittered zero would be a sale.
            wide = (centre + swing * (values - centre)).clamp(min=0) * (values > 0)
            return level * wide * mask

        future = batch.future_values
        if future is not None and batch.future_mask is not None:
            future = moved(future, batch.future_mask)
        return replace(
            batch,
            past_values=moved(batch.past_values, batch.past_mask),
            future_values=future,
            level_hint=batch.level_hint * level[:, 0],
        )

    def _drop(self, batch: Batch) -> Batch:
        """A window without a group of covariates, past and future, and with flags that say so."""
        past, future = batch.past_cov.clone(), batch.future_cov.clone()
        for names in GROUPS.values():
            gone = torch.from_numpy(self._rng.random(len(batch)) < self._settings.drop_covariates)
            channels = [INDEX[name] for name in names if name in INDEX]
            for cov in (past, future):
                kept = cov[..., channels] * (~gone)[:, None, None]
                cov[..., channels] = kept
        return replace(batch, past_cov=past, future_cov=future)

    def _reword(self, rows: NDArray[np.int64], batch: Batch) -> Batch:
        # A generator for each row: how many draws one description takes must not move those of the next.
        seeds = self._rng.integers(0, 1 << 62, len(rows))
        texts = [
            paraphrase(self._descriptions[row], self._settings.synonyms, np.random.default_rng(seed))
            for row, seed in zip(rows, seeds, strict=True)
        ]
        text = torch.from_numpy(text_features(texts, batch.text.shape[1])).to(batch.text)
        description = batch.description
        if description is not None:
            description = torch.from_numpy(description_bytes(texts, description.shape[1]).copy()).to(description)
        return replace(batch, text=text, description=description)


def adversarial(batch: Batch, losses: Callable[[Batch], Tensor], size: float) -> Batch:
    """The windows, each moved in its text and its known past values to where its own loss grows fastest.

    Args:
        batch: The windows.
        losses: Windows → [N] losses, of which row i depends on window i alone.
        size: Length of the change relative to that of what is changed.
    """
    text = batch.text.detach().clone().requires_grad_(True)
    past = batch.past_values.detach().clone().requires_grad_(True)
    total = losses(replace(batch, text=text, past_values=past)).sum()
    found = torch.autograd.grad(total, [text, past], allow_unused=True)

    def moved(values: Tensor, gradient: Tensor | None, mask: Tensor | float) -> Tensor:
        if gradient is None:
            return values.detach()
        gradient = torch.nan_to_num(gradient) * mask
        norm = gradient.norm(dim=1, keepdim=True)
        direction = gradient / norm.clamp(min=1e-20)
        found: Tensor = values + size * values.norm(dim=1, keepdim=True) * direction
        return found.detach()

    return replace(
        batch,
        text=moved(text, found[0], 1.0),
        past_values=moved(past, found[1], batch.past_mask).clamp(min=0),
    )
