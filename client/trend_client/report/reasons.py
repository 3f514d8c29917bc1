"""Why: what a forecast is made of, recent days that went otherwise, and which way products are heading."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trend_client.report.language import N_

if TYPE_CHECKING:
    import pandas as pd

    from trend_client.asides import Asides
    from trend_client.backtest import Backtest
    from trend_client.report.language import Language
    from trend_client.why.contributions import Contributions

__all__ = ["anomalies", "aside_sentences", "heading", "parts_of", "trend_sentence"]

GROUPS: Final = {
    "base": N_("usual level"),
    "history": N_("recent course"),
    "season": N_("season"),
    "price": N_("price"),
    "promotion": N_("promotion"),
    "holiday": N_("holiday"),
    "text": N_("description"),
}
"""Part of a forecast → its name."""

ANOMALIES_SHOWN: Final = 8
_FEW: Final = 0.005
"""Parts below this share of the forecast are not shown."""

Names = Callable[[str], dict[str, str]]


def parts_of(series: str, found: Contributions | None, lang: Language) -> list[dict[str, str]]:
    """The parts of one series' forecast, the usual level first, then the largest; [] where none were computed."""
    if found is None or series not in found.ids:
        return []
    total = found.total(found.ids.index(series))
    whole = total.pop("forecast")
    base = total.pop("base")
    usual = GROUPS["base"]
    rows = [{"name": lang.gettext(usual), "value": lang.amount(round(base, 1)), "tone": ""}]
    for name, value in sorted(total.items(), key=lambda item: -abs(item[1])):
        if abs(value) >= _FEW * abs(whole) and round(value, 1):
            text = ("+" if value > 0 else "") + lang.amount(round(value, 1))
            rows.append({"name": lang.gettext(GROUPS[name]), "value": text, "tone": "up" if value > 0 else "down"})
    return rows


def anomalies(backtest: Backtest | None, names: Names, lang: Language) -> dict[str, Any] | None:
    """The days of the test window furthest outside the interval of the forecast that was made before it."""
    from trend_client.why.anomalies import COVERAGE, outside

    if backtest is None:
        return None
    y = backtest.actuals.y
    looked = int(np.isfinite(y).sum())
    table = outside(backtest.forecast.select(backtest.actuals.ids), y)
    if not looked or not len(table):
        return None
    rows = []
    for row in table.head(ANOMALIES_SHOWN).to_dict("records"):
        rows.append(
            {
                **names(str(row["unique_id"])),
                "date": lang.date(row["ds"]),
                "sold": lang.amount(float(row["y"])),
                "expected": lang.amount(round(float(row["expected"]), 1)),
                "interval": lang.gettext(
                    "%(low)s to %(high)s",
                    low=lang.amount(round(float(row["low"]), 1)),
                    high=lang.amount(round(float(row["high"]), 1)),
                ),
            }
        )
    return {
        "sentence": lang.gettext(
            "%(count)s of %(all)s values of the test window (%(share)s) lie outside the %(coverage)s interval of the "
            "forecast that was made before; chance alone would leave about %(chance)s. The furthest:",
            count=lang.number(len(table)),
            all=lang.number(looked),
            share=lang.percent(len(table) / looked),
            coverage=lang.percent(COVERAGE),
            chance=lang.percent(1 - COVERAGE, digits=0),
        ),
        "rows": rows,
    }


def trend_sentence(trends: pd.DataFrame | None, lang: Language) -> str:
    """How many series are heading which way; "" where there is no table of trends."""
    if trends is None:
        return ""
    counts = trends["trend"].value_counts()
    classed = int(sum(counts.get(name, 0) for name in ("up", "flat", "down")))
    if not classed:
        return ""
    return lang.gettext(
        "Of %(all)s series with a trend, %(up)s are heading up, %(flat)s stay level and %(down)s are heading down "
        "(by more than 10 %%).",
        all=lang.number(classed),
        up=lang.number(int(counts.get("up", 0))),
        flat=lang.number(int(counts.get("flat", 0))),
        down=lang.number(int(counts.get("down", 0))),
    )


def aside_sentences(found: Asides | None, lang: Language) -> list[str]:
    """Whether forecast prices and trend classes have earned trust in past windows; [] where nothing is known."""
    told = []
    if found is not None and found.prices is not None:
        prices = found.prices
        values = {
            "own": lang.number(prices.sql, 3),
            "last": lang.number(prices.last_sql, 3),
            "windows": lang.number(prices.windows),
        }
        if prices.trusted:
            told.append(
                lang.gettext(
                    "Prices: in %(windows)s past windows the forecasts of prices had a lower error than the last "
                    "known price (SQL %(own)s against %(last)s).",
                    **values,
                )
            )
        else:
            told.append(
                lang.gettext(
                    "Do not rely on the forecasts of prices: in %(windows)s past windows their error was not clearly "
                    "below that of simply keeping the last known price (SQL %(own)s against %(last)s).",
                    **values,
                )
            )
    if found is not None and found.trends is not None:
        trends = found.trends
        values = {
            "own": lang.number(trends.f1, 2),
            "old": lang.number(trends.old_f1, 2),
            "area": lang.number(trends.auroc, 2),
            "old_area": lang.number(trends.old_auroc, 2),
        }
        if trends.trusted:
            told.append(
                lang.gettext(
                    "Trends: on the test window the classes were right more often than those of the recent average "
                    "(macro F1 %(own)s against %(old)s, AUROC %(area)s against %(old_area)s).",
                    **values,
                )
            )
        else:
            told.append(
                lang.gettext(
                    "Do not rely on who is said to head up or down: on the test window these classes were right no "
                    "more often than those of the recent average (macro F1 %(own)s against %(old)s, AUROC %(area)s "
                    "against %(old_area)s).",
                    **values,
                )
            )
    return told


def heading(series: str, trends: pd.DataFrame | None, lang: Language) -> str:
    """The probabilities of one series' trend class; "" where they are not known."""
    if trends is None:
        return ""
    row = trends.loc[trends["unique_id"] == series]
    if not len(row) or not row["trend"].iloc[0]:
        return ""
    return lang.gettext(
        "trend: up %(up)s, level %(flat)s, down %(down)s",
        **{name: lang.percent(float(row[name].iloc[0]), digits=0) for name in ("up", "flat", "down")},
    )
