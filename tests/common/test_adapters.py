"""LoRA tensors: peft's own format, B alone, and the backbone as it was afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import Linear as PeftLinear
from transformers import AutoModel

from trend_common import adapters
from trend_common.backbones import backbone_sha256, load_backbone
from trend_common.backbones.base import Backbone
from trend_common.backbones.synthetic import random_batch
from trend_common.errors import PolicyError, UsageError
from trend_common.lora_layers import LoraLinear
from trend_common.tensors import tensors_sha256


@pytest.fixture
def backbone(tiny_backbone: Path) -> Backbone:
    return load_backbone(str(tiny_backbone))


def test_a_fresh_adapter_changes_nothing_and_announces_what_travels(backbone: Backbone) -> None:
    before = backbone_sha256(backbone)
    plan, trained, frozen = adapters.initial_adapter(
        backbone, rank=2, alpha=4, targets=backbone.lora_targets, train="B"
    )
    assert backbone_sha256(backbone) == before
    assert {spec.name for spec in plan.tensors} == set(trained)
    assert all("lora_B" in name for name in trained)
    assert all("lora_A" in name for name in frozen)
    assert plan.frozen_sha256 == tensors_sha256(frozen)
    assert all(not value.any() for value in trained.values())
    assert plan.parameters == sum(value.size for value in trained.values())


def test_only_b_gets_gradients_and_torchs_generator_is_left_alone(backbone: Backbone) -> None:
    state = torch.random.get_rng_state()
    adapters.attach(backbone, rank=2, alpha=4, targets=("q_proj", "fc1"), train="B")
    assert torch.equal(state, torch.random.get_rng_state())
    assert {name.split(".")[-2] for name in adapters.trained_parameters(backbone)} == {"lora_B"}
    adapters.set_trained(backbone, "AB")
    assert {name.split(".")[-2] for name in adapters.trained_parameters(backbone)} == {"lora_A", "lora_B"}


def test_export_and_load_are_inverse(backbone: Backbone) -> None:
    adapters.attach(backbone, rank=2, alpha=4, targets=backbone.lora_targets, train="B")
    rng = np.random.default_rng(0)
    wanted = {name: rng.normal(size=v.shape).astype(np.float32) for name, v in adapters.export(backbone).items()}
    adapters.load(backbone, wanted)
    for name, value in adapters.export(backbone).items():
        np.testing.assert_array_equal(value, wanted[name])


@pytest.mark.parametrize("change", ["name", "shape", "nan"])
def test_a_wrong_tensor_is_refused_and_nothing_is_loaded(backbone: Backbone, change: str) -> None:
    adapters.attach(backbone, rank=2, alpha=4, targets=("q_proj",), train="B")
    before = adapters.export(backbone)
    name = next(iter(before))
    wrong = {
        "name": {"base_model.model.evil": before[name]},
        "shape": {name: np.zeros((1, 1), np.float32)},
        "nan": {name: np.full_like(before[name], np.nan)},
    }[change]
    with pytest.raises(PolicyError):
        adapters.load(backbone, wrong)
    assert tensors_sha256(adapters.export(backbone)) == tensors_sha256(before)


def test_an_unknown_target_is_a_clear_error(backbone: Backbone) -> None:
    with pytest.raises(PolicyError, match="no linear layer named lm_head"):
        adapters.attach(backbone, rank=2, alpha=4, targets=("lm_head",), train="B")


def test_peft_itself_loads_what_is_saved(backbone: Backbone, tiny_backbone: Path, tmp_path: Path) -> None:
    adapters.attach(backbone, rank=2, alpha=4, targets=backbone.lora_targets, train="B")
    rng = np.random.default_rng(1)
    tensors = {n: 0.1 * rng.normal(size=v.shape).astype(np.float32) for n, v in adapters.export(backbone).items()}
    adapters.load(backbone, tensors)
    adapters.save(backbone, tmp_path / "adapter")
    adapters.save(backbone, tmp_path / "adapter")  # over an older one
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]

    core = PeftModel.from_pretrained(AutoModel.from_pretrained(tiny_backbone), str(tmp_path / "adapter"))
    core.eval()
    batch = random_batch(2, context=28, horizon=7, seed=2)
    fields = {name: getattr(batch, name) for name in batch.__dataclass_fields__}
    with torch.no_grad():
        theirs = core(**fields).quantiles
        ours = backbone(batch).quantiles
    torch.testing.assert_close(theirs, ours)


def test_detaching_gives_the_backbone_back(backbone: Backbone) -> None:
    before = backbone_sha256(backbone)
    adapters.attach(backbone, rank=2, alpha=4, targets=backbone.lora_targets, train="AB")
    adapters.load(backbone, {n: np.ones_like(v) for n, v in adapters.export(backbone).items()})
    adapters.detach(backbone)
    assert backbone_sha256(backbone) == before


def test_parameters_that_were_exchanged_are_found_anew(backbone: Backbone) -> None:
    adapters.attach(backbone, rank=2, alpha=4, targets=("q_proj", "fc1"), train="B")
    name = next(iter(adapters.trained_parameters(backbone)))
    owner: torch.nn.Module = backbone.core.get_submodule(name.replace(".weight", ".default"))
    old = owner.weight
    owner.weight = torch.nn.Parameter(torch.ones_like(old))
    assert adapters.trained_parameters(backbone)[name] is owner.weight
    assert adapters.export(backbone)[name].all()
    adapters.load(backbone, {name: np.zeros(tuple(old.shape), np.float32)})
    assert not bool(owner.weight.any())
    adapters.detach(backbone)
    adapters.attach(backbone, rank=3, alpha=4, targets=("q_proj",), train="B")
    assert {value.shape[1] for value in adapters.trained_parameters(backbone).values()} == {3}


def test_an_attached_adapter_computes_in_one_product_and_leaves_nothing_behind(backbone: Backbone) -> None:
    before = [type(module) for module in backbone.modules()]
    adapters.attach(backbone, rank=2, alpha=4, targets=backbone.lora_targets, train="B")
    layers = [module for module in backbone.modules() if isinstance(module, PeftLinear)]
    assert layers
    assert {type(module) for module in layers} == {LoraLinear}
    adapters.detach(backbone)
    assert [type(module) for module in backbone.modules()] == before


@pytest.mark.parametrize("train", ["B", "AB"])
def test_of_some_layers_alone_the_others_stay_as_the_backbone_has_them(
    backbone: Backbone, train: Literal["B", "AB"]
) -> None:
    """Named layers travel; the others are there for a personal model, and untrained."""
    heads = ("head1", "head2")
    plan, trained, frozen = adapters.initial_adapter(
        backbone, rank=2, alpha=4, targets=backbone.lora_targets, train=train, layers=heads
    )
    assert plan.layers == heads
    assert {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in trained} == set(heads)
    assert len(trained) == len(heads) * len(train)
    assert not any("lora_B" in name for name in frozen), "what is zero need not travel"
    adapters.attach(backbone, rank=2, alpha=4, targets=plan.targets, train=train)
    adapters.set_trained(backbone, train, plan.layers)
    assert set(adapters.trained_parameters(backbone)) == set(trained) == {spec.name for spec in plan.tensors}
    adapters.set_trained(backbone, "AB")
    assert len(adapters.trained_parameters(backbone)) > 2 * len(heads)


def test_a_layer_that_is_none_is_said(backbone: Backbone) -> None:
    with pytest.raises(UsageError, match="no layer 'head3'"):
        adapters.initial_adapter(
            backbone, rank=2, alpha=4, targets=backbone.lora_targets, train="B", layers=("head3",)
        )
