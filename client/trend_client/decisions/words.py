"""What the commands that decide and explain say, in the language that was asked for.

Messages are English in the code and looked up in ``zh.po`` beside this module. Who calls nothing speaks English, so
that a service and a notebook do not depend on a machine's locale; the commands choose with :func:`speaking`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from trend_client.report.language import N_, Language, language

__all__ = ["N_", "say", "speaking", "spoken", "steps_of"]

_SPOKEN: ContextVar[Language | None] = ContextVar("spoken", default=None)


def spoken() -> Language:
    """The language in use; English unless a command chose."""
    return _SPOKEN.get() or Language("en")


@contextmanager
def speaking(code: str | None) -> Iterator[Language]:
    """Use a language within; None takes this machine's.

    Raises:
        UsageError: There is no such language.
    """
    before = _SPOKEN.set(language(code))
    try:
        yield spoken()
    finally:
        _SPOKEN.reset(before)


def say(message: str, **values: object) -> str:
    """A message with its ``%(name)s`` filled in; ``%%`` stands for a percent sign where values are given."""
    return spoken().gettext(message, **values)


def steps_of(freq: str, count: int) -> str:
    """28 days, 8 weeks, 1 month."""
    return spoken().steps(freq, count)
