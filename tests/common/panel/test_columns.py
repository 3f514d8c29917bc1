"""Columns are recognised by their names in four languages, and never against a person's word."""

from __future__ import annotations

import pandas as pd
import pytest

from trend_common.errors import DataError, UsageError
from trend_common.panel import SalesPanel, from_frame
from trend_common.panel.vocabulary import MAPPABLE, known_role, match, plain

DATES = pd.date_range("2024-01-01", periods=30)


def load(columns: dict[str, str] | None = None, **cells: object) -> SalesPanel:
    return from_frame(pd.DataFrame({"date": DATES, **cells}), columns=columns)


def codes(panel: SalesPanel) -> set[str]:
    return {finding.code for finding in panel.findings}


@pytest.mark.parametrize(
    ("role", "names"),
    [
        ("date", "date Datum data 日期 InvoiceDate order_date Verkaufsdatum ds"),
        (
            "units",
            "units Menge Absatz venda vendas quantidade 销量 数量 Quantity qty Stückzahl Stueckzahl unit_sales y",
        ),
        ("revenue", "Umsatz revenue turnover faturamento 销售额 Umsätze"),
        ("store", "store Filiale loja 门店 store_nbr Standort Country"),
        ("product", "product SKU Artikel produto 商品 StockCode item_id Artikel-Nr."),
        ("price", "price Preis preco preço 价格 单价 UnitPrice Verkaufspreis"),
        ("promo", "promo Aktion promoção promocao 促销 onpromotion"),
        ("category", "category Kategorie categoria 类别 Warengruppe Dept"),
        ("description", "Description Beschreibung descrição 商品名称 Artikelbezeichnung product_name"),
        ("holiday", "holiday Feiertag feriado 节假日 IsHoliday StateHoliday"),
        ("stock", "stock Bestand estoque 库存 Lagerbestand"),
        ("returns", "returns Retouren devoluções 退货"),
        ("order", "InvoiceNo order_id Bestellnummer 订单号 pedido Bonnummer"),
        ("customers", "customers Kunden visitors transactions footfall sessions clientes 客流"),
        ("personal", "CustomerID customer_name Kundennummer e-mail 会员"),
        ("calendar", "Year Month-Name Hour WeekdayName Wochentag 星期 DayOfWeek"),
    ],
)
def test_names(role: str, names: str) -> None:
    for name in names.split():
        assert known_role(name) == role, name


def test_words_inside_longer_names() -> None:
    expected = {
        "Umsatz in EUR": "revenue",
        "Menge (Stk)": "units",
        "Anzahl Kunden": "customers",
        "销售数量(件)": "units",
        "Verkaufspreis brutto": "price",
        "Data da Compra": "date",
    }
    for name, role in expected.items():
        hit = match(name)
        assert hit is not None
        assert hit.role == role
    assert match("M01AB") is None
    assert plain("  ÜnitPrice (€) ") == "unit_price"


def test_units_are_preferred_to_revenue() -> None:
    panel = load(Umsatz=range(30), Menge=range(1, 31))
    assert panel.columns["units"] == "Menge"
    assert panel.frame["y"].sum() == sum(range(1, 31))
    assert "units_over_revenue" in codes(panel)
    assert "revenue_target" in codes(load(Umsatz=range(30)))


def test_a_person_overrides_the_names() -> None:
    panel = load({"units": "Umsatz", "store": "-"}, Umsatz=range(30), Menge=1, store="A")
    assert panel.columns["units"] == "Umsatz"
    assert panel.ids == ("all/all",)


def test_customers_are_never_an_input_and_people_are_never_read() -> None:
    panel = load(units=5, customers=range(30), CustomerID="c1", Kunden=3)
    assert set(panel.frame.columns) == {"unique_id", "ds", "y", "closed"}
    assert {"customers_column", "personal_columns"} <= codes(panel)


def test_equal_claims_ask_with_the_flag_that_settles_them() -> None:
    with pytest.raises(DataError, match="'Menge', 'Absatz'") as caught:
        load(Menge=range(30), Absatz=range(30, 60))
    assert '--columns "units=Menge"' in caught.value.hint
    assert load(Menge=range(30), Absatz=range(30)).columns["units"] == "Menge"


def test_codes_before_names_and_groups() -> None:
    panel = load(units=5, product_name="Mug", sku="A1", Warengruppe="Cups")
    assert panel.ids == ("all/A1",)
    assert panel.static.loc[["all/A1"]].to_numpy().tolist()[0] == ["all", "A1", "Cups", "Mug"]
    assert load(units=5, Warengruppe="Cups").ids == ("all/Cups",)
    panel = load(units=5, description="Mug")
    assert panel.ids == ("all/Mug",)
    assert "guessed_column" in codes(panel)


def test_one_number_left_is_the_target_and_several_ask() -> None:
    assert load(foo=range(30), product="A").columns["units"] == "foo"
    with pytest.raises(DataError, match="'foo', 'bar'"):
        load(foo=range(30), bar=range(30), product="A")


def test_a_country_stands_in_for_a_store_but_two_places_do_not() -> None:
    assert load(units=5, Country="EIRE").ids == ("EIRE/all",)
    assert load(units=5, Country="EIRE", City="Cork").ids == ("all/all",)


def test_slashes_in_names_keep_ids_apart() -> None:
    frame = pd.DataFrame(
        {"date": list(DATES) * 2, "store": ["a/b"] * 30 + ["a"] * 30, "product": ["c"] * 30 + ["b/c"] * 30}
    )
    panel = from_frame(frame.assign(units=1))
    assert panel.ids == ("a%2Fb/c", "a/b%2Fc")
    assert panel.static.loc["a%2Fb/c", "store"] == "a/b"


def test_a_frame_with_unique_ids_keeps_them() -> None:
    panel = from_frame(pd.DataFrame({"unique_id": ["s/p"] * 30 + ["solo"] * 30, "ds": list(DATES) * 2, "y": 1.0}))
    assert panel.ids == ("s/p", "solo")
    assert panel.static.loc[["s/p"], ["store", "product"]].to_numpy().tolist()[0] == ["s", "p"]
    assert panel.static.loc[["solo"], ["store", "product"]].to_numpy().tolist()[0] == ["", "solo"]


def test_mappings_that_make_no_sense() -> None:
    with pytest.raises(UsageError, match="no role 'unit'") as caught:
        load({"unit": "x"}, units=1)
    assert all(role in caught.value.hint for role in MAPPABLE)
    with pytest.raises(DataError, match="no column of that name"):
        load({"units": "nope"}, units=1)
    assert load({"units": "my sales"}, My_Sales=1, other=2).columns["units"] == "My_Sales"
