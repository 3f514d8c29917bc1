"""``trend-client recommend``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trend_client.commands.opening import open_place
from trend_client.commands.terms import (
    LeadTimeSdOption,
    MoqOption,
    PackOption,
    ReviewOption,
    ServiceLevelOption,
    ShelfLifeOption,
    SkipUnknownOption,
    terms,
)
from trend_client.options import (
    BackboneOption,
    ColumnsOption,
    CountryOption,
    DataOption,
    DeviceOption,
    FutureOption,
    HomeOption,
    HorizonOption,
    JsonOption,
    SpokenOption,
    UntilOption,
    VerboseOption,
)
from trend_common.errors import UsageError

if TYPE_CHECKING:
    from trend_client.decisions.recommend import Recommendation

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("recommend")(_recommend)


def _recommend(
    stock: Annotated[
        Path | None, typer.Option(metavar="FILE", help="As for orders; without it: promote and drop alone.")
    ] = None,
    margin: Annotated[
        float | None, typer.Option(help="Share of the price left after the cost: gains in money.")
    ] = None,
    price: Annotated[float | None, typer.Option(help="Of one unit, where the sales have no prices.")] = None,
    lead_time: Annotated[float, typer.Option(help="Steps from order to shelf.")] = 5.0,
    service_level: ServiceLevelOption = 0.95,
    lead_time_sd: LeadTimeSdOption = 0.0,
    review: ReviewOption = None,
    moq: MoqOption = 0.0,
    pack: PackOption = 1.0,
    shelf_life: ShelfLifeOption = None,
    skip_unknown: SkipUnknownOption = False,
    action: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="promote, restock, 'mark down' or drop; may be repeated.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Rows to show.")] = 20,
    horizon: HorizonOption = None,
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
    """Products to promote, restock, mark down or drop next, by predicted gain, with reasons. Offline."""
    from trend_client.decisions.outlook import outlook
    from trend_client.decisions.recommend import ACTIONS, Values, last_prices, recommend
    from trend_client.decisions.stock import read_stock
    from trend_client.decisions.words import speaking
    from trend_common.console import console
    from trend_common.files import write_json

    if margin is not None and not 0 < margin < 1:
        raise UsageError(f"--margin is {margin:g}.", "It is a share of the price, such as 0.3.")
    if price is not None and price <= 0:
        raise UsageError(f"--price is {price:g}.", "It is above 0.")
    given = {"lead_time": lead_time, "lead_time_sd": lead_time_sd, "service_level": service_level}
    given |= {"moq": moq, "pack": pack}
    terms(None, review, shelf_life=shelf_life, **given)  # before the sales are read
    with speaking(language):
        look = outlook(open_place(home, data, columns, until, country, device, backbone, future), horizon)
        own = terms(look.panel.freq, review, shelf_life=shelf_life, **given)
        rows, notes = ({}, ()) if stock is None else read_stock(stock, look.panel, own, skip_unknown=skip_unknown)
        prices = dict.fromkeys(look.panel.ids, price) if price is not None else last_prices(look.panel)
        if margin is not None and not prices:
            raise UsageError(
                "The sales have no prices, so gains cannot be in money.", "Add --price, or leave --margin out."
            )
        stated = {
            name: (row.terms.price, row.terms.cost)
            for name, row in rows.items()
            if row.terms.price is not None and row.terms.cost is not None
        }
        with console.status("Comparing what could be done"):
            found = recommend(
                look,
                rows,
                Values({name: float(one) for name, one in prices.items() if one is not None}, margin, stated),
                horizon=horizon or look.horizon,
                actions=action or ACTIONS,
                notes=notes,
            )
        _show(found, top)
        if json_out is not None:
            write_json(json_out, found.to_json(), private=True)


def _show(found: Recommendation, top: int) -> None:
    from rich.markup import escape
    from rich.table import Table

    from trend_client.commands.opening import named, tell_notes
    from trend_client.decisions.words import say
    from trend_client.report.actions import ACTIONS
    from trend_common.console import console

    gain = say("gain in money (80 % interval)") if found.in_money else say("gain in units (80 % interval)")
    table = Table(
        title=say("For the next %(steps)s steps: %(n)s things to do", steps=found.horizon, n=f"{len(found.advice):,}")
    )
    table.add_column(say("do"))
    table.add_column(say("product"), overflow="fold", max_width=30)
    table.add_column(gain, justify="right", max_width=18)
    table.add_column(say("because"))
    shown = list(found.advice[:top])
    if not found.in_money:
        # Units of different actions do not compare: some of each.
        kinds = sorted({one.action for one in found.advice})
        each = max(top // max(len(kinds), 1), 1)
        shown = [one for kind in kinds for one in [x for x in found.advice if x.action == kind][:each]]
    for one in shown:
        middle, low, high = (f"{round(value) + 0:,}" for value in (one.gain, one.low, one.high))  # no "-0"
        interval = say("(%(low)s to %(high)s)", low=low, high=high)
        name = named(found.names[one.unique_id], store=True)
        table.add_row(say(ACTIONS[one.action]), name, f"{middle} {interval}", escape(one.reason))
    console.print(table)
    tell_notes(found.notes)
