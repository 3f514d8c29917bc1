"""``trend-sim audit``: attack the product, with and without its protection, and see whether its claims hold.

Four attacks: one-run audits of a real client (:mod:`~trend_simulations.audit_canaries`), honest and with each known
mistake built in (:mod:`~trend_simulations.audit_mutations`); the draws of the sampler; membership inference on final
adapters; inversion of a gradient. The audit fails if an honest claim is refuted, or if a mistake that it is known to
see goes unseen.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from trend_client.engine import Engine
from trend_common import __version__
from trend_common.privacy.audit import draw_p_value
from trend_simulations.audit_canaries import Evidence, Target, audit_client
from trend_simulations.audit_inversion import Inversion, draw_inversion, invert
from trend_simulations.audit_membership import Attack, attack_members
from trend_simulations.audit_mutations import MUTATIONS, Mutation, noise_times, shuffled_batches

__all__ = ["Draws", "Report", "Run", "audit", "audit_draws", "audit_one"]

IMPROBABLE: Final = 1e-6
"""Draws that are less likely than this are not those of the sampler that the accountant assumes."""
_SEEN_SAMPLED: Final = ("no noise", "σ ÷ 4", "windows clipped", "batch clipped", "seed reused", "q understated")
"""What the bound can see where a quarter of the series takes part in a step, at ε = 2."""


@dataclass(frozen=True)
class Run:
    """One audited client.

    Attributes:
        plan: What was audited, in words.
        mutation: What was broken; None for the honest client.
        target: The audited plan.
        evidence: What came of it.
        seconds: How long it took.
    """

    plan: str
    mutation: Mutation | None
    target: Target
    evidence: Evidence
    seconds: float

    @property
    def verdict(self) -> str:
        """In a word."""
        if self.mutation is None:
            return "REFUTED" if self.evidence.refuted else "holds"
        if self.evidence.refuted:
            return "caught"
        return "MISSED" if self.mutation.seen else "not seen"

    @property
    def ok(self) -> bool:
        """Whether this is as it should be."""
        return self.verdict not in ("REFUTED", "MISSED")


@dataclass(frozen=True)
class Draws:
    """The sampler, read off answers whose noise was removed."""

    name: str
    honest: bool
    p_value: float

    @property
    def verdict(self) -> str:
        """In a word."""
        odd = self.p_value < IMPROBABLE
        if self.honest:
            return "ODD" if odd else "as assumed"
        return "caught" if odd else "MISSED"

    @property
    def ok(self) -> bool:
        """Whether this is as it should be."""
        return self.verdict in ("as assumed", "caught")


@dataclass(frozen=True)
class Report:
    """Everything that the audit found."""

    quick: bool
    backbone: str
    runs: list[Run]
    draws: list[Draws]
    attacks: list[Attack]
    inversion: Inversion
    seconds: float

    @property
    def failures(self) -> list[str]:
        """What is not as it should be."""
        runs = [f"{one.plan}, {_name(one)}: {one.verdict}" for one in self.runs if not one.ok]
        draws = [f"{one.name}: {one.verdict}" for one in self.draws if not one.ok]
        read, noised = self.inversion.without_noise.mean(), np.abs(self.inversion.with_noise).mean()
        inverted = []
        if read < 0.99:
            inverted.append(f"the inversion without noise reaches a correlation of {read:.2f} only")
        if noised > 0.5:
            inverted.append(f"the inversion under the plan's noise reaches a correlation of {noised:.2f}")
        return runs + draws + inverted

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "schema": 1,
            "version": __version__,
            "command": "trend-sim audit",
            "quick": self.quick,
            "backbone": self.backbone,
            "ok": not self.failures,
            "failures": self.failures,
            "runs": [_run_json(one) for one in self.runs],
            "draws": [
                {"name": one.name, "honest": one.honest, "p_value": one.p_value, "verdict": one.verdict}
                for one in self.draws
            ],
            "membership": [_attack_json(one) for one in self.attacks],
            "inversion": _inversion_json(self.inversion),
            "seconds": round(self.seconds, 1),
        }


def audit(
    backbone: str = "trend-small",
    *,
    quick: bool = False,
    picture: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Run everything.

    Args:
        backbone: Name or folder; the inversion needs one of ours.
        quick: Fewer plans, one small federation instead of five; about a minute and a half on one core.
        picture: Where to draw the inversion (PNG).
        progress: Told what is attacked next.
    """
    started = time.perf_counter()
    engine = Engine(backbone, device="cpu")
    runs = []
    for plan, mutation, target in _runs(quick):
        progress(f"{plan}: {mutation.name if mutation else 'honest'}")
        runs.append(audit_one(engine, target, plan=plan, mutation=mutation))
    progress("the sampler's draws")
    draws = audit_draws(engine)
    attacks = attack_members(
        engine, federations=1 if quick else 5, on_federation=lambda name: progress(f"membership: {name}")
    )
    progress("reading sales out of a gradient")
    inversion = invert(engine, windows=10 if quick else 20)
    if picture is not None:
        draw_inversion(inversion, picture)
    return Report(quick, backbone, runs, draws, attacks, inversion, time.perf_counter() - started)


def audit_one(engine: Engine, target: Target, *, plan: str, mutation: Mutation | None = None) -> Run:
    """Audit one client, broken or not."""
    started = time.perf_counter()
    if mutation is not None:
        target = replace(target, **mutation.needs)
    with (
        tempfile.TemporaryDirectory(prefix="trend-audit-") as home,
        mutation.inject() if mutation else nullcontext(),
    ):
        evidence = audit_client(target, engine, Path(home))
    return Run(plan, mutation, target, evidence, time.perf_counter() - started)


def audit_draws(engine: Engine, target: Target | None = None) -> list[Draws]:
    """See who is drawn, by the product's own sampler and by a shuffle; the noise is removed so that it shows."""
    target = target or Target(series=1, q=0.25, windows_per_series=1)
    found = []
    for name, honest, inject in (
        ("Poisson sampling", True, nullcontext),
        ("shuffled batches of a fixed size", False, shuffled_batches),
    ):
        with tempfile.TemporaryDirectory(prefix="trend-audit-") as home, noise_times(0.0), inject():
            evidence = audit_client(target, engine, Path(home))
        found.append(Draws(name, honest, draw_p_value(evidence.drawn(), target.q)))
    return found


def _runs(quick: bool) -> Iterator[tuple[str, Mutation | None, Target]]:
    """Plan in words, what to break, target.

    One window a series, since a canary's windows are all alike; 20 rounds are also played with the default four, and
    the mistake that needs four has them (:attr:`Mutation.needs`).
    """
    usual = Target(windows_per_series=1)
    default = "20 rounds"
    yield default, None, usual
    if not quick:
        yield "20 rounds, four windows", None, replace(usual, windows_per_series=4)
        for epsilon in (1.0, 2.0, 8.0):
            yield default, None, replace(usual, epsilon=epsilon, seed=round(epsilon))
    yield "4 × 5 local steps", None, replace(usual, rounds=4, steps=5)
    sampled = "20 rounds, q = ¼"
    yield sampled, None, replace(usual, q=0.25)
    for mutation in MUTATIONS:
        yield default, mutation, usual
    if not quick:
        # With 1,800 canaries one run in some hundreds would miss a quarter of the noise.
        lower = replace(usual, q=0.25, epsilon=2.0, canaries=3600)
        yield sampled, None, lower
        for mutation in MUTATIONS:
            if mutation.name in _SEEN_SAMPLED:
                yield sampled, mutation, lower


def _name(run: Run) -> str:
    return run.mutation.name if run.mutation else "honest"


def _run_json(run: Run) -> dict[str, Any]:
    audit, target = run.evidence.audit, run.target
    estimate = audit.estimate
    return {
        "plan": run.plan,
        "mutation": run.mutation.name if run.mutation else None,
        "claimed": round(run.evidence.claimed, 4),
        "lower_bound": round(audit.lower_bound, 4),
        # JSON has no infinity; "no noise" may well look like one.
        "estimate": None if estimate is None or not np.isfinite(estimate) else round(estimate, 4),
        "auc": round(audit.auc, 4),
        "canaries": audit.canaries,
        "guesses": audit.guesses,
        "right": audit.right,
        "confidence": audit.confidence,
        "delta": target.delta,
        "rounds": target.rounds,
        "steps": target.steps,
        "q": target.q,
        "windows_per_series": target.windows_per_series,
        "verdict": run.verdict,
        "seconds": round(run.seconds, 2),
    }


def _attack_json(attack: Attack) -> dict[str, Any]:
    found = attack.found
    limits = attack.limits
    return {
        "arm": attack.arm.name,
        "epsilon": attack.arm.epsilon,
        "auc": round(found.auc, 4),
        "auc_interval": [round(value, 4) for value in found.auc_interval],
        "tpr": round(found.tpr, 4),
        "fpr": round(found.fpr, 4),
        "members": found.members,
        "others": found.others,
        "limit_auc": None if limits is None else round(limits[0], 4),
        "limit_tpr": None if limits is None else round(limits[1], 4),
    }


def _inversion_json(found: Inversion) -> dict[str, Any]:
    return {
        "epsilon": found.epsilon,
        "sigma": found.sigma,
        "windows": found.windows,
        "correlation_without_noise": round(float(found.without_noise.mean()), 6),
        "correlation_with_noise": round(float(np.abs(found.with_noise).mean()), 4),
        "correlation_averaged": round(float(np.abs(found.averaged).mean()), 4),
        "ladder": {f"{noise:g}": round(value, 4) for noise, value in found.ladder.items()},
    }
