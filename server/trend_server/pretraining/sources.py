"""Where a micro-batch comes from: the synthetic world, public sales files, or both by turns.

A source is asked for a micro-batch by its number in the whole run and gives the same one however often, and in
whichever process, it is asked. Two in a row have one shape, so that two processes have equal work.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from trend_common.backbones.base import Batch
from trend_common.covariates import DEFAULT_HORIZON
from trend_common.errors import DataError
from trend_common.panel import read
from trend_common.windows import MIN_HISTORY, PanelWindows
from trend_server.pretraining.recipe import Recipe
from trend_server.pretraining.world import LENGTHS, World

__all__ = ["HELD_OUT", "Mixed", "Panels", "Source", "Synthetic", "make_panels", "make_source"]

HELD_OUT: Final = 3
"""Windows at the end of each file that training never sees: as many as ``evaluate`` looks at."""

_PATCH: Final = 14
_ROWS: Final = 128
"""Most held-out series of a file, a window."""


class Source(Protocol):
    """Gives micro-batches by number."""

    def draw(self, number: int, rows: int, device: str) -> Batch:
        """``rows`` windows with targets."""
        ...


class Synthetic:
    """The synthetic world."""

    def draw(self, number: int, rows: int, device: str) -> Batch:
        """See :class:`Source`."""
        return World(number, device, shape_seed=number // 2).batch(rows)


@dataclass(frozen=True, eq=False)
class _File:
    """One file: its windows, the first step that is held out, and the rows [R] that can be trained on."""

    windows: PanelWindows
    train_end: int
    rows: NDArray[np.int64]

    @property
    def freq(self) -> str:
        return str(self.windows.panel.freq)

    @classmethod
    def of(cls, path: Path) -> _File:
        panel = read(path)
        windows = PanelWindows(panel, context=LENGTHS[panel.freq][0])
        train_end = windows.n_steps - HELD_OUT * DEFAULT_HORIZON[panel.freq]
        rows = windows.trainable(train_end)
        if not rows.size:
            raise DataError(
                f"{path.name} covers {windows.n_steps} steps; no series has {MIN_HISTORY[panel.freq] + 1} of them "
                f"before the last {HELD_OUT * DEFAULT_HORIZON[panel.freq]}, which are held out.",
                "Leave this file out, or use a longer one.",
            )
        made = cls(windows, train_end, rows)
        if next(iter(made.held_out()), None) is None:
            raise DataError(f"{path.name} has no sales in its last steps, which are held out.", "Leave it out.")
        return made

    def held_out(self) -> Iterable[Batch]:
        """Windows whose targets training never sees: :data:`HELD_OUT` of the default horizon, to the file's end."""
        horizon = DEFAULT_HORIZON[self.windows.panel.freq]
        for origin in range(self.train_end, self.windows.n_steps, horizon):
            known = np.isfinite(self.windows.history(origin)).any(axis=1)
            known &= np.isfinite(self.windows.actuals(origin, horizon)).any(axis=1)
            rows = np.flatnonzero(known)
            if len(rows) > _ROWS:
                rows = np.sort(np.random.default_rng(0).choice(rows, _ROWS, replace=False))
            if rows.size:
                yield _nameless(
                    self.windows.batch(rows, np.full(len(rows), origin), horizon, targets_end=self.windows.n_steps)
                )


class Panels:
    """Windows of sales files at random origins, as long as those of the synthetic world.

    A file with many series is drawn from more often, by the root of their number. Store, product and category have no
    code here: what one public file calls its products says nothing about another retailer's.

    Args:
        paths: Sales files, as :func:`trend_common.panel.read` takes them.

    Raises:
        DataError: A file cannot be used, or is too short to hold windows out.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.files = [_File.of(path) for path in paths]
        self._weights = [float(np.sqrt(len(one.rows))) for one in self.files]

    def draw(self, number: int, rows: int, device: str) -> Batch:
        """See :class:`Source`."""
        shapes = random.Random(number // 2)
        file = shapes.choices(self.files, self._weights)[0]
        longest, horizon = LENGTHS[file.freq]
        if file.freq != "D":
            horizon = _PATCH * shapes.randint(1, horizon // _PATCH)
        context = longest
        if shapes.random() > 0.25:  # as often a few weeks as a few years
            context = _PATCH * max(1, int((longest // _PATCH) ** shapes.random() + 0.5))
        rng = np.random.default_rng(number)
        chosen = file.rows[rng.integers(0, len(file.rows), rows)]
        origins = file.windows.draw_origins(chosen, file.train_end, horizon, rng.random(rows))
        batch = file.windows.batch(chosen, origins, horizon, targets_end=file.train_end)
        return _nameless(_shortened(batch, context)).to(device)


class Mixed:
    """Micro-batches of two sources by turns.

    Args:
        first, second: The sources.
        share: Which share of the pairs of micro-batches is the second's; exact over any thousand of them.
    """

    def __init__(self, first: Source, second: Source, share: float) -> None:
        self._first, self._second, self._mille = first, second, round(share * 1000)

    def draw(self, number: int, rows: int, device: str) -> Batch:
        """See :class:`Source`."""
        pair = number // 2
        second = (pair + 1) * self._mille // 1000 > pair * self._mille // 1000
        return (self._second if second else self._first).draw(number, rows, device)


def make_panels(recipe: Recipe) -> Panels | None:
    """The recipe's sales files, if it names any."""
    return Panels([Path(name) for name in recipe.data]) if recipe.data else None


def make_source(recipe: Recipe, panels: Panels | None) -> Source:
    """What the recipe trains on."""
    return Synthetic() if panels is None else Mixed(Synthetic(), panels, recipe.data_share)


def _shortened(batch: Batch, context: int) -> Batch:
    """The same windows with their last ``context`` steps of history."""
    return replace(
        batch,
        past_values=batch.past_values[:, -context:],
        past_mask=batch.past_mask[:, -context:],
        past_cov=batch.past_cov[:, -context:],
    )


def _nameless(batch: Batch) -> Batch:
    return replace(batch, static_ids=torch.zeros_like(batch.static_ids))
