"""Shamir's sharing: enough shares recover, and fewer say nothing at all."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trend_common.secagg import shamir


@given(secret=st.integers(0, 2**256 - 1), data=st.data())
def test_any_threshold_of_the_shares_recovers_the_secret(secret: int, data: st.DataObject) -> None:
    holders = data.draw(st.lists(st.integers(1, 10_000), min_size=1, max_size=8, unique=True))
    threshold = data.draw(st.integers(1, len(holders)))
    shares = shamir.split(secret, holders=holders, threshold=threshold)
    chosen = data.draw(st.lists(st.sampled_from(holders), min_size=threshold, unique=True))
    assert shamir.combine({x: shares[x] for x in chosen}) == secret
    assert all(value.to_bytes(shamir.SHARE_BYTES) for value in shares.values())


def test_one_share_too_few_fits_every_secret_equally_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a field of seven all polynomials can be tried: any two shares of three are as likely for every secret."""
    prime = 7
    seen: dict[int, Counter[tuple[int, int]]] = {}
    for secret in range(prime):
        seen[secret] = Counter()
        for coefficients in itertools.product(range(prime), repeat=2):
            drawn = iter(coefficients)
            monkeypatch.setattr(shamir.secrets, "randbelow", lambda _, drawn=drawn: next(drawn))
            shares = shamir.split(secret, holders=(1, 2, 3), threshold=3, prime=prime)
            seen[secret][shares[1], shares[3]] += 1
    assert all(one == seen[0] for one in seen.values())
    assert set(seen[0].values()) == {1}, "all pairs of shares occur, each once"


@pytest.mark.parametrize("threshold", [2, 3])
def test_a_share_is_spread_over_the_whole_field(threshold: int) -> None:
    """With coefficients that are small, or the same, the first digits of a share would be those of the secret."""
    shares = [shamir.split(5, holders=(1, 2, 3), threshold=threshold)[1] for _ in range(2000)]
    for place in (1, 128, 256):
        ones = sum(share >> (256 - place) & 1 for share in shares)
        assert abs(ones - 1000) < 6 * 500**0.5, f"digit {place}"


def test_the_sharing_is_fresh_each_time() -> None:
    first, second = (shamir.split(5, holders=(1, 2, 3), threshold=2) for _ in range(2))
    assert not set(first.values()) & set(second.values())


@pytest.mark.parametrize(
    ("secret", "holders", "threshold"),
    [(-1, (1, 2), 2), (shamir.PRIME, (1, 2), 2), (1, (1, 2), 3), (1, (1, 2), 0), (1, (1, 1), 2), (1, (0, 1), 2)],
)
def test_what_cannot_be_shared_is_refused(secret: int, holders: tuple[int, ...], threshold: int) -> None:
    with pytest.raises(ValueError):
        shamir.split(secret, holders=holders, threshold=threshold)


def test_weights_of_a_holder_twice_are_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        shamir.weights((1, 2, 2))
