"""Workbooks: the sheet that fits, types, titles, merged cells, formulas."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pytest

from trend_common.errors import DataError, UsageError
from trend_common.panel import SalesPanel, read

DAYS = [datetime(2024, 1, 1) + timedelta(days=step) for step in range(60)]
HEADER = ["Date", "Store", "SKU", "Units", "Price"]


def sales(days: Sequence[datetime] = DAYS, store: str = "North", more: int = 0) -> list[list[Any]]:
    return [[day, store, 1001 + k, n % 5 + k + more, 2.5] for n, day in enumerate(days) for k in (0, 1)]


def save(path: Path, merged: str = "", **sheets: list[list[Any]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.worksheets[0])
    for name, lines in sheets.items():
        sheet = book.create_sheet(name)
        for line in lines:
            sheet.append(line)
        if merged:
            sheet.merge_cells(merged)
    book.save(path)
    return path


def codes(panel: SalesPanel) -> dict[str, str]:
    return {finding.code: finding.message for finding in panel.findings}


def test_a_workbook_says_the_same_as_its_csv(tmp_path: Path) -> None:
    path = save(tmp_path / "sales.xlsx", Sales=[["Sales of the north"], [], HEADER, *sales()])
    text = tmp_path / "sales.csv"
    pd.DataFrame(sales(), columns=HEADER).to_csv(text, index=False)
    panel = read(path)
    pd.testing.assert_frame_equal(panel.frame, read(text).frame)
    assert panel.ids == ("North/1001", "North/1002")
    assert "title_lines" in codes(panel)


def test_the_name_does_not_matter(tmp_path: Path) -> None:
    path = save(tmp_path / "sales.xlsx", Sales=[HEADER, *sales()]).rename(tmp_path / "sales.csv")
    assert read(path).n_series == 2


def test_of_several_sheets_the_one_that_fits_is_read_and_said(tmp_path: Path) -> None:
    notes = [["Contact", "Phone"], ["Anna", "123"], *[["Ben", str(n)] for n in range(300)]]
    path = save(tmp_path / "book.xlsx", Notes=notes, May=[HEADER, *sales()], Old=[HEADER, *sales(DAYS[:20])])
    panel = read(path)
    assert panel.rows == 120
    message = codes(panel)["sheets"]
    assert "'May' is read, not 'Notes', 'Old'" in message
    assert "1 of them could be read, too" in message
    assert read(path, sheet="Old").rows == 40
    with pytest.raises(UsageError, match="no sheet 'June'") as caught:
        read(path, sheet="June")
    assert "'Old'" in caught.value.hint
    with pytest.raises(DataError, match="no date column"):
        read(path, sheet="Notes")


def test_a_sheet_for_each_month(tmp_path: Path) -> None:
    path = save(
        tmp_path / "book.xlsx", Jan=[HEADER, *sales(DAYS[:31])], Feb=[HEADER, *sales(DAYS[31:])], Info=[["a", "b"]]
    )
    panel = read(path, sheet="*")
    assert panel.rows == 120
    assert (panel.start, panel.end) == (pd.Timestamp("2024-01-01"), pd.Timestamp("2024-02-29"))


def test_a_hidden_sheet_is_not_read_unless_it_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "book.xlsx", Raw=[HEADER, *sales(more=5)], Sales=[HEADER, *sales(DAYS[:20])])
    book = openpyxl.load_workbook(path)
    book["Raw"].sheet_state = "hidden"
    book.save(path)
    assert read(path).rows == 40
    assert read(path, sheet="Raw").rows == 120


def test_a_column_per_date_with_real_dates(tmp_path: Path) -> None:
    lines = [["Artikel", *DAYS], ["A", *range(60)], ["B", *range(60)]]
    panel = read(save(tmp_path / "wide.xlsx", Tabelle1=lines))
    assert panel.ids == ("all/A", "all/B")
    assert panel.end == pd.Timestamp("2024-02-29")
    assert panel.frame["y"].sum() == 2 * sum(range(60))


def test_columns_of_mixed_types_and_errors(tmp_path: Path) -> None:
    body = [[day.date(), "7,5" if n == 3 else n, "x" if n % 7 == 0 else None] for n, day in enumerate(DAYS)]
    body[9][1] = "n/a"
    panel = read(save(tmp_path / "mixed.xlsx", S=[["Datum", "Menge", "Aktion"], *body]), decimal=",")
    y = panel.frame["y"]
    assert (y[3], y[2], bool(pd.isna(y[9]))) == (7.5, 2.0, True)
    assert panel.frame["promo"].tolist()[:8] == [1, 0, 0, 0, 0, 0, 0, 1]


def test_a_store_beside_a_block_of_rows(tmp_path: Path) -> None:
    lines = [["Store", "Date", "Units"], *[["North" if n == 0 else None, day, n] for n, day in enumerate(DAYS)]]
    path = save(tmp_path / "blocks.xlsx", merged="A2:A61", S=lines)
    panel = read(path)
    assert panel.ids == ("North/all",)
    assert "merged_cells" in codes(panel)


def formulas(tmp_path: Path, *, values: bool) -> Path:
    path = save(tmp_path / "f.xlsx", S=[["Date", "Units"], *[[day, f"=1+{n}"] for n, day in enumerate(DAYS)]])
    if values:
        out = io.BytesIO()
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
            for part in old.namelist():
                content = old.read(part)
                if part.endswith("sheet1.xml"):
                    content = content.replace(b"<v></v>", b"<v>7</v>").replace(b"<v />", b"<v>7</v>")
                new.writestr(part, content)
        path.write_bytes(out.getvalue())
    return path


def test_of_formulas_the_saved_values_count(tmp_path: Path) -> None:
    panel = read(formulas(tmp_path, values=True))
    assert panel.frame["y"].tolist() == [7.0] * 60
    assert codes(panel)["formulas"].startswith("60 cell(s)")


def test_formulas_without_values_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="60 of 60 formulas in sheet 'S'") as caught:
        read(formulas(tmp_path, values=False))
    assert "save it there" in caught.value.hint


def test_an_old_workbook() -> None:
    panel = read(Path(__file__).parent / "old.xls")
    assert panel.columns == {"date": "Datum", "product": "Artikel", "units": "Menge"}
    assert panel.start == pd.Timestamp(date(2024, 1, 1))
    assert panel.frame["y"].sum() == sum(range(40))


def test_a_sheet_of_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "sales.csv"
    path.write_text("date,units\n2024-01-01,5\n2024-01-02,6\n", "utf-8")
    with pytest.raises(UsageError, match="no workbook"):
        read(path, sheet="S")


def test_no_sheet_has_a_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No sheet holds a table"):
        read(save(tmp_path / "empty.xlsx", S=[]))
