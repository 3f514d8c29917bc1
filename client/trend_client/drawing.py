"""The windows of a personal model's training: ordinary ones, and ones that look like a launch.

Ordinary windows have at least two weeks of history, so a model that sees them alone learns to read levels off the
history, and what descriptions and categories say is never needed. Launch windows show 0 to 14 steps of history (4
weeks, 3 months), with the level that siblings suggest where there are fewer than four: most at a product's real
launch, the others in the middle of its life with what came before hidden. The level of siblings is that before the
window, never later.

This ties a window to other series, so it is for what never leaves. N windows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trend_client.augment import Augmenter
from trend_client.finetune import FineTuneSettings
from trend_client.memory import rehearsal
from trend_client.siblings import FEW_STEPS, Siblings
from trend_client.training import TrainingData
from trend_common.backbones.base import Batch
from trend_common.windows import MIN_HISTORY

__all__ = ["Drawer", "Launches", "short_context"]

_REAL: Final = 2 / 3
"""Share of launch windows at real launches, which begin as launches do: with a sale, often a large one."""

_NO_HISTORY: Final = 0.5
"""Share of launch windows without a single step of history."""

_NEW_EVERYWHERE: Final = 0.5
"""Share of launch windows whose level is not taken from the same product in another store, as for a new product."""

_PRODUCT: Final = 1
"""Column of the product in a window's static ids."""

Rows = NDArray[np.int64]


class Launches:
    """Windows with little or no history.

    Args:
        data: What may be trained on.
        siblings: Levels of the panel's series.
        held_out: Products of which no window is drawn.
    """

    def __init__(self, data: TrainingData, siblings: Siblings, held_out: frozenset[str] = frozenset()) -> None:
        self._data, self._siblings = data, siblings
        windows = data.windows
        self.longest = MIN_HISTORY[windows.panel.freq]
        free = ~windows.panel.static["product"].isin(held_out).to_numpy()
        known = np.isfinite(windows.history(data.train_end)).any(axis=1)
        # What is there when the calendar begins was launched before it.
        launched = (windows.first > 0) & (windows.first + self.longest < data.train_end)
        self._launched: Rows = np.flatnonzero(launched & known & free)
        running = np.zeros(len(free), dtype=bool)
        running[[int(row) for unit in data.units for row in unit]] = True
        self._running: Rows = np.flatnonzero(running & free)

    def __bool__(self) -> bool:
        return bool(len(self._launched) or len(self._running))

    def draw(self, n: int, rng: np.random.Generator) -> tuple[Rows, Batch]:
        """n windows.

        Returns:
            The series of each window, and the windows with a context of :attr:`longest`.
        """
        windows, end, horizon = self._data.windows, self._data.train_end, self._data.horizon
        real = n if not len(self._running) else round(_REAL * n) if len(self._launched) else 0
        rows = np.concatenate(
            [rng.choice(pool, k) for pool, k in ((self._launched, real), (self._running, n - real)) if k]
        )
        shown = np.where(rng.random(n) < _NO_HISTORY, 0, rng.integers(1, self.longest + 1, n))
        origins = windows.first[rows] + shown
        origins[real:] = windows.draw_origins(rows[real:], end, horizon, rng.random(n - real))
        hints = np.zeros(n, dtype=np.float32)
        everywhere = rng.random(n) < _NEW_EVERYWHERE
        for place in np.flatnonzero(shown < FEW_STEPS):
            hints[place] = self._siblings.hint(
                int(rows[place]), int(origins[place]), new_everywhere=bool(everywhere[place])
            )
        batch = windows.batch(rows, origins, horizon, targets_end=end, level_hint=hints, seen_from=origins - shown)
        # A new product's name means nothing yet, so nothing may be learned from those of others.
        static_ids = batch.static_ids.clone()
        static_ids[:, _PRODUCT] = 0
        return rows, short_context(replace(batch, static_ids=static_ids), self.longest)


class Drawer:
    """Draws the batches of a training step, augmented as the settings say.

    Args:
        data: What may be trained on.
        settings: How.
        rng: Of all draws.
        siblings: Levels of the panel's series; without them no launch window is drawn.
        held_out: Products of which no launch window is drawn.
    """

    def __init__(
        self,
        data: TrainingData,
        settings: FineTuneSettings,
        rng: np.random.Generator,
        *,
        siblings: Siblings | None = None,
        held_out: frozenset[str] = frozenset(),
    ) -> None:
        self._data, self._rng = data, rng
        self._augmenter = Augmenter(settings, data.windows.panel.static["description"].tolist(), rng)
        wanted = settings.cold_start if siblings else 0.0
        self._launches = Launches(data, siblings, held_out) if siblings and wanted else None
        size = min(settings.batch_size, max(data.n_units * 4, 8))
        self._cold = round(size * wanted) if self._launches else 0
        self._replayed = round(size * settings.replay)
        self._warm = max(size - self._cold - self._replayed, 0)
        windows = data.windows
        self._rehearsal = (
            rehearsal(windows.panel.freq, context=windows.context, horizon=data.horizon) if self._replayed else None
        )

    def draw(self) -> list[Batch]:
        """One batch, as parts of equal context; their rows count alike."""
        parts = []
        if self._warm:
            chosen = self._rng.integers(0, self._data.n_units, self._warm)
            parts.append(self._augmenter(*self._data.draw_rows(chosen, 1, self._rng.random)))
        if self._cold:
            assert self._launches is not None
            parts.append(self._augmenter(*self._launches.draw(self._cold, self._rng)))
        if self._rehearsal is not None:
            chosen = self._rng.integers(0, self._rehearsal.n_units, self._replayed)
            parts.append(self._rehearsal.draw(chosen, 1, self._rng.random))
        return parts


def short_context(batch: Batch, steps: int) -> Batch:
    """The windows with no more than the last ``steps`` of their context."""
    return replace(
        batch,
        past_values=batch.past_values[:, -steps:],
        past_mask=batch.past_mask[:, -steps:],
        past_cov=batch.past_cov[:, -steps:],
    )
