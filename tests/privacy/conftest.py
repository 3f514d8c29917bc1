"""A forecaster of a few hundred weights with the parts that matter: attention, norms, a LoRA on linear layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

torch.set_num_threads(1)

TOKENS, PATCH, HORIZON, WIDTH = 4, 3, 2, 8


@dataclass(frozen=True)
class TinyBatch:
    """past [N, TOKENS · PATCH], future [N, HORIZON], kind [N] int64."""

    past: Tensor
    future: Tensor
    kind: Tensor

    def rows(self, index: Tensor | slice) -> TinyBatch:
        return TinyBatch(self.past[index], self.future[index], self.kind[index])


@dataclass(frozen=True)
class TinyOutput:
    loss_per_sample: Tensor


class TinyForecaster(nn.Module):
    """One transformer layer; ``mix_rows`` breaks it as a model does that attends across the batch."""

    def __init__(self, mix_rows: bool = False) -> None:
        super().__init__()
        self.mix_rows = mix_rows
        self.embed = nn.Linear(PATCH, WIDTH)
        self.kinds = nn.Embedding(3, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.fc1, self.fc2 = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.head = nn.Linear(TOKENS * WIDTH, HORIZON)

    def forward(self, batch: TinyBatch) -> TinyOutput:
        x = self.embed(batch.past.reshape(-1, TOKENS, PATCH)) + self.kinds(batch.kind)[:, None]
        y = self.norm(x)
        q, k, v = self.q_proj(y), self.k_proj(y), self.v_proj(y)
        if self.mix_rows:
            q, k, v = (t.transpose(0, 1) for t in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v)
        x = x + (mixed.transpose(0, 1) if self.mix_rows else mixed)
        x = x + self.fc2(F.gelu(self.fc1(self.norm(x))))
        return TinyOutput((self.head(x.flatten(1)) - batch.future).square().mean(dim=1))


ModelFactory = Callable[..., nn.Module]
BatchFactory = Callable[[int], TinyBatch]


@pytest.fixture
def make_model() -> ModelFactory:
    """Build the forecaster with a LoRA on ``targets``; ``train`` "B" freezes A."""

    def make(
        *,
        train: str = "AB",
        targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "fc1", "fc2"),
        mix_rows: bool = False,
        seed: int = 0,
        dora: bool = False,
    ) -> nn.Module:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(seed)
        base = TinyForecaster(mix_rows=mix_rows)
        config = LoraConfig(r=2, lora_alpha=2, target_modules=list(targets), lora_dropout=0.0, use_dora=dora)
        model: nn.Module = get_peft_model(base, config)  # type: ignore[arg-type, unused-ignore]
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.1)
            if train == "B" and "lora_A" in name:
                parameter.requires_grad_(False)
        return model.eval()

    return make


@pytest.fixture
def make_batch() -> BatchFactory:
    """Rows → a new random batch; successive calls differ, successive tests do not."""
    generator = torch.Generator().manual_seed(1)

    def make(rows: int) -> TinyBatch:
        return TinyBatch(
            torch.randn(rows, TOKENS * PATCH, generator=generator),
            torch.randn(rows, HORIZON, generator=generator),
            torch.randint(0, 3, (rows,), generator=generator),
        )

    return make
