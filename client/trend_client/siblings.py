"""What level to expect of a series without history: that of the products most like it.

In order: the same product in the retailer's other stores, the ten products of the same store whose descriptions are
nearest, the same category, the store. A level counts relative to its store's mean, since a product that sells a
hundred a day in a flagship does not do so in a kiosk.

This looks across series, so it is for the owner's own forecasts and personal model, and never for private training.
S series, T steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_common.windows import LEVEL_STEPS, MIN_HISTORY, PanelWindows, text_features

__all__ = ["FEW_STEPS", "Peers", "Siblings", "level_hints"]

FEW_STEPS: Final = 4
"""Known values below which a series has a level from its siblings."""

_NEAREST: Final = 10
_FEWEST_OF_A_STORE: Final = 3
"""Levels from which on a store has a mean of its own; below it the mean of all stores is taken."""

_FLOOR: Final = 0.1
"""Share of the store's mean that is added to levels before their geometric mean, so that one zero is not the mean."""

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Peers:
    """The series that a level was taken from.

    Attributes:
        reason: "other stores", "description", "category", "store" or "all".
        rows: [P] series, most alike first where that is known.
        levels: [P] their levels, as they would be in the store of the one that is asked for.
        likeness: [P] cosine of the descriptions; 1 for the same product, 0 where words played no part.
    """

    reason: str
    rows: NDArray[np.int64]
    levels: Array
    likeness: Array


class Siblings:
    """The levels of a panel's series at any origin, and from them what to expect of a series without history.

    Args:
        windows: The panel's windows.
    """

    def __init__(self, windows: PanelWindows) -> None:
        values = windows.history(windows.n_steps)
        known = np.isfinite(values)
        zero = np.zeros((len(values), 1))
        self._values = np.concatenate([zero, np.cumsum(np.where(known, values, 0.0), axis=1)], axis=1)
        self._known = np.concatenate([zero, np.cumsum(known, axis=1)], axis=1)
        self._steps = LEVEL_STEPS[windows.panel.freq]
        self._ordinary = MIN_HISTORY[windows.panel.freq]
        static = windows.panel.static
        self._descriptions: Sequence[str] = static["description"].tolist()
        self._product, _ = pd.factorize(static["product"])
        self._store, stores = pd.factorize(static["store"])
        self._n_stores = len(stores)
        self._category = pd.factorize(static["category"].replace("", None), use_na_sentinel=True)[0]

    @cached_property
    def _text(self) -> NDArray[np.float32]:
        return text_features(self._descriptions)

    def few(self, origin: int) -> NDArray[np.bool_]:
        """[S] whether a series has almost no history before ``origin``."""
        return np.asarray(self._known[:, self._end(origin)] < FEW_STEPS)

    def young(self, origin: int) -> NDArray[np.int64]:
        """Series with less history before ``origin`` than an ordinary training window shows."""
        return np.flatnonzero(self._known[:, self._end(origin)] < self._ordinary)

    def levels(self, origin: int) -> Array:
        """[S] mean of the last four weeks (daily data) before ``origin``; NaN where there is too little history."""
        end = self._end(origin)
        start = max(end - self._steps, 0)
        count = self._known[:, end] - self._known[:, start]
        total = self._values[:, end] - self._values[:, start]
        return np.where((count > 0) & ~self.few(origin), total / np.maximum(count, 1), np.nan)

    def hint(self, row: int, origin: int, *, new_everywhere: bool = False) -> float:
        """The level to expect of one series from ``origin`` on, as if it had no history.

        Args:
            row: The series.
            origin: Nothing dated on or after it is used.
            new_everywhere: As if no other store had the product either.

        Returns:
            The level in the series' units; 0 where no other series has a history.
        """
        found = self.levels(origin)
        # Not even as a part of its store's mean: what training hides must not come back as an expectation.
        found[self._product == self._product[row] if new_everywhere else row] = np.nan
        return self._hint(row, found, self._store_means(found))

    def peers(self, row: int, origin: int) -> Peers | None:
        """Which series the level of :meth:`hint` comes from; None where no other series has a history."""
        found = self.levels(origin)
        found[row] = np.nan
        return self._peers(row, found, self._store_means(found))

    def hints(self, origin: int) -> NDArray[np.float32]:
        """[S] :meth:`hint` for each series with almost no history before ``origin``; 0 for the others."""
        few = self.few(origin)
        out = np.zeros(len(few), dtype=np.float32)
        if few.any() and not few.all():
            found = self.levels(origin)
            means = self._store_means(found)
            for row in np.flatnonzero(few):
                out[row] = self._hint(int(row), found, means)
        return out

    def _end(self, origin: int) -> int:
        return int(np.clip(origin, 0, self._known.shape[1] - 1))

    def _store_means(self, levels: Array) -> Array:
        """[number of stores] mean level of each store, of all stores where it has too few."""
        known = np.isfinite(levels)
        count = np.bincount(self._store[known], minlength=self._n_stores)
        total = np.bincount(self._store[known], weights=levels[known], minlength=self._n_stores)
        overall = levels[known].mean() if known.any() else 0.0
        return np.where(count >= _FEWEST_OF_A_STORE, total / np.maximum(count, 1), overall)

    def _hint(self, row: int, levels: Array, means: Array) -> float:
        found = self._peers(row, levels, means)
        if found is None:
            return 0.0
        if found.reason == "other stores":
            own = float(means[self._store[row]])
            # In shares of the store's mean, so that the floor is one, too.
            relative = found.levels / max(own, 1e-9)
            return max(own * (float(np.exp(np.log(relative + _FLOOR).mean())) - _FLOOR), 0.0)
        return float(found.levels.mean())

    def _peers(self, row: int, levels: Array, means: Array) -> Peers | None:
        own = float(means[self._store[row]])
        usable = np.isfinite(levels)
        same_product = self._product == self._product[row]
        if (usable & same_product).any():
            chosen = np.flatnonzero(usable & same_product)
            relative = levels[chosen] / np.maximum(means[self._store[chosen]], 1e-9)
            return Peers("other stores", chosen, own * relative, np.ones(len(chosen)))
        usable &= ~same_product
        if not usable.any():
            return None
        in_store = usable & (self._store == self._store[row])
        pool = in_store if in_store.sum() >= _FEWEST_OF_A_STORE else usable
        rows = np.flatnonzero(pool)
        relative = levels[rows] * own / np.maximum(means[self._store[rows]], 1e-9)
        if self._descriptions[row]:
            likeness = self._text[rows] @ self._text[row]
            nearest = np.argsort(-likeness, kind="stable")[:_NEAREST]
            if likeness[nearest[0]] > 0:
                words = likeness[nearest].astype(np.float64)
                return Peers("description", rows[nearest], relative[nearest], words)
        alike = (self._category[rows] == self._category[row]) & (self._category[row] >= 0)
        kept = alike if alike.any() else np.ones(len(rows), dtype=bool)
        reason = "category" if alike.any() else "store" if pool is in_store else "all"
        return Peers(reason, rows[kept], relative[kept], np.zeros(int(kept.sum())))


def level_hints(windows: PanelWindows, origin: int) -> NDArray[np.float32]:
    """[S] a level for each series that has almost no history before ``origin``; 0 for the others."""
    return Siblings(windows).hints(origin)
