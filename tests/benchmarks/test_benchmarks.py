"""The benchmarks run, on a tiny backbone, and report what they say."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
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
    size = ["--series", "6", "--windows", "1", "2", "--repeats", "2"]
    run("dp_step", "--backbone", str(tiny_backbone), *size, "--json", str(target))
    found = result(target)
    assert found["largest_relative_gradient_error"] < 1e-4
    assert found["memory_mb"]["private"] > 100
    for row in found["rows"]:
        assert set(row["over_plain"]) == {"private", "hooks", "ew", "functorch", "ghost"}
        assert row["failed"] == {}
        assert row["over_plain"]["private"] > 0.3
    assert found["dp_step_over_plain_step"] == found["rows"][1]["over_plain"]["private"]


@pytest.mark.slow
def test_the_cost_of_secure_aggregation_is_measured(tiny_backbone: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    arguments = ["--clients", "5", "--dropouts", "0.2", "--json", str(target)]
    run("secure_aggregation", "--backbone", str(tiny_backbone), *arguments)
    found = result(target)
    assert [row["dropouts"] for row in found["rows"]] == [0, 1]
    for row in found["rows"]:
        assert row["bytes_up"] > 4 * found["parameters"]
        assert row["norm"] > 1


@pytest.mark.slow
def test_rounding_moves_the_others_by_next_to_nothing(tiny_backbone: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    run("float_rounding", "--backbone", str(tiny_backbone), "--series", "70", "--json", str(target))
    found = result(target)
    assert found["units"] > 64, "more than one chunk"
    assert len(found["moved"]) == 4
    assert max(found["moved"].values()) < 1e-4


@pytest.mark.slow
def test_the_overhead_of_a_simulation_is_measured(tiny_backbone: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    arguments = ["--retailers", "2", "--rounds", "2", "--repeats", "1", "--json", str(target)]
    run("simulation_overhead", "--backbone", str(tiny_backbone), *arguments)
    found = result(target)
    assert found["federation_s"] > found["bare_s"] > 0
    assert found["norm"] > 1


def only_the_evaluation(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> ModuleType:
    """``run.py`` as it is called with ``arguments``, of whose benchmarks the evaluation alone is left."""
    specification = importlib.util.spec_from_file_location("benchmarks_run", FOLDER / "run.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "benchmarks_run", module)
    specification.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    monkeypatch.setattr(module, "BENCHMARKS", {"evaluate": module.BENCHMARKS["evaluate"]})
    return module


@pytest.mark.slow
def test_the_evaluation_is_one_of_the_benchmarks(
    tiny_backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_retailers(tmp_path / "data", 1, series=(4, 4), days=200)
    monkeypatch.setenv("TREND_DATA", str(tmp_path / "data"))
    module = only_the_evaluation(monkeypatch, "--quick", "--backbone", str(tiny_backbone), "--json", str(tmp_path))
    assert module.main() == 0
    models = [one["model"] for one in result(tmp_path / "evaluate.json")["results"]]
    assert models == [
        str(tiny_backbone),
        f"{tiny_backbone}+calibrated",
        "seasonal-naive",
        "same-phase-mean",
        "same-phase-mean-4",
    ]


def test_without_data_the_evaluation_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TREND_DATA", raising=False)
    assert only_the_evaluation(monkeypatch).main() == 0
    assert "Nothing was measured" in capsys.readouterr().out


@pytest.mark.slow
def test_the_engines_of_a_simulation_end_with_the_same_weights(tiny_backbone: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    size = ["--clients", "2", "--rounds", "2", "--steps", "2", "--series", "6", "--repeats", "1"]
    arguments = ["--engines", "floor,trend-sim", *size, "--json", str(target)]
    run("simulation_peers", "--backbone", str(tiny_backbone), *arguments)
    found = result(target)
    assert found["relative_weight_difference"]["trend-sim"] < 0.01
    assert found["engines"]["floor"]["cpu_s"] > found["training_cpu_s"][0] > 0
    assert found["engines"]["trend-sim"]["norm"] > 0


@pytest.mark.slow
def test_rounds_over_tls_are_timed_by_the_server(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    run("wire", "--clients", "2", "--rounds", "2", "--stock", "0", "--json", str(target))
    (row,) = result(target)["rows"]
    assert len(row["round_s"]) == 2
    assert row["server_memory_mb"] > 20
    assert row["server_cpu_s"] > 0


def test_the_page_says_what_was_measured_and_what_was_not(tmp_path: Path) -> None:
    engines = {
        name: {
            "cpu_s": cpu,
            "wall_s": cpu,
            "memory_mb": 500.0,
            "norm": cpu / 20,
            "beyond_training_cpu_s": cpu - 15,
            "samples_cpu_s": [cpu, cpu + 2, cpu + 1],
        }
        for name, cpu in (("floor", 20.0), ("trend-sim", 21.0), ("pfl", 24.0))
    }
    found = {"engines": engines, "clients": 3, "rounds": 2, "steps": 5, "relative_weight_difference": {"pfl": 1e-4}}
    (tmp_path / "simulation_peers.json").write_text(json.dumps(found))
    page, target = tmp_path / "docs" / "benchmarks.md", tmp_path / "results.json"
    page.parent.mkdir()
    run("gather", str(tmp_path), "--json", str(target), "--page", str(page))
    measured = result(target)
    assert measured["simulation_over_floor"]["value"] == round(22 / 21, 4)  # the median of the turns
    assert measured["simulation_over_pfl"]["value"] == round(22 / 25, 4)
    assert measured["simulation_over_flower_ray"]["value"] is None
    assert measured["simulation_over_pfl"]["samples"]["pfl"] == [24.0, 26.0, 25.0]
    assert "| trend-sim | 21.0 | 1.05 |" in page.read_text()
    assert "*`dp_step` was not run.*" in page.read_text()
    assert (page.parent / "images" / "bench-engines.png").stat().st_size > 1000
