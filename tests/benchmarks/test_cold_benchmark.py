"""The benchmark of launches runs on a made-up retailer, and its yardsticks are what they say."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from trend_common.panel import from_frame
from trend_common.scoring import panel_before
from trend_common.windows import PanelWindows

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "cold_start.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cold_start_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def shop(products: int = 30, days: int = 150) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(products):
        start = 0 if number < 20 else 60 + 6 * (number - 20)
        dates = pd.date_range("2024-01-01", periods=days)[start:]
        kind = "candle" if number % 2 else "spoon"
        rows.append(
            pd.DataFrame(
                {
                    "date": dates,
                    "store": "s",
                    "product": f"p{number:02d}",
                    "units": 1 + rng.poisson(20 if number % 2 else 3, len(dates)),
                    "description": f"{kind} of colour {number}",
                }
            )
        )
    return pd.concat(rows, ignore_index=True)


def test_only_products_that_nobody_sold_before_the_cut_are_launches(script: ModuleType) -> None:
    frame = shop()
    other = frame[frame["product"] == "p25"].assign(store="t")
    early = other.assign(date=other["date"] - pd.Timedelta(days=85))
    panel = from_frame(pd.concat([frame, early], ignore_index=True), freq="D")
    cut, until = panel.start + pd.Timedelta(days=84), panel.start + pd.Timedelta(days=150)
    found = script.launches(panel, cut, until, 28)
    # p20 to p23 come before the cut, p25 is sold in another store before it, p29 leaves 36 days.
    assert sorted(one.series for one in found) == ["s/p24", "s/p26", "s/p27", "s/p28", "s/p29"]
    assert script.launches(panel, cut, until - pd.Timedelta(days=9), 28)[-1].series == "s/p28"


def test_neighbours_are_the_ten_of_nearest_description_and_nothing_later(script: ModuleType) -> None:
    panel = from_frame(shop(), freq="D")
    origin = panel.start + pd.Timedelta(days=84)
    windows = PanelWindows(panel_before(panel, origin), context=56)
    row = windows.ids.index("s/p25")
    near = script.Neighbours(windows, windows.step_of(origin))
    candles = [f"s/p{n:02d}" for n in range(1, 24, 2)]
    levels = {name: np.nanmean(windows.history(84)[windows.ids.index(name), -28:]) for name in candles}
    chosen = [windows.ids[one] for one in near._nearest(row)]
    assert set(chosen) <= set(candles)
    assert len(chosen) == 10
    assert near.mean(row) == pytest.approx(np.mean([levels[name] for name in chosen]), rel=1e-6)
    pooled = near.pooled(row, 28)
    assert pooled.shape[0] == 28
    assert (np.diff(pooled, axis=1) >= 0).all()
    np.testing.assert_array_equal(pooled[0], pooled[7])
    days = windows.history(84)[[windows.ids.index(name) for name in chosen]][:, [56, 63, 70, 77]]
    assert pooled[0, 6] == pytest.approx(np.nanmedian(days))


def test_shuffled_descriptions_stay_with_products(script: ModuleType) -> None:
    panel = from_frame(shop(), freq="D")
    mixed = script.shuffled(panel, 0)
    assert sorted(mixed.static["description"]) == sorted(panel.static["description"])
    assert (mixed.static["description"] != panel.static["description"]).mean() > 0.8
    assert panel.frame.equals(mixed.frame)


def test_it_runs(tiny_backbone: Path, tmp_path: Path) -> None:
    data, target, settings = tmp_path / "shop.csv", tmp_path / "out.json", tmp_path / "s.toml"
    shop().to_csv(data, index=False)
    settings.write_text("steps = 2\n[launch]\nsteps = 20\nlook_every = 10\n", "utf-8")
    arguments = ["--data", str(data), "--cut", "2024-03-25", "--backbone", str(tiny_backbone), "--permutations", "2"]
    command = [sys.executable, "-W", "ignore", str(SCRIPT), *arguments, "--settings", str(settings), "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, str(target)], env=environment, capture_output=True, text=True, check=True)
    assert "| personal |" in done.stdout
    found = json.loads(target.read_text("utf-8"))
    assert found["launches"] == 6
    assert {"zero-shot", "personal", "ten nearest, mean", "mean of all"} <= set(found["results"])
    mean = np.mean([found["results"][f"personal, descriptions shuffled {n}"]["sql"] for n in (1, 2)])
    assert found["results"]["personal, descriptions shuffled"]["sql"] == pytest.approx(mean)
    environment.pop("TREND_DATA", None)
    said = subprocess.run([sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True, check=True)
    assert "Nothing was measured" in said.stdout
