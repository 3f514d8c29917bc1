"""How often a client tells that it is there."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import HEARTBEAT_MAX_INTERVAL, HEARTBEAT_MIN_INTERVAL
from hypothesis import given
from hypothesis import strategies as st

from trend_common.flower.fleet import HEARTBEAT_SECONDS, Fleet
from trend_common.flower.gate import Bell
from trend_server.certificates import ensure_certificates


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    folder = tmp_path_factory.mktemp("tls")
    ensure_certificates(folder, ["127.0.0.1"])
    return Fleet("127.0.0.1:1", folder / "ca.pem", ec.generate_private_key(ec.SECP384R1()))


def test_heartbeats_are_rare_where_the_server_holds_for_long(fleet: Fleet) -> None:
    for held, interval in ((0.0, 10), (Bell()._hold + 0.5, 10), (10.0, 40), (20.0, 60), (0.1, 10)):
        fleet.held(held)
        assert fleet.interval == pytest.approx(interval), held


@given(st.floats(0, 1e6))
def test_whatever_is_promised_is_what_flower_allows(fleet: Fleet, held: float) -> None:
    fleet.held(held)
    assert HEARTBEAT_MIN_INTERVAL <= HEARTBEAT_SECONDS <= fleet.interval <= HEARTBEAT_MAX_INTERVAL
