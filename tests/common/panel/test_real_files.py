"""Real exports load without a flag. The data are found through ``TREND_DATA``; they are no part of the product."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from trend_common.panel import SalesPanel, read

DATA = Path(os.environ["TREND_DATA"]) if os.environ.get("TREND_DATA") else None

pytestmark = pytest.mark.skipif(
    DATA is None or not DATA.is_dir(), reason="TREND_DATA does not name the folder of development data"
)


def load(name: str) -> SalesPanel:
    assert DATA is not None
    return read(DATA / name)


def count(panel: SalesPanel, code: str) -> int:
    return sum(finding.count for finding in panel.findings if finding.code == code)


@pytest.mark.parametrize(
    ("name", "offset", "series", "start", "end", "covariates"),
    [
        ("brazil_single_sku", "D", 1, "2014-01-01", "2016-07-31", ["price", "stock"]),
        ("dominicks_oj", "W-THU", 693, "1990-06-14", "1992-10-01", ["price", "promo", "own_1"]),
        ("kiel_bakery_revenue", "D", 6, "2013-07-01", "2018-07-31", ["holiday"]),
        ("pharmacy_daily", "D", 8, "2014-01-02", "2019-10-08", []),
        ("rossmann_b", "D", 17, "2013-01-01", "2015-07-31", ["promo", "holiday", "own_1"]),
        ("rossmann_c", "D", 148, "2013-01-02", "2015-07-31", ["promo", "holiday", "own_1"]),
        ("uci_weekly_products", "W-MON", 811, "2015-01-05", "2015-12-28", []),
        ("uk_gift_online", "D", 1500, "2010-12-01", "2011-12-09", ["price", "returns"]),
        ("walmart_dept_weekly", "W-FRI", 1500, "2010-02-05", "2012-10-26", ["promo", "holiday"]),
    ],
)
def test_long_tables(name: str, offset: str, series: int, start: str, end: str, covariates: list[str]) -> None:
    panel = load(f"{name}.csv.gz")
    assert (panel.offset, panel.n_series) == (offset, series)
    assert (panel.start, panel.end) == (pd.Timestamp(start), pd.Timestamp(end))
    assert panel.frame.columns.tolist() == ["unique_id", "ds", "y", "closed", *covariates]
    assert (panel.frame.loc[panel.frame["closed"], "y"] == 0).all()
    assert not (panel.frame["y"] < 0).any()
    assert not panel.frame.duplicated(["unique_id", "ds"]).any()


def test_nothing_sold_is_lost() -> None:
    assert DATA is not None
    for name in ("dominicks_oj", "pharmacy_daily", "rossmann_b"):
        source = pd.read_csv(DATA / f"{name}.csv.gz", usecols=["units"])["units"].sum()
        assert load(f"{name}.csv.gz").frame["y"].sum() == pytest.approx(source)


def test_drugstores_close_on_sundays_each_by_its_own_rows() -> None:
    closed = load("rossmann_c.csv.gz").frame
    sundays = closed[closed["ds"].dt.weekday == 6]
    assert sundays["closed"].mean() > 0.999
    open_on_sundays = load("rossmann_b.csv.gz").frame
    assert not open_on_sundays.loc[open_on_sundays["ds"].dt.weekday == 6, "closed"].any()


def test_a_missing_week_is_not_a_zero() -> None:
    panel = load("dominicks_oj.csv.gz")
    assert count(panel, "missing_steps") == panel.frame["y"].isna().sum() == 2673
    assert not (panel.frame["y"] == 0).any()


def test_portuguese_headers_with_stock() -> None:
    panel = load("raw_exports/brazil_raw_portuguese_headers.csv")
    assert panel.columns == {"date": "data", "units": "venda", "stock": "estoque", "price": "preco"}
    assert (count(panel, "stock_outs"), count(panel, "missing_steps"), count(panel, "zero_prices")) == (1, 6, 10)


def test_german_headers() -> None:
    panel = load("raw_exports/kiel_raw_german_headers.csv")
    assert panel.columns == {"date": "Datum", "product": "Warengruppe", "units": "Umsatz"}
    assert panel.n_series == 6
    assert count(panel, "revenue_target") == 1


def test_order_lines() -> None:
    panel = load("raw_exports/online_retail_raw_2days.csv")
    assert panel.columns["product"] == "StockCode"
    assert panel.freq == "D"
    assert count(panel, "duplicate_rows") == 110
    assert count(panel, "cancellations") == 84
    assert count(panel, "non_product_lines") == 2
    assert not any("C2" in name.split("/") for name in panel.ids)
    assert panel.static.index.str.endswith("85123A").any()
    assert np.isfinite(panel.frame["y"]).all()


def test_a_wide_table_with_day_first_dates() -> None:
    panel = load("raw_exports/pharmacy_raw_ddmmyyyy.csv")
    assert panel.static["product"].tolist() == ["M01AB", "M01AE", "N02BA", "N02BE", "N05B", "N05C", "R03", "R06"]
    assert (panel.start, panel.end) == (pd.Timestamp("2014-01-02"), pd.Timestamp("2019-10-08"))
    assert count(panel, "helper_columns") == 4
    tidy = load("pharmacy_daily.csv.gz")
    # The tidy file is rounded to four digits.
    np.testing.assert_allclose(panel.frame["y"].to_numpy(), tidy.frame["y"].to_numpy(), atol=1e-4)
