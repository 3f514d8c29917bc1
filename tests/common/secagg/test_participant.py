"""One client's side: masks that look like noise and cancel, and every question that it must refuse."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from trend_common.errors import PolicyError
from trend_common.flower.keys import new_private_key, public_key_text
from trend_common.protocol import SecureAggregationPlan, TrainOrder
from trend_common.secagg import masks
from trend_common.secagg.messages import Advert, Attempt, Box, FederationRoster, RosterEntry, Signature, to_text
from trend_common.secagg.participant import Participant
from trend_common.secagg.signing import sign, verified_advert

N, T = 5, 3
KEYS = [new_private_key() for _ in range(N)]
ROSTER = FederationRoster(
    federation="f",
    plan_sha256="a" * 64,
    members=tuple(RosterEntry(name=f"s{i}", public_key=public_key_text(key)) for i, key in enumerate(KEYS)),
)
RULES = SecureAggregationPlan(min_clients=3, max_clients=10, threshold=0.5, range=1.0)
ORDER = TrainOrder(federation="f", round=1, plan_sha256="a" * 64, adapter_sha256="b" * 64)


def attempt(name: str = "0" * 32, number: int = 1) -> Attempt:
    """An attempt of this roster."""
    order = ORDER.model_copy(update={"round": number})
    return Attempt(name=name, order=order, roster_sha256=ROSTER.sha256())


def bytes_of(seed: str) -> Callable[[int], bytes]:
    """Keys that a test can repeat."""
    state = {"n": 0}

    def draw(size: int) -> bytes:
        state["n"] += 1
        return hashlib.sha256(f"{seed}|{state['n']}".encode()).digest()[:size]

    return draw


class Round:
    """Five participants up to the step that a test is about."""

    def __init__(self, seed: str = "one", which: Attempt | None = None) -> None:
        self.attempt = which or attempt()
        self.all = [
            Participant(self.attempt, ROSTER, RULES, key, bytes_of(f"{seed}{i}")) for i, key in enumerate(KEYS)
        ]
        self.adverts = [one.advert() for one in self.all]

    def dealt(self) -> list[tuple[Box, ...]]:
        """Deal the shares; the boxes that each receives."""
        sent = [one.share(self.adverts, T) for one in self.all]
        return [
            tuple(
                Box(member=s, content=next(b.content for b in sent[s] if b.member == r)) for s in range(N) if s != r
            )
            for r in range(N)
        ]

    def masked(self, values: list[masks.Words]) -> list[masks.Words]:
        """All vectors masked."""
        boxes = self.dealt()
        return [one.mask(value, box) for one, value, box in zip(self.all, values, boxes, strict=True)]


def test_masks_cancel_but_for_the_self_masks() -> None:
    made = Round()
    size = 1000
    total = sum(made.masked([np.full(size, i, np.uint32) for i in range(N)]), np.zeros(size, np.uint32))
    for one in made.all:
        total -= masks.self_mask(one._seed, made.attempt.name, one.member, size)
    np.testing.assert_array_equal(total, 0 + 1 + 2 + 3 + 4)


def test_a_masked_vector_is_uniform() -> None:
    """Chi-square of the bytes, six standard deviations to each side; the keys are fixed, so this never wavers."""
    size = 100_000
    for value in (np.zeros(size, np.uint32), np.arange(size, dtype=np.uint32)):
        for one in Round().masked([value] * N):
            for shift in (0, 8, 16, 24):
                counts = np.bincount((one >> np.uint32(shift)) & np.uint32(255), minlength=256)
                statistic = float(chisquare(counts).statistic)
                assert abs(statistic - 255) < 6 * np.sqrt(2 * 255)


def test_the_same_delta_under_fresh_keys_looks_unrelated() -> None:
    size = 100_000
    delta = [np.arange(size, dtype=np.uint32)] * N
    first = Round("one", attempt("1" * 32)).masked(delta)
    second = Round("two", attempt("2" * 32)).masked(delta)
    for a, b in zip(first, second, strict=True):
        difference = a - b
        counts = np.bincount(difference & np.uint32(255), minlength=256)
        assert abs(float(chisquare(counts).statistic) - 255) < 6 * np.sqrt(2 * 255)
        assert abs(np.corrcoef(a.view(np.int32), b.view(np.int32))[0, 1]) < 6 / np.sqrt(size)


def test_the_same_keys_in_another_attempt_give_other_masks() -> None:
    """Defence in depth: the attempt is in every derived key."""
    zero = [np.zeros(1000, np.uint32)] * N
    first = Round("one", attempt("1" * 32)).masked(zero)
    second = Round("one", attempt("2" * 32)).masked(zero)
    assert all((a != b).mean() > 0.99 for a, b in zip(first, second, strict=True))


def test_fresh_participants_have_fresh_keys() -> None:
    first, second = (Participant(attempt(), ROSTER, RULES, KEYS[0]).advert() for _ in range(2))
    assert first.mask != second.mask
    assert first.channel != second.channel
    assert first.seed_sha256 != second.seed_sha256


ALTERED: dict[str, Callable[[Round], list[Advert]]] = {
    "an unsigned mask key": lambda r: [
        *r.adverts[:1],
        r.adverts[1].model_copy(update={"mask": r.adverts[2].mask}),
        *r.adverts[2:],
    ],
    "an unsigned channel key": lambda r: [
        *r.adverts[:1],
        r.adverts[1].model_copy(update={"channel": r.adverts[2].channel}),
        *r.adverts[2:],
    ],
    "an unsigned seed hash": lambda r: [
        *r.adverts[:1],
        r.adverts[1].model_copy(update={"seed_sha256": "0" * 64}),
        *r.adverts[2:],
    ],
    "another member's keys": lambda r: [r.adverts[0], r.adverts[2].model_copy(update={"member": 1}), *r.adverts[2:]],
    "keys of another attempt": lambda r: [
        r.adverts[0],
        Participant(attempt("9" * 32), ROSTER, RULES, KEYS[1]).advert(),
        *r.adverts[2:],
    ],
    "keys of another round": lambda r: [
        r.adverts[0],
        Participant(attempt(number=2), ROSTER, RULES, KEYS[1]).advert(),
        *r.adverts[2:],
    ],
    "a member twice": lambda r: [*r.adverts, r.adverts[1]],
    "without one's own": lambda r: r.adverts[1:],
    "somebody not in the roster": lambda r: [*r.adverts, r.adverts[1].model_copy(update={"member": 77})],
    "too few": lambda r: r.adverts[:2],
}


@pytest.mark.parametrize("what", ALTERED)
def test_a_list_of_keys_that_was_tampered_with_is_refused(what: str) -> None:
    made = Round()
    with pytest.raises(PolicyError):
        made.all[0].share(ALTERED[what](made), T)


def test_a_threshold_of_half_or_less_is_refused() -> None:
    for threshold, message in ((2, "wants 2 of 5"), (6, "do not fit the plan")):
        made = Round()
        with pytest.raises(PolicyError, match=message):
            made.all[0].share(made.adverts, threshold)


def test_a_roster_without_ones_own_key_is_refused() -> None:
    with pytest.raises(PolicyError, match="not in the roster"):
        Participant(attempt(), ROSTER, RULES, new_private_key())


def confirmed() -> tuple[Round, list[str]]:
    """A round in which all have signed a sum of all."""
    made = Round()
    made.masked([np.zeros(4, np.uint32)] * N)
    return made, [one.confirm(range(N)) for one in made.all]


@pytest.mark.parametrize(
    "survivors", [(0, 1), (1, 2, 3, 4), (0, 1, 2, 77), (0, 0, 1, 2)], ids=["few", "not me", "stranger", "twice"]
)
def test_a_list_of_survivors_that_does_not_fit_is_not_signed(survivors: tuple[int, ...]) -> None:
    made = Round()
    made.masked([np.zeros(4, np.uint32)] * N)
    with pytest.raises(PolicyError):
        made.all[0].confirm(survivors)


def test_shares_are_given_once_and_of_one_kind() -> None:
    made, signatures = confirmed()
    signed = [Signature(member=i, signature=s) for i, s in enumerate(signatures)]
    shares = made.all[0].unmask(signed[:T])
    assert [share.member for share in shares] == list(range(N))
    with pytest.raises(PolicyError, match="Each step is taken once"):
        made.all[0].unmask(signed[:T])
    with pytest.raises(PolicyError, match="Each step is taken once"):
        made.all[0].confirm(range(3))
    assert made.all[0]._seed == b"", "the secrets of the attempt are gone"


FALSE: dict[str, Callable[[Round, list[str]], list[tuple[int, str]]]] = {
    "too few": lambda r, s: [(0, s[0]), (1, s[1])],
    "one of them thrice": lambda r, s: [(1, s[1])] * 3,
    "one by another key": lambda r, s: [(0, s[0]), (1, s[1]), (2, s[3])],
    "one of another sum": lambda r, s: [(0, s[0]), (1, s[1]), (2, other_sum())],
    "a member that is no survivor": lambda r, s: [(0, s[0]), (1, s[1]), (9, s[2])],
}


def other_sum() -> str:
    """Member 2's signature over a sum of fewer, in a round that is the same but for that."""
    made = Round()
    made.masked([np.zeros(4, np.uint32)] * N)
    return made.all[2].confirm((0, 1, 2, 3))


@pytest.mark.parametrize("what", FALSE)
def test_without_enough_signatures_over_the_same_no_share_is_given(what: str) -> None:
    made, signatures = confirmed()
    signed = [Signature(member=m, signature=s) for m, s in FALSE[what](made, signatures)]
    with pytest.raises(PolicyError, match="have confirmed the sum as this one saw it"):
        made.all[0].unmask(signed)


def test_steps_out_of_order_are_refused() -> None:
    made = Round()
    for step in (
        lambda: made.all[0].mask(np.zeros(4, np.uint32), ()),
        lambda: made.all[0].confirm((0, 1, 2)),
        lambda: made.all[0].unmask(()),
        lambda: made.all[0].advert(),
    ):
        with pytest.raises(PolicyError, match="Each step is taken once"):
            step()


def test_a_box_is_for_its_receiver_alone() -> None:
    made = Round()
    boxes = made.dealt()
    foreign = tuple(Box(member=box.member, content=boxes[1][1].content) for box in boxes[0])
    made.all[0].mask(np.zeros(4, np.uint32), foreign)
    assert made.all[0]._opened(2) is None
    made.all[1].mask(np.zeros(4, np.uint32), boxes[1])
    opened = made.all[1]._opened(2)
    assert opened is not None
    assert len(opened) == 66


def test_boxes_of_too_few_are_not_masked_under() -> None:
    made = Round()
    boxes = made.dealt()
    with pytest.raises(PolicyError, match="needed to hide in"):
        made.all[0].mask(np.zeros(4, np.uint32), boxes[0][:1])
    other = Round()
    boxes = other.dealt()
    with pytest.raises(PolicyError, match="comes twice"):
        other.all[0].mask(np.zeros(4, np.uint32), (*boxes[0], boxes[0][0]))


def test_a_public_key_of_low_order_is_refused() -> None:
    with pytest.raises(PolicyError, match="not a key of X25519"):
        masks.agree(b"k" * 32, bytes(32))


def test_an_advert_is_bound_to_its_signer() -> None:
    one = Round().adverts[0]
    assert verified_advert(ROSTER, attempt(), one)
    unsigned: dict[str, Any] = {"signature": sign(KEYS[1], one.signed(attempt()))}
    assert not verified_advert(ROSTER, attempt(), one.model_copy(update=unsigned))
    assert not verified_advert(ROSTER, attempt(), one.model_copy(update={"signature": to_text(b"abc")}))
    assert not verified_advert(ROSTER, attempt(), one.model_copy(update={"mask": to_text(b"short")}))
