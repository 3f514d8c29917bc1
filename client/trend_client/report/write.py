"""Putting the report together: the context of the template, and the file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from trend_client.backtest import METHOD_NAMES, Backtest, MethodResult
from trend_client.gate import CHOSEN, Gain
from trend_client.report import words
from trend_client.report.charts import fan_chart
from trend_client.report.data import ReportData
from trend_common import __version__
from trend_common.files import write_text

__all__ = ["render_report", "write_report"]

_LISTED: Final = 25
"""Rows that a list shows before it says how many more there are."""


@dataclass(frozen=True)
class _Tile:
    value: str
    label: str
    tone: str = ""


def write_report(path: Path, data: ReportData) -> Path:
    """Write the report to ``path`` (whole or not at all, readable by its owner alone); return it."""
    write_text(path, render_report(data), private=True)
    return path


def render_report(data: ReportData) -> str:
    """The report as one HTML document without a single reference to anything outside it."""
    # Every value is escaped by the environment; the charts alone are trusted, and hold dates and numbers only.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("trend_client.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unbroken"] = words.unbroken
    return environment.get_template("template.html").render(_context(data))


def _context(data: ReportData) -> dict[str, Any]:
    panel, forecast = data.panel, data.forecast
    young = data.new_series()
    return {
        "title": data.title or panel.name,
        "version": __version__,
        "created": f"{words.date(data.created)}, {data.created:%H:%M}",
        "summary": _summary(data),
        "tiles": _tiles(data),
        "charts": [_chart(data, name) for name in data.largest()],
        "n_forecast": f"{len(forecast):,}",
        "span": f"{words.date(forecast.ds.min())} to {words.date(forecast.ds.max())}" if len(forecast) else "",
        "has_promo": "promo" in panel.frame,
        "has_holiday": "holiday" in panel.frame,
        "backtest": None if data.backtest is None else _backtest(data.backtest),
        "horizon": words.steps(panel.freq, forecast.horizon),
        "young": [_young(data, name) for name in young[:_LISTED]],
        "young_more": max(0, len(young) - _LISTED),
        "panel": {
            "rows": f"{panel.rows:,}",
            "series": f"{panel.n_series:,}",
            "start": words.date(panel.start),
            "end": words.date(panel.end),
            "step": {"D": "day", "W": "week", "M": "month"}[panel.freq],
            "columns": ", ".join(
                role if role == source else f"{role} = {source}" for role, source in sorted(panel.columns.items())
            ),
        },
        "findings": [asdict(finding) for finding in panel.findings],
        "privacy": None if data.privacy is None else _privacy(data),
        "sent": [
            {
                "when": f"{words.date(message.when)}, {message.when:%H:%M:%S}",
                "kind": message.kind,
                "bytes": words.bytes_text(message.bytes),
                "digest": message.digest,
            }
            for message in data.sent[-_LISTED:]
        ],
        "sent_more": max(0, len(data.sent) - _LISTED),
        "sent_total": words.bytes_text(sum(message.bytes for message in data.sent)),
    }


def _summary(data: ReportData) -> list[str]:
    """The sentences at the top: what there is, how good it is, what it cost."""
    forecast, backtest = data.forecast, data.backtest
    noun = "product series" if len(forecast) != 1 else "product"
    lines = []
    if len(forecast):
        first, last = words.date(forecast.ds.min()), words.date(forecast.ds.max())
        lines.append(f"This report forecasts {len(forecast):,} {noun} for {first} to {last}.")
    if backtest is None:
        lines.append("There is too little history to test the forecasts on weeks that are known: use them with care.")
    else:
        old = METHOD_NAMES.get(backtest.old, backtest.old)
        window = f"the last {words.steps(backtest.freq, backtest.horizon)} of your data"
        gain = backtest.test_gain
        if set(backtest.choice.counts) == {backtest.old}:
            lines.append(f"Nothing beat your old method, {old}, in testing, so it stays in use.")
        elif not math.isfinite(gain.relative):
            lines.append(f"Nothing was sold in {window}, so the forecasts could not be tested.")
        else:
            lines.append(
                f"Tried on {window}, which were held back, forecasts made this way had "
                f"{_size(gain)} error than {old}, the best of the usual methods{_doubt(gain)}."
            )
    if data.privacy is not None and data.privacy.rounds and data.privacy.epsilon is not None:
        lines.append("No sales figure has left this machine; what was sent is protected by differential privacy.")
    elif data.privacy is None or not data.privacy.rounds:
        lines.append("No sales figure and no training update has left this machine.")
    return lines


def _size(gain: Gain) -> str:
    share = abs(gain.relative) * 100
    text = f"{share:.0f} %" if share >= 9.5 else f"{share:.1f} %"
    if float(text[:-2]) == 0:
        return "the same"
    return f"a {text} {'lower' if gain.relative > 0 else 'HIGHER'}"


def _doubt(gain: Gain) -> str:
    return " (a difference that may be chance)" if gain.outcome == "unclear" and _size(gain) != "the same" else ""


def _tiles(data: ReportData) -> list[_Tile]:
    forecast = data.forecast
    tiles = [_Tile(f"{len(forecast):,}", f"series forecast, {words.steps(data.panel.freq, forecast.horizon)} ahead")]
    if data.backtest is not None:
        gain = data.backtest.test_gain
        old = METHOD_NAMES.get(data.backtest.old, data.backtest.old)
        if math.isfinite(gain.relative):
            sign = "−" if gain.relative > 0 else "+"
            tone = {"better": "good", "worse": "bad", "unclear": ""}[gain.outcome]
            digits = 0 if abs(gain.relative) >= 0.095 else 1
            tiles.append(
                _Tile(f"{sign}{abs(gain.relative) * 100:.{digits}f} %", f"error against {old}, held-back test", tone)
            )
        held = data.backtest.methods[CHOSEN].test["coverage80"]
        if math.isfinite(held):
            tiles.append(_Tile(f"{held * 100:.0f} %", "of actual values inside the 80 % band"))
    if data.privacy is not None and data.privacy.rounds and data.privacy.epsilon is not None:
        tiles.append(_Tile(f"ε = {data.privacy.epsilon:.3g}", "privacy spent, all rounds together"))
    return tiles


def _chart(data: ReportData, name: str) -> dict[str, Any]:
    history = data.panel.frame[data.panel.frame["unique_id"] == name]
    ahead = data.forecast.select([name])
    tested = None
    if data.backtest is not None and name in data.backtest.forecast.ids:
        tested = data.backtest.forecast.select([name])
    past = history["y"].to_numpy(dtype=np.float64)[-ahead.horizon :]
    facts = [("expected", words.amount(float(ahead.mean[0].sum())))]
    if not np.isnan(past).any() and len(past) == ahead.horizon:
        facts.append(
            (f"sold in the {words.steps(data.panel.freq, ahead.horizon)} before", words.amount(float(past.sum())))
        )
    method = None
    if data.backtest is not None:
        chosen = data.backtest.choice.methods.get(name, data.backtest.choice.default)
        method = METHOD_NAMES.get(chosen, chosen)
    return {
        **_described(data, name),
        "svg": fan_chart(history, ahead, data.panel.freq, tested=tested),
        "alternative": words.alternative(_described(data, name)["product"], history, ahead, data.panel.freq),
        "facts": facts,
        "method": method,
    }


def _described(data: ReportData, name: str) -> dict[str, str]:
    static = data.panel.static
    row: Mapping[Any, Any] = dict(static.loc[name]) if name in static.index else {}
    text = {key: str(row.get(key, "") or "") for key in ("store", "product", "category", "description")}
    return {**text, "product": text["product"] or name}


def _young(data: ReportData, name: str) -> dict[str, str]:
    sold = data.panel.frame.loc[data.panel.frame["unique_id"] == name, "y"]
    return {
        **_described(data, name),
        "known": str(int(sold.count())),
        "expected": words.amount(float(data.forecast.select([name]).mean[0].sum())),
    }


def _backtest(backtest: Backtest) -> dict[str, Any]:
    """The tables of all series and, if a method was left out, of the sample."""
    first, last = backtest.actuals.ds[0], backtest.actuals.ds[-1]
    test = backtest.methods[CHOSEN].test
    return {
        "rows": _rows(backtest.methods, backtest),
        "sample": _rows(backtest.sample, backtest),
        "sample_series": max((f"{one.test['series']:,}" for one in backtest.sample.values()), default=""),
        "verdict": backtest.verdict,
        "outcome": backtest.test_gain.outcome,
        "coverage": words.coverage_sentence(backtest),
        "validation": f"{words.date(backtest.origins.rolling[0])} to the day before {words.date(first)}",
        "test": f"{words.date(first)} to {words.date(last)}",
        "series": f"{test['series']:,}",
        "dropped": test["dropped"],
        "new": backtest.new_series,
    }


def _rows(methods: Mapping[str, MethodResult], backtest: Backtest) -> list[dict[str, Any]]:
    """The rows of one table, the lowest figure of each column marked."""
    columns = [("validation", key) for key in ("wape", "mase", "sql")] + [
        ("test", key) for key in ("wape", "mase", "sql")
    ]
    values = {
        name: [float(getattr(result, window)[key]) for window, key in columns] for name, result in methods.items()
    }
    lowest = [
        min((row[position] for row in values.values() if math.isfinite(row[position])), default=math.nan)
        for position in range(len(columns))
    ]
    longest = max((row[-1] for row in values.values() if math.isfinite(row[-1])), default=1.0) or 1.0
    rows = []
    for name, row in values.items():
        test = methods[name].test
        rows.append(
            {
                "name": METHOD_NAMES.get(name, name),
                "chosen": name == CHOSEN,
                "old": name == backtest.old,
                "left_out": name in backtest.left_out,
                "cells": [(_figure(value), value == low) for value, low in zip(row, lowest, strict=True)],
                "bar": round(100 * row[-1] / longest, 1) if math.isfinite(row[-1]) else 0,
                "coverage": [_percentage(test["coverage80"]), _percentage(test["coverage90"])],
            }
        )
    return rows


def _privacy(data: ReportData) -> dict[str, Any]:
    assert data.privacy is not None
    privacy = data.privacy
    facts = [("Rounds", str(privacy.rounds)), ("Sent in all", words.bytes_text(privacy.bytes_sent))]
    if privacy.epsilon is not None:
        facts = [
            ("Spent, ε", f"{privacy.epsilon:.3g}"),
            ("Failure probability, δ", words.small(privacy.delta)),
            ("What is protected", privacy.unit),
            *facts,
        ]
    return {"sentence": words.privacy_sentence(privacy), "facts": facts}


def _figure(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "–"


def _percentage(value: float) -> str:
    return f"{value * 100:.0f} %" if math.isfinite(value) else "–"
