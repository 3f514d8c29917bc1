"""The part of a personal model for products without history.

It is trained on windows that look like a launch alone, some hundred short steps, from wherever the personal model
starts. A tenth of the products is held out: how good the part is there decides how long it is trained, and whether it
is kept at all. Products that were trained on would not tell, since their very words are known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray

from trend_client.drawing import short_context
from trend_client.finetune import FineTuneSettings, LaunchSettings
from trend_client.siblings import Siblings
from trend_client.training import TrainingData
from trend_common.backbones.base import LEVELS, Backbone, Batch
from trend_common.forecasts import Forecast
from trend_common.metrics import wql
from trend_common.windows import MIN_HISTORY

if TYPE_CHECKING:
    from trend_client.engine import Engine

__all__ = ["Exam", "exam", "hold_out", "launch_run"]

_HELD_OUT: Final = 0.1
_FEWEST_HELD_OUT: Final = 8
_FEWEST_PRODUCTS: Final = 24
"""Products below which nothing can be learned of words, or judged."""

_FEWEST_LAUNCHES: Final = 10
"""Real launches of products held out from which on those alone are looked at."""

_NAME: Final = "window {}"


def launch_run(settings: LaunchSettings) -> FineTuneSettings:
    """The run that trains this part."""
    return FineTuneSettings(
        words=settings.words,
        words_rate=settings.words_rate,
        learning_rate=settings.learning_rate,
        steps=settings.steps,
        batch_size=settings.batch_size,
        synonyms=settings.synonyms,
        look_every=settings.look_every,
        cold_start=1.0,
        schedule="linear",
        patience=settings.patience,
    )


def hold_out(products: Sequence[str]) -> frozenset[str]:
    """A tenth of the products, by a hash of their names: the same at every run. Empty where there are too few."""
    names = sorted(set(products), key=lambda name: hashlib.sha256(f"launch:{name}".encode()).digest())
    if len(names) < _FEWEST_PRODUCTS:
        return frozenset()
    return frozenset(names[: max(round(_HELD_OUT * len(names)), _FEWEST_HELD_OUT)])


@dataclass(frozen=True, eq=False)
class Exam:
    """Windows of products held out, shown without history, and what came to pass there.

    Attributes:
        batch: N windows.
        actuals: [N, H], NaN where unknown.
    """

    batch: Batch
    actuals: NDArray[np.float64]

    def measure(self, engine: Engine) -> float:
        """The weighted quantile loss of the model as it is; lower is better."""
        return wql(self.actuals, _forecast(engine.backbone, self.batch.to(engine.device)))


def exam(data: TrainingData, siblings: Siblings, held_out: frozenset[str], *, validation: int) -> Exam | None:
    """The exam: real launches of products held out, or, if those are few, their windows at ``validation`` as well.

    Args:
        data: The series; nothing on or after ``validation`` + H is looked at.
        siblings: Their levels.
        held_out: Products that are not trained on.
        validation: First step of the validation horizon.

    Returns:
        None where nothing can be judged.
    """
    windows, horizon = data.windows, data.horizon
    end = validation + horizon
    products = windows.panel.static["product"].to_numpy()
    rows = np.flatnonzero([product in held_out for product in products])
    first = windows.first[rows]
    launched = (first > 0) & (first <= validation)
    running = first + MIN_HISTORY[windows.panel.freq] <= validation
    chosen, origins = rows[launched], first[launched]
    if len(chosen) < _FEWEST_LAUNCHES:
        chosen = np.concatenate([chosen, rows[running]])
        origins = np.concatenate([origins, np.full(int(running.sum()), validation)])
    hints = np.array(
        [
            siblings.hint(int(row), int(origin), new_everywhere=True)
            for row, origin in zip(chosen, origins, strict=True)
        ],
        dtype=np.float32,
    )
    if not len(chosen):
        return None
    batch = short_context(
        windows.batch(chosen, origins, horizon, targets_end=end, level_hint=hints, seen_from=origins),
        MIN_HISTORY[windows.panel.freq],
    )
    assert batch.future_values is not None
    assert batch.future_mask is not None
    actuals = np.where(batch.future_mask.numpy() > 0, batch.future_values.numpy().astype(np.float64), np.nan)
    return Exam(batch, actuals) if np.nansum(actuals) > 0 else None


def _forecast(backbone: Backbone, batch: Batch) -> Forecast:
    with torch.inference_mode():
        out = backbone(batch)
    steps = np.arange(out.mean.shape[1]).astype("datetime64[D]")
    return Forecast.repaired(
        tuple(_NAME.format(row) for row in range(len(batch))),
        steps,
        out.quantiles.cpu().numpy(),
        out.mean.cpu().numpy(),
        levels=LEVELS,
    )
