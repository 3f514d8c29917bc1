"""The header of a table: which line it is, and the names of its columns."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

from trend_common.panel.findings import Report
from trend_common.panel.vocabulary import known_role

__all__ = ["header_line", "shown", "unique_names", "usual_width"]

_HEADER_WITHIN: Final = 40
_NUMBER: Final = re.compile(r"^[\s\d.,'+\-−€$£¥%()/:]+$")


def header_line(cells: list[list[str]], width: int, report: Report) -> int:
    """The first line that has names in nearly all cells; one with a known name is preferred."""
    candidates = []
    for position, row in enumerate(cells[:_HEADER_WITHIN]):
        filled = [cell for cell in row if cell.strip()]
        numbers = sum(bool(_NUMBER.match(cell)) for cell in filled)
        if len(filled) < max(2, 0.5 * width):
            continue
        if any(known_role(cell) for cell in filled):
            return position
        if numbers == 0:
            candidates.append(position)
    if candidates:
        return candidates[0]
    raise report.fail(
        f"There is no header line: the first line is {shown(cells[:1])}.",
        "Put the columns' names in the first line, for example: date,store,product,units",
    )


def unique_names(header: list[str], width: int, report: Report) -> list[str]:
    """Unique names: an empty one by its place, a second equal one with its number."""
    names: list[str] = []
    taken: set[str] = set()
    doubled = 0
    for position in range(width):
        name = header[position] if position < len(header) else ""
        name = name or f"column {position + 1}"
        if name in taken:
            doubled += 1
            number = 2
            while f"{name} ({number})" in taken:
                number += 1
            name = f"{name} ({number})"
        names.append(name)
        taken.add(name)
    report.found("duplicate_header", doubled, f"{doubled} column name(s) stand twice in the header.")
    return names


def shown(rows: list[list[str]]) -> str:
    return "; ".join(" ".join(cell for cell in row if cell.strip())[:60] for row in rows[:3])


def usual_width(rows: list[list[str]]) -> int:
    widths = Counter(len(row) for row in rows)
    return max(widths, key=lambda width: (widths[width], width)) if widths else 0
