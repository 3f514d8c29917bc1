"""The sentences of the report: numbers turned into what a planner, or a lawyer, can read."""

from __future__ import annotations

import math

import pandas as pd

from trend_client.backtest import Backtest
from trend_client.report.data import Privacy
from trend_common.forecasts import Forecast

__all__ = [
    "alternative",
    "amount",
    "bytes_text",
    "chance",
    "coverage_sentence",
    "date",
    "privacy_sentence",
    "small",
    "steps",
    "unbroken",
]


def amount(value: float) -> str:
    """A quantity with as many digits as it deserves: 12,345 · 123 · 12.3 · 1.23."""
    if not math.isfinite(value):
        return "–"
    size = abs(value)
    digits = 0 if size >= 100 or value == round(value) else 1 if size >= 10 else 2
    return f"{value:,.{digits}f}"


def bytes_text(count: int) -> str:
    """A size in bytes, kB or MB (powers of 1000)."""
    if count < 1000:
        return f"{count} bytes"
    return f"{count / 1000:,.1f} kB" if count < 1_000_000 else f"{count / 1e6:,.1f} MB"


def small(value: float) -> str:
    """1e-5, 2.5e-6; 0.01."""
    return f"{value:g}".replace("e-0", "e-")


def chance(value: float) -> str:
    """A small probability as "1 in 100,000"."""
    return f"1 in {round(1 / value):,}" if 0 < value <= 0.1 else f"{value:g}"


def unbroken(text: str) -> str:
    """The text with its percent signs held to their numbers."""
    return text.replace(" %", "\u00a0%")


def date(value: object) -> str:
    """3 Aug 2015, in English whatever the machine's locale."""
    stamp = pd.Timestamp(value)  # type: ignore[arg-type]
    months = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
    return f"{stamp.day} {months[stamp.month - 1]} {stamp.year}"


def steps(freq: str, count: int) -> str:
    """28 days, 8 weeks, 1 month."""
    unit = {"D": "day", "W": "week", "M": "month"}[freq]
    return f"{count} {unit}{'' if count == 1 else 's'}"


def coverage_sentence(backtest: Backtest) -> str:
    """How far the chosen bands can be trusted, judged on the test window."""
    result = backtest.methods["chosen"].test
    eighty, ninety = result["coverage80"], result["coverage90"]
    if not (math.isfinite(eighty) and math.isfinite(ninety)):
        return "There were no sales to compare the bands with."
    share = round(eighty * 100)
    if abs(eighty - 0.8) <= 0.05:
        judgement = "about as often as promised"
    elif eighty < 0.8:
        judgement = "less often than promised: the bands are too narrow, so keep more safety stock than they suggest"
    else:
        judgement = "more often than promised: the bands are wider than they need to be"
    return (
        f"Of the actual values in the test window, {share} % fell inside the 80 % band, {judgement}. "
        f"The 90 % band held {round(ninety * 100)} %."
    )


def privacy_sentence(privacy: Privacy) -> str:
    """What may be concluded about this retailer from all that was sent, in one statement."""
    if privacy.statement:
        return privacy.statement
    if privacy.rounds == 0:
        return "No training update has left this machine."
    sent = f"In {privacy.rounds} training round{'s' if privacy.rounds != 1 else ''} this client sent "
    sent += f"{bytes_text(privacy.bytes_sent)} of model updates and no sales figures."
    if privacy.epsilon is None:
        return (
            f"{sent} The updates were not protected by differential privacy: somebody who sees them may be able to "
            "infer facts about the sales they were made from."
        )
    factor = math.exp(privacy.epsilon)
    odds = f"{factor:,.1f}" if factor < 10 else f"{factor:,.0f}" if factor < 1e6 else f"{factor:.1e}"
    return (
        f"{sent} The updates are differentially private (ε = {privacy.epsilon:.3g}, δ = {small(privacy.delta)}) with "
        f"respect to {privacy.unit}: whoever sees all of them, with any other knowledge and any computing power, can "
        f"improve the odds of a guess about whether those data were used by at most a factor of {odds}, save with a "
        f"probability of {chance(privacy.delta)}. It holds for all rounds together and cannot weaken later."
    )


def alternative(name: str, history: pd.DataFrame, ahead: Forecast, freq: str) -> str:
    """The text that stands for a chart where it cannot be seen; ``ahead`` has one series."""
    low, high = ahead.interval(0.8)
    known = history["y"].dropna()
    past = f"Sales of {name} from {date(history['ds'].iloc[0])} to {date(history['ds'].iloc[-1])}"
    if len(known):
        past += f", {amount(float(known.mean()))} on average"
    return (
        f"{past}; then the forecast for {steps(freq, ahead.horizon)} from {date(ahead.ds[0, 0])}: "
        f"{amount(float(ahead.mean[0].sum()))} in all. The 80 % band lies between {amount(float(low.min()))} and "
        f"{amount(float(high.max()))}."
    )
