"""The plan that is made from the settings, with a tiny backbone loaded by the real code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trend_common.errors import UsageError
from trend_common.privacy.plan import plan_epsilon
from trend_common.tensors import tensors_sha256
from trend_server.app import check_same_plan
from trend_server.plans import make_plan
from trend_server.settings import ServerSettings


def test_the_plan_says_what_was_set_and_keeps_its_promise(tiny_backbone: Path) -> None:
    settings = ServerSettings(backbone=str(tiny_backbone), rounds=5, epsilon=2.0, horizon=14)
    made = make_plan(settings)
    plan = made.plan
    assert (plan.rounds, plan.horizon, plan.wire, plan.update) == (5, 14, "int8", "gradient")
    assert plan.privacy is not None
    assert set(plan.privacy.buckets) == {"S", "M", "L"}
    for bucket in plan.privacy.buckets:
        assert plan_epsilon(plan, bucket) <= 2.0 + 1e-9
    assert tensors_sha256(made.frozen) == plan.adapter.frozen_sha256
    assert all(np.all(value == 0) for value in made.initial.values()), "B starts at zero: the model is the backbone"
    check_same_plan(plan, settings)


def test_the_share_of_launches_is_agreed_and_cannot_change(tiny_backbone: Path) -> None:
    settings = ServerSettings(backbone=str(tiny_backbone), rounds=5, launch_share=0.25)
    plan = make_plan(settings).plan
    assert plan.launch_share == 0.25
    check_same_plan(plan, settings)
    with pytest.raises(UsageError, match="launch_share"):
        check_same_plan(plan, settings.model_copy(update={"launch_share": 0.5}))


def test_a_rehearsal_has_no_privacy(tiny_backbone: Path) -> None:
    settings = ServerSettings(
        backbone=str(tiny_backbone), private=False, wire="float32", update="weights", steps=5, train="AB"
    )
    plan = make_plan(settings).plan
    assert plan.privacy is None
    assert (plan.local_learning_rate, plan.steps) == (1e-3, 5)
    assert plan.adapter.frozen == ()


def test_a_horizon_beyond_the_backbone_is_said(tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import trend_common.backbones

    real = trend_common.backbones.load_backbone

    def short_sighted(name: str) -> object:
        backbone = real(name)
        backbone.max_horizon = 10
        return backbone

    monkeypatch.setattr(trend_common.backbones, "load_backbone", short_sighted)
    with pytest.raises(UsageError, match="at most 10 steps"):
        make_plan(ServerSettings(backbone=str(tiny_backbone), horizon=20))


def test_named_layers_alone_travel_and_a_message_is_smaller(tiny_backbone: Path) -> None:
    every = make_plan(ServerSettings(backbone=str(tiny_backbone), rounds=5)).plan.adapter
    heads = make_plan(ServerSettings(backbone=str(tiny_backbone), rounds=5, layers=("head1", "head2"))).plan.adapter
    assert heads.parameters == sum(spec.size for spec in heads.tensors) < every.parameters
    assert heads.targets == every.targets
    assert {spec.name for spec in heads.tensors} < {spec.name for spec in every.tensors}
    assert {spec.name for spec in heads.frozen} == {spec.name for spec in every.frozen}
