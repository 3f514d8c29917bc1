"""The files of a forecast: series, trends and prices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from pandas.testing import assert_frame_equal

from trend_client import delivery
from trend_client.delivery import deliver, price_panel, trend_table
from trend_client.outcome import Wishes
from trend_client.paths import past_ranks
from trend_common.baselines import baseline_forecast
from trend_common.errors import UsageError
from trend_common.forecasts import LEVELS, Forecast
from trend_common.panel import SalesPanel
from trend_common.scoring import next_origin

H = 7


def made(panel: SalesPanel) -> Forecast:
    return baseline_forecast(["same-phase-mean"], panel, next_origin(panel), H)["same-phase-mean"]


def test_in_pieces_or_whole_the_files_are_the_same(
    panel: SalesPanel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wishes = Wishes(formats=("csv",), reconcile="bottom-up")
    whole, files = deliver(tmp_path / "whole", panel, made, H, wishes)
    assert len(whole) == 12
    monkeypatch.setattr(delivery, "LARGE", 4)
    monkeypatch.setattr(delivery, "CHUNK", 5)
    monkeypatch.setattr(delivery, "_SHOWN", 3)
    seen: list[tuple[int, int]] = []
    shown, again = deliver(
        tmp_path / "parts", panel, made, H, wishes, pieces=lambda done, total: seen.append((done, total))
    )
    assert seen == [(5, 12), (10, 12), (12, 12)]
    assert [path.name for path in files] == [path.name for path in again]
    assert {path.name for path in files} == {
        "forecasts.csv", "forecasts.parquet", "trend.csv", "forecasts_totals.csv"
    }  # fmt: skip
    for one, other in zip(files, again, strict=True):
        if one.name == "forecasts.csv":
            assert one.read_bytes() == other.read_bytes()
        if one.name == "forecasts_totals.csv":  # paths of a piece draw chance of their own where the past has ties
            columns = ["level", "store", "category", "product", "series", "ds", "mean"]
            assert_frame_equal(pd.read_csv(one)[columns], pd.read_csv(other)[columns])
    largest = panel.frame.groupby("unique_id")["y"].sum().nlargest(3).index
    assert set(shown.ids) == set(largest), "the report shows the largest"


def level(panel: SalesPanel, factor: float) -> pd.DataFrame:
    """The trend table of a forecast that is the last steps' mean times a factor, give or take 5 %."""
    ids, ranks = past_ranks(panel, H)
    before = panel.frame.groupby("unique_id")["y"].apply(lambda y: y.tail(H).mean()).reindex(list(ids)).to_numpy()
    mean = np.repeat(before[:, None] * factor, H, axis=1)
    spread = np.linspace(0.95, 1.05, len(LEVELS))
    dates = pd.date_range(next_origin(panel), periods=H)
    return trend_table(panel, Forecast.repaired(ids, dates, mean[..., None] * spread, mean), ranks)


@pytest.mark.parametrize(("factor", "name"), [(1.5, "up"), (1.0, "flat"), (0.5, "down")])
def test_the_class_follows_the_level(panel: SalesPanel, factor: float, name: str) -> None:
    table = level(panel, factor)
    assert (table["trend"] == name).all()
    assert_allclose(table[["down", "flat", "up"]].sum(axis=1), 1)
    assert (table[name] > 0.9).all()
    assert_allclose(table["ahead"], factor * table["before"])
    assert (table["low"] <= table["ahead"]).all()
    assert (table["high"] >= table["ahead"]).all()


def test_at_the_border_the_class_is_unsure(panel: SalesPanel) -> None:
    table = level(panel, 1.1)
    assert (table["up"].between(0.2, 0.8)).all()


def test_without_recent_sales_there_is_no_class(panel: SalesPanel) -> None:
    frame = panel.frame.copy()
    last = frame["ds"] > frame["ds"].max() - pd.Timedelta(days=H)
    frame.loc[last & (frame["unique_id"] == panel.ids[0]), "y"] = 0.0
    frame.loc[last & (frame["unique_id"] == panel.ids[1]), "y"] = np.nan
    ids, ranks = past_ranks(replace(panel, frame=frame), H)
    found = trend_table(replace(panel, frame=frame), made(panel).select(ids), ranks)
    assert found["trend"].tolist()[:2] == ["", ""]
    assert found[["down", "flat", "up"]].iloc[:2].isna().all(axis=None)
    assert (found["trend"].iloc[2:] != "").all()


def test_prices_become_a_panel_of_their_own(panel: SalesPanel) -> None:
    frame = panel.frame.copy()
    mine = frame["unique_id"] == panel.ids[0]
    frame.loc[mine, "price"] = np.nan
    other = frame.index[frame["unique_id"] == panel.ids[1]]
    frame.loc[other[5:9], "price"] = 0.0
    prices = price_panel(replace(panel, frame=frame))
    assert prices is not None
    assert panel.ids[0] not in prices.ids, "no price was ever known"
    own = prices.frame[prices.frame["unique_id"] == panel.ids[1]]["y"].to_numpy()
    assert (own[5:9] == own[4]).all(), "a price holds until the next one is seen"
    assert "price" not in prices.frame.columns
    assert price_panel(replace(panel, frame=frame.assign(price=np.nan))) is None


def test_mint_refuses_what_it_cannot_hold(panel: SalesPanel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "MINT_LARGEST", 5)
    with pytest.raises(UsageError, match="takes up to 5 series"):
        deliver(tmp_path, panel, made, H, Wishes(reconcile="mint"))
    assert not list(tmp_path.iterdir())
