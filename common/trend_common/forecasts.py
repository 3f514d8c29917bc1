"""A probabilistic forecast of many series: quantiles and a mean for every step of one horizon.

Shapes: S series, H horizon steps, Q quantile levels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

__all__ = ["LEVELS", "Forecast", "choose_rows", "level_name"]

LEVELS: Final = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""The quantile levels of every forecast."""

_TOLERANCE: Final = 1e-9


def level_name(level: float) -> str:
    """The column of a quantile level: 0.05 → ``q05``, 0.5 → ``q50``."""
    return f"q{round(level * 100):02d}"


@dataclass(frozen=True, eq=False)
class Forecast:
    """Quantile forecasts of S series over H steps.

    The constructor checks and never repairs; :meth:`repaired` sorts and clips what a model returned.

    Attributes:
        ids: S different series names (``unique_id``).
        ds: [S, H] datetime64, the step that each value is for, ascending in H.
        levels: Q ascending quantile levels in (0, 1).
        quantiles: [S, H, Q] float64 in the series' own units, finite, ascending in Q.
        mean: [S, H] float64 in the series' own units, finite.

    Raises:
        ValueError: A shape, a level or a value is not as described; the message names it.
    """

    ids: tuple[str, ...]
    ds: NDArray[np.datetime64]
    levels: tuple[float, ...]
    quantiles: NDArray[np.float64]
    mean: NDArray[np.float64]

    def __post_init__(self) -> None:
        ids = tuple(str(name) for name in self.ids)
        levels = tuple(float(level) for level in self.levels)
        ds = np.asarray(self.ds, dtype="datetime64[ns]")
        quantiles = np.asarray(self.quantiles, dtype=np.float64)
        mean = np.asarray(self.mean, dtype=np.float64)
        if len(set(ids)) != len(ids):
            raise ValueError(f"ids: {len(ids) - len(set(ids))} of {len(ids)} are repeated")
        if not levels or any(not 0 < level < 1 for level in levels) or any(np.diff(levels) <= 0):
            raise ValueError(f"levels: {levels} are not ascending numbers between 0 and 1")
        if ds.ndim != 2 or ds.shape[0] != len(ids):
            raise ValueError(f"ds: shape {ds.shape}, expected ({len(ids)}, H)")
        if quantiles.shape != (*ds.shape, len(levels)):
            raise ValueError(f"quantiles: shape {quantiles.shape}, expected {(*ds.shape, len(levels))}")
        if mean.shape != ds.shape:
            raise ValueError(f"mean: shape {mean.shape}, expected {ds.shape}")
        if np.isnat(ds).any() or (np.diff(ds.astype(np.int64), axis=1) <= 0).any():
            raise ValueError("ds: dates are missing or not ascending")
        for label, values in (("quantiles", quantiles), ("mean", mean)):
            if not np.isfinite(values).all():
                raise ValueError(f"{label}: {(~np.isfinite(values)).sum()} values are not finite")
        # Rounding in float32 models leaves neighbours out of order by a few units in the last place.
        slack = _TOLERANCE * (1.0 + np.abs(quantiles[..., :-1]))
        if (np.diff(quantiles, axis=-1) < -slack).any():
            raise ValueError("quantiles: not ascending in the level (crossing quantiles)")
        for field, value in (("ids", ids), ("levels", levels), ("ds", ds), ("quantiles", quantiles), ("mean", mean)):
            object.__setattr__(self, field, value)

    @classmethod
    def repaired(
        cls,
        ids: Sequence[str],
        ds: ArrayLike,
        quantiles: ArrayLike,
        mean: ArrayLike,
        *,
        levels: Sequence[float] = LEVELS,
        non_negative: bool = True,
    ) -> Forecast:
        """A forecast from a model's raw output: crossing quantiles sorted, negative values set to 0.

        Sorting never raises the quantile loss (Chernozhukov, Fernández-Val and Galichon, 2010).

        Args:
            ids: S names.
            ds: [S, H], or [H] where all series share their dates.
            quantiles: [S, H, Q].
            mean: [S, H].
            levels: Q levels.
            non_negative: Sales cannot be negative; False for returns or prices' changes.
        """
        floor = 0.0 if non_negative else -np.inf
        dates = np.asarray(ds, dtype="datetime64[ns]")
        if dates.ndim == 1:
            dates = np.broadcast_to(dates, (len(ids), len(dates)))
        return cls(
            tuple(ids),
            dates,
            tuple(levels),
            np.sort(np.maximum(np.asarray(quantiles, dtype=np.float64), floor), axis=-1),
            np.maximum(np.asarray(mean, dtype=np.float64), floor),
        )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def horizon(self) -> int:
        """H, the number of steps ahead."""
        return int(self.ds.shape[1])

    @property
    def median(self) -> NDArray[np.float64]:
        """[S, H] the forecast of level 0.5."""
        return self.quantile(0.5)

    def quantile(self, level: float) -> NDArray[np.float64]:
        """[S, H] one quantile; between two stored levels it is interpolated linearly.

        Raises:
            ValueError: ``level`` is outside the stored levels.
        """
        stored = np.asarray(self.levels)
        exact = np.flatnonzero(np.isclose(stored, level, rtol=0, atol=_TOLERANCE))
        if exact.size:
            return np.asarray(self.quantiles[..., exact[0]])
        if not stored[0] < level < stored[-1]:
            raise ValueError(f"level: {level} is outside the stored levels {stored[0]} to {stored[-1]}")
        above = int(np.searchsorted(stored, level))
        weight = (level - stored[above - 1]) / (stored[above] - stored[above - 1])
        low, high = self.quantiles[..., above - 1], self.quantiles[..., above]
        return np.asarray(low + weight * (high - low))

    def interval(self, coverage: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The central interval of a coverage in (0, 1): ([S, H] lower ends, [S, H] upper ends)."""
        return self.quantile((1 - coverage) / 2), self.quantile((1 + coverage) / 2)

    def select(self, ids: Iterable[str]) -> Forecast:
        """The forecasts of ``ids``, in that order.

        Raises:
            ValueError: A series has no forecast here.
        """
        wanted = tuple(ids)
        position = {name: row for row, name in enumerate(self.ids)}
        missing = [name for name in wanted if name not in position]
        if missing:
            raise ValueError(f"ids: no forecast of {missing[0]!r} ({len(missing)} of {len(wanted)} are missing)")
        rows = np.array([position[name] for name in wanted], dtype=np.intp)
        return Forecast(wanted, self.ds[rows], self.levels, self.quantiles[rows], self.mean[rows])

    def to_frame(self, static: pd.DataFrame) -> pd.DataFrame:
        """The forecast as a table, one row a series and step.

        Args:
            static: Index ``unique_id``, columns ``store`` and ``product`` (a series it lacks gets "").

        Returns:
            Columns ``unique_id, store, product, ds, mean, q01, q05, ..., q95, q99``; S·H rows, ordered as ``ids``.
        """
        described = static.reindex(list(self.ids))
        steps = self.horizon
        columns: dict[str, Any] = {"unique_id": np.repeat(np.array(self.ids, dtype=object), steps)}
        for name in ("store", "product"):
            known = described[name].fillna("").to_numpy(dtype=object) if name in described else [""] * len(self)
            columns[name] = np.repeat(np.asarray(known, dtype=object), steps)
        columns["ds"] = self.ds.reshape(-1)
        columns["mean"] = self.mean.reshape(-1)
        for position, level in enumerate(self.levels):
            columns[level_name(level)] = self.quantiles[..., position].reshape(-1)
        return pd.DataFrame(columns)

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> Forecast:
        """The forecast that :meth:`to_frame` wrote.

        Raises:
            ValueError: Columns are missing, or series differ in their number of steps.
        """
        names = [name for name in frame.columns if len(name) == 3 and name[0] == "q" and name[1:].isdigit()]
        missing = {"unique_id", "ds", "mean"} - set(frame.columns)
        if missing or not names:
            raise ValueError(f"columns: expected unique_id, ds, mean and q05 ... q95, found {list(frame.columns)}")
        ids = tuple(dict.fromkeys(frame["unique_id"].astype(str)))
        counts = frame.groupby("unique_id", sort=False).size()
        if counts.nunique() > 1:
            raise ValueError(f"unique_id: series differ in length, {counts.min()} to {counts.max()} steps")
        steps = int(counts.iloc[0]) if len(counts) else 0
        order = frame.assign(_row=frame["unique_id"].astype(str).map({name: row for row, name in enumerate(ids)}))
        order = order.sort_values(["_row", "ds"], kind="stable")
        return cls(
            ids,
            order["ds"].to_numpy(dtype="datetime64[ns]").reshape(len(ids), steps),
            tuple(int(name[1:]) / 100 for name in names),
            order[names].to_numpy(dtype=np.float64).reshape(len(ids), steps, len(names)),
            order["mean"].to_numpy(dtype=np.float64).reshape(len(ids), steps),
        )


def choose_rows(forecasts: Mapping[str, Forecast], chosen: Mapping[str, str]) -> Forecast:
    """One forecast that takes each series from the method chosen for it.

    Args:
        forecasts: Method → forecast; all of the same horizon and levels.
        chosen: Series → method; the order of the series is kept.

    Raises:
        ValueError: The methods differ in horizon or levels, or a method lacks a series chosen from it.
    """
    used = sorted(set(chosen.values()))
    unknown = [name for name in used if name not in forecasts]
    if unknown:
        raise ValueError(f"chosen: no method {unknown[0]!r} among {sorted(forecasts)}")
    shapes = {(forecasts[name].horizon, forecasts[name].levels) for name in used}
    if len(shapes) > 1:
        raise ValueError(f"forecasts: methods {used} differ in horizon or levels")
    parts = [forecasts[name].select(series for series, method in chosen.items() if method == name) for name in used]
    if not parts:
        raise ValueError("chosen: no series")
    joined = Forecast(
        tuple(name for part in parts for name in part.ids),
        np.concatenate([part.ds for part in parts]),
        parts[0].levels,
        np.concatenate([part.quantiles for part in parts]),
        np.concatenate([part.mean for part in parts]),
    )
    return joined.select(chosen)
