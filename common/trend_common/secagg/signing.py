"""Signatures of enrolled keys: ECDSA over P-384 with SHA-384."""

from __future__ import annotations

from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from trend_common.flower.keys import parse_public_key
from trend_common.secagg.messages import Advert, Attempt, FederationRoster, from_text, to_text

__all__ = ["is_signed", "sign", "verified_advert"]

_ALGORITHM = ec.ECDSA(hashes.SHA384())


def sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> str:
    """The signature of ``data``, as text."""
    return to_text(key.sign(data, _ALGORITHM))


def is_signed(roster: FederationRoster, member: int, data: bytes, signature: str) -> bool:
    """Whether ``signature`` over ``data`` is by the key that the roster has for ``member``."""
    if not 0 <= member < len(roster.members):
        return False
    try:
        _key(roster.members[member].public_key).verify(from_text(signature), data, _ALGORITHM)
    except (InvalidSignature, ValueError):
        return False
    return True


def verified_advert(roster: FederationRoster, attempt: Attempt, advert: Advert) -> bool:
    """Whether ``advert`` holds two keys and is signed for this very attempt by the roster's key of its member."""
    try:
        from_text(advert.channel, 32)
        from_text(advert.mask, 32)
    except ValueError:
        return False
    return is_signed(roster, advert.member, advert.signed(attempt), advert.signature)


@lru_cache(maxsize=1024)
def _key(text: str) -> ec.EllipticCurvePublicKey:
    return parse_public_key(text)
