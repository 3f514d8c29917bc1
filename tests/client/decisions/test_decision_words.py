"""The commands that decide speak the planner's language, and so do the reasons that they leave for the report."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from babel.messages.extract import extract, extract_from_dir
from babel.messages.pofile import read_po
from typer.testing import CliRunner

import trend_client
from trend_client.backtest import METHOD_NAMES
from trend_client.commands import newproducts, season
from trend_client.decisions.reasons import Fact, facts_of, worded
from trend_client.decisions.words import say, speaking, spoken
from trend_client.report.actions import ACTIONS, recommendations
from trend_client.report.language import language
from trend_client.why.contributions import GROUPS
from trend_common.errors import UsageError

ROOT = Path(trend_client.__file__).parent
HOLES = re.compile(r"%\((\w+)\)s")
SENTENCE = re.compile(r"[A-Za-z][a-z']+(?:[ ,]+[A-Za-z][a-z']+){2,}")
KEYWORDS = {"say": None, "N_": None}


def used() -> set[str]:
    """Every message of the decisions and their commands, and the words that are looked up by their own name."""
    found = {*newproducts._WHY.values(), *season._BY.values(), *GROUPS, *ACTIONS.values(), *METHOD_NAMES.values()}
    for folder in ("decisions", "why", "commands"):
        for _, _, message, _, _ in extract_from_dir(
            ROOT / folder, method_map=[("**.py", "python")], keywords=KEYWORDS
        ):
            found.add(str(message))
    with (ROOT / "planned.py").open("rb") as stream:
        found |= {str(message) for _, message, _, _ in extract("python", stream, keywords=KEYWORDS)}
    return found


def catalogue(package: str) -> dict[str, str]:
    with (ROOT / package / "zh.po").open("rb") as stream:
        return {
            one.id if isinstance(one.id, str) else one.id[0]: str(one.string)
            for one in read_po(stream, locale="zh", abort_invalid=True)
            if one.id and one.context is None and one.string
        }


def test_every_message_is_translated_once_and_none_is_stale() -> None:
    wanted, own, reports = used(), catalogue("decisions"), catalogue("report")
    assert len(wanted) > 100, "the extraction finds the messages"
    assert sorted(wanted - {*own, *reports}) == []
    assert sorted(own.keys() - wanted) == []
    assert sorted(own.keys() & reports.keys()) == []


def test_translations_have_the_places_of_their_messages() -> None:
    for message, translated in catalogue("decisions").items():
        assert set(HOLES.findall(message)) == set(HOLES.findall(translated)), message
        if HOLES.search(message):
            assert translated % dict.fromkeys(HOLES.findall(message), "x"), message


def test_english_is_spoken_unless_somebody_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert say("never sold") == "never sold"
    with speaking(None):
        assert spoken().code == "zh"
        assert say("never sold") == "从未售出"
    with pytest.raises(ZeroDivisionError), speaking("zh"):
        raise ZeroDivisionError
    assert spoken().code == "en"
    with pytest.raises(UsageError, match="no report in the language 'xx'"), speaking("xx"):
        pass


FACTS = (
    Fact("restock", without=0.914, then=0.43, order=3960.0),
    Fact("cut", new=1.28, old=1.6, more=-3.2),
    Fact("last sold", day="2011-12-03"),
)


def test_facts_are_worded_in_both_languages_and_survive_json() -> None:
    english, chinese = (worded(FACTS, language(code)) for code in ("en", "zh"))
    assert english == (
        "91\u00a0% risk before the next delivery, 43\u00a0% with an order of 3,960; at 1.28 instead of 1.6 −3 units; "
        "last sold on 3 Dec 2011"
    )
    assert "91%" in chinese
    assert "3,960" in chinese
    assert "2011年12月3日" in chinese
    assert not SENTENCE.search(chinese)
    again = facts_of(json.loads(json.dumps([one.to_json() for one in FACTS])))
    assert again is not None
    assert worded(again, language("en")) == english


@pytest.mark.parametrize(
    "rows", [None, "x", [1], [{"code": "new"}], [{"code": "cut", "new": 1}], [{"code": "never sold", "x": []}]]
)
def test_facts_that_are_not_known_here_are_left_alone(rows: object) -> None:
    assert facts_of(rows) is None


def test_the_report_words_reasons_in_its_own_language() -> None:
    row = {"action": "drop", "unique_id": "a", "gain": 1.0, "low": 0.0, "high": 2.0, "reason": "an old reason"}
    told = {"gain_in": "units", "language": "en", "advice": [{**row, "facts": [Fact("never sold").to_json()]}, row]}
    texts = {
        code: [one["reason"] for one in (recommendations(told, lambda _: {}, language(code)) or {})["rows"]]
        for code in ("en", "zh")
    }
    assert texts == {"en": ["never sold", "an old reason"], "zh": ["从未售出", ""]}


@pytest.mark.parametrize(
    "command",
    [
        ("orders", "--stock", "stock.csv", "--lead-time", "2"),
        ("recommend", "--stock", "stock.csv", "--horizon", "7", "--margin", "0.4"),
        ("recommend", "--horizon", "7"),
        ("explain", "--product", "产品0", "--horizon", "7"),
        ("whatif", "--product", "产品0", "--promo", "0,1", "--horizon", "7", "--price", "1.5,9"),
        ("newproducts", "--new", "new.csv", "--horizon", "7"),
    ],
)
def test_no_english_sentence_is_left_in_chinese(
    sales: pd.DataFrame,
    tiny_backbone: Path,
    tmp_path: Path,
    command: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from trend_client.cli import app
    from trend_common.console import console

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console, "width", 200)
    numbered = sales["product"].str.replace("p", "产品")
    sales.assign(product=numbered, store="店", description="说明").groupby(
        ["date", "store", "product", "category", "description"]
    ).agg({"units": "sum", "price": "mean", "promo": "max"}).reset_index().to_csv("sales.csv", index=False)
    Path("stock.csv").write_text("product,on_hand,colour\n产品0,5,\n产品1,90000,\n", encoding="utf-8")
    Path("new.csv").write_text("product,description\n新,说明\n", encoding="utf-8")
    days = pd.date_range(sales["date"].max(), periods=4)
    pd.DataFrame({"date": days, "promo": 0}).to_csv("plan.csv", index=False)
    given = ["--home", "h", "--backbone", str(tiny_backbone), "--data", "sales.csv", "--json", "out.json"]
    done = CliRunner().invoke(app, [*command, *given, "--language", "zh", "--future", "plan.csv"])
    assert done.exit_code == 0, done.output
    told = done.output.split("\n", 1)[1]  # the first line is about reading the file
    assert [found for found in SENTENCE.findall(told) if not found.startswith("trend")] == []
    assert "注意：" in told
    body = json.loads(Path("out.json").read_text("utf-8"))
    if command[0] == "recommend":
        assert body["language"] == "zh"
        assert all(re.search("[\u4e00-\u9fff]", one["reason"]) and one["facts"] for one in body["advice"])
