"""The command ``trend-sim``. Heavy modules are imported inside the commands, so that ``--help`` is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trend_common import __version__
from trend_common.console import console, run_app

__all__ = ["app", "main"]

app = typer.Typer(
    name="trend-sim",
    help="Rehearse a federation on one machine.",
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        console.print(f"trend-sim {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What every command shares."""


@app.command("demo")
def demo_command(
    out: Annotated[Path, typer.Option(help="Folder for everything.")] = Path("demo-output"),
    retailers: Annotated[int, typer.Option(min=1, max=8, help="How many retailers.")] = 3,
    rounds: Annotated[int, typer.Option(min=1, max=200, help="Training rounds.")] = 8,
    epsilon: Annotated[float, typer.Option(help="Privacy of each series over all rounds.")] = 4.0,
    seed: Annotated[int, typer.Option(help="Of the synthetic retailers.")] = 1,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show tracebacks.")] = False,
) -> None:
    """A server and retailers as real processes over TLS on this machine, on synthetic sales."""
    from trend_simulations.demo import demo

    demo(out, retailers=retailers, rounds=rounds, epsilon=epsilon, seed=seed)


main = run_app(app)

if __name__ == "__main__":
    main()
