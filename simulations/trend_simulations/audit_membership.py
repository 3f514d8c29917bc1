"""Can somebody who has the final shared adapter tell which series it was trained on?

Small federations are played by the real server loop and the real clients, each retailer with a few of its series; the
others never take part. The attacker has the adapter, the public backbone and the whole history of the series that he
asks about. His score is how much better the adapter forecasts the series than the backbone does, as a share of the
backbone's loss: the loss alone would mostly say how hard a series is (Watson et al. 2022, arXiv:2111.08440). His
threshold is set on series that he knows to be no members.

The federations are small, and their plan trains A and B of rank 8 for 60 rounds: a setting in which an adapter
without privacy remembers its series. On larger ones the attack finds little even then.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from trend_client.engine import Engine
from trend_client.training import TrainingData
from trend_common.panel import SalesPanel
from trend_common.privacy.audit import Membership, gaussian_limits, membership
from trend_common.scoring import origins
from trend_common.windows import PanelWindows
from trend_server.checkpoints import Announcement
from trend_server.plans import make_plan
from trend_server.settings import Bucket, ServerSettings
from trend_simulations.audit_mutations import noise_times
from trend_simulations.cases import Adapter
from trend_simulations.federation import federate_in_process, members
from trend_simulations.sources import Retailer, synthetic

__all__ = ["ARMS", "Arm", "Attack", "attack_members"]

_RETAILERS: Final = 4
_SERIES: Final = 8
"""Series of each retailer that take part."""
_RANGE: Final = 50
"""Series that each retailer has, about."""
_DAYS: Final = 100
_HORIZON, _CONTEXT = 14, 56
_WINDOWS: Final = 16
"""Windows of each series over which its loss is averaged."""
_FPR: Final = 0.01
_SERVER_STEP: Final = 0.012


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        name: For the table.
        epsilon: Of the plan; None is a rehearsal without privacy.
        rounds, rank, train: Of the plan.
        inject: Breaks the product while the federation runs.
    """

    name: str
    epsilon: float | None
    rounds: int
    rank: int
    train: Literal["B", "AB"]
    inject: Callable[[], AbstractContextManager[None]] = nullcontext

    def announce(self, engine: Engine, seed: int) -> Announcement:
        """The plan, as the server makes it."""
        settings: dict[str, Any] = {"epsilon": self.epsilon, "buckets": {"S": Bucket(q=1.0, expected_batch=_SERIES)}}
        if self.epsilon is None:
            settings = {"private": False, "wire": "float32"}
        made = ServerSettings(
            federation="membership",
            backbone=engine.backbone.name,
            horizon=_HORIZON,
            context=_CONTEXT,
            rounds=self.rounds,
            rank=self.rank,
            train=self.train,
            launch_share=0.0,  # all windows show the history: the most that there is to remember
            **settings,
        )
        return make_plan(made, backbone=engine.release(), sha256=engine.sha256, seed=seed)


ARMS: Final = (
    Arm("no privacy", None, 60, 8, "AB"),
    Arm("ε = 4", 4.0, 60, 8, "AB"),
    Arm("20 rounds of one gradient, ε = 4", 4.0, 20, 2, "B"),
    Arm("20 rounds of one gradient, the noise removed", 4.0, 20, 2, "B", lambda: noise_times(0.0)),
)


@dataclass(frozen=True)
class Attack:
    """How well it went against one arm.

    Attributes:
        arm: Against what.
        found: Over the series of all federations.
        limits: The largest AUC and true-positive rate (at the false-positive rate that was reached) that the plan
            allows anybody; None without privacy.
    """

    arm: Arm
    found: Membership
    limits: tuple[float, float] | None


def attack_members(
    engine: Engine,
    *,
    federations: int,
    arms: Sequence[Arm] = ARMS,
    on_federation: Callable[[str], None] = lambda _: None,
) -> list[Attack]:
    """Play ``federations`` federations for each arm, and attack the adapter that each ends with.

    Args:
        engine: The backbone.
        federations: How many, each of four new retailers.
        arms: How to train.
        on_federation: Told which arm comes next.
    """
    scores: dict[str, list[tuple[NDArray[np.float64], NDArray[np.float64]]]] = {arm.name: [] for arm in arms}
    mu: dict[str, float] = {}
    for seed in range(federations):
        inside, outside = _split(seed)
        for arm in arms:
            on_federation(arm.name)
            announced = arm.announce(engine, seed)
            privacy = announced.plan.privacy
            if privacy is not None:
                mu[arm.name] = math.sqrt(arm.rounds) / privacy.buckets["S"].noise_multiplier
            adapter = _train(engine, announced, inside, arm, seed)
            scores[arm.name].append((_scores(engine, adapter, inside), _scores(engine, adapter, outside)))
    found = []
    for arm in arms:
        ours = np.concatenate([pair[0] for pair in scores[arm.name]])
        others = np.concatenate([pair[1] for pair in scores[arm.name]])
        order = np.random.default_rng(0).permutation(len(others))
        half = len(others) // 2
        result = membership(ours, others[order[half:]], others[order[:half]], fpr=_FPR)
        broken = arm.epsilon is None or arm.inject is not nullcontext
        limits = None if broken else gaussian_limits(mu[arm.name], max(result.fpr, _FPR))
        found.append(Attack(arm, result, limits))
    return found


def _split(seed: int) -> tuple[list[Retailer], list[Retailer]]:
    """Each retailer's series that take part, and its others."""
    rng = np.random.default_rng(seed)
    inside, outside = [], []
    for one in synthetic(_RETAILERS, seed=1000 + seed, days=_DAYS, sizes=(_RANGE, _RANGE)):
        order = [one.panel.ids[position] for position in rng.permutation(one.series)]
        inside.append(Retailer(one.name, one.panel.select(order[:_SERIES])))
        outside.append(Retailer(one.name, one.panel.select(order[_SERIES:])))
    return inside, outside


def _train(engine: Engine, announced: Announcement, retailers: Sequence[Retailer], arm: Arm, seed: int) -> Adapter:
    with tempfile.TemporaryDirectory(prefix="trend-audit-") as folder, arm.inject():
        joined = members(retailers, engine, announced.plan, Path(folder), seed=seed)
        try:
            return federate_in_process(joined, announced, server_lr=_SERVER_STEP).adapter
        finally:
            for member in joined:
                member.ledger.close()


def _scores(engine: Engine, adapter: Adapter, retailers: Sequence[Retailer]) -> NDArray[np.float64]:
    """[series] 1 − loss with the adapter over loss without it."""
    Adapter(adapter.plan, adapter.frozen, None).put_on(engine)
    before = np.concatenate([_losses(engine, one.panel) for one in retailers])
    adapter.put_on(engine)
    after = np.concatenate([_losses(engine, one.panel) for one in retailers])
    return np.asarray(1.0 - after / np.maximum(before, 1e-9))


def _losses(engine: Engine, panel: SalesPanel) -> NDArray[np.float64]:
    """[series] mean loss over windows of the part that was trained on; the same windows at every call."""
    windows = PanelWindows(panel, context=_CONTEXT)
    end = windows.step_of(origins(panel, _HORIZON).train_end) + 1
    data = TrainingData.of(windows, train_end=end, horizon=_HORIZON)
    rng = np.random.default_rng(1)
    return np.concatenate(list(_chunks(engine, data, rng)))


def _chunks(engine: Engine, data: TrainingData, rng: np.random.Generator) -> Iterator[NDArray[np.float64]]:
    for begin in range(0, data.n_units, 32):
        chosen = np.arange(begin, min(begin + 32, data.n_units))
        with torch.no_grad():
            losses = engine.backbone(data.draw(chosen, _WINDOWS, rng.random).to(engine.device)).loss_per_sample
        yield losses.reshape(len(chosen), _WINDOWS).mean(dim=1).double().cpu().numpy()
