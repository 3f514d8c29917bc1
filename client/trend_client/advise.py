"""Should this retailer join? Stay alone, take the shared adapter without training, or train with the others.

The answer comes from this retailer's own backtest and from public facts about the federation: how many take part, how
large they are, what ε is asked. It is shown here and goes nowhere. Choosing by it is outside the differential privacy
bound: whoever sees that a retailer joined may guess that its sales spoke for joining (``docs/privacy.md``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import pandas as pd

from trend_client.contest import Forecaster
from trend_client.gate import Gain, compared, gain
from trend_common import __version__
from trend_common.errors import DataError
from trend_common.metrics import series_losses
from trend_common.outlook import Measured, expected, noise_share
from trend_common.panel import SalesPanel
from trend_common.privacy.accounting import noise_multiplier_for
from trend_common.scoring import actuals, origins, panel_before, scale_of

if TYPE_CHECKING:
    from trend_client.outcome import Model

__all__ = ["Advice", "Facts", "Measurements", "advise", "measure"]

Recommendation = Literal["alone", "adapter-only", "train"]

_SAYINGS: Final[dict[Recommendation, str]] = {
    "alone": "Stay alone",
    "adapter-only": "Take the shared adapter without training",
    "train": "Train with the others",
}
_OLD: Final = ("seasonal-naive", "same-phase-mean")
ONE_SIDED: Final = 1.645
"""Standard errors below a gain that it must clear: 95 % that it is one."""


@dataclass(frozen=True)
class Facts:
    """What an operator says in public about a federation.

    Attributes:
        retailers: How many take part.
        series: Of each, in the mean.
        epsilon, delta: For each unit over the whole federation.
        rounds: Noised gradients of each client.
    """

    retailers: int
    series: int
    epsilon: float
    delta: float
    rounds: int

    @property
    def noise_share(self) -> float:
        """s = σ / (N √n) of the federation (:mod:`trend_common.outlook`)."""
        sigma = noise_multiplier_for(epsilon=self.epsilon, delta=self.delta, q=1.0, steps=self.rounds)
        return noise_share(sigma=sigma, series=self.series, retailers=self.retailers)


@dataclass(frozen=True)
class Measurements:
    """What this retailer's own sales say, as gains in scaled quantile loss.

    Attributes:
        zero_shot: The pretrained model against the better of the simple methods.
        shared: The shared adapter against the pretrained model; None where there is none.
        personal: The personal model against the pretrained model; None where there is none.
    """

    zero_shot: Gain
    shared: Gain | None
    personal: Gain | None


@dataclass(frozen=True)
class Advice:
    """The recommendation and what it rests on.

    Attributes:
        recommendation: "alone", "adapter-only" or "train".
        reasons: In full sentences, the decisive one first.
        measured: From this retailer's sales.
        outlook: What synthetic federations with so much noise gained, if facts were given.
        epsilon, remaining: What joining would cost, and what the policy leaves to spend; None where it is not known.
    """

    recommendation: Recommendation
    reasons: tuple[str, ...]
    measured: Measurements
    outlook: Measured | None
    epsilon: float | None
    remaining: float | None

    @property
    def headline(self) -> str:
        """The recommendation in a few words."""
        return _SAYINGS[self.recommendation]

    def to_json(self) -> dict[str, Any]:
        """As JSON values; what is not known is null."""
        measured = {
            name: None if one is None else _gain(one)
            for name, one in (
                ("zero_shot", self.measured.zero_shot),
                ("shared", self.measured.shared),
                ("personal", self.measured.personal),
            )
        }
        outlook = self.outlook
        return {
            "schema": 1,
            "version": __version__,
            "command": "advise",
            "recommendation": self.recommendation,
            "reasons": list(self.reasons),
            "measured": measured,
            "expected": None
            if outlook is None
            else {
                "noise_share": round(outlook.s, 6),
                "gain_percent": round(outlook.gain, 3),
                "low": round(outlook.gain - ONE_SIDED * outlook.error, 3),
                "high": round(outlook.gain + ONE_SIDED * outlook.error, 3),
                "share_better": round(outlook.better, 3),
            },
            "epsilon": self.epsilon,
            "epsilon_remaining": None if self.remaining is None else round(self.remaining, 6),
        }


def measure(panel: SalesPanel, model: Model, forecasters: Mapping[str, Forecaster]) -> Measurements:
    """Score the methods of a home on its own last two horizons.

    The shared adapter has seen neither horizon, the personal model was chosen on the first of them and is scored on
    the last alone. The better simple method is chosen on the first horizon and compared on the last.

    Args:
        panel: All sales.
        model: The home's adapters.
        forecasters: ``seasonal-naive``, ``same-phase-mean``, ``zero-shot`` and what else the home has.

    Raises:
        DataError: The history is too short.
    """
    cut = origins(panel, model.horizon)
    first = _losses(panel, cut.validation, model.horizon, forecasters)
    last = _losses(panel, cut.test, model.horizon, forecasters)
    if not last["zero-shot"] or not first["zero-shot"]:
        raise DataError("No series can be scored on the last two horizons.", "Add earlier sales.")
    mean_first = {name: float(np.mean(list(first[name].values()))) for name in _OLD}
    old = min(mean_first, key=mean_first.__getitem__)

    def against(name: str, other: str, windows: Sequence[Mapping[str, Mapping[str, float]]]) -> Gain | None:
        if name not in forecasters:
            return None
        ids = sorted(set().union(*(set(w[name]) & set(w[other]) for w in windows)))
        new, before = (
            np.array([np.nanmean([w[one].get(key, math.nan) for w in windows]) for key in ids])
            for one in (name, other)
        )
        return gain(new, before, against=other)

    zero_shot = against("zero-shot", old, [last])
    assert zero_shot is not None
    return Measurements(
        zero_shot, against("shared", "zero-shot", [first, last]), against("personal", "zero-shot", [last])
    )


def _losses(
    panel: SalesPanel, origin: pd.Timestamp, horizon: int, forecasters: Mapping[str, Forecaster]
) -> dict[str, dict[str, float]]:
    """Method → series → scaled quantile loss from ``origin`` on."""
    known, truth = panel_before(panel, origin), actuals(panel, origin, horizon)
    found = {}
    for name, forecaster in forecasters.items():
        made = forecaster(known, origin, horizon)
        ids = [one for one in truth.ids if one in set(made.ids)]
        values = series_losses(truth.select(ids).y, made.select(ids), scale_of(panel, ids, origin))
        found[name] = {key: float(value) for key, value in zip(ids, values, strict=True) if math.isfinite(value)}
    return found


def advise(
    measured: Measurements,
    *,
    units: int,
    min_units: int,
    facts: Facts | None = None,
    remaining: float | None = None,
) -> Advice:
    """Weigh.

    Args:
        measured: From :func:`measure`.
        units: How many privacy units this retailer has.
        min_units: Below this its policy declines to train.
        facts: Of the federation in question.
        remaining: ε that its policy leaves to spend.
    """
    outlook = None if facts is None else expected(facts.noise_share)
    epsilon = None if facts is None else facts.epsilon
    recommendation, reasons = _weighed(measured, units, min_units, outlook)
    if recommendation == "train" and epsilon is not None and remaining is not None and epsilon > remaining:
        recommendation = "adapter-only"
        reasons.insert(0, f"Training would cost ε = {epsilon:g}, and your policy leaves {remaining:.2g} to spend.")
    if recommendation == "adapter-only":
        reasons.append(
            "That sends nothing computed from your sales; the backtest decides for each product whether it is used."
        )
    if recommendation == "train" and epsilon is not None:
        reasons.append(f"It costs ε = {epsilon:g} of what your policy allows.")
    return Advice(recommendation, tuple(reasons), measured, outlook, epsilon, remaining)


def _weighed(
    measured: Measurements, units: int, min_units: int, outlook: Measured | None
) -> tuple[Recommendation, list[str]]:
    shared, personal = measured.shared, measured.personal
    if units < min_units:
        return "adapter-only", [f"You have {units} series; your policy trains privately with {min_units} or more."]
    if shared is not None:
        sentence = (
            f"On your last two horizons the shared adapter's error was {compared(shared)} than the "
            "pretrained model's."
        )
        advice: dict[str, Recommendation] = {"better": "train", "unclear": "adapter-only", "worse": "alone"}
        return advice[shared.outcome], [sentence]
    if outlook is None:
        return "adapter-only", [
            "What training together adds cannot be known from your sales alone. Ask the operator how many retailers "
            "take part, how many series they have, and for ε and the number of rounds, and give them as options."
        ]
    low, high = outlook.gain - ONE_SIDED * outlook.error, outlook.gain + ONE_SIDED * outlook.error
    measured_there = (
        f"Synthetic federations with as much noise (s = {outlook.s:.3g}) gained {outlook.gain:.1f} % over the "
        f"pretrained model ({low:.1f} to {high:.1f} %, 90 % interval), and {outlook.better:.0%} of their retailers "
        "gained."
    )
    if low <= 0:
        return "adapter-only", [measured_there]
    if personal is not None and personal.low is not None and 100 * personal.low > high:
        alone = f"Training on your own sales alone made the error {compared(personal)} than the pretrained model's."
        return "alone", [alone, measured_there]
    return "train", [measured_there]


def _gain(value: Gain) -> dict[str, Any]:
    numbers = {"relative": value.relative, "low": value.low, "high": value.high}
    return {
        "against": value.against,
        **{key: None if one is None or not math.isfinite(one) else round(one, 6) for key, one in numbers.items()},
        "series": value.series,
        "outcome": value.outcome,
    }
