"""Pretraining around a foreign core, by the real loading code: ``--backbone PATH --freeze-core``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from trend_common.backbones import Backbone, backbone_sha256, load_backbone
from trend_common.errors import UsageError
from trend_server.cli import app
from trend_server.pretraining.keeper import validation_loss
from trend_server.pretraining.launch import pretrain_in_processes
from trend_server.pretraining.loop import Run
from trend_server.pretraining.recipe import Recipe

MakeRecipe = Callable[..., Recipe]


@pytest.fixture(scope="module")
def patchtst(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PatchTST of a few KB with random weights."""
    from transformers import PatchTSTConfig, PatchTSTForPrediction

    folder = tmp_path_factory.mktemp("core") / "patchtst"
    shape = {"context_length": 112, "patch_length": 14, "patch_stride": 14, "prediction_length": 28, "d_model": 16}
    more = {"norm_type": "layernorm", "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 32}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        PatchTSTForPrediction(PatchTSTConfig(**shape, **more)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of a few KB with random weights and a tokenizer of eight words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("core") / "gpt2"
    words = {word: number for number, word in enumerate(("[UNK]", "[PAD]", "red", "mug", "christmas", "set"))}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 128, "vocab_size": len(words)}
        GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=1)).save_pretrained(folder)
    plain = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder)
    return folder


def split(backbone: Backbone) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The core's parameters, and the fresh ones around it."""
    fresh = set(backbone.fresh_parameters())
    found = dict(backbone.named_parameters())
    return {name: value for name, value in found.items() if name not in fresh}, {name: found[name] for name in fresh}


@pytest.mark.usefixtures("_no_validation")
@pytest.mark.parametrize("name", ["patchtst", "gpt2"])
def test_the_layers_learn_and_the_core_stays(
    name: str, tiny: MakeRecipe, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    core: Path = request.getfixturevalue(name)
    before = load_backbone(str(core))
    assert before.needs_pretraining
    recipe = tiny(backbone=str(core), steps=30, batch=16, micro_batch=16, warmup=3, decay=10, learning_rate=0.01)
    out = pretrain_in_processes(recipe, Run(tmp_path / "out"), 1)
    after = load_backbone(str(out))
    assert not after.needs_pretraining
    assert backbone_sha256(before) != backbone_sha256(after)
    (frozen, fresh), (core_after, layers_after) = split(before), split(after)
    assert frozen.keys() == core_after.keys()
    assert all(torch.equal(value, core_after[key]) for key, value in frozen.items())
    moved = [key for key, value in fresh.items() if not torch.equal(value, layers_after[key])]
    assert len(moved) > len(fresh) / 2
    assert validation_loss(after, foreign=True) < 0.99 * validation_loss(before, foreign=True)
    assert json.loads((out / "recipe.json").read_text())["backbone"] == str(core)


@pytest.mark.usefixtures("_no_validation")
def test_it_goes_on_where_it_stopped_and_refuses_another_core(
    patchtst: Path, gpt2: Path, tiny: MakeRecipe, tmp_path: Path
) -> None:
    recipe = tiny(backbone=str(patchtst))
    whole = pretrain_in_processes(recipe, Run(tmp_path / "whole"), 1)
    pretrain_in_processes(recipe, Run(tmp_path / "parts", stop_after=5), 1)
    parts = pretrain_in_processes(recipe, Run(tmp_path / "parts"), 1)
    assert backbone_sha256(load_backbone(str(whole))) == backbone_sha256(load_backbone(str(parts)))
    with pytest.raises(UsageError, match="another training: the model"):
        pretrain_in_processes(tiny(backbone=str(gpt2)), Run(tmp_path / "parts"), 1)


def test_our_own_model_has_nothing_to_train_around_it(tmp_path: Path, tiny_backbone: Path) -> None:
    arguments = ["pretrain", "--backbone", str(tiny_backbone), "--freeze-core", "--out", str(tmp_path / "out")]
    caught = CliRunner().invoke(app, arguments).exception
    assert isinstance(caught, UsageError)
    assert "--init" in caught.hint
    assert not (tmp_path / "out").exists()
