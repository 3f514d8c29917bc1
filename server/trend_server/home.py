"""The server's home folder: everything that it keeps, and the lock that lets one server use it at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trend_common.errors import UsageError
from trend_common.files import private_directory, write_json
from trend_server.settings import write_default_settings

__all__ = ["ServerHome", "default_home"]


def default_home() -> Path:
    """Return ``TREND_SERVER_HOME``, else ``~/.trend/server``."""
    return Path(os.environ.get("TREND_SERVER_HOME") or Path.home() / ".trend" / "server")


class ServerHome:
    """Paths in the home; made on first use, for its owner alone.

    Attributes:
        root: The folder.
        settings_path: ``server.toml``.
        roster_path: Who was invited and has joined.
        tls: The certificate authority and the server's certificate.
        registry: Finished adapters.
        status_path: What the running server last said, for ``status``.
        log_path: Log lines of Flower and the web server.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.settings_path = root / "server.toml"
        self.roster_path = root / "roster.sqlite"
        self.tls = root / "tls"
        self.registry = root / "registry"
        self.status_path = root / "status.json"
        self.log_path = root / "logs" / "server.log"
        self.address_path = root / "address.json"

    def create(self) -> ServerHome:
        """Make the folder and the commented ``server.toml`` where they are not there yet; return self.

        Raises:
            UsageError: The folder cannot be made.
        """
        try:
            private_directory(self.root)
            if not self.settings_path.exists():
                write_default_settings(self.settings_path)
        except OSError as error:
            raise UsageError(
                f"The home {self.root} cannot be used: {error.strerror}.", "Choose another folder with --home."
            ) from error
        return self

    def federation(self, name: str) -> Path:
        """Return the folder of one federation."""
        return self.root / "federations" / name

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the home for one server.

        Raises:
            UsageError: Another server uses it.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self.root / "server.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UsageError(
                f"A server is already running in {self.root}.", "Stop it first, or use another --home."
            ) from error
        try:
            yield
        finally:
            lock.release()

    def running(self) -> bool:
        """Whether a server uses this home now."""
        if not self.root.exists():
            return False
        try:
            with self.locked():
                return False
        except UsageError:
            return True

    def write_status(self, status: dict[str, Any]) -> None:
        """Keep what ``status`` shows."""
        write_json(self.status_path, status)

    def read_status(self) -> dict[str, Any]:
        """Return what was kept last, empty if nothing."""
        try:
            found = json.loads(self.status_path.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}
