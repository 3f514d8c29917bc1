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
    FutureOption,
    HomeOption,
    JsonOption,
    SpokenOption,
    UntilOption,
    VerboseOption,
)
from trend_common.errors import UsageError

if TYPE_CHECKING:
    from trend_client.decisions.season import Seasons

__all__ = ["register"]

_SHOWN = 20
_BY = {"product": "product", "category": "category", "all": "all"}


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
    future: FutureOption = None,
    data: DataOption = None,
    home: HomeOption = None,
    columns: ColumnsOption = None,
    until: UntilOption = None,
    country: CountryOption = None,
    device: DeviceOption = "auto",
    backbone: BackboneOption = "trend-small",
    language: SpokenOption = None,
    json_out: JsonOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Seasons of the next year: start, peak, end, total, the order before them, and how it sells through. Offline."""
    from trend_client.decisions.outlook import outlook
    from trend_client.decisions.policy import critical_fractile
    from trend_client.decisions.season import seasons
    from trend_client.decisions.words import speaking
    from trend_common.console import console
    from trend_common.files import write_json

    if (price is None) != (cost is None):
        raise UsageError("--price and --cost go together.", "Give both, or --target.")
    level = 0.8 if target is None else target
    if price is not None and cost is not None and target is None:
        level = critical_fractile(price, cost, salvage)
    with speaking(language):
        look = outlook(open_place(home, data, columns, until, country, device, backbone, future), blends=False)
        with console.status("Looking a year ahead"):
            found = seasons(look, by=by, names=name or (), target=level, pack=pack)
        _show(found, curves=bool(name) or by == "all")
        if json_out is not None:
            write_json(json_out, found.to_json(), private=True)


def _show(found: Seasons, *, curves: bool) -> None:
    from rich.markup import escape
    from rich.table import Table

    from trend_client.commands.opening import named, tell_notes
    from trend_client.decisions.words import say
    from trend_common.console import console

    seasonal = [one for one in found.rows if one.seasonal]
    shown = found.rows if curves else seasonal
    table = Table(
        title=say(
            "Seasons of the next year: %(n)s of %(all)s, the largest first",
            n=f"{len(seasonal):,}",
            all=f"{len(found.rows):,}",
        )
    )
    table.add_column(say(_BY[found.by]), overflow="fold", max_width=30)
    for heading in (say("start"), say("peak"), say("end")):
        table.add_column(heading)
    for heading in (say("units (80 % interval)"), say("buy before")):
        table.add_column(heading, justify="right")
    none, running = say("(no season)"), say("or running")
    for one in shown[:_SHOWN]:
        name = named({"product": one.name, "description": one.description})
        low, middle, high = (f"{value:,.0f}" for value in one.total)
        table.add_row(
            name + ("" if one.seasonal else f" {none}"),
            _span(one.start) + (f" {running}" if one.running else ""),
            _span(one.peak),
            _span(one.end),
            say("%(middle)s (%(low)s to %(high)s)", middle=middle, low=low, high=high),
            f"{one.order:,.0f}" if one.seasonal else "-",
        )
    console.print(table)
    if any(not one.seasonal for one in shown):
        console.print(
            say(
                "No season: three fifths of a year's sales take more than 22 weeks (5 months). Its dates are loose; "
                "order it as any other product (trend-client orders)."
            ),
            soft_wrap=True,
        )
    for one in [one for one in shown if one.seasonal][:3] if curves else ():
        console.print(
            escape(say("%(name)s: of %(order)s bought before, sold by", name=one.name, order=f"{one.order:,.0f}"))
        )
        for day, low_share, mean, high_share in one.sell_through:
            bar = "█" * round(30 * mean)
            span = say("(%(low)s to %(high)s)", low=f"{100 * low_share:.0f}", high=f"{100 * high_share:.0f} %")
            console.print(f"  {day}  {100 * mean:3.0f} % {span}  {bar}")
    console.print(
        say("Dates are the middle one of the paths, in brackets where 10 and 90 of 100 paths have theirs."),
        soft_wrap=True,
    )
    tell_notes(found.notes)


def _span(dates: tuple[str, str, str]) -> str:
    from trend_client.decisions.words import say

    low, middle, high = dates
    span = say("(%(low)s to %(high)s)", low=low[5:], high=high[5:])
    return middle if low == high else f"{middle} {span}"
