"""The walls of the house: who may import whom, and how long a module may grow."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "trend_common": (ROOT / "common" / "trend_common", set[str]()),
    "trend_client": (ROOT / "client" / "trend_client", {"trend_common"}),
    "trend_server": (ROOT / "server" / "trend_server", {"trend_common"}),
    "trend_simulations": (
        ROOT / "simulations" / "trend_simulations",
        {"trend_common", "trend_client", "trend_server"},
    ),
}
LONGEST_MODULE = 600


def imported_packages(source: str) -> set[str]:
    """The top-level names that ``source`` imports anywhere, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_it_may(package: str) -> None:
    folder, allowed = PACKAGES[package]
    modules = sorted(folder.rglob("*.py"))
    assert modules, f"{folder} has no modules: the wall would stand around nothing"
    for module in modules:
        ours = {name for name in imported_packages(module.read_text("utf-8")) if name in PACKAGES}
        crossed = ours - allowed - {package}
        assert not crossed, f"{module.relative_to(ROOT)} imports {sorted(crossed)}"


def test_the_wall_sees_an_import_inside_a_function() -> None:
    assert imported_packages("def f():\n    from trend_client.app import x\n") == {"trend_client"}


def test_only_the_flower_room_touches_flower_internals() -> None:
    """Public Flower is ``flwr.app``, ``flwr.clientapp``, ``flwr.serverapp``; all else may move in any release."""
    public = ("flwr.app", "flwr.clientapp", "flwr.serverapp")
    for folder, _ in PACKAGES.values():
        for module in folder.rglob("*.py"):
            if module.parent.name == "flower":
                continue
            for node in ast.walk(ast.parse(module.read_text("utf-8"))):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                for name in names:
                    if name.split(".")[0] == "flwr":
                        assert name.startswith(public), f"{module.relative_to(ROOT)} imports {name}"


def test_no_module_is_longer_than_a_reader_can_hold() -> None:
    for module in ROOT.glob("*/**/*.py"):
        if any(part.startswith(".") for part in module.relative_to(ROOT).parts):
            continue
        lines = len(module.read_text("utf-8").splitlines())
        assert lines <= LONGEST_MODULE, f"{module.relative_to(ROOT)} has {lines} lines"
