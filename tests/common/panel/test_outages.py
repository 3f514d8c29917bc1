"""Empty shelves: found where a series' own sales prove them, left alone where they do not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from trend_common.panel import SalesPanel, from_frame

DAYS = pd.date_range("2024-01-01", periods=400)


def steady(seed: int, rate: float = 6.0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(rate, len(DAYS)).astype(float)


def panel_of(**products: np.ndarray) -> SalesPanel:
    return from_frame(
        pd.concat(pd.DataFrame({"date": DAYS, "product": name, "units": y}) for name, y in products.items())
    )


def unknown(panel: SalesPanel, product: str) -> list[int]:
    rows = panel.frame[panel.frame["unique_id"] == f"all/{product}"]
    return list(np.flatnonzero(rows["y"].isna()))


def count(panel: SalesPanel, code: str) -> int:
    return sum(finding.count for finding in panel.findings if finding.code == code)


def test_an_empty_shelf_in_steady_sales_is_unknown_demand_and_not_zero() -> None:
    y = steady(0)
    demand = y[200:210].sum()
    y[200:210] = 0
    panel = panel_of(A=y, B=steady(1))
    assert unknown(panel, "A") == list(range(200, 210))
    assert unknown(panel, "B") == []
    assert count(panel, "inferred_stock_outs") == 10
    (run,) = panel.outages.to_dict("records")
    assert (run["unique_id"], run["start"], run["days"]) == ("all/A", DAYS[200], 10)
    assert not run["stated"]
    # An estimate on the low side: the lower of the means before and after.
    assert 0.5 * demand < run["lost"] < 1.2 * demand


def test_two_of_them_do_not_hide_each_other() -> None:
    y = steady(12)
    y[100:112] = y[240:262] = 0
    assert unknown(panel_of(A=y), "A") == [*range(100, 112), *range(240, 262)]


@pytest.mark.parametrize(
    "case",
    ["too short", "slow mover", "end of the line", "season", "no sales before", "recent", "clumps", "very long"],
)
def test_weak_evidence_stays_zero(case: str) -> None:
    y = steady(3)
    if case == "too short":
        y[200:202] = 0
    elif case == "slow mover":
        y = np.random.default_rng(4).poisson(0.2, len(DAYS)).astype(float)
    elif case == "end of the line":
        y[200:] = 0
    elif case == "season":
        y[200:230] = 0
        y[230:] *= 8
    elif case == "no sales before":
        y[5:20] = 0
    elif case == "recent":
        y[340:350] = 0
    elif case == "clumps":
        for start in range(10, 390, 40):
            y[start : start + 12] = 0
    else:
        y[150:230] = 0
    panel = panel_of(A=y)
    assert unknown(panel, "A") == []
    assert not len(panel.outages)


def test_the_stock_column_has_the_last_word() -> None:
    y = steady(5)
    y[200:210] = y[100] = 0
    rows = pd.DataFrame({"date": DAYS, "product": "A", "units": y, "stock": 9.0})
    rows.loc[100, "stock"] = 0.0
    panel = from_frame(rows)
    assert unknown(panel, "A") == [100]  # the ten days had stock: nobody wanted it
    (run,) = panel.outages.to_dict("records")
    assert run["stated"]
    assert run["lost"] > 0


def test_known_stock_outs_are_found_and_little_else() -> None:
    """On sales with 60 known stock-outs: most are found, nearly nothing else is, and the mean is mended."""
    rng, demand, truth, sales = np.random.default_rng(6), {}, {}, {}
    for k in range(30):
        demand[f"P{k}"] = rng.poisson(5, len(DAYS)).astype(float)
        out = np.zeros(len(DAYS), dtype=bool)
        for start in rng.integers(40, 280, 2):
            out[start : start + rng.integers(4, 22)] = True
        truth[f"P{k}"] = out
        sales[f"P{k}"] = np.where(out, 0.0, demand[f"P{k}"])
    panel = panel_of(**sales)
    found = {name: np.isin(np.arange(len(DAYS)), unknown(panel, name)) for name in sales}
    hits = sum((found[name] & truth[name]).sum() for name in sales)
    assert hits > 0.75 * sum(out.sum() for out in truth.values())
    assert hits > 0.97 * sum(out.sum() for out in found.values())
    before = sum(y.sum() for y in sales.values()) / sum(y.sum() for y in demand.values()) - 1
    after = np.mean(panel.frame["y"].dropna()) / np.mean(list(demand.values())) - 1
    assert abs(after) < 0.25 * abs(before)


def test_a_part_of_the_panel_keeps_its_outages() -> None:
    y = steady(7)
    y[200:210] = 0
    panel = panel_of(A=y, B=steady(8))
    assert len(panel.select(["all/A"]).outages) == 1
    assert len(panel.select(["all/B"]).outages) == 0
    assert len(panel.last_steps(100).outages) == 0
