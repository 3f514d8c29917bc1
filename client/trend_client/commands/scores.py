"""What ``backtest`` and the end of a run print: methods, verdict, and what is forecast beside sales.

The verdict is worded as in the report (:mod:`trend_client.report.verdict`), in the language that is spoken.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from trend_client.decisions.words import say, spoken
from trend_common.console import console

if TYPE_CHECKING:
    from trend_client.asides import Asides
    from trend_client.backtest import Backtest, MethodResult

__all__ = ["show_asides", "show_backtest"]


def show_backtest(result: Backtest) -> None:
    """The table of methods on the test window, and the verdict; methods of the sample in a table of their own."""
    from trend_client.report.verdict import verdict, worth

    lang = spoken()
    title = say("Backtest: the last %(n)s steps, which the choice never saw", n=result.horizon)
    console.print(_scores(title, result.methods, ()))
    if result.sample:
        series = max(one.test["series"] for one in result.sample.values())
        title = say(
            "On a sample of %(n)s series alone: not to be compared with the table above", n=lang.number(series)
        )
        console.print(_scores(title, result.sample, result.left_out))
    console.print(escape(lang.sentences(verdict(result, lang))))
    for line in (*_remarks(result), *worth(result, lang)):
        console.print(escape(line))


def _remarks(result: Backtest) -> list[str]:
    """Windows and spread in a sentence each."""
    from trend_client.gate import CHOSEN
    from trend_client.report.verdict import called

    lang = spoken()
    lines = []
    count = len(result.origins.rolling)
    fewer = [called(name, lang) for name, number in result.scored_on.items() if number < count]
    if count > 1 and fewer:
        lines.append(
            say(
                "Weights are from %(n)s validation windows; %(methods)s: only from those after its training or "
                "trial.",
                n=count,
                methods=lang.listed(fewer),
            )
        )
    elif count > 1:
        lines.append(say("Weights are from %(n)s validation windows.", n=count))
    if result.uncalibrated is not None:
        before, after = result.uncalibrated, result.methods[CHOSEN].test
        lines.append(
            say(
                "Intervals were set right on validation: on the test window those of 80 %% covered %(before80)s "
                "before and %(after80)s after, those of 90 %% %(before90)s and %(after90)s.",
                before80=lang.percent(before["coverage80"], digits=0),
                after80=lang.percent(after["coverage80"], digits=0),
                before90=lang.percent(before["coverage90"], digits=0),
                after90=lang.percent(after["coverage90"], digits=0),
            )
        )
    return lines


def _scores(title: str, methods: Mapping[str, MethodResult], left_out: Collection[str]) -> Table:
    from trend_client.report.verdict import called

    lang = spoken()
    table = Table(title=title)
    table.add_column(say("Method"))
    for name in ("WAPE", "MASE", "SQL", say("80 % interval covers")):
        table.add_column(name, justify="right")
    best = min(methods, key=lambda name: methods[name].test["sql"])
    for name, row in methods.items():
        test = row.test
        label = called(name, lang) + (f" ({say('not run on all')})" if name in left_out else "")
        cells = [label, *(lang.number(test[key], 3) for key in ("wape", "mase", "sql"))]
        cells.append(lang.percent(test["coverage80"], digits=0))
        table.add_row(*cells, style="bold green" if name == best else "")
    return table


def show_asides(found: Asides) -> None:
    """A table of what is forecast beside sales, and whether to believe it."""
    from trend_client.report.reasons import aside_sentences

    if found.prices is None and found.trends is None:
        return
    lang = spoken()
    table = Table(title=say("Beside sales, in past windows"))
    for name in (say("what"), say("measure")):
        table.add_column(name)
    for name in (say("ours"), say("reference")):
        table.add_column(name, justify="right")
    table.add_column(say("better if"))
    rows: list[tuple[str, str, float, float, str, str]] = []
    if found.prices is not None:
        prices = found.prices
        rows.append((say("Prices"), "SQL", prices.sql, prices.last_sql, say("last price"), say("lower")))
        rows.append(("", "WQL", prices.wql, prices.last_wql, "", say("lower")))
    if found.trends is not None:
        trends = found.trends
        rows.append((say("Trend class"), "macro F1", trends.f1, trends.old_f1, say("Recent average"), say("higher")))
        rows.append(("", "AUROC", trends.auroc, trends.old_auroc, "", say("higher")))
    for what, measure, own, other, whose, better in rows:
        reference = lang.number(other, 3) + (f" ({whose})" if whose else "")
        table.add_row(what, measure, lang.number(own, 3), reference, better)
    console.print(table)
    for sentence in aside_sentences(found, lang):
        console.print(escape(sentence), soft_wrap=True)
