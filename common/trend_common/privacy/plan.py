"""A federation's privacy plan: the operator calibrates it, and every client computes anew what it would cost.

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
from collections.abc import Mapping
from typing import Final, Literal

from trend_common.errors import PolicyError
from trend_common.privacy.accounting import Run, compose, epsilon_of, noise_multiplier_for
from trend_common.protocol import BucketName, BucketPlan, FederationPlan, PrivacyPlan

__all__ = ["make_privacy_plan", "norm_bound", "plan_epsilon", "plan_run", "signal_to_noise"]

_FILL: Final = 4.0
"""How many times its bucket's expected batch a client may truly have."""
_SLACK: Final = 1.5
_TAIL: Final = 6.0
"""Standard deviations by which the norm of the noise may exceed its mean; it has a deviation of about σC/√2."""


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
    steps = plan.rounds * plan.steps
    if plan.privacy is None:
        return Run(sigma=0.0, q=1.0, steps=steps)
    if bucket not in plan.privacy.buckets:
        raise PolicyError(
            f"The plan has no bucket {bucket}; it has {', '.join(sorted(plan.privacy.buckets))}.",
            "Set bucket in policy.toml to one of these, or ask the operator for a plan with yours.",
        )
    chosen = plan.privacy.buckets[bucket]
    return Run(sigma=chosen.noise_multiplier, q=chosen.q, steps=steps)


def plan_epsilon(plan: FederationPlan, bucket: BucketName) -> float:
    """The ε of the whole plan for a client of ``bucket``, computed anew; infinity without privacy.

    Raises:
        PolicyError: The plan has no such bucket.
    """
    return compose([plan_run(plan, bucket)], plan.privacy.delta if plan.privacy else 1e-5)


def signal_to_noise(*, sigma: float, steps: int, units: int, clients: int, parameters: int) -> float:
    """The largest possible norm of the true sum over the typical norm of its noise, for q = 1.

    Args:
        sigma: σ of each client.
        steps: T noised gradients; 1 for the ratio in one round. The bound over a run is reached only if every
            gradient of every unit has norm ≥ C and all point the same way.
        units: N, units of one client.
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
