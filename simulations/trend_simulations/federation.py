"""One federation on this machine: the server's own loop and the clients' own apps, in one process or in several."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trend_client.app import make_app
from trend_client.engine import Engine
from trend_common.errors import Declined
from trend_common.flower.forked import ForkedGrid
from trend_common.flower.keys import load_or_create_key, public_key_text
from trend_common.privacy.plan import signal_to_noise
from trend_common.protocol import FederationPlan
from trend_common.secagg.messages import RosterEntry
from trend_server.checkpoints import Announcement
from trend_server.desk import FederationEvent
from trend_server.federation import LoopSettings, federate
from trend_server.plans import make_plan
from trend_server.settings import Bucket, ServerSettings
from trend_simulations.cases import Adapter
from trend_simulations.clients import Clock, Member, members
from trend_simulations.settings import DpRecipe, PlainRecipe, Settings

__all__ = ["Member", "Outcome", "announce", "federate_in_process", "members"]

_EXPECTED_BATCH = 30


@dataclass(frozen=True)
class Outcome:
    """What a federation ended with.

    Attributes:
        adapter: The shared adapter.
        plan: What was agreed to.
        spent: ε in each client's ledger.
        bytes_up: Of one client in one round.
        seconds, training: In all, and inside the clients' rounds.
        signal_to_noise: The bound of :func:`trend_common.privacy.plan.signal_to_noise` over the run.
    """

    adapter: Adapter
    plan: FederationPlan
    spent: dict[str, float] = field(default_factory=dict)
    bytes_up: int = 0
    seconds: float = 0.0
    training: float = 0.0
    signal_to_noise: float = math.inf


def announce(
    engine: Engine, settings: Settings, recipe: DpRecipe | PlainRecipe, *, name: str, seed: int, secure: bool = False
) -> Announcement:
    """The plan of one federation, made as a server makes it; a DP recipe is calibrated to the settings' ε and δ.

    Args:
        engine, settings, recipe: What is trained, and how.
        name: Of the federation.
        seed: Of the adapter's A.
        secure: With secure aggregation, for three retailers or more.
    """
    asked: dict[str, Any] = {
        "federation": name,
        "backbone": settings.backbone,
        "freq": settings.freq,
        "horizon": settings.horizon,
        "context": settings.context,
        "rounds": recipe.rounds,
        "rank": recipe.rank,
        "windows_per_series": recipe.windows_per_series,
        "secure_aggregation": secure,
    }
    if isinstance(recipe, DpRecipe):
        asked |= {
            "epsilon": settings.epsilon,
            "delta": settings.delta,
            "clip": recipe.clip,
            "buckets": {"S": Bucket(q=1.0, expected_batch=_EXPECTED_BATCH)},
        }
    else:
        asked |= {
            "private": False,
            "wire": "float32",
            "train": recipe.train,
            "update": recipe.update,
            "steps": 1 if recipe.update == "gradient" else recipe.steps,
            "local_learning_rate": recipe.local_lr,
            "proximal_mu": recipe.proximal_mu,
        }
    return make_plan(ServerSettings(**asked), backbone=engine.release(), sha256=engine.sha256, seed=seed)


@dataclass(frozen=True)
class _Left:
    """What a client is left with, which may be in another process."""

    clock: Clock
    spent: float
    declined: str | None


def federate_in_process(
    joined: Sequence[Member],
    announced: Announcement,
    *,
    server_lr: float,
    on_round: Callable[[int], None] = lambda _: None,
    workers: int = 1,
) -> Outcome:
    """Play the whole federation: the server's own loop asks the clients' own apps, over a grid without a network.

    Args:
        joined: The clients.
        announced: What they are asked to take part in.
        server_lr: Step size of the server's optimiser.
        on_round: Told the number of each round that is over.
        workers: Processes that play the clients. They are forked, so that the model is in memory once; what they
            note in sessions and ledgers stays with them, but for what the outcome and the homes' files hold. The
            adapter is the same for any number, bit for bit where there is no noise.

    Raises:
        Declined: A client did not accept the plan, with its reason.
        UsageError: This machine cannot fork.
    """
    plan, started = announced.plan, time.perf_counter()
    secure = plan.secure_aggregation is not None
    keys = {n: load_or_create_key(one.session.home.key_path) if secure else None for n, one in enumerate(joined, 1)}
    apps = {number: make_app(member.session, keys[number]) for number, member in enumerate(joined, 1)}
    roster = {
        number: RosterEntry(name=f"client-{number}", public_key=public_key_text(key))
        for number, key in keys.items()
        if key is not None
    }

    def left(numbers: Sequence[int]) -> dict[int, _Left]:
        found = {}
        for number in numbers:
            one = joined[number - 1]
            spent = one.ledger.spent() if plan.privacy else 0.0
            found[number] = _Left(one.session.clock, spent, one.session.declined)
        return found

    def hear(event: FederationEvent) -> None:
        if event.kind == "declined":
            _complain(joined, grid.reports())
        if event.kind == "closed":
            on_round(event.round)

    settings = LoopSettings(
        min_clients=len(joined),
        round_timeout=None,
        patience=0.0,
        optimiser="adam" if plan.update == "gradient" else "none",
        learning_rate=server_lr,
        adopt_timeout=60.0,
    )
    nodes = sorted(apps)
    with ForkedGrid(
        apps.__getitem__, nodes, processes=workers, loads=[one.series for one in joined], report=left
    ) as grid:
        result = federate(
            grid, plan, announced.initial, announced.frozen, settings, events=hear, directory=lambda: roster
        )
        ends = grid.reports()
    ratio = math.inf
    if plan.privacy is not None:
        # Known from public numbers up to the retailers' sizes, which a simulation knows.
        units = round(float(np.mean([member.series for member in joined])))
        sigma = plan.privacy.buckets["S"].noise_multiplier
        ratio = signal_to_noise(
            sigma=sigma, steps=plan.rounds, units=units, clients=len(joined), parameters=plan.adapter.parameters
        )
    return Outcome(
        adapter=Adapter(plan.adapter, announced.frozen, result.adapter),
        plan=plan,
        spent={one.name: ends[number].spent for number, one in enumerate(joined, 1)} if plan.privacy else {},
        bytes_up=max(one.clock.payload for one in ends.values()),
        seconds=time.perf_counter() - started,
        training=sum(one.clock.training for one in ends.values()),
        signal_to_noise=ratio,
    )


def _complain(joined: Sequence[Member], ends: dict[int, _Left]) -> None:
    for number, member in enumerate(joined, 1):
        reason = ends[number].declined
        if reason is not None:
            raise Declined(f"{member.name} declined: {reason}")
