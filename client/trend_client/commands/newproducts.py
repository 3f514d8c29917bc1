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
    HomeOption,
    HorizonOption,
    JsonOption,
    OutOption,
    UntilOption,
    VerboseOption,
)

if TYPE_CHECKING:
    from trend_client.decisions.newproducts import NewProducts

__all__ = ["register"]

_SHOWN = 20
_WHY = {
    "other stores": "the same product in other stores",
    "description": "products described alike",
    "category": "its category",
    "store": "its store",
    "all": "all products",
    "nothing": "nothing: no other product has a history",
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("newproducts")(_newproducts)


def _newproducts(
    new: Annotated[
        Path,
        typer.Option(metavar="FILE", help="product, description, and where known store, category, price, launch."),
    ],
    horizon: HorizonOption = None,
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
    """Forecast products before and just after their launch, and show which products they are likened to. Offline."""
    from trend_client.decisions.newproducts import forecast_new, read_new
    from trend_client.decisions.outlook import outlook
    from trend_common.files import replacing, write_json

    look = outlook(open_place(home, data, columns, until, country, device, backbone))
    rows = read_new(new, look.panel)
    found = forecast_new(look, rows, horizon or look.model.horizon)
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

    from trend_common.console import console

    steps = found.forecasts[found.ids[0]].horizon
    table = Table(title=f"The first {steps} steps of {len(found.ids)} new product(s)")
    for name in ("series", "from", "units", "a step: 10 % to 90 %", "own values", "level from", "most alike"):
        table.add_column(name, justify="right" if name in ("units", "own values") else "left")
    for name in found.ids[:_SHOWN]:
        made, (reason, alike) = found.forecasts[name], found.why[name]
        table.add_row(
            escape(name),
            str(made.ds[0, 0])[:10],
            f"{made.mean.sum():,.0f}",
            f"{made.quantile(0.1).mean():,.1f} to {made.quantile(0.9).mean():,.1f}",
            str(found.known[name]),
            _WHY[reason],
            escape("; ".join(f"{one.description or one.unique_id} ({one.level:,.1f} a step)" for one in alike[:3])),
        )
    console.print(table)
    for note in found.notes:
        console.print(f"Note: {escape(note)}", soft_wrap=True)
    console.print(f"All steps and quantiles: {escape(str(path))}", soft_wrap=True)
