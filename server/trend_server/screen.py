"""What the operator sees: who is there, which round, how many answers, how long still. And ``status.json``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from trend_common.console import console
from trend_common.protocol import FederationPlan
from trend_server.desk import FederationEvent

__all__ = ["Screen"]

_COLOURS: Final = {
    "accepted": "green",
    "declined": "yellow",
    "rejected": "red",
    "failed": "red",
    "extended": "yellow",
    "skipped": "bold yellow",
    "finished": "bold green",
    "adopted": "green",
    "offline": "yellow",
}
_QUIET: Final = {"received", "opened"}
"""Shown by the bars, not in lines, where there are bars."""


class Screen:
    """Progress of the server; a context manager. May be told things from several threads.

    Args:
        keep: Called with what ``trend-server status`` shall show.
    """

    def __init__(self, keep: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
        self._keep = keep
        self._lock = threading.Lock()
        self._status: dict[str, Any] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._rounds: TaskID | None = None
        self._answers: TaskID | None = None

    def __enter__(self) -> Screen:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        self._update(running=False)

    def listening(self, host: str, port: int, fingerprint: str) -> None:
        """Say where the server listens, and whose certificates it has."""
        console.print(f"Listening on [bold]{escape(host)}:{port}[/] (TLS; clients only).")
        grouped = " ".join(fingerprint[i : i + 8] for i in range(0, len(fingerprint), 8))
        console.print(f"[dim]Fingerprint of the certificate authority: {grouped}[/]", soft_wrap=True)
        self._update(running=True, host=host, port=port, fingerprint=fingerprint)

    def note(self, text: str) -> None:
        """Print one line."""
        console.print(escape(text))

    def joined(self, name: str) -> None:
        """Say that an invitation was redeemed."""
        console.print(f"[green]{escape(name)} has joined with the invitation.[/]")

    def plan(self, plan: FederationPlan) -> None:
        """Say what is announced."""
        what = f"{plan.backbone}, {plan.horizon} steps ahead ({plan.freq}), {plan.rounds} rounds"
        console.print(f"Federation [bold]{escape(plan.federation)}[/]: {escape(what)}.")
        if plan.privacy is None:
            console.print("[bold yellow]Without differential privacy: a rehearsal. Clients refuse it by default.[/]")
        else:
            promise = f"ε = {plan.privacy.epsilon:.2f}, δ = {plan.privacy.delta:g} for each {plan.privacy.unit}"
            console.print(f"Privacy over the whole federation: {promise}.")
        if plan.secure_aggregation is not None:
            least = plan.secure_aggregation.min_clients
            console.print(f"Secure aggregation: only sums of {least} or more clients can be seen.")
        self._rounds = self._progress.add_task("Rounds", total=plan.rounds, note="")
        self._update(federation=plan.federation, rounds=plan.rounds)

    def event(self, event: FederationEvent) -> None:
        """Show what happens in the federation."""
        left = "" if event.deadline is None else f"closes in {max(0.0, event.deadline - time.monotonic()):.0f} s"
        if self._rounds is not None and event.kind in ("resumed", "opened", "closed", "finished"):
            done = event.round - 1 if event.kind == "opened" else event.round
            self._progress.update(self._rounds, completed=done, note=f"{len(event.online)} online")
        if event.kind == "opened" and self._progress.disable is False:
            if self._answers is not None:
                self._progress.remove_task(self._answers)
            self._answers = self._progress.add_task(f"Round {event.round}", total=event.expected, note=left)
        if event.kind in ("received", "extended") and self._answers is not None:
            self._progress.update(self._answers, completed=event.received, total=event.expected, note=left)
        if not (console.is_terminal and event.kind in _QUIET):
            colour = _COLOURS.get(event.kind)
            text = escape(event.text)
            console.print(f"[{colour}]{text}[/]" if colour else text)
        values: dict[str, Any] = {"round": event.round, "online": list(event.online), "last": event.text}
        if event.kind in ("opened", "received", "extended", "closed"):
            deadline = None if event.deadline is None else round(event.deadline - time.monotonic() + time.time(), 1)
            values |= {"received": event.received, "expected": event.expected, "deadline": deadline}
        if event.kind == "finished":
            values["finished"] = True
        self._update(**values)

    def _update(self, **values: Any) -> None:
        with self._lock:
            self._status |= values
            self._status["updated"] = datetime.now(UTC).isoformat(timespec="seconds")
            self._keep(dict(self._status))
