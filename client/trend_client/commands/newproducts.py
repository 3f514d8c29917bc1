"""``trend-client newproducts``."""

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
    FutureOption,
    HomeOption,
    HorizonOption,
    JsonOption,
    OutOption,
    SpokenOption,
    UntilOption,
    VerboseOption,
)

if TYPE_CHECKING:
    from trend_client.decisions.newproducts import NewProducts

__all__ = ["register"]

_SHOWN = 20
_WHY = {
    "stated": "what you expect",
    "other stores": "the same product in other stores",
    "description": "products described alike",
    "category": "its category",
    "store": "its store",
    "all": "all products",
    "nothing": "nothing: no other product has a history",
}
"""Reason → its words, which the catalogue of ``trend_client.decisions`` has, too."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("newproducts")(_newproducts)


def _newproducts(
    new: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="product, description, and where known store, category, price, launch, level."
        ),
    ],
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
    out: OutOption = None,
    json_out: JsonOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Forecast products before and just after their launch, and show which products they are likened to. Offline."""
    from trend_client.decisions.newproducts import forecast_new, read_new
    from trend_client.decisions.outlook import outlook
    from trend_client.decisions.words import speaking
    from trend_common.files import replacing, write_json

    with speaking(language):
        place = open_place(home, data, columns, until, country, device, backbone, future)
        look = outlook(place, horizon)
        rows = read_new(new, look.panel)
        found = forecast_new(look, rows, horizon or look.horizon)
        path = (out or look.place.home.output) / "newproducts.csv"
        with replacing(path, private=True) as temporary:
            table = found.table()
            table["ds"] = table["ds"].dt.strftime("%Y-%m-%d")
            table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n", encoding="utf-8")
        _show(found, path)
        if json_out is not None:
            write_json(json_out, found.to_json(), private=True)


def _show(found: NewProducts, path: Path) -> None:
    from rich.markup import escape
    from rich.table import Table

    from trend_client.commands.opening import named, tell_notes
    from trend_client.decisions.words import say
    from trend_common.console import console

    steps = found.forecasts[found.ids[0]].horizon
    table = Table(
        title=say("The first %(steps)s steps of %(n)s new product(s)", steps=steps, n=f"{len(found.ids):,}")
    )
    table.add_column(say("product"), overflow="fold", max_width=30)
    table.add_column(say("from"), no_wrap=True)
    table.add_column(say("units"), justify="right")
    table.add_column(say("a step: 10 % to 90 %"))
    table.add_column(say("own values"), justify="right")
    table.add_column(say("level from"))
    table.add_column(say("most alike"))
    for name in found.ids[:_SHOWN]:
        made, (reason, alike) = found.forecasts[name], found.why[name]
        low, high = (f"{made.quantile(level).mean():,.1f}" for level in (0.1, 0.9))
        table.add_row(
            named(dict(found.panel.static.loc[name]), store=True),
            str(made.ds[0, 0])[:10],
            f"{made.mean.sum():,.0f}",
            say("%(low)s to %(high)s", low=low, high=high),
            str(found.known[name]),
            say(_WHY[reason]),
            escape(
                "; ".join(
                    say(
                        "%(what)s (%(level)s a step)",
                        what=one.description or one.unique_id,
                        level=f"{one.level:,.1f}",
                    )
                    for one in alike[:3]
                )
            ),
        )
    console.print(table)
    tell_notes(found.notes)
    console.print(escape(say("All steps and quantiles: %(file)s", file=path)), soft_wrap=True)
