"""What ``trend-client backtest`` prints of prices and trends."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trend_client.asides import Asides

__all__ = ["show_asides"]


def show_asides(found: Asides) -> None:
    """A table of what is forecast beside sales, and whether to believe it."""
    from rich.table import Table

    from trend_client.report.language import Language
    from trend_client.report.reasons import aside_sentences
    from trend_common.console import console

    if found.prices is None and found.trends is None:
        return
    table = Table(title="Beside sales, in past windows")
    table.add_column("what")
    for name in ("measure", "ours", "reference", "better if"):
        table.add_column(name, justify="left" if name in ("measure", "better if") else "right")
    if found.prices is not None:
        prices = found.prices
        table.add_row("Prices", "SQL", f"{prices.sql:.3f}", f"{prices.last_sql:.3f} (last price)", "lower")
        table.add_row("", "WQL", f"{prices.wql:.3f}", f"{prices.last_wql:.3f}", "lower")
    if found.trends is not None:
        trends = found.trends
        table.add_row(
            "Trend class", "macro F1", f"{trends.f1:.3f}", f"{trends.old_f1:.3f} (recent average)", "higher"
        )
        table.add_row("", "AUROC", f"{trends.auroc:.3f}", f"{trends.old_auroc:.3f}", "higher")
    console.print(table)
    for sentence in aside_sentences(found, Language("en")):
        console.print(sentence, soft_wrap=True)
