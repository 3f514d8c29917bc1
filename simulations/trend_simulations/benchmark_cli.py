"""The command ``trend-sim benchmark``. Heavy modules are imported inside it, so that ``--help`` is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trend_common.console import console, stderr

__all__ = ["benchmark_command"]

_RIVAL = "alone"
_SHOWN = ("federated", "gated", "gated-dp@8", "gated-dp@4")


def benchmark_command(
    data_folder: Annotated[Path, typer.Option(help="Folder with the public data files.")] = Path("data"),
    federations: Annotated[
        str | None, typer.Option(help="By commas: walmart, juice-groups, rossmann, synthetic-10, ... (all).")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results; what is there is not run again.")] = Path(
        "benchmark"
    ),
    cuts: Annotated[int, typer.Option(min=1, help="Calendar cuts: the end, and each a horizon earlier.")] = 1,
    seeds: Annotated[int | None, typer.Option(min=1, help="Repetitions (3).")] = None,
    arms: Annotated[str | None, typer.Option(help="By commas, instead of the protocol's.")] = None,
    newcomers: Annotated[
        int, typer.Option(min=0, help="Retailers left out of each federation, who take its adapter as it is.")
    ] = 0,
    launch_share: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of the training windows that hide the history.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few small federations, one seed: to see it work, not to cite.")
    ] = False,
    backbone: Annotated[str, typer.Option(help="Name or folder of the backbone.")] = "trend-small",
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show tracebacks.")] = False,
) -> None:
    """Run one protocol over natural and synthetic federations: JSON, tables and a picture of every retailer."""
    from trend_simulations.cli import _quiet, _say, _watching
    from trend_simulations.federations import FEDERATIONS, QUICK, find, resized

    names = [name.strip() for name in federations.split(",") if name.strip()] if federations else None
    chosen = find(names or ([*QUICK] if quick else [one.name for one in FEDERATIONS]))
    if quick:
        chosen = [resized(one, retailers=6, max_series=10) for one in chosen]
    for one in chosen:
        one.files(data_folder)
    _quiet(threads)
    from trend_common.files import write_json, write_text
    from trend_simulations.benchmark import ARMS_OF_BENCHMARK, QUICK_ARMS, Protocol, Run, run_benchmark, table_of
    from trend_simulations.benchmark_report import markdown, summary, tables, write_plot
    from trend_simulations.compare import COMPARED_BASELINES
    from trend_simulations.fairness import fairness_of
    from trend_simulations.newcomers import welcome_of
    from trend_simulations.settings import split_arm

    asked = tuple(arm.strip() for arm in arms.split(",") if arm.strip()) if arms else None
    for arm in asked or ():
        split_arm(arm)
    protocol = Protocol(
        arms=asked or (QUICK_ARMS if quick else ARMS_OF_BENCHMARK),
        baselines=("naive", "seasonal-naive") if quick else COMPARED_BASELINES,
        seeds=seeds or (1 if quick else 3),
        cuts=cuts,
        backbone=backbone,
        threads=threads,
        newcomers=newcomers,
        launch_share=launch_share,
    )

    def told(run: Run) -> None:
        _say(f"{run.federation.name}, cut {run.cut}: {'done' if run.repeated else 'was done before'}")

    with _watching() as watch:
        runs = run_benchmark(data_folder, chosen, protocol, out, watch=watch, on_run=told)
    titles = {run.federation.name: run.federation.title for run in runs}
    rows = table_of(runs, rival=_RIVAL)
    for table in tables(rows, titles, rival=_RIVAL):
        console.print(table)
    by_name = {name: [run.result for run in runs if run.federation.name == name] for name in titles}
    fair = {name: fairness_of(results, rival=_RIVAL) for name, results in by_name.items()}
    welcomed = {name: welcome_of(results) for name, results in by_name.items()}
    write_json(out / "benchmark.json", summary(runs, rows, rival=_RIVAL, fairness=fair, newcomers=welcomed))
    text = markdown(rows, titles, rival=_RIVAL, fairness=fair, newcomers=welcomed)
    write_text(out / "benchmark.md", text)
    for run in runs:
        write_plot(run, out / f"{run.federation.name}-cut{run.cut}.png", arms=_SHOWN, rival=_RIVAL)
    stderr.print(f"Written to {out}: benchmark.json, benchmark.md, and a file and a picture of each run.")
