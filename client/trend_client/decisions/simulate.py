"""Stock rules played against the past: who runs out, who holds how much.

Every R steps each rule sees what was known then, says up to where to order, and then meets what was really sold. All
rules meet the same demand with the same lead times; what cannot be served is lost. Nothing of a step is known before
it but planned prices, promotions and holidays. Shapes: S series, T steps, E reviews, A service levels.

The rules:

- ``forecast``: the quantile of demand over lead time and review period on joint paths (:mod:`.paths`) that met the
  level in past intervals (:mod:`.levels`), those that ended before the review.
- ``forecast, levels as they are``: the level's own quantile on the same paths.
- ``forecast, days independent`` and ``forecast, quantiles added``: the same forecast, summed as if days knew nothing
  of each other, or by adding up the daily quantiles. They show what the joint paths are worth.
- ``normal``: the textbook's rule, μ·(L + R) + z·σ·√(L + R), from the last eight weeks (or a year of weeks, months).
- ``normal, seasonal``: mean of the last eight equal weekdays over the interval, and z times the root mean square
  error that this very rule made over such intervals in the past.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_client.contest import Forecaster
from trend_client.decisions.levels import PAST_SUMS, ServiceLevels, ranks
from trend_client.decisions.outlook import dependence_before
from trend_client.decisions.paths import Dependence, Sampler
from trend_client.decisions.policy import Terms, lead_times
from trend_common.baselines import baseline_forecast
from trend_common.errors import DataError
from trend_common.forecasts import Forecast
from trend_common.panel import SalesPanel
from trend_common.scoring import MINIMUM_HISTORY, grid, panel_before

__all__ = ["LEVELS", "RULES", "Played", "Simulation", "play", "simulate"]

Array = NDArray[np.float64]

LEVELS: Final = (0.6, 0.8, 0.9, 0.95, 0.98, 0.995)
RULES: Final = (
    "forecast",
    "forecast, levels as they are",
    "forecast, days independent",
    "forecast, quantiles added",
    "normal",
    "normal, seasonal",
)

_LOOK_BACK: Final = {"D": 56, "W": 26, "M": 12}
_PAST_ERRORS: Final = 12


@dataclass(frozen=True)
class Played:
    """What a rule at one service level came to.

    Attributes:
        cycles: Share of review cycles of all series without a stock-out, in cycles that had any demand.
        fill: Share of the units asked for that could be sold, over all series.
        fill_series: The same for each series, averaged.
        stock: Mean stock at the end of a step over mean demand of a step, all series together: steps of demand held.
        stock_series: The same for each series, its median.
        lost: Units not sold.
    """

    cycles: float
    fill: float
    fill_series: float
    stock: float
    stock_series: float
    lost: float


@dataclass(frozen=True, eq=False)
class Simulation:
    """All rules at all levels on the same demand.

    Attributes:
        results: (rule, level) → what it came to.
        terms, steps, series, reviews: What was played.
        dependence: What the joint paths were made with; learned before the first review.
    """

    results: Mapping[tuple[str, float], Played]
    terms: Terms
    start: pd.Timestamp
    steps: int
    series: int
    reviews: int
    dependence: Dependence

    def stock_at(self, rule: str, fill: float) -> float | None:
        """The stock with which ``rule`` fills this share: linear between its levels, None outside of them."""
        points = sorted((one.fill, one.stock) for (name, _), one in self.results.items() if name == rule)
        if not points[0][0] <= fill <= points[-1][0]:
            return None
        return float(np.interp(fill, [x for x, _ in points], [y for _, y in points]))

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "start": str(self.start.date()),
            "steps": self.steps,
            "series": self.series,
            "reviews": self.reviews,
            "lead_time": self.terms.lead_time,
            "lead_time_sd": self.terms.lead_time_sd,
            "review": self.terms.review,
            "dependence": {"common": self.dependence.common, "carry": self.dependence.carry},
            "rules": [
                {"rule": rule, "service_level": level, **{k: round(v, 5) for k, v in vars(one).items()}}
                for (rule, level), one in self.results.items()
            ],
        }


def simulate(
    panel: SalesPanel,
    forecaster: Forecaster,
    terms: Terms,
    *,
    steps: int,
    levels: Sequence[float] = LEVELS,
    progress: Callable[[str], None] = lambda _: None,
    seed: int = 0,
) -> Simulation:
    """Play all rules on the last ``steps`` steps of the sales.

    Args:
        panel: All sales.
        forecaster: Asked at every review with what was known then; must not have trained on these steps.
        terms: Lead time and review period; pack and minimum order are left out, being the same for all.
        steps: T, whole review periods.
        levels: Service levels.
        progress: Called before each review.
        seed: Of lead times and paths.

    Raises:
        DataError: The history before is too short.
    """
    values = grid(panel)
    steps -= steps % terms.review
    start = len(values.calendar) - steps
    need = MINIMUM_HISTORY[panel.freq] + 2 * terms.steps
    if steps < terms.longest_lead_time + 2 * terms.review or start < need:
        raise DataError(
            f"The sales cover {len(values.calendar)} steps; playing stock rules over the last {steps} needs {need} "
            f"before them, and at least {terms.longest_lead_time + 2 * terms.review} to play.",
            "Give a longer history, or fewer steps.",
        )
    seen = ~np.isnan(values.y)
    rows = np.flatnonzero(
        (seen[:, :start].sum(1) >= MINIMUM_HISTORY[panel.freq])
        & seen[:, start:].any(1)
        & (values.y[:, :start] > 0).any(1)
    )
    if not len(rows):
        raise DataError("No series has a history before these steps and sales in them.", "Give fewer steps.")
    ids = tuple(values.ids[row] for row in rows)
    origin = values.calendar[start]
    dependence = dependence_before(forecaster, panel, origin, max(terms.steps, 14 if panel.freq == "D" else 4))
    tied = Sampler(dependence, terms.steps, seed=seed)
    untied = Sampler(Dependence(0.0, 0.0), terms.steps, seed=seed)
    cover = _cover(terms)
    reviews = range(start, len(values.calendar), terms.review)
    past: list[tuple[int, Array]] = []

    def remember(at: int, made: Forecast) -> None:
        """Where the sum from step ``at`` on fell; to be used once it is over, ``cover`` steps later."""
        truth = values.y[rows, at : at + cover]
        if truth.shape[1] == cover:
            known = np.where(np.isnan(truth).all(1), np.nan, np.nansum(truth, axis=1))
            past.append((at + cover, ranks(_totals(tied, made, cover), known)))

    for back in range(PAST_SUMS):
        at = start - cover - back * terms.review
        if at >= need - 2 * terms.steps:
            day = values.calendar[at]
            made = forecaster(panel_before(panel, day), day, terms.steps)
            remember(at, made.select(ids))
    targets = {rule: np.zeros((len(levels), len(ids), len(reviews))) for rule in RULES}
    for number, at in enumerate(reviews):
        progress(f"review {number + 1} of {len(reviews)}")
        day = values.calendar[at]
        known = panel_before(panel, day)
        made = forecaster(known, day, terms.steps).select(ids)
        learned = ServiceLevels.fit([one for over, one in past if over <= at][-PAST_SUMS:])
        remember(at, made)
        targets["forecast"][:, :, number] = _quantiles(tied, made, terms, levels, learned)
        targets["forecast, levels as they are"][:, :, number] = _quantiles(tied, made, terms, levels)
        targets["forecast, days independent"][:, :, number] = _quantiles(untied, made, terms, levels)
        for position, level in enumerate(levels):
            targets["forecast, quantiles added"][position, :, number] = made.quantile(min(level, 0.99))[
                :, :cover
            ].sum(1)
        history = values.y[rows, :at]
        targets["normal"][:, :, number] = _normal(history, terms, levels, _LOOK_BACK[panel.freq])
        targets["normal, seasonal"][:, :, number] = _seasonal(
            panel_before(panel, day).select(ids), ids, day, values.calendar[:at], history, terms, levels
        )
    demand = np.nan_to_num(values.y[rows, start:])
    arrival = lead_times(terms, np.random.default_rng(seed).standard_normal(len(reviews)))
    results = {
        (rule, level): play(demand, found[position], arrival, terms.review)
        for rule, found in targets.items()
        for position, level in enumerate(levels)
    }
    return Simulation(results, terms, origin, steps, len(ids), len(reviews), dependence)


def play(demand: Array, order_up_to: Array, arrival: NDArray[np.int64], review: int) -> Played:
    """One rule against one demand.

    The first review's level is on the shelf at the start. Orders never cross: one that would arrive before an older
    one waits for it. Counting starts when the first order could have arrived.

    Args:
        demand: [S, T].
        order_up_to: [S, E] the levels at steps 0, R, 2R, ...
        arrival: [E] steps from each order to its arrival.
        review: R.
    """
    series, steps = demand.shape
    stock = order_up_to[:, 0].copy()
    pipeline = np.zeros((series, steps + int(arrival.max()) + 1))
    due = np.maximum.accumulate(np.arange(order_up_to.shape[1]) * review + arrival)
    first = int(due[0])
    held, lost = np.zeros((series, steps)), np.zeros((series, steps))
    for step in range(steps):
        if step % review == 0:
            number = step // review
            order = np.maximum(order_up_to[:, number] - stock - pipeline[:, step:].sum(1), 0.0)
            pipeline[:, due[number]] += order
        stock += pipeline[:, step]
        sold = np.minimum(stock, demand[:, step])
        stock -= sold
        held[:, step], lost[:, step] = stock, demand[:, step] - sold
    asked, lost, held = demand[:, first:], lost[:, first:], held[:, first:]
    whole = asked.shape[1] // review * review
    cycle = asked[:, :whole].reshape(series, -1, review).sum(-1)
    missed = lost[:, :whole].reshape(series, -1, review).sum(-1)
    active = asked.sum(1) > 0
    level = asked[active].mean(1)
    return Played(
        cycles=float(1 - (missed[cycle > 0] > 1e-9).mean()) if (cycle > 0).any() else float("nan"),
        fill=float(1 - lost.sum() / asked.sum()),
        fill_series=float((1 - lost[active].sum(1) / asked[active].sum(1)).mean()),
        stock=float(held.mean() / asked.mean()),
        stock_series=float(np.median(held[active].mean(1) / level)),
        lost=float(lost.sum()),
    )


def _cover(terms: Terms) -> int:
    return round(terms.lead_time) + terms.review


def _totals(sampler: Sampler, made: Forecast, cover: int) -> Array:
    """[S, N] sums over the mean interval."""
    return np.concatenate([demand[:, :, :cover].sum(2) for _, demand in sampler.demand(made)])


def _quantiles(
    sampler: Sampler, made: Forecast, terms: Terms, levels: Sequence[float], learned: ServiceLevels | None = None
) -> Array:
    """[A, S] quantiles of demand over lead time and review period."""
    found = np.zeros((len(levels), len(made)))
    until = lead_times(terms, sampler.extra) + terms.review
    right = learned or ServiceLevels()
    for part, demand in sampler.demand(made):
        sums = np.concatenate([np.zeros((*demand.shape[:2], 1)), np.cumsum(demand, axis=2)], axis=2)
        for row, one in zip(range(part.start, part.stop), sums, strict=True):
            found[:, row] = right.quantiles(one, until, levels)
    return found


def _normal(history: Array, terms: Terms, levels: Sequence[float], back: int) -> Array:
    """[A, S] the textbook's rule; the spread of the lead time enters as μ·σ_L (Silver, Pyke and Thomas 2017)."""
    recent = history[:, -back:]
    known = np.isfinite(recent)
    count = np.maximum(known.sum(1), 1)
    value = np.where(known, recent, 0.0)
    mean = value.sum(1) / count
    variance = np.where(known, (value - mean[:, None]) ** 2, 0.0).sum(1) / np.maximum(count - 1, 1)
    interval = terms.lead_time + terms.review
    spread = np.sqrt(variance * interval + (mean * terms.lead_time_sd) ** 2)
    z = np.array([NormalDist().inv_cdf(level) for level in levels])
    return np.asarray(np.maximum(mean * interval + z[:, None] * spread, 0.0))


def _seasonal(
    known: SalesPanel,
    ids: Sequence[str],
    day: pd.Timestamp,
    calendar: pd.DatetimeIndex,
    history: Array,
    terms: Terms,
    levels: Sequence[float],
) -> Array:
    """[A, S] the rule with a mean for each weekday, and its own past errors over such intervals."""
    cover = _cover(terms)

    def mean_at(at: pd.Timestamp) -> Array:
        made = baseline_forecast(["same-phase-mean"], known, at, cover)["same-phase-mean"]
        where = {name: row for row, name in enumerate(made.ids)}
        total = made.mean.sum(1)
        return np.array([total[where[name]] if name in where else np.nan for name in ids])

    squares, count = np.zeros(len(ids)), np.zeros(len(ids))
    for back in range(_PAST_ERRORS):
        begin = history.shape[1] - cover - back * terms.review
        if begin < 2 * cover:
            break
        error = np.nansum(history[:, begin : begin + cover], axis=1) - mean_at(calendar[begin])
        fits = np.isfinite(error) & np.isfinite(history[:, begin : begin + cover]).any(1)
        squares, count = squares + np.where(fits, error, 0.0) ** 2, count + fits
    level = np.nan_to_num(mean_at(day))
    spread = np.sqrt(squares / np.maximum(count, 1) + (level / cover * terms.lead_time_sd) ** 2)
    z = np.array([NormalDist().inv_cdf(one) for one in levels])
    return np.asarray(np.maximum(level + z[:, None] * spread, 0.0))
