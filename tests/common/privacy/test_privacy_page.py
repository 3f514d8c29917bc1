"""docs/privacy.md makes only claims that have a test, and its figures are those of the code."""

from __future__ import annotations

import ast
import math
import re
from pathlib import Path

import pytest

from trend_common.privacy.accounting import (
    Run,
    best_guess,
    compose,
    gaussian_epsilon,
    group_run,
    noise_multiplier_for,
)

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "privacy.md").read_text("utf-8")
BROKEN = (ROOT / "docs" / "mutations.md").read_text("utf-8")
REFERENCES = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE + BROKEN)))


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


def test_the_figures_at_other_deltas_are_those_of_the_code() -> None:
    mu = math.sqrt(20) / 4.836
    said = re.search(r"ε = ([\d.]+) at δ = 10⁻⁶, ([\d.]+) at 10⁻⁸ and ([\d.]+) at 10⁻¹⁰", PAGE)
    assert said is not None
    assert [float(one) for one in said.groups()] == [round(gaussian_epsilon(mu, d), 2) for d in (1e-6, 1e-8, 1e-10)]


def test_the_figures_of_shared_noise_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (\d+) \| ([\d.]+) \| ([\d.]+) \|$", PAGE, flags=re.MULTILINE)
    assert len(rows) == 4
    for clients, needed, colluders, gain, epsilon in rows:
        honest = int(needed) - int(colluders)
        assert int(needed) == math.floor(int(clients) * 0.667) + 1
        assert float(gain) == round(math.sqrt(honest), 2)
        assert float(epsilon) == round(gaussian_epsilon(math.sqrt(20 * honest) / 4.836, 1e-5), 2)


def test_every_broken_protection_has_its_test() -> None:
    rows = re.findall(r"^\| ([^|]+) \| `tests/[^|]+` ?(?:\(written for it\) )?\|$", BROKEN, flags=re.MULTILINE)
    said = re.search(r"^(\d+) were tried", BROKEN, flags=re.MULTILINE)
    assert said is not None
    assert len(rows) == int(said[1])


def test_every_module_is_counted() -> None:
    modules = list((ROOT / "common" / "trend_common" / "privacy").glob("[a-z]*.py"))
    assert len(modules) == 13, "the page says how many there are to read"
