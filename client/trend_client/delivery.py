"""The tables that a forecast ends in: series, sums, trends and prices, written piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_client.paths import past_ranks, sample_paths
from trend_client.stream import CHUNK, LARGE, Format, TableWriter, chunks
from trend_client.totals import MINT_LARGEST, Sums, fitted
from trend_common.console import console
from trend_common.errors import UsageError
from trend_common.forecasts import Forecast
from trend_common.panel import SalesPanel
from trend_common.scoring import MINIMUM_HISTORY, next_origin

if TYPE_CHECKING:
    from trend_client.engine import Engine
    from trend_client.outcome import Model, Wishes

__all__ = ["deliver", "price_files", "price_panel", "trend_table"]

Array = NDArray[np.float64]
Maker = Callable[[SalesPanel], Forecast]

_SHOWN: int = 1000
"""Series of a large assortment that the report is made of, the largest."""

TREND_MARGIN = 0.1
"""Relative change from which on a trend is not flat; as in ``trend_common.tasks``."""


def deliver(
    folder: Path,
    panel: SalesPanel,
    made: Maker,
    horizon: int,
    wishes: Wishes,
    *,
    past: Callable[[SalesPanel, pd.Timestamp, int], Forecast] | None = None,
    sums_by: Callable[[SalesPanel, pd.Timestamp, int], Forecast] | None = None,
    pieces: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Forecast, tuple[Path, ...]]:
    """Forecast, and write ``forecasts``, ``trend`` and, if asked for, ``forecasts_totals`` in the formats asked for.

    Args:
        folder: Of the files.
        panel: Sales.
        made: Forecasts a piece of the panel.
        horizon: H.
        wishes: Formats and sums.
        past, sums_by: What ``mint`` needs: a forecaster of the series, and one of the sums, at any origin.
        pieces: Called with the number of series that are done, and of all.

    Returns:
        The forecast of all series, or of the largest of a large assortment; and the files, the CSV first.

    Raises:
        UsageError: ``mint`` with more series than it can take.
    """
    tables: Sequence[Format] = tuple(dict.fromkeys((*wishes.formats, "parquet")))
    if wishes.reconcile == "mint" and panel.n_series > MINT_LARGEST:
        raise UsageError(
            f"--reconcile mint takes up to {MINT_LARGEST:,} series, the file has {panel.n_series:,}.",
            "Use --reconcile bottom-up.",
        )
    shown = _largest(panel) if panel.n_series > LARGE else None
    kept: list[Forecast] = []
    sums = None if wishes.reconcile is None else Sums(panel.static, horizon)
    with TableWriter(folder, "forecasts", tables) as series, TableWriter(folder, "trend", wishes.formats) as trends:
        done = 0
        for part in chunks(panel, LARGE if panel.n_series <= LARGE else CHUNK):
            forecast = made(part)
            if wishes.reconcile == "mint" and past is not None and sums_by is not None:
                forecast, fit = fitted(panel, forecast, sums_by, past)
                console.print(fit.sentence(), soft_wrap=True, markup=False)
            series.write(forecast.to_frame(part.static))
            ids, ranks = past_ranks(part, horizon)
            row = {name: position for position, name in enumerate(ids)}
            ranks = ranks[[row[name] for name in forecast.ids if name in row]]
            forecast_of = forecast.select(name for name in forecast.ids if name in row)
            trends.write(trend_table(part, forecast_of, ranks))
            if sums is not None:
                sums.add(forecast_of, ranks)
            kept.append(forecast if shown is None else forecast.select(n for n in forecast.ids if n in shown))
            done += part.n_series
            pieces(done, panel.n_series)
        files = [*series.paths.values(), *trends.paths.values()]
    if sums is not None:
        with TableWriter(folder, "forecasts_totals", wishes.formats) as writer:
            writer.write(sums.frame())
        files += writer.paths.values()
    _remove_older(folder, set(files))
    return _joined(kept), tuple(files)


def _remove_older(folder: Path, written: set[Path]) -> None:
    """Sums and tables of an earlier run in forms that this one did not write: beside newer forecasts they mislead."""
    for name in ("forecasts", "forecasts_totals", "trend"):
        for form in get_args(Format):
            path = folder / f"{name}.{form}"
            if path not in written:
                path.unlink(missing_ok=True)


def trend_table(panel: SalesPanel, forecast: Forecast, ranks: Array) -> pd.DataFrame:
    """How each series moves: the horizon's mean level against the mean of as many steps before it.

    "up" is more than 10 % above, "down" more than 10 % below, and the probabilities are shares of sample paths, so
    that they agree with the forecast's own quantiles. Where fewer than half of the steps before are known, or
    nothing was sold on them, there is no class.

    Args:
        panel: The series' sales.
        forecast: S series, H steps.
        ranks: [S, R, H] of the paths.

    Returns:
        ``unique_id, store, product, before, ahead, low, high, trend, down, flat, up``: mean levels a step, the
        central 80 % interval of the level ahead, and the class with its probabilities.
    """
    steps = forecast.horizon
    tail = panel.frame.groupby("unique_id", sort=False).tail(steps)
    first = pd.date_range(end=panel.calendar_end, periods=steps, freq=panel.offset)[0]
    tail = tail[tail["ds"] >= first]
    grouped = tail.groupby("unique_id")["y"]
    before = grouped.mean().reindex(list(forecast.ids)).to_numpy(dtype=np.float64)
    known = grouped.count().reindex(list(forecast.ids)).fillna(0).to_numpy()
    paths = sample_paths(forecast, ranks)
    level = (paths + (forecast.mean - paths.mean(axis=1))[:, None]).mean(axis=2)
    usable = (known >= steps / 2) & (np.nan_to_num(before) > 0)
    up = (level > (1 + TREND_MARGIN) * before[:, None]).mean(axis=1)
    down = (level < (1 - TREND_MARGIN) * before[:, None]).mean(axis=1)
    shares = np.stack([down, 1 - up - down, up], axis=1)
    names = np.array(["down", "flat", "up"], dtype=object)[shares.argmax(axis=1)]
    low, high = np.quantile(level, (0.1, 0.9), axis=1) if len(forecast) else np.zeros((2, 0))
    described = panel.static.reindex(list(forecast.ids))
    table: dict[str, Any] = {
        "unique_id": np.array(forecast.ids, dtype=object),
        "store": described["store"].fillna("").to_numpy(dtype=object),
        "product": described["product"].fillna("").to_numpy(dtype=object),
        "before": before,
        "ahead": forecast.mean.mean(axis=1),
        "low": np.maximum(low, 0.0),
        "high": np.maximum(high, 0.0),
        "trend": np.where(usable, names, ""),
    }
    for column, name in enumerate(("down", "flat", "up")):
        table[name] = np.where(usable, shares[:, column], np.nan)
    return pd.DataFrame(table)


def price_panel(panel: SalesPanel) -> SalesPanel | None:
    """The prices as if they were sales, for series with at least as many known prices as a short history needs.

    Prices of the future that the retailer has set are left out: they need no forecast.
    """
    price = panel.frame["price"].where(panel.frame["price"] > 0)
    count = price.notna().groupby(panel.frame["unique_id"]).sum()
    ids = count.index[count >= MINIMUM_HISTORY[panel.freq]]
    if not len(ids):
        return None
    chosen = panel.select(ids)
    own = chosen.frame["price"].where(chosen.frame["price"] > 0)
    # A price holds until the next one is seen; whether something was sold on a day is no news of it.
    carried = own.groupby(chosen.frame["unique_id"]).ffill()
    columns = ["unique_id", "ds", *(name for name in ("promo", "holiday") if name in chosen.frame.columns)]
    frame = chosen.frame[columns].assign(y=carried, closed=False)
    future = chosen.future[[name for name in columns if name in chosen.future.columns]]
    return replace(chosen, frame=frame, future=future, own_ahead=())


def price_files(
    folder: Path, engine: Engine, panel: SalesPanel, model: Model, formats: Sequence[Format]
) -> tuple[Path, ...]:
    """Forecast prices with the pretrained model and write ``prices``; nothing where too few are known.

    The adapters were trained on sales and are left off.
    """
    prices = price_panel(panel)
    if prices is None:
        return ()
    forecaster = engine.forecaster(None, context=model.context)
    with TableWriter(folder, "prices", formats) as writer:
        for part in chunks(prices):
            forecast = forecaster(part, next_origin(panel), model.horizon)
            writer.write(forecast.to_frame(part.static))
    return tuple(writer.paths.values())


def _largest(panel: SalesPanel) -> frozenset[str]:
    """The series of the most sales over the last year of steps."""
    since = pd.date_range(end=panel.calendar_end, periods={"D": 364, "W": 52, "M": 12}[panel.freq], freq=panel.offset)
    recent = panel.frame[panel.frame["ds"] >= since[0]]
    volume = recent.groupby("unique_id", sort=False)["y"].sum()
    return frozenset(volume.nlargest(_SHOWN).index)


def _joined(parts: Sequence[Forecast]) -> Forecast:
    if len(parts) == 1:
        return parts[0]
    return Forecast(
        tuple(name for part in parts for name in part.ids),
        np.concatenate([part.ds for part in parts]),
        parts[0].levels,
        np.concatenate([part.quantiles for part in parts]),
        np.concatenate([part.mean for part in parts]),
    )
