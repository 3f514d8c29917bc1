"""A plan's noise fits its ε, and a client does not believe the ε that is written in it."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trend_common.errors import PolicyError
from trend_common.privacy.accounting import Run, compose, epsilon_of
from trend_common.privacy.plan import (
    Caps,
    Mechanism,
    make_privacy_plan,
    nearest_plan,
    plan_epsilon,
    plan_run,
    signal_note,
    signal_to_noise,
)
from trend_common.protocol import AdapterPlan, BucketPlan, FederationPlan, PrivacyPlan
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


def test_the_mechanism_is_one_object_for_all() -> None:
    plan = federation(
        make_privacy_plan(epsilon=4.0, delta=1e-5, clip=0.3, rounds=5, steps=2, buckets={"M": (0.5, 50)}),
        rounds=5,
        steps=2,
    )
    mechanism = Mechanism.of(plan, "M")
    assert plan.privacy is not None
    bucket = plan.privacy.buckets["M"]
    assert mechanism.arguments() == {"windows_per_series": 4, "bucket": bucket, "clip": 0.3}
    assert mechanism.run == plan_run(plan, "M") == Run(sigma=bucket.noise_multiplier, q=0.5, steps=10)
    assert mechanism.round_run == Run(sigma=bucket.noise_multiplier, q=0.5, steps=2)
    mechanism.require(mechanism.round_run)
    for part, value in (("sigma", 0.1), ("q", 1.0), ("steps", 1)):
        with pytest.raises(PolicyError, match="must be of one plan"):
            mechanism.require(dataclasses.replace(mechanism.round_run, **{part: value}))  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="no differential privacy"):
        Mechanism.of(federation(None), "S")


# --- the nearest plan that would pass ---

CAPS = Caps(epsilon=8.0, epsilon_total=8.0, delta=1e-5, steps=100, sigma=0.5, clip=1.0)


def changed(plan: FederationPlan, text: str) -> FederationPlan:
    """The plan with what ``text`` proposes."""
    assert plan.privacy is not None
    found = {name: float(value) for name, value in re.findall(r"(σ of|δ at most|norm of at most) ([\d.e-]+)", text)}
    rounds = re.search(r"at most (\d+) rounds", text)
    bucket = plan.privacy.buckets["S"]
    privacy = plan.privacy.model_copy(
        update={
            "delta": found.get("δ at most", plan.privacy.delta),
            "clip": found.get("norm of at most", plan.privacy.clip),
            "buckets": {
                "S": bucket.model_copy(update={"noise_multiplier": found.get("σ of", bucket.noise_multiplier)})
            },
        }
    )
    return plan.model_copy(update={"privacy": privacy, "rounds": int(rounds[1]) if rounds else plan.rounds})


@given(
    sigma=st.floats(0.3, 6.0),
    rounds=st.integers(1, 300),
    delta=st.sampled_from([1e-6, 1e-5, 1e-3]),
    clip=st.floats(0.1, 5.0),
    spent=st.floats(2.4, 30.0),
)
@settings(max_examples=40, deadline=None)
def test_the_nearest_plan_passes_and_none_much_nearer_does(
    sigma: float, rounds: int, delta: float, clip: float, spent: float
) -> None:
    before = [Run(sigma=spent, q=1.0, steps=20)]
    privacy = PrivacyPlan(
        epsilon=1.0,
        delta=delta,
        clip=clip,
        buckets={"S": BucketPlan(q=1.0, noise_multiplier=sigma, expected_batch=30)},
    )
    plan = federation(privacy, rounds=rounds)
    text = nearest_plan(plan, "S", CAPS, before)
    if text.startswith("none"):
        assert compose([*before, Run(sigma=1e5, q=1.0, steps=min(rounds, 100))], CAPS.delta) > CAPS.epsilon_total
        return
    near = changed(plan, text)
    assert near.privacy is not None
    assert near.rounds <= CAPS.steps
    assert near.privacy.delta <= CAPS.delta
    assert near.privacy.clip <= CAPS.clip
    mechanism = Mechanism.of(near, "S")
    assert mechanism.run.sigma >= CAPS.sigma

    def allowed(run: Run) -> bool:
        alone = compose([run], near.privacy.delta if near.privacy else 1.0)
        return alone <= CAPS.epsilon and compose([*before, run], CAPS.delta) <= CAPS.epsilon_total

    assert allowed(mechanism.run)
    if mechanism.run.sigma > max(sigma, CAPS.sigma):
        assert not allowed(dataclasses.replace(mechanism.run, sigma=0.97 * mechanism.run.sigma))


def test_a_plan_that_is_allowed_needs_no_nearest() -> None:
    plan = make_privacy_plan(epsilon=4.0, delta=1e-5, clip=0.1, rounds=20, steps=1, buckets={"S": (1.0, 30)})
    assert nearest_plan(federation(plan), "S", CAPS, []) == ""
    text = nearest_plan(federation(plan, steps=200), "S", CAPS, [])
    assert text == "at most 100 steps in all (now 200 in one round)"


def test_data_that_cannot_carry_a_plan_are_told_so_with_what_could() -> None:
    plan = federation(
        make_privacy_plan(epsilon=4.0, delta=1e-5, clip=0.1, rounds=20, steps=1, buckets={"S": (1.0, 30)})
    )
    big = plan.model_copy(
        update={
            "adapter": plan.adapter.model_copy(
                update={"tensors": (TensorSpec(name="q_proj.lora_B.weight", shape=(5000, 2)),)}
            )
        }
    )
    note = signal_note(big, "S", 5)
    needed = int(re.search(r"or (\d+) units in each of 30", note)[1])  # type: ignore[index]
    assert needed > 5
    assert signal_note(big, "S", needed) == ""
    assert signal_note(big, "S", needed - 1) != ""
    assert "clients like this one" in note


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
