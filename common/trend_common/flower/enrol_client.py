"""Redeeming an invitation, on the client's side."""

from __future__ import annotations

import ssl
import time
from typing import Final

import httpx
from cryptography.hazmat.primitives.asymmetric import ec

from trend_common.errors import ConnectionFailure, PolicyError
from trend_common.flower.faults import as_failure, is_fatal
from trend_common.flower.invite import ENROL_PATH, EnrolAnswer, EnrolCode, EnrolRequest, Invite
from trend_common.flower.keys import public_key_text
from trend_common.protocol import parse

__all__ = ["enrol"]

_PAUSE: Final = 1.0

_REFUSALS: Final[dict[EnrolCode, tuple[str, str]]] = {
    "used": (
        "This invitation was already used, with another key.",
        "Each invitation joins one client once. Ask the operator for a new one, or use the home folder that joined.",
    ),
    "expired": ("This invitation has expired.", "Ask the operator for a new one."),
    "unknown": (
        "The server does not know this invitation.",
        "Ask the operator for a new one, and check that it comes from the server in --server.",
    ),
    "revoked": ("The operator has revoked this invitation.", "Ask the operator why, and for a new one."),
    "invalid": ("The server could not read the request to join.", "Both sides must run the same version."),
    "busy": ("The server is receiving too many requests to join.", "Try again in a minute."),
}


def enrol(
    invite: Invite, public_key: ec.EllipticCurvePublicKey, *, timeout: float = 20.0, patience: float = 30.0
) -> None:
    """Have the server register ``public_key`` under the invitation's name.

    Safe to repeat with the same key: a client that crashed before it noted the success simply asks again.

    Args:
        invite: The invitation; its certificate authority is the only one that is trusted.
        public_key: The client's identity.
        timeout: Seconds to wait for one answer.
        patience: Seconds for which to try again while the server cannot be reached, or is busy.

    Raises:
        ConnectionFailure: The server cannot be reached, is not the one of the invitation, or refuses it.
    """
    if invite.expired:
        raise ConnectionFailure(*_REFUSALS["expired"])
    context = ssl.create_default_context(cadata=invite.ca_pem)
    request = EnrolRequest(token=invite.token, public_key=public_key_text(public_key))
    end = time.monotonic() + patience
    with httpx.Client(verify=context, timeout=timeout) as client:
        while True:
            code, failure = _ask(client, invite.server, request)
            if code == "registered":
                return
            if failure is None or time.monotonic() >= end:
                raise failure or ConnectionFailure(*_REFUSALS[code])
            time.sleep(_PAUSE)


def _ask(client: httpx.Client, server: str, request: EnrolRequest) -> tuple[EnrolCode, ConnectionFailure | None]:
    """Ask once; return the answer, and for one that may change soon how to tell of it."""
    try:
        response = client.post(
            f"https://{server}{ENROL_PATH}",
            content=request.canonical(),
            headers={"content-type": "application/json"},
        )
    except httpx.TransportError as error:
        failure = as_failure(error, server)
        if is_fatal(error):
            raise failure from error
        return "busy", failure
    except httpx.InvalidURL as error:
        raise as_failure(error, server) from error
    try:
        code = parse(EnrolAnswer, response.text[:1000]).code
    except PolicyError as error:
        raise ConnectionFailure(
            f"{server} answered a request to join with status {response.status_code}: that is not a trend-server.",
            "Check the address with the operator.",
        ) from error
    return code, ConnectionFailure(*_REFUSALS["busy"]) if code == "busy" else None
