"""What is forecast beside sales, scored: prices, and which way each product is heading.

Prices are forecast from the test window and the validation windows before it, by the pretrained model, as ``prices``
is: nothing is chosen there, so that all of these windows are unseen. They are compared with each product's last known
price, on the days on which a price was seen. Trend classes are read off the chosen forecast of the test window, as
``trend`` is, and compared with those of the recent average. S series, H horizon steps.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_client import gate
from trend_client.delivery import TREND_MARGIN, price_panel, trend_table
from trend_client.gate import Gain
from trend_client.paths import past_ranks
from trend_client.trial import sampled
from trend_common.baselines import baseline_forecast
from trend_common.errors import DataError
from trend_common.forecasts import LEVELS, Forecast
from trend_common.metrics import series_losses, sql, wql
from trend_common.panel import SalesPanel
from trend_common.scoring import actuals, most_windows, origins, panel_before, scale_of

if TYPE_CHECKING:
    from trend_client.backtest import Backtest
    from trend_client.engine import Engine
    from trend_client.outcome import Model

__all__ = ["CLASSES", "Asides", "PriceScores", "TrendScores", "asides", "price_scores", "trend_scores"]

Array = NDArray[np.float64]

CLASSES: Final = ("down", "flat", "up")

_MOST_WINDOWS: Final = 2
_MOST_SERIES: Final = 500
_FEWEST: Final = 20
"""Series of each kind below which nothing is said."""

_RESAMPLES: Final = 500


@dataclass(frozen=True)
class PriceScores:
    """Forecasts of prices against the last known price.

    Attributes:
        sql, wql: Of the model; lower is better.
        last_sql, last_wql: Of the last price, said with certainty.
        gain: In SQL, with a bootstrap interval over series and windows.
        changed: Share of the values that differ from the last price by more than 1 %.
        windows: How many.
        series: Series in windows that were compared.
    """

    sql: float
    wql: float
    last_sql: float
    last_wql: float
    gain: Gain
    changed: float
    windows: int
    series: int

    @property
    def trusted(self) -> bool:
        """Whether the model was better than the last price beyond chance."""
        return self.gain.outcome == "better"

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            **{name: round(getattr(self, name), 6) for name in ("sql", "wql", "last_sql", "last_wql", "changed")},
            "gain": {"relative": _number(self.gain.relative), "low": self.gain.low, "high": self.gain.high},
            "windows": self.windows,
            "series": self.series,
            "trusted": self.trusted,
        }


@dataclass(frozen=True)
class TrendScores:
    """Trend classes against those of the recent average.

    Attributes:
        f1, auroc: Macro means over the classes that occurred, of the chosen forecast.
        old_f1, old_auroc: Of the recent average.
        low, high: 95 % bootstrap interval over series of the difference in F1.
        counts: Class → series that went that way.
    """

    f1: float
    auroc: float
    old_f1: float
    old_auroc: float
    low: float
    high: float
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def series(self) -> int:
        """How many."""
        return sum(self.counts.values())

    @property
    def trusted(self) -> bool:
        """Whether the classes were better than the recent average's beyond chance."""
        return self.low > 0

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        figures = ("f1", "auroc", "old_f1", "old_auroc", "low", "high")
        return {
            **{name: _number(getattr(self, name)) for name in figures},
            "series": self.series,
            "counts": dict(self.counts),
            "trusted": self.trusted,
        }


@dataclass(frozen=True)
class Asides:
    """Both; None where there is too little to say anything."""

    prices: PriceScores | None = None
    trends: TrendScores | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "prices": None if self.prices is None else self.prices.to_json(),
            "trends": None if self.trends is None else self.trends.to_json(),
        }


def asides(engine: Engine, model: Model, panel: SalesPanel, tested: Backtest | None) -> Asides:
    """Score what can be scored.

    Args:
        engine, model: The home's.
        panel: All sales.
        tested: The backtest, for the chosen forecast of the test window.
    """
    trends = None if tested is None else trend_scores(panel, tested.forecast, tested.origins.test)
    return Asides(price_scores(engine, model, panel), trends)


def price_scores(engine: Engine, model: Model, panel: SalesPanel) -> PriceScores | None:
    """Forecasts of prices in past windows; of a sample of a large assortment."""
    prices = price_panel(panel) if "price" in panel.frame.columns else None
    if prices is None:
        return None
    seen = panel.frame["price"].where(panel.frame["price"] > 0)
    raw = replace(panel, frame=panel.frame.assign(y=seen), future=panel.future.iloc[:0])
    chosen = sampled(prices.ids, _MOST_SERIES)
    prices, raw = (replace(one.select(chosen), until=panel.calendar_end) for one in (prices, raw))
    try:
        cut = origins(raw, model.horizon, windows=min(most_windows(raw, model.horizon), _MOST_WINDOWS - 1))
    except DataError:
        return None
    forecaster = engine.forecaster(None, context=model.context)
    own: list[Array] = []
    last: list[Array] = []
    rates: list[tuple[float, float, float, float, float]] = []
    for day in (*cut.rolling, cut.test):
        truth = actuals(raw, day, model.horizon)
        known = panel_before(prices, day)
        made = forecaster(known, day, model.horizon)
        there = set(made.ids)
        ids = [name for name in truth.ids if name in there]
        if len(ids) < _FEWEST:
            continue
        y, made = truth.select(ids).y, made.select(ids)
        before = known.frame.dropna(subset=["y"]).groupby("unique_id")["y"].last().reindex(ids).to_numpy()
        naive = _certain(made, np.broadcast_to(before[:, None], y.shape))
        scale = scale_of(raw, ids, cut.rolling[0])
        own.append(series_losses(y, made, scale))
        last.append(series_losses(y, naive, scale))
        moved = np.abs(y / before[:, None] - 1) > 0.01
        changed = float(moved[np.isfinite(y)].mean())
        rates.append((sql(y, made, scale), wql(y, made), sql(y, naive, scale), wql(y, naive), changed))
    if not rates:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # series that cannot be scaled have no loss
        means = np.nanmean(np.array(rates), axis=0)
    gain = gate.gain(np.concatenate(own), np.concatenate(last), against="last price")
    found = [float(one) for one in means]
    return PriceScores(found[0], found[1], found[2], found[3], gain, found[4], len(rates), gain.series)


def _certain(like: Forecast, values: Array) -> Forecast:
    """The values with certainty."""
    every = np.broadcast_to(values[..., None], (*values.shape, len(LEVELS))).copy()
    return Forecast(like.ids, like.ds, LEVELS, every, values.copy())


def trend_scores(panel: SalesPanel, forecast: Forecast, origin: pd.Timestamp) -> TrendScores | None:
    """Classes and probabilities that the forecast of a past window gave, against what came.

    Args:
        panel: All sales.
        forecast: Made at ``origin`` with what was known then.
        origin: First step of the window.
    """
    steps = forecast.horizon
    known = panel_before(panel, origin)
    known = replace(known.select(forecast.ids), until=pd.date_range(end=origin, periods=2, freq=panel.offset)[0])
    ids, ranks = past_ranks(known, steps)
    row = {name: position for position, name in enumerate(ids)}
    made = forecast.select(name for name in forecast.ids if name in row)
    table = trend_table(known, made, ranks[[row[name] for name in made.ids]]).set_index("unique_id")
    truth = actuals(panel, origin, steps, minimum=1)
    half = np.isfinite(truth.y).sum(1) >= steps / 2
    came = pd.Series(np.nanmean(np.where(half[:, None], truth.y, 0.0), axis=1), index=list(truth.ids))[half]
    table = table[table["trend"] != ""].join(came.rename("came"), how="inner")
    average = baseline_forecast(["same-phase-mean"], known, origin, steps)["same-phase-mean"]
    mean = pd.Series(average.mean.mean(1), index=list(average.ids))
    table = table.join(mean.rename("average"), how="inner")
    if len(table) < _FEWEST:
        return None
    before = table["before"].to_numpy()
    real, usual = _class(table["came"].to_numpy(), before), _class(table["average"].to_numpy(), before)
    said = np.array([CLASSES.index(name) for name in table["trend"]])
    ratio = table["average"].to_numpy() / before - 1
    scores = table[list(CLASSES)].to_numpy(dtype=np.float64)
    old_scores = np.stack([-ratio, -np.abs(ratio), ratio], axis=1)
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(_RESAMPLES):
        picked = rng.integers(0, len(real), len(real))
        draws.append(_f1(real[picked], said[picked]) - _f1(real[picked], usual[picked]))
    low, high = (float(one) for one in np.quantile(draws, (0.025, 0.975)))
    counts = {name: int((real == place).sum()) for place, name in enumerate(CLASSES)}
    return TrendScores(
        _f1(real, said), _auroc(real, scores), _f1(real, usual), _auroc(real, old_scores), low, high, counts
    )


def _class(ahead: Array, before: Array) -> NDArray[np.int64]:
    return np.where(ahead > (1 + TREND_MARGIN) * before, 2, np.where(ahead < (1 - TREND_MARGIN) * before, 0, 1))


def _f1(real: NDArray[np.int64], said: NDArray[np.int64]) -> float:
    """Mean over the classes that occur of 2 · hits / (said + real)."""
    found = []
    for place in np.unique(real):
        hits = ((real == place) & (said == place)).sum()
        found.append(2 * hits / ((real == place).sum() + (said == place).sum()))
    return float(np.mean(found))


def _auroc(real: NDArray[np.int64], scores: Array) -> float:
    """Mean over the classes, each against the others, of the area under the ROC curve (Mann and Whitney 1947)."""
    from scipy.stats import rankdata

    found = []
    for place in range(scores.shape[1]):
        mine = real == place
        count, others = int(mine.sum()), int((~mine).sum())
        if count and others:
            found.append((rankdata(scores[:, place])[mine].sum() - count * (count + 1) / 2) / (count * others))
    return float(np.mean(found)) if found else float("nan")


def _number(value: float) -> float | None:
    return None if not np.isfinite(value) else round(float(value), 6)
