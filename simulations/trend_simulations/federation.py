"""One federation on this machine: the server's own loop and the clients' own apps, in one process or in several."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trend_client.app import make_app
from trend_client.engine import Engine
from trend_common.errors import Declined
from trend_common.flower.forked import ForkedGrid
from trend_common.flower.grid import RoundGrid
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

__all__ = ["Left", "Member", "Outcome", "announce", "federate_in_process", "federate_over", "members"]

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
        "launch_share": recipe.launch_share,
        "secure_aggregation": secure,
    }
    if isinstance(recipe, DpRecipe):
        asked |= {
            "epsilon": settings.epsilon,
            "delta": settings.delta,
            "clip": recipe.clip,
            "layers": recipe.layers,
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
class Left:
    """What a client is left with, which may be in another process.

    Attributes:
        clock: Its time and bytes.
        spent: ε in its ledger.
        declined: Why it did not accept, if it did not.
    """

    clock: Clock
    spent: float
    declined: str | None

    @classmethod
    def of(cls, member: Member, plan: FederationPlan) -> Left:
        """Of a client in this process."""
        spent = member.ledger.spent() if plan.privacy else 0.0
        return cls(member.session.clock, spent, member.session.declined)


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
    plan = announced.plan
    secure = plan.secure_aggregation is not None
    keys = {n: load_or_create_key(one.session.home.key_path) if secure else None for n, one in enumerate(joined, 1)}
    apps = {number: make_app(member.session, keys[number]) for number, member in enumerate(joined, 1)}
    roster = {
        number: RosterEntry(name=f"client-{number}", public_key=public_key_text(key))
        for number, key in keys.items()
        if key is not None
    }

    def left(numbers: Sequence[int]) -> dict[int, Left]:
        return {number: Left.of(joined[number - 1], plan) for number in numbers}

    clients = [(one.name, one.series) for one in joined]
    loads = [float(one.series) for one in joined]
    with ForkedGrid(apps.__getitem__, sorted(apps), processes=workers, loads=loads, report=left) as grid:
        return federate_over(
            grid, clients, announced, grid.reports, server_lr=server_lr, on_round=on_round, roster=roster
        )


def federate_over(
    grid: RoundGrid,
    clients: Sequence[tuple[str, int]],
    announced: Announcement,
    reports: Callable[[], Mapping[int, Left]],
    *,
    server_lr: float,
    on_round: Callable[[int], None] = lambda _: None,
    roster: Mapping[int, RosterEntry] | None = None,
) -> Outcome:
    """Play the whole federation over a grid.

    Args:
        grid: Its nodes are 1, 2, ...
        clients: Name and number of series of each, in the order of their nodes.
        announced, server_lr, on_round: As in :func:`federate_in_process`.
        reports: Gives what each node is left with.
        roster: Who signs with which key, for secure aggregation.

    Raises:
        Declined: A client did not accept the plan, with its reason.
    """
    plan, names, started = announced.plan, [name for name, _ in clients], time.perf_counter()

    def hear(event: FederationEvent) -> None:
        if event.kind == "declined":
            for number, one in reports().items():
                if one.declined is not None:
                    raise Declined(f"{names[number - 1]} declined: {one.declined}")
        if event.kind == "closed":
            on_round(event.round)

    settings = LoopSettings(
        min_clients=len(names),
        round_timeout=None,
        patience=0.0,
        optimiser="adam" if plan.update == "gradient" else "none",
        learning_rate=server_lr,
        adopt_timeout=60.0,
    )
    directory = dict(roster or {})
    result = federate(
        grid, plan, announced.initial, announced.frozen, settings, events=hear, directory=lambda: directory
    )
    ends = reports()
    ratio = math.inf
    if plan.privacy is not None:
        # Known from public numbers up to the retailers' sizes, which a simulation knows.
        units = round(float(np.mean([series for _, series in clients])))
        sigma = plan.privacy.buckets["S"].noise_multiplier
        ratio = signal_to_noise(
            sigma=sigma, steps=plan.rounds, units=units, clients=len(names), parameters=plan.adapter.parameters
        )
    return Outcome(
        adapter=Adapter(plan.adapter, announced.frozen, result.adapter),
        plan=plan,
        spent={name: ends[number].spent for number, name in enumerate(names, 1)} if plan.privacy else {},
        bytes_up=max(one.clock.payload for one in ends.values()),
        seconds=time.perf_counter() - started,
        training=sum(one.clock.training for one in ends.values()),
        signal_to_noise=ratio,
    )
