"""Large assortments in pieces: nothing is lost, nothing is run as a formula, half a file never appears."""

from __future__ import annotations

from pathlib import Path

import openpyxl
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from trend_client import stream
from trend_client.stream import TableWriter, chunks, parse_formats
from trend_common.errors import UsageError
from trend_common.panel import SalesPanel, from_frame


@pytest.mark.parametrize("size", [1, 5, 12, 100])
def test_the_pieces_are_the_panel(panel: SalesPanel, size: int) -> None:
    parts = list(chunks(panel, size))
    assert [len(part.static) for part in parts] == [min(size, 12 - start) for start in range(0, 12, size)]
    assert_frame_equal(pd.concat([part.frame for part in parts], ignore_index=True), panel.frame)
    assert sum((part.ids for part in parts), ()) == panel.ids
    for part in parts:
        assert set(part.frame["unique_id"]) == set(part.ids)


def test_plans_go_with_their_series(sales: pd.DataFrame) -> None:
    later = sales.assign(units=sales["units"].where(sales["date"] < "2024-05-10"))
    whole = from_frame(later)
    parts = list(chunks(whole, 5))
    assert_frame_equal(pd.concat([part.future for part in parts], ignore_index=True), whole.future)


def test_three_formats_hold_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_SHEET", 3)
    first = pd.DataFrame(
        {"product": ["=1+1", "Brot"], "ds": pd.to_datetime(["2024-01-01", "2024-01-02"]), "mean": [1.5, 2]}
    )
    second = first.assign(product=["Käse", "Öl"], mean=[float("nan"), 4.0])
    with TableWriter(tmp_path, "table", stream.FORMATS) as writer:
        writer.write(first)
        writer.write(second)
    whole = pd.concat([first, second], ignore_index=True)
    assert_frame_equal(pd.read_parquet(tmp_path / "table.parquet"), whole)
    csv = pd.read_csv(tmp_path / "table.csv", parse_dates=["ds"])
    safe = whole.assign(product=["'=1+1", "Brot", "Käse", "Öl"])
    assert_frame_equal(csv, safe, check_dtype=False)
    book = openpyxl.load_workbook(tmp_path / "table.xlsx")
    assert book.sheetnames == ["forecasts", "rows from 4"]
    rows = [row for sheet in book for row in sheet.iter_rows(min_row=2)]
    assert [row[0].value for row in rows] == safe["product"].tolist()
    assert {cell.data_type for row in rows for cell in row[:1]} == {"s"}, "text, no formula"
    assert rows[2][2].value is None


def test_a_failure_leaves_no_file_of_any_format(tmp_path: Path) -> None:
    def half() -> None:
        with TableWriter(tmp_path, "table", stream.FORMATS) as writer:
            writer.write(pd.DataFrame({"mean": [1.0]}))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert list(tmp_path.iterdir()) == []


def test_formats_by_name() -> None:
    assert parse_formats("xlsx, CSV") == ("csv", "xlsx")
    for wrong in ("csv,doc", "", ","):
        with pytest.raises(UsageError, match="format"):
            parse_formats(wrong)
