"""Synthetic retailers: the same by seed, unlike one another, and with something in common that can be learnt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from trend_common.errors import UsageError
from trend_common.panel import read
from trend_simulations.retailers import COLUMNS, SEGMENTS, SyntheticRetailer, make_retailers, write_retailers


@pytest.fixture(scope="module")
def nine() -> list[SyntheticRetailer]:
    """Nine retailers of one market over two years."""
    return make_retailers(9, seed=3)


def test_the_same_seed_gives_the_same_sales_and_another_seed_does_not(nine: list[SyntheticRetailer]) -> None:
    again = make_retailers(9, seed=3)
    for one, other in zip(nine, again, strict=True):
        pd.testing.assert_frame_equal(one.frame, other.frame)
    assert not make_retailers(1, seed=4)[0].frame.equals(nine[0].frame)


def test_a_retailer_does_not_depend_on_how_many_others_there_are(nine: list[SyntheticRetailer]) -> None:
    sizes = {one.name: one.series for one in make_retailers(9, seed=3, series=(30, 30))}
    fewer = make_retailers(4, seed=3, series=(30, 30))
    assert {one.name: one.series for one in fewer} == {one.name: sizes[one.name] for one in fewer}


def test_the_table_is_long_clean_and_complete(nine: list[SyntheticRetailer]) -> None:
    for one in nine:
        frame = one.frame
        assert tuple(frame.columns) == COLUMNS
        assert not frame.duplicated(["date", "store", "product"]).any()
        assert not frame.isna().any().any()
        assert (frame["units"] >= 0).all()
        assert (frame["price"] > 0).all()
        assert set(frame["promo"]) <= {0, 1}
        assert set(frame["holiday"]) <= {0, 1}
        assert frame.groupby(["store", "product"]).ngroups <= one.series
        assert frame["category"].isin(SEGMENTS[one.segment]).all()


def test_retailers_differ_in_size_shops_levels_promotion_and_opening_days(nine: list[SyntheticRetailer]) -> None:
    frames = [one.frame for one in nine]
    assert len({one.series for one in nine}) >= 6
    assert len({frame["store"].nunique() for frame in frames}) >= 3
    levels = [frame["units"].mean() for frame in frames]
    assert max(levels) > 4 * min(levels)
    promoted = [frame["promo"].mean() for frame in frames]
    assert max(promoted) > 2 * min(promoted)
    assert len({frame["date"].dt.dayofweek.nunique() for frame in frames}) >= 2


def test_alike_retailers_share_products_and_unlike_ones_few(nine: list[SyntheticRetailer]) -> None:
    products = {one.name: set(one.frame["product"]) for one in nine}
    alike = products["grocer-1"] & products["grocer-2"]
    assert len(alike) >= min(len(products["grocer-1"]), len(products["grocer-2"])) / 3
    described = {one.name: one.frame.drop_duplicates("product").set_index("product")["description"] for one in nine}
    for code in alike:
        assert described["grocer-1"][code] == described["grocer-2"][code]
    assert not {c for one in nine if one.segment == "grocer" for c in one.frame["category"]} & {"garden", "sun care"}


def test_promotions_sell_more_everywhere(nine: list[SyntheticRetailer]) -> None:
    for one in nine:
        frame = one.frame
        mean = frame.groupby(["store", "product"])["units"].transform("mean")
        relative = frame["units"] / mean.clip(lower=0.1)
        assert relative[frame["promo"] == 1].mean() > 1.3 * relative[frame["promo"] == 0].mean()


def test_categories_have_the_same_year_at_all_their_retailers() -> None:
    years: dict[str, list[np.ndarray]] = {}
    for one in make_retailers(6, seed=5, segments=("grocer",), series=(90, 90)):
        frame, days = one.frame, one.frame.groupby(["store", "product"])["date"]
        always = (days.transform("min") == frame["date"].min()) & (days.transform("max") == frame["date"].max())
        regular = frame[always & (frame["promo"] == 0)]
        # Against the retailer's whole, so that its own year is not taken for the category's.
        table = regular.pivot_table(index=regular["date"].dt.month, columns="category", values="units")
        for category, share in table.div(table.sum(axis=1), axis=0).items():
            years.setdefault(str(category), []).append(share.to_numpy())
    agreement = [np.corrcoef(np.stack(rows))[np.triu_indices(len(rows), 1)].mean() for rows in years.values()]
    assert np.mean(agreement) > 0.4


def test_weekly_tables_hold_the_sums_of_the_days() -> None:
    daily, weekly = make_retailers(1, seed=1)[0].frame, make_retailers(1, seed=1, freq="W")[0].frame
    assert daily["units"].sum() == weekly["units"].sum()
    assert set(weekly["date"].dt.dayofweek) == {5}


def test_files_are_written_whole_and_read_back_as_a_panel(tmp_path: Path) -> None:
    paths = write_retailers(tmp_path, 3, series=(10, 14), days=200)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in paths)
    panel = read(paths[0])
    assert panel.freq == "D"
    assert {"promo", "price", "holiday"} <= set(panel.frame.columns)
    made = make_retailers(3, series=(10, 14), days=200)[0].frame
    assert panel.frame["y"].sum() == made["units"].sum()
    assert (panel.static["description"] != "").all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "0 retailers"),
        ({"n": 1, "days": 10}, "10 days"),
        ({"n": 1, "series": (5, 2)}, "5 to 2 series"),
        ({"n": 1, "segments": ("florist",)}, "florist"),
    ],
)
def test_what_cannot_be_made_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_retailers(**arguments)  # type: ignore[arg-type]
