"""``trend-client recommend``."""

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
    HorizonOption,
    JsonOption,
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
    service_level: Annotated[float, typer.Option(help="For the orders of restocking.")] = 0.95,
    action: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="promote, restock, 'mark down' or drop; may be repeated.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Rows to show.")] = 20,
    horizon: HorizonOption = None,
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
    """Products to promote, restock, mark down or drop next, by predicted gain, with reasons. Offline."""
    from trend_client.decisions.outlook import outlook
    from trend_client.decisions.policy import Terms
    from trend_client.decisions.recommend import ACTIONS, Values, last_prices, recommend
    from trend_client.decisions.stock import read_stock
    from trend_common.console import console
    from trend_common.files import write_json

    if margin is not None and not 0 < margin < 1:
        raise UsageError(f"--margin is {margin:g}.", "It is a share of the price, such as 0.3.")
    if price is not None and price <= 0:
        raise UsageError(f"--price is {price:g}.", "It is above 0.")
    look = outlook(open_place(home, data, columns, until, country, device, backbone))
    review = {"D": 7, "W": 1, "M": 1}[look.panel.freq]
    terms = Terms(lead_time=lead_time, review=review, service_level=service_level)
    rows, notes = read_stock(stock, look.panel, terms) if stock is not None else ({}, ())
    prices = dict.fromkeys(look.panel.ids, price) if price is not None else last_prices(look.panel)
    if margin is not None and not prices:
        raise UsageError(
            "The sales have no prices, so gains cannot be in money.", "Add --price, or leave --margin out."
        )
    with console.status("Comparing what could be done"):
        found = recommend(
            look,
            rows,
            Values({name: float(value) for name, value in prices.items() if value is not None}, margin),
            horizon=horizon or look.model.horizon,
            actions=action or ACTIONS,
            notes=notes,
        )
    _show(found, top)
    if json_out is not None:
        write_json(json_out, found.to_json(), private=True)


def _show(found: Recommendation, top: int) -> None:
    from rich.markup import escape
    from rich.table import Table

    from trend_common.console import console

    unit = "money" if found.in_money else "units"
    table = Table(title=f"For the next {found.horizon} steps: {len(found.advice):,} things to do")
    for name in ("do", "series", f"gain in {unit} (80 % interval)", "because"):
        table.add_column(name, justify="right" if name.startswith("gain") else "left")
    shown = list(found.advice[:top])
    if not found.in_money:
        # Units of different actions do not compare: some of each.
        kinds = sorted({one.action for one in found.advice})
        each = max(top // max(len(kinds), 1), 1)
        shown = [one for kind in kinds for one in [x for x in found.advice if x.action == kind][:each]]
    for one in shown:
        gain, low, high = (f"{round(value) + 0:,}" for value in (one.gain, one.low, one.high))  # no "-0"
        table.add_row(one.action, escape(one.unique_id), f"{gain} ({low} to {high})", escape(one.reason))
    console.print(table)
    for note in found.notes:
        console.print(f"Note: {escape(note)}", soft_wrap=True)
