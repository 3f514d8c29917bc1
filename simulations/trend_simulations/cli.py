"""The command ``trend-sim``. Heavy modules are imported inside the commands, so that ``--help`` is instant."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import click
import typer
from typer.core import TyperGroup

from trend_common import __version__
from trend_common.console import console, run_app, stderr
from trend_common.errors import UsageError
from trend_simulations.benchmark_cli import benchmark_command
from trend_simulations.outlook_cli import plan_command
from trend_simulations.tune_cli import tune_command

if TYPE_CHECKING:
    from trend_simulations.compare import Watch
    from trend_simulations.settings import Settings
    from trend_simulations.shelf import Shelf
    from trend_simulations.sources import Retailer

__all__ = ["app", "main"]

Freq = Literal["D", "W", "M"]


class _Spread(TyperGroup):
    """Takes ``--data a.csv b.csv`` for ``--data a.csv --data b.csv``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click."""
        spread: list[str] = []
        files = 0
        for word in args:
            files = 0 if word.startswith("-") else files + bool(files)
            if files > 2 and word not in self.commands:
                spread.append("--data")
            spread.append(word)
            if word == "--data":
                files = 1
        return super().parse_args(ctx, spread)


app = typer.Typer(
    name="trend-sim",
    cls=_Spread,
    help="Rehearse a federation on one machine.",
    epilog="Without a command and with --compare, arms are scored against one another; without either, one private "
    "federation is played. Several files: --data a.csv b.csv.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

_FEDERATION, _DATA, _OUTPUT = "The federation", "The retailers", "Output"


def _show_version(wanted: bool) -> None:
    if wanted:
        console.print(f"trend-sim {__version__}")
        raise typer.Exit()


def _option(text: str, panel: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, **more)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    retailers: Annotated[
        int | None, _option("Number of retailers: synthetic ones, or taken from a split file.", _DATA, min=1)
    ] = None,
    data: Annotated[list[Path] | None, _option("A sales file; each one is a retailer.", _DATA)] = None,
    split_by: Annotated[str | None, _option("'store': the stores of one file become retailers.", _DATA)] = None,
    group_stores: Annotated[int, _option("Stores that make one retailer.", _DATA, min=1)] = 1,
    history: Annotated[
        int | None, _option("Only the last so many steps before the cut remain.", _DATA, min=1)
    ] = None,
    max_series: Annotated[int | None, _option("At most so many series of each retailer.", _DATA, min=1)] = None,
    freq: Annotated[str | None, _option("D, W or M: read the files so, or draw synthetic sales so.", _DATA)] = None,
    sizes: Annotated[str, _option("Series of synthetic retailers, from-to.", _DATA)] = "20-80",
    market: Annotated[int, _option("Which synthetic market (a seed).", _DATA)] = 0,
    horizon: Annotated[
        int | None, _option("Steps to forecast (28 daily, 8 weekly, 6 monthly).", _FEDERATION, min=1, max=56)
    ] = None,
    rounds: Annotated[int | None, _option("Rounds of every federated arm.", _FEDERATION, min=1)] = None,
    steps: Annotated[
        int | None, _option("Local steps of federated arms without privacy.", _FEDERATION, min=1)
    ] = None,
    seeds: Annotated[int, _option("Repetitions of a comparison.", _FEDERATION, min=1)] = 3,
    epsilon: Annotated[float, _option("ε of each series over all rounds.", _FEDERATION)] = 4.0,
    delta: Annotated[float, _option("δ.", _FEDERATION)] = 1e-5,
    clip: Annotated[float | None, _option("Largest norm of one series' gradient.", _FEDERATION)] = None,
    rank: Annotated[int | None, _option("LoRA's rank in the federated arms.", _FEDERATION, min=1)] = None,
    layers: Annotated[
        str, _option("Train these alone under privacy: head1,head2.", _FEDERATION, metavar="NAME,...")
    ] = "",
    windows_per_series: Annotated[
        int | None, _option("Windows of each series in a step.", _FEDERATION, min=1)
    ] = None,
    launch_share: Annotated[
        float | None, _option("Share of the windows that hide the history.", _FEDERATION, min=0, max=1)
    ] = None,
    server_lr: Annotated[float | None, _option("Step size of the server's Adam.", _FEDERATION)] = None,
    secure: Annotated[
        bool, _option("Private federations with secure aggregation.", _FEDERATION, "--secure-aggregation")
    ] = False,
    backbone: Annotated[str, _option("Name or folder of the backbone.", _FEDERATION)] = "trend-small",
    threads: Annotated[int, _option("Threads of torch.", _FEDERATION, min=1)] = 1,
    workers: Annotated[
        int,
        _option("Processes that play the retailers with one model (not with --compare).", _FEDERATION, min=1),
    ] = 1,
    engine: Annotated[
        str, _option("'local', or 'ray': Flower's engine, for many machines (not with --compare).", _FEDERATION)
    ] = "local",
    shared: Annotated[Path | None, _option("With --engine ray: a folder that all machines see.", _FEDERATION)] = None,
    device: Annotated[
        str, _option("Where one federation computes: cpu, cuda or auto (not with --compare).", _FEDERATION)
    ] = "cpu",
    compare: Annotated[
        str | None,
        _option("Arms to score, by commas: zero-shot, local, federated-dp@8, ...; 'all' for all.", _OUTPUT),
    ] = None,
    calibrate: Annotated[
        bool, _option("Calibrate every arm's intervals on validation.", _OUTPUT, "--calibrate/--no-calibrate")
    ] = True,
    baselines: Annotated[
        str | None, _option("Statistical methods of a comparison, by commas (all four).", _OUTPUT)
    ] = None,
    json_path: Annotated[Path | None, _option("Write the results as JSON.", _OUTPUT, "--json")] = None,
    out: Annotated[Path | None, _option("Folder for --write-data.", _OUTPUT)] = None,
    write_data: Annotated[bool, _option("Only write synthetic sales as CSV files into --out.", _OUTPUT)] = False,
    verbose: Annotated[bool, _option("Show tracebacks.", _OUTPUT)] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Rehearse a federation on one machine: synthetic retailers, your files, or one file split by store."""
    if context.invoked_subcommand is not None:
        return
    if not (retailers or data):
        typer.echo(context.get_help())
        raise typer.Exit()
    step = _freq(freq)
    if write_data:
        _write_data(out, data, retailers or 3, step or "D", _sizes(sizes), market)
        return
    if out is not None:
        raise UsageError("--out is for --write-data.", "Results go to the file that --json names.")
    _fit_together(workers=workers, threads=threads, engine=engine, shared=shared, device=device, compare=compare)
    shelf = None if compare is not None else _shelf(context)
    found = _retailers(data or [], split_by, group_stores, retailers, step, _sizes(sizes), market, shelf)
    from trend_simulations.settings import Settings

    settings = Settings.of(
        found[0].panel.freq,
        horizon=horizon,
        history=history,
        seeds=seeds,
        backbone=backbone,
        epsilon=epsilon,
        delta=delta,
        rounds=rounds,
        steps=steps,
        clip=clip,
        rank=rank,
        windows_per_series=windows_per_series,
        launch_share=launch_share,
        server_lr=server_lr,
        threads=threads,
        calibrate=calibrate,
        secure=secure,
        layers=tuple(one.strip() for one in layers.split(",") if one.strip()),
    )
    from trend_simulations.sources import last_history

    kept = last_history(found, horizon=settings.horizon, history=history, max_series=max_series, say=_say)
    if secure and len(kept) < 3:
        raise UsageError(
            f"--secure-aggregation needs 3 retailers or more; there are {len(kept)}.",
            "With two, each could take its own answer off the sum.",
        )
    _quiet(threads)
    if compare is None:
        _play(kept, settings, json_path, workers=workers, ray=engine == "ray", shared=shared, device=device)
    else:
        _compare(kept, settings, compare, baselines, json_path)


def _fit_together(
    *, workers: int, threads: int, engine: str, shared: Path | None, device: str, compare: str | None
) -> None:
    """Raise a UsageError where these options do not go together."""
    if engine not in ("local", "ray"):
        raise UsageError(f"--engine {engine} is unknown.", "It is local or ray.")
    if compare is not None and (workers > 1 or engine == "ray" or device != "cpu"):
        raise UsageError(
            "--workers, --engine and --device are for one federation that is played.", "Leave out --compare, or them."
        )
    if workers > 1 and (threads > 1 or engine == "ray" or device != "cpu"):
        raise UsageError(
            "--workers are processes of this machine with one thread of its processor each.",
            "Leave out --threads, --engine ray and --device, or --workers.",
        )
    if shared is not None and not (engine == "ray" and shared.is_dir()):
        raise UsageError(f"--shared {shared} is not a folder for --engine ray.", "Name one that all machines see.")


def _say(text: str) -> None:
    stderr.print(text, style="dim", soft_wrap=True)


def _freq(text: str | None) -> Freq | None:
    if text is None or text.upper() in ("D", "W", "M"):
        return cast("Freq | None", text and text.upper())
    raise UsageError(f"--freq {text} is not a step.", "It is D, W or M.")


def _sizes(text: str) -> tuple[int, int]:
    low, dash, high = text.partition("-")
    if not (dash and low.isdigit() and high.isdigit() and 1 <= int(low) <= int(high)):
        raise UsageError(f"--sizes {text} is not a range.", "Write the fewest and most series, such as 20-80.")
    return int(low), int(high)


def _retailers(
    paths: list[Path],
    split_by: str | None,
    group: int,
    wanted: int | None,
    freq: Freq | None,
    sizes: tuple[int, int],
    market: int,
    shelf: Shelf | None = None,
) -> list[Retailer]:
    if split_by not in (None, "store"):
        raise UsageError(f"--split-by {split_by} is not possible.", "A file can be split by store.")
    if split_by is None and (group > 1 or (paths and wanted)):
        raise UsageError(
            "--group-stores, and --retailers with --data, are about one file that is split.",
            "Add --split-by store, or leave them out: each file is a retailer.",
        )
    if split_by and len(paths) != 1:
        raise UsageError(f"--split-by store needs exactly one file; {len(paths)} are given.", "Name it with --data.")
    if not paths and freq == "M":
        raise UsageError("Synthetic retailers are daily or weekly.", "Use --freq D or W.")

    from trend_simulations import sources

    with console.status("Reading the sales"):
        if split_by:
            return sources.from_split(paths[0], retailers=wanted, group=group, freq=freq, say=_say)
        if paths:
            return sources.from_files(paths, freq=freq)
        drawn: Literal["D", "W"] = "W" if freq == "W" else "D"
        return sources.synthetic(wanted or 3, seed=market, freq=drawn, sizes=sizes, shelf=shelf)


def _shelf(context: click.Context) -> Shelf:
    """A place for the sales of many retailers until the command is over."""
    import tempfile

    from trend_simulations.shelf import Shelf

    return Shelf(Path(context.with_resource(tempfile.TemporaryDirectory(prefix="trend-sim-"))))


def _write_data(
    out: Path | None, data: list[Path] | None, n: int, freq: Freq, sizes: tuple[int, int], market: int
) -> None:
    if out is None or data or freq == "M":
        raise UsageError(
            "--write-data writes synthetic sales, daily or weekly, into a folder.",
            "Name it with --out, give --retailers, and leave out --data.",
        )
    from trend_simulations.retailers import write_retailers

    for path in write_retailers(out, n, seed=market, freq="W" if freq == "W" else "D", series=sizes):
        console.print(f"{path}: {path.stat().st_size / 1e6:.1f} MB", soft_wrap=True)


def _quiet(threads: int) -> None:
    """Libraries' chatter off, before they are imported."""
    import os
    import warnings

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning)
    import torch

    torch.set_num_threads(threads)


@contextmanager
def _watching() -> Iterator[Watch]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from trend_simulations.compare import Watch

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=stderr, transient=True) as progress:
        task = progress.add_task("starting", total=None)

        def stage(text: str, steps: int) -> None:
            progress.reset(task, description=text, total=steps)

        yield Watch(stage, lambda done: progress.update(task, completed=done), _say)


def _play(retailers: list[Retailer], settings: Settings, json_path: Path | None, **how: Any) -> None:
    from trend_common.files import write_json
    from trend_simulations.play import play, played_table

    with _watching() as watch:
        result = play(retailers, settings, watch=watch, **how)
    console.print(played_table(result))
    privacy, outcome = result.outcome.plan.privacy, result.outcome
    if privacy is not None:
        console.print(
            f"Each series: ε = {privacy.epsilon:.2f} at δ = {privacy.delta:g} over {outcome.plan.rounds} rounds; "
            f"{outcome.bytes_up:,} bytes up a client and round; {result.seconds:.0f} s.",
            soft_wrap=True,
        )
    if json_path is not None:
        write_json(json_path, result.to_json())


def _compare(
    retailers: list[Retailer], settings: Settings, arms: str, baselines: str | None, json_path: Path | None
) -> None:
    from trend_common.baselines import BASELINES
    from trend_common.files import write_json
    from trend_simulations.compare import COMPARED_BASELINES, compare
    from trend_simulations.report import comparison_table, headline, privacy_line
    from trend_simulations.settings import ARMS

    names = ARMS if arms.strip() == "all" else tuple(part.strip() for part in arms.split(",") if part.strip())
    methods = COMPARED_BASELINES if baselines is None else tuple(b.strip() for b in baselines.split(",") if b.strip())
    unknown = [name for name in methods if name not in BASELINES]
    if unknown:
        raise UsageError(f"There is no method {unknown[0]!r}.", f"Methods are {', '.join(BASELINES)}.")
    with _watching() as watch:
        result = compare(retailers, names, settings, baselines=methods, watch=watch)
    # Into a file there is no width to fit into, and eight columns do not fit into the 80 that rich assumes.
    console.print(comparison_table(result), width=None if console.is_terminal else 132, crop=False)
    for line in [*headline(result), privacy_line(result)]:
        if line:
            console.print(line, soft_wrap=True)
    if json_path is not None:
        write_json(json_path, result.to_json())


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


@app.command("audit")
def audit_command(
    quick: Annotated[bool, typer.Option("--quick", help="Under three minutes instead of fifteen.")] = False,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write what was found as JSON.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the picture, inversion.png.")] = None,
    backbone: Annotated[str, typer.Option(help="Name or folder of the backbone.")] = "trend-small",
    verbose: Annotated[bool, typer.Option("--verbose", help="Show tracebacks.")] = False,
) -> None:
    """Attack a client and its federations, with and without their protection: do the privacy claims hold?"""
    _quiet(1)
    from trend_common.errors import PolicyError
    from trend_common.files import write_json
    from trend_simulations.audit import audit
    from trend_simulations.audit_report import audit_tables, verdict_line

    with stderr.status("Loading") as status:
        report = audit(
            backbone,
            quick=quick,
            picture=None if out is None else out / "inversion.png",
            progress=lambda text: status.update(f"Attacking: {text}"),
        )
    for table in audit_tables(report):
        console.print(table)
    console.print(verdict_line(report))
    if json_path is not None:
        write_json(json_path, report.to_json())
    if report.failures:
        raise PolicyError(
            "The audit failed: " + "; ".join(report.failures) + ".",
            "Either a privacy claim is false or the audit has lost its sight. Nothing should be released before it "
            "is clear which.",
        )


app.command("tune")(tune_command)
app.command("benchmark")(benchmark_command)
app.command("plan")(plan_command)

main = run_app(app)

if __name__ == "__main__":
    main()
