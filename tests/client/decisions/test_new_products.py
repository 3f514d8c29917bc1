"""Products without history: their file, whom they are likened to, and the slide from text to history."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from trend_client.decisions.newproducts import HALF_WAY, read_new, slid, with_new
from trend_client.engine import Engine
from trend_client.siblings import Siblings
from trend_common.errors import DataError
from trend_common.panel import SalesPanel, from_frame
from trend_common.windows import PanelWindows


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_row_without_a_store_is_for_every_store(panel: SalesPanel, tmp_path: Path) -> None:
    text = "sku;description;Preis;Launch date\nn1;red lamp;2,50;2024-06-30\nn2;blue lamp;;\n"
    found = read_new(write(tmp_path / "new.csv", text), panel)
    assert found["unique_id"].tolist() == ["s0/n1", "s1/n1", "s0/n2", "s1/n2"]
    assert found["price"].tolist()[:2] == [2.5, 2.5]
    assert found["launch"].tolist() == [pd.Timestamp("2024-06-30")] * 2 + [panel.end + pd.Timedelta(days=1)] * 2
    wider = with_new(panel, found, 7)
    assert wider.static.loc["s1/n1", "description"] == "red lamp"
    assert wider.frame is panel.frame
    planned = wider.future[wider.future["unique_id"] == "s0/n1"]
    assert planned["price"].tolist() == [2.5] * 7
    assert planned["ds"].iloc[0] == pd.Timestamp("2024-06-30")


@pytest.mark.parametrize(
    ("text", "found", "hint"),
    [
        ("product,description\nn1,\n", "'description' is empty in line 2", "words"),
        ("product\tdescription\tprice\nn1\tlamp\t-1\n", "not above 0 in line 2", "empty"),
        ("product,description,expected\nn1,lamp,0\n", "'level' is not above 0 in line 2", "empty"),
        ("product,description,category\nn1,lamp,c9\n", "category 'c9'", "leave the cell empty"),
        ("product,description,store\nn1,lamp,s7\n", "nearest name is 's", "every store"),
        ("product,description,launch\nn1,lamp,soon\n", "launch", "YYYY-MM-DD"),
        ("product,description,launch\nn1,lamp,2031-01-01\n", "more than a year away", "date"),
        ("product,description,store\nn1,lamp,s1\nn1,lamp,\n", "several rows", "one row"),
        ("product,words\nn1,lamp\n", "no column 'description'", "header"),
    ],
)
def test_a_faulty_file_is_refused(panel: SalesPanel, tmp_path: Path, text: str, found: str, hint: str) -> None:
    with pytest.raises(DataError) as error:
        read_new(write(tmp_path / "new.csv", text), panel)
    assert found in error.value.message
    assert hint in error.value.hint


def test_the_level_comes_from_the_peers_that_are_shown(sales: pd.DataFrame) -> None:
    late = (sales["product"] == "p5") & (sales["date"] < "2024-05-18")
    panel = from_frame(sales[~late])
    windows = PanelWindows(panel, context=56)
    siblings = Siblings(windows)
    row = windows.ids.index("s0/p5")
    peers = siblings.peers(row, windows.n_steps)
    assert peers is not None
    assert peers.reason == "description"
    assert row not in peers.rows
    assert list(peers.likeness) == sorted(peers.likeness, reverse=True)
    assert siblings.hint(row, windows.n_steps) == pytest.approx(float(peers.levels.mean()))
    assert siblings.peers(row, 0) is None


def test_the_forecast_slides_from_words_to_history(sales: pd.DataFrame, tiny_backbone: Path) -> None:
    engine = Engine(str(tiny_backbone), device="cpu")

    def made(days: int, factor: float) -> tuple[float, float]:
        start = pd.Timestamp("2024-05-19") - pd.Timedelta(days=days - 1)
        frame = sales[(sales["product"] != "p5") | (sales["date"] >= start)].copy()
        frame.loc[(frame["product"] == "p5") & (frame["store"] == "s0"), "units"] *= factor
        windows = PanelWindows(from_frame(frame), context=56)
        row = np.array([windows.ids.index("s0/p5")])
        own = engine.forecast(None, windows, windows.n_steps, 7, rows=row)
        return float(slid(engine, None, windows, windows.n_steps, 7, row).mean.sum()), float(own.mean.sum())

    for days in (8, 24):
        (once, own_once), (tenfold, own_tenfold) = made(days, 1), made(days, 10)
        # Another history of this product moves its own part alone: by the weight of history, exactly.
        weight = days / (days + HALF_WAY)
        assert tenfold - once == pytest.approx(weight * (own_tenfold - own_once), rel=1e-4)
    whole, own = made(100, 1)
    assert whole == own


def test_a_stated_level_goes_before_the_products_alike(sales: pd.DataFrame, tiny_backbone: Path) -> None:
    engine = Engine(str(tiny_backbone), device="cpu")
    late = (sales["product"] == "p5") & (sales["date"] < "2024-05-18")

    def made(others: float, stated: float) -> float:
        frame = sales[~late].copy()
        frame.loc[frame["product"] != "p5", "units"] *= others
        windows = PanelWindows(from_frame(frame), context=56)
        row = np.array([windows.ids.index("s0/p5")])
        level = np.array([stated], dtype=np.float32)
        return float(slid(engine, None, windows, windows.first[row[0]], 7, row, level).mean.sum())

    assert made(1, 0) != made(3, 0), "else the products alike would play no part at all"
    assert made(1, 5) == made(3, 5)
    assert made(1, 50) > made(1, 5)


def test_the_command(sales: pd.DataFrame, tiny_backbone: Path, tmp_path: Path) -> None:
    from trend_client.cli import app

    sales.to_csv(tmp_path / "sales.csv", index=False)
    new = write(
        tmp_path / "new.csv",
        "product,store,description,price,launch,level\nn1,s0,product number 7,2,2024-06-10,\n"
        "p1,s1,product number 1,2,,\nn2,s0,something else,,,40\n",
    )
    home, out = tmp_path / "home", tmp_path / "out.json"
    given = ["newproducts", "--new", str(new), "--horizon", "5", "--data", str(tmp_path / "sales.csv")]
    common = ["--home", str(home), "--backbone", str(tiny_backbone), "--json", str(out)]
    done = CliRunner().invoke(app, [*given, *common])
    assert done.exit_code == 0, done.output
    one, other, stated = json.loads(out.read_text())["products"]
    assert (one["launch"], one["known_values"], one["weight_of_history"]) == ("2024-06-10", 0, 0)
    assert one["level_from"] == "description"
    assert one["similar"][0]["level"] > 0
    assert (other["known_values"], other["level_from"]) == (140, "other stores")
    assert (stated["level_from"], stated["similar"]) == ("stated", [])
    table = pd.read_csv(home / "output" / "newproducts.csv")
    assert list(table.columns[:4]) == ["unique_id", "store", "product", "ds"]
    assert table.groupby("unique_id").size().tolist() == [5, 5, 5]
