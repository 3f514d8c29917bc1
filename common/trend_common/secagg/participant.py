"""One client's side of one attempt: its secrets, and what it checks before it answers.

Nothing here is stored, and every step can be taken once. Keys and seeds come from the operating system; a test may
give its own.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec

from trend_common.errors import PolicyError
from trend_common.flower.keys import public_key_text
from trend_common.protocol import SecureAggregationPlan
from trend_common.secagg import masks, shamir
from trend_common.secagg.messages import (
    Advert,
    Attempt,
    Box,
    FederationRoster,
    Share,
    Signature,
    from_text,
    to_text,
    transcript,
)
from trend_common.secagg.signing import is_signed, sign, verified_advert

__all__ = ["Participant", "place_of"]

Stage = Literal["new", "keys", "shares", "masked", "confirm", "unmask"]
_HINT = "This client takes no further part in this attempt; nothing of its delta can be seen."


def place_of(roster: FederationRoster, key: ec.EllipticCurvePrivateKey) -> int:
    """The place of one's own key in the roster.

    Raises:
        PolicyError: It is not there.
    """
    own = public_key_text(key)
    for place, member in enumerate(roster.members):
        if member.public_key == own:
            return place
    raise PolicyError(
        "This client's key is not in the roster of the secure rounds.",
        "It joined after the first round, or the roster was altered. It can still receive the shared adapter.",
    )


class Participant:
    """A member in one attempt.

    Args:
        attempt: Which one.
        roster: As pinned.
        plan: The plan's rules.
        key: The enrolled key.
        entropy: Source of the mask key, the channel key and the seed.
    """

    def __init__(
        self,
        attempt: Attempt,
        roster: FederationRoster,
        plan: SecureAggregationPlan,
        key: ec.EllipticCurvePrivateKey,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.attempt, self.roster, self.plan = attempt, roster, plan
        self.member = place_of(roster, key)
        self.threshold = 0
        self._key = key
        self._stage: Stage = "new"
        self._channel, self._mask, self._seed = entropy(32), entropy(32), entropy(32)
        self._adverts: dict[int, Advert] = {}
        self._own_share = b""
        self._boxes: dict[int, bytes] = {}
        self._survivors: tuple[int, ...] = ()

    @property
    def members(self) -> tuple[int, ...]:
        """Who sent keys, once :meth:`share` has checked them."""
        return tuple(sorted(self._adverts))

    @property
    def senders(self) -> tuple[int, ...]:
        """Who dealt shares, once :meth:`mask` has seen the boxes."""
        return tuple(sorted({*self._boxes, self.member}))

    def advert(self) -> Advert:
        """The public half of this attempt's secrets, signed."""
        self._step("new", "keys")
        unsigned = Advert(
            member=self.member,
            channel=to_text(masks.public_of(self._channel)),
            mask=to_text(masks.public_of(self._mask)),
            seed_sha256=hashlib.sha256(self._seed).hexdigest(),
            signature=to_text(bytes(3)),
        )
        self._own = unsigned.model_copy(update={"signature": sign(self._key, unsigned.signed(self.attempt))})
        return self._own

    def share(self, adverts: Sequence[Advert], threshold: int) -> tuple[Box, ...]:
        """Check everybody's keys and deal the shares.

        Raises:
            PolicyError: A key is not signed by the roster's key of its member, one's own is missing or altered,
                somebody is there twice, there are too few or too many, or the threshold is too small.
        """
        self._step("keys", "shares")
        found = {advert.member: advert for advert in adverts}
        plan, n = self.plan, len(adverts)
        if len(found) != n or found.get(self.member) != self._own:
            raise PolicyError("The server's list of keys leaves this client's out, or has one twice.", _HINT)
        if n > plan.max_clients or threshold > n:
            raise PolicyError(f"{n} clients with a threshold of {threshold} do not fit the plan.", _HINT)
        if threshold < plan.required(n):
            raise PolicyError(
                f"The server wants {threshold} of {n} clients to be enough to reveal a sum; the plan asks for "
                f"{plan.required(n)}.",
                _HINT,
            )
        for advert in adverts:
            if not verified_advert(self.roster, self.attempt, advert):
                raise PolicyError(
                    f"The keys under the name of {self._name(advert.member)} are not signed by that retailer.",
                    f"Somebody between you may have put in keys of their own. {_HINT}",
                )
        self._adverts, self.threshold = found, threshold
        holders = [member + 1 for member in found]
        mask_shares = shamir.split(int.from_bytes(self._mask), holders=holders, threshold=threshold)
        seed_shares = shamir.split(int.from_bytes(self._seed), holders=holders, threshold=threshold)
        boxes = []
        for member, advert in sorted(found.items()):
            size = shamir.SHARE_BYTES
            content = mask_shares[member + 1].to_bytes(size) + seed_shares[member + 1].to_bytes(size)
            if member == self.member:
                self._own_share = content
                continue
            secret = masks.agree(self._channel, from_text(advert.channel))
            box = masks.seal_box(secret, self.attempt.name, self.member, member, content)
            boxes.append(Box(member=member, content=to_text(box)))
        return tuple(boxes)

    def mask(self, values: masks.Words, boxes: Sequence[Box]) -> masks.Words:
        """[D] ``values`` under this member's masks.

        Args:
            values: The fixed-point delta.
            boxes: From those of the others who dealt shares; they and this client are in the masks.

        Raises:
            PolicyError: A box is from a stranger, or too few dealt shares.
        """
        self._step("shares", "masked")
        self._boxes = {box.member: from_text(box.content) for box in boxes}
        if len(self._boxes) != len(boxes) or not self._boxes.keys() <= self._adverts.keys() - {self.member}:
            raise PolicyError("A box of shares comes twice, or from somebody who sent no keys.", _HINT)
        if len(self.senders) < self.threshold:
            raise PolicyError(
                f"Only {len(self.senders)} clients dealt shares; {self.threshold} are needed to hide in.", _HINT
            )
        name = self.attempt.name
        masked = values + masks.self_mask(self._seed, name, self.member, values.size)
        for member in self._boxes:
            secret = masks.agree(self._mask, from_text(self._adverts[member].mask))
            masked += masks.pair_mask(secret, name, self.member, member, values.size)
        return np.asarray(masked, dtype=np.uint32)

    def confirm(self, survivors: Sequence[int]) -> str:
        """Sign that the sum is of ``survivors``, in the attempt as this client saw it.

        Raises:
            PolicyError: This client is not among them, somebody is who dealt no shares, or they are too few.
        """
        self._step("masked", "confirm")
        chosen = set(survivors)
        if len(chosen) != len(survivors) or self.member not in chosen or not chosen <= set(self.senders):
            raise PolicyError("The server's list of survivors does not fit this attempt.", _HINT)
        if len(chosen) < self.threshold:
            raise PolicyError(
                f"A sum of {len(chosen)} clients is to be revealed; at least {self.threshold} must be in it.", _HINT
            )
        self._survivors = tuple(sorted(chosen))
        return sign(self._key, self._transcript())

    def unmask(self, signatures: Sequence[Signature]) -> tuple[Share, ...]:
        """One share for each that dealt some; the secrets of this attempt are gone afterwards.

        Raises:
            PolicyError: Fewer than ``threshold`` survivors have signed what this client has signed.
        """
        self._step("confirm", "unmask")
        data = self._transcript()
        signers = {
            one.member
            for one in signatures
            if one.member in self._survivors and is_signed(self.roster, one.member, data, one.signature)
        }
        if len(signers) < self.threshold:
            raise PolicyError(
                f"Only {len(signers)} clients have confirmed the sum as this one saw it; {self.threshold} must.",
                f"The server may have told them something else. {_HINT}",
            )
        shares = []
        for member in self.senders:
            content = self._opened(member)
            if content is not None:
                seed = member in self._survivors
                part = content[shamir.SHARE_BYTES :] if seed else content[: shamir.SHARE_BYTES]
                shares.append(Share(member=member, value=to_text(part)))
        self._channel = self._mask = self._seed = self._own_share = b""
        self._boxes = {}
        return tuple(shares)

    def _opened(self, member: int) -> bytes | None:
        """The shares that ``member`` dealt to this client; None where its box cannot be opened."""
        if member == self.member:
            return self._own_share
        try:
            secret = masks.agree(self._channel, from_text(self._adverts[member].channel))
            content = masks.open_box(secret, self.attempt.name, member, self.member, self._boxes[member])
        except (InvalidTag, PolicyError, ValueError):
            return None
        return content if len(content) == 2 * shamir.SHARE_BYTES else None

    def _transcript(self) -> bytes:
        return transcript(self.attempt, self.threshold, tuple(self._adverts.values()), self.senders, self._survivors)

    def _name(self, member: int) -> str:
        known: Mapping[int, str] = {place: one.name for place, one in enumerate(self.roster.members)}
        return known.get(member, "nobody in the roster")

    def _step(self, wanted: Stage, now: Stage) -> None:
        if self._stage != wanted:
            raise PolicyError(
                f"The server asks for the step {now} after the step {self._stage}.", "Each step is taken once."
            )
        self._stage = now
