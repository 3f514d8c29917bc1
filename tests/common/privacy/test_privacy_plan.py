"""A plan's noise fits its ε, and a client does not believe the ε that is written in it."""

from __future__ import annotations

import math

import pytest

from trend_common.errors import PolicyError
from trend_common.privacy.accounting import epsilon_of
from trend_common.privacy.plan import make_privacy_plan, plan_epsilon, plan_run, signal_to_noise
from trend_common.protocol import AdapterPlan, FederationPlan, PrivacyPlan
from trend_common.tensors import TensorSpec


def federation(privacy: PrivacyPlan | None, rounds: int = 20, steps: int = 1) -> FederationPlan:
    return FederationPlan(
        federation="spring",
        backbone="trend-small",
        backbone_sha256="a" * 64,
        adapter=AdapterPlan(
            rank=2,
            alpha=2.0,
            targets=("q_proj",),
            tensors=(TensorSpec(name="q_proj.lora_B.weight", shape=(8, 2)),),
            frozen_sha256="b" * 64,
        ),
        freq="D",
        horizon=28,
        context=140,
        rounds=rounds,
        steps=steps,
        windows_per_series=4,
        update="gradient" if steps == 1 else "weights",
        local_learning_rate=0.0,
        proximal_mu=0.0,
        privacy=privacy,
        wire="int8" if privacy else "float32",
    )


def test_every_bucket_is_calibrated_to_the_wanted_epsilon() -> None:
    plan = make_privacy_plan(
        epsilon=4.0, delta=1e-5, clip=0.1, rounds=20, steps=1, buckets={"S": (1.0, 30), "M": (0.25, 50)}
    )
    for bucket in plan.buckets.values():
        reached = epsilon_of(sigma=bucket.noise_multiplier, q=bucket.q, steps=20, delta=1e-5)
        assert 3.98 < reached <= plan.epsilon <= 4.0
    assert plan.buckets["M"].noise_multiplier < plan.buckets["S"].noise_multiplier
    assert plan.buckets["M"].expected_batch == 50


def test_steps_multiply_rounds() -> None:
    few = make_privacy_plan(epsilon=4.0, delta=1e-5, clip=0.1, rounds=20, steps=1, buckets={"S": (1.0, 30)})
    many = make_privacy_plan(epsilon=4.0, delta=1e-5, clip=0.1, rounds=20, steps=4, buckets={"S": (1.0, 30)})
    assert many.buckets["S"].noise_multiplier == pytest.approx(2 * few.buckets["S"].noise_multiplier, rel=1e-3)
    assert plan_epsilon(federation(many, steps=4), "S") <= 4.0
    assert plan_epsilon(federation(few, steps=4), "S") > 4.0


def test_a_plan_that_lies_about_its_epsilon_is_seen_through() -> None:
    honest = make_privacy_plan(epsilon=8.0, delta=1e-5, clip=0.1, rounds=20, steps=1, buckets={"S": (1.0, 30)})
    lying = honest.model_copy(update={"epsilon": 1.0})
    assert plan_epsilon(federation(lying), "S") == pytest.approx(8.0, abs=0.02)


def test_without_privacy_epsilon_is_infinite() -> None:
    assert plan_epsilon(federation(None), "S") == math.inf


def test_a_bucket_that_the_plan_lacks_is_named() -> None:
    plan = make_privacy_plan(epsilon=8.0, delta=1e-5, clip=0.1, rounds=20, steps=1, buckets={"S": (1.0, 30)})
    with pytest.raises(PolicyError, match="no bucket L; it has S"):
        plan_run(federation(plan), "L")


def test_signal_to_noise_is_what_a_simulation_gives() -> None:
    """The bound is reached when every clipped gradient points the same way."""
    import numpy as np

    rng = np.random.default_rng(0)
    sigma, units, clients, parameters, clip = 3.0, 40, 9, 2000, 0.1
    direction = np.zeros(parameters)
    direction[0] = clip
    signal = np.linalg.norm(direction * units * clients)
    noise = np.linalg.norm(rng.normal(0, sigma * clip, (clients, parameters)).sum(axis=0))
    ratio = signal_to_noise(sigma=sigma, steps=1, units=units, clients=clients, parameters=parameters)
    assert ratio == pytest.approx(signal / noise, rel=0.1)
    assert signal_to_noise(sigma=0.0, steps=1, units=1, clients=1, parameters=1) == math.inf
