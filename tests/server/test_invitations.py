"""Invitations: once, in time, one key each; and every step can be repeated after a crash."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from trend_common.errors import ConnectionFailure, UsageError
from trend_common.flower.bundle import FAB_SHA256
from trend_common.flower.invite import EnrolRequest, Invite
from trend_common.flower.keys import load_or_create_key, new_private_key, parse_public_key, public_key_text
from trend_server.certificates import ensure_authority
from trend_server.enrolment import Door, write_invite
from trend_server.roster import Roster, token_sha256

WEEK = timedelta(days=7)
NOW = datetime(2030, 1, 1, tzinfo=UTC)


class Link:
    """Remembers keys; may crash."""

    def __init__(self, *, crash: bool = False) -> None:
        self.keys: dict[str, str] = {}
        self.crash = crash

    def register(self, public_key: ec.EllipticCurvePublicKey, name: str) -> int:
        """Admit a key."""
        if self.crash:
            raise OSError("power cut")
        self.keys[public_key_text(public_key)] = name
        return len(self.keys)

    def unregister(self, public_key: ec.EllipticCurvePublicKey) -> bool:
        """Shut a key out."""
        return self.keys.pop(public_key_text(public_key), None) is not None


@pytest.fixture
def roster(tmp_path: Path) -> Roster:
    """An empty roster."""
    return Roster(tmp_path / "roster.sqlite")


def body(token: str, key: ec.EllipticCurvePrivateKey) -> bytes:
    """A request to join."""
    return EnrolRequest(token=token, public_key=public_key_text(key)).canonical().encode()


def test_a_token_works_once_and_again_for_the_same_key(roster: Roster) -> None:
    token, _ = roster.invite("shop", WEEK)
    link, joined = Link(), []
    door = Door(roster, joined.append)
    door.open(link)
    key = new_private_key()
    assert door.redeem(body(token, key)) == (200, {"code": "registered"})
    assert door.redeem(body(token, key)) == (200, {"code": "registered"})
    assert door.redeem(body(token, new_private_key())) == (403, {"code": "used"})
    assert list(link.keys.values()) == ["shop"]
    assert joined[0] == "shop"


def test_only_the_hash_of_a_token_is_kept(roster: Roster) -> None:
    token, _ = roster.invite("shop", WEEK)
    data = roster.path.read_bytes()
    assert token.encode() not in data
    assert token_sha256(token).encode() in data
    assert len(token) == 43


def test_expired_unknown_and_revoked(roster: Roster) -> None:
    key = public_key_text(new_private_key())
    token, expires = roster.invite("shop", WEEK, now=NOW)
    assert expires == NOW + WEEK
    assert roster.bind(token, key, now=NOW + WEEK + timedelta(seconds=1))[0] == "expired"
    assert roster.bind("A" * 43, key)[0] == "unknown"
    assert roster.bind(token, key, now=NOW)[0] == "registered"
    roster.revoke("shop")
    assert roster.bind(token, key, now=NOW)[0] == "revoked"


def test_a_client_that_joined_may_ask_again_after_the_invitation_has_expired(roster: Roster) -> None:
    key = public_key_text(new_private_key())
    token, _ = roster.invite("shop", WEEK, now=NOW)
    assert roster.bind(token, key, now=NOW)[0] == "registered"
    assert roster.bind(token, key, now=NOW + 2 * WEEK)[0] == "registered"


def test_a_key_joins_under_one_name(roster: Roster) -> None:
    key = public_key_text(new_private_key())
    first, _ = roster.invite("one", WEEK)
    second, _ = roster.invite("two", WEEK)
    assert roster.bind(first, key)[0] == "registered"
    assert roster.bind(second, key)[0] == "invalid"


def test_a_second_invitation_replaces_an_unused_one_and_no_used_one(roster: Roster) -> None:
    old, _ = roster.invite("shop", WEEK)
    new, _ = roster.invite("shop", WEEK)
    key = public_key_text(new_private_key())
    assert roster.bind(old, key)[0] == "unknown"
    assert roster.bind(new, key)[0] == "registered"
    with pytest.raises(UsageError, match="joined already"):
        roster.invite("shop", WEEK)
    roster.revoke("shop")
    roster.invite("shop", WEEK)
    assert [entry.state for entry in roster.entries()] == ["invited", "revoked"]


def test_a_crash_between_the_roster_and_flower_is_mended_at_the_next_start(roster: Roster) -> None:
    token, _ = roster.invite("shop", WEEK)
    key = new_private_key()
    door = Door(roster)
    door.open(Link(crash=True))
    with pytest.raises(OSError, match="power cut"):
        door.redeem(body(token, key))
    link = Link()
    Door(roster).open(link)
    assert list(link.keys.values()) == ["shop"]
    again = Link()
    Door(roster).open(again)
    assert again.keys == link.keys, "what Flower forgets with each start it is told at the next"


def test_revoking_reaches_a_running_server_and_one_that_starts_later(roster: Roster) -> None:
    link = Link()
    door = Door(roster)
    door.open(link)
    for name in ("one", "two"):
        door.redeem(body(roster.invite(name, WEEK)[0], new_private_key()))
    Roster(roster.path).revoke("one")  # from another process
    assert door.reconcile() == ["one"]
    assert list(link.keys.values()) == ["two"]
    assert door.reconcile() == []
    Roster(roster.path).revoke("two")
    Door(roster).open(link)
    assert link.keys == {}
    with pytest.raises(UsageError, match="Nobody named three"):
        roster.revoke("three")


@pytest.mark.parametrize(
    "request_body",
    [
        b"",
        b"{",
        b"[]",
        b'{"version":1}',
        b"\xff\xfe",
        json.dumps({"version": 1, "token": "A" * 43, "public_key": "x"}).encode(),
    ],
)
def test_what_is_not_a_request_is_answered_by_one_word(roster: Roster, request_body: bytes) -> None:
    door = Door(roster)
    door.open(Link())
    assert door.redeem(request_body) == (400, {"code": "invalid"})


def test_another_kind_of_key_is_refused(roster: Roster) -> None:
    from cryptography.hazmat.primitives.asymmetric import ed25519
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    door = Door(roster)
    door.open(Link())
    token, _ = roster.invite("shop", WEEK)
    weak = ec.generate_private_key(ec.SECP256R1())
    assert door.redeem(body(token, weak))[0] == 400
    other = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    text = EnrolRequest(token=token, public_key=other.decode()).canonical().encode()
    assert door.redeem(text)[0] == 400
    assert [entry.state for entry in roster.entries()] == ["invited"]


def test_the_file_holds_what_a_client_needs_and_is_private(roster: Roster, tmp_path: Path) -> None:
    pem = ensure_authority(tmp_path / "tls")
    out = tmp_path / "shop.invite"
    made = write_invite(roster, pem, name="shop", server="fed.example:9443", lifetime=WEEK, out=out)
    loaded = Invite.load(out)
    assert loaded == made
    assert (loaded.ca_pem, loaded.fab_sha256, loaded.server) == (pem, FAB_SHA256, "fed.example:9443")
    assert roster.bind(loaded.token, public_key_text(new_private_key()))[0] == "registered"
    if os.name != "nt":
        assert stat.S_IMODE(out.stat().st_mode) == 0o600


@pytest.mark.parametrize(("name", "server"), [("a b", "h:1"), ("shop", "h"), ("shop", "http://h:1"), ("", "h:1")])
def test_a_bad_name_or_address_writes_nothing_down(roster: Roster, tmp_path: Path, name: str, server: str) -> None:
    with pytest.raises(UsageError, match="cannot be made"):
        write_invite(roster, ensure_authority(tmp_path), name=name, server=server, lifetime=WEEK, out=tmp_path / "x")
    assert roster.entries() == []
    assert not (tmp_path / "x").exists()


def test_a_file_that_was_changed_is_refused(roster: Roster, tmp_path: Path) -> None:
    out = tmp_path / "shop.invite"
    write_invite(roster, ensure_authority(tmp_path / "a"), name="shop", server="h:1", lifetime=WEEK, out=out)
    text = json.loads(out.read_text())
    text["ca_pem"] = ensure_authority(tmp_path / "b")
    out.write_text(json.dumps(text))
    with pytest.raises(ConnectionFailure, match="fingerprint"):
        Invite.load(out)
    out.write_text("{}")
    with pytest.raises(ConnectionFailure, match="not an invitation"):
        Invite.load(out)
    with pytest.raises(ConnectionFailure, match="cannot be read"):
        Invite.load(tmp_path / "nothing")


def test_keys_come_back_and_are_private(tmp_path: Path) -> None:
    key = load_or_create_key(tmp_path / "k" / "client.key")
    again = load_or_create_key(tmp_path / "k" / "client.key")
    assert public_key_text(key) == public_key_text(again)
    assert parse_public_key(public_key_text(key)) == key.public_key()
    if os.name != "nt":
        assert stat.S_IMODE((tmp_path / "k" / "client.key").stat().st_mode) == 0o600
    (tmp_path / "bad").write_text("garbage")
    with pytest.raises(ConnectionFailure, match="OpenSSH"):
        load_or_create_key(tmp_path / "bad")


def test_two_live_entries_of_a_name_cannot_be(roster: Roster) -> None:
    roster.invite("shop", WEEK)
    with sqlite3.connect(roster.path) as connection, pytest.raises(sqlite3.IntegrityError):
        connection.execute(
            "INSERT INTO roster (name, token_sha256, created, expires) VALUES ('shop', 'x', '2030', '2030')"
        )
    connection.close()
