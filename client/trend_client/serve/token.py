"""The bearer token: made at the first start, kept in a file that its owner alone can read, shown once."""

from __future__ import annotations

import hmac
import os
import re
import secrets
import stat
from pathlib import Path

from trend_common.errors import UsageError
from trend_common.files import private_directory, write_text

__all__ = ["matches", "read_token", "token_path"]

_BYTES = 32
_FORM = re.compile(r"[A-Za-z0-9_\-.~+/=]{32,512}")


def token_path(folder: Path) -> Path:
    """Where the token lies."""
    return folder / "token"


def read_token(folder: Path) -> tuple[str, bool]:
    """The token of a service, made if there is none yet.

    Returns:
        The token, and whether it was made just now.

    Raises:
        UsageError: The file is open to other people of this machine, or does not hold a token.
    """
    path = token_path(folder)
    if not path.exists():
        private_directory(folder)
        token = secrets.token_urlsafe(_BYTES)
        write_text(path, token + "\n", private=True)
        return token, True
    if os.name != "nt" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UsageError(
            f"The token {path} can be read by other people of this machine.",
            "Somebody may know it: delete the file, and the next start makes a new one.",
        )
    token = path.read_text("utf-8", errors="replace").strip()
    if not _FORM.fullmatch(token):
        raise UsageError(
            f"{path} does not hold a token.", "Delete the file, and the next start makes a new one of 43 characters."
        )
    return token, False


def matches(header: bytes | None, token: str) -> bool:
    """Whether an ``Authorization`` header carries the token; takes the same time wherever they differ."""
    if header is None:
        return False
    scheme, _, given = header.partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), token.encode())
