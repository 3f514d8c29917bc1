"""``trend-client watch FOLDER``: each day's export, forecast as it comes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trend_client.options import (
    BackboneOption,
    ColumnsOption,
    CountryOption,
    DateFormatOption,
    DecimalOption,
    DeviceOption,
    FreqOption,
    FutureOption,
    HomeOption,
    HorizonOption,
    JsonOption,
    OutOption,
    SheetOption,
    VerboseOption,
)

if TYPE_CHECKING:
    from trend_client.watching import Ran
    from trend_common.panel import SalesPanel

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("watch")(_watch)


def _watch(
    folder: Annotated[Path, typer.Argument(help="Where the exports arrive: each the whole history up to its day.")],
    once: Annotated[bool, typer.Option("--once", help="Deal with what has arrived, and end: for cron.")] = False,
    every: Annotated[float, typer.Option(min=1, help="Seconds between two looks.")] = 60.0,
    settle: Annotated[float, typer.Option(min=0, help="Seconds a file must not have changed for.")] = 10.0,
    pattern: Annotated[str, typer.Option(metavar="GLOB", help="Of the files' names, such as 'sales*.csv'.")] = "*",
    horizon: HorizonOption = None,
    future: FutureOption = None,
    home: HomeOption = None,
    columns: ColumnsOption = None,
    date_format: DateFormatOption = None,
    freq: FreqOption = None,
    decimal: DecimalOption = None,
    sheet: SheetOption = None,
    country: CountryOption = None,
    device: DeviceOption = "auto",
    backbone: BackboneOption = "trend-small",
    out: OutOption = None,
    json_out: JsonOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Forecast from each export as it arrives in a folder, report drift, say when rejoining looks worth it. Offline.

    It never joins anything and sends nothing. With --once the exit code is 3 if the newest export cannot be used.
    """
    from filelock import FileLock, Timeout
    from rich.markup import escape

    from trend_client.home import ClientHome, default_home
    from trend_client.planned import NO_PLAN
    from trend_client.watching import Watcher
    from trend_common import __version__
    from trend_common.console import console
    from trend_common.errors import ExitCode, UsageError
    from trend_common.files import private_directory, write_json

    kept = ClientHome(home or default_home())
    root, known = kept.root, kept.data_source()
    plan = future
    if future is None:
        plan = None if known is None or known.future is None else Path(known.future)
    elif future == NO_PLAN:
        plan = None
    elif not future.expanduser().is_file():
        raise UsageError(f"There is no file {future}.", "Check the path after --future.")
    reading: dict[str, Any] = {"columns": columns, "date_format": date_format, "freq": freq, "decimal": decimal}
    common: dict[str, Any] = {"country": country, "device": device, "backbone": backbone, "sheet": sheet}
    place = _Exports(root, out, horizon, reading, common, plan)
    lock = FileLock(private_directory(root / "watch") / "lock")
    try:
        with lock.acquire(timeout=0):
            watcher = Watcher(
                folder.expanduser(),
                root,
                read=place.read,
                run=place.run,
                adapter=place.adapter,
                say=lambda line: console.print(escape(line), soft_wrap=True),
                pattern=pattern,
                settle=settle,
            )
            while True:
                outcome = watcher.once()
                if json_out is not None and (once or outcome != "nothing"):
                    body = {"schema": 1, "version": __version__, "command": "watch", "result": outcome}
                    write_json(json_out, {**body, **watcher.summary()}, private=True)
                if once:
                    break
                time.sleep(every)
    except Timeout as error:
        raise UsageError(
            f"Another watcher works in the home {root}.", "End it first, or use another --home."
        ) from error
    if outcome == "nothing":
        console.print("Nothing new.")
    if outcome == "failed":
        raise typer.Exit(int(ExitCode.DATA))


class _Exports:
    """Reads and forecasts one export after the other, with the options of the command."""

    def __init__(
        self,
        home: Path,
        out: Path | None,
        horizon: int | None,
        reading: dict[str, Any],
        common: dict[str, Any],
        plan: Path | None = None,
    ) -> None:
        self.plan = plan
        self.home, self.out, self.horizon, self.reading, self.common = home, out, horizon, reading, common

    def read(self, path: Path) -> SalesPanel:
        """The export's sales."""
        self._place: Any = self._at(path)
        panel: SalesPanel = self._place.panel()
        return panel

    def run(self, path: Path, panel: SalesPanel) -> Ran:
        """Forecast, and write the files and the report."""
        import pandas as pd

        from trend_client.drift import Expected
        from trend_client.gate import CHOSEN
        from trend_client.join import finish
        from trend_client.watching import Ran

        place = self._place
        place.panel = lambda: panel  # it was read a moment ago
        outcome = finish(place, personal=False, out=self.out, horizon=self.horizon)
        table = next(one for one in outcome.files if one.name == "forecasts.parquet")
        nan = float("nan")
        expected = Expected(nan, nan)
        if outcome.backtest is not None:
            test = outcome.backtest.methods[CHOSEN].test
            expected = Expected(float(test["wape"]), float(test["coverage80"]))
        columns = ["unique_id", "ds", "q10", "q50", "q90"]
        return Ran(pd.read_parquet(table, columns=columns), expected, outcome.report)

    def adapter(self) -> str:
        """The shared adapter in use."""
        from trend_client.home import ClientHome

        home = ClientHome(self.home)
        name = home.current_federation()
        found = home.shared(name) if name else None
        return "" if found is None else found[0].adapter_sha256

    def _at(self, path: Path) -> Any:
        from trend_client import cli

        reading = self.reading
        place = cli._place(
            self.home,
            path,
            reading["columns"],
            reading["freq"],
            reading["date_format"],
            reading["decimal"],
            None,
            self.common["country"],
            self.common["device"],
            self.common["backbone"],
            sheet=self.common["sheet"],
        )
        # As a plan that is kept: days that it does not reach any more end no watch.
        future = None if self.plan is None else str(self.plan.expanduser().absolute())
        place.source = place.source.model_copy(update={"future": future})
        return place
