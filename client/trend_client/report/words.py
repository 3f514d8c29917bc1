"""The sentences of the report: numbers turned into what a planner, or a lawyer, can read, in each language."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final

from trend_client.report.language import N_, Language

if TYPE_CHECKING:
    import pandas as pd

    from trend_client.backtest import Backtest
    from trend_client.report.data import Privacy
    from trend_common.forecasts import Forecast
    from trend_common.panel import Finding

__all__ = [
    "KINDS",
    "ROLES",
    "UNITS",
    "alternative",
    "chance",
    "coverage_sentence",
    "finding",
    "privacy_sentence",
    "small",
    "unbroken",
]

UNITS: Final = {
    "series": N_("one product at one store, with its whole history"),
    "product": N_("one product in all your stores, with its whole history"),
    "store": N_("one whole store"),
}
"""Unit of privacy → what is protected."""

KINDS: Final = {
    "enrol": N_("enrolment"),
    "describe": N_("answer to the plan"),
    "train": N_("training update, with noise"),
    "adopt": N_("receipt of the model"),
    "keys": N_("keys of a secure round"),
    "shares": N_("shares of a secure round"),
    "masked": N_("training update, with noise and masked"),
    "unmask": N_("shares that lift the sum's mask"),
    "authority": N_("question for a renewed authority"),
    "refusal": N_("refusal, without a reason"),
}
"""Kind of message → what it is."""

ROLES: Final = {
    "date": N_("date"),
    "units": N_("units"),
    "revenue": N_("revenue"),
    "store": N_("store"),
    "product": N_("product"),
    "unique_id": N_("series"),
    "category": N_("category"),
    "description": N_("description"),
    "price": N_("price"),
    "promo": N_("promotion"),
    "holiday": N_("holiday"),
    "open": N_("open"),
    "closed": N_("closed"),
    "stock": N_("stock"),
    "returns": N_("returns"),
    "order": N_("order number"),
    "own_1": N_("a column of your own"),
    "own_2": N_("a column of your own"),
    "ahead_1": N_("a column of your own, known ahead"),
    "ahead_2": N_("a column of your own, known ahead"),
}
"""Role of a column → its name."""

SEVERITIES: Final = {"info": N_("note"), "warning": N_("warning"), "error": N_("error")}

_QUOTED = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"")
_NAMES_SHOWN: Final = 8


def small(value: float) -> str:
    """1e-5, 2.5e-6; 0.01."""
    return f"{value:g}".replace("e-0", "e-")


def chance(value: float, lang: Language) -> str:
    """A small probability as "1 in 100,000"."""
    if not 0 < value <= 0.1:
        return f"{value:g}"
    return lang.gettext("1 in %(n)s", n=lang.number(round(1 / value)))


def unbroken(text: str) -> str:
    """The text with its percent signs held to their numbers."""
    return text.replace(" %", "\u00a0%")


def coverage_sentence(backtest: Backtest, lang: Language) -> str:
    """How far the chosen bands can be trusted, judged on the test window."""
    said = _coverage(backtest, lang)
    before = backtest.uncalibrated
    if before is None or not math.isfinite(before["coverage80"]):
        return said
    return lang.sentences(
        [
            said,
            lang.gettext(
                "The bands were set right on past windows; without that, the 80 %% band would have held %(share)s.",
                share=lang.percent(before["coverage80"], digits=0),
            ),
        ]
    )


def _coverage(backtest: Backtest, lang: Language) -> str:
    result = backtest.methods["chosen"].test
    eighty, ninety = result["coverage80"], result["coverage90"]
    if not (math.isfinite(eighty) and math.isfinite(ninety)):
        return lang.gettext("There were no sales to compare the bands with.")
    values = {"share": lang.percent(eighty, digits=0), "ninety": lang.percent(ninety, digits=0)}
    if abs(eighty - 0.8) <= 0.05:
        return lang.gettext(
            "Of the actual values in the test window, %(share)s fell inside the 80 %% band, about as often as "
            "promised. The 90 %% band held %(ninety)s.",
            **values,
        )
    if eighty < 0.8:
        return lang.gettext(
            "Of the actual values in the test window, %(share)s fell inside the 80 %% band, less often than "
            "promised: the bands are too narrow, so keep more safety stock than they suggest. The 90 %% band "
            "held %(ninety)s.",
            **values,
        )
    return lang.gettext(
        "Of the actual values in the test window, %(share)s fell inside the 80 %% band, more often than promised: "
        "the bands are wider than they need to be. The 90 %% band held %(ninety)s.",
        **values,
    )


def privacy_sentence(privacy: Privacy, lang: Language) -> str:
    """What may be concluded about this retailer from all that was sent, in one statement."""
    if privacy.statement:
        return privacy.statement
    if privacy.problem:
        return lang.gettext(
            "How much was revealed cannot be said: the privacy ledger is not intact. trend-client budget says what "
            "is wrong with it."
        )
    if privacy.rounds == 0:
        return lang.gettext("No training update has left this machine.")
    sent = lang.ngettext(
        "In %(n)s training round this client sent %(size)s of model updates and no sales figures.",
        "In %(n)s training rounds this client sent %(size)s of model updates and no sales figures.",
        privacy.rounds,
        size=lang.bytes(privacy.bytes_sent),
    )
    if privacy.epsilon is None:
        return lang.sentences(
            [
                sent,
                lang.gettext(
                    "The updates were not protected by differential privacy: somebody who sees them may be able to "
                    "infer facts about the sales they were made from."
                ),
            ]
        )
    unit = lang.gettext(UNITS[privacy.unit]) if privacy.unit in UNITS else privacy.unit
    if privacy.guess is not None:
        promise = lang.gettext(
            "Whoever sees all of them, and knows all your other sales, can tell whether %(unit)s, was in your data "
            "with at most %(guess)s certainty, where a coin gives %(coin)s.",
            unit=unit,
            guess=lang.percent(min(1.0, math.ceil(privacy.guess * 1000) / 1000), digits=1),  # never too little
            coin=lang.percent(0.5),
        )
        return lang.sentences([sent, promise])
    factor = math.exp(privacy.epsilon)
    odds = lang.number(factor, 1) if factor < 10 else lang.number(factor) if factor < 1e6 else f"{factor:.1e}"
    promise = lang.gettext(
        "The updates are differentially private (ε = %(epsilon)s, δ = %(delta)s) with respect to %(unit)s: "
        "whoever sees all of them, with any other knowledge and any computing power, can improve the odds of a guess "
        "about whether those data were used by at most a factor of %(odds)s, save with a probability of %(chance)s. "
        "It holds for all rounds together and cannot weaken later.",
        epsilon=f"{privacy.epsilon:.3g}",
        delta=small(privacy.delta),
        unit=unit,
        odds=odds,
        chance=chance(privacy.delta, lang),
    )
    return lang.sentences([sent, promise])


def alternative(name: str, history: pd.DataFrame, ahead: Forecast, freq: str, lang: Language) -> str:
    """The text that stands for a chart where it cannot be seen; ``ahead`` has one series."""
    low, high = ahead.interval(0.8)
    known = history["y"].dropna()
    values = {
        "name": name,
        "past": lang.span(history["ds"].iloc[0], history["ds"].iloc[-1]),
        "average": lang.amount(float(known.mean())) if len(known) else "–",
        "steps": lang.steps(freq, ahead.horizon),
        "start": lang.date(ahead.ds[0, 0]),
        "total": lang.amount(float(ahead.mean[0].sum())),
        "low": lang.amount(float(low.min())),
        "high": lang.amount(float(high.max())),
    }
    return lang.gettext(
        "Sales of %(name)s from %(past)s, %(average)s on average; then the forecast for %(steps)s from %(start)s: "
        "%(total)s in all. The 80 %% band lies between %(low)s and %(high)s.",
        **values,
    )


def finding(one: Finding, lang: Language) -> dict[str, str]:
    """A finding in the data: what was found, how often, and what was done.

    The panel words its findings in English. Other languages have a sentence for each code, and add the names (of
    columns, mostly) that the English one quotes.
    """
    message, action = one.message, one.action
    if lang.code != "en":
        known = lang.pgettext("finding", one.code) or lang.gettext("Noticed: %(code)s.", code=one.code)
        known = known.replace("%(count)s", lang.number(one.count))
        message = known
        names = [single or double for single, double in _QUOTED.findall(one.message)]
        if names:
            shown = lang.listed(names[:_NAMES_SHOWN])
            message = lang.sentences([known, lang.gettext("Concerned: %(names)s.", names=shown)])
        action = lang.pgettext("done", one.code)
    return {
        "severity": one.severity,
        "word": lang.gettext(SEVERITIES.get(one.severity, one.severity)),
        "message": message,
        "count": lang.number(one.count),
        "action": action,
    }
