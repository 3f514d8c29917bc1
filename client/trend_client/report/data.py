"""What a report is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from trend_common.scoring import MINIMUM_HISTORY

if TYPE_CHECKING:
    import pandas as pd

    from trend_client.asides import Asides
    from trend_client.backtest import Backtest
    from trend_client.why.contributions import Contributions
    from trend_common.forecasts import Forecast
    from trend_common.panel import SalesPanel

__all__ = ["Privacy", "ReportData", "SentMessage"]


@dataclass(frozen=True)
class Privacy:
    """What joining the federation has cost in privacy.

    Attributes:
        epsilon: Spent so far, from the ledger; None if the federation used no differential privacy.
        delta: The probability with which ``epsilon`` may fail to hold.
        unit: What is protected: "series", "product" or "store"; any other text is shown as it is.
        rounds: Training rounds in which an update was sent; 0 if nothing ever was.
        bytes_sent: Sum over all messages.
        statement: The sentence in the report; "" takes the one that fits the numbers, in the report's language.
        guess: Probability of the best guess about one unit, from 0.5; None if it is not known.
        cap: The most that the policy allows ``epsilon`` to become; None if it is not known.
        problem: Why the ledger is not intact; "" if it is.
    """

    epsilon: float | None
    delta: float
    unit: str
    rounds: int
    bytes_sent: int
    statement: str = ""
    guess: float | None = None
    cap: float | None = None
    problem: str = ""


@dataclass(frozen=True)
class SentMessage:
    """One message that left this machine: when, of what kind, how large, and its SHA-256 in hexadecimal."""

    when: datetime
    kind: str
    bytes: int
    digest: str


@dataclass(frozen=True, eq=False)
class ReportData:
    """All that one report shows. All of it is private but ``privacy`` and ``sent``.

    A part that is None is absent from the report.

    Attributes:
        panel: The sales.
        forecast: The forecasts that the planner gets, after the panel's end.
        created: When the report was made.
        backtest: The comparison of methods, if there was enough data for one.
        privacy: The spending, or None if this retailer never joined a federation.
        sent: Every message that left.
        top: Number of series with a chart, the largest by recent volume.
        title: The retailer's name; default the panel's.
        language: "en" or "zh"; None takes this machine's.
        orders: The order list of ``trend-client orders``, as in ``orders.csv``.
        recommendations: What is worth doing, as in the JSON of ``trend-client recommend``.
        seasons: The seasons ahead, as in the JSON of ``trend-client season``.
        trends: Which way each series is heading, as in ``trend.csv``.
        contributions: What the forecasts of some series, or of all, are made of.
        asides: How good forecasts of prices and trend classes were in past windows.
    """

    panel: SalesPanel
    forecast: Forecast
    created: datetime
    backtest: Backtest | None = None
    privacy: Privacy | None = None
    sent: Sequence[SentMessage] = field(default_factory=tuple)
    top: int = 6
    title: str = ""
    language: str | None = None
    orders: pd.DataFrame | None = None
    recommendations: Mapping[str, Any] | None = None
    seasons: Sequence[Mapping[str, Any]] | None = None
    trends: pd.DataFrame | None = None
    contributions: Contributions | None = None
    asides: Asides | None = None

    def largest(self) -> list[str]:
        """The ``top`` forecast series with the most sales over their last year of steps, largest first."""
        recent = self.panel.frame.groupby("unique_id", sort=False).tail({"D": 364, "W": 52, "M": 12}[self.panel.freq])
        volume = recent.groupby("unique_id")["y"].sum()
        known = volume[volume.index.isin(self.forecast.ids) & (volume > 0)]
        return [str(name) for name in known.sort_values(ascending=False, kind="stable").index[: self.top]]

    def new_series(self) -> list[str]:
        """Forecast series with fewer known values than :data:`~trend_common.scoring.MINIMUM_HISTORY`."""
        known = self.panel.frame.groupby("unique_id")["y"].count().reindex(list(self.forecast.ids)).fillna(0)
        few = np.asarray(known < MINIMUM_HISTORY[self.panel.freq])
        return [name for name, young in zip(self.forecast.ids, few, strict=True) if young]
