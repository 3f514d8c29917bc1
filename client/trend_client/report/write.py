"""Putting the report together: the context of the template, and the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from trend_client.backtest import Backtest
from trend_client.gate import CHOSEN
from trend_client.report import words
from trend_client.report.actions import orders, outages, recommendations, seasons
from trend_client.report.charts import fan_chart
from trend_client.report.data import ReportData
from trend_client.report.language import Language, language
from trend_client.report.movers import changes
from trend_client.report.reasons import anomalies, aside_sentences, parts_of, trend_sentence
from trend_client.report.summary import mover_rows, summary, tiles
from trend_client.report.verdict import learned, method_rows, mixed, verdict, worth
from trend_common import __version__
from trend_common.files import write_text

__all__ = ["render_report", "write_report"]

_YEAR: Final = 365
_LISTED: Final = 25
"""Rows that a list shows before it says how many more there are."""


def write_report(path: Path, data: ReportData) -> Path:
    """Write the report to ``path`` (whole or not at all, readable by its owner alone); return it."""
    write_text(path, render_report(data), private=True)
    return path


def render_report(data: ReportData) -> str:
    """The report as one HTML document without a single reference to anything outside it.

    Raises:
        UsageError: It is asked for in a language that there is not.
    """
    # Every value is escaped by the environment; the charts alone are trusted, and hold dates and numbers only.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    lang = language(data.language)
    environment = Environment(
        loader=PackageLoader("trend_client.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n"],
    )
    environment.policies["ext.i18n.trimmed"] = True
    lang.install(environment)
    environment.filters["unbroken"] = words.unbroken
    return environment.get_template("template.html").render(_context(data, lang))


def _context(data: ReportData, lang: Language) -> dict[str, Any]:
    data = replace(data, orders=_known(data.orders, data), recommendations=_advised(data))
    panel, forecast = data.panel, data.forecast
    young = data.new_series()
    found = changes(panel, forecast)

    def names(name: str) -> dict[str, str]:
        return _described(data, name, lang)

    return {
        "lang": lang.html,
        "gap": lang.gap,
        "title": data.title or panel.name,
        "version": __version__,
        "created": lang.moment(data.created),
        "summary": summary(data, found, lang),
        "tiles": tiles(data, found, lang),
        "movers": mover_rows(data, found, names, lang),
        "orders": orders(data.orders, names, lang),
        "advice": recommendations(data.recommendations, names, lang),
        "seasons": seasons(_named(data), lang),
        "outages": outages(panel.outages, names, panel.calendar_end - pd.Timedelta(days=_YEAR), lang),
        "trends": trend_sentence(data.trends, lang),
        "doubt": lang.gettext("In the test such classes did no better than the recent average.")
        if data.asides is not None and data.asides.trends is not None and not data.asides.trends.trusted
        else "",
        "asides": aside_sentences(data.asides, lang),
        "anomalies": anomalies(data.backtest, names, lang),
        "charts": [_chart(data, name, lang) for name in data.largest()],
        "n_forecast": lang.number(len(forecast)),
        "span": lang.span(forecast.ds.min(), forecast.ds.max()) if len(forecast) else "",
        "explained": data.contributions is not None,
        "has_promo": "promo" in panel.frame,
        "has_holiday": "holiday" in panel.frame,
        "backtest": None if data.backtest is None else _backtest(data.backtest, lang),
        "learned": None if data.backtest is None else learned(data.backtest, lang),
        "horizon": lang.steps(panel.freq, forecast.horizon),
        "young": [_young(data, name, lang) for name in young[:_LISTED]],
        "young_more": _more(len(young), lang),
        "panel": _panel(data, lang),
        "findings": [words.finding(one, lang) for one in panel.findings],
        "privacy": None if data.privacy is None else _privacy(data, lang),
        "sent": [
            {
                "when": f"{lang.date(message.when)} {message.when:%H:%M:%S}",
                "kind": lang.gettext(words.KINDS.get(message.kind, message.kind)),
                "bytes": lang.bytes(message.bytes),
                "digest": message.digest,
            }
            for message in data.sent[-_LISTED:]
        ],
        "sent_more": _more(len(data.sent), lang),
        "sent_total": lang.bytes(sum(message.bytes for message in data.sent)),
    }


def _known(table: pd.DataFrame | None, data: ReportData) -> pd.DataFrame | None:
    """Without rows of other series: what lies in the same folder may be about other names, masked ones say."""
    return None if table is None else table[table["unique_id"].isin(data.panel.static.index)]


def _advised(data: ReportData) -> Mapping[str, Any] | None:
    """The advice about series that these sales know."""
    found = data.recommendations
    if found is None:
        return None
    known = set(data.panel.static.index)
    return {**found, "advice": [row for row in found["advice"] if row["unique_id"] in known]}


def _named(data: ReportData) -> list[Mapping[str, Any]]:
    """The seasons of products and categories that these sales know by name."""
    static = data.panel.static
    known = {*static["product"], *static["description"], *static["category"], "all"}
    return [row for row in data.seasons or () if row["name"] in known]


def _more(count: int, lang: Language) -> str:
    """How many rows a list leaves out; "" if none."""
    return lang.number(count - _LISTED) if count > _LISTED else ""


def _panel(data: ReportData, lang: Language) -> dict[str, str]:
    panel = data.panel
    step = {"D": lang.gettext("day"), "W": lang.gettext("week"), "M": lang.gettext("month")}[panel.freq]
    named = []
    for role, source in sorted(panel.columns.items()):
        word = lang.gettext(words.ROLES.get(role, role))
        named.append(word if source in (role, word) else f"{word} = {source}")
    return {
        "rows": lang.number(panel.rows),
        "series": lang.number(panel.n_series),
        "start": lang.date(panel.start),
        "end": lang.date(panel.end),
        "step": step,
        "columns": lang.listed(named),
    }


def _chart(data: ReportData, name: str, lang: Language) -> dict[str, Any]:
    freq = data.panel.freq
    history = data.panel.frame[data.panel.frame["unique_id"] == name]
    ahead = data.forecast.select([name])
    tested = None
    if data.backtest is not None and name in data.backtest.forecast.ids:
        tested = data.backtest.forecast.select([name])
    planned = data.panel.future[data.panel.future["unique_id"] == name]
    past = history["y"].to_numpy(dtype=np.float64)[-ahead.horizon :]
    facts = [(lang.gettext("expected"), lang.amount(float(ahead.mean[0].sum())))]
    if not np.isnan(past).any() and len(past) == ahead.horizon:
        label = lang.gettext("sold in the %(steps)s before", steps=lang.steps(freq, ahead.horizon))
        facts.append((label, lang.amount(float(past.sum()))))
    method = None
    if data.backtest is not None:
        method = mixed(data.backtest.choice.weights_of(name), lang)
    texts = _described(data, name, lang)
    return {
        **texts,
        "svgs": [
            fan_chart(history, ahead, freq, tested=tested, planned=planned, lang=lang, narrow=narrow)
            for narrow in (False, True)
        ],
        "alternative": words.alternative(texts["product"], history, ahead, freq, lang),
        "facts": facts,
        "method": method,
        "parts": parts_of(name, data.contributions, lang),
    }


def _described(data: ReportData, name: str, lang: Language) -> dict[str, str]:
    """What a series is called; where there is one product only, the store is its name."""
    static = data.panel.static
    row: Mapping[Any, Any] = dict(static.loc[name]) if name in static.index else {}
    text = {key: str(row.get(key, "") or "") for key in ("store", "product", "category", "description")}
    text["product"] = text["product"] or name
    if text["store"] and not text["description"] and len(static) > 1 and static["product"].nunique() == 1:
        text["product"], text["store"] = lang.gettext("Store %(name)s", name=text["store"]), ""
    if text["description"] == text["product"]:
        text["description"] = ""
    return {**text, "where": " · ".join(part for part in (text["store"], text["category"]) if part)}


def _young(data: ReportData, name: str, lang: Language) -> dict[str, str]:
    sold = data.panel.frame.loc[data.panel.frame["unique_id"] == name, "y"]
    return {
        **_described(data, name, lang),
        "known": lang.number(int(sold.count())),
        "expected": lang.amount(float(data.forecast.select([name]).mean[0].sum())),
    }


def _backtest(backtest: Backtest, lang: Language) -> dict[str, Any]:
    """The tables of all series and, if a method was left out, of the sample."""
    first, last = backtest.actuals.ds[0], backtest.actuals.ds[-1]
    test = backtest.methods[CHOSEN].test
    rows = method_rows(backtest.methods, backtest, lang)
    return {
        "rows": rows,
        "part": any(row["part"] for row in rows),
        "sample": method_rows(backtest.sample, backtest, lang),
        "sample_series": max((lang.number(one.test["series"]) for one in backtest.sample.values()), default=""),
        "verdict": verdict(backtest, lang),
        "worth": worth(backtest, lang),
        "outcome": backtest.test_gain.outcome,
        "coverage": words.coverage_sentence(backtest, lang),
        "validation": lang.span(backtest.origins.rolling[0], first - np.timedelta64(1, "D")),
        "test": lang.span(first, last),
        "series": lang.number(test["series"]),
        "dropped": test["dropped"],
        "new": backtest.new_series,
    }


def _privacy(data: ReportData, lang: Language) -> dict[str, Any]:
    assert data.privacy is not None
    privacy = data.privacy
    facts = [
        (lang.gettext("Rounds"), lang.number(privacy.rounds)),
        (lang.gettext("Sent in all"), lang.bytes(privacy.bytes_sent)),
    ]
    if privacy.epsilon is not None:
        spent = f"{privacy.epsilon:.3g}"
        if privacy.cap is not None:
            spent = lang.gettext("%(spent)s of %(cap)s allowed", spent=spent, cap=f"{privacy.cap:g}")
        unit = lang.gettext(words.UNITS[privacy.unit]) if privacy.unit in words.UNITS else privacy.unit
        facts = [
            (lang.gettext("Spent, ε"), spent),
            (lang.gettext("Failure probability, δ"), words.small(privacy.delta)),
            (lang.gettext("What is protected"), unit),
            *facts,
        ]
    return {"sentence": words.privacy_sentence(privacy, lang), "facts": facts}
