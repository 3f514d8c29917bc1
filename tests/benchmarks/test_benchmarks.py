"""The benchmarks run, on a tiny backbone, and report what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trend_simulations.retailers import write_retailers

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def run(name: str, *arguments: str) -> str:
    """Run a script and return what it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("TREND_DATA", None)
    command = [sys.executable, "-W", "ignore", str(FOLDER / f"{name}.py"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def result(path: Path) -> dict[str, Any]:
    """The JSON that a script wrote."""
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    assert found["schema"] == 1
    return found


@pytest.mark.slow
def test_the_private_step_is_compared_with_the_plain_one(tiny_backbone: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    run("dp_step", "--backbone", str(tiny_backbone), "--series", "6", "--repeats", "2", "--json", str(target))
    found = result(target)
    assert found["plain_ms"] > 0
    assert found["ratio"] > 0.5
    assert found["memory_mb"]["private"] > 100


@pytest.mark.slow
def test_the_overhead_of_a_simulation_is_measured(tiny_backbone: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    arguments = ["--retailers", "2", "--rounds", "2", "--repeats", "1", "--json", str(target)]
    run("simulation_overhead", "--backbone", str(tiny_backbone), *arguments)
    found = result(target)
    assert found["federation_s"] > found["bare_s"] > 0
    assert found["norm"] > 1


def test_zero_shot_scores_the_backbone_and_the_baselines(tiny_backbone: Path, tmp_path: Path) -> None:
    write_retailers(tmp_path / "data", 1, series=(4, 4), days=200)
    target, table = tmp_path / "out.json", tmp_path / "out.md"
    arguments = ["--data", str(tmp_path / "data"), "--no-statistical", "--windows", "2", "--json", str(target)]
    run("zero_shot", "--backbone", str(tiny_backbone), *arguments, "--markdown", str(table))
    found = result(target)
    assert [one["model"] for one in found["results"]] == ["seasonal-naive", "same-phase-mean", str(tiny_backbone)]
    for one in found["results"]:
        assert one["windows"] == 2
        assert 0 < one["series"] <= 4
        assert {"wape", "mase", "rmse", "sql", "wql", "coverage80", "coverage90", "seconds"} <= set(one)
    assert table.read_text("utf-8").count("grocer-1") == 3


def test_without_data_zero_shot_says_so() -> None:
    assert "Nothing was measured" in run("zero_shot")
