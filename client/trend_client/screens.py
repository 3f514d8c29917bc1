"""What ``budget``, ``sent``, ``backtest`` and the end of a run print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from trend_common import __version__
from trend_common.console import console
from trend_common.files import write_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trend_client.backtest import Backtest, MethodResult
    from trend_client.outcome import Outcome
    from trend_client.value import Value
    from trend_common.privacy.budget import Budget
    from trend_common.privacy.sent import SentMessage
    from trend_common.secagg.messages import FederationRoster

__all__ = ["show_backtest", "show_budget", "show_outcome", "show_rosters", "show_sent"]


def _envelope(command: str, body: dict[str, Any]) -> dict[str, Any]:
    return {"schema": 1, "version": __version__, "command": command, **body}


def show_budget(budget: Budget, json_out: Path | None) -> None:
    """The budget in words and a table."""
    console.print(escape(budget.sentence()))
    if budget.rows:
        table = Table("federation", "ε", "noise", "q", "rounds sent", "steps charged", "unit", "state")
        for row in budget.rows:
            table.add_row(
                row.federation,
                f"{row.epsilon:.2f}",
                f"{row.noise_multiplier:.2f}",
                f"{row.q:g}",
                f"{row.rounds_answered} of {row.rounds}",
                f"{row.steps_charged} of {row.steps_accepted}",
                row.unit,
                row.state,
            )
        console.print(table)
    if budget.others and budget.chain_ok:
        console.print("The same spending for other secrets (computed for this screen, never sent):")
        for cost in budget.others:
            console.print(escape(f"- {cost.sentence()}"), soft_wrap=True)
    console.print(
        "The ledger is intact." if budget.chain_ok else f"[bold red]The ledger is NOT intact: {budget.problem}.[/]"
    )
    if json_out is not None:
        write_json(json_out, _envelope("budget", budget.as_json()), private=True)


def show_rosters(rosters: Sequence[FederationRoster]) -> None:
    """Among whom sums are made, for a person to compare with the others by telephone."""
    for one in rosters:
        names = ", ".join(member.name for member in one.members)
        console.print(
            f"Secure aggregation of {escape(one.federation)} among {len(one.members)} retailers ({escape(names)}), "
            f"fingerprint of the roster {one.fingerprint}.",
            soft_wrap=True,
        )


def show_sent(messages: Sequence[SentMessage], json_out: Path | None) -> None:
    """Every message that ever left."""
    table = Table("time (UTC)", "message", "federation", "round", "bytes", "SHA-256")
    for one in messages:
        table.add_row(
            one.time, one.kind, one.federation, str(one.round or ""), f"{one.bytes:,}", one.sha256[:16] + "…"
        )
    total = sum(one.bytes for one in messages)
    if messages:
        console.print(table)
        console.print(f"{len(messages)} messages, {total:,} bytes in all. No other message ever left this machine.")
    else:
        console.print("No message ever left this machine.")
    if json_out is not None:
        rows = [
            {
                "time": one.time,
                "kind": one.kind,
                "federation": one.federation,
                "round": one.round,
                "bytes": one.bytes,
                "sha256": one.sha256,
            }
            for one in messages
        ]
        write_json(json_out, _envelope("sent", {"messages": rows, "bytes": total}), private=True)


def show_backtest(result: Backtest) -> None:
    """The table of methods on the test window, and the verdict; methods of the sample in a table of their own."""
    console.print(
        _scores(f"Backtest: the last {result.horizon} steps, which the choice never saw", result.methods, ())
    )
    if result.sample:
        series = max(one.test["series"] for one in result.sample.values())
        title = f"On a sample of {series} series alone: not to be compared with the table above"
        console.print(_scores(title, result.sample, result.left_out))
    console.print(escape(result.verdict))
    for line in _remarks(result):
        console.print(escape(line))


def _remarks(result: Backtest) -> list[str]:
    """Windows, spread and value in a sentence each."""
    from trend_client.backtest import METHOD_NAMES
    from trend_client.gate import CHOSEN

    lines = []
    count = len(result.origins.rolling)
    fewer = [METHOD_NAMES.get(name, name) for name, number in result.scored_on.items() if number < count]
    if count > 1:
        told = f"Weights are from {count} validation windows"
        lines.append(
            f"{told}; {', '.join(fewer)}: only from those after its training or trial." if fewer else f"{told}."
        )
    if result.uncalibrated is not None:
        before, after = result.uncalibrated, result.methods[CHOSEN].test
        lines.append(
            "Intervals were set right on validation: on the test window those of 80 % covered "
            f"{100 * before['coverage80']:.0f} % before and {100 * after['coverage80']:.0f} % after, those of 90 % "
            f"{100 * before['coverage90']:.0f} % and {100 * after['coverage90']:.0f} %."
        )
    if result.value is not None:
        lines += [one for one in (_worth(result.value, money=False), _worth(result.value, money=True)) if one]
    return lines


def _worth(value: Value, *, money: bool) -> str:
    """ "On the test window ... units less error than with AutoETS (95 % interval ...)."; "" without prices."""
    from trend_client.backtest import METHOD_NAMES

    found = value.money if money else value.units
    if found is None:
        return ""
    what = "units of error" if not money else "at the price of the errors"
    if money and value.margin is not None:
        what = f"of lost margin and leftovers, at a margin of {100 * value.margin:g} %"
    word = "more" if found.saved < 0 else ("less" if money else "fewer")
    ends = (
        "" if found.low is None or found.high is None else f" (95 % interval {found.low:,.0f} to {found.high:,.0f})"
    )
    old = METHOD_NAMES.get(value.against, value.against)
    return (
        f"On the test window: {abs(found.saved):,.0f} {word} {what} than with {old}{ends}, {found.series:,} series."
    )


def _scores(title: str, methods: Mapping[str, MethodResult], left_out: Sequence[str]) -> Table:
    from trend_client.backtest import METHOD_NAMES

    table = Table(title=title)
    table.add_column("method")
    for name in ("WAPE", "MASE", "SQL", "80 % interval covers"):
        table.add_column(name, justify="right")
    best = min(methods, key=lambda name: methods[name].test["sql"])
    for name, row in methods.items():
        test = row.test
        called = METHOD_NAMES.get(name, name) + (" (not run on all)" if name in left_out else "")
        cells = [called, f"{test['wape']:.3f}", f"{test['mase']:.3f}", f"{test['sql']:.3f}"]
        cells.append(f"{100 * test['coverage80']:.0f} %")
        table.add_row(*cells, style="bold green" if name == best else "")
    return table


def show_outcome(outcome: Outcome) -> None:
    """The end of a run."""
    if outcome.backtest is None:
        console.print("The history is too short for a backtest; the shared model forecasts without one.")
    else:
        show_backtest(outcome.backtest)
    console.print(f"Forecasts: {outcome.forecasts_csv}", soft_wrap=True)
    others = [path.name for path in outcome.files if path != outcome.forecasts_csv]
    if others:
        console.print(f"           and beside it {', '.join(others)}", soft_wrap=True)
    console.print(f"Report:    {outcome.report}", soft_wrap=True)
