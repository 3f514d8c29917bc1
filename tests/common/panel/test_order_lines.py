"""Order lines become days: what was sold, what came back, and what was no product."""

from __future__ import annotations

import pandas as pd
import pytest

from trend_common.errors import DataError
from trend_common.panel import SalesPanel, from_frame

COLUMNS = ["InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice"]


def orders(*lines: tuple[object, ...]) -> SalesPanel:
    return from_frame(pd.DataFrame(list(lines), columns=COLUMNS))


def count(panel: SalesPanel, code: str) -> int:
    return sum(finding.count for finding in panel.findings if finding.code == code)


def days(panel: SalesPanel, product: str, column: str = "y") -> list[float]:
    return panel.frame.loc[panel.frame["unique_id"] == f"all/{product}", column].tolist()


FRAME = (
    ("1", "22423", "CAKE STAND", 1, "2024-01-01 09:00", 10.0),
    ("9", "22423", "CAKE STAND", 1, "2024-01-06 10:00", 10.0),
)


def test_lines_of_a_day_are_summed_and_prices_weighted_by_quantity() -> None:
    panel = orders(*FRAME, ("2", "22423", "CAKE STAND", 3, "2024-01-01 12:30", 6.0))
    assert days(panel, "22423") == [4, 0, 0, 0, 0, 1]
    assert days(panel, "22423", "price") == [7, 7, 7, 7, 7, 10]
    assert count(panel, "order_lines") == 3


def test_days_without_a_line_are_zeros_up_to_the_exports_end() -> None:
    panel = orders(*FRAME, ("3", "85123A", "HEART", 2, "2024-01-03 09:00", 1.0))
    assert days(panel, "85123A") == [2, 0, 0, 0]
    assert not panel.frame["y"].isna().any()


def test_a_cancellation_undoes_its_line_of_the_same_day_and_is_else_a_return() -> None:
    panel = orders(
        *FRAME,
        ("2", "22423", "CAKE STAND", 80000, "2024-01-02 09:00", 10.0),
        ("C3", "22423", "CAKE STAND", -80000, "2024-01-02 09:12", 10.0),
        ("C4", "22423", "CAKE STAND", -2, "2024-01-03 09:00", 10.0),
    )
    assert days(panel, "22423") == [1, 0, 0, 0, 0, 1]
    assert days(panel, "22423", "returns") == [0, 0, 2, 0, 0, 0]
    assert count(panel, "cancellations") == 2


def test_one_cancellation_undoes_one_of_two_equal_lines() -> None:
    line = ("2", "22423", "CAKE STAND", 4, "2024-01-02 09:00", 10.0)
    panel = orders(*FRAME, line, ("3", *line[1:]), ("C4", "22423", "CAKE STAND", -4, "2024-01-02 11:00", 10.0))
    assert days(panel, "22423")[1] == 4
    assert days(panel, "22423", "returns")[1] == 0


@pytest.mark.parametrize(
    ("code", "description"),
    [
        ("POST", "POSTAGE"),
        ("DOT", "DOTCOM POSTAGE"),
        ("M", "Manual"),
        ("D", "Discount"),
        ("C2", "CARRIAGE"),
        ("BANK CHARGES", "Bank Charges"),
        ("AMAZONFEE", "AMAZON FEE"),
        ("V1", "Versandkosten"),
        ("F1", "frete"),
        ("Y1", "运费"),
        ("ADJUST", "Adjustment by john"),
        ("gift_0001_20", "Dotcomgiftshop Gift Voucher £20.00"),
    ],
)
def test_what_is_no_product_is_dropped(code: str, description: str) -> None:
    panel = orders(*FRAME, ("5", code, description, 1, "2024-01-02 09:00", 18.0))
    assert panel.ids == ("all/22423",)
    assert count(panel, "non_product_lines") == 1


@pytest.mark.parametrize(
    "description", ["POSTAGE STAMP MUG", "MANUAL COFFEE GRINDER", "DELIVERY VAN TOY", "SAMPLE BOX RED", "DISCO BALL"]
)
def test_products_that_only_sound_alike_stay(description: str) -> None:
    panel = orders(*FRAME, ("5", "47566", description, 2, "2024-01-02 09:00", 3.0))
    assert days(panel, "47566") == [2, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("description", "quantity"), [("damaged", -5), ("check", 7), ("?", -3), ("", 4), ("CAKE STAND", -4)]
)
def test_free_lines_with_remarks_correct_the_stock(description: str, quantity: int) -> None:
    panel = orders(*FRAME, ("5", "22423", description, quantity, "2024-01-02 09:00", 0.0))
    assert days(panel, "22423")[1] == 0
    assert days(panel, "22423", "returns")[1] == 0
    assert count(panel, "stock_corrections") == 1


def test_a_gift_without_a_price_is_demand() -> None:
    panel = orders(*FRAME, ("5", "22423", "CAKE STAND", 2, "2024-01-02 09:00", 0.0))
    assert days(panel, "22423")[1] == 2
    assert days(panel, "22423", "price")[1] == 10


def test_codes_are_one_whatever_their_case_and_padding() -> None:
    panel = orders(
        *FRAME,
        ("5", " 85123a ", "HEART", 2, "2024-01-02 09:00", 1.0),
        ("6", "85123A", "HEART  RED ", 3, "2024-01-02 10:00", 1.0),
        ("7", "85123A", "HEART RED", 3, "2024-01-03 10:00", 1.0),
    )
    assert days(panel, "85123A")[:2] == [5, 3]
    assert panel.static.loc["all/85123A", "description"] == "HEART RED"
    assert {"code_case", "padded_text", "several_descriptions"} <= {finding.code for finding in panel.findings}


def test_identical_lines_of_one_order_count_once() -> None:
    panel = orders(*FRAME, FRAME[0])
    assert days(panel, "22423")[0] == 1
    assert count(panel, "duplicate_rows") == 1


def test_a_product_that_only_came_back_has_no_series() -> None:
    panel = orders(*FRAME, ("C5", "11111", "LAMP", -1, "2024-01-02 09:00", 3.0))
    assert panel.ids == ("all/22423",)
    assert count(panel, "no_history") == 1


def test_hourly_totals_are_days_without_being_receipts() -> None:
    hours = pd.date_range("2024-01-01", periods=24 * 30, freq="h")
    panel = from_frame(pd.DataFrame({"timestamp": hours, "units": 1.0}))
    assert set(panel.frame["y"]) == {24.0}
    codes = {finding.code for finding in panel.findings}
    assert "sub_daily" in codes
    assert "order_lines" not in codes


def test_orders_of_a_single_day_are_refused() -> None:
    with pytest.raises(DataError, match="one day"):
        orders(FRAME[0])
