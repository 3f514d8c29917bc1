"""The benchmark for people: a table for each federation, as text and Markdown, and a picture of every retailer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from trend_common.files import replacing
from trend_simulations.benchmark import Row, Run
from trend_simulations.fairness import Share
from trend_simulations.intervals import Interval
from trend_simulations.newcomers import Welcome

__all__ = ["markdown", "summary", "tables", "write_plot"]

Rows = Mapping[str, Mapping[str, Row]]
Fairness = Mapping[str, Mapping[str, Mapping[str, Share]]]
"""Federation → arm → group."""
Welcomes = Mapping[str, Mapping[str, Mapping[str, Welcome]]]
"""Federation → what is known → arm."""


def tables(rows: Rows, titles: Mapping[str, str], *, rival: str) -> list[Table]:
    """One table for each federation."""
    found = []
    headings = ("WQL", f"against {rival}", "gain", "not worse", "closed")
    for name, methods in rows.items():
        table = Table(title=f"{titles[name]}: WQL relative to the seasonal naive", title_justify="left")
        table.add_column("arm", no_wrap=True)
        for title in headings:
            table.add_column(title, justify="right", no_wrap=True)
        for method, row in methods.items():
            table.add_row(method, *_cells(row))
        found.append(table)
    return found


def markdown(
    rows: Rows,
    titles: Mapping[str, str],
    *,
    rival: str,
    fairness: Fairness | None = None,
    newcomers: Welcomes | None = None,
) -> str:
    """The same as Markdown, and below each table who gains and what newcomers get."""
    lines = ["# Benchmark", ""]
    for name, methods in rows.items():
        lines += [f"## {titles[name]}", "", f"| arm | WQL | against {rival} | gain | not worse | closed |"]
        lines.append("| --- | --- | --- | --- | --- | --- |")
        lines += [f"| {method} | {' | '.join(_cells(row))} |" for method, row in methods.items()]
        lines.append("")
        lines += _fair_lines((fairness or {}).get(name, {}), rival)
        lines += _welcome_lines((newcomers or {}).get(name, {}))
    return "\n".join(lines).replace("\\[", "[")


def _fair_lines(arms: Mapping[str, Mapping[str, Share]], rival: str) -> list[str]:
    if not arms:
        return []
    lines = [f"Who gains and who loses against {rival}:", ""]
    lines.append("| arm | retailers | number | change | gain | more than 1 % worse | worst |")
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for arm, groups in arms.items():
        for group, one in groups.items():
            cells = [arm, group, f"{one.retailers}", _percent(one.change), f"{100 * one.gain:.0f} %"]
            cells += [f"{100 * one.worse:.0f} %", f"{100 * one.worst:+.1f} % ({one.worst_name})"]
            lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _welcome_lines(known: Mapping[str, Mapping[str, Welcome]]) -> list[str]:
    if not known:
        return []
    lines = ["Newcomers, who take an adapter as it is:", ""]
    lines.append("| known of their sales | arm | number | WQL | against zero-shot | better |")
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for what, arms in known.items():
        for arm, one in arms.items():
            change = ["", ""] if one.change is None else [_percent(one.change), f"{100 * one.better:.0f} %"]
            lines.append(f"| {' | '.join([what, arm, str(one.retailers), _interval(one.relative), *change])} |")
    return [*lines, ""]


def _percent(value: Interval) -> str:
    if value.low is None or value.high is None:
        return f"{100 * value.mean:+.1f} %"
    return f"{100 * value.mean:+.1f} % [{100 * value.low:+.1f}, {100 * value.high:+.1f}]"


def summary(
    runs: Sequence[Run],
    rows: Rows,
    *,
    rival: str,
    fairness: Fairness | None = None,
    newcomers: Welcomes | None = None,
) -> dict[str, Any]:
    """The tables as JSON values, with the files that they were made from."""
    return {
        "schema": 1,
        "command": "trend-sim benchmark",
        "rival": rival,
        "runs": [
            {"federation": run.federation.name, "cut": run.cut, "key": run.result["benchmark"]["key"]} for run in runs
        ],
        "federations": {
            name: {
                method: {
                    "relative": row.relative.to_json(),
                    "difference": row.difference.to_json() if row.difference else None,
                    "gain": _number(row.gain),
                    "not_worse": _number(row.not_worse),
                    "closed": row.closed.to_json() if row.closed else None,
                }
                for method, row in methods.items()
            }
            for name, methods in rows.items()
        },
        "fairness": _nested(fairness or {}),
        "newcomers": _nested(newcomers or {}),
    }


def _nested(found: Fairness | Welcomes) -> dict[str, Any]:
    return {
        name: {outer: {inner: one.to_json() for inner, one in some.items()} for outer, some in parts.items()}
        for name, parts in found.items()
    }


def write_plot(run: Run, path: Path, *, arms: Sequence[str], rival: str, measure: str = "wql") -> bool:
    """Each retailer's change against the rival, sorted; False if the run lacks the rival or all of the arms."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    clients = run.result["clients"]
    shown = [arm for arm in arms if arm in run.result["arms"] and arm != rival]
    if rival not in run.result["arms"] or not shown:
        return False
    figure = Figure(figsize=(7.5, 0.6 + 2.1 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(shown), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for one, arm in zip(axes, shown, strict=True):
        change = sorted(
            100 * (client["arms"][arm][measure] / client["arms"][rival][measure] - 1)
            for client in clients
            if client["arms"][arm][measure] is not None and client["arms"][rival][measure]
        )
        one.bar(range(len(change)), change, color=["#2a7f62" if value < 0 else "#b5523b" for value in change])
        one.axhline(0, color="black", linewidth=0.8)
        one.set_title(f"{arm}: {sum(value < 0 for value in change)} of {len(change)} better", fontsize=10)
        one.set_ylabel(f"% against {rival}")
    axes[-1].set_xlabel(f"retailers of {run.federation.title}, by change of WQL")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format=path.suffix.lstrip("."))
    return True


def _cells(row: Row) -> list[str]:
    closed = "" if row.closed is None else f"{100 * row.closed.mean:.0f} %"
    if row.closed is not None and row.closed.low is not None and row.closed.high is not None:
        closed += f" \\[{100 * row.closed.low:.0f}, {100 * row.closed.high:.0f}]"
    if row.difference is None:
        return [_interval(row.relative), "", "", "", closed]
    return [
        _interval(row.relative),
        _interval(row.difference, signed=True),
        f"{100 * row.gain:.0f} %",
        f"{100 * row.not_worse:.0f} %",
        closed,
    ]


def _interval(value: Interval, *, signed: bool = False) -> str:
    spec = "+.3f" if signed else ".3f"
    if value.low is None or value.high is None:
        return f"{value.mean:{spec}}"
    return f"{value.mean:{spec}} \\[{value.low:{spec}}, {value.high:{spec}}]"


def _number(value: float) -> float | None:
    return round(float(value), 6) if value == value else None
