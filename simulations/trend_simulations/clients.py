"""The clients of a simulated federation: each with a home, a policy and a ledger of its own, all with one engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_client.engine import Engine
from trend_client.home import ClientHome
from trend_client.session import ClientSession, SessionEvent
from trend_client.training import TrainingData
from trend_common.panel import SalesPanel
from trend_common.privacy.ledger import Ledger
from trend_common.privacy.policy import AdapterPolicy, Policy
from trend_common.protocol import DescribeReply, FederationPlan, TrainOrder
from trend_common.tensors import Tensors
from trend_simulations.shelf import Shelf
from trend_simulations.sources import Retailer

__all__ = ["Clock", "Member", "TimedSession", "member", "members"]


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


class _ShelvedSession(TimedSession):
    """A session whose sales and windows are in memory only while it works.

    Args:
        retailer: Whose panel is read when it is asked for.
        shelf: Where the windows go; it belongs to one list of retailers.
        number: Of the client.
        shared: Frozen tensors by their hash; all clients of a federation have the same.
        settings: Of :class:`ClientSession`.
    """

    def __init__(
        self, retailer: Retailer, shelf: Shelf, number: int, shared: dict[str, Tensors], **settings: Any
    ) -> None:
        self._retailer, self._shelf, self._number, self._shared = retailer, shelf, number, shared
        self._kept: SalesPanel | None = None
        super().__init__(**{**settings, "panel": None})

    @property
    def panel(self) -> SalesPanel:
        """The sales, kept until the answer in which they were needed is given."""
        if self._kept is None:
            self._kept = self._retailer.panel
        return self._kept

    @panel.setter
    def panel(self, _: SalesPanel) -> None:
        pass  # it is read when it is needed

    def describe(self, plan: FederationPlan, frozen: dict[str, NDArray[np.generic]]) -> DescribeReply:
        """See :meth:`ClientSession.describe`."""
        reply = super().describe(plan, frozen)
        if self._data is not None and not self._shelf.has(self._key(plan)):
            self._shelf.put(self._key(plan), _slim(self._data))
        self._data = self._kept = None
        self._frozen = self._shared.setdefault(plan.adapter.frozen_sha256, self._frozen)
        return reply

    def sealed(self, order: TrainOrder, adapter: dict[str, NDArray[np.generic]]) -> bytes:
        """See :meth:`ClientSession.sealed`."""
        if self.plan is None:
            return super().sealed(order, adapter)  # which says what is wrong
        self._data = self._shelf.take(self._key(self.plan), mapped=True)
        try:
            return super().sealed(order, adapter)
        finally:
            self._data = self._kept = None
            if self.plan.secure_aggregation is None:
                self._rehearsed = {}  # nobody asks twice where no message is lost

    def _training_data(self, plan: FederationPlan) -> TrainingData:
        # A session that was made anew in another process finds what the first one left.
        if self._shelf.has(self._key(plan)):
            found: TrainingData = self._shelf.take(self._key(plan), mapped=True)
            return found
        return super()._training_data(plan)

    def _key(self, plan: FederationPlan) -> str:
        return f"windows-{self._number}-{plan.sha256()[:16]}"


def _slim(data: TrainingData) -> TrainingData:
    """The same windows without the table that they were made from."""
    windows = data.windows
    # These are made from descriptions when they are first needed.
    _ = windows._text, windows._description, windows._static_ids
    panel = windows.panel
    static = panel.static.iloc[:0]
    windows.panel = replace(
        panel, frame=panel.frame.iloc[:0], future=panel.future.iloc[:0], static=static, outages=pd.DataFrame()
    )
    return data


@dataclass(frozen=True, eq=False)
class Member:
    """One simulated client.

    Attributes:
        name: The retailer's.
        session: What answers for it.
        ledger: What it has spent.
        series: How many it has.
    """

    name: str
    session: TimedSession
    ledger: Ledger
    series: int


def members(
    retailers: Sequence[Retailer],
    engine: Engine,
    plan: FederationPlan,
    root: Path,
    *,
    seed: int,
    on_event: Callable[[str, SessionEvent], None] = lambda _name, _event: None,
    epsilon_total: float | None = None,
    shelf: Shelf | None = None,
) -> list[Member]:
    """A client for each retailer, with a home under ``root`` and a policy that allows exactly this plan.

    ``epsilon_total`` caps all plans of one home together; by default there is room for this one alone. With a
    ``shelf`` a client's windows are in memory only while it works, so that a thousand take no more than ten.
    """
    policy = _policy(engine, plan, epsilon_total)
    shared: dict[str, Tensors] = {}
    return [
        member(number, one, engine, plan, root, policy, seed=seed, on_event=on_event, shelf=shelf, shared=shared)
        for number, one in enumerate(retailers)
    ]


def member(
    number: int,
    retailer: Retailer,
    engine: Engine,
    plan: FederationPlan,
    root: Path,
    policy: Policy | None = None,
    *,
    seed: int,
    on_event: Callable[[str, SessionEvent], None] = lambda _name, _event: None,
    shelf: Shelf | None = None,
    shared: dict[str, Tensors] | None = None,
) -> Member:
    """The client of one retailer, the ``number``-th from 0; see :func:`members`."""
    home = ClientHome(root / f"{number:04d}")
    policy = policy or _policy(engine, plan, None)
    ledger = Ledger(
        home.ledger_folder / "ledger.jsonl",
        head_path=home.root / "ledger.head",
        epsilon_total=policy.epsilon_total,
        delta=policy.delta_max,
        durable=False,
    )
    settings: dict[str, Any] = {
        "home": home,
        "engine": engine,
        "policy": policy,
        "ledger": ledger,
        "on_event": lambda event: on_event(retailer.name, event),
        "seed": seed * 1009 + number,
    }
    session = (
        TimedSession(panel=retailer.panel, **settings)
        if shelf is None
        else _ShelvedSession(retailer, shelf, number, {} if shared is None else shared, **settings)
    )
    session.clock = Clock()
    return Member(retailer.name, session, ledger, retailer.series)


def _policy(engine: Engine, plan: FederationPlan, epsilon_total: float | None) -> Policy:
    """Allows exactly ``plan``."""
    epsilon = plan.privacy.epsilon if plan.privacy else 1.0
    return Policy(
        require_privacy=plan.privacy is not None,
        epsilon_per_federation=epsilon * 1.001,
        epsilon_total=(epsilon_total or epsilon) * 1.001,
        delta_max=plan.privacy.delta if plan.privacy else 1e-5,
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
