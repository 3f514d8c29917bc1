"""Tables that stay readable on a narrow screen.

A table that fits is printed as it is. One that does not has its headings and its texts wrapped between words; where
even that is too wide, it is printed in several parts, each with the first column in front. No word and no figure is
broken, which is what Rich does with columns that it has no room for.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Column, Table

__all__ = ["Fitting"]

_WORD: Final = 24
"""Cells of the screen above which a word of a text may be broken after all: a code, or a sentence without spaces."""


@dataclass(frozen=True)
class Fitting:
    """A table, in as many parts as the screen asks for."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = options.max_width
        if _asked(self.table, console, options) <= room or not self.table.columns:
            yield self.table
            return
        least, most = zip(*(_widths(column, console, options) for column in self.table.columns), strict=True)
        parts: list[list[int]] = [[0]]
        for place in range(1, len(least)):
            widths = [least[one] for one in (*parts[-1], place)]
            if len(parts[-1]) > 1 and sum(widths) + self._edges((*parts[-1], place), console, options) > room:
                parts.append([0])
            parts[-1].append(place)
        for number, places in enumerate(parts):
            spare = room - self._edges(places, console, options)
            widths = _shared(spare, [least[one] for one in places], [most[one] for one in places])
            yield self._part(places, widths, first=number == 0, last=number == len(parts) - 1)

    def _edges(self, places: Sequence[int], console: Console, options: ConsoleOptions) -> int:
        """What lines and padding take of the width."""
        bare = self._part(places, [1] * len(places), first=False, last=False)
        return _asked(bare, console, options) - len(places)

    def _part(self, places: Sequence[int], widths: Sequence[int], *, first: bool, last: bool) -> Table:
        part = copy(self.table)
        part.columns = []
        for position, (place, width) in enumerate(zip(places, widths, strict=True)):
            column = copy(self.table.columns[place])
            column._index, column.width, column.no_wrap = position, width, False
            part.columns.append(column)
        if not first:
            part.title = None
        if not last:
            part.caption = None
        return part


def _asked(table: Table, console: Console, options: ConsoleOptions) -> int:
    """The width that a table would like to have."""
    return Measurement.get(console, options.update(max_width=10_000), table).maximum


def _widths(column: Column, console: Console, options: ConsoleOptions) -> tuple[int, int]:
    """The least width without breaking a word or a figure, and the width without any wrapping."""
    wide = options.update(max_width=10_000)
    heading = Measurement.get(console, wide, column.header)
    cells = [Measurement.get(console, wide, cell) for cell in column.cells]
    whole = max((one.maximum for one in cells), default=0)
    text = column.justify == "left" and not column.no_wrap
    words = min(max((one.minimum for one in cells), default=0), _WORD) if text else whole
    return max(heading.minimum, words, 1), max(heading.maximum, whole, 1)


def _shared(room: int, least: Sequence[int], most: Sequence[int]) -> list[int]:
    """Widths that add up to the room: the widest give first, none less than it needs while others can."""
    widths = list(most)
    while sum(widths) > room:
        spare = [width - low for width, low in zip(widths, least, strict=True)]
        open_ = [place for place, one in enumerate(spare) if one > 0] or list(range(len(widths)))
        widest = max(open_, key=lambda place: widths[place])
        if widths[widest] <= 1:
            break
        widths[widest] -= 1
    return widths
