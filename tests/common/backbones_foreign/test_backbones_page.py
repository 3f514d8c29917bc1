"""docs/backbones.md says what the code does."""

from __future__ import annotations

from pathlib import Path

import pytest

from trend_common.backbones import SHIPPED, load_backbone
from trend_common.backbones.patchtst import PATCH_MODELS
from trend_common.backbones.registry import MODEL_TYPES
from trend_common.backbones.text import TEXT_MODELS

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "backbones.md").read_text("utf-8")


@pytest.mark.parametrize("name", ["trend", *SHIPPED, *MODEL_TYPES])
def test_every_model_type_is_on_the_page(name: str) -> None:
    assert f"`{name}`" in PAGE


def test_the_layers_that_a_policy_must_name_are_on_the_page(core_folder: Path) -> None:
    for target in load_backbone(str(core_folder)).lora_targets:
        assert f"`{target}`" in PAGE


def test_wrappers_and_dispatch_know_the_same_models() -> None:
    by_kind = {kind: {name for name, k in MODEL_TYPES.items() if k == kind} for kind in set(MODEL_TYPES.values())}
    assert by_kind["text"] == set(TEXT_MODELS)
    assert by_kind["patchtst"] == set(PATCH_MODELS)


def test_the_page_is_linked() -> None:
    readme = (Path(__file__).resolve().parents[3] / "README.md").read_text("utf-8")
    assert "(docs/backbones.md)" in readme
