"""The first screen: three sentences and a few tiles for somebody who reads no further."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from trend_client.gate import CHOSEN
from trend_client.report.movers import COVERAGE, Change, movers
from trend_client.report.reasons import heading
from trend_client.report.verdict import called, only_old

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trend_client.report.data import ReportData
    from trend_client.report.language import Language

__all__ = ["Tile", "mover_rows", "summary", "tiles"]

_SHOWN: Final = 5
_TONES: Final = {"better": "good", "worse": "bad", "unclear": ""}


@dataclass(frozen=True)
class Tile:
    """One figure and what it is; ``tone`` is "good", "bad" or ""."""

    value: str
    label: str
    tone: str = ""


def summary(data: ReportData, found: Sequence[Change], lang: Language) -> list[str]:
    """What is expected, how good it is, and what it cost in privacy: a sentence each."""
    lines = [*_expected(data, found, lang), _quality(data, lang)]
    privacy = data.privacy
    if privacy is None or not privacy.rounds:
        lines.append(lang.gettext("No sales figure and no training update has left this machine."))
    elif privacy.epsilon is not None:
        lines.append(
            lang.gettext("No sales figure has left this machine; what was sent is protected by differential privacy.")
        )
    else:
        lines.append(
            lang.gettext("No sales figure has left this machine, but what was sent has NO privacy guarantee.")
        )
    return lines


def _expected(data: ReportData, found: Sequence[Change], lang: Language) -> list[str]:
    forecast = data.forecast
    if not len(forecast):
        return []
    values = {
        "first": lang.date(forecast.ds.min()),
        "last": lang.date(forecast.ds.max()),
        "total": lang.amount(float(forecast.mean.sum())),
    }
    total = _total(found)
    if total is None:
        return [
            lang.ngettext(
                "%(n)s product is expected to sell %(total)s from %(first)s to %(last)s.",
                "%(n)s product series are expected to sell %(total)s from %(first)s to %(last)s.",
                len(forecast),
                **values,
            )
        ]
    return [
        lang.ngettext(
            "%(n)s product is expected to sell %(total)s from %(first)s to %(last)s, %(change)s against the "
            "%(steps)s before.",
            "%(n)s product series are expected to sell %(total)s from %(first)s to %(last)s, %(change)s against the "
            "%(steps)s before.",
            len(forecast),
            change=lang.percent(total, signed=True),
            steps=lang.steps(data.panel.freq, forecast.horizon),
            **values,
        )
    ]


def _total(found: Sequence[Change]) -> float | None:
    """The relative change of the sum over all series that can be compared."""
    before = sum(one.before for one in found)
    return None if before <= 0 else sum(one.expected for one in found) / before - 1


def _quality(data: ReportData, lang: Language) -> str:
    backtest = data.backtest
    if backtest is None:
        return lang.gettext(
            "There is too little history to test the forecasts on weeks that are known: use them with care."
        )
    old = called(backtest.old, lang)
    window = lang.steps(backtest.freq, backtest.horizon)
    gain = backtest.test_gain
    if only_old(backtest):
        return lang.gettext("Nothing beat your old method, %(old)s, in testing, so it stays in use.", old=old)
    if not math.isfinite(gain.relative):
        return lang.gettext(
            "Nothing was sold in the last %(window)s of your data, so the forecasts could not be tested.",
            window=window,
        )
    values = {"window": window, "old": old, "share": lang.percent(abs(gain.relative))}
    if round(abs(gain.relative) * 100, 1) == 0:
        return lang.gettext(
            "Tried on the last %(window)s of your data, which were held back, forecasts made this way had the same "
            "error as %(old)s, the best of the usual methods.",
            **values,
        )
    if gain.relative < 0:
        said = lang.gettext(
            "Tried on the last %(window)s of your data, which were held back, forecasts made this way had a "
            "%(share)s HIGHER error than %(old)s, the best of the usual methods",
            **values,
        )
    else:
        said = lang.gettext(
            "Tried on the last %(window)s of your data, which were held back, forecasts made this way had a "
            "%(share)s lower error than %(old)s, the best of the usual methods",
            **values,
        )
    if gain.outcome == "unclear":
        return lang.gettext("%(said)s (a difference that may be chance).", said=said)
    return lang.gettext("%(said)s.", said=said)


def tiles(data: ReportData, found: Sequence[Change], lang: Language) -> list[Tile]:
    """The figures beneath the sentences."""
    forecast, backtest = data.forecast, data.backtest
    steps = lang.steps(data.panel.freq, forecast.horizon)
    made = [
        Tile(
            lang.amount(float(forecast.mean.sum())),
            lang.gettext(
                "expected in %(steps)s, over %(count)s series", steps=steps, count=lang.number(len(forecast))
            ),
        )
    ]
    total = _total(found)
    if total is not None:
        made.append(Tile(lang.percent(total, signed=True), lang.gettext("against the %(steps)s before", steps=steps)))
    if data.orders is not None and len(data.orders):
        due = int((data.orders["order"] > 0).sum())
        made.append(Tile(lang.number(due), lang.gettext("products to order today")))
    if backtest is not None:
        gain = backtest.test_gain
        if math.isfinite(gain.relative):
            made.append(
                Tile(
                    lang.percent(-gain.relative, signed=True),
                    lang.gettext("error against %(old)s, held-back test", old=called(backtest.old, lang)),
                    _TONES[gain.outcome],
                )
            )
        held = backtest.methods[CHOSEN].test["coverage80"]
        if math.isfinite(held):
            made.append(Tile(lang.percent(held, digits=0), lang.gettext("of actual values inside the 80 % band")))
    if data.privacy is not None and data.privacy.rounds and data.privacy.epsilon is not None:
        spent = f"ε = {data.privacy.epsilon:.3g}"
        if data.privacy.cap is not None:
            label = lang.gettext("privacy spent, of %(cap)s allowed", cap=f"{data.privacy.cap:g}")
        else:
            label = lang.gettext("privacy spent, all rounds together")
        made.append(Tile(spent, label))
    return made


def mover_rows(
    data: ReportData, found: Sequence[Change], names: Any, lang: Language
) -> dict[str, list[dict[str, Any]]]:
    """The rows of rises and of falls, each with the ends of its bar in percent of the row's widest value.

    Args:
        data: The report's.
        found: All changes.
        names: Series → its texts (store, product, ...).
        lang: The language.
    """
    rises, falls = movers(found, _SHOWN, data.forecast, data.backtest)
    return {
        "rises": [_mover(one, names(one.series), heading(one.series, data.trends, lang), lang) for one in rises],
        "falls": [_mover(one, names(one.series), heading(one.series, data.trends, lang), lang) for one in falls],
    }


def _mover(one: Change, texts: dict[str, str], trend: str, lang: Language) -> dict[str, Any]:
    widest = max(one.before, one.high, one.expected) or 1.0

    def place(value: float) -> float:
        return round(100 * value / widest, 1)

    low, high = lang.amount(one.low), lang.amount(one.high)
    return {
        **texts,
        "before": lang.amount(one.before),
        "expected": lang.amount(one.expected),
        "difference": ("+" if one.difference > 0 else "") + lang.amount(round(one.difference, 1)),
        "relative": lang.percent(one.relative, signed=True) if math.isfinite(one.relative) else "",
        "interval": lang.gettext(
            "%(share)s interval: %(low)s to %(high)s", share=lang.percent(COVERAGE), low=low, high=high
        ),
        "sure": one.clear,
        "trend": trend,
        "at": {name: place(getattr(one, name)) for name in ("before", "expected", "low", "high")},
    }
