"""The home folder: what it keeps, who may read it, and what it notices."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest

from trend_client.home import ClientHome, DataSource, Identity, Lineage
from trend_common.errors import ConnectionFailure, PolicyError
from trend_common.tensors import tensors_sha256

TENSORS = {"a": np.arange(4, dtype=np.float32), "b": np.ones((2, 2), np.float32)}


def lineage(tensors: dict[str, np.ndarray], number: int = 3) -> Lineage:
    return Lineage(
        federation="f", round=number, final=True, plan_sha256="0" * 64, adapter_sha256=tensors_sha256(tensors)
    )


@pytest.fixture
def home(tmp_path: Path) -> ClientHome:
    return ClientHome(tmp_path / "home")


def test_the_last_shared_adapter_is_kept_and_earlier_ones_go(home: ClientHome) -> None:
    home.save_shared(lineage(TENSORS, 1), TENSORS)
    newer = {name: value + 1 for name, value in TENSORS.items()}
    home.save_shared(lineage(newer, 2), newer)
    found = home.shared("f")
    assert found is not None
    assert found[0].round == 2
    np.testing.assert_array_equal(found[1]["a"], newer["a"])
    assert len(list(home.federation("f").glob("shared-*.safetensors"))) == 1
    assert home.current_federation() == "f"


def test_an_altered_adapter_is_noticed(home: ClientHome) -> None:
    home.save_shared(lineage(TENSORS), TENSORS)
    path = next(home.federation("f").glob("shared-*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(PolicyError, match="altered"):
        home.shared("f")
    path.write_bytes(b"nonsense")
    with pytest.raises(PolicyError, match="damaged"):
        home.shared("f")


@pytest.mark.skipif(os.name == "nt", reason="POSIX modes")
def test_only_the_owner_can_read_what_is_private(home: ClientHome) -> None:
    home.save_identity(Identity(server="h:1", name="n", fab_sha256="0" * 64), "CERT")
    home.save_data_source(DataSource(path="/sales.csv"))
    home.save_shared(lineage(TENSORS), TENSORS)
    home.save_personal("f", TENSORS, {"none": 0.5}, "shared")
    for path in home.root.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert not mode & 0o077 or path.is_dir(), f"{path} has mode {mode:o}"
    assert stat.S_IMODE(home.root.stat().st_mode) == 0o700


def test_leaving_forgets_the_key_and_keeps_the_adapters(home: ClientHome) -> None:
    home.save_identity(Identity(server="h:1", name="n", fab_sha256="0" * 64), "CERT")
    home.key_path.write_text("key")
    home.save_shared(lineage(TENSORS), TENSORS)
    home.forget_identity()
    assert home.identity() is None
    assert not home.key_path.exists()
    assert home.shared("f") is not None


def test_a_damaged_identity_is_a_clear_error(home: ClientHome) -> None:
    (home.root / "identity.json").write_text('{"server": 3}')
    with pytest.raises(ConnectionFailure, match="damaged"):
        home.identity()


def test_two_homes_have_their_ledger_heads_in_two_places(tmp_path: Path) -> None:
    one, two = ClientHome(tmp_path / "one"), ClientHome(tmp_path / "two")
    assert one.head_folder != two.head_folder
    assert tmp_path / "one" not in one.head_folder.parents
