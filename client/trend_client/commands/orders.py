"""``trend-client orders``."""

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
    JsonOption,
    OutOption,
    SpokenOption,
    UntilOption,
    VerboseOption,
)
from trend_common.errors import UsageError

if TYPE_CHECKING:
    from trend_client.decisions.orders import Orders
    from trend_client.decisions.outlook import Outlook
    from trend_client.decisions.policy import Terms

__all__ = ["register"]

_SHOWN = 15


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("orders")(_orders)


def _orders(
    lead_time: Annotated[float, typer.Option(help="Steps (days, weeks) from order to shelf.")],
    stock: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What is there: product, store, on_hand, on_order and terms.")
    ] = None,
    service_level: ServiceLevelOption = 0.95,
    lead_time_sd: LeadTimeSdOption = 0.0,
    review: ReviewOption = None,
    moq: MoqOption = 0.0,
    pack: PackOption = 1.0,
    shelf_life: ShelfLifeOption = None,
    price: Annotated[float | None, typer.Option(help="Of one unit; with --cost: the gain in money.")] = None,
    cost: Annotated[float | None, typer.Option(help="Of one unit.")] = None,
    salvage: Annotated[float, typer.Option(help="What an unsold unit of a perishable brings.")] = 0.0,
    skip_unknown: SkipUnknownOption = False,
    simulate: Annotated[
        int | None,
        typer.Option(metavar="STEPS", help="Play this and the usual rules on the last STEPS of the sales instead."),
    ] = None,
    future: FutureOption = None,
    data: DataOption = None,
    home: HomeOption = None,
    columns: ColumnsOption = None,
    until: UntilOption = None,
    country: CountryOption = None,
    device: DeviceOption = "auto",
    backbone: BackboneOption = "trend-small",
    language: SpokenOption = None,
    out: OutOption = None,
    json_out: JsonOption = None,
    verbose: VerboseOption = False,
) -> None:
    """What to order today: quantities, reorder points and safety stock from the forecast. Offline.

    Columns of the stock file (lead_time, moq, pack, shelf_life, price, cost, ...) take precedence over the options.
    """
    from trend_client.decisions.orders import orders, write_orders
    from trend_client.decisions.outlook import outlook
    from trend_client.decisions.stock import read_stock
    from trend_client.decisions.words import speaking
    from trend_common.console import console
    from trend_common.files import write_json

    if (stock is None) == (simulate is None):
        raise UsageError(
            "Orders need --stock FILE." if stock is None else "--stock and --simulate do not go together.",
            "--stock stock.csv says what to order; --simulate 84 plays the rule on the last 84 steps.",
        )
    place = open_place(home, data, columns, until, country, device, backbone, future)
    given = {"lead_time": lead_time, "lead_time_sd": lead_time_sd, "service_level": service_level}
    given |= {"moq": moq, "pack": pack}
    terms(None, review, shelf_life=shelf_life, **given)  # before the sales are read
    with speaking(language):
        look = outlook(place)
        own = terms(look.panel.freq, review, shelf_life=shelf_life, price=price, cost=cost, salvage=salvage, **given)
        if stock is None:
            assert simulate is not None
            _simulate(look, own, simulate, json_out)
            return
        rows, notes = read_stock(stock, look.panel, own, skip_unknown=skip_unknown)
        with console.status("Forecasting"):
            found = orders(look, rows, notes)
        path = write_orders(out or place.home.output, found)
        _show(found, path)
        if json_out is not None:
            write_json(json_out, found.to_json(), private=True)


def _simulate(look: Outlook, own: Terms, steps: int, json_out: Path | None) -> None:
    from rich.table import Table

    from trend_client.decisions.simulate import simulate
    from trend_client.decisions.words import say
    from trend_common import __version__
    from trend_common.console import console
    from trend_common.files import write_json

    with console.status("Playing stock rules") as status:
        found = simulate(look.panel, look.past, own, steps=steps, progress=lambda text: status.update(text))
    table = Table(
        title=say(
            "Stock rules on %(n)s series from %(day)s on, %(steps)s steps",
            n=f"{found.series:,}",
            day=found.start.date(),
            steps=found.steps,
        )
    )
    headings = (
        say("rule"),
        say("service level"),
        say("cycles without stock-out"),
        say("units served"),
        say("stock, in steps of demand"),
    )
    for place, name in enumerate(headings):
        table.add_column(name, justify="right" if place else "left")
    for (rule, level), one in found.results.items():
        if level in (0.9, 0.95, 0.98):
            table.add_row(rule, f"{level:g}", f"{one.cycles:.3f}", f"{one.fill:.4f}", f"{one.stock:.2f}")
    console.print(table)
    if json_out is not None:
        body = {"schema": 1, "version": __version__, "command": "orders", "simulation": found.to_json()}
        write_json(json_out, body, private=True)


def _show(found: Orders, path: Path) -> None:
    from rich.markup import escape
    from rich.table import Table

    from trend_client.commands.opening import named, tell_notes
    from trend_client.decisions.words import say
    from trend_common.console import console

    placed = found.table[found.table["order"] > 0] if len(found.table) else found.table
    on_order = bool((found.table["on_order"] > 0).any()) if len(found.table) else False
    several = len(found.table) > 0 and found.table["store"].nunique() > 1
    title = say("To order: %(n)s of %(all)s, most urgent first", n=f"{len(placed):,}", all=f"{len(found.table):,}")
    table = Table(title=title)
    texts = [say("product"), *([say("store")] if several else [])]
    for name in texts:
        table.add_column(name, overflow="fold", max_width=30)
    figures = [say("order"), say("there"), say("runs out"), say("risk"), say("then"), say("lost")]
    for name in figures:
        table.add_column(name, justify="right", no_wrap=True)
    for row in placed.head(_SHOWN).to_dict("records"):
        there = f"{row['on_hand']:,.0f}" + (f"+{row['on_order']:,.0f}" if on_order else "")
        table.add_row(
            named(row),
            *([escape(str(row["store"]))] if several else []),
            f"{row['order']:,.0f}",
            there,
            str(row["runs_out"] or "-")[5:] or "-",
            f"{100 * row['stockout_without']:.0f} %",
            f"{100 * row['stockout_with']:.0f} %",
            f"{row['lost_without']:,.0f}",
        )
    console.print(table)
    tell_notes(found.notes)
    console.print(
        escape(
            say(
                "'risk' is the probability of running out before the next delivery if nothing is ordered, 'then' "
                "with the order; what is sold before the delivery arrives cannot be helped. 'lost' are units that "
                "could not be sold without it. Stocks that last longer than the forecast looks have no date. All "
                "quantities, reorder points and safety stocks: %(file)s",
                file=path,
            )
        ),
        soft_wrap=True,
    )
