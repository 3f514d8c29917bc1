"""The audit on a screen."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from rich.table import Table

from trend_simulations.audit import Report

__all__ = ["audit_tables", "verdict_line"]

_GOOD = ("holds", "caught", "as assumed")


def audit_tables(report: Report) -> Iterator[Table]:
    """One table for each attack."""
    yield _runs(report)
    yield _draws(report)
    yield _membership(report)
    yield _inversion(report)


def verdict_line(report: Report) -> str:
    """One sentence."""
    caught = sum(one.verdict == "caught" for one in report.runs)
    honest = sum(one.verdict == "holds" for one in report.runs)
    return (
        f"{honest} honest claims hold, {caught} mistakes were caught, {len(report.failures)} findings; "
        f"{report.seconds:.0f} s."
    )


def _runs(report: Report) -> Table:
    first = report.runs[0].evidence.audit
    table = Table(
        title=f"ε of a real client, audited in one run: {first.canaries} canaries, bounds at {first.confidence:.0%}",
        title_justify="left",
        caption="A claim below the bound is false. What it looks like presumes Gaussian scores and proves nothing.\n"
        "Not seen: known to be beyond one run; the draws, and tests of the noise, see them.",
        caption_justify="left",
    )
    for name in ("plan", "client"):
        table.add_column(name, no_wrap=True)
    for name in ("claimed", "bound", "looks like", "right"):
        table.add_column(name, justify="right")
    table.add_column("")
    for one in report.runs:
        audit = one.evidence.audit
        table.add_row(
            one.plan,
            one.mutation.name if one.mutation else "honest",
            f"{one.evidence.claimed:.2f}",
            f"{audit.lower_bound:.2f}",
            _estimate(audit.estimate),
            f"{audit.right}/{audit.guesses}",
            _coloured(one.verdict),
        )
    return table


def _draws(report: Report) -> Table:
    table = Table(title="Who is drawn, with the noise removed so that it shows", title_justify="left")
    table.add_column("sampler")
    table.add_column("p-value", justify="right")
    table.add_column("")
    for one in report.draws:
        table.add_row(one.name, f"{one.p_value:.2g}", _coloured(one.verdict))
    return table


def _membership(report: Report) -> Table:
    found = report.attacks[0].found
    table = Table(
        title=f"Membership inference on the final adapter: {found.members} members, {found.others} others",
        title_justify="left",
        caption="The limits hold for any attack on everything that was sent. TPR at a threshold set on others.",
        caption_justify="left",
    )
    table.add_column("trained with")
    for name in ("AUC", "95 %", "limit", "TPR", "FPR", "limit"):
        table.add_column(name, justify="right")
    for one in report.attacks:
        found, limits = one.found, one.limits
        low, high = found.auc_interval
        table.add_row(
            one.arm.name,
            f"{found.auc:.3f}",
            f"{low:.2f}–{high:.2f}",
            "–" if limits is None else f"{limits[0]:.3f}",
            f"{found.tpr:.1%}",
            f"{found.fpr:.1%}",
            "–" if limits is None else f"{limits[1]:.1%}",
        )
    return table


def _inversion(report: Report) -> Table:
    found = report.inversion
    table = Table(
        title=f"Sales read out of the gradient of one window: mean |correlation| over {found.windows} windows",
        title_justify="left",
    )
    table.add_column("noise multiplier σ")
    table.add_column("correlation", justify="right")
    table.add_row("none", f"{found.without_noise.mean():.3f}")
    for noise, value in sorted(found.ladder.items()):
        table.add_row(f"{noise:g}", f"{value:.3f}")
    table.add_row(f"{found.sigma:g} (ε = {found.epsilon:g})", f"{np.abs(found.with_noise).mean():.3f}")
    table.add_row("the same, all 20 rounds averaged", f"{np.abs(found.averaged).mean():.3f}")
    return table


def _estimate(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if value < 100 else "> 100" if math.isfinite(value) else "∞"


def _coloured(verdict: str) -> str:
    if verdict in _GOOD:
        return f"[green]{verdict}[/]"
    return f"[red]{verdict}[/]" if verdict.isupper() else f"[yellow]{verdict}[/]"
