"""Whether the forecasts of the last weeks were as good as the backtest said: a simple, stated test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

__all__ = ["LEAST", "WINDOW", "Drift", "Expected", "StepScore", "drift_of", "scores_of"]

WINDOW: Final = {"D": 28, "W": 8, "M": 6}
"""The newest scored steps that are looked at."""

LEAST: Final = {"D": 7, "W": 4, "M": 3}
"""With fewer scored steps nothing is said."""

_COVERAGE: Final = 0.10
_WORSE: Final = 1.25
_ERRORS: Final = 2.0


@dataclass(frozen=True)
class StepScore:
    """How all series of one day, week or month came out against the last forecast made before it.

    Attributes:
        day: YYYY-MM-DD.
        n: Series with known sales and a forecast.
        inside: Of these, how many sold within the 80 % interval.
        error: Sum of absolute errors of the median, in units.
        sold: Sum of the units sold.
    """

    day: str
    n: int
    inside: int
    error: float
    sold: float


@dataclass(frozen=True)
class Expected:
    """What the backtest promised: WAPE of the median, and coverage of the 80 % interval; NaN where it had none."""

    wape: float
    coverage80: float


@dataclass(frozen=True)
class Drift:
    """The comparison.

    Attributes:
        steps: Scored steps that were looked at.
        coverage80, wape: Over these.
        expected: Of the backtest.
        outcome: "too early", "as expected" or "drift".
        reasons: In words; empty unless it drifts.
    """

    steps: int
    coverage80: float
    wape: float
    expected: Expected
    outcome: str
    reasons: tuple[str, ...]


def scores_of(forecast: pd.DataFrame, frame: pd.DataFrame) -> list[StepScore]:
    """Score a forecast on the steps that are known by now.

    Args:
        forecast: ``unique_id, ds, q10, q50, q90`` (a forecast file).
        frame: The newer panel's frame; closed and unknown steps do not count.
    """
    known = frame.loc[frame["y"].notna() & ~frame["closed"], ["unique_id", "ds", "y"]]
    both = forecast[["unique_id", "ds", "q10", "q50", "q90"]].merge(known, on=["unique_id", "ds"])
    both = both.assign(
        inside=(both["y"] >= both["q10"]) & (both["y"] <= both["q90"]), error=(both["y"] - both["q50"]).abs()
    )
    return [
        StepScore(
            str(np.datetime64(rows["ds"].iloc[0], "D")),
            len(rows),
            int(rows["inside"].sum()),
            float(rows["error"].sum()),
            float(rows["y"].sum()),
        )
        for day, rows in both.groupby("ds", sort=True)
    ]


def drift_of(scores: Mapping[str, StepScore] | Sequence[StepScore], expected: Expected, freq: str) -> Drift:
    """Compare the newest steps with the backtest.

    It is drift if, over the last 28 days (8 weeks, 6 months; at least 7, 4, 3),

    - the share of sales inside the 80 % interval is more than ten points below the backtest's, or
    - the WAPE is more than 1.25 times the backtest's,

    and the difference is more than two standard errors of the steps' own values (each step counts as one observation,
    since all products share a day's weather; neighbouring steps are taken as independent).

    Args:
        scores: One per step.
        expected: What the backtest said.
        freq: "D", "W" or "M".
    """
    every = sorted(scores.values() if isinstance(scores, Mapping) else scores, key=lambda one: one.day)
    newest = [one for one in every if one.n][-WINDOW[freq] :]
    n = sum(one.n for one in newest)
    sold = sum(one.sold for one in newest)
    coverage = sum(one.inside for one in newest) / n if n else math.nan
    wape = sum(one.error for one in newest) / sold if sold > 0 else math.nan
    if len(newest) < LEAST[freq]:
        return Drift(len(newest), coverage, wape, expected, "too early", ())
    reasons = []
    weight = np.array([one.n for one in newest], dtype=np.float64)
    inside = np.array([one.inside for one in newest], dtype=np.float64)
    if expected.coverage80 - coverage > max(_COVERAGE, _ERRORS * _error_of_ratio(inside, weight, coverage)):
        reasons.append(
            f"{coverage:.0%} of the sales were inside the 80 % interval; in the backtest it was "
            f"{expected.coverage80:.0%}"
        )
    errors = np.array([one.error for one in newest])
    amounts = np.array([one.sold for one in newest])
    if wape > _WORSE * expected.wape and wape - expected.wape > _ERRORS * _error_of_ratio(errors, amounts, wape):
        reasons.append(f"the error (WAPE) was {wape:.3f}; in the backtest it was {expected.wape:.3f}")
    return Drift(len(newest), coverage, wape, expected, "drift" if reasons else "as expected", tuple(reasons))


def _error_of_ratio(top: np.ndarray, bottom: np.ndarray, ratio: float) -> float:
    """Standard error of Σ top / Σ bottom over independent steps (Cochran, Sampling Techniques, 1977, ch. 6)."""
    n = len(top)
    if n < 2 or not bottom.sum():
        return math.inf
    spread = float(np.sum((top - ratio * bottom) ** 2)) / (n - 1)
    return math.sqrt(spread / n) / float(bottom.mean())
