"""Random windows for self-tests and examples: the shapes of real ones, and nobody's data."""

from __future__ import annotations

import numpy as np
import torch

from trend_common.backbones.base import Batch
from trend_common.covariates import CHANNELS, FREQUENCIES

__all__ = ["random_batch"]

_N_TEXT = 256
_N_BYTES = 24


def random_batch(
    rows: int, *, context: int, horizon: int, freq: str = "D", seed: int | None = None, ragged: bool = True
) -> Batch:
    """Random sales with targets.

    Args:
        rows: N.
        context, horizon: L and H.
        freq: "D", "W" or "M".
        seed: Of the draw; None takes one from the operating system.
        ragged: Let histories begin at different steps and have holes, one of them empty.

    Returns:
        A batch whose rows were drawn independently of each other.
    """
    rng = np.random.default_rng(seed)
    level = np.exp(rng.normal(2.0, 1.0, (rows, 1)))
    season = 1 + 0.5 * np.sin(2 * np.pi * (np.arange(context + horizon) % 7) / 7)
    values = rng.poisson(level * season).astype(np.float32)
    known = np.ones_like(values)
    if ragged:
        start = rng.integers(0, context, (rows, 1))
        known *= np.arange(context + horizon)[None] >= start
        known *= rng.random(values.shape) > 0.05
        known[:, context] = 1  # every window keeps a target
        if rows > 1:
            known[rows - 1, :context] = 0
    covariates = rng.normal(0, 0.5, (rows, context + horizon, len(CHANNELS))).astype(np.float32)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(v, dtype=np.float32)) for name, v in {
        "past_values": (values * known)[:, :context],
        "past_mask": known[:, :context],
        "past_cov": covariates[:, :context],
        "future_cov": covariates[:, context:],
        "text": rng.normal(0, 0.1, (rows, _N_TEXT)),
        "level_hint": np.zeros(rows),
        "future_values": (values * known)[:, context:],
        "future_mask": known[:, context:],
    }.items()}  # fmt: skip
    words = rng.choice(np.frombuffer(b"abcdefgh ", dtype=np.uint8), (rows, _N_BYTES))
    return Batch(
        description=torch.from_numpy(words * (np.arange(_N_BYTES) < rng.integers(0, _N_BYTES, (rows, 1)))),
        freq=torch.full((rows,), FREQUENCIES.index(freq), dtype=torch.int64),
        static_ids=torch.from_numpy(rng.integers(0, 512, (rows, 3))),
        **tensors,
    )
