"""A language model as a forecaster: GPT-2, BERT, and decoders of the Llama and Qwen kind.

The description's tokens, patches of history and queries for patches of the horizon are one sequence of embeddings,
and the hidden states of the queries go to a quantile head, much as in GPT4TS (arXiv:2302.11939). Numbers are never
written out as text, which would cost tokens and lose their scale. Adapters sit on the core's attention and on our own
layers.

The order is: summary of the window, description, history, queries. A causal core reads it so that every state that
matters sees the past, and the first token is always there, so that no row attends to nothing. Positions are counted
from the forecast origin, so that a patch keeps its position whatever the length of the context.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer
from transformers.utils import cached_file

from trend_common.backbones.base import Batch, Capabilities, ForecastOutput
from trend_common.backbones.foreign import ForeignNetwork, Settings
from trend_common.backbones.heads import PatchHead, steps_to_patches
from trend_common.backbones.scaling import ScaledWindow
from trend_common.errors import UsageError
from trend_common.tasks import Task

__all__ = ["TEXT_MODELS", "TextNetwork"]

_SUMMARY: Final = 8
_VOCABULARIES: Final = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model")

TEXT_MODELS: Final[Mapping[str, tuple[str, ...]]] = {
    "gpt2": ("c_attn",),
    "bert": ("query", "value"),
    "llama": ("q_proj", "v_proj"),
    "mistral": ("q_proj", "v_proj"),
    "qwen2": ("q_proj", "v_proj"),
    "qwen3": ("q_proj", "v_proj"),
}
"""Model types with the linear layers of their attention that carry adapters."""

_OWN_TARGETS: Final = ("history", "query_in", "head1", "head2")


class TextNetwork(ForeignNetwork):
    """See the module.

    Args:
        body: A model of one of :data:`TEXT_MODELS`.
        settings: Shape of our layers.
        tokenizer: Of the core; None reads no description tokens.
    """

    family = "text"
    capabilities = Capabilities(covariates=True, text=True, cold_start=True)
    tasks = ("demand", "trend", "all")
    random_heads = True

    def __init__(self, body: nn.Module, settings: Settings, tokenizer: Any = None) -> None:
        super().__init__(body, settings)
        width = int(self.body.config.hidden_size)
        channels = settings.patch * (2 + settings.n_covariates)
        embedded = int(self.body.get_input_embeddings().num_embeddings)
        if tokenizer is not None and len(tokenizer) > embedded:
            raise UsageError(
                f"The tokenizer knows {len(tokenizer)} tokens; the core embeds {embedded}.",
                "They are not of one model: put the core's own tokenizer files beside it, or none.",
            )
        self.tokenizer = tokenizer
        self.history, self.query_in = nn.Linear(channels, width), nn.Linear(channels, width)
        self.summary = nn.Linear(_SUMMARY + settings.n_text, width)
        self.norm = nn.LayerNorm(width)
        # Embeddings of the size that the core is used to.
        with torch.no_grad():
            self.norm.weight.fill_(float(self.body.get_input_embeddings().weight.float().std()))
        self.head = PatchHead(width, settings.patch, settings.levels)
        self._token_cache: dict[bytes, list[int]] = {}

    @classmethod
    def body_class(cls, config: Any) -> Any:
        """See :meth:`ForeignNetwork.body_class`."""
        return AutoModel

    @classmethod
    def body_options(cls, config: Any) -> dict[str, Any]:
        """BERT's pooler is not used, and not every checkpoint holds one."""
        return {"add_pooling_layer": False} if config.model_type == "bert" else {}

    @classmethod
    def load_extras(cls, folder: str | Path, **options: Any) -> dict[str, Any]:
        """The tokenizer, where there is one."""
        asked = {**options, "_raise_exceptions_for_missing_entries": False}
        # Without its files transformers makes up a tokenizer that knows no word.
        if all(cached_file(str(folder), name, **asked) is None for name in _VOCABULARIES):
            return {"tokenizer": None}
        return {"tokenizer": AutoTokenizer.from_pretrained(folder, **options)}

    def save_extras(self, folder: Path) -> None:
        """The tokenizer's files."""
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)

    def identity(self) -> dict[str, object]:
        """The tokenizer's vocabulary: with another one the same weights read other words."""
        if self.tokenizer is None:
            return {"tokenizer": None}
        vocabulary = json.dumps(sorted(self.tokenizer.get_vocab().items()))
        return {"tokenizer": hashlib.sha256(vocabulary.encode()).hexdigest()}

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """Attention of the core, and our own layers."""
        return (*TEXT_MODELS[self.body.config.model_type], *_OWN_TARGETS)

    @property
    def max_context(self) -> int:
        """What is left of the core's positions, in whole patches."""
        settings = self.settings
        positions = int(getattr(self.body.config, "max_position_embeddings", 0) or 1 << 30)
        free = positions - 1 - settings.n_tokens - -(-settings.max_horizon // settings.patch)
        return max(0, min(settings.max_context // settings.patch, free)) * settings.patch

    def forward(self, batch: Batch, task: Task = "demand") -> ForecastOutput:
        """See :meth:`ForeignNetwork.forward`."""
        settings, window = self.settings, ScaledWindow.of(batch)
        n = len(batch)
        past = torch.cat([torch.stack([torch.asinh(window.values), window.known], -1), batch.past_cov], -1)
        has_base = window.known.amax(1, keepdim=True) if past.shape[1] else window.known.new_zeros(n, 1)
        base = torch.stack([window.base, has_base.expand_as(window.base)], -1)
        future = torch.cat([base, batch.future_cov], -1)
        history = self.history(steps_to_patches(past, settings.patch, front=True))
        queries = self.query_in(steps_to_patches(future, settings.patch, front=False))
        visible = steps_to_patches(window.known[..., None], settings.patch, front=True).amax(-1)
        summary = self.summary(torch.cat([window.summary(batch), batch.text], -1))[:, None]
        parts = [self.norm(summary), self.norm(history), self.norm(queries)]
        masks = [visible.new_ones(n, 1), visible, visible.new_ones(n, queries.shape[1])]
        tokens, token_mask = self._tokens(batch)
        if tokens is not None and token_mask is not None:
            embedded = self.body.get_input_embeddings()(tokens)
            parts.insert(1, embedded.to(self.levels.dtype))
            masks.insert(1, token_mask)
        embeddings, mask = torch.cat(parts, 1), torch.cat(masks, 1)
        origin = 1 + settings.n_tokens + self.max_context // settings.patch
        behind = embeddings.shape[1] - 1 - queries.shape[1]
        position = torch.arange(origin - behind, origin + queries.shape[1], device=mask.device)
        position = torch.cat([position.new_zeros(1), position])[None].expand(n, -1)
        hidden = self.body(
            inputs_embeds=embeddings, attention_mask=mask.long(), position_ids=position
        ).last_hidden_state[:, -queries.shape[1] :]
        found: ForecastOutput = self.head(hidden.to(self.levels.dtype), batch, window, self.levels, task)
        return found

    def _tokens(self, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
        """[N, K] ids and mask of the descriptions, at the right end of the K places; None without any."""
        if self.tokenizer is None or batch.description is None:
            return None, None
        size = self.settings.n_tokens
        ids = torch.zeros(len(batch), size, dtype=torch.int64)
        mask = torch.zeros(len(batch), size)
        for row, text in enumerate(batch.description.cpu().numpy()):
            found = self._ids(text.tobytes().rstrip(b"\0"))[:size]
            if found:
                ids[row, -len(found) :] = torch.tensor(found)
                mask[row, -len(found) :] = 1
        return ids.to(batch.past_values.device), mask.to(batch.past_values.device)

    def _ids(self, text: bytes) -> list[int]:
        if text not in self._token_cache:
            if len(self._token_cache) > 100_000:
                self._token_cache.clear()
            words = text.decode("utf-8", errors="ignore").strip()
            self._token_cache[text] = self.tokenizer.encode(words, add_special_tokens=False) if words else []
        return self._token_cache[text]
