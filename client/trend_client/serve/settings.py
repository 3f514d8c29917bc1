"""What a service is told at its start, and the limits of a request."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from trend_client.home import DataSource
from trend_common.errors import UsageError

__all__ = [
    "ENVIRONMENT",
    "MAX_CELLS",
    "MAX_HORIZON",
    "MAX_NAME",
    "MAX_ROWS",
    "MAX_SERIES",
    "ServeSettings",
    "check_address",
    "is_loopback",
]

MAX_SERIES: Final = 500
"""Most series of one request."""

MAX_ROWS: Final = 50_000
"""Most rows of one request."""

MAX_HORIZON: Final = 112
"""Most steps ahead of one request."""

MAX_NAME: Final = 200
"""Longest name of a store, a product or a series."""

MAX_CELLS: Final = 4_000_000
"""Most series × days of one request: two rows a century apart are a long table, too."""

ENVIRONMENT: Final = "TREND_SERVE_SETTINGS"
"""The variable by which worker processes are told their settings; it holds no secret."""


class ServeSettings(BaseModel):
    """Everything but the token, which stays in the home.

    Attributes:
        home: The client's home.
        source: The sales file; None serves rows of requests alone.
        backbone, device: The model and where it computes.
        precision: "float32"; or "int8", where it is as good on past windows of the sales file.
        host, port: Where it listens.
        workers: Processes behind the port.
        threads: Threads that a worker's forward pass may use.
        max_batch: Most windows of a forward pass; a multiple of 8.
        max_wait_ms: How long the first of a batch waits for others.
        max_queue: Windows that are admitted and not yet answered, of one worker; beyond it callers get 503.
        advice: Where what-ifs, orders and explanations are worked out: a process of their own, or a thread (tests).
        max_advice: How many of these may wait or be worked on, of one worker; beyond it callers get 503.
        max_body: Bytes of a request's body.
        latency_alert_ms: The 99th percentile of the last five minutes above which an alert is raised.
        drift_tolerance: How far the coverage of past forecasts may fall below what was promised.
        certificate, key: PEM files for TLS.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    home: Path
    source: DataSource | None = None
    backbone: str = "trend-small"
    device: str = "auto"
    precision: Literal["float32", "int8"] = "float32"
    host: str = "127.0.0.1"
    port: int = Field(default=8420, ge=0, le=65535)
    workers: int = Field(default=1, ge=1, le=64)
    threads: int = Field(default=1, ge=1)
    max_batch: int = Field(default=64, ge=8, le=4096, multiple_of=8)
    max_wait_ms: float = Field(default=2.0, ge=0, le=1000)
    max_queue: int = Field(default=1024, ge=MAX_SERIES)
    advice: Literal["process", "thread"] = "process"
    max_advice: int = Field(default=8, ge=1, le=1000)
    max_body: int = Field(default=8 * 2**20, ge=1024)
    latency_alert_ms: float = Field(default=1000.0, gt=0)
    drift_tolerance: float = Field(default=0.1, gt=0, lt=1)
    certificate: Path | None = None
    key: Path | None = None

    @property
    def folder(self) -> Path:
        """What the service keeps: the token, past forecasts, metrics of several workers."""
        return self.home / "serve"


def is_loopback(host: str) -> bool:
    """Whether nothing but this machine can reach ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_address(settings: ServeSettings, *, allow_remote: bool) -> None:
    """Refuse to be reached from elsewhere unless a person said so.

    Raises:
        UsageError: The address is not of this machine alone and ``allow_remote`` is not set, or half of TLS is named.
    """
    if (settings.certificate is None) != (settings.key is None):
        raise UsageError("Only one of --tls-certificate and --tls-key is given.", "Name both files, or neither.")
    for path in (settings.certificate, settings.key):
        if path is not None and not path.is_file():
            raise UsageError(f"There is no file {path}.", "Name the PEM files of the certificate and of its key.")
    if not is_loopback(settings.host) and not allow_remote:
        raise UsageError(
            f"{settings.host} can be reached from other machines.",
            "Private sales are served there: listen on 127.0.0.1 behind a reverse proxy, or add --allow-remote if "
            "you mean it, best with --tls-certificate and --tls-key.",
        )
