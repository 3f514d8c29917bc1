"""Masks that cancel in the sum: AES-256 key streams as vectors modulo 2³².

Client u sends ``x_u + self mask of u + Σ_{v>u} pair mask - Σ_{v<u} pair mask`` (Bonawitz et al. 2017, section 4). A
pair's mask comes from a Diffie-Hellman secret of X25519, a self mask from a seed of its own. Every key is derived
with HKDF-SHA256 under a label, the attempt and both members' numbers, so no key serves twice, and a client that
repeats another's public keys does not get its masks.
"""

from __future__ import annotations

import os
from typing import Final

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from trend_common.errors import PolicyError

__all__ = ["Words", "agree", "derive", "keystream", "open_box", "pair_mask", "public_of", "seal_box", "self_mask"]

Words = NDArray[np.uint32]
"""A vector modulo 2³²; numpy's unsigned arithmetic wraps around by itself."""

_NONCE: Final = 12


def public_of(private: bytes) -> bytes:
    """The 32-byte public key of a 32-byte X25519 private key."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agree(private: bytes, public: bytes) -> bytes:
    """The shared secret of one's private key and another's public key.

    Raises:
        PolicyError: The public key is none, or of low order (it would make the secret known to all).
    """
    try:
        return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise PolicyError("A public key of the round is not a key of X25519.", "") from error


def derive(secret: bytes, label: str, attempt: str, *members: int) -> bytes:
    """A 32-byte key for one purpose, in one attempt, between these members in this order."""
    info = f"trend-secagg-1|{label}|{attempt}|{'|'.join(map(str, members))}"
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info.encode("ascii")).derive(secret)


def keystream(key: bytes, size: int) -> Words:
    """[size] words of AES-256 in counter mode from zero. The key must serve this one time only."""
    stream = Cipher(AES256(key), CTR(bytes(16))).encryptor().update(bytes(4 * size))
    return np.frombuffer(stream, dtype="<u4").astype(np.uint32)


def pair_mask(secret: bytes, attempt: str, member: int, other: int, size: int) -> Words:
    """What ``member`` adds for ``other``: the negative of what ``other`` adds for ``member``."""
    low, high = sorted((member, other))
    mask = keystream(derive(secret, "pair", attempt, low, high), size)
    return mask if member == low else np.negative(mask)


def self_mask(seed: bytes, attempt: str, member: int, size: int) -> Words:
    """What ``member`` adds on its own, so that a late vector stays hidden after its pair masks are known."""
    return keystream(derive(seed, "self", attempt, member), size)


def seal_box(secret: bytes, attempt: str, sender: int, receiver: int, content: bytes) -> bytes:
    """``content`` for the eyes of ``receiver`` alone (AES-256-GCM under a key of this direction)."""
    nonce = os.urandom(_NONCE)
    box = AESGCM(derive(secret, "box", attempt, sender, receiver)).encrypt(nonce, content, attempt.encode("ascii"))
    return nonce + box


def open_box(secret: bytes, attempt: str, sender: int, receiver: int, box: bytes) -> bytes:
    """Invert :func:`seal_box`.

    Raises:
        cryptography.exceptions.InvalidTag: It was altered, or is for somebody else.
    """
    key = derive(secret, "box", attempt, sender, receiver)
    return AESGCM(key).decrypt(box[:_NONCE], box[_NONCE:], attempt.encode("ascii"))
