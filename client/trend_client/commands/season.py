"""``trend-client season``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from trend_client.commands.opening import open_place
from trend_client.options import (
    BackboneOption,
    ColumnsOption,
    CountryOption,
    DataOption,
    DeviceOption,
    HomeOption,
    JsonOption,
    UntilOption,
    VerboseOption,
)
from trend_common.errors import UsageError

if TYPE_CHECKING:
    from trend_client.decisions.season import Seasons

__all__ = ["register"]

_SHOWN = 20


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("season")(_season)


def _season(
    by: Annotated[str, typer.Option(metavar="product|category|all", help="What is looked at together.")] = "product",
    name: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Of this alone; may be repeated.")] = None,
    target: Annotated[
        float | None,
        typer.Option(help="Level at which the season is bought. Default: 0.8, or the critical fractile."),
    ] = None,
    price: Annotated[float | None, typer.Option(help="Of one unit in season.")] = None,
    cost: Annotated[float | None, typer.Option(help="Of one unit.")] = None,
    salvage: Annotated[float, typer.Option(help="What a unit brings after the season.")] = 0.0,
    pack: Annotated[float, typer.Option(min=0.001, help="Orders are multiples of it.")] = 1.0,
    data: DataOption = None,
    home: HomeOption = None,
    columns: ColumnsOption = None,
    until: UntilOption = None,
    country: CountryOption = None,
    device: DeviceOption = "auto",
    backbone: BackboneOption = "trend-small",
    json_out: JsonOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Seasons of the next year: start, peak, end, total, the order before them, and how it sells through. Offline."""
    from trend_client.decisions.outlook import outlook
    from trend_client.decisions.policy import critical_fractile
    from trend_client.decisions.season import seasons
    from trend_common.console import console
    from trend_common.files import write_json

    if (price is None) != (cost is None):
        raise UsageError("--price and --cost go together.", "Give both, or --target.")
    level = 0.8 if target is None else target
    if price is not None and cost is not None and target is None:
        level = critical_fractile(price, cost, salvage)
    look = outlook(open_place(home, data, columns, until, country, device, backbone))
    with console.status("Looking a year ahead"):
        found = seasons(look, by=by, names=name or (), target=level, pack=pack)
    _show(found, curves=bool(name) or by == "all")
    if json_out is not None:
        write_json(json_out, found.to_json(), private=True)


def _show(found: Seasons, *, curves: bool) -> None:
    from rich.markup import escape
    from rich.table import Table

    from trend_common.console import console

    seasonal = [one for one in found.rows if one.seasonal]
    shown = found.rows if curves else seasonal
    table = Table(title=f"Seasons of the next year: {len(seasonal):,} of {len(found.rows):,}, the largest first")
    for heading in (found.by, "start", "peak", "end", "units (80 % interval)", "buy before"):
        table.add_column(heading, justify="right" if heading in ("units (80 % interval)", "buy before") else "left")
    for one in shown[:_SHOWN]:
        table.add_row(
            escape(one.name) + ("" if one.seasonal else " (no season)"),
            _span(one.start) + (" or running" if one.running else ""),
            _span(one.peak),
            _span(one.end),
            f"{one.total[1]:,.0f} ({one.total[0]:,.0f} to {one.total[2]:,.0f})",
            f"{one.order:,.0f}" if one.seasonal else "-",
        )
    console.print(table)
    if any(not one.seasonal for one in shown):
        console.print(
            "No season: 60 % of a year's sales take more than 22 weeks (5 months). Its dates are loose; order it as "
            "any other product (trend-client orders).",
            soft_wrap=True,
        )
    for one in [one for one in shown if one.seasonal][:3] if curves else ():
        console.print(f"{escape(one.name)}: of {one.order:,.0f} bought before, sold by")
        for day, low, mean, high in one.sell_through:
            bar = "█" * round(30 * mean)
            console.print(f"  {day}  {100 * mean:3.0f} % ({100 * low:.0f} to {100 * high:.0f} %)  {bar}")
    console.print("Dates are the middle one of the paths, in brackets 10 and 90 % of them.")
    for note in found.notes:
        console.print(f"Note: {escape(note)}", soft_wrap=True)


def _span(dates: tuple[str, str, str]) -> str:
    low, middle, high = dates
    return middle if low == high else f"{middle} ({low[5:]} to {high[5:]})"
