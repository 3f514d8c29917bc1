"""The ledger: never counts less than what was released, and retries never overrun an accepted plan."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trend_common.errors import PolicyError
from trend_common.privacy import chain as chain_module
from trend_common.privacy import ledger as ledger_module
from trend_common.privacy.accounting import Run, epsilon_of, gaussian_epsilon, noise_multiplier_for
from trend_common.privacy.chain import Chain
from trend_common.privacy.ledger import Ledger, LedgerBehind, Reservation, Sealed
from trend_common.privacy.plan import Mechanism
from trend_common.protocol import FederationPlan

MakePlan = Callable[..., FederationPlan]
ADAPTER = "d" * 64


def opened(home: Path, cap: float = 8.0, durable: bool = False) -> Ledger:
    return Ledger(
        home / "ledger.jsonl", head_path=home / "state" / "head", epsilon_total=cap, delta=1e-5, durable=durable
    )


def begin(ledger: Ledger, plan: FederationPlan, number: int, adapter: str = ADAPTER) -> Sealed | Reservation:
    return ledger.begin_round(plan.federation, number, plan_sha256=plan.sha256(), adapter_sha256=adapter)


def reserve(ledger: Ledger, plan: FederationPlan, number: int) -> Reservation:
    reservation = begin(ledger, plan, number)
    assert isinstance(reservation, Reservation)
    return reservation


def answer(ledger: Ledger, plan: FederationPlan, number: int, payload: bytes = b"noised") -> Sealed:
    return ledger.seal(reserve(ledger, plan, number), payload)


def test_a_round_is_charged_before_anything_is_computed(tmp_path: Path, make_plan: MakePlan) -> None:
    plan = make_plan()
    with opened(tmp_path) as ledger:
        ledger.accept(plan, "S")
        assert ledger.spent() == 0
        reserve(ledger, plan, 1)
        one = epsilon_of(sigma=4.84, q=1.0, steps=1, delta=1e-5)
        assert ledger.spent() == one
    with opened(tmp_path) as ledger:
        assert ledger.spent() == one, "on the disk, not only in memory"


def test_the_whole_plan_costs_what_was_agreed(tmp_path: Path, make_plan: MakePlan) -> None:
    plan = make_plan()
    with opened(tmp_path) as ledger:
        ledger.accept(plan, "S")
        for number in range(1, 21):
            ledger.mark_sent(answer(ledger, plan, number))
        assert ledger.spent() == epsilon_of(sigma=4.84, q=1.0, steps=20, delta=1e-5)
        with pytest.raises(PolicyError, match="not in its plan of 20 rounds"):
            begin(ledger, plan, 21)


def test_steps_of_a_round_are_charged_together(tmp_path: Path, make_plan: MakePlan) -> None:
    plan = make_plan(rounds=4, steps=5, update="weights")
    with opened(tmp_path) as ledger:
        ledger.accept(plan, "S")
        reserve(ledger, plan, 1)
        assert ledger.accounts[0].charged == 5


def test_asked_again_the_very_same_bytes_are_sent(tmp_path: Path, make_plan: MakePlan) -> None:
    plan = make_plan()
    with opened(tmp_path, durable=True) as ledger:
        ledger.accept(plan, "S")
        sealed = answer(ledger, plan, 1, b"the bytes")
        assert begin(ledger, plan, 1) == sealed
    with opened(tmp_path) as ledger:
        assert begin(ledger, plan, 1) == sealed
        assert ledger.accounts[0].charged == 1, "asking is free"
    if os.name != "nt":
        (file,) = (tmp_path / "ledger-sealed").iterdir()
        assert file.stat().st_mode & 0o077 == 0


def test_one_rerun_is_free_and_further_ones_are_charged(tmp_path: Path, make_plan: MakePlan) -> None:
    plan = make_plan()
    charged = []
    for attempt in range(1, 5):
        with opened(tmp_path) as ledger:
            ledger.accept(plan, "S")
            assert reserve(ledger, plan, 1).attempt == attempt
            charged.append(ledger.accounts[0].charged)
    assert charged == [1, 1, 2, 3]


def test_retries_cannot_overrun_the_plan(tmp_path: Path, make_plan: MakePlan) -> None:
    plan = make_plan(rounds=3)
    with opened(tmp_path) as ledger:
        ledger.accept(plan, "S")
        for _ in range(4):
            reserve(ledger, plan, 1)
        with pytest.raises(PolicyError, match="would overrun its plan: 3 of 3 steps"):
            begin(ledger, plan, 1)
        with pytest.raises(PolicyError, match="would overrun"):
            begin(ledger, plan, 2)
        assert ledger.accounts[0].charged == 3


def test_the_same_round_from_another_adapter_is_refused(tmp_path: Path, make_plan: MakePlan) -> None:
    """Answering twice, from two adapters of the server's choice, would be two releases."""
    plan = make_plan()
    with opened(tmp_path) as ledger:
        ledger.accept(plan, "S")
        reservation = reserve(ledger, plan, 1)
        for _ in range(2):
            with pytest.raises(PolicyError, match="begun from another adapter"):
                begin(ledger, plan, 1, adapter="e" * 64)
            if not ledger.accounts[0].by_round[1].sealed:
                ledger.seal(reservation, b"noised")


def test_rounds_need_the_accepted_plan(tmp_path: Path, make_plan: MakePlan) -> None:
    plan = make_plan()
    with opened(tmp_path) as ledger:
        with pytest.raises(PolicyError, match="never accepted"):
            begin(ledger, plan, 1)
        ledger.accept(plan, "S")
        ledger.accept(plan, "S")
        assert len(ledger.accounts) == 1, "accepting again changes nothing"
        with pytest.raises(PolicyError, match="another plan than the accepted"):
            begin(ledger, make_plan(horizon=7), 1)
        with pytest.raises(PolicyError, match="accepted before with another plan"):
            ledger.accept(make_plan(horizon=7), "S")
        with pytest.raises(PolicyError, match="not in its plan"):
            begin(ledger, plan, 0)


def test_a_superseded_computation_cannot_be_sealed(tmp_path: Path, make_plan: MakePlan) -> None:
    plan = make_plan()
    with opened(tmp_path) as ledger:
        ledger.accept(plan, "S")
        first, second = reserve(ledger, plan, 1), reserve(ledger, plan, 1)
        with pytest.raises(PolicyError, match="begun again or sealed meanwhile"):
            ledger.seal(first, b"old")
        assert ledger.seal(second, b"new").payload == b"new"
        with pytest.raises(PolicyError, match="begun again or sealed meanwhile"):
            ledger.seal(second, b"another")


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_lost_payload_is_not_computed_again(damage: str, tmp_path: Path, make_plan: MakePlan) -> None:
    """It may have been sent: new noise on the same gradient would be a second release."""
    plan = make_plan()
    with opened(tmp_path) as ledger:
        ledger.accept(plan, "S")
        answer(ledger, plan, 1)
        (file,) = (tmp_path / "ledger-sealed").iterdir()
        file.unlink() if damage == "missing" else file.write_bytes(b"other")
        with pytest.raises(PolicyError, match="missing or changed"):
            begin(ledger, plan, 1)


# --- the cap ---


def test_promises_to_open_federations_count_for_a_new_one(tmp_path: Path, make_plan: MakePlan) -> None:
    """Two plans that fit one by one, but not together."""
    half = noise_multiplier_for(epsilon=5.0, delta=1e-5, q=1.0, steps=20)
    first, second = (make_plan(federation=name, sigma=half, privacy={"epsilon": 5.0}) for name in ("a", "b"))
    with opened(tmp_path, cap=7.0) as ledger:
        ledger.accept(first, "S")
        with pytest.raises(PolicyError, match="epsilon_total is 7"):
            ledger.accept(second, "S")
        ledger.close_federation("a")
        ledger.accept(second, "S")
        with pytest.raises(PolicyError, match="has left"):
            begin(ledger, first, 1)
        with pytest.raises(PolicyError, match="has left"):
            ledger.accept(first, "S")


def test_a_left_federation_still_sends_what_it_sealed(tmp_path: Path, make_plan: MakePlan) -> None:
    plan = make_plan()
    with opened(tmp_path) as ledger:
        ledger.accept(plan, "S")
        sealed = answer(ledger, plan, 1)
        ledger.close_federation("spring")
        ledger.close_federation("spring")
        ledger.close_federation("unknown")
        assert begin(ledger, plan, 1) == sealed
        assert ledger.spent() > 0, "leaving does not take back what was spent"


def test_a_cap_that_was_lowered_holds_in_the_middle_of_a_federation(tmp_path: Path, make_plan: MakePlan) -> None:
    plan = make_plan()
    with opened(tmp_path) as ledger:
        ledger.accept(plan, "S")
        for number in range(1, 6):
            answer(ledger, plan, number)
        spent = ledger.spent()
    with opened(tmp_path, cap=spent) as ledger, pytest.raises(PolicyError, match=r"Round 6.*epsilon_total"):
        begin(ledger, plan, 6)


def test_a_lifetime_is_finite(tmp_path: Path, make_plan: MakePlan) -> None:
    """A new federation is no new budget."""
    plans = [make_plan(federation=f"quarter-{number}", rounds=2, sigma=noise(4.0, 2)) for number in range(4)]
    with opened(tmp_path) as ledger:
        for plan in plans[:3]:
            ledger.accept(plan, "S")
            for round_number in (1, 2):
                answer(ledger, plan, round_number)
        with pytest.raises(PolicyError, match="epsilon_total is 8"):
            ledger.accept(plans[3], "S")


def noise(epsilon: float, steps: int) -> float:
    return noise_multiplier_for(epsilon=epsilon, delta=1e-5, q=1.0, steps=steps)


def test_a_rehearsal_without_privacy_is_never_forgotten(tmp_path: Path, make_plan: MakePlan) -> None:
    plan = make_plan(privacy_plan=None)
    with opened(tmp_path) as ledger:
        with pytest.raises(PolicyError, match="no differential privacy"):
            ledger.accept(plan, "S")
        ledger.accept(plan, "S", without_privacy=True)
        assert ledger.spent() == 0
        answer(ledger, plan, 1)
        assert ledger.spent() == math.inf
        private = make_plan(federation="later")
        ledger.accept(private, "S")
        answer(ledger, private, 1)


# --- crashes ---


class Crash(BaseException):
    """The process is gone."""


class CrashPoints:
    """Makes the n-th dangerous moment of the ledger's writing the last one of the process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = -1
        self.part = 0
        write, head, payload = Chain._write, Chain._write_head, Path.write_bytes

        def _write(chain: Chain, line: bytes) -> None:
            if self.due():
                assert chain._descriptor is not None
                os.write(chain._descriptor, line[: self.part % len(line)])
                raise Crash
            write(chain, line)
            self.check()

        def _write_head(chain: Chain, record: chain_module.Record) -> None:
            head(chain, record)
            self.check()

        def _write_bytes(path: Path, data: bytes) -> int:
            if self.due():
                payload(path, data[: self.part % max(1, len(data))])
                raise Crash
            written = payload(path, data)
            self.check()
            return written

        monkeypatch.setattr(Chain, "_write", _write)
        monkeypatch.setattr(Chain, "_write_head", _write_head)
        monkeypatch.setattr(Path, "write_bytes", _write_bytes)

    def arm(self, moment: int, part: int) -> None:
        self.left, self.part = moment, part

    def due(self) -> bool:
        self.left -= 1
        return self.left == 0

    def check(self) -> None:
        if self.due():
            raise Crash


@given(
    story=st.lists(
        st.tuples(st.integers(1, 4), st.integers(0, 12), st.integers(0, 400), st.booleans()), min_size=1, max_size=25
    ),
    steps=st.sampled_from([1, 3]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_crash_makes_the_ledger_forget(
    story: list[tuple[int, int, int, bool]],
    steps: int,
    tmp_path_factory: pytest.TempPathFactory,
    make_plan: MakePlan,
) -> None:
    """Any rounds in any order, a crash at any moment of any of them, and a server that notes all that it gets."""
    home = tmp_path_factory.mktemp("home")
    plan = make_plan(rounds=4, steps=steps, update="weights" if steps > 1 else "gradient")
    received: dict[int, set[bytes]] = {}
    refusals: list[str] = []
    computed = 0
    with opened(home) as ledger:
        ledger.accept(plan, "S")
    with pytest.MonkeyPatch.context() as monkeypatch:
        crash = CrashPoints(monkeypatch)
        for number, moment, part, lost in story:
            crash.arm(0, 0)
            ledger = opened(home)
            try:
                crash.arm(moment, part)
                begun = begin(ledger, plan, number)
                if isinstance(begun, Reservation):
                    computed += 1
                    begun = ledger.seal(begun, f"noise {computed}".encode())
                if not lost:
                    received.setdefault(number, set()).add(begun.payload)
                ledger.mark_sent(begun)
            except Crash:
                pass
            except PolicyError as error:
                refusals.append(error.message)
            finally:
                ledger.close()
    with opened(home) as ledger:
        (account,) = ledger.accounts
        assert all("would overrun" in message for message in refusals)
        assert all(len(payloads) == 1 for payloads in received.values()), "a round was answered in two ways"
        assert steps * len(received) <= account.charged <= plan.rounds * plan.steps
        assert ledger.spent() <= epsilon_of(sigma=4.84, q=1.0, steps=4 * steps, delta=1e-5)
        for number, payloads in received.items():
            begun = begin(ledger, plan, number)
            assert isinstance(begun, Sealed)
            assert {begun.payload} == payloads


def test_sealing_on_a_full_disk_releases_nothing(
    tmp_path: Path, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    plan = make_plan()
    with opened(tmp_path, durable=True) as ledger:
        ledger.accept(plan, "S")
        reservation = reserve(ledger, plan, 1)
        monkeypatch.setattr(ledger_module, "write_bytes", full)
        with pytest.raises(PolicyError, match="No space left"):
            ledger.seal(reservation, b"noised")
        monkeypatch.undo()
        assert isinstance(begin(ledger, plan, 1), Reservation), "one rerun under the reservation"
        assert ledger.accounts[0].charged == 1


class FailingDisk:
    """The n-th call that writes, flushes, renames or makes a file finds no room; so do all after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls, self.fails_at, self.part = 0, 0, 0
        self._patch = monkeypatch
        for owner, name in (
            (os, "fsync"),
            (os, "ftruncate"),
            (os, "replace"),
            (os, "rename"),
            (Path, "replace"),
            (Path, "chmod"),
            (Path, "mkdir"),
            (tempfile, "mkstemp"),
        ):
            self._fail(owner, name)
        write, write_bytes = os.write, Path.write_bytes

        def short_write(descriptor: int, data: bytes) -> int:
            if self.due():
                if self.part:
                    write(descriptor, data[: self.part])
                    self.part = 0
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(descriptor, data)

        def short_write_bytes(path: Path, data: bytes) -> int:
            if self.due():
                write_bytes(path, data[: self.part])
                raise OSError(errno.ENOSPC, "No space left on device")
            return write_bytes(path, data)

        monkeypatch.setattr(os, "write", short_write)
        monkeypatch.setattr(Path, "write_bytes", short_write_bytes)

    def due(self) -> bool:
        self.calls += 1
        return 0 < self.fails_at <= self.calls

    def _fail(self, owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.due():
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **kwargs)

        self._patch.setattr(owner, name, call)


@pytest.mark.skipif(os.name == "nt", reason="POSIX calls are counted")
@pytest.mark.parametrize("part", [0, 9])
def test_a_full_disk_at_any_call_is_an_error_for_people_and_undercounts_nothing(
    tmp_path: Path, make_plan: MakePlan, part: int
) -> None:
    """Every write, flush, rename and new file of two rounds in turn; then the disk has room again."""
    plan = make_plan(rounds=2)
    for moment in range(1, 500):
        home = tmp_path / str(moment)
        sent: dict[int, set[bytes]] = {}
        with pytest.MonkeyPatch.context() as monkeypatch:
            disk = FailingDisk(monkeypatch)
            disk.fails_at, disk.part = moment, part
            problem: PolicyError | None = None
            try:
                with opened(home, durable=True) as ledger:
                    ledger.accept(plan, "S")
                    for number in (1, 2):
                        begun = begin(ledger, plan, number)
                        if isinstance(begun, Reservation):
                            begun = ledger.seal(begun, f"{moment} {number}".encode())
                        sent.setdefault(number, set()).add(begun.payload)
                        ledger.mark_sent(begun)
            except PolicyError as error:
                problem = error
        if problem is not None:
            assert "No space left" in problem.message or "closed or could not" in problem.message
            assert problem.hint
        with opened(home, durable=True) as ledger:
            ledger.accept(plan, "S")
            for number in (1, 2):
                begun = begin(ledger, plan, number)
                if isinstance(begun, Reservation):
                    assert number not in sent, "what was sent is computed again"
                    begun = ledger.seal(begun, b"again")
                sent.setdefault(number, set()).add(begun.payload)
            assert all(len(payloads) == 1 for payloads in sent.values())
            assert ledger.accounts[0].charged == 2
        if problem is None:
            break
    assert problem is None
    assert moment > 40, "a call that writes is not counted"


VICTIM = """
import os, sys, pathlib
from trend_common.privacy.ledger import Ledger, Sealed
from trend_common.protocol import FederationPlan
home = pathlib.Path(sys.argv[1])
plan = FederationPlan.model_validate_json((home / "plan.json").read_text())
ledger = Ledger(home / "ledger.jsonl", head_path=home / "state" / "head", epsilon_total=8.0, delta=1e-5)
ledger.accept(plan, "S")
for number in range(1, plan.rounds + 1):
    begun = ledger.begin_round(plan.federation, number, plan_sha256=plan.sha256(), adapter_sha256="d" * 64)
    if not isinstance(begun, Sealed):
        begun = ledger.seal(begun, os.urandom(12))
    print(number, begun.payload.hex(), flush=True)
    ledger.mark_sent(begun)
"""


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_killed_processes_released_no_more_than_was_charged(tmp_path: Path, make_plan: MakePlan) -> None:
    plan = make_plan(rounds=200, sigma=15.4)
    (tmp_path / "plan.json").write_text(plan.canonical())
    received: dict[int, set[str]] = {}
    for delay in (0.02, 0.11, 0.05):
        process = subprocess.Popen(
            [sys.executable, "-c", VICTIM, str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        for line in [first, *process.stdout.read().splitlines()]:
            if len(parts := line.split()) == 2 and len(parts[1]) == 24:
                received.setdefault(int(parts[0]), set()).add(parts[1])
        process.wait()
        process.stdout.close()
    assert received
    with opened(tmp_path) as ledger:
        assert all(len(payloads) == 1 for payloads in received.values())
        assert len(received) <= ledger.accounts[0].charged <= plan.rounds


# --- a ledger that is behind the server ---


def test_rounds_that_only_the_server_knows_are_charged(tmp_path: Path, make_plan: MakePlan) -> None:
    plan = make_plan(rounds=5, steps=2, update="weights")
    with opened(tmp_path) as ledger:
        ledger.compare("spring", 3)  # unknown here: begin_round refuses
        ledger.accept(plan, "S")
        answer(ledger, plan, 1)
        ledger.compare("spring", 1)
        with pytest.raises(LedgerBehind, match=r"has had 3 answers.*knows of 1"):
            ledger.compare("spring", 3)
        assert ledger.accounts[0].charged == 6
        ledger.compare("spring", 3)
    with opened(tmp_path) as ledger:
        ledger.compare("spring", 3)
        assert (ledger.accounts[0].charged, ledger.accounts[0].lost) == (6, 2)
        with pytest.raises(LedgerBehind):
            ledger.compare("spring", 1000)
        assert ledger.accounts[0].charged == 10, "never more than the plan that was agreed to"


def test_a_round_that_was_reserved_and_not_sealed_is_not_missed(tmp_path: Path, make_plan: MakePlan) -> None:
    """It never left; the server cannot have counted it."""
    plan = make_plan()
    with opened(tmp_path) as ledger:
        ledger.accept(plan, "S")
        reserve(ledger, plan, 1)
        with pytest.raises(LedgerBehind):
            ledger.compare("spring", 1)


# --- units ---


def test_a_series_inside_a_larger_unit_counts_twice_in_a_mixed_ledger(tmp_path: Path, make_plan: MakePlan) -> None:
    """Without the series its product's clipped gradient may turn round: 2·C, not C."""
    with opened(tmp_path, cap=100.0) as ledger:
        for name, unit in (("a", "series"), ("b", "product")):
            plan = make_plan(federation=name, rounds=1, sigma=10.0, privacy={"unit": unit, "epsilon": 1.0})
            ledger.accept(plan, "S")
            answer(ledger, plan, 1)
        assert ledger.charged() == [Run(sigma=10.0, q=1.0, steps=1), Run(sigma=5.0, q=1.0, steps=1)]
        assert ledger.spent() == gaussian_epsilon(math.sqrt(0.1**2 + 0.2**2), 1e-5)


def test_federations_of_one_unit_add_up_for_that_unit(tmp_path: Path, make_plan: MakePlan) -> None:
    with opened(tmp_path) as ledger:
        for name in ("a", "b"):
            plan = make_plan(federation=name, rounds=1, sigma=10.0, privacy={"unit": "store", "epsilon": 1.0})
            ledger.accept(plan, "S")
            answer(ledger, plan, 1)
        assert ledger.spent() == gaussian_epsilon(math.sqrt(2) * 0.1, 1e-5)


def test_a_reservation_names_the_mechanism_that_was_charged(tmp_path: Path, make_plan: MakePlan) -> None:
    plan = make_plan(rounds=4, steps=3, update="weights", sigma=9.0)
    with opened(tmp_path) as ledger:
        ledger.accept(plan, "S")
        assert reserve(ledger, plan, 1).run == Mechanism.of(plan, "S").round_run == Run(sigma=9.0, q=1.0, steps=3)


# --- what is in the file ---


def test_the_file_holds_the_plan_and_hashes_and_nothing_else(tmp_path: Path, make_plan: MakePlan) -> None:
    plan = make_plan()
    with opened(tmp_path) as ledger:
        ledger.accept(plan, "S")
        ledger.mark_sent(answer(ledger, plan, 1))
    chained = {"seq", "prev", "time", "kind", "hash", "federation"}
    allowed = {
        "accept": {"plan_sha256", "bucket", "unit", "sigma", "q", "delta", "rounds", "steps"},
        "reserve": {"round", "adapter_sha256", "attempt", "steps"},
        "seal": {"round", "sha256", "bytes"},
        "sent": {"round", "sha256"},
    }
    records = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    assert [record["kind"] for record in records] == list(allowed)
    for record in records:
        assert set(record) == chained | allowed[record["kind"]]


def test_a_line_of_a_newer_version_is_not_ignored(tmp_path: Path) -> None:
    with Chain(tmp_path / "ledger.jsonl", head_path=tmp_path / "state" / "head", what="ledger") as chain:
        chain.append("refund", {"federation": "spring"})
    with pytest.raises(PolicyError, match="Line 1 of the privacy ledger is not understood"):
        opened(tmp_path)
    with pytest.raises(PolicyError, match="not understood"):
        opened(tmp_path)
