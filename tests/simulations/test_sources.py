"""Where retailers come from: files, one file split by its stores, synthetic ones; and what history leaves of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from trend_common.errors import DataError, UsageError
from trend_simulations.sources import fingerprint, from_files, from_split, last_history, synthetic


def weekly(stores: int = 5, products: int = 3, weeks: int = 60, short: int = 0) -> pd.DataFrame:
    """A chain's weekly sales; the last ``short`` stores close ten weeks early."""
    dates = pd.date_range("2023-01-06", periods=weeks, freq="W-FRI")
    rows = []
    for store in range(stores):
        last = weeks - 10 if store >= stores - short else weeks
        for product in range(products):
            rows += [
                {"date": date, "store": str(store + 1), "product": f"p{product}", "units": 5 + (week + store) % 4}
                for week, date in enumerate(dates[:last])
            ]
    return pd.DataFrame(rows)


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """A file of twelve stores."""
    path = tmp_path / "chain.csv"
    weekly(12).to_csv(path, index=False)
    return path


def test_each_store_becomes_a_retailer_with_its_own_series_alone(chain: Path) -> None:
    found = from_split(chain)
    assert [one.name for one in found] == [f"store-{number}" for number in range(1, 13)]
    for one in found:
        assert set(one.panel.static["store"]) == {one.name.removeprefix("store-")}
        assert one.series == 3


def test_groups_have_about_as_many_stores_as_asked_and_share_none(chain: Path) -> None:
    found = from_split(chain, group=5)
    members = [set(one.panel.static["store"]) for one in found]
    assert [len(part) for part in members] == [6, 6]
    assert not members[0] & members[1]
    assert members[0] | members[1] == {str(number) for number in range(1, 13)}


def test_which_stores_are_taken_does_not_depend_on_their_sales(chain: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    frame = pd.read_csv(chain)
    frame.assign(units=frame["units"] * 3 + 1).to_csv(other, index=False)
    assert [one.name for one in from_split(chain, retailers=4)] == [
        one.name for one in from_split(other, retailers=4)
    ]


def test_stores_that_closed_are_left_out_and_it_is_said(tmp_path: Path) -> None:
    path = tmp_path / "chain.csv"
    weekly(5, short=2).to_csv(path, index=False)
    told: list[str] = []
    assert len(from_split(path, say=told.append)) == 3
    assert told
    assert told[0].startswith("2 of 5 stores end before")


def test_more_retailers_than_there_are_is_refused(chain: Path) -> None:
    with pytest.raises(DataError, match="12 stores, which make 3 retailers of 4; 9 are wanted"):
        from_split(chain, group=4, retailers=9)


def test_a_file_given_twice_is_refused_and_names_stay_apart(chain: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="twice"):
        from_files([chain, chain])
    folder = tmp_path / "b"
    folder.mkdir()
    weekly(2).to_csv(folder / "chain.csv", index=False)
    assert [one.name for one in from_files([chain, folder / "chain.csv"])] == ["chain", "chain-2"]


def test_files_of_different_steps_are_refused(chain: Path, tmp_path: Path) -> None:
    daily = tmp_path / "daily.csv"
    synthetic_frame = pd.DataFrame(
        {"date": pd.date_range("2024-01-01", periods=90), "store": "a", "product": "b", "units": range(90)}
    )
    synthetic_frame.to_csv(daily, index=False)
    with pytest.raises(DataError, match="chain: W, daily: D"):
        from_files([chain, daily])


def test_history_keeps_the_last_steps_before_the_cut(chain: Path) -> None:
    whole = from_split(chain, retailers=2)
    cut = last_history(whole, horizon=4, history=20)
    for one, before in zip(cut, whole, strict=True):
        assert one.panel.end == before.panel.end
        assert len(pd.date_range(one.panel.start, one.panel.end, freq=one.panel.offset)) == 20 + 2 * 4
    assert [one.panel.n_series for one in last_history(whole, horizon=4, history=None, max_series=2)] == [2, 2]


def test_too_little_history_is_refused(chain: Path) -> None:
    whole = from_split(chain, retailers=2)
    with pytest.raises(UsageError, match="--history 3"):
        last_history(whole, horizon=4, history=3)
    with pytest.raises(DataError, match="No retailer"):
        last_history(whole, horizon=40, history=None)


def test_a_fingerprint_is_of_the_values() -> None:
    one, same, other = (synthetic(1, seed=seed, days=90, sizes=(3, 3))[0].panel for seed in (1, 1, 2))
    assert fingerprint(one) == fingerprint(same) != fingerprint(other)
    frame = one.frame.assign(y=one.frame["y"] + 1)
    assert fingerprint(replace(one, frame=frame)) != fingerprint(one)
