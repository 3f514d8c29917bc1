"""One federation in this process: every retailer with a home, a policy and a ledger of its own, and one engine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trend_client.app import make_app
from trend_client.engine import Engine
from trend_client.home import ClientHome
from trend_client.session import ClientSession, SessionEvent
from trend_common.errors import Declined
from trend_common.flower.inprocess import InProcessGrid
from trend_common.flower.keys import load_or_create_key, public_key_text
from trend_common.privacy.ledger import Ledger
from trend_common.privacy.plan import signal_to_noise
from trend_common.privacy.policy import AdapterPolicy, Policy
from trend_common.protocol import FederationPlan, TrainOrder
from trend_common.secagg.messages import RosterEntry
from trend_server.checkpoints import Announcement
from trend_server.desk import FederationEvent
from trend_server.federation import LoopSettings, federate
from trend_server.plans import make_plan
from trend_server.settings import Bucket, ServerSettings
from trend_simulations.cases import Adapter
from trend_simulations.settings import DpRecipe, PlainRecipe, Settings
from trend_simulations.sources import Retailer

__all__ = ["Member", "Outcome", "announce", "federate_in_process", "members"]

_EXPECTED_BATCH = 30


@dataclass
class Clock:
    """Seconds inside the clients' rounds, and bytes that they sent."""

    training: float = 0.0
    payload: int = 0


class TimedSession(ClientSession):
    """A client's session that notes how long its rounds take and how much it sends."""

    clock: Clock

    def sealed(self, order: TrainOrder, adapter: dict[str, NDArray[np.generic]]) -> bytes:
        """See :meth:`ClientSession.sealed`; masking, where there is any, changes no size."""
        started = time.perf_counter()
        payload = super().sealed(order, adapter)
        self.clock.training += time.perf_counter() - started
        self.clock.payload = len(payload)
        return payload


@dataclass(frozen=True, eq=False)
class Member:
    """One simulated client."""

    name: str
    session: TimedSession
    ledger: Ledger


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


def members(
    retailers: Sequence[Retailer],
    engine: Engine,
    plan: FederationPlan,
    root: Path,
    *,
    seed: int,
    on_event: Callable[[str, SessionEvent], None] = lambda _name, _event: None,
    epsilon_total: float | None = None,
) -> list[Member]:
    """A client for each retailer, with a home under ``root`` and a policy that allows exactly this plan.

    ``epsilon_total`` caps all plans of one home together; by default there is room for this one alone.
    """
    epsilon = plan.privacy.epsilon if plan.privacy else 1.0
    delta = plan.privacy.delta if plan.privacy else 1e-5
    policy = Policy(
        require_privacy=plan.privacy is not None,
        epsilon_per_federation=epsilon * 1.001,
        epsilon_total=(epsilon_total or epsilon) * 1.001,
        delta_max=delta,
        noise_multiplier_min=1e-3,
        min_units=1,
        backbones=[engine.sha256],
        steps_max=100_000,
        adapter=AdapterPolicy(
            targets=list(plan.adapter.targets),
            max_parameters=plan.adapter.parameters,
            max_rank=plan.adapter.rank,
            max_bytes=4 * sum(spec.size for spec in (*plan.adapter.tensors, *plan.adapter.frozen)),
        ),
    )
    found = []
    for number, one in enumerate(retailers):
        home = ClientHome(root / f"{number:04d}")
        ledger = Ledger(
            home.ledger_folder / "ledger.jsonl",
            head_path=home.root / "ledger.head",
            epsilon_total=policy.epsilon_total,
            delta=policy.delta_max,
            durable=False,
        )

        def tell(event: SessionEvent, name: str = one.name) -> None:
            on_event(name, event)

        session = TimedSession(
            home=home,
            engine=engine,
            panel=one.panel,
            policy=policy,
            ledger=ledger,
            on_event=tell,
            seed=seed * 1009 + number,
        )
        session.clock = Clock()
        found.append(Member(one.name, session, ledger))
    return found


def federate_in_process(
    joined: Sequence[Member],
    announced: Announcement,
    *,
    server_lr: float,
    on_round: Callable[[int], None] = lambda _: None,
) -> Outcome:
    """Play the whole federation: the server's own loop asks the clients' own apps, over a grid without a network.

    Raises:
        Declined: A client did not accept the plan, with its reason.
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

    def hear(event: FederationEvent) -> None:
        if event.kind == "declined":
            _complain(joined)
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
    with InProcessGrid(lambda node: apps[node], sorted(apps)) as grid:
        result = federate(
            grid, plan, announced.initial, announced.frozen, settings, events=hear, directory=lambda: roster
        )
    clocks = [member.session.clock for member in joined]
    ratio = math.inf
    if plan.privacy is not None:
        # Known from public numbers up to the retailers' sizes, which a simulation knows.
        units = round(float(np.mean([member.session.panel.n_series for member in joined])))
        sigma = plan.privacy.buckets["S"].noise_multiplier
        ratio = signal_to_noise(
            sigma=sigma, steps=plan.rounds, units=units, clients=len(joined), parameters=plan.adapter.parameters
        )
    return Outcome(
        adapter=Adapter(plan.adapter, announced.frozen, result.adapter),
        plan=plan,
        spent={member.name: member.ledger.spent() for member in joined} if plan.privacy else {},
        bytes_up=max(clock.payload for clock in clocks),
        seconds=time.perf_counter() - started,
        training=sum(clock.training for clock in clocks),
        signal_to_noise=ratio,
    )


def _complain(joined: Sequence[Member]) -> None:
    for member in joined:
        if member.session.declined is not None:
            raise Declined(f"{member.name} declined: {member.session.declined}")
