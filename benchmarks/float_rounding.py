"""How far float32 lets one series move the gradients of the others, over the clipping norm.

    python benchmarks/float_rounding.py [--series 200] [--json FILE]

The accountant takes each series' gradient to be its own. Products of matrices may round a row by the size of the
whole, so without one series the others' last bits can differ. Here the clipped gradients of all series are computed
with the default plan, and again without one of them; printed is the sum of the lengths by which the others moved,
over C.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from trend_client.engine import Engine
from trend_client.training import TrainingData
from trend_common import __version__
from trend_common.files import write_json
from trend_common.privacy.per_series import PerSeriesGradients
from trend_common.scoring import training_panel
from trend_common.windows import PanelWindows
from trend_simulations.federation import announce
from trend_simulations.settings import Settings
from trend_simulations.sources import synthetic

CHUNK = 64


def measured(engine: Engine, series: int) -> tuple[int, dict[int, float]]:
    """Number of units, and for some that are taken out how far the others moved, over C."""
    settings = Settings.of("D")
    announced = announce(engine, settings, settings.dp, name="rounding", seed=0)
    engine.install(announced.plan.adapter, announced.frozen)
    rng = np.random.default_rng(0)
    tensors = announced.plan.adapter.tensors
    engine.use({one.name: rng.normal(0, 0.02, one.shape).astype(np.float32) for one in tensors})
    panel = training_panel(synthetic(1, seed=3, days=500, sizes=(series, series))[0].panel, settings.horizon)
    windows = PanelWindows(panel, context=settings.context)
    data = TrainingData.of(windows, train_end=windows.n_steps, horizon=settings.horizon)
    k, clip = settings.dp.windows_per_series, settings.dp.clip
    draws = rng.random((data.n_units, k))

    def clipped(units: NDArray[np.int64]) -> torch.Tensor:
        found = []
        with PerSeriesGradients(engine.backbone.core, k) as gradients:
            for begin in range(0, len(units), CHUNK):
                part = units[begin : begin + CHUNK]
                batch = data.draw(part, k, lambda size, part=part: draws[part].reshape(-1)[:size])
                gradients.start(len(part) * k)
                gradients.backward(engine.backbone(batch).loss_per_sample)
                found.append(torch.cat([one.double().flatten(1) for one in gradients.collect().values()], dim=1))
        joined = torch.cat(found)
        return joined * (clip / joined.norm(dim=1, keepdim=True)).clamp(max=1.0)

    everybody = np.arange(data.n_units)
    before = clipped(everybody)
    moved = {}
    for gone in (0, data.n_units // 3, data.n_units // 2, data.n_units - 1):
        kept = np.delete(everybody, gone)
        moved[gone] = float((clipped(kept) - before[kept]).norm(dim=1).sum() / clip)
    return data.n_units, moved


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", default="trend-small")
    parser.add_argument("--series", type=int, default=200)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    units, moved = measured(Engine(options.backbone, device="cpu"), options.series)
    for gone, by in moved.items():
        print(f"without series {gone} of {units}, the others moved by {by:.2g} C")
    if options.json is not None:
        found = {"schema": 1, "version": __version__, "benchmark": "float_rounding", "units": units}
        write_json(options.json, {**found, "moved": {str(gone): by for gone, by in moved.items()}})
    return 0


if __name__ == "__main__":
    sys.exit(main())
