"""``trend-client whatif``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from trend_client.commands.explain import ProductOption, StoreOption
from trend_client.commands.opening import open_place
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
    from trend_client.why.scenario import Curve

__all__ = ["numbers", "register"]

_GRID = (0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.3)
_BAR = 12


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("whatif")(_whatif)


def numbers(text: str | None, option: str) -> tuple[float, ...]:
    """ "4.99,5.99" as numbers.

    Raises:
        UsageError: One is no number, or is below 0.
    """
    if text is None:
        return ()
    try:
        found = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        found = ()
    if not found or any(not 0 <= one < 1e12 for one in found):
        raise UsageError(f"{option} {text!r} is no list of numbers.", f"Write for example {option} 4.99,5.99.")
    return found


def _whatif(
    product: ProductOption = None,
    store: StoreOption = None,
    price: Annotated[
        str | None,
        typer.Option(metavar="P,P,...", help="Prices over the horizon; 'curve' tries 70 to 130 % of today's."),
    ] = None,
    promo: Annotated[str | None, typer.Option(metavar="0,1", help="With and without a promotion.")] = None,
    cost: Annotated[float | None, typer.Option(help="Of one unit: shows the profit as well.")] = None,
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
    """What other prices or promotions would change, for one product in all or one of its stores. Offline."""
    from trend_client.decisions.orders import described
    from trend_client.decisions.outlook import outlook
    from trend_client.decisions.words import speaking
    from trend_client.why.scenario import price_range, what_if
    from trend_common import __version__
    from trend_common.console import console
    from trend_common.files import write_json

    if product is None and store is None:
        raise UsageError("No product was named.", "Add --product NAME, and --store NAME for one store alone.")
    promos = numbers(promo, "--promo")
    if any(one > 1 for one in promos):
        raise UsageError(
            f"--promo {promo!r} is no promotion.", "It is 0 (none), 1 (all days), or a share of the days."
        )
    prices = () if price == "curve" else numbers(price, "--price")
    if any(one == 0 for one in prices):
        raise UsageError("A price of 0 is no price.", "Give prices above 0.")
    with speaking(language):
        look = outlook(open_place(home, data, columns, until, country, device, backbone, future), horizon)
        ids = look.chosen(product, store, most=2000)
        if price == "curve":
            sold = price_range(look.panel, ids)
            if sold is None:
                raise UsageError(
                    "The sales of these products have no prices.", "There is nothing to draw a curve from."
                )
            prices = tuple(round(sold[1] * factor, 4) for factor in _GRID)
        with console.status("Forecasting"):
            found = what_if(look, ids, horizon or look.horizon, prices=prices, promos=promos, cost=cost)
        _show(found, described(look.panel, ids[0]), look.notes)
        if json_out is not None:
            body = {"schema": 1, "version": __version__, "command": "whatif", **found.to_json()}
            write_json(json_out, body, private=True)


def _show(found: Curve, first: Mapping[str, str], notes: list[str]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from trend_client.commands.opening import tell_notes
    from trend_client.decisions.words import say
    from trend_common.console import console

    words = first.get("description", "")
    one = f"{first['store']}/{first['product']}" + (f", {words}" if words and words != first["product"] else "")
    what = one if len(found.ids) == 1 else say("%(n)s series together, such as %(one)s", n=len(found.ids), one=one)
    table = Table(title=escape(say("The next %(steps)s steps of %(what)s", steps=found.horizon, what=what)))
    costs = any(point.profit is not None for point in found.points)
    headings = [say("price"), say("promotion"), say("units"), say("80 % interval"), say("against the plan")]
    headings += [say("revenue"), *([say("profit")] if costs else [])]
    for name in headings:
        table.add_column(name, justify="right")
    table.add_column("")
    most = max(point.mean for point in (found.plan, *found.points)) or 1.0
    planned = say("as planned")
    for point in (found.plan, *found.points):
        mark = say("(new)") if point.outside else ""
        change = "" if point is found.plan or found.plan.mean <= 0 else f"{point.mean / found.plan.mean - 1:+.1%}"
        profit = "-" if point.profit is None else f"{point.profit:,.0f}"
        table.add_row(
            planned if point.price is None else f"{point.price:g} {mark}".rstrip(),
            planned if point.promo is None else f"{point.promo:g}",
            f"{point.mean:,.0f}",
            say("%(low)s to %(high)s", low=f"{point.low:,.0f}", high=f"{point.high:,.0f}"),
            change,
            "-" if point.revenue is None else f"{point.revenue:,.0f}",
            *([profit] if costs else []),
            "█" * round(_BAR * point.mean / most),
        )
    console.print(table)
    tell_notes([*found.notes, *notes])
