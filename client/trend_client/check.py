"""``trend-client check``: what was understood of a sales file, before any network and without writing anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trend_common import __version__
from trend_common.console import console as standard_console
from trend_common.errors import UsageError
from trend_common.files import write_json

if TYPE_CHECKING:
    from trend_common.panel import SalesPanel

__all__ = ["check", "parse_columns", "parse_day"]

_FREQUENCIES = {"D": "daily", "W": "weekly", "M": "monthly"}
_COLOURS = {"info": "cyan", "warning": "yellow", "error": "red"}


def parse_columns(pairs: Sequence[str]) -> dict[str, str]:
    """``["units=Umsatz", ...]`` as a mapping of role to column.

    Raises:
        UsageError: A pair has no ``=``, or a role stands twice.
    """
    mapping: dict[str, str] = {}
    for pair in pairs:
        role, equals, name = pair.partition("=")
        role = role.strip()
        if not equals or not role or not name.strip():
            raise UsageError(f"--columns {pair!r} is not role=name.", "Write for example --columns units=Umsatz.")
        if role in mapping:
            raise UsageError(
                f"--columns names the role {role!r} twice: {mapping[role]!r} and {name!r}.", "Give it once."
            )
        mapping[role] = name.strip()
    return mapping


def parse_day(text: str | None) -> str | None:
    """A declared day as YYYY-MM-DD; None for none.

    Raises:
        UsageError: It is no day of the calendar in that form.
    """
    if text is None:
        return None
    try:
        return date.fromisoformat(text.strip()).isoformat()
    except ValueError as error:
        raise UsageError(
            f"--until {text!r} is no day.", "Write the export's last day as YYYY-MM-DD, such as 2024-06-30."
        ) from error


def check(
    data: Path,
    columns: Mapping[str, str] | None = None,
    json_out: Path | None = None,
    *,
    date_format: str | None = None,
    freq: str | None = None,
    decimal: str | None = None,
    until: str | None = None,
    sheet: str | None = None,
    output: Console | None = None,
) -> None:
    """Read ``data`` and print columns, shape, range, findings and five example series.

    Args:
        data: The sales file.
        columns: Role -> column name, where the names alone do not tell.
        json_out: Where to write the summary, if anywhere; the only file that is ever written.
        date_format: strptime format of the dates.
        freq: "D", "W" or "M" to fix the frequency.
        decimal: "." or "," to fix the decimal mark.
        until: The export's last day, YYYY-MM-DD, where a person declares it.
        sheet: The sheet of a workbook, where the file has several.
        output: The console to print to.

    Raises:
        DataError: The file cannot be used (exit 3); nothing is written.
        UsageError: An option makes no sense (exit 2).
    """
    from trend_common.panel import Freq, read
    from trend_common.panel.describe import summary

    if freq is not None and freq not in _FREQUENCIES:
        raise UsageError(f"--freq {freq} is unknown.", "Give D (days), W (weeks) or M (months).")
    if decimal not in (None, ".", ","):
        raise UsageError(f"--decimal {decimal!r} is unknown.", "Give '.' or ','.")
    last = parse_day(until)
    panel = read(
        data,
        columns=columns,
        freq=cast("Freq | None", freq),
        date_format=date_format,
        decimal=cast("Literal['.', ','] | None", decimal),
        period=None if last is None else (None, last),
        sheet=sheet,
    )
    if json_out is not None:
        write_json(json_out, summary(panel, version=__version__))
    _print(panel, output or standard_console)


def _print(panel: SalesPanel, console: Console) -> None:
    console.print(f"[bold]{escape(panel.name)}[/]: {panel.rows:,} rows → {panel.n_series:,} series", soft_wrap=True)
    stores, products = panel.static["store"].nunique(), panel.static["product"].nunique()
    facts = Table.grid(padding=(0, 2))
    facts.add_row("Columns", ", ".join(f"{role} = {escape(name)}" for role, name in panel.columns.items()) or "-")
    facts.add_row("Frequency", f"{_FREQUENCIES[panel.freq]} ({panel.offset})")
    declared = "" if panel.until is None else f", declared to end {panel.until.date()}"
    facts.add_row("Range", f"{panel.start.date()} to {panel.end.date()}{declared}")
    facts.add_row("Series", f"{panel.n_series:,} of {stores:,} store(s) and {products:,} product(s)")
    facts.add_row("Known ahead", _known_ahead(panel))
    facts.add_row("Steps", _steps(panel))
    if len(panel.outages):
        facts.add_row("Without stock", _outages(panel))
    console.print(facts)
    console.print()
    _print_findings(panel, console)
    _print_examples(panel, console)


def _known_ahead(panel: SalesPanel) -> str:
    from trend_common.panel.model import OWN

    names = [name for name in panel.known_ahead if name in panel.frame]
    past = [name for name in OWN if name in panel.frame and name not in names]
    alone = f"; of {', '.join(past)} the past alone" if past else ""
    if not names:
        return f"nothing but the calendar{alone}"
    return f"{', '.join(names)}; {len(panel.future):,} step(s) after the last sale{alone}"


def _steps(panel: SalesPanel) -> str:
    y, closed = panel.frame["y"], panel.frame["closed"]
    zeros = int(((y == 0) & ~closed).sum())
    return f"{len(y):,}: {int(closed.sum()):,} closed, {int(y.isna().sum()):,} unknown, {zeros:,} true zeros"


def _outages(panel: SalesPanel) -> str:
    """The runs without stock and what they may have cost; on the screen alone, since it is a sales figure."""
    table = panel.outages
    return (
        f"{len(table):,} run(s) of {int(table['days'].sum()):,} step(s); demand that was lost, a low estimate: "
        f"{table['lost'].sum():,.0f} units"
    )


def _print_findings(panel: SalesPanel, console: Console) -> None:
    if not panel.findings:
        console.print("Nothing to remark.")
        return
    table = Table(title="Findings", title_justify="left", show_lines=False, padding=(0, 1))
    for heading in ("Code", "Severity", "Count", "What was found", "What was done"):
        table.add_column(heading, justify="right" if heading == "Count" else "left", no_wrap=heading == "Count")
    order = {"error": 0, "warning": 1, "info": 2}
    for finding in sorted(panel.findings, key=lambda finding: order[finding.severity]):
        colour = _COLOURS[finding.severity]
        texts = (escape(finding.message), escape(finding.action))
        table.add_row(finding.code, f"[{colour}]{finding.severity}[/]", f"{finding.count:,}", *texts)
    console.print(table)


def _print_examples(panel: SalesPanel, console: Console) -> None:
    from trend_common.panel.describe import examples

    width = max(12, min(60, console.width - 63))  # what the other columns take at most
    table = Table(title="The largest series", title_justify="left", padding=(0, 1))
    for heading in ("Series", "From", "Course", "Unknown", "Closed"):
        table.add_column(heading, justify="right" if heading in ("Unknown", "Closed") else "left", no_wrap=True)
    for example in examples(panel, width=width):
        label = example.label if len(example.label) <= 24 else f"{example.label[:23]}…"
        shares = (f"{example.unknown:.0%}", f"{example.closed:.0%}")
        table.add_row(escape(label), str(example.start.date()), example.chart, *shares)
    console.print(table)
