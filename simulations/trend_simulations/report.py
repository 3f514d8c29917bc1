"""The comparison on a screen: arms and measures relative to the seasonal naive, and whether joining paid."""

from __future__ import annotations

from typing import Final

from rich.table import Table

from trend_simulations.compare import Comparison
from trend_simulations.intervals import Interval

__all__ = ["comparison_table", "headline", "privacy_line"]

_COLUMNS: Final = (("wql", "WQL"), ("sql", "SQL"), ("wape", "WAPE"), ("mase", "MASE"))


def comparison_table(result: Comparison) -> Table:
    """A row for each arm and statistical method; scores relative to the seasonal naive, lower is better."""
    clients, seeds = len(result.cases), len(result.settings.seeds)
    series = sum(case.retailer.series for case in result.cases)
    table = Table(
        title=f"{clients} retailers, {series} series, {seeds} seed{'s' if seeds > 1 else ''}, "
        f"horizon {result.settings.horizon}{result.settings.freq}; relative to the seasonal naive, lower is better",
        title_justify="left",
        caption="[...]: 95 % bootstrap interval over retailers and seeds. Differences are in relative WQL.",
        caption_justify="left",
    )
    table.add_column("arm", no_wrap=True)
    table.add_column("WQL", no_wrap=True)
    for _, title in _COLUMNS[1:]:
        table.add_column(title, justify="right")
    table.add_column("in 80 %", justify="right")
    if "local" in result.arms:
        table.add_column("against local", no_wrap=True)
        table.add_column("gain", justify="right")
        table.add_column("")
    best = min(result.arms, key=lambda arm: result.interval(arm, "wql").mean)
    for name in [*result.arms, *result.baselines]:
        style = "bold" if name == best else ("dim" if name in result.baselines else None)
        cells = [name, _interval(result.interval(name, "wql"))]
        cells += [f"{result.interval(name, measure).mean:.3f}" for measure, _ in _COLUMNS[1:]]
        cells.append(f"{100 * result.values(name, 'coverage80').mean():.0f} %")
        if "local" in result.arms:
            found = result.against("local", name, "wql")
            if found is None:
                cells += ["", "", ""]
            else:
                cells += [_interval(found[0], signed=True), f"{100 * found[1]:.0f} %", verdict(found[0])]
        table.add_row(*cells, style=style)
    return table


def verdict(difference: Interval) -> str:
    """Better or worse than local only where the interval says so."""
    if difference.low is None or difference.high is None:
        return "too few to say"
    if difference.high < 0:
        return "[green]better[/]"
    return "[red]worse[/]" if difference.low > 0 else "a tie"


def headline(result: Comparison) -> list[str]:
    """Plain sentences on the federated arms against training alone."""
    lines = []
    for arm in result.arms:
        other = "alone" if arm.startswith("gated") and "alone" in result.arms else "local"
        found = result.against(other, arm, "wql")
        if found is None or not arm.startswith(("federated", "gated", "grouped")):
            continue
        outcome = {"[green]better[/]": "is better than", "[red]worse[/]": "is WORSE than"}.get(verdict(found[0]))
        text = outcome or "cannot be told apart from"
        share = f"{100 * found[1]:.0f} % of the retailers gain"
        rival = "training alone" if other == "local" else "the best blend of what it has alone"
        lines.append(f"{arm} {text} {rival}: {_interval(found[0], signed=True)} in relative WQL, {share}.")
    return lines


def privacy_line(result: Comparison) -> str | None:
    """What the private arm cost."""
    privacy = result.to_json()["privacy"]
    if privacy is None:
        return None
    lines = [
        f"{arm}: ε = {one['epsilon']:.2f} at δ = {one['delta']:g} for each {one['unit']}, noise multiplier "
        f"{one['noise_multiplier']:.3g}, clip {one['clip']:g}, {one['rounds']} rounds; signal to noise at most "
        f"{one['signal_to_noise']:.2f}; {one['bytes_up']:,} bytes up a round."
        for arm, one in privacy["by_arm"].items()
    ]
    return "Privacy. " + " ".join(lines)


def _interval(value: Interval, *, signed: bool = False) -> str:
    spec = "+.3f" if signed else ".3f"
    if value.low is None or value.high is None:
        return f"{value.mean:{spec}}"
    return f"{value.mean:{spec}} \\[{value.low:{spec}}, {value.high:{spec}}]"
