"""Fitting the trees, and forecasting with them.

For each of five quantile levels boosted trees start from the backbone's own quantile and learn what to add to it, by
the quantile loss, over windows at origins before the one that is to be forecast. The levels between and beyond take
the correction of their neighbours, so the tails keep the backbone's shape. Shapes as in ``features``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri

from trend_client.trees.features import FITTED, IDENTITIES, Base, Features, codes, features, hidden
from trend_common.covariates import DEFAULT_HORIZON, YEAR
from trend_common.forecasts import LEVELS
from trend_common.windows import MIN_HISTORY, PanelWindows

__all__ = ["HISTORY", "Ask", "Trees", "fit_trees", "mean_of"]

Array = NDArray[np.float64]
Rows = NDArray[np.int64]

Ask = Callable[[Rows, Rows], Base]
"""(rows, origins) → what the backbone says of these windows."""

_CELLS: Final = 80_000
"""Steps that are learned from at most; more cost time and, on panels of this kind, hardly help."""
_FEWEST: Final = 400
"""Steps below which nothing is learned."""
HISTORY: Final = {freq: YEAR[freq] + 2 * steps for freq, steps in DEFAULT_HORIZON.items()}
"""Steps of the calendar below which nothing is learned: trees that have not seen a year take the season for the rule.

On windows before the test they lowered the loss of five of six panels that are longer, and raised it on both that are
shorter (``docs/scoring.md``).
"""
_ORIGINS: Final = 200
"""Origins at most; windows of a few series that lie closer say the same twice."""
_TREES: Final = 120
_BINS: Final = 63
_SETTINGS: Final[dict[str, Any]] = {
    "objective": "quantile",
    "learning_rate": 0.06,
    "num_leaves": 15,
    "min_data_in_leaf": 40,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "lambda_l2": 1.0,
    "cat_smooth": 20.0,
    "max_bin": _BINS,
    "deterministic": True,
    "force_col_wise": True,
    # Several threads win a few seconds, and on a busy machine they wait minutes for one another.
    "num_threads": 1,
    "verbosity": -1,
}
_WILD: Final = 20.0
"""Times its level: a step that sold more, as after a long rest, would be learned by all series."""
_RUNAWAY: Final = 10.0
"""Times the largest sale: a series whose 95 % quantile is above keeps the backbone's forecast."""
_NOTHING: Final = 0.02
"""Share of a series' level below which a corrected quantile is no sale, where the backbone says so."""


@dataclass(frozen=True, eq=False)
class Trees:
    """Trees that were fitted to the sales before one origin.

    Attributes:
        horizon: H, the most steps ahead that they have seen.
        boosters: One for each of :data:`FITTED`; none where there was too little to learn from, which is no
            correction.
        known: Store, product and category → hash of the name → number.
        cells: Steps that they were fitted to.
    """

    horizon: int
    boosters: tuple[Any, ...]
    known: Mapping[str, Mapping[str, int]]
    cells: int

    def correct(self, windows: PanelWindows, rows: Rows, origin: int, base: Base) -> Base:
        """The backbone's forecast with what the trees add to it.

        Args:
            windows: With the context of ``features``; of any panel with the same kind of columns.
            rows: [N] series.
            origin: First step.
            base: The backbone's forecast of these series from there.
        """
        if not self.boosters or not len(rows):
            return base
        made = features(windows, rows, np.full(len(rows), origin), base, codes(windows, self.known))
        shape = base.mean.shape
        added = np.stack([one.predict(made.values, num_threads=1).reshape(shape) for one in self.boosters], axis=-1)
        shifts = _interpolated(added)
        quantiles = base.quantiles + shifts * made.level[:, None, None]
        small = quantiles <= _NOTHING * made.level[:, None, None]
        quantiles = np.where((base.quantiles <= 0) & small, 0.0, quantiles)
        quantiles = np.maximum.accumulate(np.maximum(np.sort(quantiles, axis=-1), 0.0), axis=-1)
        quantiles = np.where(made.closed[..., None], 0.0, quantiles)
        # The mean moves as the distribution does.
        mean = np.maximum(base.mean + mean_of(quantiles) - mean_of(base.quantiles), 0.0)
        mean = np.where(made.closed, 0.0, mean)
        largest = np.nanmax(windows.history(origin)[rows], axis=1, initial=0.0)
        sane = quantiles[..., LEVELS.index(0.95)].max(axis=1) <= _RUNAWAY * largest
        return Base(
            np.where(sane[:, None, None], quantiles, base.quantiles), np.where(sane[:, None], mean, base.mean)
        )

    def dumps(self) -> str:
        """As text, for :meth:`loads`."""
        return json.dumps(
            {
                "horizon": self.horizon,
                "known": self.known,
                "cells": self.cells,
                "boosters": [one.model_to_string() for one in self.boosters],
            }
        )

    @classmethod
    def loads(cls, text: str) -> Trees:
        """What :meth:`dumps` wrote.

        Raises:
            ValueError: It is something else.
        """
        import lightgbm

        try:
            body = json.loads(text)
            boosters = tuple(lightgbm.Booster(model_str=one) for one in body["boosters"])
            return cls(int(body["horizon"]), boosters, body["known"], int(body["cells"]))
        except (KeyError, TypeError, ValueError, lightgbm.basic.LightGBMError) as error:
            raise ValueError("these are no trees") from error


def fit_trees(windows: PanelWindows, origin: int, horizon: int, ask: Ask, *, seed: int = 0) -> Trees:
    """Fit to everything before an origin.

    Args:
        windows: With the context of ``features``; nothing from ``origin`` on is looked at but plans.
        origin: First step that is not known.
        horizon: H.
        ask: The backbone.
        seed: Of the draws.

    Returns:
        The trees; without boosters where fewer than some hundreds of steps, or less than :data:`HISTORY`, can be
        learned from.
    """
    import lightgbm

    rng = np.random.default_rng(seed)
    static = windows.panel.static.loc[list(windows.ids)]
    known = {
        name: {hidden(str(one)): number for number, one in enumerate(pd.unique(static[name].sort_values()))}
        for name in IDENTITIES
    }
    long_enough = origin - int(windows.first.min(initial=origin)) >= HISTORY[windows.panel.freq]
    rows, origins = _windows(windows, origin, horizon, rng)
    if not long_enough or not len(rows):
        return Trees(horizon, (), known, 0)
    batch = windows.batch(rows, origins, horizon, targets_end=origin)
    assert batch.future_values is not None
    assert batch.future_mask is not None
    base = ask(rows, origins)
    made = features(windows, rows, origins, base, codes(windows, known))
    truth = batch.future_values.numpy() / made.level[:, None]
    wild = (np.abs(truth) > _WILD) | (base.mean / made.level[:, None] > _WILD)
    usable = ((batch.future_mask.numpy() > 0) & ~made.closed & ~wild).reshape(-1)
    if usable.sum() < _FEWEST:
        return Trees(horizon, (), known, int(usable.sum()))
    values, target = made.values[usable], truth.reshape(-1)[usable].astype(np.float64)
    start = (base.fitted() / made.level[:, None, None]).reshape(-1, len(FITTED))[usable]
    settings = {**_SETTINGS, "seed": seed}
    boosters = []
    for column, level in enumerate(FITTED):
        data = lightgbm.Dataset(
            values,
            target,
            init_score=np.ascontiguousarray(start[:, column]),
            categorical_feature=_categories(made, values),
            params={"max_bin": _BINS, "verbosity": -1},
        )
        boosters.append(lightgbm.train({**settings, "alpha": level}, data, _TREES))
    return Trees(horizon, tuple(boosters), known, len(target))


def mean_of(quantiles: Array) -> Array:
    """[...] the mean of a distribution with the quantiles [..., Q] at ``LEVELS``, straight lines between them."""
    ends = np.concatenate([quantiles[..., :1], quantiles, quantiles[..., -1:]], axis=-1)
    return np.asarray(((ends[..., 1:] + ends[..., :-1]) / 2 * np.diff([0.0, *LEVELS, 1.0])).sum(axis=-1))


def _windows(windows: PanelWindows, origin: int, horizon: int, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Series and origins to learn from: origins evenly over the past whose horizon lies before ``origin`` whole."""
    least = MIN_HISTORY[windows.panel.freq]
    candidates = np.arange(least, origin - horizon + 1)
    started = np.flatnonzero(windows.first + least <= origin - horizon)
    if not len(candidates) or not len(started):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    most = max(_CELLS // horizon, 1)
    if len(started) > most:
        started = np.sort(rng.choice(started, most, replace=False))
    count = min(max(most // len(started), 1), len(candidates), _ORIGINS)
    places = np.unique(np.round(np.linspace(0, len(candidates) - 1, count)).astype(np.int64))
    # Counted from the end: the latest origin is always among them.
    chosen = candidates[len(candidates) - 1 - places]
    pairs = [
        (started[there], np.full(int(there.sum()), one))
        for one in chosen
        if (there := (windows.first[started] + least <= one) & (windows.last[started] >= one)).any()
    ]
    if not pairs:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    return np.concatenate([rows for rows, _ in pairs]), np.concatenate([at for _, at in pairs]).astype(np.int64)


def _categories(made: Features, values: Array) -> list[int]:
    """Names of which there are several."""
    return [column for column in made.identities if len(np.unique(values[:, column])) > 1]


def _interpolated(added: Array) -> Array:
    """[N, H, Q] corrections of all levels from those of :data:`FITTED`, straight lines in normal scores."""
    fitted, wanted = ndtri(FITTED), ndtri(LEVELS)
    left = np.clip(np.searchsorted(fitted, wanted, side="right") - 1, 0, len(FITTED) - 2)
    share = ((wanted - fitted[left]) / (fitted[left + 1] - fitted[left])).clip(0, 1)
    return np.asarray(added[..., left] * (1 - share) + added[..., left + 1] * share)
