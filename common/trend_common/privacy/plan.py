"""A federation's privacy plan: the operator calibrates it, and every client computes anew what it would cost.

One object, :class:`Mechanism`, is what sampler, clip, noise, denominator and accountant take their numbers from: the
ledger charges its run, the step is called with its arguments, and before data are touched both are compared.

>>> plan = make_privacy_plan(epsilon=8.0, delta=1e-5, clip=0.1, rounds=20, steps=1, buckets={"S": (1.0, 30)})
>>> plan.buckets["S"].noise_multiplier
2.685

The client never reads ``plan.epsilon``: :func:`plan_epsilon` derives ε from σ, q, rounds × steps and δ, the numbers
that its own noise and its own sampler use.

Whether the trained adapter can tell its signal from the noise is known beforehand. With q = 1, n clients of N units
and D trained parameters, the sum of n·N clipped gradients has norm at most n·N·C, the sum of the clients' noises has
norm about σ·C·√(n·D); over T steps the ratio is at most μ·√n·N/√D with μ = √T/σ:

>>> round(signal_to_noise(sigma=4.836, steps=20, units=30, clients=24, parameters=9_552), 2)
1.39
>>> round(signal_to_noise(sigma=4.836, steps=1, units=30, clients=24, parameters=9_552), 2)
0.31
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Self, TypedDict

from trend_common.errors import PolicyError
from trend_common.privacy.accounting import Run, compose, epsilon_of, noise_multiplier_for, upper_epsilon
from trend_common.protocol import BucketName, BucketPlan, FederationPlan, PrivacyPlan

__all__ = [
    "Caps",
    "Mechanism",
    "make_privacy_plan",
    "nearest_plan",
    "norm_bound",
    "plan_epsilon",
    "plan_run",
    "signal_note",
    "signal_to_noise",
]

_FEW_CLIENTS: Final = 30
"""A federation of more clients than this is not presumed when a client is told whether its data carry a plan."""
_MOST_SIGMA: Final = 1e6
_FILL: Final = 4.0
"""How many times its bucket's expected batch a client may truly have."""
_SLACK: Final = 1.5
_TAIL: Final = 6.0
"""Standard deviations by which the norm of the noise may exceed its mean; it has a deviation of about σC/√2."""


class StepArguments(TypedDict):
    """What a private step is called with, apart from the model and the data."""

    windows_per_series: int
    bucket: BucketPlan
    clip: float


@dataclass(frozen=True, slots=True)
class Mechanism:
    """What one client does in each round of a private plan, and what that costs.

    Attributes:
        bucket: q of the sampler, σ of the noise, and the public denominator.
        clip: C, for the clipping and for the scale of the noise.
        windows_per_series: k, windows of a unit whose mean loss is differentiated, before clipping.
        steps: Noised gradients in a round.
        rounds: Rounds.
    """

    bucket: BucketPlan
    clip: float
    windows_per_series: int
    steps: int
    rounds: int

    @classmethod
    def of(cls, plan: FederationPlan, bucket: BucketName) -> Self:
        """The mechanism of ``plan`` for a client of ``bucket``.

        Raises:
            PolicyError: The plan has no privacy, or no such bucket.
        """
        if plan.privacy is None:
            raise PolicyError(f'The plan of "{plan.federation}" has no differential privacy.', "")
        if bucket not in plan.privacy.buckets:
            raise PolicyError(
                f"The plan has no bucket {bucket}; it has {', '.join(sorted(plan.privacy.buckets))}.",
                "Set bucket in policy.toml to one of these, or ask the operator for a plan with yours.",
            )
        return cls(
            bucket=plan.privacy.buckets[bucket],
            clip=plan.privacy.clip,
            windows_per_series=plan.windows_per_series,
            steps=plan.steps,
            rounds=plan.rounds,
        )

    @property
    def run(self) -> Run:
        """The whole plan as the accountant sees it."""
        return self._run(self.rounds * self.steps)

    @property
    def round_run(self) -> Run:
        """One round as the accountant sees it."""
        return self._run(self.steps)

    def arguments(self) -> StepArguments:
        """For :func:`trend_common.privacy.step.private_gradient` and ``private_update``."""
        return {"windows_per_series": self.windows_per_series, "bucket": self.bucket, "clip": self.clip}

    def require(self, charged: Run) -> None:
        """See that the ledger has charged this very mechanism.

        Raises:
            PolicyError: It has charged another one; nothing may then be computed.
        """
        if charged != self.round_run:
            raise PolicyError(
                f"The ledger has charged {_words(charged)}, but the round would use {_words(self.round_run)}.",
                "Nothing was computed. Sampler, noise and accountant must be of one plan; this is a fault of the "
                "program, please report it.",
            )

    def _run(self, steps: int) -> Run:
        return Run(sigma=self.bucket.noise_multiplier, q=self.bucket.q, steps=steps)


def _words(run: Run) -> str:
    return f"{run.steps} steps of σ = {run.sigma:g} at q = {run.q:g}"


def make_privacy_plan(
    *,
    epsilon: float,
    delta: float,
    clip: float,
    rounds: int,
    steps: int,
    buckets: Mapping[BucketName, tuple[float, int]],
    unit: Literal["series", "product", "store"] = "series",
) -> PrivacyPlan:
    """Calibrate the noise of each bucket so that it costs at most ``epsilon`` over all rounds.

    Args:
        epsilon: The ε wanted for a whole federation.
        delta: δ.
        clip: C.
        rounds, steps: Number of rounds, and of noised gradients in each.
        buckets: Name → (q, expected_batch), public numbers.
        unit: What one privacy unit is.

    Returns:
        The plan; its ``epsilon`` is the largest that a bucket reaches, at most the one wanted.
    """
    calibrated = {
        name: BucketPlan(
            q=q,
            expected_batch=expected_batch,
            noise_multiplier=noise_multiplier_for(epsilon=epsilon, delta=delta, q=q, steps=rounds * steps),
        )
        for name, (q, expected_batch) in buckets.items()
    }
    reached = max(
        epsilon_of(sigma=bucket.noise_multiplier, q=bucket.q, steps=rounds * steps, delta=delta)
        for bucket in calibrated.values()
    )
    return PrivacyPlan(unit=unit, epsilon=reached, delta=delta, clip=clip, buckets=calibrated)


def plan_run(plan: FederationPlan, bucket: BucketName) -> Run:
    """All the steps of ``plan`` as the accountant sees them; without privacy a run of no noise.

    Raises:
        PolicyError: The plan has no such bucket.
    """
    if plan.privacy is None:
        return Run(sigma=0.0, q=1.0, steps=plan.rounds * plan.steps)
    return Mechanism.of(plan, bucket).run


def plan_epsilon(plan: FederationPlan, bucket: BucketName) -> float:
    """The ε of the whole plan for a client of ``bucket``, computed anew; infinity without privacy.

    Raises:
        PolicyError: The plan has no such bucket.
    """
    return compose([plan_run(plan, bucket)], plan.privacy.delta if plan.privacy else 1e-5)


def signal_to_noise(*, sigma: float, steps: int, units: float, clients: int, parameters: int) -> float:
    """The largest possible norm of the true sum over the typical norm of its noise, for q = 1.

    Args:
        sigma: σ of each client.
        steps: T noised gradients; 1 for the ratio in one round. The bound over a run is reached only if every
            gradient of every unit has norm ≥ C and all point the same way.
        units: N, units of one client; q·N where only a share of them takes part in a step.
        clients: n.
        parameters: D, trained parameters.

    Returns:
        √T/σ · √n · N / √D; infinity without noise.
    """
    if sigma == 0:
        return math.inf
    return math.sqrt(steps * clients / parameters) * units / sigma


def norm_bound(plan: FederationPlan, bucket: BucketName) -> float:
    """The largest norm that an honest client's delta can have; infinity where nothing bounds it.

    A step's gradient is the sum of N clipped gradients, at most N·C, plus noise of norm about σ·C·√D, divided by the
    bucket's expected batch. The bound allows for both, so under privacy it cannot catch a client that stays within
    the noise: that is what the robust aggregations are for.
    """
    if plan.privacy is None:
        return math.inf
    of = plan.privacy.buckets[bucket]
    parameters = plan.adapter.parameters
    noise = of.noise_multiplier * plan.privacy.clip * (math.sqrt(parameters) + _TAIL) / of.expected_batch
    gradient = _SLACK * (_FILL * plan.privacy.clip + noise)
    if plan.update == "gradient":
        return gradient
    # Local steps: with plain descent a step moves by lr times the gradient, with Adam by up to lr in each element.
    return _SLACK * plan.steps * plan.local_learning_rate * max(gradient, math.sqrt(parameters))


def signal_note(plan: FederationPlan, bucket: BucketName, units: int) -> str:
    """Whether the data can carry the plan, for the client's own screen: the answer to the server is given already.

    Args:
        plan: Accepted, with privacy.
        bucket: Declared.
        units: N. Private, and so is what this returns.

    Returns:
        One sentence, or "" where a federation of a few such clients is heard above the noise.
    """
    mechanism = Mechanism.of(plan, bucket)
    alone = signal_to_noise(
        sigma=mechanism.bucket.noise_multiplier,
        steps=mechanism.run.steps,
        units=mechanism.bucket.q * units,
        clients=1,
        parameters=plan.adapter.parameters,
    )
    clients = math.inf if alone == 0 else math.ceil(alone**-2)
    if clients <= _FEW_CLIENTS:
        return ""
    needed = math.ceil(units / alone / math.sqrt(_FEW_CLIENTS)) if alone else 0
    return (
        f"With {units} units the signal of this client is at most {alone:.2g} of its noise over the whole plan; it "
        f"takes {clients} clients like this one, or {needed} units in each of {_FEW_CLIENTS}, to be heard above it."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """What a policy allows of a plan's numbers; see ``policy.toml`` for each."""

    epsilon: float
    epsilon_total: float
    delta: float
    steps: int
    sigma: float
    clip: float


def nearest_plan(plan: FederationPlan, bucket: BucketName, caps: Caps, spent: Sequence[Run]) -> str:
    """What would have to change for the caps to allow the plan, with everything else as it is.

    Rounds are cut to the allowed steps, δ and C are lowered, σ is raised; never the other way.

    Args:
        plan: With privacy, and with this bucket.
        bucket: Declared.
        caps: Of the policy.
        spent: What counts already.

    Returns:
        Such as "σ of 4.84 (now 2): that costs ε = 4"; or that nothing fits. For q < 1 σ is up to 15 % larger than
        the least that would do.
    """
    assert plan.privacy is not None
    mechanism = Mechanism.of(plan, bucket)
    q, sigma, privacy = mechanism.bucket.q, mechanism.bucket.noise_multiplier, plan.privacy
    rounds = min(plan.rounds, caps.steps // plan.steps)
    if rounds == 0:
        return f"at most {caps.steps} steps in all (now {plan.steps} in one round)"
    delta = min(privacy.delta, caps.delta)

    def fits(sigma: float) -> bool:
        run = Run(sigma=sigma, q=q, steps=rounds * plan.steps)
        total = [*(one for one in spent if one.sigma > 0), run]
        return upper_epsilon([run], delta) <= caps.epsilon and upper_epsilon(total, caps.delta) <= caps.epsilon_total

    wanted = _least_sigma(fits, max(sigma, caps.sigma))
    if wanted is None:
        return "none: what is spent and promised already leaves no room, whatever the noise"
    changes = [
        ("at most {} rounds (now {})", rounds, plan.rounds),
        ("σ of {} (now {})", wanted, sigma),
        ("δ at most {} (now {})", delta, privacy.delta),
        ("a clipping norm of at most {} (now {})", min(privacy.clip, caps.clip), privacy.clip),
    ]
    reached = upper_epsilon([Run(sigma=wanted, q=q, steps=rounds * plan.steps)], delta)
    changed = [text.format(f"{new:g}", f"{now:g}") for text, new, now in changes if new != now]
    return ", ".join(changed) + (f": that costs at most ε = {reached:.3g}" if changed else "")


def _least_sigma(fits: Callable[[float], bool], start: float) -> float | None:
    """A σ ≥ ``start`` that fits, within 1 % of the least such and rounded up to three digits; None if none does."""
    if fits(start):
        return start
    good = max(start, 1e-3)
    while not fits(good):
        good *= 4
        if good > _MOST_SIGMA:
            return None
    bad = max(start, good / 4)
    while good / bad > 1.01:
        middle = math.sqrt(good * bad)
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    digits = 2 - math.floor(math.log10(good))
    return round(math.ceil(good * 10.0**digits) / 10.0**digits, max(digits, 0))
