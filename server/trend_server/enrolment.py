"""Invitations: making one, redeeming one, and keeping Flower's list of keys in step with the roster.

The order at redemption survives a crash anywhere: the token is bound to the key (committed), then Flower is told,
then that is noted. Whatever the last step was, the same request again, or the next start of the server, completes it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from trend_common.errors import PolicyError, UsageError
from trend_common.files import write_text
from trend_common.flower.bundle import FAB_SHA256
from trend_common.flower.invite import EnrolCode, EnrolRequest, Invite, certificate_sha256
from trend_common.flower.keys import parse_public_key, public_key_text
from trend_common.protocol import parse
from trend_server.roster import Entry, Roster

__all__ = ["Door", "write_invite"]

_STATUS: Final[dict[EnrolCode, int]] = {"registered": 200, "invalid": 400}


class Registrar(Protocol):
    """What the door needs of the SuperLink."""

    def register(self, public_key: ec.EllipticCurvePublicKey, name: str) -> int:
        """Admit a key."""
        ...

    def unregister(self, public_key: ec.EllipticCurvePublicKey) -> bool:
        """Shut a key out."""
        ...


def write_invite(roster: Roster, ca_pem: str, *, name: str, server: str, lifetime: timedelta, out: Path) -> Invite:
    """Invite a retailer: note it in the roster and write the file to hand over, mode 0600.

    Args:
        roster: Where it is noted.
        ca_pem: Certificate of the authority that signs the server.
        name: The retailer's.
        server: ``HOST:PORT`` as the retailer reaches it.
        lifetime: How long it can be used.
        out: The file.

    Raises:
        UsageError: The name is taken or not a name, or the address is not ``HOST:PORT``.
    """
    from pydantic import ValidationError

    fields = {
        "server": server,
        "name": name,
        "ca_pem": ca_pem,
        "ca_sha256": certificate_sha256(ca_pem),
        "fab_sha256": FAB_SHA256,
    }
    try:  # all but the token is checked before anything is written down
        Invite.model_validate({"token": "A" * 43, "expires": "2000-01-01T00:00:00Z", **fields})
    except ValidationError as error:
        raise UsageError(
            f"The invitation for {name!r} at {server!r} cannot be made.",
            "A name has up to 64 letters, digits, dots, dashes and underscores; the address is HOST:PORT as the "
            "retailer reaches it (--address).",
        ) from error
    token, expires = roster.invite(name, lifetime)
    invite = Invite.model_validate({"token": token, "expires": expires, **fields})
    write_text(out, invite.model_dump_json(indent=2) + "\n", private=True)
    return invite


class Door:
    """Lets invited clients in, and shuts out revoked ones, while the server runs.

    Args:
        roster: Who was invited.
        on_join: Told the name of whoever has joined.
    """

    def __init__(self, roster: Roster, on_join: Callable[[str], None] = lambda _: None) -> None:
        self._roster = roster
        self._on_join = on_join
        self._registrar: Registrar | None = None
        self._lock = threading.RLock()

    def open(self, registrar: Registrar) -> None:
        """Start: Flower learns whom the roster admits, also who joined just before a crash."""
        self._registrar = registrar
        for entry in self._roster.admitted():
            self._admit(entry)
        self.reconcile()

    def redeem(self, body: bytes) -> tuple[int, dict[str, str]]:
        """Answer ``POST /v1/enrol``; every answer is one word."""
        try:
            request = parse(EnrolRequest, body.decode("utf-8"))
            key = parse_public_key(request.public_key)
        except (PolicyError, ValueError):
            return 400, {"code": "invalid"}
        if self._registrar is None:
            return 503, {"code": "busy"}
        with self._lock:  # a revocation in between must find the key admitted, or not at all
            code, entry = self._roster.bind(request.token, public_key_text(key))
            if entry is not None:
                self._admit(entry)
        if entry is not None:
            self._on_join(entry.name)
        return _STATUS.get(code, 403), {"code": code}

    def reconcile(self) -> list[str]:
        """Tell Flower who was revoked; return the names that were shut out."""
        gone = []
        with self._lock:
            for entry in self._roster.to_remove():
                if self._registrar is not None and entry.public_key is not None:
                    self._registrar.unregister(parse_public_key(entry.public_key))
                    self._roster.mark_removed(entry)
                    gone.append(entry.name)
        return gone

    def _admit(self, entry: Entry) -> None:
        if self._registrar is None or entry.public_key is None:
            return
        with self._lock:  # two requests with the same key would race in Flower
            self._registrar.register(parse_public_key(entry.public_key), entry.name)
