"""Masked names: the same everywhere, nothing without the key, and back again at home."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trend_common.errors import UsageError
from trend_common.masking import Mask
from trend_common.panel import SalesPanel, from_frame
from trend_common.panel.model import series_id

NAMES = ("Café/Crème", "100% Juice", "=cmd|x")


def panel() -> SalesPanel:
    days = pd.date_range("2024-01-01", periods=60)
    parts = [
        pd.DataFrame(
            {
                "date": days,
                "store": store,
                "product": name,
                "units": np.arange(60) + n,
                "category": "Drinks",
                "description": f"A fine {name}",
            }
        )
        for n, name in enumerate(NAMES)
        for store in ("Berlin", "Köln")
    ]
    return from_frame(pd.concat(parts))


def test_a_masked_panel_has_the_figures_and_no_name(tmp_path: Path) -> None:
    plain = panel()
    masked = Mask(tmp_path).panel(plain)
    text = masked.frame.to_csv() + masked.static.to_csv() + repr(masked)
    for secret in (*NAMES, "Berlin", "Köln", "Drinks", "fine"):
        assert secret not in text
    assert masked.name == "masked"
    assert list(masked.ids) == sorted(masked.ids)
    assert sorted(masked.frame["y"]) == sorted(plain.frame["y"])
    # Each series is still one series, in order, and its store and product are its id's.
    for name, rows in masked.frame.groupby("unique_id"):
        assert rows["ds"].is_monotonic_increasing
        assert series_id(*masked.static.loc[name, ["store", "product"]]) == name
    assert masked.static["store"].nunique() == 2
    assert masked.static["product"].nunique() == 3


def test_masks_stay_the_same_and_depend_on_the_key(tmp_path: Path) -> None:
    first = Mask(tmp_path / "a").panel(panel()).ids
    assert Mask(tmp_path / "a").panel(panel()).ids == first
    assert not set(Mask(tmp_path / "b").panel(panel()).ids) & set(first)
    for name in ("mask-key", "mask-names.json"):
        assert stat.S_IMODE((tmp_path / "a" / name).stat().st_mode) == 0o600
    # A product and a store of the same name do not show it.
    mask = Mask(tmp_path / "c")
    assert mask.names("store", ["X"])["X"][2:] != mask.names("product", ["X"])["X"][2:]


def test_a_table_goes_there_and_back(tmp_path: Path) -> None:
    rows = [(series_id(s, p), s, p, 1.5) for s in ("Berlin", "all") for p in NAMES]
    table = pd.DataFrame(rows, columns=["unique_id", "store", "product", "mean"])
    mask = Mask(tmp_path)
    masked = mask.frame(table)
    assert not set(masked["product"]) & set(NAMES)
    assert set(masked["store"]) > {"all"}
    pd.testing.assert_frame_equal(Mask(tmp_path).reveal_frame(masked), table)
    pd.testing.assert_frame_equal(Mask(tmp_path / "elsewhere").reveal_frame(masked), masked)


def test_ids_that_are_no_pair_are_masked_whole(tmp_path: Path) -> None:
    days = pd.date_range("2024-01-01", periods=60)
    plain = from_frame(pd.DataFrame({"unique_id": "my id", "ds": days, "y": 1.0}))
    mask = Mask(tmp_path)
    (name,) = mask.panel(plain).ids
    assert "my id" not in name
    assert mask.reveal(name, encode=True) == "my id"


def test_html_is_escaped_on_the_way_back(tmp_path: Path) -> None:
    mask = Mask(tmp_path)
    given = mask.names("product", ["<b>x</b>"])["<b>x</b>"]
    assert mask.reveal(f"<td>{given}</td>", markup=True) == "<td>&lt;b&gt;x&lt;/b&gt;</td>"


def test_two_names_never_share_a_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trend_common.masking._LETTERS", 1)  # 32 masks for 200 names
    mask = Mask(tmp_path)
    masks = mask.names("product", [f"P{n}" for n in range(200)])
    assert len(set(masks.values())) == 200


def test_a_damaged_key_is_said(tmp_path: Path) -> None:
    (tmp_path / "mask-key").write_bytes(b"short")
    with pytest.raises(UsageError, match="damaged"):
        Mask(tmp_path).names("store", ["X"])


@given(name=st.text(min_size=1, max_size=30))
def test_any_name_comes_back(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    mask = Mask(tmp_path_factory.mktemp("home"))
    given = mask.names("product", [name])[name]
    assert mask.reveal(f" {given}.") == f" {name}."
