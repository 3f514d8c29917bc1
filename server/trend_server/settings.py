"""What the operator sets: ``server.toml`` in the home, and the command line over it."""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trend_common.defaults import DEFAULT_LAUNCH_SHARE, DEFAULT_ROUNDS
from trend_common.errors import UsageError
from trend_common.files import write_text

__all__ = ["Bucket", "ServerSettings", "load_settings", "parse_duration", "write_default_settings"]

_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(s|m|h|d)?\s*$")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}


def parse_duration(text: str) -> float:
    """Return seconds: ``90s``, ``10m``, ``2h``, ``7d``, or a number of seconds.

    Raises:
        UsageError: It is none of these, or not above 0.
    """
    match = _DURATION.match(text)
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if seconds <= 0:
        raise UsageError(f"{text!r} is not a duration.", "Write a number and s, m, h or d, such as 90s or 10m.")
    return seconds


class Bucket(BaseModel):
    """What clients of one declared size do: share of units in a step, and the public number to divide by."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    q: float = Field(gt=0, le=1)
    expected_batch: int = Field(ge=1)


class ServerSettings(BaseModel):
    """All settings; the comments in ``server.toml`` say what each is for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    federation: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = "federation-1"
    names: tuple[str, ...] = ()
    backbone: str = "trend-small"
    freq: Literal["D", "W", "M"] = "D"
    horizon: int = Field(28, ge=1, le=56)
    context: int = Field(0, ge=0, le=512)
    rounds: int = Field(DEFAULT_ROUNDS, ge=1, le=100_000)
    steps: int = Field(1, ge=1, le=100_000)
    min_clients: int = Field(3, ge=1, le=100_000)
    round_timeout: str = "10m"
    joins_at_once: int = Field(30, ge=1, le=100_000)
    joins_per_minute: float = Field(120.0, gt=0, le=1e6)
    update: Literal["gradient", "weights"] = "gradient"
    train: Literal["B", "AB"] = "B"
    layers: tuple[str, ...] = ()
    rank: int = Field(2, ge=1, le=256)
    windows_per_series: int = Field(4, ge=1, le=64)
    launch_share: float = Field(DEFAULT_LAUNCH_SHARE, ge=0, le=1)
    local_learning_rate: float = Field(1e-3, ge=0, le=10)
    proximal_mu: float = Field(0.0, ge=0, le=1e3)
    private: bool = True
    epsilon: float = Field(4.0, gt=0, le=1e4)
    delta: float = Field(1e-5, gt=0, lt=1)
    clip: float = Field(0.02, gt=0, le=1e4)
    unit: Literal["series", "product", "store"] = "series"
    buckets: dict[Literal["S", "M", "L"], Bucket] = Field(
        default={
            "S": Bucket(q=1.0, expected_batch=50),
            "M": Bucket(q=1.0, expected_batch=250),
            "L": Bucket(q=0.25, expected_batch=500),
        },
        min_length=1,
    )
    wire: Literal["int8", "float32"] = "int8"
    secure_aggregation: bool = False
    secure_threshold: float = Field(0.667, ge=0.5, lt=1)
    secure_clients: int = Field(128, ge=3, le=10_000)
    aggregation: Literal["mean", "trimmed-mean", "median"] = "mean"
    trim: float = Field(0.2, ge=0, lt=0.5)
    optimiser: Literal["auto", "adam", "sgd", "none"] = "auto"
    learning_rate: float = Field(0.012, gt=0, le=10)
    betas: tuple[float, float] = (0.9, 0.99)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        try:
            parse_duration(self.round_timeout)
        except UsageError as error:
            raise ValueError(f"round_timeout: {error.message}") from error
        if self.update == "gradient" and self.steps != 1:
            raise ValueError('steps above 1 need update = "weights": one gradient a round is one step')
        if not self.private and self.wire == "int8":
            raise ValueError('private = false needs wire = "float32": int8 may only round what already carries noise')
        if self.secure_aggregation:
            if self.aggregation != "mean":
                raise ValueError(
                    'secure_aggregation needs aggregation = "mean": the server sees the sum alone, and no '
                    f"{self.aggregation} can be taken of it"
                )
            if not 3 <= self.min_clients <= self.secure_clients:
                raise ValueError("secure_aggregation needs min_clients of at least 3 and at most secure_clients")
        return self

    @property
    def server_optimiser(self) -> Literal["adam", "sgd", "none"]:
        """``auto`` resolved: Adam on gradients, the plain mean of weights."""
        if self.optimiser != "auto":
            return self.optimiser
        return "adam" if self.update == "gradient" else "none"


_DEFAULT_TOML = """\
# Settings of trend-server. The command line goes over them. Remove a "#" to change a value.
# A federation that has begun keeps its plan; to change what clients agreed to, start another with a new name.

# federation = "federation-1"     # name of the run; a new name is a new federation, and spends privacy anew
# names = ["federation.example"]  # further host names and addresses under which clients reach this server

# What is forecast.
# backbone = "trend-small"
# freq = "D"                      # step of the series: D, W or M
# horizon = 28                    # steps ahead
# context = 0                     # steps of history that the model sees; 0 takes what suits the backbone

# The rounds.
# rounds = 10
# steps = 1                       # local steps in each round; more than 1 needs update = "weights"
# min_clients = 3                 # a round closes with at least so many answers
# round_timeout = "10m"           # ... and at the latest after this time, if so many have answered

# Joining. Whoever asks more often is told to come back; a large federation behind one address needs more.
# joins_at_once = 30              # requests to join from one address at once
# joins_per_minute = 120.0        # ... and how many it gets back each minute

# The training.
# update = "gradient"             # gradient: the clients send one noised gradient; weights: a change of weights
# train = "B"                     # LoRA's B alone (the mean is exact), or AB
# layers = []                     # e.g. ["head1", "head2"]: train these alone, with less noise for few retailers
# rank = 2
# windows_per_series = 4
# launch_share = 0.25             # share of these that hides the history, for products and retailers without one
# local_learning_rate = 0.001     # for update = "weights"
# proximal_mu = 0.0               # FedProx, for update = "weights"
# aggregation = "mean"            # mean, trimmed-mean or median
# trim = 0.2                      # share cut at each end by trimmed-mean
# optimiser = "auto"              # adam, sgd, none; auto is adam for gradients and none for weights
# learning_rate = 0.012
# betas = [0.9, 0.99]

# Differential privacy, for each unit over the whole federation. Each client checks it against its own policy.
# private = true                  # false only in rehearsals: clients refuse it by default
# epsilon = 4.0
# delta = 1e-5
# clip = 0.02                     # largest norm of one unit's gradient
# unit = "series"                 # series, product or store
# wire = "int8"                   # int8 after the noise, or float32

# Secure aggregation: the server sees the sum of the clients' noised answers, and none of them alone. Four bytes a
# number, five messages a round, aggregation = "mean". Who has not joined when the first round opens cannot train.
# secure_aggregation = false
# secure_threshold = 0.667        # more than this share of a round's clients must help to reveal its sum
# secure_clients = 128            # most clients in one sum

# Sizes that a client may declare: q is the share of its units in a step, expected_batch the public number that sums
# are divided by. Naming one bucket here replaces all three.
# [buckets]
# S = { q = 1.0, expected_batch = 50 }
# M = { q = 1.0, expected_batch = 250 }
# L = { q = 0.25, expected_batch = 500 }
"""


def write_default_settings(path: Path) -> None:
    """Write a ``server.toml`` that says what can be set, with every default commented out."""
    write_text(path, _DEFAULT_TOML)


def load_settings(path: Path, overrides: dict[str, Any]) -> ServerSettings:
    """Read ``server.toml`` and lay ``overrides`` over it (those that are None say nothing).

    Raises:
        UsageError: The file is not TOML, a key is unknown (the nearest known one is named), or a value does not fit.
    """
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text("utf-8")) if path.exists() else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}.", "Correct that line, or remove the file.") from error
    values |= {name: value for name, value in overrides.items() if value is not None}
    try:
        return ServerSettings.model_validate(values)
    except ValidationError as error:
        raise UsageError(_problems(error, path), "Each setting is explained in server.toml.") from error


def _problems(error: ValidationError, path: Path) -> str:
    lines = []
    for item in error.errors():
        key = ".".join(map(str, item["loc"]))
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(item["loc"][-1]), list(ServerSettings.model_fields), n=1)
            lines.append(f"there is no setting {key}" + (f"; did you mean {near[0]}?" if near else ""))
        else:
            message = item["msg"].removeprefix("Value error, ")
            lines.append(f"{key}: {message}" if key else message)
    return f"The settings ({path.name} and the command line) do not fit: {'; '.join(lines)}."
