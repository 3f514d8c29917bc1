"""A narrow screen breaks no heading, no figure and no line; a wide one shows a table as it was made."""

from __future__ import annotations

import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from trend_common.tables import Fitting

HEADINGS = ("against the old method", "same-phase-mean", "chosen per product", "80 % interval covers", "bytes sent")


def table(names: tuple[str, ...] = ("retailer-north", "retailer-south"), *, figures: int = 9) -> Table:
    made = Table(title="What each retailer gets", caption="Lower is better", title_justify="left")
    made.add_column("retailer", no_wrap=True)
    for number in range(figures):
        made.add_column(HEADINGS[number % len(HEADINGS)], justify="right")
    made.add_column("verdict")
    for row, name in enumerate(names):
        figure = [f"{row}.{number:03d} [{number}.10, {number}.90]" for number in range(figures)]
        made.add_row(name, *figure, "is better than training alone", style="bold" if row else None)
    return made


def printed(made: object, width: int) -> list[str]:
    screen = Console(file=io.StringIO(), width=width, highlight=False)
    screen.print(made)
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue().splitlines()


def test_a_table_that_fits_is_printed_as_it_was_made() -> None:
    assert printed(Fitting(table()), 400) == printed(table(), 400)
    small = table(figures=1)
    assert printed(Fitting(small), 100) == printed(small, 100)


@pytest.mark.parametrize("width", [80, 100])
def test_nothing_is_broken_on_a_narrow_screen(width: int) -> None:
    lines = printed(Fitting(table()), width)
    assert max(map(cell_len, lines)) <= width
    text = "\n".join(lines)
    for number in range(9):
        for row in range(2):
            assert text.count(f"{row}.{number:03d} [{number}.10, {number}.90]") == 1, "each figure once, on one line"
    words = set(re.findall(r"[\w-]+", text))
    assert {word for heading in HEADINGS for word in re.findall(r"[\w-]+", heading)} <= words
    assert {"is", "better", "than", "training", "alone"} <= words
    assert text.count("What each retailer gets") == text.count("Lower is better") == 1
    parts = [line for line in lines if line.startswith("┏")]
    assert len(parts) > 1
    assert sum("retailer-north" in line for line in lines) == len(parts), "each part says whose figures they are"
    plain = "\n".join(printed(table(), width))
    assert "against" not in re.findall(r"[\w-]+", plain), "what Rich does alone"


def test_headings_wrap_before_a_table_is_taken_apart() -> None:
    lines = printed(Fitting(table(figures=2)), 80)
    assert sum(line.startswith("┏") for line in lines) == 1
    assert max(map(cell_len, lines)) <= 80
    assert "0.001 [1.10, 1.90]" in "\n".join(lines)


@pytest.mark.parametrize("width", [1, 8, 20, 40])
def test_a_very_narrow_screen_still_shows_something(width: int) -> None:
    lines = printed(Fitting(table(("这是一家没有空格的很长的商店名称", "x" * 90))), width)
    assert lines
    if width >= 40:
        assert max(map(cell_len, lines)) <= width


def test_the_console_of_all_commands_does_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from trend_common.console import console

    monkeypatch.setattr(console, "width", 80)
    console.print(table())
    assert capsys.readouterr().out.count("┏") == printed_parts(80)


def printed_parts(width: int) -> int:
    return sum(line.startswith("┏") for line in printed(Fitting(table()), width))


def test_a_table_without_columns_is_nothing() -> None:
    assert printed(Fitting(Table()), 80) == printed(Table(), 80)
