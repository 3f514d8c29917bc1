"""A small retailer's report, for the tests of what it says, how it looks and which languages it speaks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import numpy as np
import pandas as pd
import pytest

from trend_client.backtest import backtest, baseline_forecasters
from trend_client.report import Privacy, ReportData, SentMessage
from trend_client.why.contributions import Contributions
from trend_common.panel import Finding, SalesPanel
from trend_common.scoring import next_origin

HORIZON = 7
NOW = datetime(2024, 7, 1, 8, 30)
METHODS = baseline_forecasters(("seasonal-naive", "same-phase-mean"))

MakePanel = Callable[..., SalesPanel]
MakeReport = Callable[..., ReportData]


def panel_named(product: str = "Rye bread", store: str = "Harbour", category: str = "Bakery") -> SalesPanel:
    """Two products of four months and one of nine days, all called the same."""
    rng = np.random.default_rng(0)
    parts, ids = [], ["a", "b", "new"]
    for row, name in enumerate(ids):
        dates = pd.date_range(end="2024-06-30", periods=9 if name == "new" else 120)
        y = rng.poisson(20.0 + 30 * row, len(dates)).astype(float)
        promo = (np.arange(len(dates)) % 15 == 0).astype(float)
        columns = {"unique_id": name, "ds": dates, "y": y, "closed": False, "promo": promo, "holiday": promo}
        parts.append(pd.DataFrame(columns))
    frame = pd.concat(parts, ignore_index=True)
    names = [product, f"{product} 2", f"{product} 3"]
    static = pd.DataFrame({"store": store, "product": names, "category": category, "description": ""}, index=ids)
    found = (Finding("missing_steps", "warning", 3, f"{product}: 3 days are missing.", "left unknown"),)
    future = frame.loc[[], ["unique_id", "ds", "promo", "holiday"]]
    return SalesPanel(
        product, "D", "D", frame, future, static, {"units": "Umsatz", "date": "date"}, found, len(frame)
    )


def report_of(panel: SalesPanel) -> ReportData:
    """Backtest, forecast, thirty messages and some privacy spent."""
    tested = backtest(panel, HORIZON, METHODS)
    origin = next_origin(panel)
    ahead = tested.choice.apply({name: one(panel, origin, HORIZON) for name, one in METHODS.items()})
    sent = [SentMessage(NOW, "train", 1000 + k, hashlib.sha256(bytes([k])).hexdigest()) for k in range(30)]
    privacy = Privacy(4.0, 1e-5, "series", 30, 30_435)
    return ReportData(panel, ahead, NOW, tested, privacy, sent, language="en")


@pytest.fixture(scope="session")
def make_panel() -> MakePanel:
    return panel_named


@pytest.fixture(scope="session")
def make_report() -> MakeReport:
    return report_of


def complete(data: ReportData) -> ReportData:
    """The same report with every part that other commands add."""
    ids, tested = list(data.forecast.ids), data.backtest
    assert tested is not None
    methods = dict(tested.methods)
    methods["zero-shot"] = methods["shared"] = methods["personal"] = methods["chosen"]
    y = tested.actuals.y.copy()
    y[0, 3] = 4 * y.max()  # a day that went otherwise
    orders = pd.DataFrame(
        {
            "unique_id": ids,
            "on_hand": 12.0,
            "on_order": [0.0, 30.0, 0.0],
            "order": [144.0, 60.0, 0.0],
            "runs_out": ["2024-07-04", None, None],
            "stockout_without": [0.97, 0.4, 0.01],
            "stockout_with": [0.06, 0.05, 0.01],
            "lost_without": [61.3, 8.0, 0.0],
        }
    )
    trends = pd.DataFrame(
        {"unique_id": ids, "trend": ["up", "flat", ""], "down": [0.1, 0.2, np.nan], "flat": [0.2, 0.6, np.nan]}
    ).assign(up=lambda table: 1 - table["down"] - table["flat"])
    seasons = [
        {
            "name": data.panel.static["category"].iloc[0],
            "start": ["2024-09-02", "2024-09-09", "2024-09-16"],
            "peak": ["2024-10-07", "2024-10-14", "2024-10-21"],
            "end": ["2024-11-25", "2024-11-25", "2024-11-25"],
            "total": [400.0, 500.4, 610.0],
            "order": 540.0,
            "seasonal": True,
        }
    ]
    advice = [
        {
            "action": action,
            "unique_id": name,
            "gain": 120.5,
            "low": 30.0,
            "high": 260.0,
            "units": 30.0,
            "reason": "in 9 past steps with a promotion it sold 2.4 times the usual",
        }
        for action, name in zip(("promote", "restock", "mark down", "drop"), (*ids, ids[0]), strict=True)
    ]
    empty = pd.DataFrame(
        {
            "unique_id": ["b", "a"],
            "start": pd.to_datetime(["2024-05-02", "2022-05-02"]),
            "end": pd.to_datetime(["2024-05-06", "2022-05-06"]),
            "days": [5, 5],
            "lost": [230.0, 99.0],
            "stated": [False, True],
        }
    )
    parts = np.arange(3 * 6 * HORIZON, dtype=float).reshape(3, 6, HORIZON) - 40
    base = np.full((3, HORIZON), 100.0)
    made_of = Contributions(tuple(ids), data.forecast.ds[0], base, parts, base + parts.sum(axis=1))
    return replace(
        data,
        backtest=replace(tested, methods=methods, actuals=replace(tested.actuals, y=y)),
        panel=replace(data.panel, outages=empty),
        orders=orders,
        recommendations={"gain_in": "money", "advice": advice},
        seasons=seasons,
        trends=trends,
        contributions=made_of,
    )


@pytest.fixture(scope="session")
def make_complete() -> Callable[[ReportData], ReportData]:
    return complete


@pytest.fixture(scope="session")
def make_full_report() -> Callable[[], ReportData]:
    """A report with every section that there is, about products and stores with long names."""

    def make() -> ReportData:
        long = "Extraordinarily long product name that nobody would print on a label " + "x" * 60
        return complete(report_of(panel_named(long, store="The store beside the harbour of a town with a long name")))

    return make
