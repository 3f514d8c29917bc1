"""Checkpoints of a few KB with random weights: the real configuration classes, saved and loaded by the real code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

torch.set_num_threads(1)

_VOCABULARY = 60
_LM = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
_PATCHES = {"context_length": 112, "patch_length": 14, "patch_stride": 14, "d_model": 16, "prediction_length": 28}
_NINE = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]

LANGUAGE = ("gpt2", "bert", "llama", "mistral", "qwen2", "qwen3")
PATCHED = ("patchtst", "patchtsmixer")
FORECASTING = ("timesfm", "timesfm2_5", "chronos-bolt", "chronos-2")
ALL = (*LANGUAGE, *PATCHED, *FORECASTING)


def _language(name: str) -> Any:
    import transformers as hf

    decoder = {**_LM, "vocab_size": _VOCABULARY, "bos_token_id": 1, "eos_token_id": 2}
    grouped = {**decoder, "num_key_value_heads": 1}
    made: dict[str, Callable[[], Any]] = {
        "gpt2": lambda: hf.GPT2LMHeadModel(
            hf.GPT2Config(
                n_embd=16,
                n_layer=2,
                n_head=2,
                n_positions=128,
                vocab_size=_VOCABULARY,
                bos_token_id=1,
                eos_token_id=2,
            )
        ),
        "bert": lambda: hf.BertForMaskedLM(hf.BertConfig(**_LM, vocab_size=_VOCABULARY, max_position_embeddings=128)),
        "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**decoder)),
        "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**grouped)),
        "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**grouped)),
        "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**grouped, head_dim=8)),
    }
    return made[name]()


def _forecasting(name: str, **changes: Any) -> Any:
    import transformers as hf

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    if name == "patchtst":
        config = {"norm_type": "layernorm", "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 32}
        return hf.PatchTSTForPrediction(hf.PatchTSTConfig(**{**_PATCHES, **config, **changes}))
    if name == "patchtsmixer":
        return hf.PatchTSMixerForPrediction(hf.PatchTSMixerConfig(**{**_PATCHES, "num_layers": 2, **changes}))
    if name == "timesfm":
        return hf.TimesFmModelForPrediction(hf.TimesFmConfig(**small, head_dim=8, context_length=128))
    return hf.TimesFm2_5ModelForPrediction(
        hf.TimesFm2_5Config(**small, num_key_value_heads=2, head_dim=8, context_length=512, output_quantile_len=128)
    )


def _chronos(name: str) -> Any:
    pytest.importorskip("chronos", reason="the extra [chronos] is not installed")
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 2}
    patches = {"context_length": 512, "input_patch_size": 16, "input_patch_stride": 16, "use_reg_token": True}
    if name == "chronos-bolt":
        from chronos.chronos_bolt import ChronosBoltModelForForecasting
        from transformers import T5Config

        config = T5Config(**shape, num_decoder_layers=2, pad_token_id=0, decoder_start_token_id=0)
        config.chronos_config = {**patches, "prediction_length": 64, "quantiles": _NINE}
        return ChronosBoltModelForForecasting(config)
    from chronos.chronos2 import Chronos2Model
    from chronos.chronos2.config import Chronos2CoreConfig

    core = Chronos2CoreConfig(**shape)
    levels = [0.01, 0.05, *_NINE, 0.95, 0.99]
    core.chronos_config = {
        **patches,
        "output_patch_size": 16,
        "max_output_patches": 8,
        "use_arcsinh": True,
        "quantiles": levels,
    }
    return Chronos2Model(core)


def make_core(name: str, **changes: Any) -> Any:
    """A random core; matrices are enlarged, so that gradients reach every layer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name in LANGUAGE:
            core = _language(name)
        elif name.startswith("chronos"):
            core = _chronos(name)
        else:
            core = _forecasting(name, **changes)
        with torch.no_grad():
            for parameter in core.parameters():
                if parameter.dim() > 1 and not name.startswith("chronos"):
                    parameter.mul_(4)
    return core


def make_tokenizer(words: str = "red blue mug christmas lamp small set of") -> Any:
    """A tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(["[UNK]", "[PAD]", *words.split()])}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="[UNK]", pad_token="[PAD]")


Checkpoint = Callable[..., Path]


@pytest.fixture(scope="session")
def tokenizer() -> Callable[..., Any]:
    """Words → a tokenizer of them."""
    return make_tokenizer


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Name of a core (and changes of its configuration) → folder as transformers saves it."""
    made: dict[str, Path] = {}

    def get(name: str, **changes: Any) -> Path:
        key = f"{name}{sorted(changes.items())}"
        if key not in made:
            folder = tmp_path_factory.mktemp("cores") / name
            make_core(name, **changes).save_pretrained(folder)
            if name in LANGUAGE:
                make_tokenizer().save_pretrained(folder)
            made[key] = folder
        return made[key]

    return get


@pytest.fixture(params=ALL)
def core_name(request: pytest.FixtureRequest) -> str:
    """Each kind of core in turn."""
    name: str = request.param
    if name.startswith("chronos"):
        pytest.importorskip("chronos", reason="the extra [chronos] is not installed")
    return name


@pytest.fixture
def core_folder(core_name: str, checkpoint: Checkpoint) -> Path:
    """Its checkpoint."""
    return checkpoint(core_name)
