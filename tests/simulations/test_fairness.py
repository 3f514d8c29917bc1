"""Who gains and who loses: groups that partition the retailers, and shares that add up."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trend_simulations.fairness import fairness_of


def result(changes: list[float], *, series: list[int] | None = None, volumes: list[float] | None = None) -> Any:
    """A run whose retailers change by so much with ``gated``; every other one is of kind b."""
    count = len(changes)
    return {
        "arms": {"alone": {}, "gated": {}},
        "clients": [
            {
                "name": f"c{row}",
                "group": "ab"[row % 2],
                "arms": {"alone": {"wql": 0.5}, "gated": {"wql": 0.5 * (1 + change)}},
            }
            for row, change in enumerate(changes)
        ],
        "data": [
            {
                "name": f"c{row}",
                "series": (series or list(range(1, count + 1)))[row],
                "volume": (volumes or [float(row)] * count)[row],
            }
            for row in range(count)
        ],
    }


def test_groups_by_size_volume_and_kind_say_who_loses() -> None:
    changes = [0.3, 0.02, 0.005, -0.1, -0.1, -0.1]
    found = fairness_of([result(changes, volumes=[6.0, 5.0, 4.0, 3.0, 2.0, 1.0])])["gated"]
    everybody = found["all"]
    assert (everybody.retailers, everybody.gain) == (6, 0.5)
    assert everybody.worse == pytest.approx(2 / 6), "half a percent is within a percent"
    assert (everybody.worst, everybody.worst_name) == (pytest.approx(0.3), "c0")
    assert everybody.change.mean == pytest.approx(sum(changes) / 6)
    assert everybody.change.low is not None
    assert found["fewest series"].change.mean == pytest.approx(0.16)
    assert found["most series"].worst == pytest.approx(-0.1)
    assert found["kind a"].retailers == found["kind b"].retailers == 3
    assert found["kind b"].change.mean == pytest.approx((0.02 - 0.1 - 0.1) / 3)
    # Three of a kind are too few for thirds of their volumes.
    assert not any(name.endswith("sales") for name in found)
    json.dumps({name: one.to_json() for name, one in found.items()}, allow_nan=False)


def test_volumes_are_compared_within_a_kind() -> None:
    # Those of kind b sell a thousand times as much, in other units.
    volumes = [(row // 2 + 1) * (1000.0 if row % 2 else 1.0) for row in range(12)]
    changes = [0.1 if row < 4 else -0.1 for row in range(12)]
    found = fairness_of([result(changes, volumes=volumes, series=[10] * 12)])["gated"]
    assert found["fewest sales"].retailers == 4
    assert found["fewest sales"].change.mean == pytest.approx(0.1)
    assert found["most sales"].gain == 1.0
    assert not any(name.endswith("series") for name in found), "all have as many"


@given(st.lists(st.floats(-0.5, 0.5), min_size=6, max_size=30), st.data())
def test_thirds_partition_the_retailers(changes: list[float], data: st.DataObject) -> None:
    count = len(changes)
    series = data.draw(st.lists(st.integers(1, 50), min_size=count, max_size=count))
    found = fairness_of([result(changes, series=series)])["gated"]
    thirds = [one for name, one in found.items() if name.endswith("series")]
    if len(set(series)) == 1:
        assert not thirds
        return
    assert sum(one.retailers for one in thirds) == count
    mean = sum(one.change.mean * one.retailers for one in thirds) / count
    assert mean == pytest.approx(found["all"].change.mean, abs=1e-9)
    assert max(one.worst for one in thirds) == pytest.approx(found["all"].worst)


def test_cuts_are_averaged_and_a_retailer_that_one_lacks_is_in_none() -> None:
    second = result([0.3, -0.2, 0.0])
    second["clients"].pop(2)
    found = fairness_of([result([0.1, -0.2, 0.9]), second])["gated"]["all"]
    assert found.retailers == 2
    assert found.worst == pytest.approx(0.2)
    without = result([0.1, 0.2, 0.3])
    del without["arms"]["alone"]
    assert fairness_of([without]) == {}
    assert fairness_of([]) == {}
    unknown = result([0.1, 0.2, 0.3])
    unknown["clients"][0]["arms"]["gated"]["wql"] = None
    assert fairness_of([unknown])["gated"]["all"].retailers == 2
