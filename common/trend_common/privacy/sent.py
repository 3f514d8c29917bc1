"""Every message that ever left this machine: the answer to "what did we reveal?".

A message is noted, on the disk, before it is handed to the network, so the list may name one that a crash kept back
but never misses one that went.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from trend_common.errors import PolicyError
from trend_common.privacy.chain import Chain, inspect

__all__ = ["SentLog", "SentMessage", "read_sent"]


@dataclass(frozen=True, slots=True)
class SentMessage:
    """One message.

    Attributes:
        time: When, UTC, to the second.
        kind: What, such as "describe", "train", "adopt".
        federation, round: For which; round 0 where there is none.
        bytes, sha256: Its size and hash.
    """

    time: str
    kind: str
    federation: str
    round: int
    bytes: int
    sha256: str


class SentLog:
    """The writer of the list. Arguments as those of :class:`~trend_common.privacy.chain.Chain`."""

    def __init__(self, path: Path, *, head_path: Path, durable: bool = True) -> None:
        self._chain = Chain(path, head_path=head_path, what="list of sent messages", durable=durable)

    def note(self, kind: str, payload: bytes, *, federation: str = "", round_number: int = 0) -> None:
        """Note a message; call it before sending, and send only if it returns.

        Raises:
            PolicyError: It could not be noted, so it must not be sent.
        """
        self._chain.append(
            "sent",
            {
                "message": kind,
                "federation": federation,
                "round": round_number,
                "bytes": len(payload),
                "sha256": hashlib.sha256(payload).hexdigest(),
            },
        )

    def close(self) -> None:
        """Let another writer in."""
        self._chain.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_sent(path: Path, *, head_path: Path) -> tuple[SentMessage, ...]:
    """All messages, oldest first; works while a client runs.

    Raises:
        PolicyError: The list was changed or rolled back.
    """
    found = inspect(path, head_path)
    if not found.ok:
        raise PolicyError(
            f"The list of sent messages {path} cannot be trusted: {found.problem}.",
            "Compare with a backup of the file; the server's own records may help too.",
        )
    return tuple(
        SentMessage(r["time"], r["message"], r["federation"], r["round"], r["bytes"], r["sha256"])
        for r in found.records
    )
