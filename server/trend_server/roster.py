"""Who was invited and who has joined: a small SQLite file.

``invite``, ``revoke`` and ``status`` work on it from their own processes, whether the server runs or not. Flower
keeps nothing and is told who is admitted at each start. Of a token only the hash is kept.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from trend_common.errors import UsageError
from trend_common.files import private_directory
from trend_common.flower.invite import EnrolCode

__all__ = ["Entry", "Roster", "token_sha256"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS roster (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    token_sha256 TEXT NOT NULL UNIQUE,
    created TEXT NOT NULL,
    expires TEXT NOT NULL,
    public_key TEXT UNIQUE,
    joined TEXT,
    revoked TEXT,
    removed INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX IF NOT EXISTS one_live_name ON roster (name) WHERE revoked IS NULL;
"""

State = Literal["invited", "expired", "joined", "revoked"]


@dataclass(frozen=True)
class Entry:
    """One invitation and what became of it.

    Attributes:
        name: The retailer's name.
        state: ``invited`` until its token is redeemed, then ``joined``.
        created, expires: Of the invitation, UTC.
        joined: When the key was bound, UTC.
        public_key: The client's key (OpenSSH), once joined.
    """

    id: int
    name: str
    state: State
    created: datetime
    expires: datetime
    joined: datetime | None
    public_key: str | None


def token_sha256(token: str) -> str:
    """Return what is kept of a token. It has 256 random bits, so a plain hash cannot be searched."""
    return hashlib.sha256(token.encode("ascii")).hexdigest()


class Roster:
    """The roster in the file at ``path``; safe to use from several threads and processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        private_directory(path.parent)
        with self._transaction() as connection:
            # Not executescript, which would commit in between.
            for statement in _SCHEMA.strip().split(";"):
                connection.execute(statement)
        path.chmod(0o600)

    def invite(self, name: str, lifetime: timedelta, *, now: datetime | None = None) -> tuple[str, datetime]:
        """Note an invitation and return its token and when it ends. An unused one for the name is replaced.

        Raises:
            UsageError: The name has joined already.
        """
        moment = now or datetime.now(UTC)
        token = secrets.token_urlsafe(32)
        expires = (moment + lifetime).replace(microsecond=0)
        with self._transaction() as connection:
            row = connection.execute(
                "SELECT id, public_key FROM roster WHERE name = ? AND revoked IS NULL", (name,)
            ).fetchone()
            if row is not None and row["public_key"] is not None:
                raise UsageError(
                    f"{name} has joined already.",
                    f"For a new machine first run trend-server revoke {name}; for another retailer use another name.",
                )
            if row is not None:
                connection.execute("DELETE FROM roster WHERE id = ?", (row["id"],))
            connection.execute(
                "INSERT INTO roster (name, token_sha256, created, expires) VALUES (?, ?, ?, ?)",
                (name, token_sha256(token), moment.isoformat(), expires.isoformat()),
            )
        return token, expires

    def bind(self, token: str, public_key: str, *, now: datetime | None = None) -> tuple[EnrolCode, Entry | None]:
        """Bind a key to an invitation, for good; the same key again is as good as the first time.

        Returns:
            ``registered`` and the entry, or why not.
        """
        moment = now or datetime.now(UTC)
        with self._transaction() as connection:
            row = connection.execute("SELECT * FROM roster WHERE token_sha256 = ?", (token_sha256(token),)).fetchone()
            if row is None:
                return "unknown", None
            if row["revoked"] is not None:
                return "revoked", None
            if row["public_key"] is not None:
                if secrets.compare_digest(row["public_key"], public_key):
                    return "registered", _entry(row, moment)
                return "used", None
            if datetime.fromisoformat(row["expires"]) < moment:
                return "expired", None
            taken = connection.execute("SELECT 1 FROM roster WHERE public_key = ?", (public_key,)).fetchone()
            if taken is not None:  # one key, one name: a client joins anew with a new key
                return "invalid", None
            connection.execute(
                "UPDATE roster SET public_key = ?, joined = ? WHERE id = ?",
                (public_key, moment.isoformat(), row["id"]),
            )
            row = connection.execute("SELECT * FROM roster WHERE id = ?", (row["id"],)).fetchone()
            return "registered", _entry(row, moment)

    def revoke(self, name: str, *, now: datetime | None = None) -> Entry:
        """Shut a name out: its token no longer works, and the server removes its key.

        Raises:
            UsageError: There is no such name.
        """
        moment = now or datetime.now(UTC)
        with self._transaction() as connection:
            row = connection.execute("SELECT * FROM roster WHERE name = ? AND revoked IS NULL", (name,)).fetchone()
            if row is None:
                known = [
                    entry["name"] for entry in connection.execute("SELECT name FROM roster WHERE revoked IS NULL")
                ]
                raise UsageError(
                    f"Nobody named {name} is invited.", f"Known: {', '.join(sorted(known)) or 'nobody'}."
                )
            connection.execute("UPDATE roster SET revoked = ? WHERE id = ?", (moment.isoformat(), row["id"]))
            return _entry(row, moment)

    def entries(self, *, now: datetime | None = None) -> list[Entry]:
        """Return everybody, by name; those who were revoked last."""
        moment = now or datetime.now(UTC)
        with closing(self._connect()) as connection:
            rows = connection.execute("SELECT * FROM roster ORDER BY revoked IS NOT NULL, name").fetchall()
        return [_entry(row, moment) for row in rows]

    def admitted(self) -> list[Entry]:
        """Return those who have joined and were not revoked."""
        return self._where("public_key IS NOT NULL AND revoked IS NULL")

    def to_remove(self) -> list[Entry]:
        """Return those who were revoked and whose key Flower may still admit."""
        return self._where("public_key IS NOT NULL AND revoked IS NOT NULL AND removed = 0")

    def mark_removed(self, entry: Entry) -> None:
        """Note that Flower has been told of a revocation."""
        with self._transaction() as connection:
            connection.execute("UPDATE roster SET removed = 1 WHERE id = ?", (entry.id,))

    def _where(self, condition: str) -> list[Entry]:
        with closing(self._connect()) as connection:
            rows = connection.execute(f"SELECT * FROM roster WHERE {condition}").fetchall()
        return [_entry(row, datetime.now(UTC)) for row in rows]

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=10.0, isolation_level=None)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with closing(self._connect()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")


def _entry(row: sqlite3.Row, now: datetime) -> Entry:
    expires = datetime.fromisoformat(row["expires"])
    state: State = "invited"
    if row["revoked"] is not None:
        state = "revoked"
    elif row["public_key"] is not None:
        state = "joined"
    elif expires < now:
        state = "expired"
    return Entry(
        id=row["id"],
        name=row["name"],
        state=state,
        created=datetime.fromisoformat(row["created"]),
        expires=expires,
        joined=datetime.fromisoformat(row["joined"]) if row["joined"] else None,
        public_key=row["public_key"],
    )
