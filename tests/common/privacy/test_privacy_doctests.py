"""The figures in the modules' own documentation are true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import trend_common.privacy as package

MODULES = [f"{package.__name__}.{module.name}" for module in pkgutil.iter_modules(package.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_documentation_of(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name), raise_on_error=False)
    assert results.failed == 0


def test_there_are_figures_to_check() -> None:
    examples = [
        example
        for name in ("accounting", "noise", "plan", "sampling")
        for test in doctest.DocTestFinder().find(importlib.import_module(f"{package.__name__}.{name}"))
        for example in test.examples
    ]
    assert len(examples) > 10
