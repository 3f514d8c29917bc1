"""What this client has spent, and the bytes that it sealed: nothing leaves that is not charged here first.

One round, in the only order that there is::

    begin_round   reserve all its steps, on disk            from here on they count as spent
    (compute)
    seal          the payload on disk, then its hash        from here on only these bytes answer this round
    (send)
    mark_sent

A crash before the reservation leaves nothing. After it and before the seal, nothing has left the machine: one rerun
goes under the same reservation, and each further one is charged like a round of its own, out of the rounds of the
accepted plan. After the seal the same bytes are sent again, however often they are asked for. So the ledger never
counts less than what was released, and retries never make a federation cost more than the plan that was accepted.

The key of a round is (federation, round, hash of the plan, hash of the incoming adapter). The same round with another
hash is refused: a second answer to the same round would be a second release.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from trend_common.errors import PolicyError
from trend_common.files import private_directory, write_bytes
from trend_common.privacy.accounting import Run, compose, group_run
from trend_common.privacy.chain import Chain, Record
from trend_common.privacy.plan import plan_run
from trend_common.protocol import BucketName, FederationPlan

__all__ = ["Account", "Ledger", "LedgerBehind", "Reservation", "Sealed", "accounts_of", "protected_unit"]

_FREE_RERUNS = 1


class LedgerBehind(PolicyError):
    """The server has had more answers than this ledger knows of: a disk that was restored from an older copy."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """The right to compute one answer to one round; give it to :meth:`Ledger.seal`.

    Attributes:
        federation, round, attempt: Which.
        run: What one round of the accepted plan costs: the mechanism that may be used, and no other.
    """

    federation: str
    round: int
    attempt: int
    run: Run


@dataclass(frozen=True, slots=True)
class Sealed:
    """The one answer to a round. Only what is in here may be sent."""

    federation: str
    round: int
    payload: bytes = field(repr=False)
    sha256: str


@dataclass(slots=True)
class RoundState:
    """What the ledger knows of one round."""

    adapter_sha256: str
    attempts: int = 1
    sealed: str = ""
    sent: int = 0


@dataclass(slots=True)
class Account:
    """One federation in the ledger.

    Attributes:
        federation, plan_sha256: Which plan was accepted.
        bucket, unit: What was declared, and what one unit is.
        sigma, q, delta: σ (0 without privacy), sampling probability, δ.
        rounds, steps: Of the plan; ``rounds × steps`` is the most that is ever charged.
        charged: Steps that count as spent.
        closed: No further rounds: what was not charged is free again.
        lost: Rounds that the server has had and this ledger does not know of; they are charged.
        by_round: Round → its state.
    """

    federation: str
    plan_sha256: str
    bucket: BucketName
    unit: str
    sigma: float
    q: float
    delta: float
    rounds: int
    steps: int
    charged: int = 0
    closed: bool = False
    lost: int = 0
    by_round: dict[int, RoundState] = field(default_factory=dict)

    def run(self, steps: int, secret: str = "") -> Run:
        """``steps`` steps of this federation's mechanism, as they count for one ``secret`` (default: its own unit).

        A series that is a part of a larger unit changes that unit rather than taking it away, which can move a sum by
        2·C (:func:`~trend_common.privacy.accounting.group_run`).
        """
        run = Run(sigma=self.sigma, q=self.q, steps=steps)
        return run if secret in ("", self.unit) else group_run(run, whole=0, changed=1)

    @property
    def remaining(self) -> int:
        """Steps that the accepted plan may still charge."""
        return 0 if self.closed else self.rounds * self.steps - self.charged


def protected_unit(units: Iterable[str]) -> str:
    """For what a total over federations of these units can be stated without looking at the sales.

    Their common unit; where they differ, the series, which is a part of each.
    """
    found = set(units) - {"none"}
    return found.pop() if len(found) == 1 else "series"


class Ledger:
    """The one ledger of a client's home, whatever sales file is used.

    Args:
        path: The chained file; the sealed payloads lie in a folder beside it.
        head_path: Second place for the hash of its last line.
        epsilon_total: The cap on everything together, from the policy.
        delta: δ at which the cap is computed, the policy's ``delta_max``.
        durable: Flush to the disk; False is for simulations only.

    Raises:
        PolicyError: The file is in use, was changed or rolled back, or cannot be written.
    """

    def __init__(
        self, path: Path, *, head_path: Path, epsilon_total: float, delta: float, durable: bool = True
    ) -> None:
        self.epsilon_total, self.delta, self._durable = epsilon_total, delta, durable
        self._payloads = path.with_name(path.stem + "-sealed")
        self._chain = Chain(path, head_path=head_path, what="privacy ledger", durable=durable)
        try:
            self._accounts = accounts_of(self._chain.records)
        except BaseException:
            self._chain.close()
            raise

    @property
    def findings(self) -> list[str]:
        """What was repaired when the ledger was opened, for the screen."""
        return self._chain.findings

    @property
    def accounts(self) -> tuple[Account, ...]:
        """All federations, oldest first."""
        return tuple(self._accounts.values())

    def charged(self) -> list[Run]:
        """Everything that counts as spent, for the :func:`protected_unit` of all federations."""
        secret = protected_unit(account.unit for account in self.accounts)
        return [account.run(account.charged, secret) for account in self.accounts]

    def committed(self, besides: str = "", unit: str = "") -> list[Run]:
        """Everything spent, and what open federations may still spend: what a new plan is added to.

        Args:
            besides: A federation that is left out.
            unit: Of the plan that is to be added.
        """
        others = [account for account in self.accounts if account.federation != besides]
        secret = protected_unit([*(account.unit for account in others), *([unit] if unit else [])])
        return [account.run(account.charged + account.remaining, secret) for account in others]

    def spent(self, delta: float | None = None) -> float:
        """ε of all charged steps at δ (default: the policy's)."""
        return compose(self.charged(), self.delta if delta is None else delta)

    def check(self, plan: FederationPlan, bucket: BucketName, *, without_privacy: bool = False) -> None:
        """Raise whatever :meth:`accept` would raise, and write nothing: to be asked before any data are touched.

        Raises:
            PolicyError: Another plan has this name, the federation was closed, or the whole of the plan, together
                with what is spent and promised to other federations, would break the cap.
        """
        known = self._accounts.get(plan.federation)
        if known is not None:
            if known.plan_sha256 != plan.sha256() or known.bucket != bucket:
                raise PolicyError(
                    f'Federation "{plan.federation}" was accepted before with another plan or bucket.',
                    "A plan cannot change after it was accepted. Ask the operator for a new federation name.",
                )
            self._require_open(known)
            return
        if plan.privacy is None and not without_privacy:
            raise PolicyError(f'The plan of "{plan.federation}" has no differential privacy.', "It is not accepted.")
        run = plan_run(plan, bucket)
        if plan.privacy is not None:
            before = self.committed(unit=plan.privacy.unit)
            units = [*(account.unit for account in self.accounts), plan.privacy.unit]
            if protected_unit(units) != plan.privacy.unit:
                run = group_run(run, whole=0, changed=1)
            self._require_room([*before, run], f'Federation "{plan.federation}"')

    def accept(self, plan: FederationPlan, bucket: BucketName, *, without_privacy: bool = False) -> None:
        """Record that the whole of ``plan`` is agreed to; again the same plan changes nothing.

        Args:
            plan: Checked by the policy.
            bucket: As declared in the policy.
            without_privacy: Accept a plan whose ``privacy`` is None; the ledger then counts ε = ∞ for ever.

        Raises:
            PolicyError: As :meth:`check`.
        """
        self.check(plan, bucket, without_privacy=without_privacy)
        if plan.federation in self._accounts:
            return
        run = plan_run(plan, bucket)
        self._record(
            "accept",
            federation=plan.federation,
            plan_sha256=plan.sha256(),
            bucket=bucket,
            unit=plan.privacy.unit if plan.privacy else "none",
            sigma=run.sigma,
            q=run.q,
            delta=plan.privacy.delta if plan.privacy else self.delta,
            rounds=plan.rounds,
            steps=plan.steps,
        )

    def compare(self, federation: str, answered: int) -> None:
        """See that this ledger knows of all the rounds that the server has had an answer to.

        A round is sealed here before it is sent, so an honest server never counts more. If it does, the missing
        rounds are charged at once: they are spent, whatever became of their lines.

        Raises:
            LedgerBehind: It does not. The next time, the same count is no surprise any more.
        """
        account = self._accounts.get(federation)
        if account is None:
            return  # begin_round refuses
        known = sum(1 for state in account.by_round.values() if state.sealed)
        missing = answered - known - account.lost
        if missing <= 0:
            return
        # Never more than the accepted plan, so that a server that lies cannot spend what was not agreed to.
        steps = min(missing * account.steps, account.rounds * account.steps - account.charged)
        self._record("lost", federation=federation, rounds=missing, steps=steps)
        raise LedgerBehind(
            f'The server has had {answered} answers of this client to federation "{federation}"; the privacy ledger '
            f"knows of {known}. The disk, or the home folder, was probably restored from an older copy.",
            f"The {missing} missing rounds are charged now. If other federations were joined since that copy was "
            "made, their spending is missing too: restore a newer ledger, or lower epsilon_total by what they cost. "
            "Then start again to go on, or run trend-client leave.",
        )

    def begin_round(
        self, federation: str, round_number: int, *, plan_sha256: str, adapter_sha256: str
    ) -> Sealed | Reservation:
        """Either the bytes that were sealed for this round, or the charged right to compute them.

        Raises:
            PolicyError: The federation is not accepted or closed, a hash differs from before, the round is not in the
                plan, or charging it would overrun the plan or the cap.
        """
        account = self._accounts.get(federation)
        if account is None:
            raise PolicyError(f'Federation "{federation}" was never accepted here.', "Its rounds are not answered.")
        if account.plan_sha256 != plan_sha256:
            raise PolicyError(
                f'Round {round_number} of "{federation}" names another plan than the accepted one.',
                "A plan cannot change after it was accepted.",
            )
        if not 1 <= round_number <= account.rounds:
            raise PolicyError(
                f'Round {round_number} of "{federation}" is not in its plan of {account.rounds} rounds.', ""
            )
        state = account.by_round.get(round_number)
        if state is not None and state.adapter_sha256 != adapter_sha256:
            raise PolicyError(
                f'Round {round_number} of "{federation}" was begun from another adapter.',
                "A second answer to the same round would be a second release, so it is refused. The server may have "
                "lost a checkpoint: it can go on with the next round.",
            )
        if state is not None and state.sealed:
            return Sealed(federation, round_number, self._payload(account, round_number, state), state.sealed)
        self._require_open(account)
        attempt = 1 if state is None else state.attempts + 1
        cost = 0 if 1 < attempt <= 1 + _FREE_RERUNS else account.steps
        if cost > account.remaining:
            raise PolicyError(
                f'Round {round_number} of "{federation}" would overrun its plan: {account.charged} of '
                f"{account.rounds * account.steps} steps are charged.",
                "Rounds that were interrupted more than once were charged again. The server goes on without this "
                "client's answer; nothing is lost but this round.",
            )
        if cost and account.sigma > 0:
            secret = protected_unit(one.unit for one in self.accounts)
            more = account.run(cost, secret)
            self._require_room([*self.charged(), more], f'Round {round_number} of "{federation}"')
        self._record(
            "reserve",
            federation=federation,
            round=round_number,
            adapter_sha256=adapter_sha256,
            attempt=attempt,
            steps=cost,
        )
        return Reservation(federation, round_number, attempt, account.run(account.steps))

    def seal(self, reservation: Reservation, payload: bytes) -> Sealed:
        """Fix ``payload`` as the one answer; when this returns it is on the disk and may be sent.

        Raises:
            PolicyError: The reservation is not the round's latest, the round is sealed, or the disk is full. Nothing
                may then be sent.
        """
        account = self._accounts[reservation.federation]
        state = account.by_round[reservation.round]
        if state.sealed or state.attempts != reservation.attempt:
            raise PolicyError(
                f'Round {reservation.round} of "{reservation.federation}" was begun again or sealed meanwhile.',
                "This computation is thrown away; nothing of it was sent.",
            )
        digest = hashlib.sha256(payload).hexdigest()
        path = self._payload_path(account, reservation.round)
        try:
            private_directory(path.parent)
            if self._durable:
                write_bytes(path, payload, private=True)
            else:
                path.write_bytes(payload)
        except OSError as error:
            raise PolicyError(
                f"The answer could not be written to {path}: {error.strerror or error}.",
                "Nothing was sent. Make room on the disk and start again.",
            ) from error
        self._record(
            "seal", federation=account.federation, round=reservation.round, sha256=digest, bytes=len(payload)
        )
        return Sealed(account.federation, reservation.round, payload, digest)

    def mark_sent(self, sealed: Sealed) -> None:
        """Note that the bytes were handed to the network. Changes no figure."""
        self._record("sent", federation=sealed.federation, round=sealed.round, sha256=sealed.sha256)

    def close_federation(self, federation: str) -> None:
        """Answer no further rounds of ``federation`` (left or finished); what it did not charge is free again."""
        account = self._accounts.get(federation)
        if account is not None and not account.closed:
            self._record("close", federation=federation)

    def close(self) -> None:
        """Let another client of this home in."""
        self._chain.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _record(self, kind: str, **fields: Any) -> None:
        _apply(self._accounts, self._chain.append(kind, fields))

    def _require_open(self, account: Account) -> None:
        if account.closed:
            raise PolicyError(
                f'This client has left federation "{account.federation}".', "Its further rounds are not answered."
            )

    def _require_room(self, runs: Iterable[Run], what: str) -> None:
        # Rehearsals without privacy are left out: infinity plus anything says nothing about the rest.
        total = compose([run for run in runs if run.sigma > 0], self.delta)
        if total > self.epsilon_total:
            raise PolicyError(
                f"{what} would bring the total to ε = {total:.3g} at δ = {self.delta:g}; "
                f"epsilon_total is {self.epsilon_total:g}.",
                "The budget never renews. The shared adapter can still be received, and personal training is free.",
            )

    def _payload_path(self, account: Account, round_number: int) -> Path:
        # The name's hash, since some file systems take "a" and "A" for the same.
        name = hashlib.sha256(account.federation.encode()).hexdigest()[:16]
        return self._payloads / f"{name}-{round_number:06d}.bin"

    def _payload(self, account: Account, round_number: int, state: RoundState) -> bytes:
        path = self._payload_path(account, round_number)
        try:
            payload = path.read_bytes()
        except OSError:
            payload = b""
        if hashlib.sha256(payload).hexdigest() != state.sealed:
            raise PolicyError(
                f'The sealed answer to round {round_number} of "{account.federation}" is missing or changed: {path}.',
                "It is not computed again, since that would be a second release. The server goes on without it.",
            )
        return payload


def accounts_of(records: Iterable[Record]) -> dict[str, Account]:
    """Federation → account, from the lines of a ledger.

    Raises:
        PolicyError: The chain is intact but its lines make no sense, as a newer version's might.
    """
    accounts: dict[str, Account] = {}
    for record in records:
        try:
            _apply(accounts, record)
        except (KeyError, TypeError, ValueError) as error:
            raise PolicyError(
                f"Line {record.get('seq')} of the privacy ledger is not understood ({type(error).__name__}).",
                "It may come from a newer version of this program; use that one.",
            ) from error
    return accounts


def _apply(accounts: dict[str, Account], record: Record) -> None:
    kind = record["kind"]
    if kind == "accept":
        names = ("federation", "plan_sha256", "bucket", "unit", "sigma", "q", "delta", "rounds", "steps")
        accounts[record["federation"]] = Account(**{name: record[name] for name in names})
        return
    account = accounts[record["federation"]]
    if kind == "close":
        account.closed = True
        return
    if kind == "lost":
        account.lost += int(record["rounds"])
        account.charged += int(record["steps"])
        return
    number = int(record["round"])
    if kind == "reserve":
        state = account.by_round.setdefault(number, RoundState(record["adapter_sha256"]))
        state.attempts = int(record["attempt"])
        account.charged += int(record["steps"])
    elif kind == "seal":
        account.by_round[number].sealed = record["sha256"]
    elif kind == "sent":
        account.by_round[number].sent += 1
    else:
        raise ValueError(kind)
