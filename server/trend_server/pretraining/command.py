"""``trend-server pretrain``: a thin command over :mod:`trend_server.pretraining.launch`, light until it is called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from trend_common.console import console, stderr
from trend_common.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from trend_server.pretraining.recipe import Recipe

__all__ = ["pretrain_command"]


def pretrain_command(
    out: Annotated[Path, typer.Option(help="Folder of the model, its log and the training state.")],
    recipe: Annotated[
        str | None,
        typer.Option(help="trend-small, trend-base, continue, frozen-core, or a TOML file. Default: what fits."),
    ] = None,
    init: Annotated[str | None, typer.Option(help="Start from this model: a shipped name or a folder.")] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Sales files to train on as well, by turns with the synthetic world; --data a.csv b.csv."),
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="A foreign core; with --freeze-core.")] = None,
    freeze_core: Annotated[
        bool, typer.Option("--freeze-core", help="Train only the layers that a foreign core starts with at random.")
    ] = False,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps in all. Default: the recipe's.")] = None,
    stop_after: Annotated[int | None, typer.Option(min=1, help="Stop at this step for now.")] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Default: one a core or GPU, as far as the batch divides.")
    ] = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where to compute.")] = "auto",
    save_every: Annotated[float, typer.Option(min=0, help="Seconds between two checkpoints.")] = 120.0,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write OUT/tensorboard.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show tracebacks.")] = False,
) -> None:
    """Pretrain a backbone on synthetic retail; the same command goes on where an interrupted one stopped."""
    chosen = _recipe(recipe, init, data, backbone, freeze_core, steps)
    with console.status("Starting"):
        _quiet()
        from trend_server.pretraining import launch
        from trend_server.pretraining.loop import Run
        from trend_server.pretraining.screen import watching
    run = Run(
        out,
        save_every_s=save_every,
        stop_after=stop_after,
        tensorboard=tensorboard,
        threads=0,
        device=launch.choose_device(device),
    )
    try:
        with watching(run.end(chosen)) as watch:
            launch.pretrain_in_processes(chosen, run, processes, watch=watch)
    except KeyboardInterrupt:
        stderr.print(f"Stopped; the same command goes on from {escape(str(out))}.", soft_wrap=True)
        raise typer.Exit(int(ExitCode.INTERRUPTED)) from None
    if console.is_terminal:
        console.print(f"The model is in {escape(str(out))}.", soft_wrap=True)


def _recipe(
    name: str | None,
    init: str | None,
    data: list[Path] | None,
    backbone: str | None,
    freeze_core: bool,
    steps: int | None,
) -> Recipe:
    from trend_server.pretraining.recipe import load_recipe

    if freeze_core and backbone is None:
        raise UsageError("--freeze-core is about a foreign core.", "Name it with --backbone.")
    if backbone is not None and not freeze_core:
        raise UsageError(
            f"Only the layers around the core of {backbone} can be trained here.",
            "Add --freeze-core; one of our own models is trained on with --init.",
        )
    fitting = "frozen-core" if backbone is not None else "continue" if data or init else "trend-small"
    files = tuple(str(path) for path in data) if data else None
    return load_recipe(name or fitting, steps=steps, init=init, data=files, backbone=backbone)


def _quiet() -> None:
    """Libraries' chatter off, here and in the processes to come."""
    import os
    import warnings

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    warnings.filterwarnings("ignore", category=FutureWarning)
