"""``trend-client explain``."""

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
    HorizonOption,
    JsonOption,
    UntilOption,
    VerboseOption,
)

if TYPE_CHECKING:
    from trend_client.why.explain import Explained

__all__ = ["ProductOption", "StoreOption", "register"]

ProductOption = Annotated[str | None, typer.Option(metavar="NAME", help="A product, or its description.")]
StoreOption = Annotated[str | None, typer.Option(metavar="NAME", help="A store.")]

_SHOWN = 10


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("explain")(_explain)


def _explain(
    product: ProductOption = None,
    store: StoreOption = None,
    top: Annotated[int, typer.Option(min=1, max=500, help="Most series, the largest first.")] = 10,
    horizon: HorizonOption = None,
    recent: Annotated[
        int | None, typer.Option(min=0, max=400, help="Steps to look back for unusual days. Default: a horizon.")
    ] = None,
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
    """Why a forecast is what it is: what history, season, price, promotion, holiday and text add. Offline."""
    from trend_client.decisions.outlook import outlook
    from trend_client.why.explain import explain
    from trend_common.console import console
    from trend_common.files import write_json

    look = outlook(open_place(home, data, columns, until, country, device, backbone))
    ids = look.chosen(product, store, most=top)
    steps = horizon or look.model.horizon
    with console.status("Taking the forecasts apart"):
        named = ids if product is not None or store is not None else None
        found = explain(look, ids, steps, recent=look.model.horizon if recent is None else recent, of=named)
    _show(found, look.notes, named=product is not None)
    if json_out is not None:
        write_json(json_out, found.to_json(), private=True)


def _show(found: Explained, notes: list[str], *, named: bool) -> None:
    from rich.markup import escape
    from rich.table import Table

    from trend_client.why.anomalies import COVERAGE
    from trend_client.why.contributions import GROUPS
    from trend_common.console import console

    parts = found.contributions
    table = Table(title=f"What the forecast of {len(parts.ds)} steps is made of ({found.method} model), in units")
    others = bool(found.other) and any(abs(value) >= 0.5 for value in found.other.values())
    headings = ["series", "usual", *GROUPS, "forecast", *(["chosen"] if others else [])]
    for name in headings:
        # The names give way on a narrow screen, not the figures and their headings.
        text = name == "series"
        table.add_column(name, justify="left" if text else "right", overflow="fold", no_wrap=not text)
    for row, name in enumerate(parts.ids):
        total = parts.total(row)
        cells = [f"{total['base']:,.0f}", *(_signed(total[group]) for group in GROUPS), f"{total['forecast']:,.0f}"]
        table.add_row(
            escape(name), *cells, *([f"{total['forecast'] + found.other.get(name, 0):,.0f}"] if others else [])
        )
    console.print(table)
    console.print("Usual, and what each group adds or takes away, are together the forecast.", soft_wrap=True)
    if others:
        console.print("'Chosen' is what forecasts.csv says: with other methods, blended, or set right.")
    if found.unknown:
        console.print(f"Not known ahead, so of no effect here: {', '.join(found.unknown)}.")
    for name in parts.ids if named else ():
        for one in found.similar.get(name, ()):
            change = f"{100 * (one.followed - 1):+.0f} %"
            console.print(
                f"{escape(name)} looked like this from {one.start.date()} to {one.end.date()}"
                + (f" in {escape(one.unique_id)}" if one.unique_id != name else "")
                + f" (likeness {one.likeness:.2f}); the steps after it: {change}.",
                soft_wrap=True,
            )
    if found.looked_at:
        share = 100 * len(found.anomalies) / found.looked_at
        console.print(
            f"{len(found.anomalies):,} of {found.looked_at:,} recent values ({share:.1f} %) lie outside the "
            f"{100 * COVERAGE:.0f} % interval of the forecast made before them; chance alone would leave about "
            f"{100 - 100 * COVERAGE:.0f} %." + (" The furthest:" if len(found.anomalies) else ""),
            soft_wrap=True,
        )
        days = Table("series", "date", "sold", "expected", "interval")
        for day in found.anomalies.head(_SHOWN).to_dict("records"):
            days.add_row(
                escape(str(day["unique_id"])),
                str(day["ds"])[:10],
                f"{day['y']:,.0f}",
                f"{day['expected']:,.0f}",
                f"{day['low']:,.0f} to {day['high']:,.0f}",
            )
        if len(found.anomalies):
            console.print(days)
    for note in notes:
        console.print(f"Note: {escape(note)}", soft_wrap=True)


def _signed(value: float) -> str:
    return "0" if abs(value) < 0.5 else f"{value:+,.0f}"
