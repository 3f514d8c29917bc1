"""The command ``trend-client``. Heavy modules are imported inside the commands, so that ``--help`` is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trend_common import __version__
from trend_common.console import console, run_app

__all__ = ["app", "main"]

app = typer.Typer(
    name="trend-client",
    help="Forecasts for a retailer, trained together with others without sharing a row of sales.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        console.print(f"trend-client {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What every command shares."""


@app.command("check")
def check_command(
    data: Annotated[Path, typer.Option("--data", help="The sales file: CSV, CSV.gz or Parquet.")],
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--columns", metavar="ROLE=NAME", help="Which column means what; may be repeated; '-' for none."
        ),
    ] = None,
    date_format: Annotated[str | None, typer.Option(help="Form of the dates, such as %d/%m/%Y.")] = None,
    freq: Annotated[str | None, typer.Option(metavar="D|W|M", help="Days, weeks or months.")] = None,
    decimal: Annotated[str | None, typer.Option(metavar=".|,", help="The decimal mark.")] = None,
    json_out: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the summary there.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show tracebacks.")] = False,
) -> None:
    """Show what is understood of a sales file: columns, frequency, findings, examples. Nothing leaves the machine."""
    from trend_client.check import check, parse_columns

    mapping = parse_columns(columns or [])
    check(data, mapping, json_out, date_format=date_format, freq=freq, decimal=decimal)


main = run_app(app)

if __name__ == "__main__":
    main()
