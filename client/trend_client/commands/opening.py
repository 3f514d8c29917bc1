"""What the commands that decide and explain share: how they open a home, name products and tell notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trend_client.workplace import Workplace
from trend_common.errors import UsageError

__all__ = ["named", "open_place", "tell_notes"]


def open_place(
    home: Path | None,
    data: Path | None,
    columns: list[str] | None,
    until: str | None,
    country: str | None,
    device: str,
    backbone: str,
    future: Path | None = None,
) -> Workplace:
    """The home, its sales file, and the plan that the command was given.

    Raises:
        UsageError: No sales file is known, or an option makes no sense.
    """
    from trend_client.check import parse_columns, parse_day
    from trend_client.home import default_home

    if device not in ("auto", "cpu", "cuda", "mps"):
        raise UsageError(f"--device is {device!r}.", "It is auto, cpu, cuda or mps.")
    place = Workplace(
        home or default_home(),
        data=data,
        columns=parse_columns(columns or []),
        until=parse_day(until),
        country=country,
        device=device,
        backbone=backbone,
    )
    place.future = future
    return place


def named(row: Mapping[Any, Any], *, store: bool = False) -> str:
    """A product for a table: its id, with the store if asked for, and below it what the file calls it."""
    from rich.markup import escape

    ident = "/".join(escape(str(row[key])) for key in (("store", "product") if store else ("product",)))
    words = str(row.get("description", "") or "")
    return f"{ident}\n[dim]{escape(words)}[/]" if words and words != row["product"] else ident


def tell_notes(notes: Sequence[str]) -> None:
    """Print what a person should know besides."""
    from rich.markup import escape

    from trend_client.decisions.words import say
    from trend_common.console import console

    for note in dict.fromkeys(notes):
        console.print(escape(say("Note: %(text)s", text=note)), soft_wrap=True)
