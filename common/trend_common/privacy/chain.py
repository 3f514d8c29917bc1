"""Append-only files whose every line carries the hash of the line before.

A record is one line of JSON, flushed to the disk before :meth:`Chain.append` returns. A line that was edited, removed
or put in breaks the hashes after it. A file that was replaced by an older copy is noticed through its head, the
(sequence, hash) of the last line, which is kept in a second place.

What a crash can leave is told from what only tampering leaves: a torn last line was never acknowledged, so nothing
was sent on its strength, and it is cut off; and the head may be one line behind. Everything else is an error. The
hashes are no signature: whoever can write both files can also forge them, and whoever restores both from a backup is
not noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from trend_common.errors import PolicyError
from trend_common.files import fsync_directory, private_directory, write_text

__all__ = ["Chain", "Inspection", "Record", "inspect"]

Record = dict[str, Any]

_START = "0" * 64
_RESERVED = ("seq", "prev", "time", "kind", "hash")


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a file holds, read without a lock and without changing it.

    Attributes:
        records: The lines up to the first that is wrong.
        problem: What is wrong, or "".
        torn: Bytes after the last complete line.
    """

    records: tuple[Record, ...]
    problem: str
    torn: int

    @property
    def ok(self) -> bool:
        """Every line is intact and the file is as new as its head says."""
        return not self.problem


def inspect(path: Path, head_path: Path) -> Inspection:
    """Verify the chain in ``path`` against its head."""
    # The head first: a writer in another process may append meanwhile, and the file is then ahead, never behind.
    head = _read_head(head_path)
    data = path.read_bytes() if path.exists() else b""
    complete = data.rfind(b"\n") + 1
    records: list[Record] = []
    problem = ""
    for number, line in enumerate(data[:complete].split(b"\n")[:-1], start=1):
        record, problem = _verify(line, number, records[-1]["hash"] if records else _START)
        if record is None:
            break
        records.append(record)
    if not problem:
        problem = _compare(records, head)
    return Inspection(tuple(records), problem, len(data) - complete)


class Chain:
    """The one writer of a chained file; a second one, in this or another process, is refused.

    Args:
        path: The file; it and its folder are created for the owner alone.
        head_path: Where the (sequence, hash) of the last line is kept: another folder, best another disk.
        what: How to call it in messages, such as "privacy ledger".
        durable: Flush to the disk; False is for simulations only.

    Raises:
        PolicyError: Somebody else writes it, it was changed or rolled back, or it cannot be written.
    """

    def __init__(self, path: Path, *, head_path: Path, what: str, durable: bool = True) -> None:
        self.path, self.head_path, self.what, self._durable = path, head_path, what, durable
        self.findings: list[str] = []
        self._descriptor: int | None = None
        self._lock = FileLock(path.with_name(path.name + ".lock"), timeout=0)
        try:
            private_directory(path.parent)
            private_directory(head_path.parent)
            self._lock.acquire()
        except Timeout:
            raise PolicyError(
                f"The {what} {path} is in use by another trend-client.",
                "Wait until it is done, or stop it; two clients of one home would spend the same budget twice.",
            ) from None
        except OSError as error:
            self._fail(error)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    @property
    def records(self) -> tuple[Record, ...]:
        """All records, oldest first."""
        return tuple(self._records)

    def append(self, kind: str, fields: Mapping[str, Any]) -> Record:
        """Write one record; it is on the disk when this returns.

        Raises:
            PolicyError: It could not be written. It then does not count, and nothing may be done on its strength; the
                chain takes no more records until it is opened again.
        """
        if self._descriptor is None:
            raise PolicyError(
                f"The {self.what} is closed or could not be written before.", "Start the command again; see above."
            )
        if clash := [name for name in fields if name in _RESERVED]:
            raise ValueError(f"{clash[0]} is a name of the chain's own")
        record: Record = {
            "seq": len(self._records) + 1,
            "prev": self._records[-1]["hash"] if self._records else _START,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "kind": kind,
            **fields,
        }
        record["hash"] = _digest(record)
        line = _canonical(record) + b"\n"
        try:
            self._write(line)
            # In memory as soon as it is on the disk: if the head fails, the line counts all the same.
            self._records.append(record)
            self._write_head(record)
        except OSError as error:
            self._fail(error)
        return record

    def close(self) -> None:
        """Let another writer in."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        found = inspect(self.path, self.head_path)
        if not found.ok:
            raise PolicyError(
                f"The {self.what} {self.path} cannot be trusted: {found.problem}.",
                "It says how much privacy is spent, so nothing is sent without it. Restore the newest copy of the "
                "file. If it was damaged by a disk, ask whoever is responsible for data protection how to go on.",
            )
        self._records = list(found.records)
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o600)
            self._descriptor = descriptor
            if found.torn:
                os.ftruncate(descriptor, os.fstat(descriptor).st_size - found.torn)
                self.findings.append(
                    f"The last line of {self.path.name} was cut short by a crash and removed; nothing had been sent "
                    "on its strength."
                )
            if self._durable:
                os.fsync(descriptor)
                fsync_directory(self.path.parent)
            if self._records:
                self._write_head(self._records[-1])
        except OSError as error:
            self._fail(error)

    def _write(self, line: bytes) -> None:
        assert self._descriptor is not None
        done = 0
        while done < len(line):
            done += os.write(self._descriptor, line[done:])
        if self._durable:
            os.fsync(self._descriptor)

    def _write_head(self, record: Record) -> None:
        text = json.dumps({"seq": record["seq"], "hash": record["hash"]}) + "\n"
        if self._durable:
            write_text(self.head_path, text, private=True)
        else:
            _overwrite(self.head_path, text.encode())

    def _fail(self, error: OSError) -> None:
        # After a failed write or fsync the state of the file is unknown; opening it anew finds out.
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        raise PolicyError(
            f"The {self.what} {self.path} could not be written: {error.strerror or error}.",
            "Nothing was sent. Make room on the disk, or give this user the right to write there, and start again.",
        ) from error


def _overwrite(path: Path, data: bytes) -> None:
    """Write without emptying the file first, which on some file systems takes fifteen times as long."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
    try:
        os.write(descriptor, data)
        os.ftruncate(descriptor, len(data))
    finally:
        os.close(descriptor)


def _canonical(record: Record) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _digest(record: Record) -> str:
    return hashlib.sha256(_canonical({key: value for key, value in record.items() if key != "hash"})).hexdigest()


def _verify(line: bytes, number: int, previous: str) -> tuple[Record | None, str]:
    """The record of a line, or None and what is wrong with it."""
    try:
        record = json.loads(line)
        intact = isinstance(record, dict) and _canonical(record) == line and record["hash"] == _digest(record)
    except (ValueError, KeyError, TypeError):
        intact = False
    if not intact:
        return None, f"line {number} was changed or damaged"
    if record["seq"] != number or record["prev"] != previous:
        return None, f"line {number} does not follow the line before: a line was removed, put in or moved"
    return record, ""


def _compare(records: list[Record], head: Record | str | None) -> str:
    """What is wrong between the lines and the head; "" if nothing, or only what a crash can leave."""
    if isinstance(head, str):
        return head
    if head is None:
        # A crash between the first line and its head leaves one line and no head.
        return "" if len(records) <= 1 else "its head, the second record of its last line, is missing"
    sequence, digest = head["seq"], head["hash"]
    if sequence > len(records):
        return f"it has {len(records)} lines of {sequence} that were written: an older copy, or lines were removed"
    if records[sequence - 1]["hash"] != digest:
        return f"line {sequence} is not the one that was written"
    return ""


def _read_head(path: Path) -> Record | str | None:
    """The head, what is wrong with it, or None if there is none."""
    if not path.exists():
        return None
    try:
        head = json.loads(path.read_text("utf-8"))
        if isinstance(head["seq"], int) and head["seq"] >= 1 and isinstance(head["hash"], str):
            return dict(head)
    except (ValueError, KeyError, TypeError):
        pass
    return f"its head {path} is damaged"
