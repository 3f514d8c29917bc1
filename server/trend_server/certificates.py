"""The federation's own certificate authority, and the server's certificate that it signs.

An own authority because retailers are told, in the invitation, exactly whom to trust: no public authority, and nobody
who can get a certificate from one, can stand in for the server. Keys are EC P-256, files of keys have mode 0600.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from filelock import FileLock

from trend_common.errors import UsageError
from trend_common.files import fsync_directory, private_directory, write_bytes
from trend_common.flower.invite import certificate_sha256

__all__ = ["Certificates", "ensure_authority", "ensure_certificates", "rotate_authority", "server_names"]

_AUTHORITY_DAYS: Final = 3650
_SERVER_DAYS: Final = 397
_RENEW_DAYS: Final = 30
_RENEWALS: Final = "ca-renewals.pem"
_ANY: Final = {"0.0.0.0", "::", ""}
"""Addresses to listen on that are nobody's address to connect to."""


@dataclass(frozen=True)
class Certificates:
    """Paths of PEM files, the authority's fingerprint (SHA-256, hexadecimal), and how it came after others.

    ``renewals`` are the pairs of :mod:`trend_common.flower.authority`; empty if the authority is the first.
    """

    authority: Path
    certificate: Path
    private_key: Path
    fingerprint: str
    renewals: bytes = b""


def server_names(host: str, extra: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the names that the server's certificate is for, in a fixed order.

    Args:
        host: What the server listens on; left out if it is "all addresses".
        extra: Names or addresses under which clients reach the server.
    """
    names = ["localhost", "127.0.0.1", *([] if host in _ANY else [host]), *extra]
    return tuple(dict.fromkeys(name.strip().lower() for name in names if name.strip()))


def ensure_certificates(folder: Path, names: Sequence[str], *, now: datetime | None = None) -> Certificates:
    """Create the authority and the server's certificate in ``folder``, or renew the latter where that is due.

    The server's certificate is made anew when ``names`` have changed, when it ends within 30 days, or when it is not
    the authority's. The authority is never made anew: all invitations name it.

    Args:
        folder: Created with mode 0700.
        names: Host names and IP addresses (see :func:`server_names`).
        now: The time, for tests.

    Raises:
        UsageError: The authority's files are damaged or have expired, or a name cannot stand in a certificate.
    """
    moment = now or datetime.now(UTC)
    path, key_path = folder / "server.pem", folder / "server.key"
    authority, authority_key = _authority(folder, moment)
    if not _still_good(path, key_path, authority, names, moment):
        _make_server(path, key_path, authority, authority_key, names, moment)
    renewals = folder / _RENEWALS
    return Certificates(
        folder / "ca.pem",
        path,
        key_path,
        certificate_sha256(_pem(authority)),
        renewals.read_bytes() if renewals.exists() else b"",
    )


def ensure_authority(folder: Path, *, now: datetime | None = None) -> str:
    """Create the authority in ``folder`` if it is not there; return its certificate (PEM), for invitations.

    Raises:
        UsageError: The authority's files are damaged or have expired.
    """
    authority, _ = _authority(folder, now or datetime.now(UTC))
    return _pem(authority)


def rotate_authority(folder: Path, *, now: datetime | None = None) -> tuple[str, str]:
    """Make a new authority that the present one vouches for, and forget the present one's key.

    Clients that have pinned the present one accept the new one at their next connection; unused invitations go on
    working too. A crash anywhere leaves the old authority or the new one: the next start completes what was committed
    by the list of renewals.

    Args:
        folder: The TLS folder of a server that is stopped.
        now: The time, for tests.

    Returns:
        The fingerprints of the old and the new authority.

    Raises:
        UsageError: There is no authority, or it is damaged or expired.
    """
    moment = now or datetime.now(UTC)
    if not (folder / "ca.pem").exists():
        raise UsageError(
            f"There is no certificate authority in {folder} to renew.", "It is made at the server's first start."
        )
    old, old_key = _authority(folder, moment)
    with FileLock(folder / ".lock"):
        _make_authority(folder / "ca-next.pem", folder / "ca-next.key", moment)
        new, _ = _load_authority(folder / "ca-next.pem", folder / "ca-next.key", moment)
        cross = _cross_certificate(old, old_key, new, moment)
        renewals = folder / _RENEWALS
        before = renewals.read_bytes() if renewals.exists() else b""
        write_bytes(renewals, before + cross.public_bytes(serialization.Encoding.PEM) + _pem(new).encode("ascii"))
        _complete_rotation(folder)
    return certificate_sha256(_pem(old)), certificate_sha256(_pem(new))


def _complete_rotation(folder: Path) -> None:
    """Put a new authority in its place if the list of renewals has it, else drop it; harmless without one."""
    path, key_path, renewals = folder / "ca-next.pem", folder / "ca-next.key", folder / _RENEWALS
    if not path.exists() and not key_path.exists():
        return
    if path.exists() and renewals.exists() and path.read_bytes() in renewals.read_bytes():
        # Copies, and the originals go last: whenever this stops, it can be done again.
        write_bytes(folder / "ca.key", key_path.read_bytes(), private=True)
        write_bytes(folder / "ca.pem", path.read_bytes())
    path.unlink(missing_ok=True)
    key_path.unlink(missing_ok=True)
    fsync_directory(folder)


def _cross_certificate(
    old: x509.Certificate, old_key: ec.EllipticCurvePrivateKey, new: x509.Certificate, now: datetime
) -> x509.Certificate:
    """The new authority's name and key, signed by the old one, for as long as the old one lasts."""
    key = new.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return (
        x509.CertificateBuilder()
        .subject_name(new.subject)
        .issuer_name(old.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(min(old.not_valid_after_utc, new.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(old_key.public_key()), critical=False)
        .sign(old_key, hashes.SHA256())
    )


def _authority(folder: Path, moment: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    path, key_path = private_directory(folder) / "ca.pem", folder / "ca.key"
    with FileLock(folder / ".lock"):  # "invite" and the server may both be the first
        _complete_rotation(folder)
        if not path.exists():
            # The certificate is written last, so a key without one is what a crash left.
            _make_authority(path, key_path, moment)
        return _load_authority(path, key_path, moment)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def _load_authority(
    path: Path, key_path: Path, moment: datetime
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    hint = "Restore the folder from a backup. With a new home every retailer needs a new invitation."
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"The certificate authority in {path.parent} is damaged or half missing.", hint) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise UsageError(f"{key_path} is not the key of {path}.", hint)
    if moment >= certificate.not_valid_after_utc:
        raise UsageError(f"The certificate authority {path} expired on {certificate.not_valid_after_utc:%F}.", hint)
    return certificate, key


def _still_good(path: Path, key_path: Path, authority: x509.Certificate, names: Sequence[str], now: datetime) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
        certificate.verify_directly_issued_by(authority)
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except Exception:  # missing, damaged or another authority's: all are mended by a new one
        return False
    same_key = isinstance(key, ec.EllipticCurvePrivateKey) and key.public_key() == certificate.public_key()
    fresh = now + timedelta(days=_RENEW_DAYS) < certificate.not_valid_after_utc
    return same_key and fresh and found == _alternative_names(names)


def _make_authority(path: Path, key_path: Path, now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "trend federation authority")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=_AUTHORITY_DAYS))
        # One authority below it: the one that comes after it.
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_key(key_path, key)
    write_bytes(path, certificate.public_bytes(serialization.Encoding.PEM))


def _make_server(
    path: Path,
    key_path: Path,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    names: Sequence[str],
    now: datetime,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "trend-server")]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(min(now + timedelta(days=_SERVER_DAYS), authority.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_alternative_names(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    # The key first: a crash in between leaves a pair that does not fit, which is made anew at the next start.
    _write_key(key_path, key)
    write_bytes(path, certificate.public_bytes(serialization.Encoding.PEM))


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative_names(names: Sequence[str]) -> x509.SubjectAlternativeName:
    found: list[x509.GeneralName] = []
    for name in names:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            try:
                found.append(x509.DNSName(name.encode("idna").decode("ascii")))
            except (UnicodeError, ValueError) as error:
                raise UsageError(
                    f"{name!r} is neither a host name nor an IP address.", "Correct --host or --name."
                ) from error
    return x509.SubjectAlternativeName(found)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_bytes(path, pem, private=True)
