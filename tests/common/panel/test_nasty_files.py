"""Files as they come out of tills, spreadsheets and shop systems: each loads, or says what to change."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from trend_common.errors import DataError
from trend_common.panel import SalesPanel, read

Writer = Callable[..., Path]


def days(count: int, start: date = date(2024, 1, 1)) -> list[date]:
    return [start + timedelta(days=step) for step in range(count)]


def codes(panel: SalesPanel) -> set[str]:
    return {finding.code for finding in panel.findings}


def y_of(panel: SalesPanel, unique_id: str) -> list[float]:
    return panel.frame.loc[panel.frame["unique_id"] == unique_id, "y"].tolist()


def test_a_german_spreadsheet_with_a_title_totals_semicolons_and_decimal_commas(write: Writer) -> None:
    body = "".join(
        f"{d:%d.%m.%Y};Brötchen;{1000 + n}{',5' if n % 2 else ',25'};0,45\n" for n, d in enumerate(days(40))
    )
    text = f"Umsatzliste Filiale Süd;;;\n;;;\nDatum;Artikel;Menge;Preis\n{body}Summe;;40.812,00;\n"
    panel = read(write(text, encoding="cp1252"))
    assert panel.ids == ("all/Brötchen",)
    assert y_of(panel, "all/Brötchen")[:3] == [1000.25, 1001.5, 1002.25]
    assert panel.frame["price"].unique().tolist() == [0.45]
    assert {"title_lines", "total_lines", "decimal_comma", "encoding"} <= codes(panel)
    assert panel.end == pd.Timestamp("2024-02-09")


def test_thousands_with_points(write: Writer) -> None:
    body = "".join(f"{d:%d.%m.%Y};1.2{n:02d},50;12.345\n" for n, d in enumerate(days(30)))
    panel = read(write(f"Datum;Umsatz;Bestand\n{body}"))
    assert y_of(panel, "all/all")[:2] == [1200.5, 1201.5]
    assert panel.frame["stock"].iloc[0] == 12345
    assert "revenue_target" in codes(panel)


def test_chinese_headers_in_gb18030(write: Writer) -> None:
    body = "".join(
        f"{d.year}年{d.month}月{d.day}日,上海店,牛奶,{n},{'是' if n % 7 == 0 else '否'}\n"
        for n, d in enumerate(days(30))
    )
    panel = read(write(f"日期,门店,商品,销量,促销\n{body}", encoding="gb18030"))
    assert panel.ids == ("上海店/牛奶",)
    assert panel.columns == {"date": "日期", "store": "门店", "product": "商品", "units": "销量", "promo": "促销"}
    assert panel.frame["promo"].tolist()[:8] == [1, 0, 0, 0, 0, 0, 0, 1]


def test_a_column_per_date(write: Writer) -> None:
    dates = days(30)
    header = ",".join(["SKU", "Description", *(f"{d:%d/%m/%Y}" for d in dates), "Total"])
    rows = [f"A{k},Mug {k}," + ",".join(str(n + k) for n in range(30)) + ",999" for k in range(3)]
    panel = read(write("\n".join([header, *rows, "Total,," + ",".join(["5"] * 31)])))
    assert panel.ids == ("all/A0", "all/A1", "all/A2")
    assert y_of(panel, "all/A2") == [float(n + 2) for n in range(30)]
    assert panel.static.loc["all/A1", "description"] == "Mug 1"
    assert {"dates_across", "total_lines", "total_columns"} <= codes(panel)


def test_a_column_per_product_with_blank_lines_and_trailing_separators(write: Writer) -> None:
    body = "".join(f"{d:%Y/%m/%d};{n};{n * 2};;\n" + ("\n" if n % 5 == 0 else "") for n, d in enumerate(days(40)))
    panel = read(write(f"Data;Pão;Leite;;\n{body};;;;\n"))
    assert panel.ids == ("all/Leite", "all/Pão")
    assert y_of(panel, "all/Leite")[-1] == 78
    assert {"wide_table", "trailing_separators", "blank_lines"} <= codes(panel)


def test_duplicated_header_names_ask_which_column_is_meant(write: Writer) -> None:
    body = "".join(f"{d},{n},{n * 10}\n" for n, d in enumerate(days(30)))
    path = write(f"date,units,units\n{body}")
    with pytest.raises(DataError, match="Several columns could hold the units sold") as caught:
        read(path)
    assert '--columns "units=units (2)"' in caught.value.hint
    assert y_of(read(path, columns={"units": "units (2)"}), "all/all")[3] == 30


def test_utf16_with_tabs_as_excel_saves_unicode_text(write: Writer) -> None:
    body = "".join(f"{d:%d.%m.%Y}\tCafé\t{n}\r\n" for n, d in enumerate(days(20)))
    panel = read(write(f"Datum\tProdukt\tAbsatz\r\n{body}", encoding="utf-16"))
    assert panel.ids == ("all/Café",)
    assert len(panel.frame) == 20


def test_us_dates_with_times_and_quoted_thousands(write: Writer) -> None:
    body = "".join(f'{d:%m/%d/%Y} 12:00:00 AM,"1,{n:03d}.50","$2.50"\n' for n, d in enumerate(days(40)))
    panel = read(write(f"Date,Sales,Unit Price\n{body}"))
    assert y_of(panel, "all/all")[1] == 1001.5
    assert panel.start == pd.Timestamp("2024-01-01")
    assert panel.frame["price"].iloc[0] == 2.5


def test_decimal_commas_in_an_unquoted_comma_file_are_explained(write: Writer) -> None:
    body = "".join(f"{d},A,{n},5\n" for n, d in enumerate(days(30)))
    with pytest.raises(DataError, match="4 cells, the header has 3 names") as caught:
        read(write(f"date,product,units\n{body}"))
    assert "semicolons" in caught.value.hint


def test_a_till_without_receipt_numbers(write: Writer) -> None:
    """A row per sale and nothing else: equal rows are further sales, not copies."""
    rng = np.random.default_rng(0)
    lines = [f"{d},{product},1\n" for d in days(60) for product in "AB" for _ in range(rng.integers(1, 9))]
    panel = read(write("date,product,quantity\n" + "".join(lines)))
    assert panel.frame["y"].sum() == len(lines)
    assert "order_lines" in codes(panel)
    assert "duplicate_rows" not in codes(panel)


def test_a_file_appended_to_itself_counts_once(write: Writer) -> None:
    body = "".join(f"{d},A,{n}\n" for n, d in enumerate(days(30)))
    panel = read(write(f"date,product,units\n{body}{body}"))
    assert y_of(panel, "all/A") == [float(n) for n in range(30)]
    assert "duplicate_rows" in codes(panel)


def test_a_portuguese_month_table(write: Writer) -> None:
    months = [
        f"{name}/{year}"
        for year in (2022, 2023)
        for name in ["jan", "fev", "mar", "abr", "mai", "jun", "jul", "ago", "set", "out", "nov", "dez"]
    ]
    body = "".join(f"{month};{n * 10}\n" for n, month in enumerate(months))
    panel = read(write(f"mês;quantidade vendida\n{body}"))
    assert (panel.freq, panel.offset, len(panel.frame)) == ("M", "MS", 24)
    assert panel.end == pd.Timestamp("2023-12-01")


def test_year_and_month_in_columns_of_their_own(write: Writer) -> None:
    body = "".join(f"{2022 + n // 12},{n % 12 + 1},X,{n}\n" for n in range(24))
    panel = read(write(f"Year,Month,Product,Units\n{body}"))
    assert (panel.freq, len(panel.frame), panel.end) == ("M", 24, pd.Timestamp("2023-12-01"))


def test_iso_weeks(write: Writer) -> None:
    body = "".join(f"2023-W{n + 1:02d};{n}\n" for n in range(52))
    panel = read(write(f"Woche;Absatz\n{body}"))
    assert (panel.freq, panel.offset, panel.start) == ("W", "W-MON", pd.Timestamp("2023-01-02"))


def test_excel_day_numbers_and_float_codes(write: Writer) -> None:
    body = "".join(f"{45292 + n},1001.0,{n}\n" for n in range(30))
    panel = read(write(f"date,sku,qty\n{body}"))
    assert panel.ids == ("all/1001",)
    assert panel.start == pd.Timestamp("2024-01-01")
    assert "excel_dates" in codes(panel)


def test_all_problems_are_told_at_once(write: Writer) -> None:
    body = "".join(f"x{n},{n},{n * 2}\n" for n in range(30))
    with pytest.raises(DataError) as caught:
        read(write(f"when,foo,bar\n{body}"), columns={"price": "cost"})
    text = str(caught.value)
    assert "no column of that name" in text
    assert "no date column" in text
    assert "3 things" in text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n\n  \n", "is empty"),
        (b"PK\x03\x04" + bytes(200), "workbook is damaged"),
        (b"\x00\x01\x02\x03\xff\xfe" * 100, "binary"),
        (b"\x1f\x8b\x08broken", "damaged gzip"),
        (b"PAR1 nothing here", "Parquet file cannot be read"),
        (b"just some words\nand more words\n", "no separator"),
        (b"2024-01-01,5\n2024-01-02,6\n", "no header line"),
        (b"date,units\n", "no rows"),
        (b"date,units\n2024-01-01,5\n", "only one date"),
        (b"date,units\n2024-01-01,0\n2024-01-02,0\n", "above zero"),
        (b"date,units\n2024-01-01,five\n2024-01-02,six\n2024-01-03,seven\n", "no column of numbers"),
        (b"date,units\nmonday,5\ntuesday,6\n", "no dates"),
        (b"product,units\nA,5\nB,6\n", "no date column"),
        (b"date,units\n13/01/2024,1\n01/13/2024,2\n14/01/2024,1\n", "mix day-first"),
        (b"date,units\n01/02/2024,1\n02/02/2024,2\n", "day first or month first"),
        (b"date,a,b,product\n2024-01-01,1,2,x\n2024-01-02,1,2,x\n", "Several columns could hold the units"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "sales.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        read(path)
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no file"):
        read(tmp_path / "nothing.csv")
    with pytest.raises(DataError, match="is a folder"):
        read(tmp_path)
