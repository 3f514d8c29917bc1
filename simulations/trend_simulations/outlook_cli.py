"""The command ``trend-sim plan``. Heavy modules are imported inside it, so that ``--help`` is instant."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from trend_common.console import console
from trend_common.defaults import DEFAULT_ROUNDS
from trend_common.errors import UsageError

__all__ = ["plan_command"]


def plan_command(
    retailers: Annotated[int, typer.Option(min=1, max=100_000, help="Retailers that train.")] = 30,
    series: Annotated[int, typer.Option(min=1, max=10_000_000, help="Series of each.")] = 200,
    epsilon: Annotated[float, typer.Option(help="ε of each series over all rounds.")] = 4.0,
    delta: Annotated[float, typer.Option(help="δ.")] = 1e-5,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Rounds.")] = DEFAULT_ROUNDS,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write it as JSON.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show tracebacks.")] = False,
) -> None:
    """Tell beforehand whether a private federation of this size can work, and what would help most."""
    if not (0 < epsilon < math.inf and 0 < delta < 1):
        raise UsageError(f"ε = {epsilon:g} at δ = {delta:g} is not a budget.", "ε is above 0, δ between 0 and 1.")
    from rich.table import Table

    from trend_common.files import write_json
    from trend_common.outlook import outlook

    found = outlook(retailers=retailers, series=series, epsilon=epsilon, delta=delta, rounds=rounds)
    console.print(
        f"{retailers} retailers of {series} series, {rounds} rounds, ε = {epsilon:g} at δ = {delta:g} for each "
        f"series: σ = {found.sigma:.2f}, and noise of s = σ / (N·√n) = {found.s:.2g} of what a series can say.",
        soft_wrap=True,
    )
    console.print(
        f"WQL of synthetic federations with as much noise was {_lower(found.gain)} than the pretrained model's "
        f"(± {2 * found.error:.1f}), without noise {_lower(found.ceiling)}; {100 * found.better:.0f} % of their "
        f"retailers gained. {found.verdict}",
        soft_wrap=True,
    )
    table = Table(title="What would help, most first", title_justify="left")
    table.add_column("change")
    table.add_column("s", justify="right")
    table.add_column("WQL at that s", justify="right")
    for lever in found.levers:
        table.add_row(lever.name, f"{lever.s:.2g}", _lower(lever.gain))
    console.print(table)
    if json_path is not None:
        write_json(json_path, found.to_json())


def _lower(gain: float) -> str:
    return f"{abs(gain):.1f} % {'lower' if gain >= 0 else 'higher'}"
