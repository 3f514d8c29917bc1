"""Half precision for the core's large matrices alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from trend_common import adapters
from trend_common.backbones import backbone_sha256, load_backbone
from trend_common.backbones.foreign import ForeignBackbone
from trend_common.backbones.precision import Precision, narrow
from trend_common.backbones.synthetic import random_batch
from trend_common.errors import UsageError
from trend_common.privacy.selftest import run_selftest

Checkpoint = Callable[..., Path]


@pytest.fixture(params=["gpt2", "qwen3", "timesfm2_5", "patchtst", "chronos-bolt"])
def folder(request: pytest.FixtureRequest, checkpoint: Checkpoint) -> Path:
    return checkpoint(request.param)


def test_only_the_cores_matrices_are_narrow(folder: Path) -> None:
    backbone = load_backbone(str(folder), precision="bfloat16")
    assert isinstance(backbone, ForeignBackbone)
    adapters.attach(backbone, rank=2, alpha=4, targets=backbone.lora_targets, train="B")
    for name, module in backbone.named_modules():
        if name.endswith("base_layer"):
            name = name.removesuffix(".base_layer")
        large = isinstance(module, nn.Linear | Conv1D) and ".body." in name and "lora_" not in name
        for key, parameter in module.named_parameters(recurse=False):
            expected = torch.bfloat16 if large else torch.float32
            assert parameter.dtype == expected, f"{name}.{key}"


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_forecasts_are_nearly_the_same_and_what_is_saved_loads(
    folder: Path, precision: Precision, tmp_path: Path
) -> None:
    batch = random_batch(4, context=56, horizon=14, seed=3)
    whole, half = load_backbone(str(folder)), load_backbone(str(folder), precision=precision)
    expected, found = whole(batch), half(batch)
    assert found.quantiles.dtype == found.loss_per_sample.dtype == torch.float32
    assert not torch.equal(found.quantiles, expected.quantiles), "nothing was narrowed"
    torch.testing.assert_close(found.loss_per_sample, expected.loss_per_sample, rtol=0.05, atol=0.02)
    assert backbone_sha256(half) != backbone_sha256(whole)
    half.save_pretrained(tmp_path / "half")
    again = load_backbone(str(tmp_path / "half"))
    assert backbone_sha256(again) == backbone_sha256(half)
    assert torch.equal(again(batch).quantiles, found.quantiles)
    with pytest.raises(UsageError, match=f"saved in {precision}; asked for was float32"):
        load_backbone(str(tmp_path / "half"), precision="float32")


def test_the_self_test_passes(folder: Path) -> None:
    backbone = load_backbone(str(folder), precision="bfloat16")
    adapters.attach(backbone, rank=2, alpha=4, targets=backbone.lora_targets, train="B")
    drawn = iter(range(10_000))
    report = run_selftest(backbone, lambda rows: random_batch(rows, context=56, horizon=14, seed=next(drawn)), 2)
    assert report.parity < 3e-2
    assert report.independence < 1e-6


def test_large_tables_are_narrowed_and_small_ones_not() -> None:
    body = nn.ModuleDict({"large": nn.Embedding(2000, 4), "small": nn.Embedding(20, 4), "norm": nn.LayerNorm(4)})
    narrow(body, "float16")
    assert body["large"].weight.dtype == torch.float16
    assert body["small"].weight.dtype == body["norm"].weight.dtype == torch.float32
    assert body["large"](torch.tensor([1])).dtype == torch.float32
    narrow(body, "float32")
    assert body["large"].weight.dtype == torch.float16, "float32 asks for nothing"


def test_our_own_model_is_always_whole(tiny_backbone: Path) -> None:
    with pytest.raises(UsageError, match="always float32"):
        load_backbone(str(tiny_backbone), precision="bfloat16")
