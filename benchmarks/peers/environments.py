"""The peers' own environments, made when they are missing: their pins do not go with ours.

Each is a virtual environment with this project (without its dependencies' pins where the peer's differ), the same
torch, and the peer.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_COMMON = (
    "accelerate",
    "cryptography",
    "filelock",
    "holidays",
    "httpx",
    "jinja2",
    "matplotlib",
    "opacus",
    "pandas",
    "peft",
    "psutil",
    "pyarrow",
    "pydantic",
    "rich",
    "safetensors",
    "statsforecast",
    "tomli-w",
    "torch",
    "transformers",
    "typer",
    "uvicorn",
)
_PEERS = {
    # pfl wants an older accountant and older build tools than ours; none of them computes anything here.
    "pfl": (("pfl==0.6.0",), ("absl-py", "dp-accounting", "packaging", "wheel")),
    "flower-ray": (("flwr[simulation]==1.41.0", "dp-accounting"), ()),
}


def python(name: str, folder: Path) -> Path:
    """The interpreter of the environment ``name``, which is made under ``folder`` at its first use.

    Raises:
        RuntimeError: pip failed, with its last words.
    """
    home = folder / name
    interpreter = home / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    done = home / ".complete"
    if done.exists():
        return interpreter
    wanted, free = _PEERS[name]
    print(f"   making the environment {home}", flush=True)
    venv.create(home, with_pip=True, clear=True)
    constraints = home / "constraints.txt"
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    constraints.write_text("\n".join(line for line in pins if line.split("==")[0].lower() not in free) + "\n")
    _pip(interpreter, "--constraint", str(constraints), *wanted, *_COMMON)
    _pip(interpreter, "--no-deps", "--editable", str(ROOT))
    done.touch()
    return interpreter


def _pip(interpreter: Path, *arguments: str) -> None:
    command = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise RuntimeError(f"pip could not make the environment of {interpreter}: {found.stderr.strip()[-800:]}")
