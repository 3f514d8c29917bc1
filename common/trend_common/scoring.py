"""The one calendar cut, and the scores of a forecast against what came to pass.

All retailers and methods are cut at the same two steps of the calendar::

    ... history ... | validation (H steps) | test (H steps) | panel.calendar_end
                    ^ origins.validation   ^ origins.test

An *origin* is the first step to be forecast; whatever is dated on or after it is unknown to the forecaster. Training
may use steps up to ``origins.train_end`` alone. Choices among methods are made on validation; the test is for
reporting and is looked at once. Shapes: S series, T calendar steps, H horizon steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypedDict

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_common import metrics
from trend_common.covariates import SEASON
from trend_common.errors import DataError
from trend_common.forecasts import Forecast
from trend_common.metrics import SeasonalError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trend_common.panel import SalesPanel

__all__ = [
    "MINIMUM_HISTORY",
    "MOST_WINDOWS",
    "Actuals",
    "Grid",
    "Origins",
    "Score",
    "actuals",
    "future_dates",
    "grid",
    "most_windows",
    "next_origin",
    "origins",
    "panel_before",
    "scale_of",
    "score",
    "training_panel",
]

Array = NDArray[np.float64]

MINIMUM_HISTORY: Final = {"D": 28, "W": 8, "M": 13}
"""Known values that a series needs before an origin to be scored there; with fewer it counts as a new product."""

MOST_WINDOWS: Final = 4
"""Validation windows that a choice uses where the history is long enough."""


class Score(TypedDict):
    """The measures of one method on one window; NaN where one is undefined.

    ``wape`` is of the median and ``wape_mean`` of the mean; ``mase`` is of the median, ``rmsse`` and ``rmse`` of the
    mean. ``series`` were scored, ``dropped`` of them only in the unscaled measures (their seasonal error is zero or
    unknown).
    """

    wape: float
    wape_mean: float
    mase: float
    rmsse: float
    rmse: float
    sql: float
    wql: float
    coverage80: float
    coverage90: float
    series: int
    dropped: int


@dataclass(frozen=True)
class Origins:
    """The calendar cut.

    Attributes:
        train_end: Last step that training may use: the one before the earliest validation window.
        validation: First step of the validation window, one horizon before ``test``.
        test: First step of the test window, which ends with the panel's calendar.
        rolling: All validation origins, ascending; the last is ``validation``.
    """

    train_end: pd.Timestamp
    validation: pd.Timestamp
    test: pd.Timestamp
    rolling: tuple[pd.Timestamp, ...]


def most_windows(panel: SalesPanel, horizon: int) -> int:
    """How many validation windows the panel's calendar has room for, at most :data:`MOST_WINDOWS` and at least 1."""
    steps = len(pd.date_range(panel.start, panel.calendar_end, freq=panel.offset))
    room = (steps - horizon - MINIMUM_HISTORY[panel.freq]) // horizon
    return int(min(max(room, 1), MOST_WINDOWS))


@dataclass(frozen=True, eq=False)
class Grid:
    """The values of a panel on one calendar.

    Attributes:
        ids: S series.
        calendar: T steps from the panel's first to the end of its calendar.
        y: [S, T], NaN where unknown and outside a series' own range.
    """

    ids: tuple[str, ...]
    calendar: pd.DatetimeIndex
    y: Array


@dataclass(frozen=True, eq=False)
class Actuals:
    """What came to pass in one window.

    Attributes:
        ids: The S series that can be scored.
        ds: [H] steps.
        y: [S, H], NaN where unknown; every row has at least one known value.
        excluded: Series with known values in the window but too little history before it.
    """

    ids: tuple[str, ...]
    ds: NDArray[np.datetime64]
    y: Array
    excluded: int

    def select(self, ids: Sequence[str]) -> Actuals:
        """The same window for some of its series, in the order given."""
        position = {name: row for row, name in enumerate(self.ids)}
        return replace(self, ids=tuple(ids), y=self.y[[position[name] for name in ids]])


def future_dates(panel: SalesPanel, origin: pd.Timestamp, horizon: int) -> pd.DatetimeIndex:
    """The H steps of the panel's grid from ``origin`` on."""
    return pd.date_range(origin, periods=horizon, freq=panel.offset)


def next_origin(panel: SalesPanel) -> pd.Timestamp:
    """The first step after the panel: where the forecasts that a planner uses begin."""
    return pd.date_range(panel.calendar_end, periods=2, freq=panel.offset)[1]


def origins(panel: SalesPanel, horizon: int, *, windows: int = 1, step: int | None = None) -> Origins:
    """Cut the panel's calendar into training, validation and test.

    Args:
        panel: Sales on a regular grid.
        horizon: H, the steps of each window.
        windows: Number of validation windows. More than one moves ``train_end`` back: a model that trained inside a
            window looks better there than it is.
        step: Steps between two validation origins; default H (windows that do not overlap).

    Raises:
        DataError: The calendar is too short for a test, the validation and the minimum history before them.
    """
    if horizon < 1 or windows < 1 or (step is not None and step < 1):
        raise ValueError(f"horizon {horizon}, windows {windows}, step {step}: expected at least 1 each")
    calendar = pd.date_range(panel.start, panel.calendar_end, freq=panel.offset)
    stride = step or horizon
    needed = 2 * horizon + (windows - 1) * stride + MINIMUM_HISTORY[panel.freq]
    if len(calendar) < needed:
        room = (len(calendar) - MINIMUM_HISTORY[panel.freq] - (windows - 1) * stride) // 2
        advice = f"Use a horizon of {room} or less" if room >= 1 else "Add earlier sales"
        raise DataError(
            f"The data cover {len(calendar)} steps; a backtest with horizon {horizon} needs {needed}: a test window, "
            f"{windows} validation window(s) and {MINIMUM_HISTORY[panel.freq]} steps of history before them.",
            f"{advice}.",
        )
    test = len(calendar) - horizon
    rolling = tuple(calendar[test - horizon - back * stride] for back in reversed(range(windows)))
    first = int(calendar.searchsorted(rolling[0]))
    return Origins(calendar[first - 1], rolling[-1], calendar[test], rolling)


def grid(panel: SalesPanel, *, before: pd.Timestamp | None = None) -> Grid:
    """Lay the panel's values on one calendar.

    Args:
        panel: Sales on a regular grid.
        before: The calendar ends with the step before this one, cut or extended by unknown values; default: it ends
            with the panel.
    """
    end = panel.calendar_end if before is None else before
    calendar = pd.date_range(panel.start, end, freq=panel.offset, inclusive="both" if before is None else "left")
    codes, names = pd.factorize(panel.frame["unique_id"], sort=True)
    dates = pd.DatetimeIndex(panel.frame["ds"])
    columns = calendar.get_indexer(dates)
    inside = np.asarray(dates <= end) if before is None else np.asarray(dates < before)
    if (columns[inside] < 0).any():
        stray = dates[inside & (columns < 0)][0].date()
        raise ValueError(f"panel.frame: {stray} is not on the grid {panel.offset!r} that starts {panel.start.date()}")
    values = np.full((len(names), len(calendar)), np.nan)
    values[codes[inside], columns[inside]] = panel.frame["y"].to_numpy(dtype=np.float64)[inside]
    return Grid(tuple(str(name) for name in names), calendar, values)


def panel_before(panel: SalesPanel, origin: pd.Timestamp) -> SalesPanel:
    """The panel as it was known just before ``origin``.

    Sales, closures, stock, returns and own columns that nobody knows beforehand end at the origin. Prices,
    promotions, holidays and the other own columns after it move to ``future``: they are planned or public. A series
    that starts later keeps its static row, as a product about to be launched.
    """
    past = panel.frame["ds"] < origin
    ahead = _ahead(panel)
    later = panel.frame.loc[~past, ahead]
    known = panel.future[panel.future["ds"] >= origin] if len(panel.future) else panel.future
    if len(ahead) == 2:
        later = later.iloc[:0]
    future = _sorted([later, known], panel.future)
    until = None if panel.until is None else min(panel.until, _step_before(origin, panel.offset))
    return replace(panel, frame=panel.frame[past].reset_index(drop=True), future=future, until=until)


def training_panel(panel: SalesPanel, horizon: int) -> SalesPanel:
    """The panel without the steps that a shared model must not be trained on: validation and test, 2 · H steps.

    They are counted back from the declared last step (``panel.until``). Where nobody declared one they are counted
    back from each series' own last step: never later than what the panel's end would give, and independent of all
    other series. Either way no other series moves what is left of one, and sales of the two windows are not there at
    all. As in :func:`panel_before`, plans go to ``future``.

    Raises:
        DataError: The data are too short for a backtest of this horizon, or no series has more than 2 · H steps.
    """
    cut = origins(panel, horizon)
    if panel.until is not None:
        kept = panel_before(panel, cut.validation)
    else:
        past = _from_the_end(panel.frame["unique_id"]) > 2 * horizon
        ahead = _ahead(panel)
        later = panel.frame.loc[~past, ahead].iloc[: None if len(ahead) > 2 else 0]
        kept = replace(
            panel, frame=panel.frame[past].reset_index(drop=True), future=_sorted([later, panel.future], panel.future)
        )
    ids = pd.Index(kept.frame["unique_id"].unique())
    if not len(ids):
        raise DataError(
            f"No series has more than {2 * horizon} steps, of which the last {2 * horizon} are kept for testing.",
            "Use a shorter horizon or a longer history.",
        )
    # A series of which nothing is left has no windows; its own rows alone decide that.
    future = kept.future[kept.future["unique_id"].isin(ids)].reset_index(drop=True)
    return replace(kept, static=kept.static[kept.static.index.isin(ids)], future=future)


def _from_the_end(ids: pd.Series) -> NDArray[np.int64]:
    """For each row how many rows of its series begin with it: 1 for the last."""
    codes, names = pd.factorize(ids)
    sizes = np.bincount(codes, minlength=len(names))
    counted = np.empty(len(codes), dtype=np.int64)
    counted[np.argsort(codes, kind="stable")] = np.arange(len(codes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.asarray(sizes[codes] - counted)


def _ahead(panel: SalesPanel) -> list[str]:
    """The columns of the frame that may be known ahead, with the keys."""
    return [name for name in ("unique_id", "ds", *panel.known_ahead) if name in panel.frame.columns]


def _sorted(parts: Sequence[pd.DataFrame], empty: pd.DataFrame) -> pd.DataFrame:
    """Planned rows below each other, by series and step."""
    filled = [part for part in parts if len(part)]
    if not filled:
        return empty.iloc[:0]
    if len(filled) == 1:
        return filled[0].reset_index(drop=True)  # a panel's tables are sorted
    joined = pd.concat(filled, ignore_index=True)
    return joined.sort_values(["unique_id", "ds"], kind="stable", ignore_index=True)


def _step_before(step: pd.Timestamp, offset: str) -> pd.Timestamp:
    return pd.date_range(end=step, periods=2, freq=offset)[0]


def scale_of(panel: SalesPanel, ids: Sequence[str], origin: pd.Timestamp) -> SeasonalError:
    """[S] seasonal errors of the named series from their values before ``origin``.

    All windows use the same origin, that of the first validation window: a yardstick that neither window can stretch.
    """
    history = grid(panel, before=origin)
    row = {name: position for position, name in enumerate(history.ids)}
    return metrics.seasonal_error(history.y[[row[name] for name in ids]], SEASON[panel.freq])


def actuals(panel: SalesPanel, origin: pd.Timestamp, horizon: int, *, minimum: int | None = None) -> Actuals:
    """What came to pass in the window from ``origin``, for the series that can be scored.

    Args:
        panel: Sales that reach beyond the origin.
        origin: First step of the window.
        horizon: H.
        minimum: Known values needed before the origin; default :data:`MINIMUM_HISTORY`.
    """
    values = grid(panel)
    start = int(values.calendar.searchsorted(origin))
    window = values.y[:, start : start + horizon]
    if window.shape[1] < horizon:
        raise ValueError(f"origin: {origin.date()} leaves {window.shape[1]} steps, horizon is {horizon}")
    enough = (~np.isnan(values.y[:, :start])).sum(axis=1) >= (
        MINIMUM_HISTORY[panel.freq] if minimum is None else minimum
    )
    seen = (~np.isnan(window)).any(axis=1)
    rows = np.flatnonzero(enough & seen)
    dates = values.calendar[start : start + horizon].to_numpy(dtype="datetime64[ns]")
    return Actuals(tuple(values.ids[row] for row in rows), dates, window[rows], int((seen & ~enough).sum()))


def score(y: Array, forecast: Forecast, scale: SeasonalError) -> Score:
    """All measures of one forecast.

    Args:
        y: [S, H] truth in the order of ``forecast.ids``, NaN where unknown.
        forecast: S series, H steps.
        scale: [S] seasonal errors in the same order.

    Raises:
        ValueError: The three differ in shape.
    """
    if y.shape != forecast.mean.shape or scale.absolute.shape != (len(forecast),):
        raise ValueError(f"y: shape {y.shape}, forecast {forecast.mean.shape}, scale {scale.absolute.shape}")
    scored = (~np.isnan(y)).any(axis=1)
    return Score(
        wape=metrics.wape(y, forecast.median),
        wape_mean=metrics.wape(y, forecast.mean),
        mase=metrics.mase(y, forecast.median, scale),
        rmsse=metrics.rmsse(y, forecast.mean, scale),
        rmse=metrics.rmse(y, forecast.mean),
        sql=metrics.sql(y, forecast, scale),
        wql=metrics.wql(y, forecast),
        coverage80=metrics.coverage(y, forecast, 0.8),
        coverage90=metrics.coverage(y, forecast, 0.9),
        series=int(scored.sum()),
        dropped=int((scored & ~scale.usable).sum()),
    )
