"""What a client allows: every cap bites, all at once, and no answer depends on the data."""

from __future__ import annotations

import inspect
import math
import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trend_common.errors import PolicyError
from trend_common.privacy.accounting import Run, epsilon_of
from trend_common.privacy.policy import AdapterPolicy, Policy
from trend_common.protocol import BucketPlan, FederationPlan
from trend_common.tensors import TensorSpec

SHIPPED = "a" * 64
MakePlan = Callable[..., FederationPlan]


def refusal(policy: Policy, plan: FederationPlan, spent: list[Run] | None = None) -> str:
    with pytest.raises(PolicyError) as caught:
        policy.check_plan(plan, backbone_sha256=SHIPPED, spent=spent or [])
    assert caught.value.exit_code == 4
    return caught.value.message


# --- the file ---


def test_the_first_use_writes_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "home" / "policy.toml"
    assert Policy.load(path) == Policy()
    text = path.read_text("utf-8")
    assert set(tomllib.loads(text)) == set(Policy.model_fields)
    assert set(tomllib.loads(text)["adapter"]) == set(AdapterPolicy.model_fields)
    assert text.count("\n# ") > len(Policy.model_fields), "every key is explained"
    if os.name != "nt":
        assert path.stat().st_mode & 0o077 == 0
    assert Policy.load(path) == Policy()


def test_defaults_are_the_documented_ones() -> None:
    policy = Policy()
    assert (policy.epsilon_per_federation, policy.epsilon_total, policy.delta_max) == (8.0, 8.0, 1e-5)
    assert (policy.require_privacy, policy.bucket, policy.min_units) == (True, "S", 20)
    assert policy.backbones == ["shipped"]


def test_default_targets_are_those_of_the_shipped_backbone() -> None:
    backbone = pytest.importorskip("trend_common.backbones.trend").TrendBackbone
    assert set(AdapterPolicy().targets) == set(backbone.lora_targets)


def test_a_persons_values_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('epsilon_total = 3\nbucket = "M"\nunits = ["product"]\n[adapter]\nmax_rank = 4\n')
    policy = Policy.load(path)
    assert (policy.epsilon_total, policy.bucket, policy.units, policy.adapter.max_rank) == (3.0, "M", ["product"], 4)
    assert policy.delta_max == 1e-5
    assert path.read_text().startswith("epsilon_total = 3\n"), "a person's file is never rewritten"


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("epsilon_totl = 3", ["there is no key epsilon_totl; did you mean epsilon_total?"]),
        ("[adapter]\nmax_rnk = 3", ["there is no key adapter.max_rnk; did you mean adapter.max_rank?"]),
        ("qqqq = 1", ["there is no key qqqq"]),
        ('epsilon_total = "8"', ["epsilon_total is '8': input should be a valid number"]),
        ("epsilon_total = inf", ["epsilon_total is inf"]),
        ("epsilon_total = -1\ndelta_max = 0.5", ["epsilon_total is -1", "delta_max is 0.5"]),
        ('bucket = "XL"', ["bucket is 'XL'"]),
        ('units = ["customer"]', ["units.0 is 'customer'"]),
        ("require_privacy = 0", ["require_privacy is 0"]),
        ("epsilon_total 8", ["is not a TOML file"]),
        ("backbones = []", ["backbones is []"]),
    ],
)
def test_every_mistake_is_named(text: str, messages: list[str], tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(PolicyError) as caught:
        Policy.load(path)
    for message in [str(path), *messages]:
        assert message in caught.value.message
    assert path.read_text() == text


# --- a plan ---


def test_an_allowed_plan_is_costed_anew(make_plan: MakePlan) -> None:
    verdict = Policy().check_plan(make_plan(), backbone_sha256=SHIPPED, spent=[Run(sigma=10.0, q=1.0, steps=20)])
    assert verdict.bucket == "S"
    assert verdict.epsilon == epsilon_of(sigma=4.84, q=1.0, steps=20, delta=1e-5)
    assert verdict.epsilon < verdict.epsilon_total < 8


CASES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"sigma": 2.0, "privacy": {"epsilon": 12.0}}, "epsilon_per_federation is 8"),
    ({"epsilon_per_federation": 3.9}, {}, "it costs ε = 4 at δ = 1e-05; epsilon_per_federation is 3.9"),
    ({"epsilon_total": 3.9}, {}, "epsilon_total is 3.9"),
    ({}, {"privacy": {"epsilon": 1.0}}, "it claims ε = 1, but its noise gives ε = 4"),
    ({}, {"privacy": {"delta": 1e-4}}, "δ is 0.0001; delta_max is 1e-05"),
    ({}, {"sigma": 0.4, "q": 0.001, "rounds": 1, "privacy": {"epsilon": 9.0}}, "noise_multiplier_min is 0.5"),
    ({}, {"sigma": 0.0, "privacy": {"epsilon": 1e4}}, "it costs ε = inf"),
    ({}, {"privacy": {"clip": 11.0}}, "clip_max is 10"),
    ({"units": ["product"]}, {}, "the unit is one series; units has product"),
    ({}, {"rounds": 1001, "sigma": 1e3}, "1001 rounds of 1 steps are 1001 steps; steps_max is 1000"),
    ({"bucket": "L"}, {}, "the plan has no bucket L, which you declared; it has S"),
    ({}, {"privacy_plan": None}, "no differential privacy; require_privacy is true"),
    ({}, {"backbone_sha256": "c" * 64}, "with hash cccccccccccc… is not in backbones"),
    ({"backbones": ["c" * 64]}, {}, "is not in backbones"),
    ({"adapter": {"max_parameters": 15}}, {}, "trains 16 numbers; adapter.max_parameters is 15"),
    ({"adapter": {"max_rank": 1}}, {}, "rank 2; adapter.max_rank is 1"),
    ({"adapter": {"max_bytes": 63}}, {}, "64 bytes; adapter.max_bytes is 63"),
    ({"adapter": {"targets": ["fc1"]}}, {}, "sits on 'q_proj'; adapter.targets does not name them"),
]


@pytest.mark.parametrize(("policy", "plan", "message"), CASES)
def test_each_cap_bites(policy: dict[str, Any], plan: dict[str, Any], message: str, make_plan: MakePlan) -> None:
    assert message in refusal(Policy.model_validate(policy), make_plan(**plan))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("core.head.weight", (8, 2), "is not a LoRA factor B of its targets"),
        ("core.q_proj.lora_A.weight", (2, 8), "is not a LoRA factor B of its targets"),
        ("core.fc1.lora_B.weight", (8, 2), "is not a LoRA factor B of its targets"),
        ("core.q_proj.lora_B.weight.extra", (8, 2), "is not a LoRA factor"),
        ("core.q_proj.lora_B.weight", (8, 64), "does not have rank 2"),
        ("core.q_proj.lora_B.weight", (16,), "does not have rank 2"),
    ],
)
def test_tensors_must_be_what_the_adapter_says(
    name: str, shape: tuple[int, ...], message: str, make_plan: MakePlan
) -> None:
    plan = make_plan(adapter={"tensors": (TensorSpec(name=name, shape=shape),)})
    assert message in refusal(Policy(), plan)


def test_all_violations_come_at_once(make_plan: MakePlan) -> None:
    plan = make_plan(
        sigma=0.1, rounds=2000, backbone_sha256="c" * 64, privacy={"clip": 99.0, "delta": 1e-3}, adapter={"rank": 99}
    )
    message = refusal(Policy(), plan)
    named = ("backbones", "max_rank", "steps_max", "epsilon_per_federation", "delta_max", "noise_mult", "clip_max")
    for cap in named:
        assert cap in message
    assert message.count("\n  - ") >= len(named)


def test_an_earlier_federation_counts(make_plan: MakePlan) -> None:
    spent = [Run(sigma=3.0, q=1.0, steps=20)]
    assert "with what is spent and promised already" in refusal(Policy(), make_plan(), spent)


def test_a_rehearsal_needs_a_persons_word(make_plan: MakePlan) -> None:
    policy = Policy(require_privacy=False)
    verdict = policy.check_plan(make_plan(privacy_plan=None), backbone_sha256=SHIPPED, spent=[])
    assert verdict.epsilon == math.inf


def test_other_backbones_by_hash(make_plan: MakePlan) -> None:
    policy = Policy(backbones=["shipped", "C" * 64])
    for digest in (SHIPPED, "c" * 64):
        policy.check_plan(make_plan(backbone_sha256=digest), backbone_sha256=SHIPPED, spent=[])


@pytest.mark.timeout(20)
def test_an_absurd_plan_is_refused_at_once(make_plan: MakePlan) -> None:
    plan = make_plan(sigma=1e-5, q=0.5, rounds=100_000, steps=100_000, update="weights", privacy={"epsilon": 1.0})
    assert "steps_max" in refusal(Policy(), plan)


def test_names_from_the_server_cannot_write_on_the_screen(make_plan: MakePlan) -> None:
    plan = make_plan(backbone="\x1b[2Jtrend", backbone_sha256="c" * 64)
    assert "\x1b" not in refusal(Policy(), plan)


# --- the data ---


def test_the_answer_to_a_plan_cannot_depend_on_the_data() -> None:
    """Accepting by the number of series would tell a server that knows all but one whether that one is there."""
    parameters = set(inspect.signature(Policy.check_plan).parameters)
    assert parameters == {"self", "plan", "backbone_sha256", "spent"}


def test_too_few_units_is_for_a_person_to_decide() -> None:
    Policy().check_units(20)
    with pytest.raises(PolicyError, match=r"There are 19 units.*at least 20"):
        Policy().check_units(19)
    Policy(min_units=5).check_units(5)


def test_so_many_units_that_delta_is_no_promise() -> None:
    """With δ = 1/N a mechanism that publishes one unit as it is would pass."""
    Policy().check_units(99_999)
    with pytest.raises(PolicyError, match="there are 150000 units") as caught:
        Policy().check_units(150_000)
    assert "delta_max = 1e-07" in caught.value.hint or "delta_max = 1e-06" in caught.value.hint
    Policy(delta_max=1e-7).check_units(150_000)


def test_a_refusal_names_the_nearest_plan_that_would_pass(make_plan: MakePlan) -> None:
    plan = make_plan(sigma=2.0, privacy={"epsilon": 12.0})
    with pytest.raises(PolicyError) as caught:
        Policy().check_plan(plan, backbone_sha256=SHIPPED, spent=[])
    assert "The nearest plan that these caps would allow: σ of 2.7 (now 2): that costs" in caught.value.hint
    Policy().check_plan(make_plan(sigma=2.7, privacy={"epsilon": 8.0}), backbone_sha256=SHIPPED, spent=[])
    with pytest.raises(PolicyError) as full:
        Policy().check_plan(make_plan(), backbone_sha256=SHIPPED, spent=[Run(sigma=1.0, q=1.0, steps=20)])
    assert "leaves no room, whatever the noise" in full.value.hint


def test_buckets_are_not_mixed_up(make_plan: MakePlan) -> None:
    buckets = {
        "S": BucketPlan(q=1, noise_multiplier=0.6, expected_batch=30),
        "L": BucketPlan(q=1, noise_multiplier=4.84, expected_batch=300),
    }
    plan = make_plan(privacy={"buckets": buckets})
    assert Policy(bucket="L").check_plan(plan, backbone_sha256=SHIPPED, spent=[]).bucket == "L"
    assert "epsilon_per_federation" in refusal(Policy(), plan)
