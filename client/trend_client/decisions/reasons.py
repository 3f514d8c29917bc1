"""Why something is advised, as facts that are worded in the reader's language, also later and elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from trend_client.report.language import N_

if TYPE_CHECKING:
    from trend_client.report.language import Language

__all__ = ["Fact", "facts_of", "worded"]

_MESSAGES: Final[Mapping[str, str]] = {
    "promotion": N_(
        "%(more)s units predicted; in %(times)s past steps with a promotion it sold %(factor)s times the usual"
    ),
    "discount": N_("at %(share)s off"),
    "runs out": N_("may run out"),
    "runs out in": N_("runs out in about %(steps)s steps"),
    "restock": N_("%(without)s risk before the next delivery, %(then)s with an order of %(order)s"),
    "surplus": N_("%(there)s on hand, %(surplus)s more than nine of ten courses of the next %(steps)s steps sell"),
    "cut": N_("at %(new)s instead of %(old)s %(more)s units"),
    "nothing": N_("%(share)s likely to sell nothing in %(steps)s steps"),
    "last sold": N_("last sold on %(day)s"),
    "never sold": N_("never sold"),
    "on hand": N_("%(there)s on hand"),
    "rare gain": N_("the mean lies above the interval: one course in ten or fewer brings nearly all of it"),
    "rare loss": N_("the mean lies below the interval: one course in ten or fewer costs nearly all of it"),
}
_SHARES: Final = frozenset({"share", "without", "then"})
_SIGNED: Final = frozenset({"more"})
_PRICES: Final = frozenset({"new", "old"})


@dataclass(frozen=True, init=False)
class Fact:
    """One fact: its code, a key of the messages of this module, and its values.

    Args:
        code: What it says.
        values: Numbers, and dates as text.
    """

    code: str
    values: tuple[tuple[str, float | str], ...]

    def __init__(self, code: str, **values: float | str) -> None:
        object.__setattr__(self, "code", code)
        object.__setattr__(self, "values", tuple(values.items()))

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "code": self.code,
            **{name: value if isinstance(value, str) else round(float(value), 4) for name, value in self.values},
        }


def facts_of(rows: object) -> tuple[Fact, ...] | None:
    """The facts that :meth:`Fact.to_json` wrote; None where one is unknown here, or anything else stands there."""
    if not isinstance(rows, list):
        return None
    found = []
    for row in rows:
        if not isinstance(row, dict) or row.get("code") not in _MESSAGES:
            return None
        values = {str(name): value for name, value in row.items() if name != "code"}
        if not all(isinstance(value, int | float | str) for value in values.values()):
            return None
        try:
            _ = _MESSAGES[row["code"]] % values
        except (KeyError, ValueError, TypeError):
            return None
        found.append(Fact(row["code"], **values))
    return tuple(found)


def worded(facts: Sequence[Fact], lang: Language) -> str:
    """The facts as a phrase in a language."""
    joint = "; " if lang.code == "en" else "；"
    return joint.join(
        lang.gettext(_MESSAGES[one.code], **{name: _written(name, value, lang) for name, value in one.values})
        for one in facts
    )


def _written(name: str, value: float | str, lang: Language) -> str:
    if isinstance(value, str):
        return lang.date(value)
    if name in _SHARES:
        return lang.percent(value, digits=0)
    if name in _PRICES:
        return f"{value:.4g}"
    if name in _SIGNED:
        return ("+" if round(value) > 0 else "") + lang.number(round(value) + 0.0)
    if name == "factor":
        return lang.number(value, 1)
    return lang.number(round(value))
