"""What the three commands share: one console, and errors turned into messages and exit codes."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trend_common.errors import ExitCode, TrendError
from trend_common.tables import Fitting

__all__ = ["console", "run_app", "stderr"]


class _Console(Console):
    """Prints tables so that they stay readable on a narrow screen."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(Fitting(one) if isinstance(one, Table) else one for one in objects), **options)


console = _Console(highlight=False)
stderr = Console(stderr=True, highlight=False)


def run_app(app: typer.Typer) -> Callable[[], None]:
    """Return the console-script entry point of ``app``.

    A :class:`TrendError` is printed as message and hint, without a traceback, and exits with its code; Ctrl-C exits
    with 130. ``--verbose`` anywhere on the command line adds the traceback.
    """

    def main() -> None:
        command = typer.main.get_command(app)
        verbose = "--verbose" in sys.argv
        try:
            result = command.main(standalone_mode=False)
        except TrendError as error:
            if verbose:
                traceback.print_exc()
            stderr.print(f"[bold red]Error:[/] {escape(error.message)}", soft_wrap=True)
            if error.hint:
                stderr.print(escape(error.hint), soft_wrap=True)
            sys.exit(int(error.exit_code))
        except (KeyboardInterrupt, typer.Abort):
            result = int(ExitCode.INTERRUPTED)
        except Exception as error:
            # click's own usage errors carry an exit code and a formatted message.
            show = getattr(error, "show", None)
            code = getattr(error, "exit_code", None)
            if callable(show) and code is not None:
                show()
                sys.exit(int(ExitCode.USAGE))
            raise
        code = result if isinstance(result, int) else 0
        if code == ExitCode.INTERRUPTED:  # typer makes this number of a Ctrl-C, and raises nothing
            stderr.print("Interrupted. The same command continues where this one stopped.")
        sys.exit(code)

    return main
