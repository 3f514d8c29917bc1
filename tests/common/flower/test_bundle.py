"""The bundle's bytes are fixed for ever: every invitation names their hash."""

from __future__ import annotations

import io
import zipfile

from trend_common.flower.bundle import FAB_BYTES, FAB_SHA256, _build

RECORDED = "f47c7e6c3dd1af006728f3cdd94893fe9f2bcc47582995b8c96f725dc93ed047"


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
    assert components == {"serverapp": "trend_server.app:app", "clientapp": "trend_client.app:make_app"}
