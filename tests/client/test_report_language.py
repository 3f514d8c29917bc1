"""A planner reads the report in her own language, and no sentence of it is left in another."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po

import trend_client.report
from trend_client.backtest import METHOD_NAMES
from trend_client.gate import Gain
from trend_client.report import ReportData, render_report
from trend_client.report.language import LANGUAGES, Language, default_language, language
from trend_client.trial import Trial
from trend_common.errors import UsageError
from trend_common.panel import Finding
from trend_common.panel.findings import CATALOGUE

FOLDER = Path(trend_client.report.__file__).parent
HOLES = re.compile(r"%\((\w+)\)s")
OTHERS = [code for code in LANGUAGES if code != "en"]

Message = str | tuple[str, ...]


def used() -> set[Message]:
    """Every message of the code, the template and the names of methods."""
    found: set[Message] = set(METHOD_NAMES.values())
    options = {"trimmed": "true", "newstyle_gettext": "true", "extensions": "jinja2.ext.i18n"}
    for _file, _line, message, _comments, _context in extract_from_dir(
        FOLDER,
        method_map=[("**.py", "python"), ("**.html", "jinja2")],
        options_map={"**.html": options},
        keywords={"gettext": None, "ngettext": (1, 2), "N_": None, "_": None},
    ):
        found.add(message if isinstance(message, str) else tuple(message))
    return found


def catalogue(code: str) -> Catalog:
    with (FOLDER / f"{code}.po").open("rb") as stream:
        return read_po(stream, locale=code, abort_invalid=True)


def entries(code: str) -> Iterator[tuple[str | None, Message, tuple[str, ...]]]:
    """(context, message, its forms in the language)"""
    for one in catalogue(code):
        name: Message = one.id if isinstance(one.id, str) else tuple(one.id)
        if name:
            yield one.context, name, (one.string,) if isinstance(one.string, str) else tuple(one.string)


@pytest.mark.parametrize("code", OTHERS)
def test_every_message_has_its_translation_and_none_is_stale(code: str) -> None:
    wanted = used()
    assert len(wanted) > 150, "the extraction finds the messages"
    translated = {message for context, message, forms in entries(code) if context is None and all(forms)}
    assert sorted(map(str, wanted - translated)) == []
    assert sorted(map(str, translated - wanted)) == []


@pytest.mark.parametrize("code", OTHERS)
def test_every_finding_has_its_sentence_and_what_was_done(code: str) -> None:
    for context in ("finding", "done"):
        known = {message for where, message, forms in entries(code) if where == context and all(forms)}
        assert set(CATALOGUE) - known == set()
        assert known - set(CATALOGUE) == set()


@pytest.mark.parametrize("code", OTHERS)
def test_translations_have_the_places_of_their_messages(code: str) -> None:
    for context, message, forms in entries(code):
        if context is not None:
            assert all(set(HOLES.findall(form)) <= {"count"} for form in forms), message
            continue
        sources = (message,) if isinstance(message, str) else message
        places = {place for source in sources for place in HOLES.findall(source)}
        for form in forms:
            # A plural may say "the only one" in one language and a number in the other.
            assert set(HOLES.findall(form)) == places, message
            if places or "%%" in sources[0]:
                assert form % dict.fromkeys(places, "x"), message


SENTENCE = re.compile(r"[A-Za-z][a-z']+(?:[ ,]+[A-Za-z][a-z']+){2,}")


class Text(HTMLParser):
    """All that is read or heard: text, labels, and what stands for charts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._style = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._style = tag == "style"
        self.parts += [value or "" for name, value in attrs if name in ("aria-label", "data-label", "title", "alt")]

    def handle_endtag(self, tag: str) -> None:
        self._style = False

    def handle_data(self, data: str) -> None:
        if not self._style:
            self.parts.append(data)


def everything(make_panel: Any, make_report: Any, make_complete: Any) -> list[ReportData]:
    """Reports that between them say all there is to say, about products with Chinese names."""
    panel = make_panel("黑麦面包", "港口店", "烘焙")
    findings = tuple(Finding(code, kind, 3, f"'列' {code}.", done) for code, (kind, done) in CATALOGUE.items())
    full = replace(make_complete(make_report(replace(panel, findings=findings))), language="zh")
    tested, privacy = full.backtest, full.privacy
    assert tested is not None
    assert privacy is not None
    trial = Trial("auto-ets", 12, 40, Gain("seasonal-naive", -0.2, -0.3, -0.1, 12), 0.0, False)
    chosen = tested.methods["chosen"]
    learned = {
        **tested.methods,
        "shared": replace(chosen, test={**chosen.test, "sql": chosen.test["sql"] * 0.9}),
        "personal": replace(chosen, test={**chosen.test, "sql": chosen.test["sql"] * 0.8}),
    }
    reports = [full, replace(full, backtest=None, privacy=None, sent=())]
    for relative, low, high, coverage in ((0.1, 0.05, 0.2, 0.6), (-0.1, -0.2, -0.05, 0.95), (0.0, -0.1, 0.1, 0.8)):
        methods = {**learned, "chosen": replace(chosen, test={**chosen.test, "coverage80": coverage})}
        gain = Gain("seasonal-naive", relative, low, high, 9)
        choice = replace(tested.choice, methods=dict.fromkeys(tested.choice.methods, "shared"), default="shared")
        changed = replace(tested, methods=methods, test_gain=gain, choice=choice, trials=(trial,))
        reports.append(replace(full, backtest=replace(changed, sample=learned)))
    for changed_privacy in (
        replace(privacy, epsilon=None),
        replace(privacy, guess=0.86, cap=8.0),
        replace(privacy, problem="line 3 was changed"),
        replace(privacy, rounds=0),
    ):
        reports.append(replace(full, privacy=changed_privacy))
    return reports


def test_no_english_sentence_is_left_in_the_chinese_report(
    make_panel: Any, make_report: Any, make_complete: Any
) -> None:
    for data in everything(make_panel, make_report, make_complete):
        html = render_report(data)
        assert '<html lang="zh-Hans">' in html
        text = Text(html)
        left = [found for part in text.parts for found in SENTENCE.findall(part)]
        assert left == []
        assert not [part for part in text.parts if HOLES.search(part)], "every place is filled in"
        assert "黑麦面包" in "".join(text.parts)


def test_the_same_report_in_english_has_no_chinese(make_panel: Any, make_report: Any) -> None:
    html = render_report(make_report(make_panel()))
    assert not re.search("[\u4e00-\u9fff]", html)


@pytest.mark.parametrize(
    ("code", "day", "number", "share", "span"),
    [
        ("en", "3 Aug 2015", "12,345.6", "12\u00a0%", "3 Aug 2015 to 9 Aug 2015"),
        ("zh", "2015年8月3日", "12,345.6", "12%", "2015年8月3日至2015年8月9日"),
    ],
)
def test_dates_and_numbers_are_written_as_people_do(code: str, day: str, number: str, share: str, span: str) -> None:
    lang = language(code)
    assert lang.date(date(2015, 8, 3)) == day
    assert lang.number(12345.6, 1) == number
    assert lang.percent(0.12) == share
    assert lang.span(date(2015, 8, 3), date(2015, 8, 9)) == span


def test_shares_have_a_sign_where_they_are_changes() -> None:
    lang = language("zh")
    assert lang.percent(0.034, signed=True) == "+3.4%"
    assert lang.percent(-0.34, signed=True) == "−34%"
    assert lang.percent(0.0001, signed=True) == "0.0%"
    assert lang.percent(float("nan")) == "–"


@pytest.mark.parametrize(
    ("value", "code"),
    [("zh_CN.UTF-8", "zh"), ("zh_TW.UTF-8", "zh"), ("en_GB.UTF-8", "en"), ("C", "en"), ("de_DE.UTF-8", "en")],
)
def test_the_language_is_the_machines_own(monkeypatch: pytest.MonkeyPatch, value: str, code: str) -> None:
    monkeypatch.delenv("LC_ALL", raising=False)
    monkeypatch.delenv("LC_MESSAGES", raising=False)
    monkeypatch.setenv("LANG", value)
    assert default_language() == code
    assert language(None).code == code


def test_a_language_that_there_is_not() -> None:
    with pytest.raises(UsageError, match="'fr'") as caught:
        language("fr")
    assert "zh" in str(caught.value.hint)


def test_a_message_without_a_translation_is_shown_in_english() -> None:
    assert Language("zh").gettext("Nobody wrote %(this)s.", this="that") == "Nobody wrote that."


def test_charts_name_their_months_in_the_language(make_panel: Any, make_report: Any) -> None:
    data = make_report(make_panel())
    assert re.search(r"<text[^>]*>Jun</text>", render_report(data))
    chinese = render_report(replace(data, language="zh"))
    assert re.search(r"<text[^>]*>6月</text>", chinese)
    assert not re.search(r"<text[^>]*>\d{4}</text>", chinese)
