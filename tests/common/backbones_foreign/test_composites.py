"""A core and our layers as one folder: saved and loaded whole, known by one hash, trained with the core frozen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from trend_common import adapters
from trend_common.backbones import Backbone, Batch, backbone_sha256, load_backbone
from trend_common.backbones.synthetic import random_batch
from trend_common.errors import UsageError

Checkpoint = Callable[..., Path]


def thaw(backbone: Backbone) -> list[torch.nn.Parameter]:
    """The fresh layers alone, as pretraining with a frozen core trains them."""
    fresh = set(backbone.fresh_parameters())
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name in fresh)
    return [parameter for parameter in backbone.parameters() if parameter.requires_grad]


def sales(seed: int, rows: int = 8) -> Batch:
    """Windows in which a promotion doubles sales, and all doubles at the origin."""
    batch = random_batch(rows, context=28, horizon=14, seed=seed, ragged=False)
    assert batch.future_values is not None
    generator = torch.Generator().manual_seed(seed)
    past, future = (torch.zeros_like(c) for c in (batch.past_cov, batch.future_cov))
    for cov in (past, future):
        cov[..., PROMO] = (torch.rand(cov.shape[:2], generator=generator) < 0.3).float()
        cov[..., PROMO_KNOWN] = 1
    return Batch(
        past_values=batch.past_values * (1 + past[..., PROMO]),
        past_mask=batch.past_mask,
        past_cov=past,
        future_cov=future,
        freq=batch.freq,
        text=batch.text,
        static_ids=batch.static_ids,
        level_hint=batch.level_hint,
        future_values=2 * batch.future_values * (1 + future[..., PROMO]),
        future_mask=batch.future_mask,
        description=batch.description,
    )


PROMO, PROMO_KNOWN = 14, 18


def test_the_channels_are_those_that_this_file_means() -> None:
    from trend_common.covariates import INDEX

    assert (INDEX["promo"], INDEX["promo_known"]) == (PROMO, PROMO_KNOWN)


def test_training_the_fresh_layers_alone_lowers_the_loss(core_folder: Path, core_name: str, tmp_path: Path) -> None:
    backbone = load_backbone(str(core_folder))
    core_before = {n: v.clone() for n, v in backbone.state_dict().items() if n.startswith("core.body.")}
    trained = thaw(backbone)
    if core_name == "chronos-2":
        assert not trained, "it reads covariates by itself and has nothing to train"
        return
    held_out = sales(99, rows=32)
    with torch.no_grad():
        before = float(backbone(held_out).loss_per_sample.mean())
    optimiser = torch.optim.Adam(trained, 1e-2)
    for step in range(10):
        optimiser.zero_grad()
        backbone(sales(step)).loss_per_sample.mean().backward()
        task_free = [n for n, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
        assert all("trend" in name for name in task_free), "no gradient reaches these layers"
        optimiser.step()
    with torch.no_grad():
        after = float(backbone(held_out).loss_per_sample.mean())
    # A random core that forecasts by itself is bad at it; a linear residual mends a part.
    own_forecasts = core_name in ("timesfm", "timesfm2_5", "chronos-bolt")
    assert after < (0.99 if own_forecasts else 0.9) * before
    assert all(torch.equal(backbone.state_dict()[n], v) for n, v in core_before.items()), "the core stayed as it was"
    assert not backbone.needs_pretraining

    backbone.save_pretrained(tmp_path / "composite")
    again = load_backbone(str(tmp_path / "composite"))
    assert not again.needs_pretraining
    with torch.no_grad():
        assert float(again(held_out).loss_per_sample.mean()) == pytest.approx(after, rel=1e-5)


def test_a_step_on_the_adapter_lowers_the_loss(core_folder: Path) -> None:
    backbone = load_backbone(str(core_folder))
    adapters.attach(backbone, rank=2, alpha=4, targets=backbone.lora_targets, train="AB")
    batch = sales(0)
    parameters = [p for p in backbone.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, 1e-2)
    losses = []
    for _ in range(6):
        optimiser.zero_grad()
        loss = backbone(batch).loss_per_sample.mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_saved_and_loaded_it_is_the_same(core_folder: Path, tmp_path: Path) -> None:
    backbone = load_backbone(str(core_folder))
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if name in backbone.fresh_parameters():
                parameter.mul_(1.5).add_(0.01)
    digest, batch = backbone_sha256(backbone), random_batch(3, context=40, horizon=9, seed=2)
    backbone.save_pretrained(tmp_path / "one")
    assert (tmp_path / "one" / "config.json").is_file()
    assert (tmp_path / "one" / "model.safetensors").is_file()
    once = load_backbone(str(tmp_path / "one"))
    once.save_pretrained(tmp_path / "two")
    twice = load_backbone(str(tmp_path / "two"))
    for copy in (once, twice):
        assert backbone_sha256(copy) == digest
        assert copy.fresh_parameters() == backbone.fresh_parameters()
        assert copy.lora_targets == backbone.lora_targets
        assert (copy.max_context, copy.max_horizon) == (backbone.max_context, backbone.max_horizon)
        assert torch.equal(copy(batch).quantiles, backbone(batch).quantiles)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_hash_is_stable_and_sees_all_of_it(core_folder: Path) -> None:
    loaded = []
    with torch.random.fork_rng():
        for seed in (1, 2):
            torch.manual_seed(seed)
            loaded.append(load_backbone(str(core_folder)))
    first, second = loaded
    digest = backbone_sha256(first)
    assert backbone_sha256(second) == digest, "fresh layers are drawn alike, whatever the generator's state"
    names = [name for name, _ in second.named_parameters()]
    for name in {names[0], names[-1], *second.fresh_parameters()[:1]}:
        parameter = dict(second.named_parameters())[name]
        with torch.no_grad():
            parameter.view(-1)[0] += 1e-3
        assert backbone_sha256(second) != digest, f"{name} is not covered"
        with torch.no_grad():
            parameter.view(-1)[0].copy_(dict(first.named_parameters())[name].view(-1)[0])
        assert backbone_sha256(second) == digest
    adapters.attach(second, rank=2, alpha=4, targets=second.lora_targets, train="B")
    with pytest.raises(ValueError, match="before an adapter"):
        backbone_sha256(second)
    adapters.detach(second)
    assert backbone_sha256(second) == digest


def test_an_adapter_is_saved_in_pefts_format(checkpoint: Checkpoint, tmp_path: Path) -> None:
    backbone = load_backbone(str(checkpoint("gpt2")))
    adapters.attach(backbone, rank=2, alpha=4, targets=backbone.lora_targets, train="AB")
    with torch.no_grad():
        for parameter in adapters.trained_parameters(backbone).values():
            parameter.add_(0.1)
    adapters.save(backbone, tmp_path / "adapter")
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {name: tuple(v.shape) for name, v in saved.items()} == {
        name: v.shape for name, v in adapters.export(backbone).items()
    }


@pytest.mark.parametrize("fault", ["levels", "covariates", "kind", "field", "weights", "shape", "no weights"])
def test_a_composite_that_does_not_fit_is_a_clear_error(fault: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = tmp_path / "composite"
    load_backbone(str(checkpoint("patchtst"))).save_pretrained(folder)
    document: dict[str, Any] = json.loads((folder / "config.json").read_text())
    weights = folder / "model.safetensors"
    match fault:
        case "levels":
            document["settings"]["levels"] = [0.1, 0.5, 0.9]
        case "covariates":
            document["settings"]["n_covariates"] = 3
        case "kind":
            document["family"] = "oracle"
        case "field":
            document["settings"]["magic"] = 1
        case "weights":
            weights.write_bytes(weights.read_bytes()[:500])
        case "shape":
            tensors = load_file(weights)
            tensors["head.head1.bias"] = torch.zeros(3)
            save_file(tensors, weights)
        case _:
            weights.unlink()
    (folder / "config.json").write_text(json.dumps(document))
    expected = {
        "levels": "made with levels",
        "covariates": "made with n_covariates = 3",
        "kind": "unknown kind 'oracle'",
        "field": "not that of a composite",
    }
    with pytest.raises(UsageError, match=expected.get(fault, "cannot be read")) as caught:
        load_backbone(str(folder))
    assert caught.value.hint


def test_a_saved_tokenizer_is_part_of_what_it_is(
    checkpoint: Checkpoint, tokenizer: Callable[..., Any], tmp_path: Path
) -> None:
    backbone = load_backbone(str(checkpoint("bert")))
    backbone.save_pretrained(tmp_path / "composite")
    digest = backbone_sha256(backbone)
    assert backbone_sha256(load_backbone(str(tmp_path / "composite"))) == digest
    tokenizer("other words in another order").save_pretrained(tmp_path / "composite")
    assert backbone_sha256(load_backbone(str(tmp_path / "composite"))) != digest


def test_the_folder_can_be_moved(checkpoint: Checkpoint, tmp_path: Path) -> None:
    backbone = load_backbone(str(checkpoint("timesfm")))
    backbone.save_pretrained(tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert backbone_sha256(load_backbone(str(tmp_path / "there"))) == backbone_sha256(backbone)
