"""The options that several commands share, with one wording each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "BackboneOption",
    "ColumnsOption",
    "CountryOption",
    "DataOption",
    "DateFormatOption",
    "DecimalOption",
    "DeviceOption",
    "FreqOption",
    "FutureOption",
    "HomeOption",
    "HorizonOption",
    "JsonOption",
    "LanguageOption",
    "MaskOption",
    "OutOption",
    "SettingsOption",
    "SheetOption",
    "SpokenOption",
    "UntilOption",
    "VerboseOption",
]

HomeOption = Annotated[
    Path | None, typer.Option("--home", help="This client's folder. Default: $TREND_CLIENT_HOME or ~/.trend-client.")
]
DataOption = Annotated[
    Path | None, typer.Option("--data", help="The sales file: CSV, Parquet or Excel. Default: the last one used.")
]
ColumnsOption = Annotated[
    list[str] | None,
    typer.Option("--columns", metavar="ROLE=NAME", help="Which column means what; may be repeated; '-' for none."),
]
DateFormatOption = Annotated[str | None, typer.Option("--date-format", help="Form of the dates, such as %d/%m/%Y.")]
FreqOption = Annotated[str | None, typer.Option("--freq", metavar="D|W|M", help="Days, weeks or months.")]
DecimalOption = Annotated[str | None, typer.Option("--decimal", metavar=".|,", help="The decimal mark.")]
UntilOption = Annotated[
    str | None,
    typer.Option(
        "--until", metavar="DATE", help="The export's last day, YYYY-MM-DD: declared, not read off the rows."
    ),
]
SheetOption = Annotated[
    str | None, typer.Option("--sheet", metavar="NAME", help="Sheet of a workbook; '*': all with the same columns.")
]
CountryOption = Annotated[
    str | None, typer.Option("--country", metavar="DE", help="Public holidays of this country, if the file has none.")
]
DeviceOption = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda|mps", help="Where to compute.")]
BackboneOption = Annotated[str, typer.Option("--backbone", help="The shipped model's name, or a folder.")]
HorizonOption = Annotated[
    int | None, typer.Option("--horizon", min=1, max=400, help="Steps ahead. Default: the federation's.")
]
SettingsOption = Annotated[
    Path | None, typer.Option("--settings", metavar="FILE", help="Settings of fine-tuning, as from trend-sim tune.")
]
JsonOption = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result there as JSON.")]
LanguageOption = Annotated[
    str | None, typer.Option("--language", metavar="en|zh", help="Of the report. Default: this machine's.")
]
FutureOption = Annotated[
    Path | None,
    typer.Option(
        "--future",
        metavar="FILE",
        help="What is planned: date, product, store, price, promo, holiday, own columns. Kept; '-' forgets it.",
    ),
]
SpokenOption = Annotated[
    str | None, typer.Option("--language", metavar="en|zh", help="Of what is shown. Default: this machine's.")
]
OutOption = Annotated[Path | None, typer.Option("--out", help="Folder for the files. Default: output/ in the home.")]
MaskOption = Annotated[
    bool, typer.Option("--mask", help="Mask the names of products and stores, for sharing; the key stays home.")
]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Show tracebacks.")]
