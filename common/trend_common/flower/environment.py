"""What must stand in the process's environment before Flower is imported: no telemetry, no installs, our folder."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Final

__all__ = ["FORCED", "prepare", "quiet_logs"]

FORCED: Final = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Set in every process of ours, whatever the caller's environment says."""

_NEVER_STARTED: Final = ("FLWR_INTERNAL_GRPC_CONTROL_API", "FLWR_INTERNAL_GRPC_FLEET_API")
"""Switches that would make a SuperLink open further ports."""


def prepare(home: Path | None = None) -> None:
    """Set the variables; safe to call again, for instance once the home folder is known.

    Args:
        home: Where Flower may keep files of its own. Default: what ``FLWR_HOME`` says, else ``~/.trend/flower``.
    """
    os.environ.update(FORCED)
    for name in _NEVER_STARTED:
        os.environ.pop(name, None)
    if home is not None:
        os.environ["FLWR_HOME"] = str(home)
    else:
        os.environ.setdefault("FLWR_HOME", str(Path.home() / ".trend" / "flower"))
    # Telemetry reads its switch once, at import: if somebody imported Flower before us, tell the module itself.
    telemetry = sys.modules.get("flwr.supercore.telemetry")
    if telemetry is not None:
        telemetry.__dict__["FLWR_TELEMETRY_ENABLED"] = "0"


def quiet_logs(file: Path | None = None, level: int = logging.WARNING) -> None:
    """Take Flower's and uvicorn's log lines off the screen, which belongs to our own progress.

    Args:
        file: Where to append them instead; None drops them.
        level: The least level that is kept.
    """
    import flwr.supercore.logger  # noqa: F401  (adds its console handler, which is removed below)

    handler: logging.Handler = logging.NullHandler()
    if file is not None:
        from logging.handlers import RotatingFileHandler

        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handler = RotatingFileHandler(file, maxBytes=2_000_000, backupCount=2, encoding="utf-8", delay=True)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    for name in ("flwr", "uvicorn", "uvicorn.error", "uvicorn.access", "alembic"):
        logger = logging.getLogger(name)
        for old in list(logger.handlers):
            logger.removeHandler(old)
            old.close()
        logger.propagate = False
        logger.setLevel(level)
        logger.addHandler(handler)
