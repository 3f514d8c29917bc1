"""Shamir's secret sharing of 32-byte secrets over a prime field (Shamir 1979).

>>> shares = split(7, holders=(1, 2, 3), threshold=2)
>>> combine({2: shares[2], 3: shares[3]})
7

Fewer than ``threshold`` shares fit every secret equally well. Any ``threshold`` of them give it back. Nothing in a
share says whether it is right: what is recovered is compared with a public key or a commitment by the caller.

Two kept libraries were tried before this was written, and both are sound. pycryptodome's shares 128 bits and takes
2.5 s to recover one secret from 67 shares, shamirs 1.4 s; a round of 100 clients recovers 100 of them from the same
holders. Lagrange's weights depend on the holders alone, so here they are computed once a round (:func:`weights`), and
a secret costs one product a share.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Final

__all__ = ["PRIME", "SHARE_BYTES", "combine", "split", "weights"]

PRIME: Final = 2**256 + 297
"""The least prime above 2²⁵⁶, so that every 32-byte secret is an element."""
SHARE_BYTES: Final = 33


def split(secret: int, *, holders: Sequence[int], threshold: int, prime: int = PRIME) -> dict[int, int]:
    """Share ``secret`` among ``holders``.

    Args:
        secret: 0 ≤ secret < prime.
        holders: Their distinct positive numbers, at which the polynomial is evaluated.
        threshold: Shares that recover it.
        prime: Of the field.

    Returns:
        Holder → share.

    Raises:
        ValueError: A number or the secret is out of range, or the threshold cannot be met.
    """
    if not 0 <= secret < prime:
        raise ValueError("the secret is not an element of the field")
    if not 1 <= threshold <= len(holders):
        raise ValueError(f"a threshold of {threshold} cannot be met by {len(holders)} holders")
    if len(set(holders)) != len(holders) or not all(0 < x < prime for x in holders):
        raise ValueError("holders have distinct numbers from 1 to the prime less 1")
    # All coefficients are uniform, the highest included: that is what makes fewer shares say nothing.
    polynomial = [secret, *(secrets.randbelow(prime) for _ in range(threshold - 1))]
    found = {}
    for x in holders:
        value = 0
        for coefficient in reversed(polynomial):
            value = (value * x + coefficient) % prime
        found[x] = value
    return found


def weights(holders: Sequence[int], *, prime: int = PRIME) -> dict[int, int]:
    """Lagrange's weights at zero: the secret is Σ weight · share over these very holders.

    Raises:
        ValueError: A holder appears twice.
    """
    if len(set(holders)) != len(holders):
        raise ValueError("a holder appears twice")
    found = {}
    for x in holders:
        above = below = 1
        for other in holders:
            if other != x:
                above = above * other % prime
                below = below * (other - x) % prime
        found[x] = above * pow(below, -1, prime) % prime
    return found


def combine(shares: Mapping[int, int], *, by: Mapping[int, int] | None = None, prime: int = PRIME) -> int:
    """Recover what at least ``threshold`` shares belong to; fewer, or a wrong one, give a meaningless element.

    Args:
        shares: Holder → share.
        by: :func:`weights` of exactly these holders, where many secrets have the same.
        prime: Of the field.
    """
    by = weights(tuple(shares), prime=prime) if by is None else by
    return sum(by[x] * value for x, value in shares.items()) % prime
