"""The command ``trend-sim tune``. Heavy modules are imported inside it, so that ``--help`` is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trend_common.console import stderr
from trend_common.errors import UsageError

__all__ = ["tune_command"]


def tune_command(
    data: Annotated[
        list[Path] | None, typer.Option(help="Sales files, one a retailer; the word synthetic draws retailers.")
    ] = None,
    retailers: Annotated[int, typer.Option(min=1, help="Number of synthetic retailers.")] = 3,
    sizes: Annotated[str, typer.Option(help="Series of synthetic retailers, from-to.")] = "20-80",
    market: Annotated[int, typer.Option(help="Which synthetic market (a seed).")] = 0,
    freq: Annotated[
        str | None, typer.Option(help="D, W or M: read the files so, or draw synthetic sales so.")
    ] = None,
    horizon: Annotated[int | None, typer.Option(min=1, max=56, help="Steps to forecast (28, 8, 6).")] = None,
    max_series: Annotated[int | None, typer.Option(min=1, help="At most so many series of each retailer.")] = None,
    trials: Annotated[int, typer.Option(min=1, help="Finished trials in all, earlier runs counted.")] = 30,
    study: Annotated[
        Path | None, typer.Option(help="sqlite file that keeps the trials: the same command goes on where it ended.")
    ] = None,
    freeze: Annotated[
        str, typer.Option(help="Policies to choose among, by commas: lora, rslora, head, ...")
    ] = "lora",
    launch: Annotated[bool, typer.Option("--launch", help="Search the part for products without history.")] = False,
    federated: Annotated[
        bool, typer.Option("--federated", help="Search the recipe of a private federation of the retailers.")
    ] = False,
    epsilon: Annotated[float, typer.Option(help="ε of each series, with --federated.")] = 4.0,
    delta: Annotated[float, typer.Option(help="δ.")] = 1e-5,
    backbone: Annotated[str, typer.Option(help="Name or folder of the backbone.")] = "trend-small",
    seed: Annotated[int, typer.Option(help="Of training and of the search.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Write the best settings there; they are always printed.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the study as JSON.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show tracebacks.")] = False,
) -> None:
    """Search settings by optuna on validation windows alone, and print the best as TOML.

    The output of a personal study is for trend-client personalise --settings; of a federated one, for server.toml.
    """
    from trend_simulations.cli import _freq, _quiet, _retailers, _say, _sizes

    if launch and federated:
        raise UsageError("--launch and --federated are two studies.", "Run them one after the other.")
    if not data:
        raise UsageError("No sales were named.", "Give --data FILE, or --data synthetic.")
    synthetic = [path for path in data if str(path) == "synthetic"]
    if synthetic and len(data) > 1:
        raise UsageError("synthetic stands beside files.", "Give files, or the word alone.")
    files = [] if synthetic else data
    step = _freq(freq)
    _quiet(threads)
    from dataclasses import replace

    from trend_common.files import write_json, write_text
    from trend_simulations.settings import Settings
    from trend_simulations.sources import last_history
    from trend_simulations.tune import tune
    from trend_simulations.tune_space import Kind, check_policies

    policies = check_policies(tuple(part.strip() for part in freeze.split(",") if part.strip()))
    kind: Kind = "launch" if launch else "federated" if federated else "personal"
    found = _retailers(files, None, 1, None if files else retailers, step, _sizes(sizes), market)
    settings = Settings.of(
        found[0].panel.freq, horizon=horizon, backbone=backbone, epsilon=epsilon, delta=delta, threads=threads
    )
    settings = replace(settings, seeds=(seed,))
    kept = last_history(found, horizon=settings.horizon, history=None, max_series=max_series, say=_say)
    with stderr.status("Preparing") as status:

        def told(number: int, value: float, best: float) -> None:
            status.update(f"Trial {number}: {value:.4f}; lowest so far {best:.4f}")
            if not stderr.is_terminal:
                _say(f"Trial {number}: {value:.4f}; lowest so far {best:.4f}")

        result = tune(kept, settings, kind=kind, trials=trials, study=study, freeze=policies, on_trial=told)
    _say(
        f"{len(result.trials)} trials on validation: {result.best:.4f} (trial {result.number}); without settings "
        f"{result.usual:.4f}; without training {result.zero_shot:.4f}."
    )
    if result.usual < result.best:
        _say("No trial was better than what is done without settings: use none, or try more trials.")
    typer.echo(result.toml, nl=False)
    if out is not None:
        write_text(out, result.toml)
    if json_path is not None:
        write_json(json_path, result.to_json())
