"""The trees as a method of the backtest and of the forecast: fitted to what was known before each origin."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from trend_client.trees import fit
from trend_client.trees.features import CONTEXT, Base
from trend_client.trees.fit import Rows, Trees, fit_trees
from trend_client.trial import sampled
from trend_common import __version__
from trend_common.closures import without_shut_days
from trend_common.errors import UsageError
from trend_common.files import private_directory, write_text
from trend_common.forecasts import Forecast
from trend_common.panel import SalesPanel
from trend_common.predicting import predict_windows
from trend_common.scoring import next_origin, panel_before
from trend_common.windows import PanelWindows

if TYPE_CHECKING:
    from trend_client.engine import Engine

__all__ = ["REMEDY", "TreeForecaster", "learns_from", "require_trees", "why_no_trees"]

_KEPT: Final = 16
"""Fits in memory and in the folder: the windows of a backtest and what is ahead, of the series and of their sums."""

REMEDY: Final = "It needs the system's OpenMP: package libgomp1, on a Mac libomp."

_SERIES: Final = 3000
"""Series that are learned from at most, a sample by the hash of their names."""


@cache
def why_no_trees() -> str:
    """Why there are no trees on this machine; empty where there are."""
    # torch brings the OpenMP that LightGBM asks the system for.
    import torch  # noqa: F401

    try:
        import lightgbm  # noqa: F401
    except (ImportError, OSError) as error:
        return str(error)
    return ""


def learns_from(panel: SalesPanel) -> pd.Timestamp:
    """The first origin before which there is enough to learn from."""
    return pd.date_range(panel.start, periods=fit.HISTORY[panel.freq] + 1, freq=panel.offset)[-1]


def require_trees() -> None:
    """See that LightGBM is there.

    Raises:
        UsageError: It cannot be loaded.
    """
    if why_no_trees():
        raise UsageError(f"Boosted trees need LightGBM, which cannot be loaded: {why_no_trees()}.", REMEDY)


class TreeForecaster:
    """Forecasts any series of a panel by trees fitted to the retailer's sales before the origin.

    Args:
        engine: The backbone.
        sales: What to learn from; a panel that is asked for may be a part of it, or have other plans or an altered
            past. None learns from the panel that is asked for.
        context: Steps of history that the backbone sees.
        horizon: H of the fit; fewer steps are forecast by the same trees, more by trees of their own.
        country: For public holidays.
        every: For origins before the sales' end, steps that a fit may be older than the origin; 0 fits anew for each.
        kept: Folder in which the newest fits are kept; they say much about the sales, as the sales file beside does.
    """

    def __init__(
        self,
        engine: Engine,
        sales: SalesPanel | None,
        *,
        context: int,
        horizon: int,
        country: str | None = None,
        every: int = 0,
        kept: Path | None = None,
    ) -> None:
        self.engine, self.sales, self.context, self.country = engine, sales, context, country
        self.horizon, self.every, self.kept = horizon, every, kept
        self._fits: OrderedDict[tuple[pd.Timestamp, int, int], tuple[SalesPanel, Trees]] = OrderedDict()

    def __call__(
        self,
        panel: SalesPanel,
        origin: pd.Timestamp,
        horizon: int,
        *,
        plain: Forecast | None = None,
        cut: pd.Timestamp | None = None,
    ) -> Forecast:
        """The corrected forecast of every series that has a known value before ``origin``; others are left out.

        Args:
            panel: What is known, and planned.
            origin: First step.
            horizon: H.
            plain: The backbone's own forecast of the panel from there, where it is at hand.
            cut: Take the trees that were fitted to the sales before this step, instead of before the origin.
        """
        trees = self.fitted(panel, origin if cut is None else cut, horizon)
        windows = self._windows(panel, max(self.context, CONTEXT[panel.freq]), horizon)
        step = windows.step_of(origin)
        rows = np.flatnonzero(np.isfinite(windows.history(step)).any(axis=1)).astype(np.int64)
        if plain is None:
            seen = self._windows(panel, self.context, horizon)
            plain = self.engine.forecast(None, seen, seen.step_of(origin), horizon, rows=rows)
        plain = plain.select(windows.ids[row] for row in rows)
        found = trees.correct(windows, rows, step, Base(plain.quantiles, plain.mean))
        made = Forecast.repaired(plain.ids, plain.ds, found.quantiles, found.mean)
        return without_shut_days(made, panel)

    def fitted(self, panel: SalesPanel, origin: pd.Timestamp, horizon: int) -> Trees:
        """The trees for an origin; fitted once."""
        steps = max(self.horizon, horizon)
        source = panel if self.sales is None else self.sales
        cut = self._cut(source, origin)
        key = (cut, steps, id(source))
        if key not in self._fits:
            self._fits[key] = (source, self._fit(panel_before(source, cut), cut, steps))
            while len(self._fits) > _KEPT:
                self._fits.popitem(last=False)
        self._fits.move_to_end(key)
        return self._fits[key][1]

    def _cut(self, panel: SalesPanel, origin: pd.Timestamp) -> pd.Timestamp:
        """The end of what is learned from, for a forecast from ``origin``."""
        if not self.every or origin >= next_origin(panel):
            return origin
        calendar = pd.date_range(panel.start, origin, freq=panel.offset)
        return calendar[(len(calendar) - 1) // self.every * self.every]

    def _fit(self, known: SalesPanel, cut: pd.Timestamp, horizon: int) -> Trees:
        # Plans are of steps that nothing is learned from; another plan must not be another fit.
        known = replace(known, future=known.future.iloc[:0], shut={})
        known = known.select(sampled(known.ids, _SERIES)) if known.n_series > _SERIES else known
        path = None if self.kept is None else self.kept / f"{self._name(known, cut, horizon)}.json"
        if path is not None:
            try:
                return Trees.loads(path.read_text("utf-8"))
            except (OSError, ValueError):
                pass  # none yet, or one of another version
        found = self._fit_anew(known, cut, horizon)
        if path is not None and found.boosters:
            private_directory(path.parent)
            write_text(path, found.dumps(), private=True)
            _forget(path.parent)
        return found

    def _name(self, known: SalesPanel, cut: pd.Timestamp, horizon: int) -> str:
        """Of all that a fit depends on."""
        from trend_client.decisions.blend import fingerprint

        told = (
            f"{__version__}|{fingerprint(known)}|{cut}|{horizon}|{self.context}|{self.country}|{self.engine.sha256}"
        )
        return hashlib.sha256(told.encode()).hexdigest()[:32]

    def _fit_anew(self, known: SalesPanel, cut: pd.Timestamp, horizon: int) -> Trees:
        windows = self._windows(known, max(self.context, CONTEXT[known.freq]), horizon)
        seen = self._windows(known, self.context, horizon)

        def ask(rows: Rows, origins: Rows) -> Base:
            self.engine.use(None)
            made = predict_windows(self.engine.backbone, seen, rows, origins, horizon, device=self.engine.device)
            return Base(*made)

        return fit_trees(windows, windows.step_of(cut), horizon, ask)

    def _windows(self, panel: SalesPanel, context: int, horizon: int) -> PanelWindows:
        return PanelWindows(panel, context=context, country=self.country, ahead=horizon)


def _forget(folder: Path) -> None:
    """Keep the newest fits alone."""
    found = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in found[_KEPT:]:
        path.unlink(missing_ok=True)
