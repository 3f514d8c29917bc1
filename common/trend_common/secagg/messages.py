"""What travels in a round of secure aggregation; see :mod:`trend_common.secagg` for the order and the reasons.

::

    query.keys      KeysOrder (+ roster)       ->  KeysReply      fresh public keys, signed
    query.shares    SharesOrder, all keys      ->  SharesReply    a box for each other member
    train.masked    MaskedOrder + adapter      ->  TrainReply + uint32 [D], the masked delta
    query.confirm   ConfirmOrder, survivors    ->  ConfirmReply   a signature over all of the above
    query.unmask    UnmaskOrder, signatures    ->  UnmaskReply    one share of each member

A member is named by its place in the roster, from 0. Bytes travel as base64.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from trend_common.protocol import Name, Sha256, TrainOrder, WireModel

__all__ = [
    "ACTION_CONFIRM",
    "ACTION_KEYS",
    "ACTION_MASKED",
    "ACTION_SHARES",
    "ACTION_UNMASK",
    "SECURE_ACTIONS",
    "Advert",
    "Attempt",
    "Box",
    "ConfirmOrder",
    "ConfirmReply",
    "FederationRoster",
    "KeysOrder",
    "KeysReply",
    "MaskedOrder",
    "RosterEntry",
    "Share",
    "SharesOrder",
    "SharesReply",
    "Signature",
    "UnmaskOrder",
    "UnmaskReply",
    "from_text",
    "to_text",
    "transcript",
]

ACTION_KEYS: Final = "query.keys"
ACTION_SHARES: Final = "query.shares"
ACTION_MASKED: Final = "train.masked"
ACTION_CONFIRM: Final = "query.confirm"
ACTION_UNMASK: Final = "query.unmask"
SECURE_ACTIONS: Final = frozenset({ACTION_KEYS, ACTION_SHARES, ACTION_MASKED, ACTION_CONFIRM, ACTION_UNMASK})

Text = Annotated[str, Field(min_length=4, max_length=400, pattern=r"^[A-Za-z0-9+/]+={0,2}$")]
AttemptName = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Member = Annotated[int, Field(ge=0, lt=100_000)]


def to_text(data: bytes) -> str:
    """Base64."""
    return base64.b64encode(data).decode("ascii")


def from_text(text: str, length: int | None = None) -> bytes:
    """Invert :func:`to_text`.

    Raises:
        ValueError: It is not base64, or not of ``length`` bytes.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
    if length is not None and len(data) != length:
        raise ValueError(f"{len(data)} bytes and not {length}")
    return data


class RosterEntry(WireModel):
    """One retailer: its name with the operator, and its enrolled key (OpenSSH form of EC P-384)."""

    name: Name
    public_key: Annotated[str, Field(min_length=40, max_length=400)]


class FederationRoster(WireModel):
    """Who may take part in the secure rounds of one federation; fixed when its first round opens."""

    federation: Name
    plan_sha256: Sha256
    members: tuple[RosterEntry, ...] = Field(min_length=3, max_length=10_000)

    @model_validator(mode="after")
    def _all_different(self) -> Self:
        for values in ({one.name for one in self.members}, {one.public_key for one in self.members}):
            if len(values) != len(self.members):
                raise ValueError("a name or a key appears twice")
        return self

    @property
    def fingerprint(self) -> str:
        """What people compare: 32 hexadecimal digits of the roster's hash, in groups of four."""
        digits = self.sha256()[:32]
        return " ".join(digits[start : start + 4] for start in range(0, 32, 4))


class Attempt(WireModel):
    """One try at one round. Its name is fresh and random; a retry has another, and other keys."""

    name: AttemptName
    order: TrainOrder
    roster_sha256: Sha256


class Advert(WireModel):
    """A member's fresh public keys, signed with its enrolled key.

    Attributes:
        member: Its place in the roster.
        channel: X25519 key that its boxes are encrypted to.
        mask: X25519 key of its pair masks; the private half is shared.
        seed_sha256: Hash of the seed of its self mask, so that a wrong recovery shows.
        signature: ECDSA over all of this and the attempt.
    """

    member: Member
    channel: Text
    mask: Text
    seed_sha256: Sha256
    signature: Text

    def signed(self, attempt: Attempt) -> bytes:
        """The bytes under the signature."""
        fields = (attempt.sha256(), str(self.member), self.channel, self.mask, self.seed_sha256)
        return "|".join(("trend-secagg-1|keys", *fields)).encode("ascii")


class Box(WireModel):
    """An encrypted pair of shares, from or to the member that the message does not name."""

    member: Member
    content: Text


class Share(WireModel):
    """A holder's share of one member's secret: the seed of a survivor, the mask key of one that dropped out."""

    member: Member
    value: Text


class Signature(WireModel):
    """One member's signature over the transcript."""

    member: Member
    signature: Text


class KeysOrder(WireModel):
    """Make fresh keys. The roster comes along until the client has it."""

    attempt: Attempt
    roster: FederationRoster | None = None


class KeysReply(WireModel):
    """The keys, or a decline."""

    advert: Advert | None = None


class SharesOrder(WireModel):
    """All keys, and the number of shares that shall recover a secret."""

    attempt: AttemptName
    threshold: int = Field(ge=2)
    adverts: tuple[Advert, ...] = Field(min_length=3, max_length=10_000)


class SharesReply(WireModel):
    """A box for each of the others; empty is a decline."""

    boxes: tuple[Box, ...] = Field(default=(), max_length=10_000)


class MaskedOrder(WireModel):
    """Train, and send the delta masked. Only those whose box is here are in the sum's masks."""

    attempt: AttemptName
    order: TrainOrder
    boxes: tuple[Box, ...] = Field(max_length=10_000)


class ConfirmOrder(WireModel):
    """Whose masked deltas have arrived."""

    attempt: AttemptName
    survivors: tuple[Member, ...] = Field(min_length=1, max_length=10_000)


class ConfirmReply(WireModel):
    """The signature over the transcript; none is a decline."""

    signature: Text | None = None


class UnmaskOrder(WireModel):
    """Signatures of at least ``threshold`` survivors over the same transcript."""

    attempt: AttemptName
    signatures: tuple[Signature, ...] = Field(max_length=10_000)


class UnmaskReply(WireModel):
    """One share of each member that dealt some; empty is a decline."""

    shares: tuple[Share, ...] = Field(default=(), max_length=10_000)


def transcript(
    attempt: Attempt, threshold: int, adverts: Sequence[Advert], senders: Sequence[int], survivors: Sequence[int]
) -> bytes:
    """What every survivor must have seen alike before anybody gives a share, as the bytes that are signed."""
    digest = hashlib.sha256()
    for advert in sorted(adverts, key=lambda one: one.member):
        digest.update(advert.canonical().encode("ascii") + b"\n")
    parts = (
        attempt.sha256(),
        str(threshold),
        digest.hexdigest(),
        ",".join(map(str, sorted(senders))),
        ",".join(map(str, sorted(survivors))),
    )
    kind: Literal["trend-secagg-1|confirm"] = "trend-secagg-1|confirm"
    return "|".join((kind, *parts)).encode("ascii")
