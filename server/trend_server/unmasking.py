"""From the sum of masked vectors to the sum: recover survivors' seeds and dropouts' mask keys, check, subtract.

Every secret is checked when it is recovered, a seed against the hash and a mask key against the public key that its
owner signed. So a wrong share cannot pass unseen. If more shares than needed are there, other choices of them are
tried, and a few wrong ones do no harm.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from trend_common.errors import PolicyError
from trend_common.secagg import masks, shamir
from trend_common.secagg.messages import Advert, Share, from_text

__all__ = ["Shares", "read_shares", "unmask"]

_TRIES: Final = 400
"""Choices of shares that are tried for one secret: all single and most double leavings-out of 30 holders."""

Shares = Mapping[int, int]
"""Holder → its share of one member's secret."""


@dataclass(frozen=True)
class _Recovery:
    """Lagrange's weights, computed once for each choice of holders."""

    threshold: int
    known: dict[tuple[int, ...], dict[int, int]]

    def tries(self, shares: Shares) -> list[tuple[int, ...]]:
        """Choices of ``threshold`` holders, the first ones first."""
        holders = sorted(shares)
        return list(itertools.islice(itertools.combinations(holders, self.threshold), _TRIES))

    def combine(self, shares: Shares, holders: tuple[int, ...]) -> int:
        """The secret, if these shares are right."""
        if holders not in self.known:
            self.known[holders] = shamir.weights([holder + 1 for holder in holders])
        return shamir.combine({holder + 1: shares[holder] for holder in holders}, by=self.known[holders])


def read_shares(shares: Sequence[Share], senders: Sequence[int]) -> dict[int, int]:
    """Member → share, from one holder's answer.

    Raises:
        PolicyError: A share is of somebody who dealt none, comes twice, or is no element of the field.
    """
    found: dict[int, int] = {}
    for share in shares:
        try:
            value = int.from_bytes(from_text(share.value, shamir.SHARE_BYTES))
        except ValueError as error:
            raise PolicyError("A share has the wrong length.", "") from error
        if share.member not in senders or share.member in found or value >= shamir.PRIME:
            raise PolicyError("A share is of nobody, comes twice, or is no element of the field.", "")
        found[share.member] = value
    return found


def unmask(
    masked: masks.Words,
    *,
    attempt: str,
    threshold: int,
    adverts: Mapping[int, Advert],
    senders: Sequence[int],
    survivors: Sequence[int],
    shares: Mapping[int, Shares],
) -> masks.Words:
    """[D] the exact sum of the survivors' vectors, modulo 2³².

    Args:
        masked: [D] sum of the survivors' masked vectors.
        attempt: Its name.
        threshold: Shares that recover a secret.
        adverts: Public keys by member.
        senders: Who dealt shares: survivors and dropouts.
        survivors: Whose vectors are in the sum.
        shares: Holder → (member → share).

    Raises:
        PolicyError: A secret cannot be recovered; whose is said. No sum is returned.
    """
    total = masked.copy()
    recovery = _Recovery(threshold, {})
    for member in senders:
        own = {holder: given[member] for holder, given in shares.items() if member in given}
        if member in survivors:
            seed = _seed(own, adverts[member], recovery)
            total -= masks.self_mask(seed, attempt, member, masked.size)
            continue
        private = _mask_key(own, adverts[member], recovery)
        for other in survivors:
            secret = masks.agree(private, from_text(adverts[other].mask))
            total -= masks.pair_mask(secret, attempt, other, member, masked.size)
    return np.asarray(total, dtype=np.uint32)


def _seed(shares: Shares, advert: Advert, recovery: _Recovery) -> bytes:
    for holders in recovery.tries(shares):
        value = recovery.combine(shares, holders)
        if value < 2**256 and hashlib.sha256(value.to_bytes(32)).hexdigest() == advert.seed_sha256:
            return value.to_bytes(32)
    raise _unfit(shares, advert)


def _mask_key(shares: Shares, advert: Advert, recovery: _Recovery) -> bytes:
    public = from_text(advert.mask)
    for holders in recovery.tries(shares):
        value = recovery.combine(shares, holders)
        if value < 2**256 and masks.public_of(value.to_bytes(32)) == public:
            return value.to_bytes(32)
    raise _unfit(shares, advert)


def _unfit(shares: Shares, advert: Advert) -> PolicyError:
    return PolicyError(
        f"The {len(shares)} shares of member {advert.member} do not give what it signed.",
        "It dealt wrong shares, or others returned wrong ones. No sum was made of them.",
    )
