"""What is expected to sell more, or less, than in the same number of steps before.

The interval of a sum over the horizon cannot be read off the steps' own quantiles: it is that of joint sample paths
(:mod:`trend_client.decisions.paths`), whose steps hang together as the errors of the test window did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from trend_client.backtest import Backtest
    from trend_common.forecasts import Forecast
    from trend_common.panel import SalesPanel

__all__ = ["COVERAGE", "Change", "changes", "movers"]

COVERAGE: Final = 0.8
_PATHS: Final = 512


@dataclass(frozen=True)
class Change:
    """One series' sum over the horizon beside its sum over as many steps before.

    Attributes:
        series: Its name.
        before: Sold in the steps before.
        expected: The forecast's mean, summed.
        low, high: The 80 % interval of the sum; NaN until :func:`movers` fills them in.
    """

    series: str
    before: float
    expected: float
    low: float = float("nan")
    high: float = float("nan")

    @property
    def difference(self) -> float:
        """Expected more (or, negative, less) than before."""
        return self.expected - self.before

    @property
    def relative(self) -> float:
        """The difference as a share of what was sold before; infinity where nothing was."""
        return self.difference / self.before if self.before > 0 else float("inf")

    @property
    def clear(self) -> bool:
        """Whether the interval excludes what was sold before."""
        return not self.low <= self.before <= self.high


def changes(panel: SalesPanel, forecast: Forecast) -> list[Change]:
    """The change of each forecast series whose sales are known in all of the steps before."""
    if not len(forecast):
        return []
    steps = pd.date_range(end=panel.calendar_end, periods=forecast.horizon, freq=panel.offset)
    recent = panel.frame[panel.frame["ds"].isin(steps)].groupby("unique_id")["y"].agg(["sum", "count"])
    recent = recent.reindex(list(forecast.ids))
    before = recent["sum"].to_numpy(dtype=np.float64)
    whole = recent["count"].to_numpy(dtype=np.float64) == forecast.horizon
    mean = forecast.mean.sum(axis=1)
    return [Change(forecast.ids[row], float(before[row]), float(mean[row])) for row in np.flatnonzero(whole)]


def movers(
    found: Sequence[Change], count: int, forecast: Forecast, backtest: Backtest | None = None
) -> tuple[list[Change], list[Change]]:
    """The largest expected rises and falls, in units, largest first, with their intervals.

    Args:
        found: All changes.
        count: Of each, at most.
        forecast: The forecast that they were made from.
        backtest: Says how the steps of a forecast hang together; None takes what retailers' sales usually show.
    """
    rises = sorted((one for one in found if one.difference > 0), key=lambda one: -one.difference)[:count]
    falls = sorted((one for one in found if one.difference < 0), key=lambda one: one.difference)[:count]
    ends = _intervals(forecast.select([one.series for one in (*rises, *falls)]), backtest)

    def whole(one: Change) -> Change:
        low, high = ends[one.series]
        return replace(one, low=low, high=high)

    return [whole(one) for one in rises], [whole(one) for one in falls]


def _intervals(forecast: Forecast, backtest: Backtest | None) -> dict[str, tuple[float, float]]:
    """Series → the ends of the interval of its sum."""
    from trend_client.decisions.paths import Dependence, Sampler, normal_scores

    if not len(forecast):
        return {}
    dependence = Dependence()
    if backtest is not None:
        dependence = Dependence.fit([normal_scores(backtest.forecast, backtest.actuals.y)])
    sampler = Sampler(dependence, forecast.horizon, paths=_PATHS)
    tail = (1 - COVERAGE) / 2
    found = {}
    for part, demand in sampler.demand(forecast):
        low, high = np.quantile(demand.sum(axis=2), (tail, 1 - tail), axis=1)
        for row, name in enumerate(forecast.ids[part]):
            found[name] = (float(low[row]), float(high[row]))
    return found
