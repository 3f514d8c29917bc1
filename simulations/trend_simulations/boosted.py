"""Gradient-boosted trees as a retailer's own rival: LightGBM through mlforecast, one model over all its series.

Nothing is shared with anybody. For each quantile level and each part of the horizon one model is trained over all
series of the retailer, on values divided by each series' own mean. A model of steps a to b ahead sees lags of b and
more alone, so it is never fed with its own forecasts (quantiles cannot be fed back). Inputs: lags, recent means, the
series' level, store, product and category, the calendar, and what is known ahead (promotions, holidays, prices, own
columns); yearly features only where there is a year of history to learn them from.

Two settings, small and large trees, are fixed beforehand; each retailer takes the one that is better on its own
validation horizon, as it does with its other choices.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_client.trees.fit import mean_of
from trend_common.baselines import fill_forward
from trend_common.covariates import SEASON, YEAR
from trend_common.errors import UsageError
from trend_common.forecasts import LEVELS, Forecast
from trend_common.panel.model import OWN
from trend_common.scoring import future_dates, grid

if TYPE_CHECKING:
    from trend_common.panel import SalesPanel
    from trend_simulations.cases import Case

__all__ = ["BOOSTED", "boosted_forecast", "choose_boosted", "for_case", "require_boosted"]

Array = NDArray[np.float64]

BOOSTED: Final[dict[str, dict[str, int]]] = {
    "lightgbm:small": {"n_estimators": 60, "num_leaves": 7, "min_child_samples": 20},
    "lightgbm:large": {"n_estimators": 200, "num_leaves": 31, "min_child_samples": 20},
}
"""Part of a model → LightGBM's settings, the two that a retailer chooses from."""

_COMMON: Final[dict[str, Any]] = {
    "objective": "quantile",
    "learning_rate": 0.05,
    "subsample": 0.8,
    "subsample_freq": 1,
    "colsample_bytree": 0.8,
    "reg_lambda": 1.0,
    "random_state": 0,
    "deterministic": True,
    "force_row_wise": True,
    "n_jobs": 1,
    "verbosity": -1,
}
_BLOCK: Final = {"D": 7, "W": 2, "M": 2}
"""Steps ahead that share a model."""
_MORE_LAGS: Final = {"D": (0, 1, 2, 7, 14, 21), "W": (0, 1, 2, 3), "M": (0, 1, 2, 11)}
"""Lags of a model of at most b steps ahead: b plus these."""
_RECENT: Final = {"D": (7, 28), "W": (4, 8), "M": (3, 12)}
"""Steps of the means."""
_DATES: Final = {"D": ("dayofweek", "day"), "W": ("day",), "M": ()}
_YEARLY: Final = {"D": ("month", "dayofyear"), "W": ("month", "dayofyear"), "M": ("month",)}

_MADE: WeakKeyDictionary[Case, dict[tuple[str, pd.Timestamp], Forecast]] = WeakKeyDictionary()
"""Nothing here depends on a seed, so what was fitted once is kept for the other seeds and for the blends."""


def require_boosted() -> None:
    """See that the libraries are there, before hours are spent.

    Raises:
        UsageError: One is not installed.
    """
    try:
        import lightgbm  # noqa: F401
        import mlforecast  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"The arm lightgbm needs mlforecast and lightgbm; {error.name} is not installed.",
            'Install them: pip install "trend-federated[benchmark]". Or leave the arm out.',
        ) from error
    except OSError as error:  # its own library is there, one of the system's is not
        raise UsageError(
            f"The arm lightgbm cannot load its library: {error}.",
            "LightGBM needs the system's OpenMP (package libgomp1, on a Mac libomp). Or leave the arm out.",
        ) from error


def choose_boosted(case: Case) -> str:
    """The part of :data:`BOOSTED` that is best on the retailer's own validation horizon."""
    losses = {name: case.validation.relative_wql(for_case(case, name, case.cut.validation)) for name in BOOSTED}
    return min(losses, key=lambda name: losses[name] if np.isfinite(losses[name]) else np.inf)


def for_case(case: Case, name: str, origin: pd.Timestamp) -> Forecast:
    """:func:`boosted_forecast` of a retailer as it was known before ``origin``; fitted once."""
    from trend_common.scoring import panel_before

    made = _MADE.setdefault(case, {})
    if (name, origin) not in made:
        known = panel_before(case.retailer.panel, origin)
        made[name, origin] = boosted_forecast(known, origin, case.data.horizon, name)
    return made[name, origin]


def boosted_forecast(panel: SalesPanel, origin: pd.Timestamp, horizon: int, name: str = "lightgbm:small") -> Forecast:
    """Train on everything before ``origin`` and forecast every series that has a known value there.

    Gaps are filled as for the statistical methods (:func:`trend_common.baselines.fill_forward`).

    Args:
        panel: Sales; values on or after ``origin`` are not looked at, plans are.
        origin: First step to forecast.
        horizon: H.
        name: Of :data:`BOOSTED`.

    Raises:
        UsageError: mlforecast or lightgbm is not installed.
    """
    require_boosted()
    values = grid(panel, before=origin)
    rows = np.flatnonzero((~np.isnan(values.y)).any(axis=1))
    ids = tuple(values.ids[row] for row in rows)
    filled = fill_forward(values.y[rows], SEASON[panel.freq])
    level = np.nanmean(filled, axis=1)
    level = np.where(level > 0, level, 1.0)
    dates = future_dates(panel, origin, horizon)
    quantiles = np.empty((len(ids), horizon, len(LEVELS)))
    table = _table(panel, ids, filled, level, pd.DatetimeIndex(values.calendar.append(dates)))
    width = _BLOCK[panel.freq]
    for start in range(0, horizon, width):
        end = min(start + width, horizon)
        made = _block(panel, table, filled.shape[1], end, BOOSTED[name])
        quantiles[:, start:end] = made[:, start:end]
    quantiles = np.sort(quantiles * level[:, None, None], axis=-1)
    return Forecast.repaired(ids, dates.to_numpy(), quantiles, mean_of(quantiles))


def _table(panel: SalesPanel, ids: tuple[str, ...], filled: Array, level: Array, calendar: pd.DatetimeIndex) -> Any:
    """One row a series and step: scaled values (NaN in the horizon), statics, what is known ahead."""
    series, past = filled.shape
    steps = len(calendar)
    y = np.concatenate([filled / level[:, None], np.full((series, steps - past), np.nan)], axis=1)
    table = pd.DataFrame(
        {
            "unique_id": np.repeat(np.arange(series), steps),
            "ds": np.tile(calendar.to_numpy(), series),
            "y": y.reshape(-1),
            "level": np.repeat(np.log(level), steps),
        }
    )
    static = panel.static.loc[list(ids)]
    for column in ("store", "product", "category"):
        codes = pd.factorize(static[column], sort=True)[0]
        if codes.max(initial=0) > 0:
            table[column] = pd.Categorical(np.repeat(codes, steps))
    for column, known in _ahead(panel, ids, calendar, past).items():
        table[column] = known.reshape(-1)
    first = np.argmax(~np.isnan(filled), axis=1)
    started = np.arange(steps)[None] >= first[:, None]
    return table[started.reshape(-1)].reset_index(drop=True)


def _ahead(panel: SalesPanel, ids: tuple[str, ...], calendar: pd.DatetimeIndex, past: int) -> dict[str, Array]:
    """Column → [S, T + H] of what is known beforehand, without gaps."""
    both = pd.concat([panel.frame, panel.future], ignore_index=True) if len(panel.future) else panel.frame
    rows = pd.Index(ids).get_indexer(pd.Index(both["unique_id"]))
    columns = calendar.get_indexer(pd.DatetimeIndex(both["ds"]))
    inside = (rows >= 0) & (columns >= 0)
    found: dict[str, Array] = {}
    # A price out of order lines is known only once they were sold (see PanelWindows.price_known_ahead).
    priced = "price" in panel.columns and not {"returns", "order"} & set(panel.columns)
    for name in ("promo", "holiday", "price", *OWN):
        if name not in both.columns or name not in panel.known_ahead or (name == "price" and not priced):
            continue
        known = np.full((len(ids), len(calendar)), np.nan)
        known[rows[inside], columns[inside]] = both[name].to_numpy(dtype=np.float64)[inside]
        if name == "price":
            known = pd.DataFrame(np.where(known > 0, known, np.nan)).ffill(axis=1).bfill(axis=1).to_numpy()
            usual = np.where(np.isnan(known), 1.0, known)[:, :past].mean(axis=1, keepdims=True)
            known = np.log(np.where(np.isnan(known), 1.0, known) / usual)
        found[name] = np.nan_to_num(known)
    return found


def _block(panel: SalesPanel, table: Any, past: int, end: int, chosen: dict[str, int]) -> Array:
    """[S, end, Q] scaled quantiles of the first ``end`` steps, by models whose lags are ``end`` and more."""
    import lightgbm
    from mlforecast import MLForecast
    from mlforecast.lag_transforms import RollingMean

    freq = panel.freq
    dates = [*_DATES[freq], *(_YEARLY[freq] if past >= YEAR[freq] else ())]
    lags = [end + more for more in _MORE_LAGS[freq]]
    lags += [YEAR[freq]] if past >= 2 * YEAR[freq] and YEAR[freq] >= end and YEAR[freq] not in lags else []
    models = {f"q{level:g}": lightgbm.LGBMRegressor(alpha=level, **_COMMON, **chosen) for level in LEVELS}
    engine = MLForecast(
        models=models,
        freq=panel.offset,
        lags=lags,
        lag_transforms={end: [RollingMean(size, min_samples=1) for size in _RECENT[freq]]},
        date_features=dates,
        num_threads=1,
    )
    ahead = [name for name in ("promo", "holiday", "price", *OWN) if name in table]
    static = [name for name in ("level", "store", "product", "category") if name in table]
    known = table["y"].notna().to_numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Lags from before a series' first step stay unknown, which trees can live with.
        engine.fit(table[known], static_features=static, dropna=False)
        future = table.loc[~known, ["unique_id", "ds", *ahead]] if ahead else None
        made = engine.predict(end, X_df=future)
    shape = (table["unique_id"].nunique(), end)
    return np.stack([made[name].to_numpy(dtype=np.float64).reshape(shape) for name in models], axis=-1)
