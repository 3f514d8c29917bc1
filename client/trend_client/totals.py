"""Sums that fit: product, category, store and total from the forecasts of the series.

``bottom-up``: means are added up. ``mint``: the sums are forecast themselves as well, and all forecasts are moved
as little as makes them fit, each by how far it was off in past windows (Wickramasuriya, Athanasopoulos and Hyndman,
JASA 114, 2019); hierarchicalforecast does it. Errors that come together count as well (``mint_shrink``, a covariance
shrunk towards its diagonal) where that is better than the diagonal alone: both are fitted to the windows before the
last validation window, and the one whose sums have the lower squared error there is kept. A series' quantiles then
move by what its mean was moved by, and what would be below zero is zero. Either way a sum's mean is the sum of the
means of its series.

Quantiles of sums come from sample paths that keep the dependence of past errors (:mod:`trend_client.paths`), moved so
that their mean is the sum's.

Shapes: S series, N sums, R paths, H horizon steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_client.paths import PATHS, sample_paths
from trend_common.errors import UsageError
from trend_common.forecasts import LEVELS, Forecast, level_name
from trend_common.panel import SalesPanel
from trend_common.scoring import actuals, most_windows, next_origin, origins, panel_before

__all__ = [
    "LEVEL_KEYS",
    "METHODS",
    "MINT_LARGEST",
    "Fit",
    "Reconciliation",
    "Sums",
    "fitted",
    "parse_reconciliation",
    "summed_panel",
]

Array = NDArray[np.float64]
Reconciliation = Literal["bottom-up", "mint"]

LEVEL_KEYS: Final[dict[str, tuple[str, ...]]] = {
    "total": (),
    "store": ("store",),
    "category": ("category",),
    "store and category": ("store", "category"),
    "product": ("product",),
}
"""Level → the columns whose values name its sums."""

Method = Literal["wls_var", "mint_shrink"]
METHODS: Final[tuple[Method, ...]] = ("wls_var", "mint_shrink")
"""Covariances of errors: variances alone, and all, shrunk towards these. The first wins ties."""

_MOST_WINDOWS: Final = 3
_FEWEST_WINDOWS: Final = 3
_MOST_TOGETHER: Final = 4000
"""Series and sums up to which errors that come together are looked at: their matrix grows with the square."""

MINT_LARGEST: Final = 5000
"""Series up to which ``mint`` is offered: its matrices grow with their square."""


def parse_reconciliation(text: str | None) -> Reconciliation | None:
    """``bottom-up``, ``mint``, or None.

    Raises:
        UsageError: Anything else.
    """
    if text is None or text == "bottom-up":
        return text  # type: ignore[return-value]
    if text == "mint":
        return "mint"
    raise UsageError(f"--reconcile is {text!r}.", "It is bottom-up or mint.")


def labels(static: pd.DataFrame) -> pd.DataFrame:
    """Level → the sum that each series belongs to, "" for none; without levels that would only repeat another."""
    found = {"total": pd.Series("total", index=static.index)}
    counts = {name: static[name][static[name] != ""].nunique() for name in ("store", "category", "product")}
    for level, keys in list(LEVEL_KEYS.items())[1:]:
        useful = all(counts[key] > 1 for key in keys) and (level != "product" or counts["product"] < len(static))
        if useful:
            known = (static[list(keys)] != "").all(axis=1)
            joined = static[list(keys)].agg("\x1f".join, axis=1) if len(keys) > 1 else static[keys[0]]
            found[level] = joined.where(known, "")
    return pd.DataFrame(found)


@dataclass
class Sums:
    """Sums of forecasts that grow by pieces of an assortment.

    Args:
        static: The whole panel's, for the names of all sums.
        horizon: H.
        paths: R.
    """

    static: pd.DataFrame
    horizon: int
    paths: int = PATHS
    _labels: pd.DataFrame = field(init=False, repr=False)
    _pairs: list[tuple[str, str]] = field(init=False, repr=False)
    _nodes: pd.MultiIndex = field(init=False, repr=False)
    _mean: Array = field(init=False, repr=False)
    _samples: NDArray[np.float32] = field(init=False, repr=False)
    _series: NDArray[np.int64] = field(init=False, repr=False)
    _ds: NDArray[np.datetime64] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self._labels = labels(self.static)
        pairs = [(str(level), name) for level in self._labels for name in sorted(set(self._labels[level]) - {""})]
        self._pairs = pairs
        self._nodes = pd.MultiIndex.from_tuples(pairs)
        self._mean = np.zeros((len(pairs), self.horizon))
        self._samples = np.zeros((len(pairs), self.paths, self.horizon), dtype=np.float32)
        self._series = np.zeros(len(pairs), dtype=np.int64)

    def add(self, forecast: Forecast, ranks: Array) -> None:
        """Add the series of one piece, with their ranks [S, R, H]."""
        if not len(forecast):
            return
        samples = sample_paths(forecast, ranks)
        # Linear interpolation loses the tails: what a path lacks of the mean is the same for all paths of a step.
        samples += (forecast.mean - samples.mean(axis=1))[:, None]
        self._ds = forecast.ds[0]
        mine = self._labels.reindex(list(forecast.ids))
        for level in mine:
            rows = self._nodes.get_indexer(pd.MultiIndex.from_arrays([[level] * len(mine), mine[level].fillna("")]))
            kept = np.flatnonzero(rows >= 0)
            np.add.at(self._mean, rows[kept], forecast.mean[kept])
            np.add.at(self._samples, rows[kept], samples[kept].astype(np.float32))
            np.add.at(self._series, rows[kept], 1)

    def frame(self) -> pd.DataFrame:
        """``level, store, category, product, series, ds, mean, q01, ..., q99``, one row a sum and step."""
        kept = np.flatnonzero(self._series > 0)
        if self._ds is None or not len(kept):
            return pd.DataFrame(columns=["level", "store", "category", "product", "series", "ds", "mean"])
        names = [self._pairs[int(row)] for row in kept]
        columns: dict[str, Any] = {"level": np.repeat([level for level, _ in names], self.horizon)}
        for key in ("store", "category", "product"):
            text = [_part(level, name, key) for level, name in names]
            columns[key] = np.repeat(np.array(text, dtype=object), self.horizon)
        columns["series"] = np.repeat(self._series[kept], self.horizon)
        columns["ds"] = np.tile(self._ds, len(kept))
        columns["mean"] = self._mean[kept].reshape(-1)
        quantiles = np.maximum(np.quantile(self._samples[kept].astype(np.float64), LEVELS, axis=1), 0.0)
        for position, level in enumerate(LEVELS):
            columns[level_name(level)] = quantiles[position].reshape(-1)
        return pd.DataFrame(columns)


def _part(level: str, name: str, key: str) -> str:
    keys = LEVEL_KEYS[level]
    return name.split("\x1f")[keys.index(key)] if key in keys else ""


def summed_panel(panel: SalesPanel) -> SalesPanel:
    """The sums of a panel's series as series of their own, "level/name".

    A step is unknown if a series that exists on it is. Promotions become the share of series that have one; prices
    and the retailer's own columns are left out.
    """
    belongs = labels(panel.static)
    shared = [name for name in ("promo", "holiday") if name in panel.frame.columns]

    def together(table: pd.DataFrame, level: str, *, past: bool) -> pd.DataFrame:
        named = table.assign(unique_id=belongs[level].reindex(table["unique_id"]).to_numpy())
        named = named[named["unique_id"] != ""]
        grouped = named.groupby(["unique_id", "ds"], sort=True)
        parts = {name: grouped[name].mean() for name in shared if name in table.columns}
        if past:
            known = named["y"].notna().groupby([named["unique_id"], named["ds"]]).all()
            parts = {"y": grouped["y"].sum().where(known), "closed": grouped["closed"].all(), **parts}
        made = pd.DataFrame(parts).reset_index()
        return made.assign(unique_id=f"{level}/" + made["unique_id"].astype(str))

    frames = [together(panel.frame, str(level), past=True) for level in belongs]
    futures = [together(panel.future, str(level), past=False) for level in belongs] if len(panel.future) else []
    frame = pd.concat(frames, ignore_index=True).sort_values(["unique_id", "ds"], ignore_index=True)
    # A sum's calendar has no holes: a day on which none of its parts exists is unknown.
    frame = _regular(frame, panel.offset)
    ids = frame["unique_id"].unique()
    static = pd.DataFrame({"store": "", "product": "", "category": "", "description": ""}, index=pd.Index(ids))
    future = pd.concat(futures, ignore_index=True) if futures else panel.future.iloc[:0]
    if futures:
        future = future.sort_values(["unique_id", "ds"], ignore_index=True)
    return replace(panel, frame=frame, future=future, static=static, own_ahead=())


def _regular(frame: pd.DataFrame, offset: str) -> pd.DataFrame:
    parts = []
    for name, rows in frame.groupby("unique_id", sort=True):
        steps = pd.date_range(rows["ds"].iloc[0], rows["ds"].iloc[-1], freq=offset)
        if len(steps) != len(rows):
            rows = rows.set_index("ds").reindex(steps).rename_axis("ds").reset_index().assign(unique_id=name)
            rows["closed"] = rows["closed"].fillna(False).astype(bool)
        parts.append(rows)
    return pd.concat(parts, ignore_index=True)


@dataclass(frozen=True)
class Fit:
    """Which covariance of errors the forecasts were fitted with, and why.

    Attributes:
        method: hierarchicalforecast's name, "wls_var" or "mint_shrink".
        windows: Past windows that the errors come from.
        errors: Method → root mean squared error of the sums on the last of them, fitted to the others; empty where
            nothing was compared.
        reason: Why the diagonal was taken without comparing; "" otherwise.
    """

    method: Method
    windows: int
    errors: Mapping[Method, float] = field(default_factory=dict)
    reason: str = ""

    def sentence(self) -> str:
        """For people."""
        called = "with" if self.method == "mint_shrink" else "without"
        if self.reason:
            return f"Sums were made to fit by error variances alone: {self.reason}."
        shrink, plain = (self.errors[name] for name in ("mint_shrink", "wls_var"))
        return (
            f"Sums were made to fit {called} errors that come together: on the last validation window sums were off "
            f"by {shrink:,.4g} with and {plain:,.4g} without them (root mean square)."
        )


def fitted(
    panel: SalesPanel,
    bottom: Forecast,
    forecaster: Callable[[SalesPanel, pd.Timestamp, int], Forecast],
    past: Callable[[SalesPanel, pd.Timestamp, int], Forecast],
) -> tuple[Forecast, Fit]:
    """The series' forecasts, moved so that they fit the forecasts of their sums (``mint``).

    Args:
        panel: Sales.
        bottom: The forecasts of its series.
        forecaster: Forecasts the panel of sums.
        past: Forecasts the series at past origins, for their errors there.

    Returns:
        The same series, quantiles moved with their means, nothing below zero; and how they were fitted.
    """
    horizon, ids = bottom.horizon, list(bottom.ids)
    sums = summed_panel(panel.select(ids))
    nodes = list(sums.ids)
    matrix = _summing(labels(panel.static).reindex(ids), nodes)
    ahead = forecaster(sums, next_origin(panel), horizon).select(nodes).mean.copy()
    # A sum's own forecast does not know which doors are closed: on such days the series alone say what is sold.
    shut = np.isin(bottom.ds[0], np.array(sorted(set().union(*panel.shut.values())), dtype="datetime64[ns]"))
    ahead[:, shut] = matrix[: len(nodes)] @ bottom.mean[:, shut]
    windows = min(most_windows(panel, horizon), _MOST_WINDOWS)
    reason = ""
    if windows < _FEWEST_WINDOWS:
        reason = f"the history has room for {windows} past window(s), and comparing needs {_FEWEST_WINDOWS}"
    elif len(matrix) > _MOST_TOGETHER:
        reason = f"{len(matrix):,} series and sums are more than the {_MOST_TOGETHER:,} whose errors fit in memory"
    windows = 1 if reason else windows
    errors, told = [], []
    for day in origins(panel, horizon, windows=windows).rolling:
        parts = [
            _errors(one, day, horizon, call, names)
            for one, call, names in ((sums, forecaster, nodes), (panel, past, ids))
        ]
        errors.append(np.concatenate([off for off, _ in parts]))
        told.append(np.concatenate([mean for _, mean in parts]))
    fit = Fit("wls_var", windows, reason=reason) if reason else _compared(matrix, len(nodes), errors, told)
    means = _reconciled(matrix, np.concatenate([ahead, bottom.mean]), errors, fit.method)[len(nodes) :]
    means = np.maximum(means, 0.0)
    moved = np.maximum(bottom.quantiles + (means - bottom.mean)[..., None], 0.0)
    return Forecast(bottom.ids, bottom.ds, bottom.levels, moved, means), fit


def _summing(belongs: pd.DataFrame, nodes: Sequence[str]) -> Array:
    """[N + S, S] which series each sum and series is made of, the sums first."""
    matrix = np.zeros((len(nodes) + len(belongs), len(belongs)))
    matrix[len(nodes) :] = np.eye(len(belongs))
    row = {name: position for position, name in enumerate(nodes)}
    for level in belongs:
        for column, name in enumerate(belongs[level]):
            if name and f"{level}/{name}" in row:
                matrix[row[f"{level}/{name}"], column] = 1.0
    return matrix


def _compared(matrix: Array, sums: int, errors: Sequence[Array], told: Sequence[Array]) -> Fit:
    """The covariance whose sums were nearest to the truth in the last window, fitted to the windows before it."""
    truth = told[-1] + errors[-1]
    found: dict[Method, float] = {}
    for method in METHODS:
        try:
            made = _reconciled(matrix, told[-1], errors[:-1], method)
        except Exception as error:  # the library raises bare ones where a matrix cannot be solved
            return Fit("wls_var", len(errors), reason=f"{method} could not be computed ({type(error).__name__})")
        found[method] = float(np.sqrt(np.mean((made[:sums] - truth[:sums]) ** 2)))
    best = min(METHODS, key=lambda name: found[name])
    return Fit(best, len(errors), found)


def _reconciled(matrix: Array, told: Array, errors: Sequence[Array], method: Method) -> Array:
    """[N + S, H] the means that fit."""
    from hierarchicalforecast.methods import MinTrace

    off = np.concatenate(errors, axis=1)
    # The library takes actual and fitted values and uses their difference alone.
    made = MinTrace(method=method).fit_predict(
        S=matrix, y_hat=told, y_insample=off, y_hat_insample=np.zeros_like(off)
    )
    return np.asarray(made["mean"], dtype=np.float64)


def _errors(
    panel: SalesPanel,
    origin: pd.Timestamp,
    horizon: int,
    forecaster: Callable[[SalesPanel, pd.Timestamp, int], Forecast],
    names: Sequence[str],
) -> tuple[Array, Array]:
    """[N, H] what a forecast of a past horizon was off by, and the forecast.

    Unknown errors take the size of the series' sales, with signs of their own, so that nobody's come together.
    """
    truth = actuals(panel, origin, horizon, minimum=1)
    found = forecaster(panel_before(panel, origin), origin, horizon)
    both = [name for name in truth.ids if name in set(found.ids)]
    told = found.select(both).mean
    off = truth.select(both).y - told
    rows = {name: position for position, name in enumerate(both)}
    mean = panel.frame.groupby("unique_id")["y"].mean()
    made, means = np.empty((len(names), horizon)), np.zeros((len(names), horizon))
    rng = np.random.default_rng(0)
    for position, name in enumerate(names):
        size = float(mean.get(name, 1.0)) or 1.0
        sign = rng.permutation(np.where(np.arange(horizon) % 2 == 0, 1.0, -1.0))
        one = off[rows[name]] if name in rows else np.full(horizon, np.nan)
        if name in rows:
            means[position] = told[rows[name]]
        made[position] = np.where(np.isnan(one), sign * (size if np.isfinite(size) else 1.0), one)
        if not np.any(made[position]):
            made[position] = sign * 1e-3
    return made, means
