"""What other commands left is shown while it is true, and never in the way of a report."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pytest

from trend_client.home import ClientHome, DataSource
from trend_client.outcome import Wishes
from trend_client.report.gather import gathered, table_of
from trend_common.errors import UsageError

LATER = 1_700_000_000


@pytest.fixture
def home(tmp_path: Path) -> ClientHome:
    sales = tmp_path / "sales.csv"
    sales.write_text("date,product,units\n")
    os.utime(sales, (LATER, LATER))
    one = ClientHome(tmp_path / "home")
    one.save_data_source(DataSource(path=str(sales)))
    return one


def written(path: Path, age: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"unique_id": ["007"], "order": [3.0]}).to_csv(path, index=False)
    os.utime(path, (LATER - age, LATER - age))
    return path


def test_orders_of_these_sales_are_shown_and_older_ones_are_not(home: ClientHome, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    written(folder / "orders.csv", age=-60)
    found = gathered(home, folder, ())["orders"]
    assert list(found["unique_id"]) == ["007"], "names stay text"
    written(folder / "orders.csv", age=60)
    assert gathered(home, folder, ())["orders"] is None


def test_without_the_sales_file_nobody_knows_how_old_orders_are(home: ClientHome, tmp_path: Path) -> None:
    written(tmp_path / "out" / "orders.csv", age=-60)
    Path(tmp_path / "sales.csv").unlink()
    assert gathered(home, tmp_path / "out", ())["orders"] is None


def test_seasons_are_read_from_the_json_of_their_command(home: ClientHome, tmp_path: Path) -> None:
    row = dict.fromkeys(("name", "start", "peak", "end", "total", "order", "seasonal"), "x")
    path = tmp_path / "out" / "season.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"seasons": [row, {"name": "half"}]}))
    os.utime(path, (LATER + 60, LATER + 60))
    assert gathered(home, path.parent, ())["seasons"] == [row]
    os.utime(path, (LATER - 60, LATER - 60))
    assert gathered(home, path.parent, ())["seasons"] is None
    path.write_text("[1]")
    assert gathered(home, path.parent, ())["seasons"] is None


def test_advice_is_read_from_the_json_of_its_command(home: ClientHome, tmp_path: Path) -> None:
    row = dict.fromkeys(("action", "unique_id", "gain", "low", "high", "reason"), "x")
    path = tmp_path / "out" / "recommend.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"gain_in": "units", "advice": [row, {"action": "x"}, 3]}))
    assert gathered(home, path.parent, ())["recommendations"] == {
        "gain_in": "units",
        "language": "en",
        "advice": [row],
    }
    path.write_text("{}")
    assert gathered(home, path.parent, ())["recommendations"] is None


def test_trends_are_those_of_this_run(home: ClientHome, tmp_path: Path) -> None:
    path = written(tmp_path / "out" / "trend.csv", age=0)
    assert gathered(home, tmp_path / "out", ())["trends"] is None
    assert gathered(home, tmp_path / "out", (path,))["trends"] is not None


def test_a_file_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    broken = tmp_path / "trend.parquet"
    broken.write_bytes(b"no parquet")
    assert table_of([broken]) is None
    assert table_of([broken, written(tmp_path / "trend.csv", age=0)]) is not None


def test_a_language_that_there_is_not_is_refused_before_anything_is_computed() -> None:
    with pytest.raises(UsageError, match="'fr'"):
        Wishes(language="fr")
