"""The budget on one page: what the ledger says, for a person's screen, a report and ``--json``.

Reads without a lock and changes nothing, so it works while a client runs. For the security officer there is a
sentence without Greek letters: ε bounds how much better than a coin somebody can guess whether one series was used,
and :func:`~trend_common.privacy.accounting.best_guess` says that as a percentage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trend_common.errors import PolicyError
from trend_common.privacy.accounting import Run, best_guess, compose, group_run
from trend_common.privacy.chain import inspect
from trend_common.privacy.ledger import Account, accounts_of, protected_unit

__all__ = ["Budget", "BudgetRow", "Share", "UnitCost", "read_budget"]

_UNIT = {"series": "one product at one store", "product": "one product in all stores", "store": "one whole store"}
_SECRET = {"series": "one product at one store", "product": "a whole product", "store": "a whole store"}

Share = tuple[int, int]
"""(whole, changed): how many units of a federation the largest secret of a kind owns entirely, and has a part in."""


@dataclass(frozen=True, slots=True)
class BudgetRow:
    """One federation; ``epsilon`` is what its charged steps cost by themselves, infinity without privacy."""

    federation: str
    bucket: str
    unit: str
    noise_multiplier: float
    q: float
    rounds: int
    rounds_answered: int
    steps_charged: int
    steps_accepted: int
    epsilon: float
    state: str


@dataclass(frozen=True, slots=True)
class UnitCost:
    """What is spent if the secret is another than the unit that was agreed upon.

    Attributes:
        secret: "series", "product" or "store".
        epsilon: ε at the budget's δ for the largest such secret; None where it is not known how large that is.
        guess: Probability of the best guess about it.
        units: (whole, changed) of the federation in which its share is largest.
    """

    secret: str
    epsilon: float | None
    guess: float
    units: Share

    def sentence(self) -> str:
        """One line for the person's own screen."""
        name = _SECRET[self.secret]
        if self.epsilon is None:
            return f"{name}: not known, since this home has not noted how many series it has."
        whole, changed = self.units
        parts = [f"{whole} of the protected units" if whole > 1 else "one protected unit"] if whole else []
        parts += [f"a part of {changed}" + ("" if whole else " of the protected units")] if changed else []
        return (
            f"{name} (up to {' and '.join(parts)}): ε = {self.epsilon:.4g}, the best guess is right at most "
            f"{_percent(self.guess)} of the time."
        )


@dataclass(frozen=True, slots=True)
class Budget:
    """What is spent, at one δ.

    Attributes:
        epsilon_spent: ε of all charged steps together; infinity if a federation ran without privacy.
        epsilon_cap: The policy's ``epsilon_total``.
        delta: δ of both.
        unit: What the figures are for: the common unit of all federations, or the series where they differ.
        guess: Probability of the best guess about one unit, from 0.5.
        chain_ok: Whether the ledger is intact; if not, ``problem`` says why and the figures are those of the lines
            before it.
        rows: One for each federation.
        others: The same spending for the other two kinds of secret. Depends on the sales (how many stores a product
            has): for this screen alone.
    """

    epsilon_spent: float
    epsilon_cap: float
    delta: float
    unit: str
    guess: float
    chain_ok: bool
    problem: str
    rows: tuple[BudgetRow, ...]
    others: tuple[UnitCost, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The keys of ``trend-client budget --json``; an infinite ε is null, since JSON has no infinity."""
        return {
            "epsilon_spent": _finite(self.epsilon_spent),
            "epsilon_cap": self.epsilon_cap,
            "delta": self.delta,
            "unit": self.unit,
            "best_guess": round(self.guess, 4),
            "chain_ok": self.chain_ok,
            "other_units": {
                cost.secret: {"epsilon": _finite(cost.epsilon), "best_guess": round(cost.guess, 4)}
                for cost in self.others
            },
            "federations": [
                {name: _finite(getattr(row, name)) for name in BudgetRow.__dataclass_fields__} for row in self.rows
            ],
        }

    def sentence(self) -> str:
        """What was revealed, in one sentence (or two) for somebody who is no statistician."""
        if not self.chain_ok:
            return f"How much was revealed cannot be said: the privacy ledger is not intact ({self.problem})."
        if math.isinf(self.epsilon_spent):
            return "A federation without privacy protection was joined, so what was revealed has no bound."
        if not any(row.steps_charged for row in self.rows):
            return "Nothing computed from your sales has left this computer."
        return (
            f"Whoever sees everything that left this computer, and knows all your other sales, can tell whether "
            f"{_UNIT[self.unit]} was in your data with at most {_percent(self.guess)} certainty, where a coin gives "
            f"50 %; ε = {self.epsilon_spent:.2f} of {self.epsilon_cap:g} is spent (δ = {self.delta:g})."
        )


def read_budget(
    path: Path,
    *,
    head_path: Path,
    epsilon_total: float,
    delta: float,
    shares: Mapping[str, Mapping[str, Share]] | None = None,
) -> Budget:
    """The budget in the ledger at ``path``; a missing ledger has spent nothing.

    Args:
        path, head_path: The ledger.
        epsilon_total, delta: From the policy.
        shares: Federation → secret → how much of the federation's units the largest such secret is.
    """
    found = inspect(path, head_path)
    problem = found.problem
    accounts: Sequence[Account] = ()
    try:
        accounts = tuple(accounts_of(found.records).values())
    except PolicyError as error:
        problem = problem or error.message.rstrip(".")
    unit = protected_unit(account.unit for account in accounts)
    charged = [account.run(account.charged, unit) for account in accounts]
    return Budget(
        epsilon_spent=compose(charged, delta),
        epsilon_cap=epsilon_total,
        delta=delta,
        unit=unit,
        guess=best_guess(charged),
        chain_ok=not problem,
        problem=problem,
        rows=tuple(_row(account, delta) for account in accounts),
        others=_others(accounts, unit, delta, shares or {}),
    )


def _others(
    accounts: Sequence[Account], unit: str, delta: float, shares: Mapping[str, Mapping[str, Share]]
) -> tuple[UnitCost, ...]:
    spent = [account for account in accounts if account.charged and account.sigma > 0]
    found: list[UnitCost] = []
    if any(account.charged and account.sigma == 0 for account in accounts):
        return ()  # without privacy nothing has a bound
    for secret in _SECRET if spent else ():
        if secret == unit and len({account.unit for account in spent}) == 1:
            continue  # that is the budget itself
        largest: list[Share] = []
        for account in spent:
            known = shares.get(account.federation, {}).get(secret)
            if account.unit == secret:
                known = (1, 0)
            elif known is None and secret == "series":
                known = (0, 1)
            if known is None:
                break
            largest.append(known)
        if len(largest) < len(spent):
            found.append(UnitCost(secret, None, 1.0, (0, 0)))
            continue
        runs = [
            group_run(account.run(account.charged), whole=whole, changed=changed)
            for account, (whole, changed) in zip(spent, largest, strict=True)
        ]
        top = max(largest, key=lambda share: share[0] + 2 * share[1])
        found.append(UnitCost(secret, compose(runs, delta), best_guess(runs), top))
    return tuple(found)


def _row(account: Account, delta: float) -> BudgetRow:
    answered = sum(1 for state in account.by_round.values() if state.sealed)
    finished = account.charged >= account.rounds * account.steps
    return BudgetRow(
        federation=account.federation,
        bucket=account.bucket,
        unit=account.unit,
        noise_multiplier=account.sigma,
        q=account.q,
        rounds=account.rounds,
        rounds_answered=answered,
        steps_charged=account.charged,
        steps_accepted=account.rounds * account.steps,
        epsilon=compose([Run(sigma=account.sigma, q=account.q, steps=account.charged)], delta),
        state="finished" if finished else "left" if account.closed else "open",
    )


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _percent(share: float) -> str:
    """Rounded up, so that the sentence never promises too much; 100 % only if it is."""
    return f"{min(100.0, math.ceil(share * 1000) / 10):.1f} %"
