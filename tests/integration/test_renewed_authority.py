"""A renewed certificate authority, with real certificates: accepted on the old one's word, once, and no other is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner

from trend_client.home import ClientHome
from trend_client.join import _under_pinned_authority
from trend_common import files
from trend_common.errors import ConnectionFailure, UsageError
from trend_common.flower.authority import fetch_successor, successor
from trend_common.flower.environment import quiet_logs
from trend_common.flower.faults import UntrustedServer
from trend_common.flower.fleet import Fleet
from trend_common.flower.invite import certificate_sha256
from trend_common.flower.keys import new_private_key
from trend_common.flower.link import Link
from trend_common.privacy.sent import SentLog
from trend_server import certificates
from trend_server.certificates import Certificates, ensure_authority, ensure_certificates, rotate_authority
from trend_server.cli import app

NAMES = ("localhost", "127.0.0.1")


def renewals(folder: Path) -> bytes:
    return (folder / "ca-renewals.pem").read_bytes()


# --- what a client makes of the certificates ---


def test_the_old_authority_vouches_for_the_new_one(tmp_path: Path) -> None:
    old = ensure_authority(tmp_path)
    fingerprints = rotate_authority(tmp_path)
    new = ensure_authority(tmp_path)
    assert old != new
    assert fingerprints == (certificate_sha256(old), certificate_sha256(new))
    assert successor(old, renewals(tmp_path)) == new
    assert successor(new, renewals(tmp_path)) is None, "accepted once: the new one is the newest"


def test_a_client_that_was_away_for_several_renewals_follows_them(tmp_path: Path) -> None:
    seen = [ensure_authority(tmp_path)]
    for _ in range(3):
        rotate_authority(tmp_path)
        seen.append(ensure_authority(tmp_path))
    assert len(set(seen)) == 4
    for known in seen[:3]:
        assert successor(known, renewals(tmp_path)) == seen[3]


def test_the_old_key_is_gone(tmp_path: Path) -> None:
    ensure_authority(tmp_path)
    old_key = (tmp_path / "ca.key").read_bytes()
    rotate_authority(tmp_path)
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
    assert old_key not in kept


def strangers_pair(tmp_path: Path) -> bytes:
    """Another authority that was renewed: every signature is right, and none is ours."""
    ensure_authority(tmp_path / "stranger")
    rotate_authority(tmp_path / "stranger")
    return renewals(tmp_path / "stranger")


def own_root_with_strangers_cross(tmp_path: Path) -> bytes:
    ours = x509.load_pem_x509_certificates(renewals(tmp_path / "ours"))
    theirs = x509.load_pem_x509_certificates(strangers_pair(tmp_path))
    return pem(theirs[0]) + pem(ours[1])


def own_cross_with_strangers_root(tmp_path: Path) -> bytes:
    """The old one vouches for one key, and another is put in its place."""
    ours = x509.load_pem_x509_certificates(renewals(tmp_path / "ours"))
    theirs = x509.load_pem_x509_certificates(strangers_pair(tmp_path))
    return pem(ours[0]) + pem(theirs[1])


def a_server_as_authority(tmp_path: Path) -> bytes:
    """The old authority has signed the server's certificate too; that makes the server no authority."""
    made = ensure_certificates(tmp_path / "ours-before", NAMES)
    leaf = x509.load_pem_x509_certificate(made.certificate.read_bytes())
    return pem(leaf) + pem(leaf)


def altered(tmp_path: Path) -> bytes:
    cross, root = x509.load_pem_x509_certificates(renewals(tmp_path / "ours"))
    spoiled = bytearray(cross.public_bytes(serialization.Encoding.DER))
    spoiled[-1] ^= 1
    return pem(x509.load_der_x509_certificate(bytes(spoiled))) + pem(root)


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize(
    "make",
    [
        strangers_pair,
        own_root_with_strangers_cross,
        own_cross_with_strangers_root,
        a_server_as_authority,
        altered,
        lambda _: b"",
        lambda _: b"no certificate",
        lambda tmp: pem(x509.load_pem_x509_certificates(renewals(tmp / "ours"))[1]) * 2,
    ],
)
def test_nothing_else_is_accepted(tmp_path: Path, make: Callable[[Path], bytes]) -> None:
    old = ensure_authority(tmp_path / "ours")
    ensure_authority(tmp_path / "ours-before")
    for name in ("ca.pem", "ca.key"):
        (tmp_path / "ours-before" / name).write_bytes((tmp_path / "ours" / name).read_bytes())
    rotate_authority(tmp_path / "ours")
    assert successor(old, renewals(tmp_path / "ours")) is not None
    assert successor(old, make(tmp_path)) is None


def test_whoever_steals_a_servers_key_does_not_become_the_authority(tmp_path: Path) -> None:
    """The old authority has signed the server's name and key; a root of that name and key is easily made."""
    made = ensure_certificates(tmp_path, NAMES)
    leaf = x509.load_pem_x509_certificate(made.certificate.read_bytes())
    key = serialization.load_pem_private_key(made.private_key.read_bytes(), password=None)
    authority = x509.load_pem_x509_certificate(made.authority.read_bytes())
    root = (
        x509.CertificateBuilder(extensions=list(authority.extensions))
        .subject_name(leaf.subject)
        .issuer_name(leaf.subject)
        .public_key(leaf.public_key())  # type: ignore[arg-type]
        .serial_number(x509.random_serial_number())
        .not_valid_before(leaf.not_valid_before_utc)
        .not_valid_after(leaf.not_valid_after_utc)
        .sign(key, hashes.SHA256())  # type: ignore[arg-type]
    )
    root.verify_directly_issued_by(root)
    assert successor(made.authority.read_text(), pem(leaf) + pem(root)) is None


def test_a_root_that_its_own_key_did_not_sign_is_not_pinned(tmp_path: Path) -> None:
    """Name, key and cross certificate are right, but somebody else wrote what else stands in it."""
    old = ensure_authority(tmp_path / "ours")
    rotate_authority(tmp_path / "ours")
    cross, root = x509.load_pem_x509_certificates(renewals(tmp_path / "ours"))
    builder = (
        x509.CertificateBuilder(extensions=list(root.extensions))
        .subject_name(root.subject)
        .issuer_name(root.subject)
        .public_key(root.public_key())  # type: ignore[arg-type]
        .serial_number(root.serial_number)
        .not_valid_before(root.not_valid_before_utc)
        .not_valid_after(root.not_valid_after_utc + timedelta(days=3650))
    )
    forged = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    assert successor(old, pem(cross) + pem(root)) is not None
    assert successor(old, pem(cross) + pem(forged)) is None


def test_an_expired_authority_vouches_for_nobody(tmp_path: Path) -> None:
    start = datetime.now(UTC)
    old = ensure_authority(tmp_path, now=start)
    rotate_authority(tmp_path, now=start + timedelta(days=3000))
    pairs = renewals(tmp_path)
    assert successor(old, pairs, now=start + timedelta(days=3001)) is not None
    assert successor(old, pairs, now=start + timedelta(days=3651)) is None
    with pytest.raises(UsageError, match="no certificate authority"):
        rotate_authority(tmp_path / "nowhere")


class Crash(BaseException):
    """The process is gone."""


def test_a_crash_anywhere_leaves_the_old_authority_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And whichever it is, a client that pinned the old one gets there."""
    outcomes = set()
    for moment in range(1, 20):
        folder = tmp_path / str(moment)
        old = ensure_authority(folder)
        left = moment

        def write(path: Path, data: bytes, *, private: bool = False) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Crash
            files.write_bytes(path, data, private=private)

        monkeypatch.setattr(certificates, "write_bytes", write)
        try:
            rotate_authority(folder)
            finished = True
        except Crash:
            finished = False
        monkeypatch.undo()
        after = ensure_certificates(folder, NAMES)
        now = after.authority.read_text()
        assert now == old or successor(old, after.renewals) == now
        assert not list(folder.glob("ca-next*"))
        outcomes.add(now == old)
        if finished:
            break
    assert finished
    assert outcomes == {True, False}


# --- over TLS ---


@contextlib.contextmanager
def serving(folder: Path, tls: Certificates) -> Iterator[str]:
    """The public port with these certificates; yields HOST:PORT."""
    quiet_logs()
    folder.mkdir(exist_ok=True)
    with Link(
        host="127.0.0.1",
        port=0,
        certificate=tls.certificate,
        private_key=tls.private_key,
        authority=tls.renewals,
        enrol=lambda body: (403, {"code": "unknown"}),
        hold=0.2,
    ) as link:
        yield f"127.0.0.1:{link.port}"


class Connecting:
    """A client with a pinned authority whose key the server does not know: that answer proves that TLS was fine."""

    def __init__(self, root: Path, ca_pem: str) -> None:
        self.home = ClientHome(root)
        self.home.renew_authority(ca_pem)
        self.key = new_private_key()

    def connect(self, server: str) -> None:
        def serve() -> None:
            with Fleet(server, self.home.ca_path, self.key) as fleet:
                fleet.connect(None)

        log = self.home.root / "sent.jsonl"
        with SentLog(log, head_path=self.home.root / "head", durable=False) as sent:
            _under_pinned_authority(serve, self.home, server, sent)


@pytest.mark.timeout(90)
def test_over_tls_a_client_follows_its_own_authority_and_no_other(tmp_path: Path) -> None:
    old = ensure_authority(tmp_path / "tls")
    before = ensure_certificates(tmp_path / "tls", NAMES)
    copies = {path.name: path.read_bytes() for path in (before.certificate, before.private_key)}
    client = Connecting(tmp_path / "home", old)
    with serving(tmp_path / "one", before) as server:
        assert fetch_successor(server, old) is None
        with pytest.raises(ConnectionFailure, match="does not know this client"):
            client.connect(server)
    assert client.home.ca_path.read_text() == old

    rotate_authority(tmp_path / "tls")
    after = ensure_certificates(tmp_path / "tls", NAMES)
    new = after.authority.read_text()
    with serving(tmp_path / "two", after) as server:
        with pytest.raises(ConnectionFailure, match="does not know this client"):
            client.connect(server)
        assert client.home.ca_path.read_text() == new, "pinned"

    (tmp_path / "old").mkdir()
    for name, data in copies.items():
        (tmp_path / "old" / name).write_bytes(data)
    gone = Certificates(
        before.authority, tmp_path / "old" / "server.pem", tmp_path / "old" / "server.key", "", after.renewals
    )
    with serving(tmp_path / "three", gone) as server, pytest.raises(UntrustedServer):
        client.connect(server)
    assert client.home.ca_path.read_text() == new, "the old one is trusted no more"

    ensure_authority(tmp_path / "stranger")
    rotate_authority(tmp_path / "stranger")
    with (
        serving(tmp_path / "four", ensure_certificates(tmp_path / "stranger", NAMES)) as server,
        pytest.raises(UntrustedServer),
    ):
        client.connect(server)
    assert client.home.ca_path.read_text() == new


def test_the_command_needs_a_stopped_server_and_says_the_fingerprints(tmp_path: Path) -> None:
    from trend_server.home import ServerHome

    home = ServerHome(tmp_path / "server").create()
    old = ensure_authority(home.tls)
    with home.locked():
        refused = CliRunner().invoke(app, ["--home", str(home.root), "rotate-ca"])
        assert isinstance(refused.exception, UsageError)
    done = CliRunner().invoke(app, ["--home", str(home.root), "rotate-ca"])
    assert done.exit_code == 0, done.output
    assert ensure_authority(home.tls) != old
    for authority in (old, ensure_authority(home.tls)):
        assert certificate_sha256(authority) in done.output.replace("\n", "")
