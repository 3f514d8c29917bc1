"""The Flower App Bundle (FAB) that names our apps: one ``pyproject.toml`` and no code.

Flower ties each run to the hash of a bundle. Ours holds nothing that could run; the apps are the installed ones. The
bytes are made here, entry by entry, so that the hash is the same with every version of Flower, Python and operating
system. A client refuses a run with any other hash.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from typing import Final

__all__ = ["FAB_BYTES", "FAB_SHA256"]

_PYPROJECT = """\
[project]
name = "trend-federated"
version = "1.0.0"
description = "Names the installed apps; holds no code"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "trend"

[tool.flwr.app.components]
serverapp = "trend_server.app:app"
clientapp = "trend_client.app:make_app"

[tool.flwr.app.config]
"""


def _build() -> bytes:
    entry = zipfile.ZipInfo("pyproject.toml", date_time=(1980, 1, 1, 0, 0, 0))
    entry.create_system = 3
    entry.external_attr = 0o644 << 16
    entry.compress_type = zipfile.ZIP_STORED
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(entry, _PYPROJECT.encode("ascii"))
    return buffer.getvalue()


FAB_BYTES: Final = _build()
FAB_SHA256: Final = hashlib.sha256(FAB_BYTES).hexdigest()
"""Hash of the bundle; an invitation carries it, and it changes only with the text above."""
