"""``trend-client forecast``."""

from __future__ import annotations

from typing import Annotated

import typer

from trend_client.options import (
    BackboneOption,
    ColumnsOption,
    CountryOption,
    DataOption,
    DateFormatOption,
    DecimalOption,
    DeviceOption,
    FreqOption,
    FutureOption,
    HomeOption,
    HorizonOption,
    JsonOption,
    LanguageOption,
    MaskOption,
    OutOption,
    SheetOption,
    UntilOption,
    VerboseOption,
)

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("forecast")(_forecast)


def _forecast(
    data: DataOption = None,
    horizon: HorizonOption = None,
    future: FutureOption = None,
    reconcile: Annotated[
        str | None, typer.Option(metavar="bottom-up|mint", help="Also write sums over products and stores.")
    ] = None,
    formats: Annotated[
        str, typer.Option("--format", metavar="csv,parquet,xlsx", help="Which files.")
    ] = "csv,parquet",
    price: Annotated[
        float | None, typer.Option(help="Of one unit, for the gain in money. Default: the file's prices.")
    ] = None,
    margin: Annotated[float | None, typer.Option(help="Share of the price that is left after the cost.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Compare all methods on all series. Can take long.")] = False,
    home: HomeOption = None,
    columns: ColumnsOption = None,
    date_format: DateFormatOption = None,
    freq: FreqOption = None,
    decimal: DecimalOption = None,
    until: UntilOption = None,
    sheet: SheetOption = None,
    country: CountryOption = None,
    device: DeviceOption = "auto",
    backbone: BackboneOption = "trend-small",
    mask: MaskOption = False,
    language: LanguageOption = None,
    out: OutOption = None,
    json_out: JsonOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Forecast with the adapters of this home (or the pretrained model alone), and write the report. Offline."""
    from trend_client import cli
    from trend_client.join import finish
    from trend_client.outcome import Wishes
    from trend_client.screens import show_outcome
    from trend_client.stream import parse_formats
    from trend_client.totals import parse_reconciliation
    from trend_client.value import Pricing

    wishes = Wishes(
        formats=parse_formats(formats),
        reconcile=parse_reconciliation(reconcile),
        pricing=Pricing(price, margin),
        full=full,
        language=language,
    )
    place = cli._place(home, data, columns, freq, date_format, decimal, until, country, device, backbone, sheet=sheet)
    place.mask = mask
    outcome = finish(place, personal=False, out=out, horizon=horizon, future=future, wishes=wishes)
    show_outcome(outcome)
    if json_out is not None:
        cli._write_outcome(place, outcome, json_out)
