"""Checkpoints and the registry: what was saved comes back bit by bit, and damage is noticed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fakes import small_plan

from trend_common.errors import UsageError
from trend_common.tensors import Tensors, tensors_sha256
from trend_server.app import check_same_plan
from trend_server.checkpoints import Announcement, Checkpoint, DiskStore, MemoryStore, RoundRecord
from trend_server.registry import Registry
from trend_server.settings import ServerSettings


def checkpoint(number: int, plan_sha256: str, initial: Tensors) -> Checkpoint:
    """A state after ``number`` rounds."""
    rng = np.random.default_rng(number)
    adapter = {name: rng.normal(size=value.shape).astype(np.float32) for name, value in initial.items()}
    return Checkpoint(
        round=number,
        plan_sha256=plan_sha256,
        adapter=adapter,
        optimiser={f"m/{name}": value * 2 for name, value in adapter.items()},
        optimiser_steps=number,
        history=tuple(RoundRecord(i + 1, 3, 0.5, "a" * 64, 1.25) for i in range(number)),
    )


def same(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two states are equal."""
    return (
        (one.round, one.plan_sha256, one.optimiser_steps, one.history)
        == (other.round, other.plan_sha256, other.optimiser_steps, other.history)
        and tensors_sha256(one.adapter) == tensors_sha256(other.adapter)
        and tensors_sha256(one.optimiser) == tensors_sha256(other.optimiser)
    )


def test_the_newest_comes_back_and_few_are_kept(tmp_path: Path) -> None:
    plan, initial, _ = small_plan()
    store = DiskStore(tmp_path)
    assert store.load(plan) is None
    for number in range(1, 6):
        store.save(checkpoint(number, plan.sha256(), initial))
    found = store.load(plan)
    assert found is not None
    assert same(found, checkpoint(5, plan.sha256(), initial))
    assert len(list(tmp_path.glob("round-*"))) == 3


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: str) -> None:
    plan, initial, _ = small_plan()
    store = DiskStore(tmp_path)
    for number in (1, 2):
        store.save(checkpoint(number, plan.sha256(), initial))
    path = tmp_path / "round-000002.safetensors"
    data = bytearray(path.read_bytes())
    if damage == "truncate":
        data = data[: len(data) // 2]
    elif damage == "flip":
        data[-30] ^= 0xFF  # in the adapter or the optimiser's tensors
        start = data.index(b'"adapter/') if b'"adapter/' in data else 0
        assert start
        data[8 + int.from_bytes(data[:8], "little") + 3] ^= 0x40
    else:
        data = bytearray()
    path.write_bytes(bytes(data))
    found = store.load(plan)
    assert found is not None
    assert found.round == 1


def test_another_plan_s_state_is_not_taken(tmp_path: Path) -> None:
    plan, initial, _ = small_plan(rounds=3)
    other, _, _ = small_plan(rounds=4)
    for store in (DiskStore(tmp_path), MemoryStore()):
        store.save(checkpoint(1, plan.sha256(), initial))
        assert store.load(other) is None
        assert store.load(plan) is not None


def test_what_was_announced_comes_back(tmp_path: Path) -> None:
    plan, initial, frozen = small_plan(privacy=True)
    store = DiskStore(tmp_path / "f")
    assert store.announced() is None
    store.announce(Announcement(plan, initial, frozen))
    found = DiskStore(tmp_path / "f").announced()
    assert found is not None
    assert found.plan == plan
    assert tensors_sha256(found.frozen) == plan.adapter.frozen_sha256
    assert tensors_sha256(found.initial) == tensors_sha256(initial)


@pytest.mark.parametrize("name", ["plan.json", "start.safetensors"])
def test_a_damaged_start_is_said(tmp_path: Path, name: str) -> None:
    plan, initial, frozen = small_plan()
    store = DiskStore(tmp_path)
    store.announce(Announcement(plan, initial, frozen))
    (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(UsageError, match="damaged"):
        store.announced()


def test_other_frozen_tensors_are_noticed(tmp_path: Path) -> None:
    plan, initial, frozen = small_plan()
    store = DiskStore(tmp_path)
    store.announce(Announcement(plan, initial, {name: value + 1 for name, value in frozen.items()}))
    with pytest.raises(UsageError, match="frozen"):
        store.announced()


def test_versions_lineage_and_export(tmp_path: Path) -> None:
    plan, initial, frozen = small_plan(privacy=True)
    state = checkpoint(3, plan.sha256(), initial)
    registry = Registry(tmp_path / "registry")
    with pytest.raises(UsageError, match="no finished adapter"):
        registry.get(None)
    card = registry.add(plan, state.adapter, frozen, initial, state.history)
    assert registry.add(plan, state.adapter, frozen, initial, state.history) == card, "a restart adds nothing"
    assert (card.version, card.rounds, card.participants_mean) == (1, 3, 3.0)
    assert card.parent_sha256 == tensors_sha256(initial)
    assert card.epsilon == 4
    later = registry.add(plan, checkpoint(4, "", initial).adapter, frozen, state.adapter, ())
    assert later.parent_sha256 == card.adapter_sha256
    assert [one.version for one in registry.cards()] == [1, 2]
    registry.export(1, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"]) == ("LORA", 2)
    from safetensors.numpy import load_file

    exported = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert tensors_sha256(exported) == tensors_sha256({**frozen, **state.adapter})
    with pytest.raises(UsageError, match="no version 7"):
        registry.get(7)
    (tmp_path / "registry" / "v0001.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="damaged"):
        registry.export(1, tmp_path / "again")


def test_a_federation_goes_on_as_it_began() -> None:
    plan, _, _ = small_plan(privacy=True)
    settings = ServerSettings(
        backbone="tiny",
        rounds=3,
        buckets={"S": {"q": 1, "expected_batch": 50}},
        epsilon=4.1,
        clip=0.1,
        federation="test",
        launch_share=0.0,
    )
    check_same_plan(plan, settings)
    for change in (
        {"rounds": 4},
        {"epsilon": 8.0},
        {"freq": "W"},
        {"clip": 0.2},
        {"context": 112},
        {"unit": "store"},
    ):
        with pytest.raises(UsageError, match=f"{next(iter(change))} is"):
            check_same_plan(plan, settings.model_copy(update=change))
