"""An evaluation as tables: for the console, and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.table import Column, Table

from trend_server.evaluate import RELATIVE, Evaluation, Result

__all__ = ["data_table", "markdown", "summary_table"]

_SHOWN: Final = ("sql", "mase", "wql", "wape", "coverage80", "coverage90", "pit80", "pit90")
_ON_SCREEN: Final = ("sql", "mase", "wql", "wape", "pit80", "pit90")
"""Of :data:`_SHOWN` what fits into 80 columns."""

_COLUMNS: Final = (
    "data",
    "model",
    "SQL",
    "MASE",
    "WQL",
    "WAPE",
    "80 %",
    "90 %",
    "80 % PIT",
    "90 % PIT",
    "series",
    "s",
)
_BEST: Final = _SHOWN[:4]
_SUMMARY: Final = ("relative to", "model", "SQL", "MASE", "WQL", "data sets", "better on")

Cells = tuple[str, ...]


def data_table(results: Sequence[Result]) -> Table:
    """The scores of one data set for the console, and what the backbones' other heads are worth."""
    shown = [*_ON_SCREEN, "series", "s"]
    names = dict(zip((*_SHOWN, "series", "s"), _COLUMNS[2:], strict=True))
    columns: list[Column | str] = [Column("model", no_wrap=True), *(names[key] for key in shown)]
    caption = "\n".join(_heads(results)) or None
    table = Table(*columns, title=results[0].data, caption=caption, box=None, header_style="bold", pad_edge=False)
    table.title_justify = table.caption_justify = "left"
    for _, *cells in _scores(results, "[bold]{}[/]", _ON_SCREEN):
        table.add_row(*cells)
    return table


def summary_table(evaluation: Evaluation) -> Table:
    """Geometric means over the data sets, for the console."""
    columns: list[Column | str] = [*(Column(name, no_wrap=True) for name in _SUMMARY[:2]), *_SUMMARY[2:]]
    table = Table(
        *columns,
        title="Geometric mean over the data sets, below 1 is better",
        box=None,
        header_style="bold",
        pad_edge=False,
    )
    table.title_justify = "left"
    for cells in _ratios(evaluation.summary()):
        table.add_row(*cells)
    return table


def markdown(evaluation: Evaluation) -> str:
    """Scores, the best of each measure in bold; the other heads; geometric means relative to the baselines."""
    parts = [_lines(_COLUMNS, _scores(evaluation.results, "**{}**"))]
    if heads := _heads(evaluation.results):
        parts.append("\n".join(f"- {line}" for line in heads))
    if ratios := _ratios(evaluation.summary()):
        parts.append("Geometric mean over the data sets, below 1 is better:")
        parts.append(_lines(_SUMMARY, ratios))
    return "\n\n".join(parts) + "\n"


def _lines(header: Sequence[str], rows: Sequence[Cells]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))


def _scores(results: Sequence[Result], best: str, keys: Sequence[str] = _SHOWN) -> list[Cells]:
    rows = []
    for data in dict.fromkeys(one.data for one in results):
        group = [one for one in results if one.data == data]
        lowest = {key: min(_sortable(one.mean(key)) for one in group) for key in _BEST}
        for one in group:
            cells = [
                best.format(_number(one.mean(key))) if one.mean(key) == lowest.get(key) else _number(one.mean(key))
                for key in keys
            ]
            found = one.to_json()
            rows.append((data, one.model, *cells, str(found["series"]), f"{one.seconds:.1f}"))
    return rows


def _ratios(summary: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[Cells]:
    return [
        (reference, model, *(_number(found[key]) for key in RELATIVE), str(found["data_sets"]), str(found["better"]))
        for reference, methods in summary.items()
        for model, found in methods.items()
    ]


def _heads(results: Sequence[Result]) -> list[str]:
    """A sentence for each backbone and data set."""
    lines = []
    for one in results:
        heads, parts = one.heads.to_json(), []
        if "trend" in heads:
            ours, rule = heads["trend"], heads["trend"]["baseline"]
            parts.append(
                f"trend class: macro F1 {_number(ours['macro_f1'])} (rule {_number(rule['macro_f1'])}), "
                f"AUROC {_number(ours['auroc'])} ({_number(rule['auroc'])})"
            )
        if "no_sale" in heads:
            sale = heads["no_sale"]
            parts.append(
                f"no sale: Brier {sale['brier']:.4f} (share of zeros so far {sale['baseline']['brier']:.4f})"
            )
        if parts:
            lines.append(f"{one.data}, {one.model}: {'; '.join(parts)}.")
    return lines


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


def _sortable(value: float) -> float:
    return math.inf if math.isnan(value) else value
