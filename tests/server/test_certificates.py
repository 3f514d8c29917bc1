"""The authority and the server's certificate: who trusts whom, and when they are made anew."""

from __future__ import annotations

import os
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from trend_common.errors import UsageError
from trend_server.certificates import ensure_authority, ensure_certificates, server_names


def names_in(path: Path) -> set[str]:
    """All names that a certificate is for."""
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(one.value) for one in found}


def test_names() -> None:
    assert server_names("0.0.0.0", ["Shop.example"]) == ("localhost", "127.0.0.1", "shop.example")
    assert server_names("10.1.2.3") == ("localhost", "127.0.0.1", "10.1.2.3")
    assert server_names("127.0.0.1", ["", "localhost"]) == ("localhost", "127.0.0.1")


def test_it_is_made_once_and_kept(tmp_path: Path) -> None:
    first = ensure_certificates(tmp_path / "tls", server_names("10.0.0.1"))
    before = {path: path.read_bytes() for path in (first.authority, first.certificate, first.private_key)}
    second = ensure_certificates(tmp_path / "tls", server_names("10.0.0.1"))
    assert first == second
    assert {path: path.read_bytes() for path in before} == before
    assert names_in(first.certificate) == {"localhost", "127.0.0.1", "10.0.0.1"}
    assert ensure_authority(tmp_path / "tls") == first.authority.read_text()


def test_the_authority_signs_and_the_server_cannot(tmp_path: Path) -> None:
    """Whoever steals a running server's key must not be able to sign others, or a new authority."""
    made = ensure_certificates(tmp_path, server_names("127.0.0.1"))
    for path, signs, length in ((made.authority, True, 1), (made.certificate, False, None)):
        found = x509.load_pem_x509_certificate(path.read_bytes()).extensions
        limits = found.get_extension_for_class(x509.BasicConstraints)
        assert (limits.value.ca, limits.value.path_length, limits.critical) == (signs, length, True)
        assert found.get_extension_for_class(x509.KeyUsage).value.key_cert_sign is signs


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX's")
def test_keys_are_their_owner_s_alone(tmp_path: Path) -> None:
    ensure_certificates(tmp_path / "tls", server_names("127.0.0.1"))
    for name in ("ca.key", "server.key"):
        assert stat.S_IMODE((tmp_path / "tls" / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "tls").stat().st_mode) == 0o700


def test_another_host_or_age_renews_the_server_and_never_the_authority(tmp_path: Path) -> None:
    start = datetime(2030, 1, 1, tzinfo=UTC)
    made = ensure_certificates(tmp_path, server_names("10.0.0.1"), now=start)
    authority, certificate = made.authority.read_bytes(), made.certificate.read_bytes()
    ensure_certificates(tmp_path, server_names("10.0.0.2"), now=start)
    moved = made.certificate.read_bytes()
    assert moved != certificate
    assert "10.0.0.2" in names_in(made.certificate)
    ensure_certificates(tmp_path, server_names("10.0.0.2"), now=start + timedelta(days=360))
    assert made.certificate.read_bytes() == moved
    ensure_certificates(tmp_path, server_names("10.0.0.2"), now=start + timedelta(days=370))
    assert made.certificate.read_bytes() != moved
    assert made.authority.read_bytes() == authority


def test_python_s_tls_accepts_the_pair_and_checks_the_name(tmp_path: Path) -> None:
    made = ensure_certificates(tmp_path, server_names("127.0.0.1"))

    def shake(name: str) -> None:
        server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=made.authority)
        server.load_cert_chain(made.certificate, made.private_key)
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        ends = [
            client.wrap_bio(to_client, to_server, server_hostname=name),
            server.wrap_bio(to_server, to_client, server_side=True),
        ]
        for _ in range(4):
            for end in ends:
                try:
                    end.do_handshake()
                except ssl.SSLWantReadError:
                    continue

    shake("127.0.0.1")
    shake("localhost")
    with pytest.raises(ssl.SSLCertVerificationError, match=r"10\.0\.0\.9"):
        shake("10.0.0.9")


@pytest.mark.parametrize("name", ["server.pem", "server.key"])
def test_a_damaged_server_certificate_is_made_anew(tmp_path: Path, name: str) -> None:
    made = ensure_certificates(tmp_path, server_names("127.0.0.1"))
    (tmp_path / name).write_text("garbage")
    ensure_certificates(tmp_path, server_names("127.0.0.1"))
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(made.certificate, made.private_key)


def test_a_damaged_authority_is_said_and_not_replaced(tmp_path: Path) -> None:
    ensure_certificates(tmp_path, server_names("127.0.0.1"))
    (tmp_path / "ca.key").unlink()
    with pytest.raises(UsageError, match="damaged"):
        ensure_certificates(tmp_path, server_names("127.0.0.1"))


def test_an_expired_authority_is_said(tmp_path: Path) -> None:
    start = datetime(2030, 1, 1, tzinfo=UTC)
    ensure_authority(tmp_path, now=start)
    with pytest.raises(UsageError, match="expired"):
        ensure_authority(tmp_path, now=start + timedelta(days=3651))


def test_a_name_that_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither"):
        ensure_certificates(tmp_path, ("a" * 80 + ".example",))
