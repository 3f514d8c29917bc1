"""``trend-client orders``."""

from __future__ import annotations

from pathlib import Path
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
    OutOption,
    UntilOption,
    VerboseOption,
)
from trend_common.errors import UsageError

if TYPE_CHECKING:
    from trend_client.decisions.orders import Orders
    from trend_client.decisions.outlook import Outlook
    from trend_client.decisions.policy import Terms

__all__ = ["register"]

_REVIEW = {"D": 7, "W": 1, "M": 1}
_SHOWN = 15


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("orders")(_orders)


def _orders(
    lead_time: Annotated[float, typer.Option(help="Steps (days, weeks) from order to shelf.")],
    stock: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What is there: product, store, on_hand, on_order and terms.")
    ] = None,
    service_level: Annotated[
        float, typer.Option(help="Probability of not running out before the next delivery.")
    ] = 0.95,
    lead_time_sd: Annotated[float, typer.Option(help="Standard deviation of the lead time in steps.")] = 0.0,
    review: Annotated[
        int | None, typer.Option(help="Steps between two orders. Default: 7 with daily data, else 1.")
    ] = None,
    moq: Annotated[float, typer.Option(help="Least quantity of an order that is placed.")] = 0.0,
    pack: Annotated[float, typer.Option(help="Orders are multiples of it.")] = 1.0,
    shelf_life: Annotated[int | None, typer.Option(help="Steps for which a delivery can be sold.")] = None,
    price: Annotated[float | None, typer.Option(help="Of one unit; with --cost: the gain in money.")] = None,
    cost: Annotated[float | None, typer.Option(help="Of one unit.")] = None,
    salvage: Annotated[float, typer.Option(help="What an unsold unit of a perishable brings.")] = 0.0,
    skip_unknown: Annotated[
        bool, typer.Option("--skip-unknown", help="Pass over products that the sales do not know.")
    ] = False,
    simulate: Annotated[
        int | None,
        typer.Option(metavar="STEPS", help="Play this and the usual rules on the last STEPS of the sales instead."),
    ] = None,
    data: DataOption = None,
    home: HomeOption = None,
    columns: ColumnsOption = None,
    until: UntilOption = None,
    country: CountryOption = None,
    device: DeviceOption = "auto",
    backbone: BackboneOption = "trend-small",
    out: OutOption = None,
    json_out: JsonOption = None,
    verbose: VerboseOption = False,
) -> None:
    """What to order today: quantities, reorder points and safety stock from the forecast. Offline.

    Columns of the stock file (lead_time, moq, pack, shelf_life, price, cost, ...) take precedence over the options.
    """
    from trend_client.decisions.orders import orders, write_orders
    from trend_client.decisions.outlook import outlook
    from trend_client.decisions.policy import Terms
    from trend_client.decisions.stock import read_stock
    from trend_common.console import console
    from trend_common.files import write_json

    if (stock is None) == (simulate is None):
        raise UsageError(
            "Orders need --stock FILE." if stock is None else "--stock and --simulate do not go together.",
            "--stock stock.csv says what to order; --simulate 84 plays the rule on the last 84 steps.",
        )
    place = open_place(home, data, columns, until, country, device, backbone)
    given = {"lead_time": lead_time, "lead_time_sd": lead_time_sd, "service_level": service_level}
    Terms(review=review or 1, moq=moq, pack=pack, shelf_life=shelf_life, **given)  # before the sales are read
    look = outlook(place)
    terms = Terms(
        review=review or _REVIEW[look.panel.freq],
        moq=moq,
        pack=pack,
        shelf_life=shelf_life,
        price=price,
        cost=cost,
        salvage=salvage,
        **given,
    )
    if stock is None:
        assert simulate is not None
        _simulate(look, terms, simulate, json_out)
        return
    rows, notes = read_stock(stock, look.panel, terms, skip_unknown=skip_unknown)
    with console.status("Forecasting"):
        found = orders(look, rows, notes)
    path = write_orders(out or place.home.output, found)
    _show(found, path)
    if json_out is not None:
        write_json(json_out, found.to_json(), private=True)


def _simulate(look: Outlook, terms: Terms, steps: int, json_out: Path | None) -> None:
    from rich.table import Table

    from trend_client.decisions.simulate import simulate
    from trend_common import __version__
    from trend_common.console import console
    from trend_common.files import write_json

    with console.status("Playing stock rules") as status:
        found = simulate(
            look.panel, look.trained_before(steps), terms, steps=steps, progress=lambda text: status.update(text)
        )
    table = Table(title=f"Stock rules on {found.series:,} series from {found.start.date()} on, {found.steps} steps")
    for name in ("rule", "service level", "cycles without stock-out", "units served", "stock, in steps of demand"):
        table.add_column(name, justify="left" if name == "rule" else "right")
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

    from trend_common.console import console

    placed = found.table[found.table["order"] > 0] if len(found.table) else found.table
    on_order = bool((found.table["on_order"] > 0).any()) if len(found.table) else False
    several = len(found.table) > 0 and found.table["store"].nunique() > 1
    table = Table(title=f"To order: {len(placed):,} of {len(found.table):,}, most urgent first")
    headings = ["product", "order", "there", "runs out", "risk without", "with", "lost without"]
    if several:
        headings.insert(0, "store")
    for name in headings:
        left = name in ("store", "product")
        table.add_column(name, justify="left" if left else "right", no_wrap=left or name == "runs out", max_width=24)
    for _, row in placed.head(_SHOWN).iterrows():
        there = f"{row['on_hand']:,.0f}" + (f" + {row['on_order']:,.0f}" if on_order else "")
        cells = [
            escape(str(row["product"])),
            f"{row['order']:,.0f}",
            there,
            str(row["runs_out"] or "-")[5:] or "-",
            f"{100 * row['stockout_without']:.0f} %",
            f"{100 * row['stockout_with']:.0f} %",
            f"{row['lost_without']:,.0f}",
        ]
        table.add_row(*([escape(str(row["store"])), *cells] if several else cells))
    console.print(table)
    for note in found.notes:
        console.print(f"Note: {escape(note)}", soft_wrap=True)
    console.print(
        "Stocks that last longer than the forecast looks have no date. 'With' holds what cannot be helped: sales "
        f"before the delivery arrives. All quantities, reorder points and safety stocks: {escape(str(path))}",
        soft_wrap=True,
    )
