"""How long commands take to begin, and what a client's process holds before torch.

    python benchmarks/startup.py [--repeats 5] [--json FILE]

``help``: ``trend-client --help``. ``check``: of a synthetic file of about 1 MB. ``ready``: a client process from
nothing to the first batch of windows of that file, backbone and adapter in memory. Each is a new process; medians of
wall and CPU seconds. ``client_rss_mb_before_torch``: resident memory of a process that has imported all that it takes
to join a federation, to keep the ledger and to answer messages, but the model.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from trend_common import __version__
from trend_common.files import write_json
from trend_simulations.retailers import write_retailers

_READY = """
import sys
from pathlib import Path
from trend_common.panel import read
from trend_client.engine import Engine
from trend_client.session import ClientSession
from trend_client.training import TrainingData
from trend_common.scoring import training_panel
from trend_common.windows import PanelWindows
import numpy as np
panel = training_panel(read(Path(sys.argv[1])), 28)
windows = PanelWindows(panel, context=252)
data = TrainingData.of(windows, train_end=windows.n_steps, horizon=28)
engine = Engine("trend-small", device="cpu")
engine.install_local(2)
data.draw(np.arange(data.n_units), 1, np.random.default_rng(0).random)
"""
_WAITING = """
import sys
import trend_common.flower.enrol_client, trend_common.flower.keys, trend_common.flower.node
import trend_common.privacy.ledger, trend_common.privacy.policy, trend_common.privacy.sent, trend_common.protocol
assert "torch" not in sys.modules, "torch is loaded"
print(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1])
"""
_BYTES = 1_000_000


def sales(folder: Path) -> Path:
    """A synthetic file of about 1 MB."""
    path = write_retailers(folder, 1, series=(40, 40), days=730)[0]
    lines = path.read_bytes().splitlines(keepends=True)
    kept, size = [], 0
    for line in lines:
        size += len(line)
        if size > _BYTES:
            break
        kept.append(line)
    path.write_bytes(b"".join(kept))
    return path


def timed(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Wall and CPU seconds of one process."""
    before, started = os.times(), time.monotonic()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    wall, after = time.monotonic() - started, os.times()
    used = after.children_user - before.children_user + after.children_system - before.children_system
    return wall, used


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", help="not used: the shipped one is loaded")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    client = str(Path(sys.executable).parent / "trend-client")
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="trend-startup-") as name:
        folder = Path(name)
        path = sales(folder)
        environment = {**os.environ, "TREND_CLIENT_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
        commands = {
            "help": [client, "--help"],
            "check": [client, "check", "--data", str(path)],
            "ready": [sys.executable, "-W", "ignore", "-c", _READY, str(path)],
        }
        for what, command in commands.items():
            samples = [timed(command, environment) for _ in range(options.repeats)]
            wall, cpu = np.median(np.array(samples), axis=0)
            rows[what] = {
                "wall_s": round(float(wall), 3),
                "cpu_s": round(float(cpu), 3),
                "samples_wall_s": [round(one[0], 3) for one in samples],
            }
        size = path.stat().st_size
        waiting = [sys.executable, "-W", "ignore", "-c", _WAITING]
        resident = subprocess.run(waiting, env=environment, capture_output=True, text=True, check=False)
    memory = int(resident.stdout) / 1024 if resident.returncode == 0 else None
    result = {
        "client_rss_mb_before_torch": memory,
        "failed": resident.stderr.strip().splitlines()[-1:] if memory is None else [],
        "file_bytes": size,
        "rows": rows,
    }
    print(json.dumps(result))
    if options.json:
        write_json(options.json, {"schema": 1, "version": __version__, "command": "startup", **result})
    return 0


if __name__ == "__main__":
    sys.exit(main())
