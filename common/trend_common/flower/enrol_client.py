"""Redeeming an invitation, on the client's side."""

from __future__ import annotations

import ssl

import httpx
from cryptography.hazmat.primitives.asymmetric import ec

from trend_common.errors import ConnectionFailure, PolicyError
from trend_common.flower.faults import as_failure
from trend_common.flower.invite import ENROL_PATH, EnrolAnswer, EnrolRequest, Invite
from trend_common.flower.keys import public_key_text
from trend_common.protocol import parse

__all__ = ["enrol"]

_REFUSALS = {
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


def enrol(invite: Invite, public_key: ec.EllipticCurvePublicKey, *, timeout: float = 20.0) -> None:
    """Have the server register ``public_key`` under the invitation's name.

    Safe to repeat with the same key: a client that crashed before it noted the success simply asks again.

    Args:
        invite: The invitation; its certificate authority is the only one that is trusted.
        public_key: The client's identity.
        timeout: Seconds to wait for the network.

    Raises:
        ConnectionFailure: The server cannot be reached, is not the one of the invitation, or refuses it.
    """
    if invite.expired:
        raise ConnectionFailure(*_REFUSALS["expired"])
    context = ssl.create_default_context(cadata=invite.ca_pem)
    request = EnrolRequest(token=invite.token, public_key=public_key_text(public_key))
    try:
        with httpx.Client(verify=context, timeout=timeout) as client:
            response = client.post(
                f"https://{invite.server}{ENROL_PATH}",
                content=request.canonical(),
                headers={"content-type": "application/json"},
            )
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise as_failure(error, invite.server) from error
    try:
        code = parse(EnrolAnswer, response.text[:1000]).code
    except PolicyError as error:
        raise ConnectionFailure(
            f"{invite.server} answered a request to join with status {response.status_code}: "
            "that is not a trend-server.",
            "Check the address with the operator.",
        ) from error
    if code != "registered":
        raise ConnectionFailure(*_REFUSALS[code])
