"""Half precision for the large frozen matrices of a core, and for nothing else.

The weights of its linear layers and of its large embeddings are stored in two bytes, and the matrix products are
computed so; what flows between the layers, the norms, our own layers, the LoRA and the loss stay float32. So
per-series gradients and their norms are float32 (in bfloat16 a clipped norm reaches 1.007·C), at half the memory.
"""

from __future__ import annotations

from typing import Any, Final, Literal, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

__all__ = ["PRECISIONS", "Precision", "narrow"]

Precision = Literal["float32", "bfloat16", "float16"]

PRECISIONS: Final[dict[Precision, torch.dtype]] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

_LARGE_TABLE: Final = 1024
"""Rows from which on an embedding is worth narrowing."""


def narrow(body: nn.Module, precision: Precision) -> None:
    """Store and multiply the large matrices of ``body`` in ``precision``, in place; "float32" changes nothing."""
    dtype = PRECISIONS[precision]
    if dtype == torch.float32:
        return
    for module in body.modules():
        table = isinstance(module, nn.Embedding) and module.num_embeddings >= _LARGE_TABLE
        if table or isinstance(module, nn.Linear | Conv1D):
            module.to(dtype)
            module.register_forward_pre_hook(_to_weight)
            module.register_forward_hook(_to_float32)


def _to_weight(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    dtype = cast(Tensor, module.weight).dtype
    return tuple(a.to(dtype) if isinstance(a, Tensor) and a.is_floating_point() else a for a in args)


def _to_float32(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor:
    return output.float()
