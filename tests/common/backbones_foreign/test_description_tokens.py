"""The tokens of a description: read where there is a tokenizer, placed alike whatever else is in the batch."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trend_common.backbones import Batch, load_backbone
from trend_common.backbones.foreign import ForeignBackbone
from trend_common.backbones.synthetic import random_batch
from trend_common.backbones.text import TextNetwork
from trend_common.errors import UsageError
from trend_common.panel import SalesPanel
from trend_common.windows import PanelWindows, description_bytes

Checkpoint = Callable[..., Path]


def described(batch: Batch, *texts: str) -> Batch:
    return replace(batch, description=torch.from_numpy(description_bytes(texts).copy()))


@pytest.fixture(params=["gpt2", "bert", "qwen3"])
def backbone(request: pytest.FixtureRequest, checkpoint: Checkpoint) -> ForeignBackbone:
    loaded = load_backbone(str(checkpoint(request.param)))
    assert isinstance(loaded, ForeignBackbone)
    return loaded


def quantiles(backbone: ForeignBackbone, batch: Batch) -> Tensor:
    found: Tensor = backbone(batch).quantiles
    return found


def test_other_words_give_another_forecast(backbone: ForeignBackbone) -> None:
    batch = random_batch(2, context=28, horizon=14, seed=1)
    one = quantiles(backbone, described(batch, "red mug", "blue lamp"))
    two = quantiles(backbone, described(batch, "red mug", "small christmas lamp"))
    assert torch.equal(one[0], two[0])
    assert not torch.equal(one[1], two[1])


def test_no_description_is_an_empty_one(backbone: ForeignBackbone) -> None:
    batch = random_batch(2, context=28, horizon=14, seed=1)
    empty, none = described(batch, "", ""), replace(batch, description=None)
    torch.testing.assert_close(quantiles(backbone, empty), quantiles(backbone, none), rtol=1e-5, atol=1e-5)


def test_without_a_tokenizer_bytes_are_not_read(checkpoint: Checkpoint, tmp_path: Path) -> None:
    backbone = load_backbone(str(checkpoint("gpt2")))
    assert isinstance(backbone, ForeignBackbone)
    assert isinstance(backbone.network, TextNetwork)
    backbone.network.tokenizer = None
    backbone.save_pretrained(tmp_path / "plain")
    plain = load_backbone(str(tmp_path / "plain"))
    batch = random_batch(2, context=28, horizon=14, seed=1)
    one, two = (plain(described(batch, *texts)).quantiles for texts in (("red", "mug"), ("blue", "lamp")))
    assert torch.equal(one, two)
    assert plain.capabilities.text, "hashed words are still read"


def test_a_tokenizer_is_not_made_up_and_must_be_the_cores_own(
    checkpoint: Checkpoint, tokenizer: Callable[..., Any], tmp_path: Path
) -> None:
    for name in ("gpt2", "bert", "qwen2"):
        folder = tmp_path / name
        shutil.copytree(checkpoint(name), folder)
        for file in folder.glob("tokenizer*"):
            file.unlink()
        backbone = load_backbone(str(folder))
        assert isinstance(backbone, ForeignBackbone)
        assert backbone.network.identity() == {"tokenizer": None}
    tokenizer(" ".join(f"word{number}" for number in range(100))).save_pretrained(folder)
    with pytest.raises(UsageError, match=r"The tokenizer knows 10\d tokens; the core embeds 60"):
        load_backbone(str(folder))


def test_long_and_broken_texts_are_read_as_far_as_they_go(backbone: ForeignBackbone) -> None:
    batch = random_batch(2, context=28, horizon=14, seed=1)
    assert torch.isfinite(quantiles(backbone, described(batch, "mug " * 200, "ü" * 200))).all()


def test_bytes_are_the_texts_own() -> None:
    found = description_bytes(["red", "", "grün"], size=4)
    assert found.tolist() == [[114, 101, 100, 0], [0, 0, 0, 0], [103, 114, 195, 188]]


def test_windows_carry_the_description_of_their_own_series(panel: SalesPanel) -> None:
    windows = PanelWindows(panel, context=28)
    batch = windows.batch([0, 3], [100, 100], 14)
    assert batch.description is not None
    for row, series in enumerate((0, 3)):
        text = batch.description[row].numpy().tobytes().rstrip(b"\0").decode()
        assert text == panel.static["description"].iloc[series]
    assert batch.description.dtype == torch.uint8
    assert np.array_equal(batch.rows(slice(1, 2)).description.numpy(), batch.description.numpy()[1:])  # type: ignore[union-attr]


def test_positions_count_from_the_origin(backbone: ForeignBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """A patch of last week has one position, whether the context or the horizon is long or short."""
    seen: list[Tensor] = []
    body = backbone.network.body
    forward = body.forward

    def spy(**kwargs: Tensor) -> object:
        seen.append(kwargs["position_ids"][0])
        return forward(**kwargs)

    monkeypatch.setattr(body, "forward", spy)
    for context, horizon in ((28, 14), (140, 14), (28, 42)):
        backbone(random_batch(1, context=context, horizon=horizon, seed=1))
    short, long, far = (row.tolist() for row in seen)
    assert short[-1] == long[-1], "the first patch ahead"
    assert short[-3:] == long[-3:]
    assert far[-3] == short[-1]
    assert short[0] == long[0] == far[0] == 0, "the summary"
    limit = getattr(body.config, "max_position_embeddings", 10**6)
    assert max(far) < limit
