"""The bundle's bytes are fixed for ever: every invitation names their hash."""

from __future__ import annotations

import io
import zipfile

from trend_common.flower.bundle import FAB_BYTES, FAB_SHA256, _build

RECORDED = "f274bfb398f40cf5d05e62c796461a09e450f9351a10dc273e64969134de12d5"


def test_the_hash_is_the_one_that_invitations_carry() -> None:
    assert FAB_SHA256 == RECORDED, "clients that joined refuse any other bundle: keep these bytes"
    assert _build() == FAB_BYTES


def test_it_holds_no_code() -> None:
    with zipfile.ZipFile(io.BytesIO(FAB_BYTES)) as archive:
        assert archive.namelist() == ["pyproject.toml"]
        assert b"dependencies = []" in archive.read("pyproject.toml")


def test_flower_accepts_it() -> None:
    from flwr.common.config import get_fab_config

    import trend_common.flower  # noqa: F401

    components = get_fab_config(FAB_BYTES)["tool"]["flwr"]["app"]["components"]
    assert components == {"serverapp": "trend_server.app:app", "clientapp": "trend_client.app:app"}
