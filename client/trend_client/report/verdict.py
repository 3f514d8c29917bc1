"""The backtest in words, built from its facts in the report's language."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from trend_client.backtest import METHOD_NAMES
from trend_client.gate import CHOSEN
from trend_client.report.language import N_, Language

if TYPE_CHECKING:
    from trend_client.backtest import Backtest, MethodResult
    from trend_client.gate import Gain
    from trend_client.trial import Trial
    from trend_client.value import Amount

__all__ = ["called", "compared", "gain_sentence", "learned", "method_rows", "mixed", "only_old", "verdict", "worth"]

_NEGLIGIBLE: Final = 0.005
"""Weights below are not spoken of."""

_FEDERATED: Final = ("zero-shot", "shared", "personal")
_WHAT: Final = {
    "zero-shot": N_("as it is shipped, before any federation"),
    "shared": N_("trained with other retailers, under privacy"),
    "personal": N_("trained further on your sales; it never leaves"),
}


def called(name: str, lang: Language) -> str:
    """A method's name for people."""
    return lang.gettext(METHOD_NAMES.get(name, name))


def only_old(backtest: Backtest) -> bool:
    """Whether nothing but the old method is used."""
    return backtest.choice.shares.get(backtest.old, 0.0) > 1 - _NEGLIGIBLE


def mixed(weights: Mapping[str, float], lang: Language) -> str:
    """A blend in words: "Pretrained model 62 %, Recent average 38 %"; one method by its name alone."""
    used = sorted(
        ((name, weight) for name, weight in weights.items() if weight >= _NEGLIGIBLE), key=lambda one: -one[1]
    )
    if len(used) == 1:
        return called(used[0][0], lang)
    return lang.listed([f"{called(name, lang)} {lang.percent(weight, digits=0)}" for name, weight in used])


def verdict(backtest: Backtest, lang: Language) -> list[str]:
    """What was chosen, what it gained where it was chosen, what it gained on the test, and what was left out."""
    choice = backtest.choice
    old, total = called(backtest.old, lang), len(choice.methods)
    shares = {name: share for name, share in choice.shares.items() if share >= _NEGLIGIBLE}
    if len(shares) == 1:
        said = [
            lang.ngettext(
                "%(method)s is used for the only product series.",
                "%(method)s is used for all %(n)s product series.",
                total,
                method=called(next(iter(shares)), lang),
            )
        ]
    elif choice.style == "blend":
        windows = len(backtest.origins.rolling)
        said = [
            lang.ngettext(
                "Each forecast is a weighted mean of methods, by how they did on %(n)s past window; on average: "
                "%(parts)s.",
                "Each forecast is a weighted mean of methods, by how they did on %(n)s past windows; on average: "
                "%(parts)s.",
                windows,
                parts=mixed(shares, lang),
            )
        ]
    else:
        parts = [
            lang.gettext("%(method)s for %(count)s", method=called(name, lang), count=lang.number(count))
            for name, count in choice.counts.items()
        ]
        said = [
            lang.gettext(
                "Of %(total)s product series: %(parts)s.", total=lang.number(total), parts=lang.listed(parts)
            )
        ]
    if only_old(backtest):
        said.append(lang.gettext("It is what a retailer could do before: nothing beat it on validation."))
        said.append(lang.gettext("So the test window holds no gain and no loss."))
    else:
        said.append(
            lang.gettext(
                "On validation, compared with %(old)s: %(gain)s. The choice was made there, so this figure "
                "flatters it.",
                old=old,
                gain=compared(backtest.validation_gain, lang),
            )
        )
        said.append(gain_sentence(backtest.test_gain, lang))
    return said + [_trial(one, lang) for one in backtest.trials if not one.competitive]


def worth(backtest: Backtest, lang: Language) -> list[str]:
    """What the choice saved on the test window against the old method, in units and in money."""
    value = backtest.value
    if value is None or only_old(backtest):
        return []
    steps = lang.steps(backtest.freq, value.steps)
    values = {
        "steps": steps,
        "saved": lang.amount(abs(value.units.saved)),
        "old": called(value.against, lang),
        "doubt": _doubt(value.units, lang),
    }
    if value.units.saved >= 0:
        said = [
            lang.gettext(
                "On the test window (%(steps)s) the errors were smaller by %(saved)s in all than those of "
                "%(old)s%(doubt)s.",
                **values,
            )
        ]
    else:
        said = [
            lang.gettext(
                "On the test window (%(steps)s) the errors were LARGER by %(saved)s in all than those of "
                "%(old)s%(doubt)s.",
                **values,
            )
        ]
    if value.money is not None and value.margin is not None:
        said.append(
            lang.gettext(
                "In money, at a margin of %(margin)s: %(saved)s less lost in the test window by ordering too much or "
                "too little%(doubt)s. It is an upper bound for goods that can still be sold the day after.",
                margin=lang.percent(value.margin),
                saved=lang.amount(value.money.saved),
                doubt=_doubt(value.money, lang),
            )
        )
    elif value.money is not None:
        said.append(
            lang.gettext(
                "Valued at the products' prices, these errors are worth %(saved)s%(doubt)s.",
                saved=lang.amount(value.money.saved),
                doubt=_doubt(value.money, lang),
            )
        )
    return said


def _doubt(amount: Amount, lang: Language) -> str:
    if amount.low is None or amount.high is None:
        return ""
    return lang.gettext(
        " (95 %% interval over series: %(low)s to %(high)s)",
        low=lang.amount(amount.low),
        high=lang.amount(amount.high),
    )


def gain_sentence(gain: Gain, lang: Language) -> str:
    """The figure to believe, and what it is worth."""
    text = compared(gain, lang)
    if gain.outcome == "better":
        return lang.gettext("On the test window, which the choice never saw: %(gain)s. The gain held.", gain=text)
    if gain.outcome == "worse":
        return lang.gettext(
            "On the test window, which the choice never saw: %(gain)s. The old method would have been better in "
            "those weeks.",
            gain=text,
        )
    return lang.gettext(
        "On the test window, which the choice never saw: %(gain)s. The difference is within what chance among series "
        "can do.",
        gain=text,
    )


def compared(gain: Gain, lang: Language) -> str:
    """ "the error was 14 % lower (95 % interval over series: 9 % lower to 19 % lower)"."""
    if math.isnan(gain.relative):
        return lang.gettext("not comparable, since nothing was sold")
    text = lang.gettext("the error was %(size)s", size=_size(gain.relative, lang))
    if gain.low is None or gain.high is None:
        doubt = lang.ngettext(
            "%(n)s series: too few for an interval", "%(n)s series: too few for an interval", gain.series
        )
    else:
        ends = (gain.low, gain.high) if gain.high > 0 else (gain.high, gain.low)  # the lesser difference first
        doubt = lang.gettext(
            "95 %% interval over series: %(low)s to %(high)s", low=_size(ends[0], lang), high=_size(ends[1], lang)
        )
    return lang.gettext("%(text)s (%(doubt)s)", text=text, doubt=doubt)


def _size(relative: float, lang: Language) -> str:
    share = lang.percent(abs(relative))
    if round(abs(relative) * 100, 1) == 0:
        return lang.gettext("the same")
    if relative > 0:
        return lang.gettext("%(share)s lower", share=share)
    return lang.gettext("%(share)s higher", share=share)


def _trial(trial: Trial, lang: Language) -> str:
    return lang.gettext(
        "%(method)s was first tried on a sample of %(sample)s of %(all)s series. Compared with %(old)s there: "
        "%(gain)s; so it was not run on the others, and no series uses it.",
        method=called(trial.method, lang),
        sample=lang.number(trial.series),
        all=lang.number(trial.of),
        gain=compared(trial.gain, lang),
        old=called(trial.gain.against, lang),
    )


def learned(backtest: Backtest, lang: Language) -> dict[str, Any] | None:
    """The model as shipped, as the federation trained it, and as this retailer did, on its own test window.

    None where no federation was joined, so that there is nothing to compare.
    """
    scores = {
        name: float(backtest.methods[name].test["sql"])
        for name in _FEDERATED
        if name in backtest.methods and math.isfinite(backtest.methods[name].test["sql"])
    }
    if "shared" not in scores or "zero-shot" not in scores:
        return None
    top = max(scores.values())
    rows = []
    for name, value in scores.items():
        start = scores["zero-shot"]
        rows.append(
            {
                "name": called(name, lang),
                "what": lang.gettext(_WHAT[name]),
                "value": lang.number(value, 3),
                "wape": lang.percent(float(backtest.methods[name].test["wape"])),
                "change": "" if name == "zero-shot" or not start else lang.percent(value / start - 1, signed=True),
                "bar": round(100 * value / top, 1) if top else 0,
            }
        )
    gain = 1 - scores["shared"] / scores["zero-shot"] if scores["zero-shot"] else 0.0
    if round(abs(gain), 3) == 0:
        sentence = lang.gettext("On your test window the shared model was as good as the pretrained one.")
    elif gain > 0:
        sentence = lang.gettext(
            "On your test window the shared model's error was %(share)s lower than that of the pretrained one: that "
            "is what the other retailers' sales taught it.",
            share=lang.percent(gain),
        )
    else:
        sentence = lang.gettext(
            "On your test window the shared model's error was %(share)s HIGHER than that of the pretrained one: here "
            "the federation did not help.",
            share=lang.percent(-gain),
        )
    said = [sentence]
    if "personal" in scores and scores["shared"]:
        own = 1 - scores["personal"] / scores["shared"]
        if round(abs(own), 3) == 0:
            said.append(
                lang.gettext("The personal model, trained further on your sales, was as good as the shared one.")
            )
        elif own > 0:
            said.append(
                lang.gettext(
                    "The personal model, trained further on your sales, lowered it by another %(share)s.",
                    share=lang.percent(own),
                )
            )
        else:
            said.append(
                lang.gettext(
                    "The personal model, trained further on your sales, was %(share)s worse than the shared one.",
                    share=lang.percent(-own),
                )
            )
    return {"sentence": lang.sentences(said), "rows": rows}


def method_rows(methods: Mapping[str, MethodResult], backtest: Backtest, lang: Language) -> list[dict[str, Any]]:
    """The rows of one table, the lowest figure of each column marked."""
    columns = [(window, key) for window in ("validation", "test") for key in ("wape", "mase", "sql")]
    values = {
        name: [float(getattr(result, window)[key]) for window, key in columns] for name, result in methods.items()
    }
    windows = len(backtest.origins.rolling)
    part = {name for name in values if backtest.scored_on.get(name, windows) < windows}

    def comparable(name: str, position: int) -> bool:
        """A model that was trained on these sales is not in all validation windows, so there it is not compared."""
        return math.isfinite(values[name][position]) and not (name in part and columns[position][0] == "validation")

    lowest = [
        min((row[position] for name, row in values.items() if comparable(name, position)), default=math.nan)
        for position in range(len(columns))
    ]
    blended = backtest.choice.style == "blend"
    longest = max((row[-1] for row in values.values() if math.isfinite(row[-1])), default=1.0) or 1.0
    rows = []
    for name, row in values.items():
        test = methods[name].test
        rows.append(
            {
                "name": lang.gettext("Blend of these") if name == CHOSEN and blended else called(name, lang),
                "part": _part_of(backtest.scored_on[name], windows, lang) if name in part else "",
                "chosen": name == CHOSEN,
                "old": name == backtest.old,
                "left_out": name in backtest.left_out,
                "cells": [
                    (lang.number(value, 3), value == low and comparable(name, position))
                    for position, (value, low) in enumerate(zip(row, lowest, strict=True))
                ],
                "bar": round(100 * row[-1] / longest, 1) if math.isfinite(row[-1]) else 0,
                "coverage": [lang.percent(test[key], digits=0) for key in ("coverage80", "coverage90")],
            }
        )
    return rows


def _part_of(count: int, windows: int, lang: Language) -> str:
    return lang.ngettext(
        "in %(n)s of %(all)s windows", "in %(n)s of %(all)s windows", count, all=lang.number(windows)
    )
