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
    FutureOption,
    HomeOption,
    HorizonOption,
    JsonOption,
    SpokenOption,
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
    """Why a forecast is what it is: what history, season, price, promotion, holiday and text add. Offline."""
    from trend_client.decisions.outlook import outlook
    from trend_client.decisions.words import speaking
    from trend_client.why.explain import explain
    from trend_common.console import console
    from trend_common.files import write_json

    with speaking(language):
        look = outlook(open_place(home, data, columns, until, country, device, backbone, future), horizon)
        ids = look.chosen(product, store, most=top)
        with console.status("Taking the forecasts apart"):
            of = ids if product is not None or store is not None else None
            back = look.horizon if recent is None else recent
            found = explain(look, ids, horizon or look.horizon, recent=back, of=of)
        _show(found, look.notes, about_one=product is not None)
        if json_out is not None:
            write_json(json_out, found.to_json(), private=True)


def _show(found: Explained, notes: list[str], *, about_one: bool) -> None:
    from rich.markup import escape
    from rich.table import Table

    from trend_client.backtest import METHOD_NAMES
    from trend_client.commands.opening import named, tell_notes
    from trend_client.decisions.words import say, spoken
    from trend_client.why.contributions import GROUPS
    from trend_common.console import console

    parts = found.contributions
    table = Table(title=say("What the forecast of %(steps)s steps is made of, in units", steps=len(parts.ds)))
    others = any(abs(value) >= 0.5 for value in found.other.values())
    # The names give way on a narrow screen, not the figures and their headings.
    table.add_column(say("product"), overflow="fold")
    groups = [say(group) for group in GROUPS]
    for name in (say("usual"), *groups, *([say("other methods")] if others else []), say("forecast")):
        table.add_column(name, justify="right", no_wrap=name != say("other methods"))
    for row, name in enumerate(parts.ids):
        total = parts.total(row)
        table.add_row(
            named(found.names[name], store=True),
            f"{total['base']:,.0f}",
            *(_signed(total[group]) for group in GROUPS),
            *([_signed(found.other[name])] if others else []),
            f"{found.total(row):,.0f}",
        )
    console.print(table)
    console.print(say("Usual, and what each column adds or takes away, are together the forecast."), soft_wrap=True)
    mixed = spoken().listed(
        [f"{say(METHOD_NAMES.get(name, name))} {100 * weight:.0f} %" for name, weight in found.weights.items()]
    )
    console.print(escape(say("The forecast is made of: %(methods)s.", methods=mixed)), soft_wrap=True)
    if others:
        console.print(
            say(
                "'Other methods' is by how much statistical methods among them, or sums that were made to fit, move "
                "it; these have no parts of their own."
            ),
            soft_wrap=True,
        )
    if found.unknown:
        unknown = spoken().listed([say(group) for group in found.unknown])
        console.print(say("Not known ahead, so of no effect here: %(names)s.", names=unknown), soft_wrap=True)
    for name in parts.ids if about_one else ():
        for one in found.similar.get(name, ()):
            values = {
                "series": name,
                "first": one.start.date(),
                "last": one.end.date(),
                "likeness": f"{one.likeness:.2f}",
                "change": f"{100 * (one.followed - 1):+.0f} %",
                "other": one.unique_id,
            }
            here = say(
                "%(series)s looked like this from %(first)s to %(last)s (likeness %(likeness)s); the steps after it: "
                "%(change)s.",
                **{key: value for key, value in values.items() if key != "other"},
            )
            there = say(
                "%(series)s looks as %(other)s did from %(first)s to %(last)s (likeness %(likeness)s); the steps "
                "after it: %(change)s.",
                **values,
            )
            console.print(escape(here if one.unique_id == name else there), soft_wrap=True)
    if found.looked_at:
        _show_anomalies(found)
    tell_notes(notes)


def _show_anomalies(found: Explained) -> None:
    from rich.markup import escape
    from rich.table import Table

    from trend_client.decisions.words import say
    from trend_client.why.anomalies import COVERAGE
    from trend_common.console import console

    console.print(
        say(
            "%(n)s of %(all)s recent values (%(share)s) lie outside the %(interval)s interval of the forecast made "
            "before them; chance alone would leave about %(chance)s.",
            n=f"{len(found.anomalies):,}",
            all=f"{found.looked_at:,}",
            share=f"{100 * len(found.anomalies) / found.looked_at:.1f} %",
            interval=f"{100 * COVERAGE:.0f} %",
            chance=f"{100 - 100 * COVERAGE:.0f} %",
        ),
        soft_wrap=True,
    )
    if not len(found.anomalies):
        return
    days = Table(
        say("product"), say("date"), say("sold"), say("expected"), say("interval"), title=say("The furthest")
    )
    for day in found.anomalies.head(_SHOWN).to_dict("records"):
        days.add_row(
            escape(str(day["unique_id"])),
            str(day["ds"])[:10],
            f"{day['y']:,.0f}",
            f"{day['expected']:,.0f}",
            say("%(low)s to %(high)s", low=f"{day['low']:,.0f}", high=f"{day['high']:,.0f}"),
        )
    console.print(days)


def _signed(value: float) -> str:
    return "0" if abs(value) < 0.5 else f"{value:+,.0f}"
