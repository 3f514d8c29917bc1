"""Days ahead on which a whole shop will be closed, as its own past says.

Shops close over Christmas and on public holidays, and the days are rarely in an export. A *store* was closed on a day
on which none of its products was sold although it nearly always sells on such weekdays. That it will be closed again
is expected of

- a public holiday, by its name where the country is known and by the file's own holiday column, if the store was
  closed on every earlier one (of the column: on nearly every one);
- a day of Easter's calendar (Good Friday to Corpus Christi) on which it was closed in every earlier year;
- a date of the year on which it was closed in every earlier year, if the days without sales around it touch
  Christmas, New Year's Day or a public holiday of fixed date: a week of stocktaking in May is not expected again;
- a weekday on which it sold nothing in each of its last weeks, eight at least, while it sold on nearly all others; or
  on which all stores together did, since a small store alone cannot tell. Not where it was open at this time of an
  earlier year; and where no earlier year is known only after half a year without a sale on it, and not in December,
  when shops open longer than usual.

A plan goes before all of this: a step of ``panel.future`` whose ``open`` is 1 or 0.

Whole stores are looked at because single products rarely sell often enough to tell; so this is for forecasts, which
stay with the retailer. What is trained on under privacy knows of each series' own days alone
(:mod:`trend_common.panel.gaps`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_common.panel.calendar import EASTER_OFFSETS, easter_offset
from trend_common.scoring import future_dates, next_origin

if TYPE_CHECKING:
    from trend_common.forecasts import Forecast
    from trend_common.panel import SalesPanel

__all__ = ["expected_closures", "weekly_closures", "with_closures", "without_shut_days"]

_USUAL: Final = 0.95
"""Share of its weekday's days on which a store sells, from which on a day without any sale is a closed one."""

_FEWEST: Final = 8
"""Days of a weekday from which that share can be told."""

_LONGEST: Final = 16
"""Days of a run of closed days; longer ones are a gap in the export."""

_OF_COLUMN: Final = 0.9
_FEWEST_MARKED: Final = 3
"""Share of the days of the holiday column on which the store was closed, and how many of them there must be."""

_FIXED: Final = ((12, 24), (12, 25), (12, 26), (12, 31), (1, 1))
"""Holidays of fixed date around which shops close anywhere."""

_WEEKS: Final = 8
"""Weeks in a row without a sale on a weekday, from which on the store may be closed on it."""

_HALF_YEAR: Final = 26
"""The same where no earlier year is known: longer than the winter of shops that open on Sundays in summer."""

_SELLING: Final = 0.8
"""Mean share of its other weekdays on which a store sold in these weeks: else the weekday may be empty by chance."""

_YEAR: Final = 364
_NEAR: Final = (-7, 0, 7)
"""Days of a year of whole weeks; and around the same weekday of an earlier one, where a sale says that it is open."""

Calendar = pd.DatetimeIndex


def with_closures(panel: SalesPanel, horizon: int, country: str | None = None) -> SalesPanel:
    """The panel with the closed days that are expected of each store.

    Args:
        panel: Sales; only daily ones have closed days.
        horizon: Steps ahead that are looked at.
        country: ISO code, for public holidays.
    """
    if panel.freq != "D":
        return panel
    steps = future_dates(panel, next_origin(panel), horizon)
    return replace(panel, shut=expected_closures(panel, steps, country))


def expected_closures(
    panel: SalesPanel, steps: pd.DatetimeIndex, country: str | None = None
) -> dict[str, frozenset[pd.Timestamp]]:
    """Store → the days of ``steps`` on which it is expected to be closed; stores without any are left out."""
    marked = _marked(panel)
    names = _named_holidays(country, [*panel.frame["ds"].dt.year.unique(), *steps.year.unique()])
    plans = _plans(panel)
    weekly = weekly_closures(panel, steps)
    found: dict[str, frozenset[pd.Timestamp]] = {}
    for name, days in _days_with_sales(panel).items():
        planned = plans.get(name, {})
        idle, closed, calendar = _closed_days(days, panel.calendar_end)
        expected = {*(_ahead(calendar, idle, closed, steps, names, marked) if closed.any() else ())}
        expected |= weekly.get(name, frozenset())
        shut = [step for step in steps if not planned.get(step, step not in expected)]
        if shut:
            found[name] = frozenset(shut)
    return found


def weekly_closures(panel: SalesPanel, steps: pd.DatetimeIndex) -> dict[str, frozenset[pd.Timestamp]]:
    """Store → the days of ``steps`` on a weekday on which it is expected to be closed, whatever a plan says.

    Stores without any are left out.
    """
    stores = _days_with_sales(panel)
    together = pd.DatetimeIndex(panel.frame.loc[panel.frame["y"] > 0, "ds"].unique()).sort_values()
    everywhere = _closed_weekdays(together, steps) if len(stores) > 1 else frozenset()
    found = {name: everywhere | _closed_weekdays(days, steps) for name, days in stores.items()}
    return {name: days for name, days in found.items() if days}


def without_shut_days(forecast: Forecast, panel: SalesPanel) -> Forecast:
    """``forecast`` with nothing sold on days on which its series' store is expected to be closed."""
    if not panel.shut:
        return forecast
    store = panel.static["store"].reindex(list(forecast.ids)).to_numpy()
    closed = np.zeros(forecast.ds.shape, dtype=bool)
    for name, days in panel.shut.items():
        rows = np.flatnonzero(store == name)
        if rows.size:
            closed[rows] = np.isin(forecast.ds[rows], np.array(sorted(days), dtype="datetime64[ns]"))
    if not closed.any():
        return forecast
    return replace(
        forecast,
        quantiles=np.where(closed[..., None], 0.0, forecast.quantiles),
        mean=np.where(closed, 0.0, forecast.mean),
    )


def _days_with_sales(panel: SalesPanel) -> dict[str, Calendar]:
    """Store → the days on which any of its products was sold, of the stores that have one."""
    sold = panel.frame.loc[panel.frame["y"] > 0, ["unique_id", "ds"]]
    store = panel.static["store"].reindex(sold["unique_id"]).to_numpy()
    return {str(name): pd.DatetimeIndex(days.unique()).sort_values() for name, days in sold["ds"].groupby(store)}


def _closed_weekdays(sold: Calendar, steps: pd.DatetimeIndex) -> frozenset[pd.Timestamp]:
    """The steps on weekdays on which nothing was sold in the last weeks of ``sold``, which is ascending.

    Weeks are counted back from the last sale, so that an export that ends earlier for one store says nothing of it;
    those without any sale say nothing either.
    """
    if sold.empty:
        return frozenset()
    calendar = pd.date_range(sold[0], sold[-1], freq="D")
    traded = np.asarray(calendar.isin(sold))
    weeks = traded[len(traded) % 7 :].reshape(-1, 7)
    found: set[pd.Timestamp] = set()
    for column, weekday in enumerate(calendar[len(traded) % 7 :][:7].weekday):
        with_sale = np.flatnonzero(weeks[:, column])
        since = weeks[with_sale[-1] + 1 if with_sale.size else 0 :]
        since = since[since.any(axis=1)]
        if len(since) < _WEEKS:
            continue
        shares = since.mean(axis=0)
        if shares[shares > 0].mean() >= _SELLING:
            opened, known = _earlier_years(traded, np.asarray((steps - sold[0]).days))
            proven = known | ((len(since) >= _HALF_YEAR) & (steps.month != 12))
            found.update(steps[(steps.weekday == weekday) & ~opened & proven])
    return frozenset(found)


def _earlier_years(
    traded: NDArray[np.bool_], ahead: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """For each day ahead: whether the store sold on its weekday at that time of an earlier year; and whether at all.

    Args:
        traded: [T] days with a sale.
        ahead: [n] days ahead, counted as those.
    """
    opened, known = np.zeros(len(ahead), dtype=bool), np.zeros(len(ahead), dtype=bool)
    for then in range(_YEAR, int(ahead.max(initial=0)) + 1 + max(_NEAR), _YEAR):
        for day in range(min(_NEAR) - 3, max(_NEAR) + 4):
            at = ahead - then + day
            sold = (at >= 0) & (at < len(traded)) & traded[np.clip(at, 0, len(traded) - 1)]
            known |= sold & (ahead >= then)
            opened |= sold & (day in _NEAR)
    return opened, known


def _closed_days(sold: pd.DatetimeIndex, end: pd.Timestamp) -> tuple[NDArray[np.bool_], NDArray[np.bool_], Calendar]:
    """Days without any sale; those of them on weekdays on which the store nearly always sells; and the calendar.

    The share of a weekday is counted without days on which the store did not sell for days on end, as those of its
    closures are.
    """
    calendar = pd.date_range(sold.min(), end, freq="D")
    traded = calendar.isin(sold)
    near = pd.Series(traded).rolling(7, center=True, min_periods=1).mean().to_numpy() > 0.5
    closed = np.zeros(len(calendar), dtype=bool)
    for weekday in range(7):
        those = np.asarray(calendar.weekday == weekday)
        usual = those & near
        if usual.sum() >= _FEWEST and traded[usual].mean() >= _USUAL:
            closed |= those & ~traded
    return ~traded, closed, calendar


def _ahead(
    calendar: Calendar,
    idle: NDArray[np.bool_],
    closed: NDArray[np.bool_],
    steps: pd.DatetimeIndex,
    names: Mapping[pd.Timestamp, str],
    marked: frozenset[pd.Timestamp],
) -> list[pd.Timestamp]:
    """The steps on which a store is expected to be closed."""
    dates, next_dates = (days.month * 100 + days.day for days in (calendar, steps))
    offsets, next_offsets = (easter_offset(days.to_numpy()) for days in (calendar, steps))
    by_date = _always(np.asarray(dates), _seasonal(calendar, idle, closed, names))
    by_easter = _always(offsets, closed) & set(EASTER_OFFSETS)
    by_name = _always(np.array([names.get(day, "") for day in calendar], dtype=object), closed) - {""}
    flagged = closed[calendar.isin(marked)]
    by_column = marked if len(flagged) >= _FEWEST_MARKED and flagged.mean() >= _OF_COLUMN else frozenset()
    return [
        step
        for step, date, offset in zip(steps, next_dates, next_offsets, strict=True)
        if date in by_date or offset in by_easter or names.get(step) in by_name or step in by_column
    ]


def _always(keys: NDArray[Any], closed: NDArray[np.bool_]) -> set[Any]:
    """The keys on all of whose days the store was closed."""
    every = pd.Series(closed).groupby(np.asarray(keys)).all()
    return set(every.index[every])


def _seasonal(
    calendar: Calendar, idle: NDArray[np.bool_], closed: NDArray[np.bool_], names: Mapping[pd.Timestamp, str]
) -> NDArray[np.bool_]:
    """[T] days of runs without a sale that have a closed day and touch a holiday of fixed date."""
    fixed = {month * 100 + day for month, day in (*_FIXED, *_fixed_dates(names))}
    dates = np.asarray(calendar.month * 100 + calendar.day)
    found = np.zeros(len(calendar), dtype=bool)
    days = np.flatnonzero(idle)
    for run in np.split(days, np.flatnonzero(np.diff(days) > 1) + 1):
        around = dates[max(run[0] - 1, 0) : run[-1] + 2]
        if len(run) <= _LONGEST and closed[run].any() and fixed.intersection(around.tolist()):
            found[run] = True
    return found


def _fixed_dates(names: Mapping[pd.Timestamp, str]) -> set[tuple[int, int]]:
    """Months and days of the holidays that fall on one date in every year."""
    dates: dict[str, set[tuple[int, int]]] = {}
    for day, name in names.items():
        dates.setdefault(name, set()).add((day.month, day.day))
    years = len({day.year for day in names})
    return {next(iter(one)) for one in dates.values() if len(one) == 1 and years > 1}


def _named_holidays(country: str | None, years: Iterable[int]) -> dict[pd.Timestamp, str]:
    if not country:
        return {}
    import holidays

    try:
        found = holidays.country_holidays(country, years=sorted({int(year) for year in years}))
    except NotImplementedError:
        return {}  # the windows say what is wrong with it
    return {pd.Timestamp(day): str(name) for day, name in found.items()}


def _plans(panel: SalesPanel) -> dict[str, dict[pd.Timestamp, bool]]:
    """Store → day ahead → whether it is planned to be open, as one of its products at least says."""
    if "open" not in panel.future.columns:
        return {}
    rows = panel.future.dropna(subset="open")
    store = panel.static["store"].reindex(rows["unique_id"]).to_numpy()
    found: dict[str, dict[pd.Timestamp, bool]] = {}
    for name, day, value in zip(store, rows["ds"], rows["open"] > 0, strict=True):
        days = found.setdefault(str(name), {})
        days[day] = days.get(day, False) or bool(value)
    return found


def _marked(panel: SalesPanel) -> frozenset[pd.Timestamp]:
    """Days that the holiday column marks for any series, past and ahead."""
    found: set[pd.Timestamp] = set()
    for table in (panel.frame, panel.future):
        if "holiday" in table.columns and len(table):
            found |= set(table.loc[np.nan_to_num(table["holiday"].to_numpy(dtype=np.float64)) > 0, "ds"])
    return frozenset(found)
