"""The languages of the report: a catalogue of messages, and numbers and dates as people write them.

The catalogues are gettext files (``zh.po``), the format that translators' tools speak; Babel reads them as they are,
so there is nothing to compile. English is the source: its messages stand in the code and in the template. A message
that a catalogue lacks appears in English, and a test holds that none is lacking.
"""

from __future__ import annotations

import locale
import math
import os
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Final, Literal, cast

import pandas as pd

from trend_common.errors import UsageError

__all__ = ["LANGUAGES", "Code", "Language", "default_language", "language"]

Code = Literal["en", "zh"]

LANGUAGES: Final[Mapping[Code, str]] = {"en": "English", "zh": "中文"}
"""Language code → its own name."""

_HTML: Final = {"en": "en", "zh": "zh-Hans"}
_DAY: Final = {"en": "d MMM y", "zh": "y年M月d日"}
_TICKS: Final = {"en": ("d MMM", "MMM", "y"), "zh": ("M月d日", "M月", "y年")}
_PERCENT: Final = {"en": "\u00a0%", "zh": "%"}
_COMMA: Final = {"en": ", ", "zh": "、"}
_FULL: Final = {"en": " ", "zh": ""}


def N_(message: str) -> str:
    """Marks a message that is translated where it is shown."""
    return message


def default_language() -> Code:
    """The language of this machine's locale: Chinese where it says so, else English."""
    told = (os.environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
    text = next((value for value in told if value), None)
    if text is None:
        text = locale.getlocale()[0] or ""
    return "zh" if text.lower().startswith(("zh", "chinese")) else "en"


def language(code: str | None = None) -> Language:
    """The language of a code; None takes the locale's.

    Raises:
        UsageError: There is no such language.
    """
    if code is None:
        return Language(default_language())
    if code not in LANGUAGES:
        raise UsageError(
            f"There is no report in the language {code!r}.",
            "It is " + " or ".join(f"{known} ({name})" for known, name in LANGUAGES.items()) + ".",
        )
    return Language(cast(Code, code))


class Language:
    """One language: its messages, and how it writes numbers, dates and lists.

    Args:
        code: "en" or "zh".
    """

    def __init__(self, code: Code) -> None:
        self.code: Code = code
        self.html = _HTML[code]
        self.gap = _FULL[code]
        self._messages = _catalogue(code)

    # Messages

    def gettext(self, message: str, **values: object) -> str:
        """A message, with its ``%(name)s`` filled in where values are given."""
        found = self._messages.get((None, message), message)
        text = found if isinstance(found, str) else found[0]
        return text % values if values else text

    def ngettext(self, one: str, many: str, n: int, **values: object) -> str:
        """A message that depends on a count; ``%(n)s`` is the count, written as a number."""
        found = self._messages.get((None, one))
        text = (one if n == 1 else many) if found is None else found if isinstance(found, str) else found[0]
        return text % {"n": self.number(n), **values}

    def pgettext(self, context: str, message: str) -> str:
        """A message that means something else elsewhere; "" if this language has none."""
        found = self._messages.get((context, message), "")
        return found if isinstance(found, str) else found[0]

    def install(self, environment: Any) -> None:
        """Give the messages to a Jinja environment that has the i18n extension."""

        def plural(one: str, many: str, n: int) -> str:
            found = self._messages.get((None, one))
            return (one if n == 1 else many) if found is None else found if isinstance(found, str) else found[0]

        environment.install_gettext_callables(lambda message: self.gettext(message), plural, newstyle=True)

    def sentences(self, parts: Sequence[str]) -> str:
        """Whole sentences after one another."""
        return _FULL[self.code].join(part for part in parts if part)

    def listed(self, parts: Sequence[str]) -> str:
        """Words after one another, with commas."""
        return _COMMA[self.code].join(parts)

    # Numbers

    def number(self, value: float, digits: int = 0) -> str:
        """1,234.5 with a fixed number of decimals."""
        from babel.numbers import format_decimal

        if not math.isfinite(value):
            return "–"
        pattern = "#,##0" + ("." + "0" * digits if digits else "")
        return str(format_decimal(value, format=pattern, locale=self.code)).replace("-", "−")

    def amount(self, value: float) -> str:
        """A quantity with as many digits as it deserves: 12,345 · 123 · 12.3 · 1.23."""
        if not math.isfinite(value):
            return "–"
        size = abs(value)
        return self.number(value, 0 if size >= 100 or value == round(value) else 1 if size >= 10 else 2)

    def percent(self, share: float, *, signed: bool = False, digits: int | None = None) -> str:
        """0.123 as "12 %": one decimal below ten per cent; ``signed`` writes + and − before it."""
        if not math.isfinite(share):
            return "–"
        value = share * 100
        places = digits if digits is not None else 0 if abs(value) >= 9.5 or value == 0 else 1
        sign = ("+" if value > 0 else "") if signed and round(value, places) else ""
        return f"{sign}{self.number(round(value, places) + 0.0, places)}{_PERCENT[self.code]}"

    def bytes(self, count: int) -> str:
        """A size in bytes, kB or MB (powers of 1000)."""
        if count < 1000:
            return self.ngettext("%(n)s byte", "%(n)s bytes", count)
        return f"{self.number(count / 1000, 1)} kB" if count < 1_000_000 else f"{self.number(count / 1e6, 1)} MB"

    # Dates

    def date(self, value: object) -> str:
        """3 Aug 2015; 2015年8月3日."""
        return _formatted(pd.Timestamp(value), _DAY[self.code], self.code)  # type: ignore[arg-type]

    def weekday(self, number: int) -> str:
        """Saturday; 星期六. Monday is 0."""
        from babel.dates import get_day_names

        return str(get_day_names("wide", locale=self.code)[number])

    def moment(self, value: object) -> str:
        """A date and the time of day to the minute."""
        stamp = pd.Timestamp(value)  # type: ignore[arg-type]
        return f"{self.date(stamp)}{', ' if self.code == 'en' else ' '}{stamp:%H:%M}"

    def tick(self, value: object, grain: Literal["day", "month", "year"]) -> str:
        """A short date for an axis."""
        pattern = _TICKS[self.code][("day", "month", "year").index(grain)]
        return _formatted(pd.Timestamp(value), pattern, self.code)  # type: ignore[arg-type]

    def span(self, first: object, last: object) -> str:
        """3 Aug 2015 to 9 Aug 2015."""
        return self.gettext("%(first)s to %(last)s", first=self.date(first), last=self.date(last))

    def steps(self, freq: str, count: int) -> str:
        """28 days, 8 weeks, 1 month."""
        if freq == "D":
            return self.ngettext("%(n)s day", "%(n)s days", count)
        if freq == "W":
            return self.ngettext("%(n)s week", "%(n)s weeks", count)
        return self.ngettext("%(n)s month", "%(n)s months", count)


def _formatted(stamp: pd.Timestamp, pattern: str, code: Code) -> str:
    from babel.dates import format_date

    return str(format_date(stamp.date(), format=pattern, locale=code))


@cache
def _catalogue(code: Code) -> Mapping[tuple[str | None, str], str | tuple[str, ...]]:
    """(context, message) → its translation; of a plural, the forms."""
    if code == "en":
        return {}
    from babel.messages.pofile import read_po

    read = []
    for package in ("trend_client.decisions", "trend_client.report"):
        with files(package).joinpath(f"{code}.po").open("rb") as stream:
            read += list(read_po(stream, locale=code))
    found: dict[tuple[str | None, str], str | tuple[str, ...]] = {}
    for message in read:
        name = message.id if isinstance(message.id, str) else message.id[0]
        if name and message.string:
            text = message.string
            found[(message.context, name)] = text if isinstance(text, str) else tuple(text)
    return found
