"""The headers of well-known systems and data sets, each with a few made-up rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from trend_common.errors import DataError
from trend_common.panel import SalesPanel, read

Writer = Callable[..., Path]
DAYS = pd.date_range("2015-01-01", periods=60)


def codes(panel: SalesPanel) -> set[str]:
    return {finding.code for finding in panel.findings}


def test_a_drugstore_chain_with_an_open_column(write: Writer) -> None:
    rows = "".join(
        f'{s},{d.weekday() + 1},{d.date()},{5000 * (d.weekday() != 6)},500,{int(d.weekday() != 6)},1,"0","1"\n'
        for s in (1, 2)
        for d in DAYS
    )
    header = "Store,DayOfWeek,Date,Sales,Customers,Open,Promo,StateHoliday,SchoolHoliday\n"
    panel = read(write(header + rows))
    assert panel.ids == ("1/all", "2/all")
    assert panel.columns["holiday"] == "StateHoliday"
    assert panel.frame["closed"].sum() == 2 * sum(d.weekday() == 6 for d in DAYS)
    assert {"customers_column", "closed_flag"} <= codes(panel)


def test_departments_by_week_with_a_holiday_in_words(write: Writer) -> None:
    weeks = pd.date_range("2010-02-05", periods=60, freq="W-FRI")
    rows = "".join(
        f"{s},{k},{d.date()},24924.5,{'TRUE' if i == 3 else 'FALSE'}\n"
        for s in "12"
        for k in "34"
        for i, d in enumerate(weeks)
    )
    panel = read(write("Store,Dept,Date,Weekly_Sales,IsHoliday\n" + rows))
    assert panel.ids == ("1/3", "1/4", "2/3", "2/4")
    assert (panel.offset, panel.frame["holiday"].sum()) == ("W-FRI", 4)


def test_an_office_supplier_with_twenty_columns(write: Writer) -> None:
    header = (
        "Row ID,Order ID,Order Date,Ship Date,Ship Mode,Customer ID,Customer Name,Segment,Country,City,State,"
        "Postal Code,Region,Product ID,Category,Sub-Category,Product Name,Sales,Quantity,Discount,Profit\n"
    )
    rows = "".join(
        f"{i},CA-{i // 2},{d:%m/%d/%Y},{d:%m/%d/%Y},Second Class,CG-1,Ann,Consumer,US,Henderson,"
        f'Kentucky,42420,South,FUR-{i % 3},Furniture,Bookcases,"Shelf, {i % 3}",261.96,{1 + i % 4},0.2,41.9\n'
        for i, d in enumerate(DAYS)
    )
    panel = read(write(header + rows))
    assert panel.columns["date"] == "Order Date"
    assert panel.columns["units"] == "Quantity"
    assert panel.ids == ("all/FUR-0", "all/FUR-1", "all/FUR-2")
    assert panel.static["description"].tolist() == ["Shelf, 0", "Shelf, 1", "Shelf, 2"]
    assert "personal_columns" in codes(panel)


def test_a_marketplace_report_with_tabs(write: Writer) -> None:
    rows = "".join(f"111-{i}\t{d.date()}T10:{i:02d}:33+00:00\tA{i % 2}\t1\t9.90\n" for i, d in enumerate(DAYS))
    panel = read(write("amazon-order-id\tpurchase-date\tsku\tquantity\titem-price\n" + rows))
    assert panel.columns == {
        "date": "purchase-date",
        "product": "sku",
        "price": "item-price",
        "order": "amazon-order-id",
        "units": "quantity",
    }


def test_orders_without_quantities_are_counted(write: Writer) -> None:
    rows = "".join(f"o{i},{d.date()} 10:{i:02d}:11,p,9.9,1\n" * 2 for i, d in enumerate(DAYS))
    panel = read(write("order_id,order_purchase_timestamp,product_id,price,freight_value\n" + rows))
    assert set(panel.frame["y"]) == {2.0}
    assert {"counted_lines", "unused_columns"} <= codes(panel)


def test_year_and_week_in_columns_of_their_own(write: Writer) -> None:
    panel = read(write("Jahr;KW;Artikel;Menge\n" + "".join(f"2023;{w};A;{w}\n" for w in range(1, 53))))
    assert (panel.offset, panel.start, len(panel.frame)) == ("W-MON", pd.Timestamp("2023-01-02"), 52)


def test_a_stall_that_opens_on_two_days_a_week(write: Writer) -> None:
    days = pd.date_range("2015-01-01", periods=120)
    panel = read(write("date,units\n" + "".join(f"{d.date()},5\n" for d in days if d.weekday() in (4, 5))))
    assert panel.freq == "D"
    assert panel.frame["closed"].equals(~panel.frame["ds"].dt.weekday.isin([4, 5]))


def test_one_mistyped_year_is_pointed_out_and_invents_no_zeros(write: Writer) -> None:
    panel = read(write("date,units\n" + "".join(f"{d.date()},5\n" for d in DAYS) + "2051-01-01,5\n"))
    assert "far_dates" in codes(panel)
    assert not (panel.frame["y"] == 0).any()


def test_a_store_named_once_per_block_is_refused_with_a_way_out(write: Writer) -> None:
    rows = "".join(f"{'Nord' if i == 0 else ''};{d:%d.%m.%Y};{i}\n" for i, d in enumerate(DAYS))
    with pytest.raises(DataError, match="59 of 60 rows") as caught:
        read(write("Filiale;Datum;Absatz\n" + rows))
    assert "--columns store=-" in caught.value.hint


def test_every_column_may_be_quoted_and_hold_the_separator(write: Writer) -> None:
    rows = "".join(f'"{d.date()}";"A;B";"00{i % 2}";"{i + 1}";"1.{i:03d},00"\n' for i, d in enumerate(DAYS))
    panel = read(write('"Date";"Store Name";"SKU";"Qty Sold";"Net Sales (EUR)"\n' + rows, encoding="utf-8-sig"))
    assert panel.ids == ("A;B/000", "A;B/001")
    assert "units_over_revenue" in codes(panel)
