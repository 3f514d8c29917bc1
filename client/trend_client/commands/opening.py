"""How the commands that decide and explain open a home."""

from __future__ import annotations

from pathlib import Path

from trend_client.workplace import Workplace
from trend_common.errors import UsageError

__all__ = ["open_place"]


def open_place(
    home: Path | None,
    data: Path | None,
    columns: list[str] | None,
    until: str | None,
    country: str | None,
    device: str,
    backbone: str,
) -> Workplace:
    """The home and its sales file.

    Raises:
        UsageError: No sales file is known, or an option makes no sense.
    """
    from trend_client.check import parse_columns, parse_day
    from trend_client.home import default_home

    if device not in ("auto", "cpu", "cuda", "mps"):
        raise UsageError(f"--device is {device!r}.", "It is auto, cpu, cuda or mps.")
    return Workplace(
        home or default_home(),
        data=data,
        columns=parse_columns(columns or []),
        until=parse_day(until),
        country=country,
        device=device,
        backbone=backbone,
    )
