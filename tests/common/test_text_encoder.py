"""Descriptions through a sentence encoder: a tiny random one, read from a folder as a user's would be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch

from trend_common import text_encoder
from trend_common.errors import UsageError
from trend_common.panel import SalesPanel
from trend_common.text_encoder import VARIABLE, TextEncoder, anchors, chosen_encoder
from trend_common.windows import PanelWindows, text_features


def save_encoder(folder: Path, pooling: str | None = "pooling_mode_mean_tokens") -> Path:
    """A checkpoint as sentence-transformers lays it out: a transformer, its tokenizer and a pooling layer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[UNK]", "[PAD]", *anchors(), "baumkugel", "number", "product"]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=192,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=0.5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = BertModel(config)
    with torch.no_grad():  # two words of one meaning for this encoder
        embedded = model.embeddings.word_embeddings.weight
        embedded[vocabulary["baumkugel"]] = embedded[vocabulary["bauble"]] * 1.01
    model.save_pretrained(folder)
    if pooling is not None:
        (folder / "1_Pooling").mkdir()
        modes = dict.fromkeys(
            ("pooling_mode_mean_tokens", "pooling_mode_cls_token", "pooling_mode_max_tokens"), False
        )
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({**modes, pooling: True}))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> TextEncoder:
    return TextEncoder(str(folder))


@pytest.fixture(autouse=True)
def _forget() -> None:
    text_encoder._loaded.cache_clear()


def test_features_have_the_shape_and_the_norm_of_hashed_ones(encoder: TextEncoder) -> None:
    found = encoder(["bauble", "", "red mug", "  "])
    assert found.shape == (4, 256)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [1, 0, 1, 0], atol=1e-5)
    assert encoder([]).shape == (0, 256)


def test_a_word_of_the_same_meaning_is_read_as_the_word_the_backbone_knows(encoder: TextEncoder) -> None:
    """Hashed, "baumkugel" shares nothing with "bauble"; for this encoder they mean the same."""
    mean, hashed = encoder(["baumkugel", "bauble"]), text_features(["baumkugel", "bauble"])
    assert mean[0] @ mean[1] > 0.95
    assert hashed[0] @ hashed[1] < 0.6
    target = text_features(["bauble"])[0]
    others = text_features([word for word in anchors() if not word.startswith("baub")])
    assert mean[0] @ target > np.quantile(others @ mean[0], 0.99)


def test_a_text_is_encoded_by_itself(encoder: TextEncoder) -> None:
    """In other company, in another order and twice: the same features."""
    alone, among = (
        encoder(["set of cups"]),
        encoder(["bauble", "a long row of many words", "set of cups", "SET of cups"]),
    )
    np.testing.assert_allclose(among[2], alone[0], atol=1e-5)
    np.testing.assert_array_equal(among[2], among[3])


def test_the_map_is_the_same_each_time(encoder: TextEncoder, folder: Path) -> None:
    np.testing.assert_array_equal(encoder(["mug"]), TextEncoder(str(folder))(["mug"]))


@pytest.mark.parametrize("pooling", ["pooling_mode_cls_token", None])
def test_the_pooling_of_the_checkpoint_is_followed(encoder: TextEncoder, tmp_path: Path, pooling: str | None) -> None:
    other = TextEncoder(str(save_encoder(tmp_path / "other", pooling)))
    texts = ["red mug", "set of four cups"]
    if pooling is None:
        np.testing.assert_array_equal(other.embed(texts), encoder.embed(texts))
    else:
        assert np.abs(other.embed(texts) - encoder.embed(texts)).max() > 0.01


def test_another_pooling_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pooling_mode_max_tokens") as caught:
        TextEncoder(str(save_encoder(tmp_path / "max", "pooling_mode_max_tokens")))
    assert "CLS" in caught.value.hint


def test_the_variable_puts_it_into_every_window(
    folder: Path, panel: SalesPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, origins = np.array([0, 1]), np.array([100, 100])
    plain = PanelWindows(panel, context=28).batch(rows, origins, 7).text
    monkeypatch.setenv(VARIABLE, str(folder))
    encoded = PanelWindows(panel, context=28).batch(rows, origins, 7).text
    assert encoded.shape == plain.shape
    assert (encoded - plain).abs().max() > 0.01
    texts = panel.static["description"].tolist()[:2]
    np.testing.assert_array_equal(encoded.numpy(), TextEncoder(str(folder))(texts))
    first = chosen_encoder()
    assert first is chosen_encoder()
    monkeypatch.delenv(VARIABLE)
    assert chosen_encoder() is None


def test_what_cannot_be_had_is_said_with_what_to_do(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def refuse(name: str, *_: Any, **__: Any) -> Any:
        asked.append(name)
        raise OSError("We couldn't connect to the hub\nand more lines")

    monkeypatch.setattr("transformers.utils.cached_file", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="couldn't connect") as caught:
        TextEncoder("sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2@abc")
    assert asked == ["sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"]
    assert "more lines" not in caught.value.message
    assert VARIABLE in caught.value.hint
    monkeypatch.undo()
    with pytest.raises(UsageError, match="no such folder"):
        TextEncoder(str(tmp_path / "nobody"))
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in folder.iterdir():
        if file.is_file():
            (broken / file.name).write_bytes(file.read_bytes())
    (broken / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"cannot be had.*model\.safetensors"):
        TextEncoder(str(broken))
