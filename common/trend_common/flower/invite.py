"""The invitation that an operator hands to a retailer, and the request that redeems it."""

from __future__ import annotations

import hashlib
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from trend_common.errors import ConnectionFailure
from trend_common.protocol import WireModel

__all__ = ["ENROL_PATH", "EnrolAnswer", "EnrolCode", "EnrolRequest", "Invite", "certificate_sha256"]

ENROL_PATH = "/v1/enrol"

EnrolCode = Literal["registered", "used", "expired", "unknown", "revoked", "invalid", "busy"]
"""All that the server ever says about an invitation."""


def certificate_sha256(pem: str) -> str:
    """Return the SHA-256 fingerprint (hexadecimal) of a certificate in PEM form.

    Raises:
        ValueError: It is not a certificate in PEM form.
    """
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.strip() + "\n")).hexdigest()


class Invite(WireModel):
    """One retailer's invitation. Whoever holds the file can join once, under this name: treat it like a password.

    Attributes:
        server: ``HOST:PORT`` of the server.
        name: What the operator calls this retailer; it never travels with data.
        token: 256 random bits; the server keeps their hash only.
        expires: When the invitation ends, UTC.
        ca_pem: The certificate authority that signs the server; no other is trusted.
        ca_sha256: Its fingerprint, to compare with the operator by telephone.
        fab_sha256: Hash of the one app bundle that the client will serve.
    """

    version: Literal[1] = 1
    server: str = Field(pattern=r"^[^\s/@]+:\d{1,5}$", max_length=300)
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    token: str = Field(pattern=r"^[A-Za-z0-9_-]{43}$")
    expires: datetime
    ca_pem: str = Field(max_length=20_000)
    ca_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    fab_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    @property
    def expired(self) -> bool:
        """Whether the time is over, by this machine's clock."""
        return datetime.now(UTC) > self.expires

    @classmethod
    def load(cls, path: Path) -> Invite:
        """Read an invitation file.

        Raises:
            ConnectionFailure: It cannot be read, is not an invitation, or its certificate is not the one it names.
        """
        hint = "Ask the operator to make a new one: trend-server invite NAME --out FILE."
        try:
            invite = cls.model_validate_json(path.read_text("utf-8"))
        except OSError as error:
            raise ConnectionFailure(f"The invitation {path} cannot be read: {error.strerror}.", hint) from error
        except (ValidationError, UnicodeDecodeError) as error:
            raise ConnectionFailure(f"{path} is not an invitation to a federation.", hint) from error
        try:
            matches = certificate_sha256(invite.ca_pem) == invite.ca_sha256
        except ValueError:
            matches = False
        if not matches:
            raise ConnectionFailure(f"The certificate in {path} is not the one whose fingerprint it names.", hint)
        return invite


class EnrolRequest(WireModel):
    """What the client sends to redeem an invitation: no name, nothing about its data."""

    version: Literal[1] = 1
    token: str = Field(pattern=r"^[A-Za-z0-9_-]{43}$")
    public_key: str = Field(max_length=1000)


class EnrolAnswer(WireModel):
    """The server's answer: one word."""

    code: EnrolCode
