"""What each policy trains, that its export is what was trained, and that nothing of it stays behind."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from trend_client.engine import Engine
from trend_client.finetune import FREEZE, FineTuneSettings
from trend_client.freeze import training
from trend_client.trainer import accumulate, make_optimiser
from trend_client.weights import WORDS, base_parameters
from trend_common import adapters
from trend_common.backbones import load_backbone
from trend_common.backbones.base import Backbone
from trend_common.backbones.synthetic import random_batch
from trend_common.errors import UsageError
from trend_common.tensors import Tensors

BATCH = random_batch(16, context=28, horizon=14, freq="D", seed=1)


@pytest.fixture
def engine(tiny_backbone: Path) -> Engine:
    made = Engine(str(tiny_backbone), device="cpu")
    made.install_local(2)
    return made


def forecast(backbone: Backbone) -> Tensor:
    with torch.inference_mode():
        found: Tensor = backbone(BATCH).quantiles
    return found


def shared(engine: Engine) -> Tensors:
    """An adapter that does something."""
    rng = np.random.default_rng(0)
    return {name: rng.normal(0, 0.1, value.shape).astype(np.float32) for name, value in engine.worn(None).items()}


def train(engine: Engine, start: Tensors | None, steps: int = 8, **settings: Any) -> tuple[Tensors, Tensor]:
    """What was learned, and the forecast of the model while it was still in training."""
    wanted = FineTuneSettings(**{"learning_rate": 1e-2, "warmup": 0, "steps": steps, **settings})
    engine.use(start)
    with training(engine.backbone, engine.plan, engine.weights, wanted, seed=0) as made:
        optimiser, course = make_optimiser(made, wanted)
        for step in range(1, steps + 1):
            made.mode(True)
            optimiser.zero_grad()
            accumulate(engine.backbone, [BATCH], wanted, made.penalty)
            optimiser.step()
            made.after_step(step)
            course.step()
            made.mode(False)
        return made.export(), forecast(engine.backbone)


@pytest.mark.parametrize("start", [False, True], ids=["from the backbone", "from a shared adapter"])
@pytest.mark.parametrize("freeze", FREEZE)
def test_a_policy_exports_what_it_trained_and_leaves_nothing_behind(engine: Engine, freeze: str, start: bool) -> None:
    begin = shared(engine) if start else None
    shipped = forecast(engine.release())
    engine.install_local(2)
    engine.use(None)
    zero_shot = forecast(engine.backbone)
    # An adapter's layers may multiply by another library than plain ones: the last digits are theirs.
    torch.testing.assert_close(zero_shot, shipped, rtol=1e-5, atol=1e-5)
    engine.use(begin)
    before = forecast(engine.backbone)
    found, trained = train(engine, begin, freeze=freeze)
    assert not torch.allclose(trained, before, rtol=1e-3)
    engine.use(found)
    torch.testing.assert_close(forecast(engine.backbone), trained, rtol=2e-4, atol=2e-4)
    engine.use(begin)
    assert torch.equal(forecast(engine.backbone), before)
    engine.use(None)
    assert torch.equal(forecast(engine.backbone), zero_shot)
    assert {name for name, p in engine.backbone.named_parameters() if p.requires_grad} == {
        name for name, _ in engine.backbone.named_parameters() if "lora_B" in name
    }
    assert all(parameter.grad is None for parameter in engine.backbone.parameters())
    assert not any(module.training for module in engine.backbone.modules())


@pytest.mark.parametrize("freeze", FREEZE)
def test_training_starts_where_it_was_told(engine: Engine, freeze: str) -> None:
    begin = shared(engine)
    engine.use(begin)
    before = forecast(engine.backbone)
    with training(engine.backbone, engine.plan, engine.weights, FineTuneSettings(freeze=freeze), seed=0):  # type: ignore[arg-type]
        torch.testing.assert_close(forecast(engine.backbone), before, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(
    ("freeze", "moved"),
    [
        ("lora", {"lora_A", "lora_B"}),
        ("rslora", {"lora_A", "lora_B"}),
        ("head", {"head1", "head2", "trend"}),
    ],
)
def test_a_policy_trains_its_own_layers_alone(engine: Engine, freeze: str, moved: set[str]) -> None:
    begin = engine.worn(shared(engine))
    shipped = {name: p.detach().clone() for name, p in base_parameters(engine.backbone).items()}
    found, _ = train(engine, begin, freeze=freeze)
    changed = set()
    for name, value in found.items():
        old = begin[name] if name in begin else shipped[name].numpy()
        if not np.allclose(value, old, rtol=1e-6, atol=0):
            changed.add(next((part for part in ("lora_A", "lora_B") if part in name), name.split(".")[0]))
    # The trend head has no part in the loss of demand.
    assert changed == moved - {"trend"}


def test_full_trains_every_weight_of_the_backbone(engine: Engine) -> None:
    named = base_parameters(engine.backbone)
    with training(engine.backbone, engine.plan, engine.weights, FineTuneSettings(freeze="full"), seed=0) as made:
        assert {id(p) for p in made.parameters} == {id(p) for p in named.values()}
        assert set(made.export()) == set(adapters.export(engine.backbone)) | set(named)


def test_words_are_trained_beside_any_policy_and_only_if_asked(engine: Engine) -> None:
    found, _ = train(engine, None, freeze="lora", words=True)
    assert {name for name in found if "lora_" not in name} == set(WORDS)
    engine.use(None)
    shipped = base_parameters(engine.backbone)
    for name in WORDS:
        assert not np.array_equal(found[name], shipped[name].detach().numpy())
    found, _ = train(engine, None, freeze="lora")
    assert not {name for name in found if "lora_" not in name}


def test_rank_stabilised_lora_scales_as_pefts_own(engine: Engine, tiny_backbone: Path) -> None:
    begin = shared(engine)
    engine.use(begin)
    plan = engine.plan
    with training(engine.backbone, plan, engine.weights, FineTuneSettings(freeze="rslora"), seed=0) as made:
        own = {name: p.detach().clone() for name, p in adapters.lora_parameters(engine.backbone).items()}
        exported = made.export()
        ours = forecast(engine.backbone)
    other = load_backbone(str(tiny_backbone))
    config = LoraConfig(r=plan.rank, lora_alpha=plan.alpha, target_modules=list(plan.targets), use_rslora=True)
    other.core = get_peft_model(other.core, config)  # type: ignore[arg-type]
    other.eval()
    adapters.load(other, {name: value.numpy() for name, value in own.items()})
    torch.testing.assert_close(forecast(other), ours, rtol=1e-4, atol=1e-4)
    for name, value in exported.items():
        np.testing.assert_allclose(value, begin[name], rtol=1e-5)
        if "lora_B" in name:
            np.testing.assert_allclose(own[name].numpy() * math.sqrt(plan.rank), begin[name], rtol=1e-5)


def test_dropout_is_on_in_a_step_and_off_in_a_look(engine: Engine) -> None:
    engine.use(shared(engine))
    plain = forecast(engine.backbone)
    with training(engine.backbone, engine.plan, engine.weights, FineTuneSettings(dropout=0.5), seed=0) as made:
        torch.manual_seed(0)
        made.mode(True)
        first, second = engine.backbone(BATCH).quantiles.detach(), engine.backbone(BATCH).quantiles.detach()
        assert not torch.equal(first, second)
        made.mode(False)
        torch.testing.assert_close(forecast(engine.backbone), plain, rtol=1e-5, atol=1e-5)
    layers = [module for module in engine.backbone.modules() if isinstance(module, LoraLayer)]
    assert layers
    assert all(isinstance(layer.lora_dropout["default"], nn.Identity) for layer in layers)


def test_adalora_prunes_its_ranks(engine: Engine) -> None:
    settings = FineTuneSettings(freeze="adalora", learning_rate=1e-2, steps=30, warmup=0)
    plan, layers = engine.plan, len([m for m in engine.backbone.modules() if isinstance(m, LoraLayer)])
    engine.use(None)
    with training(engine.backbone, plan, engine.weights, settings, seed=0) as made:
        optimiser, _ = make_optimiser(made, settings)
        for step in range(1, 31):
            optimiser.zero_grad()
            accumulate(engine.backbone, [BATCH], settings, made.penalty)
            optimiser.step()
            made.after_step(step)
        values = [p.detach() for name, p in engine.backbone.named_parameters() if "lora_E" in name]
    assert sum(v.numel() for v in values) == layers * 2 * plan.rank
    assert sum(int((v != 0).sum()) for v in values) <= layers * plan.rank


def _with_prefix(backbone: Backbone, config: PrefixTuningConfig) -> None:
    backbone.core = get_peft_model(backbone.core, config)  # type: ignore[arg-type]
    backbone(BATCH)


def test_prefix_tuning_of_peft_does_not_work_on_the_backbone(tiny_backbone: Path) -> None:
    """The reason for refusing it; if peft learns to, this fails and the refusal can go."""
    for task in (None, "FEATURE_EXTRACTION", "CAUSAL_LM", "SEQ_2_SEQ_LM"):
        backbone = load_backbone(str(tiny_backbone))
        config = PrefixTuningConfig(
            task_type=task, num_virtual_tokens=2, num_layers=1, token_dim=16, num_attention_heads=2
        )
        with pytest.raises((KeyError, AttributeError)):
            _with_prefix(backbone, config)


def test_a_backbone_without_a_head_of_its_own_is_refused(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trend_client.freeze._HEADS", ("nothing",))
    with (
        pytest.raises(UsageError, match="no head of its own"),
        training(engine.backbone, engine.plan, engine.weights, FineTuneSettings(freeze="head"), seed=0),
    ):
        pass
