"""What a simulation is asked to do, and the values that are taken where nothing was asked.

The defaults of the federations were chosen on synthetic retailers, by the mean over retailers of the loss on the
validation horizon (``docs/simulation.md`` has the grid); no test window and no real sales entered them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from trend_client.trees import TREES
from trend_common.covariates import DEFAULT_CONTEXT, DEFAULT_HORIZON
from trend_common.defaults import DEFAULT_LAUNCH_SHARE, DEFAULT_ROUNDS
from trend_common.errors import UsageError

__all__ = [
    "ARMS",
    "BLENDED_METHODS",
    "BLENDS",
    "MORE_ARMS",
    "PRIVATE",
    "DpRecipe",
    "LocalRecipe",
    "PlainRecipe",
    "Settings",
    "split_arm",
]

_PATCH: Final = 14

ARMS: Final = (
    "zero-shot",
    "local",
    "federated",
    "federated-personal",
    "federated-dp",
    "federated-dp-personal",
    "alone",
    "gated",
    "gated-dp",
    "central",
)
"""What can be compared."""

MORE_ARMS: Final = ("lightgbm", TREES, "grouped", "grouped-dp")
"""What can be compared besides, if it is named: they need libraries of their own, or declared groups."""

PRIVATE: Final = ("federated-dp", "federated-dp-personal", "gated-dp", "grouped-dp")
"""Arms that may carry an ε of their own: ``federated-dp@4``."""

BLENDS: Final = {
    "alone": ("zero-shot", "local"),
    "gated": ("zero-shot", "local", "federated"),
    "gated-dp": ("zero-shot", "local", "federated-dp"),
}
"""Arm → the arms that it is a blend of, with :data:`BLENDED_METHODS` besides."""

BLENDED_METHODS: Final = ("same-phase-mean", TREES)
"""What a retailer blends in besides, as the product does: quick, and wrong about other weeks than the models are."""


@dataclass(frozen=True)
class DpRecipe:
    """One noised gradient a round from every client; the server averages and takes a step of Adam.

    Attributes:
        rounds: T.
        clip: C, the largest norm of one series' gradient.
        server_lr: Adam's step size.
        rank: r of LoRA; B alone is trained.
        windows_per_series: k.
        launch_share: Share of them that hide the history.
        layers: Of the backbone's layers those that are trained; all by default.
    """

    rounds: int = DEFAULT_ROUNDS
    clip: float = 0.02
    server_lr: float = 0.012
    rank: int = 2
    windows_per_series: int = 4
    launch_share: float = DEFAULT_LAUNCH_SHARE
    layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlainRecipe:
    """A federation without privacy.

    Attributes:
        update: "weights" is FedAvg (or FedProx) over ``steps`` local steps of Adam; "gradient" is one gradient a
            round and Adam at the server, as with privacy but without noise.
        rounds, steps, local_lr, proximal_mu, server_lr, rank, train, windows_per_series, launch_share: As in the
            plan.
    """

    update: Literal["weights", "gradient"]
    rounds: int
    steps: int = 1
    local_lr: float = 1e-3
    proximal_mu: float = 0.0
    server_lr: float = 0.006
    rank: int = 4
    train: Literal["B", "AB"] = "B"
    windows_per_series: int = 4
    launch_share: float = 0.0

    @property
    def label(self) -> str:
        """How it is named in the results."""
        if self.update == "gradient":
            return f"{self.rounds} rounds of one gradient, server step {self.server_lr:g}, r={self.rank}"
        name = "FedProx" if self.proximal_mu else "FedAvg"
        return f"{name}, {self.rounds} rounds of {self.steps} steps at {self.local_lr:g}, r={self.rank}"


@dataclass(frozen=True)
class LocalRecipe:
    """Training on one retailer's own series, or (central) on all retailers' together.

    Attributes:
        learning_rates, checkpoints: Tried; the best on validation is taken.
        rank: r of LoRA; A and B are trained.
    """

    learning_rates: tuple[float, ...] = (1e-3, 3e-3)
    checkpoints: tuple[int, ...] = (5, 10, 20, 40, 60)
    rank: int = 4


def split_arm(arm: str) -> tuple[str, float | None]:
    """The name of an arm, and the ε that it carries.

    Raises:
        UsageError: There is no such arm, or it is not a private one and carries an ε.
    """
    name, at, text = arm.partition("@")
    if name not in (*ARMS, *MORE_ARMS):
        raise UsageError(f"There is no arm {name!r}.", f"Arms are {', '.join((*ARMS, *MORE_ARMS))}.")
    if not at:
        return name, None
    try:
        epsilon = float(text)
    except ValueError:
        epsilon = 0.0
    if name not in PRIVATE or not 0 < epsilon < math.inf:
        raise UsageError(
            f"There is no arm {arm!r}.", f"An ε above 0 can follow {', '.join(PRIVATE)}: {PRIVATE[0]}@4."
        )
    return name, epsilon


_PLAIN: Final[dict[str, tuple[PlainRecipe, ...]]] = {
    "W": (PlainRecipe("weights", rounds=8, steps=5, local_lr=1e-3, train="AB", launch_share=0.125),),
    "D": (PlainRecipe("weights", rounds=12, steps=5, local_lr=1e-3, train="AB", launch_share=0.125),),
}


@dataclass(frozen=True)
class Settings:
    """A whole simulation.

    Attributes:
        freq: Step of all retailers.
        horizon: H.
        context: Steps of history that the model sees, a multiple of the backbone's patch.
        seeds: Of adapters and draws; the noise of private arms comes from the system and has no seed.
        epsilon, delta: Of the private arms.
        backbone: Name or folder.
        dp, plain, local, central: How the arms train; ``federated`` takes the recipe of ``plain`` that is best on
            validation in the mean over the retailers.
        threads: Of torch.
        calibrate: Whether every arm's intervals are calibrated by each retailer on its validation horizon.
        trust: How far a retailer believes its own validation horizon, for each year of sales before it. With η =
            trust · years the blends' weights are those of the best blend there by η / (η + 10), and for the rest
            ∝ exp(−η · (loss / lowest loss − 1)). 0 weighs all parts alike.
        secure: Whether the private federations are played with secure aggregation.
    """

    freq: Literal["D", "W", "M"]
    horizon: int
    context: int
    seeds: tuple[int, ...] = (0, 1, 2)
    epsilon: float = 4.0
    delta: float = 1e-5
    backbone: str = "trend-small"
    dp: DpRecipe = DpRecipe()
    plain: tuple[PlainRecipe, ...] = ()
    local: LocalRecipe = LocalRecipe()
    central: LocalRecipe = field(default_factory=lambda: LocalRecipe(checkpoints=(50, 100, 200, 400), rank=4))
    threads: int = 1
    calibrate: bool = True
    trust: float = 10.0
    secure: bool = False

    @classmethod
    def of(
        cls,
        freq: Literal["D", "W", "M"],
        *,
        horizon: int | None = None,
        history: int | None = None,
        seeds: int = 3,
        backbone: str = "trend-small",
        epsilon: float = 4.0,
        delta: float = 1e-5,
        rounds: int | None = None,
        steps: int | None = None,
        clip: float | None = None,
        rank: int | None = None,
        windows_per_series: int | None = None,
        launch_share: float | None = None,
        server_lr: float | None = None,
        threads: int = 1,
        calibrate: bool = True,
        secure: bool = False,
        layers: tuple[str, ...] = (),
    ) -> Settings:
        """The defaults for a frequency, with what was asked for put in their place.

        ``rounds``, ``rank``, ``windows_per_series``, ``launch_share`` and ``server_lr`` hold for every federated
        arm, ``steps`` for those that train locally, ``layers`` for the private ones.
        """
        ahead = horizon or DEFAULT_HORIZON[freq]
        context = DEFAULT_CONTEXT[freq]
        if history is not None:
            # Longer than what exists would be padding; the test sees the validation horizon besides.
            context = min(context, -(-(history + ahead) // _PATCH) * _PATCH)
        common = {
            "rounds": rounds,
            "rank": rank,
            "windows_per_series": windows_per_series,
            "launch_share": launch_share,
            "server_lr": server_lr,
        }
        asked = {key: value for key, value in common.items() if value is not None}
        dp = replace(DpRecipe(layers=layers), **asked, **({} if clip is None else {"clip": clip}))  # type: ignore[arg-type]
        plain = []
        for recipe in _PLAIN["D" if freq == "D" else "W"]:
            changed = dict(asked)
            if steps is not None and recipe.update == "weights":
                changed["steps"] = steps
            plain.append(replace(recipe, **changed))  # type: ignore[arg-type]
        return cls(
            freq=freq,
            horizon=ahead,
            context=context,
            seeds=tuple(range(seeds)),
            epsilon=epsilon,
            delta=delta,
            backbone=backbone,
            dp=dp,
            plain=tuple(plain),
            threads=threads,
            calibrate=calibrate,
            secure=secure,
        )
