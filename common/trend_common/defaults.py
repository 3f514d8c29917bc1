"""Defaults that the server, the client's advice and the simulation must share, and nothing that is slow to import."""

from __future__ import annotations

from typing import Final

__all__ = ["DEFAULT_LAUNCH_SHARE", "DEFAULT_ROUNDS"]

DEFAULT_ROUNDS: Final = 10
"""T of a private federation. 20 gained no more on earlier cuts of public sales, with twice the messages and more
noise in each (``docs/simulation.md``)."""

DEFAULT_LAUNCH_SHARE: Final = 0.25
"""Share of the training windows that show a stated level in place of the history. On synthetic retailers it costs the
members of a private federation nothing that could be measured, and newcomers without history gain a tenth."""
