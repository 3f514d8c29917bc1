"""A renewed certificate authority: whoever has pinned the old one accepts the new one on the old one's word alone.

The server hands out, to anybody, pairs of certificates in PEM form, oldest first:

    cross   the new authority's key, signed by the authority before it
    root    the new authority itself, which is pinned from then on

A client asks for them only when the server's certificate is not its pinned authority's. The connection on which it
asks proves nothing, and need not: a pair counts if its signature is the pinned authority's. So somebody in between
can keep the pairs back, and can put none in. Whoever has stolen the old authority's key can:
he could sign servers too.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from typing import Final

import httpx
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

from trend_common.flower.invite import certificate_sha256

__all__ = ["AUTHORITY_PATH", "fetch_successor", "successor"]

AUTHORITY_PATH: Final = "/v1/authority"
_MOST_BYTES: Final = 200_000
_MOST_PAIRS: Final = 20


def successor(pinned_pem: str, pairs_pem: bytes, *, now: datetime | None = None) -> str | None:
    """The newest authority for which the pinned one vouches, directly or through those between.

    Args:
        pinned_pem: The authority that is trusted.
        pairs_pem: What the server handed out; not trusted.
        now: The time, for tests.

    Returns:
        Its certificate (PEM), or None if there is none that the pinned one vouches for.
    """
    moment = now or datetime.now(UTC)
    pinned = x509.load_pem_x509_certificate(pinned_pem.encode("ascii"))
    try:
        found = x509.load_pem_x509_certificates(pairs_pem[:_MOST_BYTES])
    except ValueError:
        return None
    current = pinned
    for cross, root in zip(found[: 2 * _MOST_PAIRS : 2], found[1 : 2 * _MOST_PAIRS : 2], strict=False):
        if _vouches(current, cross, root, moment):
            current = root
    if current is pinned:
        return None
    return current.public_bytes(serialization.Encoding.PEM).decode("ascii")


def fetch_successor(server: str, pinned_pem: str, *, timeout: float = 20.0) -> tuple[str, str] | None:
    """Ask ``server`` for a renewed authority; return its certificate (PEM) and fingerprint, or None.

    Sends an empty request. Whatever goes wrong, the pinned authority stays.
    """
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # what comes back proves itself, see the module
    received = b""
    try:
        with (
            httpx.Client(verify=context, timeout=timeout) as client,
            client.stream("POST", f"https://{server}{AUTHORITY_PATH}") as response,
        ):
            if response.status_code != 200:
                return None
            for part in response.iter_bytes():
                received += part
                if len(received) > _MOST_BYTES:
                    return None
    except (httpx.HTTPError, httpx.InvalidURL):
        return None
    renewed = successor(pinned_pem, received)
    return None if renewed is None else (renewed, certificate_sha256(renewed))


def _vouches(old: x509.Certificate, cross: x509.Certificate, root: x509.Certificate, moment: datetime) -> bool:
    try:
        cross.verify_directly_issued_by(old)
        root.verify_directly_issued_by(root)
        limits = [
            one.extensions.get_extension_for_class(x509.BasicConstraints).value.ca for one in (old, cross, root)
        ]
    except (InvalidSignature, ValueError, TypeError, x509.ExtensionNotFound):
        return False
    valid = all(one.not_valid_before_utc <= moment < one.not_valid_after_utc for one in (old, cross, root))
    return all(limits) and valid and cross.public_key() == root.public_key() and cross.subject == root.subject
