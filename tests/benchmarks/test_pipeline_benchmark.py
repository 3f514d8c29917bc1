"""The benchmarks of the pipeline and of large panels run on made-up retailers and say what they measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def run(script: str, *arguments: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(FOLDER / script), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_the_pipeline_is_compared_with_the_best_in_hindsight(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    dates = pd.date_range("2022-01-02", periods=70, freq="W-SUN")
    parts = [
        pd.DataFrame({"date": dates, "store": "s", "product": f"p{row}", "units": rng.poisson(20 + 5 * row, 70)})
        for row in range(4)
    ]
    pd.concat(parts).to_csv(tmp_path / "shop.csv", index=False)
    out = tmp_path / "found.json"
    shown = run("pipeline.py", str(tmp_path / "shop.csv"), "--no-personal", "--json", str(out))
    found = json.loads(out.read_text("utf-8"))
    row = found["results"][0]
    statistical = [name for name in row["sql"] if name not in ("zero-shot", "chosen", "uncalibrated")]
    assert len(statistical) == 7
    assert row["sql"][row["best"]] == min(row["sql"][name] for name in statistical)
    assert row["windows"] == 4
    assert sum(row["weights"].values()) == pytest.approx(1, abs=1e-6)
    assert found["geometric"]["chosen"] == pytest.approx(row["sql"]["chosen"] / row["sql"][row["best"]])
    assert f"{found['geometric']['chosen']:.3f}" in shown


@pytest.mark.slow
def test_a_large_panel_says_what_it_took(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    run("large_panel.py", "--series", "30", "--folder", str(tmp_path / "files"), "--json", str(out))
    assert json.loads(out.read_text("utf-8"))["peak_mb"]["all"] > 100
    assert {path.name for path in (tmp_path / "files").iterdir()} >= {"forecasts.csv", "forecasts_totals.parquet"}
