"""server.toml and the command line: every default is documented, every mistake is named."""

from __future__ import annotations

import contextlib
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trend_common.errors import UsageError
from trend_common.outlook import outlook
from trend_server.app import joins
from trend_server.home import ServerHome
from trend_server.settings import ServerSettings, load_settings, parse_duration, write_default_settings
from trend_simulations.settings import DpRecipe


def test_the_commented_defaults_are_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    write_default_settings(path)
    assert load_settings(path, {}) == ServerSettings()
    uncommented = re.sub(r"(?m)^# (\w+ = |\[)", r"\1", path.read_text())
    values = tomllib.loads(uncommented)
    assert set(values) == set(ServerSettings.model_fields), "a setting is not explained in server.toml"
    del values["names"]
    assert ServerSettings.model_validate(values) == ServerSettings()


def test_the_command_line_goes_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    path.write_text('rounds = 7\nfreq = "W"\n')
    settings = load_settings(path, {"rounds": 9, "horizon": None})
    assert (settings.rounds, settings.freq, settings.horizon) == (9, "W", 28)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("roundz = 3", "did you mean rounds"),
        ("rounds = 0", "rounds: .*greater than or equal to 1"),
        ("rounds = [", "not valid TOML"),
        ('freq = "H"', "freq"),
        ("steps = 5", "need update"),
        ("joins_at_once = 0", "joins_at_once: .*greater than or equal to 1"),
        ("joins_per_minute = 0", "joins_per_minute: .*greater than 0"),
        ("private = false", "int8"),
        ('round_timeout = "soon"', "not a duration"),
        ("[buckets]\nXL = { q = 1.0, expected_batch = 5 }", "buckets"),
        ("[buckets]\nS = { q = 2.0, expected_batch = 5 }", "less than or equal to 1"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "server.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_settings(path, {})


def test_durations() -> None:
    assert [parse_duration(text) for text in ("90s", "10m", "2h", "7d", "45", "1.5 m")] == [
        90,
        600,
        7200,
        604800,
        45,
        90,
    ]
    for text in ("", "m", "-5s", "0", "5 weeks"):
        with pytest.raises(UsageError, match="duration"):
            parse_duration(text)


@given(st.text(max_size=8))
def test_a_duration_is_positive_or_refused(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert parse_duration(text) > 0


def test_the_optimiser_suits_the_update() -> None:
    assert ServerSettings().server_optimiser == "adam"
    assert ServerSettings(update="weights").server_optimiser == "none"
    assert ServerSettings(update="weights", optimiser="sgd").server_optimiser == "sgd"


def test_one_server_uses_a_home_at_a_time(tmp_path: Path) -> None:
    home = ServerHome(tmp_path / "home").create()
    assert home.settings_path.exists()
    assert not home.running()
    with home.locked():
        assert home.running()
        with pytest.raises(UsageError, match="already running"), ServerHome(tmp_path / "home").locked():
            pass
    assert not home.running()
    assert not ServerHome(tmp_path / "none").running()
    assert home.read_status() == {}
    home.write_status({"round": 1})
    assert home.read_status() == {"round": 1}
    home.status_path.write_text("half a")
    assert home.read_status() == {}


def test_a_home_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be used"):
        ServerHome(tmp_path / "file" / "home").create()


def test_server_simulation_and_outlook_play_the_same_number_of_rounds() -> None:
    assert ServerSettings().rounds == DpRecipe().rounds == outlook(retailers=5, series=50, epsilon=4).rounds


def test_the_operator_says_how_many_join_from_one_address() -> None:
    now = 0.0
    limit = joins(ServerSettings(joins_at_once=2, joins_per_minute=30))
    limit.clock = lambda: now
    assert [limit.allow("10.0.0.1") for _ in range(3)] == [True, True, False]
    assert limit.allow("10.0.0.2"), "each address has its own"
    now = 2.0  # thirty a minute are one in two seconds
    assert [limit.allow("10.0.0.1") for _ in range(2)] == [True, False]
