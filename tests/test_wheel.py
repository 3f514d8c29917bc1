"""The built package works away from the checkout: its weights are in it, and no generic name is installed."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_the_wheel_carries_the_weights_and_only_our_packages(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    place = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(place)
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"trend_common", "trend_client", "trend_server", "trend_simulations"}
    entry = next(place.glob("*.dist-info")) / "entry_points.txt"
    assert all(command in entry.read_text() for command in ("trend-server", "trend-client", "trend-sim"))
    program = (
        "import trend_common, pathlib, trend_common.backbones as b;"
        f"assert pathlib.Path(trend_common.__file__).is_relative_to({str(place)!r}), trend_common.__file__;"
        "print(b.backbone_sha256(b.load_backbone('trend-small')))"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(place), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    from trend_common.backbones import backbone_sha256, load_backbone

    assert done.stdout.strip() == backbone_sha256(load_backbone("trend-small"))
