"""``--mask``, ``mask`` and ``unmask`` from the command line: no name in any file that is meant for sharing."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest

from trend_client.cli import main


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["trend-client", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


def test_masked_outputs_hold_no_name_and_come_back_at_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sales: pd.DataFrame, tiny_backbone: Path
) -> None:
    data, home = tmp_path / "secretchain.csv", tmp_path / "h"
    sales.to_csv(data, index=False)
    common = ["--home", str(home), "--backbone", str(tiny_backbone), "--device", "cpu"]
    assert run(monkeypatch, "forecast", "--data", str(data), "--mask", *common) == 0
    secrets = {"secretchain", *sales["store"].astype(str), *sales["product"].astype(str)} - {"all"}
    assert len(secrets) > 2
    folder = home / "output" / "masked"
    assert not (home / "output" / "forecasts.csv").exists()
    written = list(folder.iterdir())
    assert {"forecasts.csv", "forecasts.parquet", "report.html", "backtest.csv"} <= {path.name for path in written}
    for path in written:
        text = pd.read_parquet(path).to_csv() if path.suffix == ".parquet" else path.read_text("utf-8")
        found = [name for name in secrets if f">{name}<" in text or f",{name}," in text or f"/{name}" in text]
        assert not found, f"{path.name} holds {found}"
        assert "secretchain" not in text
    assert run(monkeypatch, "unmask", str(folder / "forecasts.csv"), "--home", str(home)) == 0
    back = pd.read_csv(folder / "forecasts.unmasked.csv")
    assert set(back["product"].astype(str)) == set(sales["product"].astype(str))
    assert run(monkeypatch, "unmask", str(folder / "report.html"), "--home", str(home)) == 0
    assert any(name in (folder / "report.unmasked.html").read_text("utf-8") for name in secrets)
    assert run(monkeypatch, "unmask", str(folder / "forecasts.csv"), "--home", str(tmp_path / "other")) == 2


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_is_masked_and_unmasked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    table = pd.DataFrame(
        {"unique_id": ["all/=x", "all/B,1"], "store": "all", "product": ["=x", "B,1"], "order": [1, 2]}
    )
    path, home = tmp_path / f"orders.{kind}", str(tmp_path / "h")
    if kind == "csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path)
    assert run(monkeypatch, "mask", str(path), "--home", home) == 0
    masked = tmp_path / f"orders.masked.{kind}"
    assert run(monkeypatch, "unmask", str(masked), "--home", home) == 0
    out = tmp_path / f"orders.masked.unmasked.{kind}"
    read = pd.read_csv if kind == "csv" else pd.read_parquet
    products = read(masked)["product"].tolist()
    assert all(name.startswith("P-") for name in products)
    assert read(out)["product"].tolist() == (["'=x", "B,1"] if kind == "csv" else ["=x", "B,1"])
    assert run(monkeypatch, "mask", str(tmp_path / "no.csv"), "--home", home) == 2
