"""What an operator is told beforehand: the noise share, what was measured there, and what would lower it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from trend_common.errors import UsageError
from trend_common.outlook import MEASURED, Measured, expected, noise_share, outlook
from trend_simulations.cli import app


@given(st.floats(0.1, 100), st.integers(1, 1000), st.integers(1, 1000))
def test_the_noise_share_is_that_of_a_mean_over_all_series(sigma: float, series: int, retailers: int) -> None:
    # n clients add noise of variance σ²C² each to the sum over n·N series.
    expected_share = math.sqrt(retailers * sigma**2) / (retailers * series)
    assert noise_share(sigma=sigma, series=series, retailers=retailers) == pytest.approx(expected_share)


def test_no_series_have_no_share() -> None:
    with pytest.raises(ValueError, match="series 0"):
        noise_share(sigma=1.0, series=0, retailers=3)


def test_between_two_measured_shares_the_gain_is_between_theirs() -> None:
    rows = (Measured(0, 4, 0.1, 0.9), Measured(0.01, 3, 0.1, 0.8), Measured(1, 1, 0.3, 0.4))
    middle = expected(0.1, rows)
    assert (middle.gain, middle.error, middle.better) == pytest.approx((2.0, 0.2, 0.6))
    assert expected(0.0, rows).gain == 4
    assert expected(0.005, rows).gain == 3.5
    assert expected(0.01, rows).gain == pytest.approx(3)
    beyond = expected(10.0, rows)
    assert (beyond.gain, beyond.better) == pytest.approx((0.1, 0.49)), "nothing was measured there"


def test_what_was_measured_is_complete() -> None:
    assert [one.s for one in MEASURED] == sorted({one.s for one in MEASURED})
    assert MEASURED[0].s == 0
    assert all(one.error > 0 and 0 <= one.better <= 1 for one in MEASURED)


def test_more_series_help_more_than_more_retailers_and_every_lever_lowers_the_noise() -> None:
    found = outlook(retailers=30, series=200, epsilon=4.0)
    assert found.s == pytest.approx(found.sigma / (200 * math.sqrt(30)))
    by_name = {lever.name: lever.s for lever in found.levers}
    assert by_name["400 series each"] == pytest.approx(found.s / 2)
    assert by_name["60 retailers"] == pytest.approx(found.s / math.sqrt(2))
    assert by_name["ε = 8"] < found.s
    assert by_name["5 rounds"] < found.s
    assert [lever.s for lever in found.levers] == sorted(by_name.values())
    assert "expect nothing" in outlook(retailers=2, series=5, epsilon=0.5).verdict
    assert "expect nothing" not in found.verdict


def test_the_command_says_it_in_words_and_json(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    asked = ["plan", "--retailers", "30", "--series", "200", "--epsilon", "4", "--json", str(path)]
    ran = CliRunner().invoke(app, asked)
    assert ran.exit_code == 0, ran.output
    found = json.loads(path.read_text())
    assert found["verdict"] in " ".join(ran.output.split())
    assert found["levers"][0]["s"] < found["s"]
    refused = CliRunner().invoke(app, ["plan", "--epsilon", "0"])
    assert isinstance(refused.exception, UsageError)
