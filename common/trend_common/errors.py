"""Errors that a person can act on, and the exit codes of all three commands.

The tree::

    TrendError                 what was found, what is allowed, what to do
    ├── UsageError             exit 2
    ├── DataError              exit 3   the sales file
    ├── PolicyError            exit 4   policy, ledger or self-test said no
    ├── ConnectionFailure      exit 5   network, TLS, identity, invitation
    └── Declined               exit 6   the other side declined

Every message is written for the person in front of *this* screen and is never sent to the other side: what the
other side is told is a constant (``trend_common.protocol``).
"""

from __future__ import annotations

from enum import IntEnum

__all__ = [
    "ConnectionFailure",
    "DataError",
    "Declined",
    "ExitCode",
    "PolicyError",
    "TrendError",
    "UsageError",
]


class ExitCode(IntEnum):
    """The exit codes of every command; ``docs/exit-codes.md`` has a section for each."""

    DONE = 0
    USAGE = 2
    DATA = 3
    POLICY = 4
    CONNECTION = 5
    DECLINED = 6
    INTERRUPTED = 130


class TrendError(Exception):
    """An error with what was found and what to do about it.

    Args:
        message: What was found, in one or two sentences, naming the file, column or value.
        hint: What is allowed and what to do next.
    """

    exit_code: ExitCode = ExitCode.USAGE

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(TrendError):
    """A wrong option or combination of options."""

    exit_code = ExitCode.USAGE


class DataError(TrendError):
    """The sales file cannot be used as it is."""

    exit_code = ExitCode.DATA


class PolicyError(TrendError):
    """The client's policy, ledger or self-test forbids what was asked."""

    exit_code = ExitCode.POLICY


class ConnectionFailure(TrendError):
    """The server cannot be reached, is not who it should be, or does not know this client."""

    exit_code = ExitCode.CONNECTION


class Declined(TrendError):
    """The server turned the request down."""

    exit_code = ExitCode.DECLINED
