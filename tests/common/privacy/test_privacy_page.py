"""docs/privacy.md makes only claims that have a test, and its figures are those of the code."""

from __future__ import annotations

import ast
import math
import re
from pathlib import Path

import pytest

from trend_common.privacy.accounting import Run, best_guess, compose, group_run, noise_multiplier_for

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "privacy.md").read_text("utf-8")
REFERENCES = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))


def test_the_page_names_tests() -> None:
    assert len(REFERENCES) > 30


@pytest.mark.parametrize(("file", "name"), REFERENCES)
def test_a_named_test_exists(file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_figures_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| (\d+) \| ([\d.]+) \| ([\d.]+) % \|$", PAGE, flags=re.MULTILINE)
    assert [row[0] for row in rows] == ["1", "2", "4", "8"]
    for epsilon, multiplier, guess in rows:
        sigma = noise_multiplier_for(epsilon=float(epsilon), delta=1e-5, q=1.0, steps=20)
        assert float(multiplier) == sigma
        assert float(guess) == math.ceil(best_guess([Run(sigma=sigma, q=1.0, steps=20)]) * 1000) / 10, "rounded up"


def test_every_pitfall_has_a_severity_and_a_test() -> None:
    table = PAGE[PAGE.index("## Pitfalls") :]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in re.findall(r"(?m)^\| .*\|$", table)]
    header, _, *pitfalls = rows
    assert header[:2] == ["pitfall", "severity"]
    assert len(pitfalls) >= 30
    for row in pitfalls:
        assert len(row) == 4, row
        assert row[1] in ("fatal", "high", "medium", "low"), row
        assert re.search(r"`tests/[\w/]+\.py::\w+`", row[3]), row


def test_the_figures_of_other_secrets_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| [^|]+ \| (\d+) \| ([\d.]+) \| ([\d.]+) % \|$", PAGE, flags=re.MULTILINE)
    assert [row[0] for row in rows] == ["1", "2", "3", "7"]
    for size, epsilon, guess in rows:
        run = group_run(Run(sigma=4.836, q=1.0, steps=20), whole=int(size))
        assert float(epsilon) == round(compose([run], 1e-5), 2)
        assert float(guess) == min(100.0, math.ceil(best_guess([run]) * 1000) / 10), "rounded up"


def test_every_module_is_counted() -> None:
    modules = list((ROOT / "common" / "trend_common" / "privacy").glob("[a-z]*.py"))
    assert len(modules) == 13, "the page says how many there are to read"
