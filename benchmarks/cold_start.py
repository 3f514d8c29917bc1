"""Products at their launch: a personal model trained before a cut forecasts what was first sold after it.

    TREND_DATA=DIR python benchmarks/cold_start.py [--data FILE] [--cut DATE] [--until DATE] [--json FILE]

The personal model sees sales before the cut alone, and its last horizon decides how long it is trained. Each product
that was first sold between the cut and one horizon before ``--until`` is forecast on the day of its first sale, from
its description and from what was known that day. SQL is scaled by the seasonal error inside the scored window, since
a new product has no history to be scaled by.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_client.engine import Engine
from trend_client.finetune import load_settings
from trend_client.siblings import Siblings
from trend_client.training import TrainingData
from trend_common import __version__
from trend_common.covariates import DEFAULT_CONTEXT, DEFAULT_HORIZON, SEASON
from trend_common.errors import DataError, TrendError
from trend_common.files import write_json
from trend_common.forecasts import LEVELS, Forecast
from trend_common.metrics import SeasonalError, pinball, seasonal_error, series_losses, wape, wql
from trend_common.panel import SalesPanel, read
from trend_common.scoring import panel_before
from trend_common.tensors import Tensors
from trend_common.windows import PanelWindows, text_features

NEAREST = 10
RECENT = {"D": 28, "W": 8, "M": 6}
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Launch:
    """One series at its launch."""

    series: str
    origin: pd.Timestamp


def launches(panel: SalesPanel, cut: pd.Timestamp, until: pd.Timestamp, horizon: int) -> list[Launch]:
    """Series of products that nobody sold before ``cut``, whose first horizon ends before ``until``."""
    first = panel.frame.groupby("unique_id")["ds"].min()
    product = panel.static["product"].reindex(first.index)
    new = first.groupby(product).transform("min") >= cut
    last = pd.date_range(end=until, periods=horizon + 1, freq=panel.offset)[0]
    return [Launch(str(name), first[name]) for name in first.index[new & (first <= last)]]


def shuffled(panel: SalesPanel, seed: int) -> SalesPanel:
    """The panel with the descriptions of its products interchanged."""
    static = panel.static.copy()
    by_product = static.groupby("product")["description"].first()
    mixed = np.random.default_rng(seed).permutation(by_product.to_numpy())
    static["description"] = static["product"].map(dict(zip(by_product.index, mixed, strict=True)))
    return replace(panel, static=static)


def train(engine: Engine, panel: SalesPanel, cut: pd.Timestamp, context: int, seed: int, settings: Any) -> Tensors:
    """The personal model of the sales before ``cut``."""
    windows = PanelWindows(panel_before(panel, cut), context=context)
    horizon = DEFAULT_HORIZON[panel.freq]
    validation = windows.step_of(cut) - horizon
    data = TrainingData.of(windows, train_end=validation, horizon=horizon)
    tensors, tried = engine.personalise(data, None, validation=validation, seed=seed, settings=settings)
    for name, value in tried.items():
        print(f"  {name}: {value:.4f}")
    return tensors


class Neighbours:
    """What the retailer could do without a model: look at the ten products whose descriptions are nearest."""

    def __init__(self, windows: PanelWindows, origin: int) -> None:
        static = windows.panel.static
        self._text = text_features(static["description"].tolist())
        self._product, self._store = static["product"].to_numpy(), static["store"].to_numpy()
        self._levels = Siblings(windows).levels(origin)
        steps = RECENT[windows.panel.freq]
        self._recent = windows.history(origin)[:, -steps:]
        self._season = SEASON[windows.panel.freq]

    def _nearest(self, row: int) -> NDArray[np.int64]:
        usable = np.isfinite(self._levels) & (self._product != self._product[row])
        same = usable & (self._store == self._store[row])
        rows = np.flatnonzero(same if same.sum() >= NEAREST else usable)
        return rows[np.argsort(-(self._text[rows] @ self._text[row]), kind="stable")[:NEAREST]]

    def mean(self, row: int) -> float:
        """Mean of their recent levels."""
        return float(self._levels[self._nearest(row)].mean())

    def overall(self) -> float:
        """Mean level of all series."""
        return float(np.nanmean(self._levels))

    def pooled(self, row: int, horizon: int) -> Array:
        """[H, Q] quantiles of what they sold on the same phase of the season."""
        recent = self._recent[self._nearest(row)]
        behind = np.arange(recent.shape[1]) - recent.shape[1]
        out = np.empty((horizon, len(LEVELS)))
        for step in range(horizon):
            pool = recent[:, (step - behind) % self._season == 0]
            pool = pool[np.isfinite(pool)]
            out[step] = np.quantile(pool, LEVELS) if pool.size else 0.0
        return out


def forecasts(
    engine: Engine, panel: SalesPanel, found: list[Launch], tensors: Tensors, context: int, permutations: int
) -> dict[str, Forecast]:
    """Method → forecast of all launches."""
    horizon, offset = DEFAULT_HORIZON[panel.freq], panel.offset
    rows: dict[str, list[tuple[str, Array, Array, Array]]] = {}

    def note(method: str, series: str, dates: Array, quantiles: Array, mean: Array) -> None:
        rows.setdefault(method, []).append((series, dates, quantiles, mean))

    for origin in sorted({one.origin for one in found}):
        names = [one.series for one in found if one.origin == origin]
        known = panel_before(panel, origin)
        dates = pd.date_range(origin, periods=horizon, freq=offset).to_numpy()
        models: dict[str, tuple[SalesPanel, Tensors | None]] = {
            "zero-shot": (known, None),
            "personal": (known, tensors),
        }
        for number in range(permutations):
            models[f"personal, descriptions shuffled {number + 1}"] = (shuffled(known, number), tensors)
        for method, (seen, model) in models.items():
            windows = PanelWindows(seen, context=context)
            index = np.array([windows.ids.index(name) for name in names])
            made = engine.forecast(model, windows, windows.step_of(origin), horizon, rows=index)
            for place, name in enumerate(names):
                note(method, name, dates, made.quantiles[place], made.mean[place])
        windows = PanelWindows(known, context=context)
        near = Neighbours(windows, windows.step_of(origin))
        for name in names:
            row = windows.ids.index(name)
            flat = np.ones((horizon, len(LEVELS)))
            note("ten nearest, mean", name, dates, flat * near.mean(row), flat[:, 0] * near.mean(row))
            note("ten nearest, their days", name, dates, near.pooled(row, horizon), flat[:, 0] * near.mean(row))
            note("mean of all", name, dates, flat * near.overall(), flat[:, 0] * near.overall())
    return {
        method: Forecast.repaired(
            tuple(one[0] for one in made),
            np.stack([one[1] for one in made]),
            np.stack([one[2] for one in made]),
            np.stack([one[3] for one in made]),
        )
        for method, made in rows.items()
    }


def scores(y: Array, forecast: Forecast, scale: SeasonalError) -> dict[str, float]:
    """The measures of one method."""
    losses = series_losses(y, forecast, scale)
    return {
        "wape": wape(y, forecast.median),
        "wape_mean": wape(y, forecast.mean),
        "sql": float(np.nanmean(losses)),
        "wql": wql(y, forecast),
    }


def intervals(
    y: Array, ours: Forecast, others: list[Forecast], scale: SeasonalError, resamples: int = 2000
) -> dict[str, tuple[float, float]]:
    """95 % bootstrap intervals over series of our measure over the other's (their mean, if there are several)."""
    known = ~np.isnan(y)

    def parts(one: Forecast) -> dict[str, Array]:
        return {
            "wape": np.where(known, np.abs(y - one.median), 0).sum(1),
            "wql": np.where(known, pinball(y, one), 0).sum(1),
            "sql": np.nan_to_num(series_losses(y, one, scale)),
        }

    a, b = parts(ours), [parts(one) for one in others]
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(y), (resamples, len(y)))
    found = {}
    for name in a:
        reference = np.mean([one[name] for one in b], axis=0)
        ratio = a[name][draws].sum(1) / reference[draws].sum(1)
        low, high = np.quantile(ratio, (0.025, 0.975))
        found[name] = (float(low), float(high))
    return found


def table(results: Mapping[str, Mapping[str, float]]) -> str:
    """A Markdown table."""
    lines = ["| method | WAPE | WAPE of the mean | SQL | WQL |", "| --- | --- | --- | --- | --- |"]
    for name, one in results.items():
        lines.append(f"| {name} | " + " | ".join(f"{value:.3f}" for value in one.values()) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="sales file (default: uk_gift_online.csv.gz in $TREND_DATA)")
    parser.add_argument("--cut", default="2011-08-15", help="the personal model sees nothing on or after this day")
    parser.add_argument("--until", help="launches' horizons end before this day (default: the day after the last)")
    parser.add_argument("--backbone", default="trend-small")
    parser.add_argument("--rank", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--settings", type=Path, help="TOML of fine-tuning settings (default: the client's own)")
    parser.add_argument("--permutations", type=int, default=5, help="of the descriptions")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    folder = os.environ.get("TREND_DATA")
    path = options.data or (Path(folder) / "uk_gift_online.csv.gz" if folder else None)
    if path is None:
        print("No data: set TREND_DATA or give --data. Nothing was measured.")
        return 0
    import torch

    torch.set_num_threads(1)
    panel = read(path)
    horizon = DEFAULT_HORIZON[panel.freq]
    cut = pd.Timestamp(options.cut)
    until = (
        pd.Timestamp(options.until) if options.until else pd.date_range(panel.end, periods=2, freq=panel.offset)[1]
    )
    found = launches(panel, cut, until, horizon)
    if not found:
        raise DataError(f"No product is first sold between {cut.date()} and {until.date()}.", "Use another --cut.")
    engine = Engine(options.backbone)
    engine.install_local(options.rank)
    context = min(DEFAULT_CONTEXT[panel.freq], engine.backbone.max_context)
    settings = load_settings(options.settings) if options.settings else None
    started = time.perf_counter()
    tensors = train(engine, panel, cut, context, options.seed, settings)
    seconds = time.perf_counter() - started
    made = forecasts(engine, panel, found, tensors, context, options.permutations)
    ids = made["personal"].ids
    whole = PanelWindows(panel, context=context)
    origin = {one.series: whole.step_of(one.origin) for one in found}
    y = np.stack([whole.actuals(origin[name], horizon)[whole.ids.index(name)] for name in ids])
    scale = seasonal_error(y, SEASON[panel.freq])
    results = {name: scores(y, forecast, scale) for name, forecast in made.items()}
    mixed = [name for name in results if "shuffled" in name]
    if mixed:
        results["personal, descriptions shuffled"] = {
            key: float(np.mean([results[name][key] for name in mixed])) for key in results[mixed[0]]
        }
    shown = {name: one for name, one in results.items() if name not in mixed}
    against = {
        name: intervals(y, made["personal"], [made[name]], scale)
        for name in shown
        if name in made and name != "personal"
    }
    if mixed:
        against["personal, descriptions shuffled"] = intervals(y, made["personal"], [made[n] for n in mixed], scale)
    unscaled = int((~scale.usable).sum())
    print(f"{len(ids)} launches from {cut.date()} on, {unscaled} of them not in SQL; trained in {seconds:.0f} s\n")
    print(table(shown))
    print("\nthe personal model's measure over the other's, 95 % interval over series")
    for name, one in against.items():
        print(f"  {name}: " + ", ".join(f"{key} {low:.2f} to {high:.2f}" for key, (low, high) in one.items()))
    if options.json:
        body = {
            "schema": 1,
            "version": __version__,
            "command": "cold-start",
            "data": path.name,
            "cut": str(cut.date()),
            "until": str(until.date()),
            "backbone": engine.sha256,
            "launches": len(ids),
            "seconds": round(seconds, 1),
            "results": results,
            "ratio_intervals": against,
        }
        write_json(options.json, body)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TrendError as error:
        sys.exit(f"{error}")
