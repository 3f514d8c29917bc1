"""Names, folders and revisions, and what is said when weights cannot be had. Nothing here reaches a network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedConfig

from trend_common.backbones import backbone_sha256, load_backbone
from trend_common.backbones.foreign import ForeignBackbone
from trend_common.backbones.hub import Source
from trend_common.errors import UsageError

Checkpoint = Callable[..., Path]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What the hub is asked for; it answers that it cannot be reached."""
    calls: list[tuple[str, dict[str, Any]]] = []

    def refuse(name: str, **options: Any) -> Any:
        calls.append((name, options))
        raise OSError("We couldn't connect to the hub\nand more lines")

    monkeypatch.setattr(PreTrainedConfig, "get_config_dict", refuse)
    return calls


def test_offline_it_says_what_was_tried_and_what_to_do(
    asked: list[tuple[str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError) as caught:
        load_backbone("google/timesfm-2.5-200m-transformers@abc123")
    assert "There is no backbone 'google/timesfm-2.5-200m-transformers' at revision abc123" in caught.value.message
    assert "HF_HUB_OFFLINE forbids asking the hub" in caught.value.message
    assert "more lines" not in caught.value.message
    assert "Set HF_HUB_OFFLINE=0" in caught.value.hint
    assert "hf download google/timesfm-2.5-200m-transformers --local-dir FOLDER" in caught.value.hint
    assert asked == [("google/timesfm-2.5-200m-transformers", {"revision": "abc123"})]


def test_online_it_says_so_too(asked: list[tuple[str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_TELEMETRY", False)
    with pytest.raises(UsageError, match=r"the hub did not give it.*couldn't connect") as caught:
        load_backbone("gpt2", revision="main")
    assert "Check the name, the revision and the connection" in caught.value.hint
    assert asked == [("gpt2", {"revision": "main"})]
    assert huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY, "no word of who asks, with what"


@pytest.mark.parametrize("text", ["./not-here", "a/b/c", "/nowhere/at/all", "-x", "two words", "C:\\models\\gpt2"])
def test_what_cannot_be_a_hub_name_is_not_asked_for(text: str, asked: list[Any]) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        load_backbone(text)
    assert asked == []


def test_an_existing_folder_is_never_looked_for_on_the_hub(
    tmp_path: Path, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("gpt2").mkdir()
    with pytest.raises(UsageError, match=r"no config\.json in it"):
        load_backbone("gpt2")
    assert asked == []


def test_two_revisions_and_a_revision_of_a_folder_are_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(UsageError, match="names one revision"):
        load_backbone("gpt2@one", revision="two")
    assert Source.parse("gpt2@one", "one").revision == "one"
    with pytest.raises(UsageError, match="is a folder; the revision"):
        load_backbone(str(checkpoint("gpt2")), revision="one")


def test_a_pinned_revision_in_the_cache_loads_offline_and_is_recorded(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache as the hub's own client lays it out."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--owner--tiny" / "snapshots" / commit
    shutil.copytree(checkpoint("gpt2"), snapshot)
    for module in ("huggingface_hub.constants", "transformers.utils.hub"):
        for name in ("HF_HUB_CACHE", "TRANSFORMERS_CACHE"):
            monkeypatch.setattr(f"{module}.{name}", str(tmp_path), raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    backbone = load_backbone(f"owner/tiny@{commit}")
    assert isinstance(backbone, ForeignBackbone)
    assert backbone.source == {"name": "owner/tiny", "revision": commit}
    assert backbone_sha256(backbone) == backbone_sha256(load_backbone(str(checkpoint("gpt2"))))
    with pytest.raises(UsageError, match="at revision fedcba"):
        load_backbone("owner/tiny@fedcba")


def test_a_composite_in_the_cache_loads_too(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--owner--composite" / "snapshots" / commit
    original = load_backbone(str(checkpoint("patchtst")))
    original.save_pretrained(snapshot)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path), raising=False)
    loaded = load_backbone(f"owner/composite@{commit}")
    assert backbone_sha256(loaded) == backbone_sha256(original)


def test_a_type_that_has_no_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "whisper"}')
    with pytest.raises(UsageError, match="type 'whisper'") as caught:
        load_backbone(str(tmp_path))
    assert "gpt2" in caught.value.hint
    (tmp_path / "config.json").write_text('{"model_type": "no-such-type"}')
    with pytest.raises(UsageError, match="no-such-type"):
        load_backbone(str(tmp_path))
    for text in ("{", "[]", "{}"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UsageError):
            load_backbone(str(tmp_path))


def test_plain_t5_and_the_first_chronos_are_refused_with_the_reason(tmp_path: Path) -> None:
    config = {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="is no forecasting model"):
        load_backbone(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({**config, "chronos_config": {"n_tokens": 4096}}))
    with pytest.raises(UsageError, match="the first Chronos") as caught:
        load_backbone(str(tmp_path))
    assert "amazon/chronos-2" in caught.value.hint


def test_without_the_extra_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("chronos", "chronos.chronos_bolt", "chronos.chronos2"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    for architecture in ("ChronosBoltModelForForecasting", "Chronos2Model"):
        config = {"model_type": "t5", "architectures": [architecture], "chronos_config": {}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "model.safetensors").touch()
        with pytest.raises(UsageError, match="chronos-forecasting, which is not installed") as caught:
            load_backbone(str(tmp_path))
        assert "trend-federated[chronos]" in caught.value.hint


def test_pickled_weights_are_never_read(checkpoint: Checkpoint, tmp_path: Path) -> None:
    shutil.copytree(checkpoint("bert"), tmp_path / "core")
    tensors = load_file(tmp_path / "core" / "model.safetensors")
    torch.save(tensors, tmp_path / "core" / "pytorch_model.bin")
    (tmp_path / "core" / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"has no model\.safetensors") as caught:
        load_backbone(str(tmp_path / "core"))
    assert "never read" in caught.value.hint


def test_missing_tensors_are_not_drawn_at_random(checkpoint: Checkpoint, tmp_path: Path) -> None:
    shutil.copytree(checkpoint("gpt2"), tmp_path / "core")
    weights = tmp_path / "core" / "model.safetensors"
    tensors = {name: value for name, value in load_file(weights).items() if "h.1.attn.c_attn.weight" not in name}
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"lacks 1 of the core's tensors.*c_attn"):
        load_backbone(str(tmp_path / "core"))


def test_broken_weights_are_a_clear_error(checkpoint: Checkpoint, tmp_path: Path, tiny_backbone: Path) -> None:
    for source in (checkpoint("qwen2"), tiny_backbone):
        folder = tmp_path / source.name
        shutil.copytree(source, folder)
        (folder / "model.safetensors").write_bytes(b"not a tensor")
        with pytest.raises(UsageError, match="cannot be loaded"):
            load_backbone(str(folder))


def test_cores_whose_quantiles_say_nothing_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    shutil.copytree(checkpoint("timesfm"), tmp_path / "core")
    path = tmp_path / "core" / "config.json"
    config = json.loads(path.read_text())
    config["quantiles"] = sorted(q * 0.4 for q in config["quantiles"])
    path.write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"both sides of 0\.5|forecasts the quantiles"):
        load_backbone(str(tmp_path / "core"))
