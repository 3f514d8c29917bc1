"""Append-only files: what a crash leaves is repaired, what only tampering leaves is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trend_common.errors import PolicyError
from trend_common.privacy.chain import Chain, inspect


@pytest.fixture
def home(tmp_path: Path) -> Path:
    with opened(tmp_path) as chain:
        for number in range(4):
            chain.append("note", {"number": number})
    return tmp_path


def opened(home: Path, durable: bool = True) -> Chain:
    return Chain(home / "a" / "log.jsonl", head_path=home / "b" / "log.head", what="log", durable=durable)


def lines(home: Path) -> list[str]:
    return (home / "a" / "log.jsonl").read_text().splitlines(keepends=True)


def rewrite(home: Path, new: list[str]) -> None:
    (home / "a" / "log.jsonl").write_text("".join(new))


def test_records_survive_and_go_on(home: Path) -> None:
    with opened(home) as chain:
        assert [record["number"] for record in chain.records] == [0, 1, 2, 3]
        assert chain.findings == []
        record = chain.append("note", {"number": 4})
        assert (record["seq"], record["prev"]) == (5, chain.records[3]["hash"])
    assert inspect(home / "a" / "log.jsonl", home / "b" / "log.head").ok


@pytest.mark.skipif(os.name == "nt", reason="POSIX modes")
def test_only_the_owner_may_read(home: Path) -> None:
    for path in (home / "a" / "log.jsonl", home / "b" / "log.head"):
        assert path.stat().st_mode & 0o077 == 0
    assert (home / "a").stat().st_mode & 0o077 == 0


def test_a_second_writer_is_refused(home: Path) -> None:
    with opened(home), pytest.raises(PolicyError, match="in use by another trend-client"):
        opened(home)
    opened(home).close()


def test_a_reader_needs_no_lock(home: Path) -> None:
    with opened(home) as chain:
        chain.append("note", {"number": 4})
        assert len(inspect(home / "a" / "log.jsonl", home / "b" / "log.head").records) == 5


@pytest.mark.parametrize("durable", [True, False])
def test_records_are_flushed_before_append_returns(
    durable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path, durable) as chain:
        flushed: list[int] = []
        real = os.fsync

        def fsync(descriptor: int) -> None:
            flushed.append(os.fstat(descriptor).st_size)
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        chain.append("note", {})
        size = (tmp_path / "a" / "log.jsonl").stat().st_size
    assert (size in flushed) == durable


# --- what a crash leaves ---


def test_a_torn_last_line_is_cut_off_at_every_byte(home: Path, tmp_path: Path) -> None:
    """The head is written after the line, so a torn line finds the head of the line before."""
    whole = lines(home)
    head = (home / "b" / "log.head").read_bytes()
    with opened(home) as chain:
        chain.append("note", {"number": 4})
    last = lines(home)[4]
    for length in range(len(last)):
        rewrite(home, [*whole, last[:length]])
        (home / "b" / "log.head").write_bytes(head)
        with opened(home, durable=False) as chain:
            assert len(chain.records) == 4
            assert bool(chain.findings) == (length > 0)
        assert lines(home) == whole


def test_zeros_after_a_power_failure_are_cut_off(home: Path) -> None:
    whole = lines(home)
    with (home / "a" / "log.jsonl").open("ab") as file:
        file.write(bytes(200))
    with opened(home) as chain:
        assert len(chain.records) == 4
    assert lines(home) == whole


def test_a_head_one_line_behind_is_brought_up(home: Path) -> None:
    head = (home / "b" / "log.head").read_bytes()
    with opened(home) as chain:
        chain.append("note", {"number": 4})
    (home / "b" / "log.head").write_bytes(head)
    opened(home).close()
    assert json.loads((home / "b" / "log.head").read_text())["seq"] == 5


def test_a_crash_before_the_first_head(tmp_path: Path) -> None:
    with opened(tmp_path) as chain:
        chain.append("note", {})
    (tmp_path / "b" / "log.head").unlink()
    with opened(tmp_path) as chain:
        assert len(chain.records) == 1


def test_an_empty_or_missing_file_is_a_new_one(tmp_path: Path) -> None:
    for _ in range(2):
        with opened(tmp_path) as chain:
            assert chain.records == ()


# --- what only tampering leaves ---


def older_copy(home: Path) -> None:
    rewrite(home, lines(home)[:2])


def edited(home: Path) -> None:
    rewrite(home, [line.replace('"number":1', '"number":9') for line in lines(home)])


def edited_with_its_own_hash(home: Path) -> None:
    import hashlib

    all_lines = lines(home)
    record = json.loads(all_lines[1])
    record["number"] = 9
    del record["hash"]
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    record["hash"] = hashlib.sha256(text.encode()).hexdigest()
    all_lines[1] = json.dumps(record, sort_keys=True, separators=(",", ":")) + "\n"
    rewrite(home, all_lines)


def removed(home: Path) -> None:
    rewrite(home, lines(home)[:1] + lines(home)[2:])


def swapped(home: Path) -> None:
    first, second, *rest = lines(home)
    rewrite(home, [second, first, *rest])


def doubled(home: Path) -> None:
    rewrite(home, [*lines(home), lines(home)[-1]])


def garbage(home: Path) -> None:
    rewrite(home, [*lines(home), "not a record\n"])


def blank_line(home: Path) -> None:
    rewrite(home, [*lines(home), "\n"])


def deleted(home: Path) -> None:
    (home / "a" / "log.jsonl").unlink()


def head_deleted(home: Path) -> None:
    (home / "b" / "log.head").unlink()


def head_damaged(home: Path) -> None:
    (home / "b" / "log.head").write_text("{}")


def torn_below_its_head(home: Path) -> None:
    rewrite(home, [*lines(home)[:3], lines(home)[3][:-5]])


def another_history(home: Path) -> None:
    """A whole, valid chain of the same length, from another day."""
    other = home / "other"
    with opened(other) as chain:
        for number in range(4):
            chain.append("note", {"number": number + 100})
    shutil.copy(other / "a" / "log.jsonl", home / "a" / "log.jsonl")


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (older_copy, "2 lines of 4 that were written"),
        (deleted, "0 lines of 4"),
        (torn_below_its_head, "3 lines of 4"),
        (edited, "line 2 was changed"),
        (edited_with_its_own_hash, "line 3 does not follow"),
        (removed, "line 2 does not follow"),
        (swapped, "line 1 does not follow"),
        (doubled, "line 5 does not follow"),
        (garbage, "line 5 was changed or damaged"),
        (blank_line, "line 5 was changed or damaged"),
        (head_deleted, r"its head.*is missing"),
        (head_damaged, "is damaged"),
        (another_history, "line 4 is not the one that was written"),
    ],
)
def test_tampering_is_refused(home: Path, tamper: Callable[[Path], None], message: str) -> None:
    tamper(home)
    before = (home / "a" / "log.jsonl").read_bytes() if (home / "a" / "log.jsonl").exists() else None
    with pytest.raises(PolicyError, match=message):
        opened(home)
    found = inspect(home / "a" / "log.jsonl", home / "b" / "log.head")
    assert not found.ok
    if before is not None:
        assert (home / "a" / "log.jsonl").read_bytes() == before, "evidence is left as it is"


@given(position=st.integers(0, 10**6), byte=st.integers(0, 255))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_changed_byte_is_noticed(home: Path, position: int, byte: int) -> None:
    path = home / "a" / "log.jsonl"
    data = path.read_bytes()
    position %= len(data)
    changed = data[:position] + bytes([byte]) + data[position + 1 :]
    try:
        path.write_bytes(changed)
        assert inspect(path, home / "b" / "log.head").ok == (changed == data)
    finally:
        path.write_bytes(data)


# --- a disk that fails ---


class FullDisk:
    """``os.write`` that stores a part and then has no room."""

    def __init__(self, room: int) -> None:
        self.room, self.real = room, os.write

    def __call__(self, descriptor: int, data: bytes) -> int:
        if self.room <= 0:
            raise OSError(28, "No space left on device")
        written = self.real(descriptor, data[: self.room])
        self.room -= written
        return written


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    def fill(room: int) -> None:
        monkeypatch.setattr("trend_common.privacy.chain.os.write", FullDisk(room))

    yield fill
    monkeypatch.undo()


@pytest.mark.parametrize("room", [0, 17])
def test_a_full_disk_stops_everything_and_is_recovered(
    room: int, home: Path, full_disk: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = lines(home)
    with opened(home) as chain:
        full_disk(room)
        with pytest.raises(PolicyError, match="could not be written: No space left"):
            chain.append("note", {"number": 4})
        monkeypatch.undo()
        with pytest.raises(PolicyError, match="closed or could not be written"):
            chain.append("note", {"number": 5})
    with opened(home) as chain:
        assert len(chain.records) == 4
        chain.append("note", {"number": 4})
    assert lines(home)[:4] == whole


def test_a_head_that_cannot_be_written_stops_everything(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(30, "Read-only file system")

    with opened(home) as chain:
        monkeypatch.setattr("trend_common.privacy.chain.write_text", refuse)
        with pytest.raises(PolicyError, match="Read-only"):
            chain.append("note", {"number": 4})
    monkeypatch.undo()
    with opened(home) as chain:
        assert len(chain.records) == 5, "the line was on the disk, so it counts"


def test_names_of_the_chain_itself_are_refused(home: Path) -> None:
    with opened(home) as chain, pytest.raises(ValueError, match="seq"):
        chain.append("note", {"seq": 7})


def test_a_lock_dies_with_its_process(home: Path) -> None:
    """Kill -9 leaves no lock behind that a person would have to remove."""
    code = (
        "import os, sys, pathlib; from trend_common.privacy.chain import Chain; home = pathlib.Path(sys.argv[1])\n"
        "Chain(home / 'a' / 'log.jsonl', head_path=home / 'b' / 'log.head', what='log').append('note', {})\n"
        "os.kill(os.getpid(), 9) if hasattr(os, 'kill') else os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(home)], check=False).returncode != 0
    with opened(home) as chain:
        assert len(chain.records) == 5
