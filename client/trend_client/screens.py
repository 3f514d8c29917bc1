"""What ``budget``, ``sent`` and the end of a run print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from trend_common import __version__
from trend_common.console import console
from trend_common.files import write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trend_client.outcome import Outcome
    from trend_common.privacy.budget import Budget
    from trend_common.privacy.sent import SentMessage
    from trend_common.secagg.messages import FederationRoster

__all__ = ["show_budget", "show_outcome", "show_rosters", "show_sent"]


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


def show_outcome(outcome: Outcome) -> None:
    """The end of a run."""
    from trend_client.commands.scores import show_backtest

    if outcome.backtest is None:
        console.print("The history is too short for a backtest; the shared model forecasts without one.")
    else:
        show_backtest(outcome.backtest)
    console.print(f"Forecasts: {outcome.forecasts_csv}", soft_wrap=True)
    others = [path.name for path in outcome.files if path != outcome.forecasts_csv]
    if others:
        console.print(f"           and beside it {', '.join(others)}", soft_wrap=True)
    console.print(f"Report:    {outcome.report}", soft_wrap=True)
