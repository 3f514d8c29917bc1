"""The settings file of fine-tuning: read, written, explained, and what private training refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from trend_client.finetune import FREEZE, FineTuneSettings, LaunchSettings, load_settings, refuse_private, to_toml
from trend_common.errors import PolicyError, UsageError

PRIVATE: dict[str, Any] = {"launch": LaunchSettings(steps=0), "patience": 0}


@settings(max_examples=40, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "freeze": st.sampled_from(FREEZE),
            "learning_rate": st.floats(1e-6, 1),
            "schedule": st.sampled_from(["constant", "linear", "cosine"]),
            "steps": st.integers(1, 1000),
            "launch": st.builds(LaunchSettings, steps=st.integers(0, 900), words=st.booleans()),
        },
    )
)
def test_what_is_written_is_what_is_read(tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]) -> None:
    wanted = FineTuneSettings(**values)
    path = tmp_path_factory.mktemp("settings") / "best.toml"
    path.write_text(to_toml(wanted), "utf-8")
    assert load_settings(path) == wanted


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("learning_rat = 1e-3", "did you mean learning_rate"),
        ("[launch]\nstep = 3", "did you mean steps"),
        ("steps = 0", "steps: "),
        ("learning_rate = nan", "learning_rate: "),
        ('freeze = "prefix"', "past keys and values"),
        ('freeze = "full"\ndropout = 0.1', "has none"),
        ("steps = ", "not valid TOML"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(UsageError) as caught:
        load_settings(path)
    assert words in str(caught.value)
    with pytest.raises(UsageError):
        load_settings(tmp_path / "missing.toml")


def test_settings_cannot_be_changed_or_misspelt() -> None:
    with pytest.raises(ValidationError):
        FineTuneSettings(learning_rat=1e-3)  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        FineTuneSettings().steps = 3  # type: ignore[misc]


@pytest.mark.parametrize("freeze", ["head", "lora", "rslora"])
def test_adapters_can_be_private(freeze: str) -> None:
    refuse_private(FineTuneSettings(freeze=freeze, jitter_level=0.2, drop_covariates=0.1, **PRIVATE))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"freeze": "full"}, 'freeze = "full" (the noise grows'),
        ({"freeze": "adalora"}, 'freeze = "adalora" (which ranks remain'),
        ({"words": True}, "words (embeddings"),
        ({"precision": "bf16"}, 'precision = "bf16" (a norm that was rounded'),
        ({"cold_start": 0.1}, "level from siblings"),
        ({"launch": LaunchSettings()}, "level from siblings"),
        ({"adversarial": 0.1}, "second gradient"),
        ({"ensemble": 2}, "spends the privacy"),
        ({"patience": 1}, "when to stop"),
    ],
)
def test_private_training_refuses_with_the_reason(change: dict[str, Any], words: str) -> None:
    with pytest.raises(PolicyError) as caught:
        refuse_private(FineTuneSettings(**{**PRIVATE, **change}))
    assert words in caught.value.message
    assert caught.value.message.count("(") == 1
