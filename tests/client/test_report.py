"""The report is opened by people who trust it, in a browser that executes what it is given."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from trend_client.backtest import Backtest
from trend_client.gate import Gain
from trend_client.report import Privacy, ReportData, SentMessage, render_report, words, write_report
from trend_client.report.charts import fan_chart
from trend_client.report.language import language

NOW = datetime(2024, 7, 1, 8, 30)
EN = language("en")
EVIL = "<script>alert('x')</script><img src=https://evil.example/p.png onerror=1>\"'&"
VOID = {"meta", "img", "br", "link", "input", "hr"}


@pytest.fixture(scope="module")
def data(make_panel: Any, make_report: Any) -> ReportData:
    return make_report(make_panel())


class Reader(HTMLParser):
    """Collects tags and attributes, and checks that every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))


@pytest.mark.parametrize("code", ["en", "zh"])
def test_nothing_a_product_is_called_becomes_markup(
    make_panel: Any, make_report: Any, make_complete: Any, code: str
) -> None:
    panel = make_panel(EVIL)
    panel = replace(panel, static=panel.static.assign(store=EVIL, category=EVIL, description=EVIL + "!"))
    panel = replace(panel, columns={"units": EVIL})
    full = replace(make_complete(make_report(panel)), language=code)
    sent = [SentMessage(NOW, EVIL, 1, EVIL)]
    privacy = replace(full.privacy or Privacy(None, 0, "", 1, 1), unit=EVIL, statement=EVIL)
    html = render_report(replace(full, sent=sent, privacy=privacy, title=EVIL))
    reader = Reader(html)
    assert {tag for tag, _ in reader.tags}.isdisjoint({"script", "img", "iframe", "object", "link", "base", "form"})
    assert not [name for _, attributes in reader.tags for name in attributes if name.startswith("on")]
    assert reader.text.count("<script>alert(") > 10, "the name itself is still to be read"


def test_it_is_one_file_that_loads_nothing(data: ReportData) -> None:
    html = render_report(data)
    reader = Reader(html)
    for tag, attributes in reader.tags:
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith("#"), f"<{tag} {name}={value}>"
    styles = re.findall(r"<style.*?</style>", html, flags=re.DOTALL)
    assert styles
    assert not [style for style in styles if "@import" in style or re.search(r"url\((?!#)", style)]
    policy = next(a["content"] for tag, a in reader.tags if tag == "meta" and "http-equiv" in a)
    assert policy is not None
    assert "default-src 'none'" in policy
    assert len(html) < 400_000


def test_it_says_that_it_is_private_and_what_was_found(data: ReportData) -> None:
    text = Reader(render_report(data)).text
    assert "This report contains private sales data" in text
    assert "Rye bread: 3 days are missing." in text
    assert "left unknown" in text
    assert "units = Umsatz" in text
    assert "Known values" in text, "the new product has its own list"
    assert "No sales figure has left this machine" in text
    assert "ε = 4" in text
    assert "30 training rounds" in text
    assert "1 in 100,000" in text


def test_each_chart_has_words_for_those_who_cannot_see_it(data: ReportData) -> None:
    figures = [a for tag, a in Reader(render_report(data)).tags if tag == "figure"]
    assert len(figures) == 3
    for attributes in figures:
        assert attributes["role"] == "img"
        assert "the forecast for 7 days from 1 Jul 2024" in (attributes["aria-label"] or "")


def test_the_table_marks_the_lowest_error_and_the_choice(data: ReportData) -> None:
    assert data.backtest is not None
    html = render_report(data)
    table = html[html.index('<table class="methods">') :]
    table = table[: table.index("</table>")]
    assert table.count('<tr class="chosen">') == 1
    assert len(re.findall(r'class="num low', table)) >= 6
    lowest = min(one.test["sql"] for one in data.backtest.methods.values())
    assert re.search(rf'class="num low[^>]*>{lowest:.3f}<', table)


def gained(data: ReportData, relative: float, low: float, high: float) -> ReportData:
    assert data.backtest is not None
    changed: Backtest = replace(data.backtest, test_gain=Gain("seasonal-naive", relative, low, high, 9))
    choice = replace(changed.choice, methods=dict.fromkeys(changed.choice.methods, "shared"), default="shared")
    return replace(data, backtest=replace(changed, choice=choice))


def test_the_summary_does_not_hide_a_loss(data: ReportData) -> None:
    worse = Reader(render_report(gained(data, -0.12, -0.2, -0.05))).text.replace("\u00a0", " ")
    assert "a 12 % HIGHER error" in worse
    assert "+12 %" in worse
    better = Reader(render_report(gained(data, 0.12, 0.05, 0.2))).text.replace("\u00a0", " ")
    assert "a 12 % lower error" in better
    assert "(a difference that may be chance)" not in better
    unclear = Reader(render_report(gained(data, 0.02, -0.05, 0.1))).text
    assert "(a difference that may be chance)" in unclear


def test_a_retailer_on_its_own_has_a_report_too(data: ReportData) -> None:
    text = Reader(render_report(replace(data, backtest=None, privacy=None, sent=()))).text
    assert "Nothing has left this machine" in text
    assert "use them with care" in text


def test_long_lists_are_cut_and_say_so(data: ReportData) -> None:
    html = render_report(data)
    assert len(re.findall(r'class="digest">[0-9a-f]{64}<', html)) == 25
    assert "5 earlier ones are listed by" in html
    assert data.sent[-1].digest in html
    assert data.sent[0].digest not in html


def test_the_same_data_make_the_same_bytes(data: ReportData) -> None:
    assert render_report(data) == render_report(data)


def test_the_file_is_whole_and_its_owners_alone(data: ReportData, tmp_path: Path) -> None:
    path = write_report(tmp_path / "out" / "report.html", data)
    assert path.read_text("utf-8").rstrip().endswith("</html>")
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["report.html"]


def test_a_chart_is_well_formed_and_scales(data: ReportData) -> None:
    history = data.panel.frame[data.panel.frame["unique_id"] == "a"].copy()
    history.loc[history.index[-40:-30], "y"] = np.nan
    root = ElementTree.fromstring(fan_chart(history, data.forecast.select(["a"]), "D"))
    assert root.tag.endswith("svg")
    assert "viewBox" in root.attrib
    assert "width" not in root.attrib
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert "Jun" in texts, "text stays text"


def test_planned_promotions_are_marked_below_the_forecast(data: ReportData) -> None:
    history, ahead = data.panel.frame[data.panel.frame["unique_id"] == "a"], data.forecast.select(["a"])

    def marks(chart: str) -> int:
        return sum(element.tag.endswith("use") for element in ElementTree.fromstring(chart).iter())

    days = pd.to_datetime(ahead.ds[0])
    planned = pd.DataFrame(
        {"ds": [*days, days[-1] + pd.Timedelta(days=1)], "promo": [1, 1, 1, *[0] * (len(days) - 3), 1]}
    )
    before = marks(fan_chart(history, ahead, "D"))
    assert marks(fan_chart(history, ahead, "D", planned=planned)) == before + 3, "not those after the forecast"
    assert marks(fan_chart(history, ahead, "D", planned=planned.iloc[:0])) == before


def test_the_largest_products_are_those_sold_lately(data: ReportData) -> None:
    assert data.largest() == ["b", "a", "new"]
    assert replace(data, top=1).largest() == ["b"]
    assert data.new_series() == ["new"]


@pytest.mark.parametrize(
    ("share", "words_expected"), [(0.8, "about as often"), (0.6, "too narrow"), (0.95, "wider than they need")]
)
def test_coverage_in_words(data: ReportData, share: float, words_expected: str) -> None:
    assert data.backtest is not None
    chosen = data.backtest.methods["chosen"]
    scores = chosen.test.copy()
    scores["coverage80"] = share
    methods = {**data.backtest.methods, "chosen": replace(chosen, test=scores)}
    assert words_expected in words.coverage_sentence(replace(data.backtest, methods=methods), EN)


def test_the_privacy_sentence_promises_only_what_holds() -> None:
    spent = Privacy(1.0, 1e-6, "one product", 1, 900)
    assert words.privacy_sentence(spent, EN).startswith("In 1 training round this client sent 900 bytes")
    assert "at most a factor of 2.7, save with a probability of 1 in 1,000,000" in words.privacy_sentence(spent, EN)
    assert "not protected by differential privacy" in words.privacy_sentence(replace(spent, epsilon=None), EN)
    assert words.privacy_sentence(replace(spent, rounds=0), EN) == "No training update has left this machine."
    assert words.privacy_sentence(replace(spent, statement="By counsel."), EN) == "By counsel."


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234.5, "1,234"), (12.34, "12.3"), (1.234, "1.23"), (3.0, "3"), (float("nan"), "–"), (0.0, "0")],
)
def test_amounts_have_the_digits_they_deserve(value: float, text: str) -> None:
    assert EN.amount(value) == text


def test_importing_the_report_does_not_draw() -> None:
    """A command's --help must not wait for the plotting library."""
    heavy = "('matplotlib', 'torch', 'statsforecast', 'jinja2', 'babel', 'scipy')"
    code = f"import sys, trend_client.report; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_part_without_data_is_absent(data: ReportData, make_complete: Any) -> None:
    bare, full = (render_report(one) for one in (data, make_complete(data)))
    for part in ("orders", "advice", "seasons", "outages", "learned"):
        assert f'id="{part}"' not in bare
        assert f'href="#{part}"' not in bare
        assert f'id="{part}"' in full
    assert 'class="parts"' not in bare
    assert "are heading up" not in bare


def test_the_orders_are_the_urgent_ones_and_no_others(data: ReportData, make_complete: Any) -> None:
    html = render_report(make_complete(data))
    section = html[html.index('<section id="orders"') :]
    text = Reader(section[: section.index("</section>")] + "</section>").text
    assert "2 of 3 products should be ordered today; without that, 69 would be lost" in text
    assert "144" in text
    assert "4 Jul 2024" in text
    assert "97 % → 6 %" in text
    assert "12 + 30 on order" in text
    assert "Rye bread 3" not in text, "nothing is to be ordered of it"


def test_what_is_said_of_unknown_names_is_not_shown(data: ReportData, make_complete: Any) -> None:
    full = make_complete(data)
    strange = [{**full.seasons[0], "name": "a real name"}]
    advice = {"gain_in": "units", "advice": [{**full.recommendations["advice"][0], "unique_id": "a real name"}]}
    orders = full.orders.assign(unique_id="a real name")
    html = render_report(replace(full, orders=orders, seasons=strange, recommendations=advice))
    assert "a real name" not in html
    assert 'id="orders"' not in html
    assert 'id="seasons"' not in html
    assert 'id="advice"' not in html


def test_the_parts_of_a_forecast_and_its_trend(data: ReportData, make_complete: Any) -> None:
    full = make_complete(data)
    html = render_report(full)
    total = full.contributions.total(full.contributions.ids.index("b"))
    assert f"recent course <b>{EN.amount(total['history'])}" in html.replace("+", "")
    assert "Of 2 series with a trend, 1 are heading up, 1 stay level and 0" in html
    assert "trend: up 70\u00a0%, level 20\u00a0%, down 10\u00a0%" in html


def test_unusual_days_are_those_outside_the_interval(data: ReportData, make_complete: Any) -> None:
    full = make_complete(data)
    assert full.backtest is not None
    html = render_report(full)
    section = html[html.index('<section id="anomalies"') :]
    text = Reader(section[: section.index("</section>")] + "</section>").text
    assert EN.date(full.backtest.actuals.ds[3]) in text
    assert EN.amount(float(full.backtest.actuals.y[0, 3])) in text


def test_seasons_and_empty_shelves(data: ReportData, make_complete: Any) -> None:
    full = make_complete(data)
    text = Reader(render_report(full)).text
    assert "9 Sep 2024 (2 Sep 2024 to 16 Sep 2024)" in text
    assert "500 (400 to 610)" in text
    assert "In the last year 1 run of days without stock may have cost 230" in text
    assert "2 May 2024 to 6 May 2024" in text
    assert "2 May 2022" not in text, "long ago"
    quiet = replace(full, seasons=[{**full.seasons[0], "seasonal": False}])
    assert 'id="seasons"' not in render_report(quiet), "sold all year"


def test_advice_has_its_gain_and_its_reason(data: ReportData, make_complete: Any) -> None:
    text = Reader(render_report(make_complete(data))).text
    assert "The largest predicted gains in money first" in text
    assert "promote" in text
    assert "30 to 260" in text
    assert "it sold 2.4 times the usual" in text


def test_a_model_that_was_not_in_all_windows_is_not_marked_the_best_there(data: ReportData) -> None:
    assert data.backtest is not None
    name = next(iter(data.backtest.methods))
    best = data.backtest.methods[name]
    best = replace(best, validation={**best.validation, "sql": 0.001, "wape": 0.001, "mase": 0.001})
    origins = replace(data.backtest.origins, rolling=(data.backtest.origins.rolling[0],) * 3)
    tested = replace(data.backtest, methods={**data.backtest.methods, name: best}, origins=origins, scored_on={})
    assert '<td class="num low">0.001</td>' in render_report(replace(data, backtest=tested))
    part = render_report(replace(data, backtest=replace(tested, scored_on={name: 1})))
    assert "in 1 of 3 windows" in part
    assert '<td class="num">0.001</td>' in part
    assert '<td class="num low">0.001</td>' not in part
