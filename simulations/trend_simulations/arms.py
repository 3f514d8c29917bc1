"""The ways to forecast that a comparison has as its arms; each ends with one adapter for each retailer.

Every choice (steps, step sizes, recipes, gates) is made on the validation horizon; nothing here can see the test.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from trend_client.engine import Engine, PersonalSettings
from trend_client.training import TrainingData, fit
from trend_common import adapters
from trend_common.backbones.base import Batch
from trend_common.tensors import Tensors
from trend_simulations.cases import Adapter, Case
from trend_simulations.federation import Outcome, announce, federate_in_process, members
from trend_simulations.settings import DpRecipe, LocalRecipe, PlainRecipe, Settings

__all__ = ["Study", "run_arm"]

Say = Callable[[str], None]


@dataclass
class Study:
    """One seed of a comparison: what the arms share, and what they leave for one another.

    Attributes:
        outcomes: Federated arm → what its federation ended with; the personal arms start from it.
        notes: Arm → what was chosen, for the record.
    """

    cases: Sequence[Case]
    engine: Engine
    settings: Settings
    seed: int
    on_round: Callable[[str, int, int], None] = lambda _arm, _round, _rounds: None
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def validation(self, case: Case) -> float:
        """The engine's WQL on validation over the seasonal naive's, as it is now."""
        return case.validation.relative_wql(case.forecast(self.engine, case.cut.validation))

    def mean_validation(self, adapter: Adapter) -> float:
        """The mean of :meth:`validation` over the retailers."""
        adapter.put_on(self.engine)
        return float(np.nanmean([self.validation(case) for case in self.cases]))


def run_arm(study: Study, arm: str) -> list[Adapter]:
    """Play one arm.

    Args:
        study: Federated arms must have been run before the personal ones that start from them.
        arm: One of :data:`trend_simulations.settings.ARMS`.

    Returns:
        One adapter for each case.
    """
    if arm == "zero-shot":
        return [_blank(study, 1)] * len(study.cases)
    if arm == "local":
        start = _blank(study, study.settings.local.rank)
        return _personal(study, start, study.settings.local, arm)
    if arm in ("federated", "federated-dp"):
        return [_federated(study, arm).adapter] * len(study.cases)
    if arm in ("federated-personal", "federated-dp-personal"):
        shared = _federated(study, arm.removesuffix("-personal")).adapter
        return _personal(study, shared, study.settings.local, arm)
    if arm == "central":
        return [_central(study)] * len(study.cases)
    raise ValueError(f"arm: {arm!r} is unknown")


def _blank(study: Study, rank: int) -> Adapter:
    engine = study.engine
    plan, _, frozen = adapters.initial_adapter(
        engine.release(),
        rank=rank,
        alpha=2.0 * rank,
        targets=engine.backbone.lora_targets,
        train="B",
        seed=study.seed,
    )
    return Adapter(plan, frozen, None)


def _personal(study: Study, start: Adapter, recipe: LocalRecipe, arm: str) -> list[Adapter]:
    """Each retailer trains on from ``start`` alone; "no training" is among its choices, which is the gate."""
    settings = PersonalSettings(learning_rates=recipe.learning_rates, checkpoints=recipe.checkpoints)
    found, trained = [], 0
    for number, case in enumerate(study.cases):
        start.put_on(study.engine)
        tensors, tried = study.engine.personalise(
            case.data,
            start.tensors,
            validation=case.data.windows.step_of(case.cut.validation),
            seed=study.seed * 1009 + number,
            settings=settings,
        )
        trained += min(tried, key=lambda name: tried[name]) != "none"
        found.append(Adapter(start.plan, start.frozen, tensors))
        study.on_round(arm, number + 1, len(study.cases))
    study.notes[arm] = f"{trained} of {len(study.cases)} retailers trained an adapter of their own"
    return found


def _federated(study: Study, arm: str) -> Outcome:
    if arm in study.outcomes:
        return study.outcomes[arm]
    if arm == "federated-dp":
        study.outcomes[arm] = _federate(study, study.settings.dp, arm)
        return study.outcomes[arm]
    losses: dict[str, float] = {}
    best: Outcome | None = None
    for recipe in study.settings.plain:
        outcome = _federate(study, recipe, arm)
        losses[recipe.label] = study.mean_validation(outcome.adapter)
        if losses[recipe.label] <= min(losses.values()):
            best = outcome
            study.notes[arm] = recipe.label
    assert best is not None
    study.outcomes[arm] = best
    return best


def _federate(study: Study, recipe: DpRecipe | PlainRecipe, arm: str) -> Outcome:
    announced = announce(study.engine, study.settings, recipe, name=f"sim-{arm}", seed=study.seed)
    retailers = [case.retailer for case in study.cases]
    with tempfile.TemporaryDirectory(prefix="trend-sim-") as folder:
        joined = members(retailers, study.engine, announced.plan, Path(folder), seed=study.seed)
        try:
            return federate_in_process(
                joined,
                announced,
                server_lr=recipe.server_lr,
                on_round=lambda number: study.on_round(arm, number, recipe.rounds),
            )
        finally:
            for member in joined:
                member.ledger.close()


@dataclass(frozen=True)
class _Pool(TrainingData):
    """All retailers' series as one retailer's would be: what a federation is not allowed to do."""

    members: tuple[TrainingData, ...] = ()

    def draw(
        self, chosen: NDArray[np.int64] | Sequence[int], k: int, uniforms: Callable[[int], NDArray[np.float64]]
    ) -> Batch:
        """See :meth:`TrainingData.draw`; units are numbered through the members."""
        ends = np.cumsum([member.n_units for member in self.members])
        index = np.asarray(chosen, dtype=np.int64)
        owner = np.searchsorted(ends, index, side="right")
        parts = [
            self.members[one].draw(index[owner == one] - (ends[one] - self.members[one].n_units), k, uniforms)
            for one in np.unique(owner)
        ]
        fields: Mapping[str, object] = vars(parts[0])
        return Batch(**{name: torch.cat([getattr(part, name) for part in parts]) for name in fields})


def _central(study: Study) -> Adapter:
    recipe = study.settings.central
    first = study.cases[0].data
    units = tuple(unit for case in study.cases for unit in case.data.units)
    pool = _Pool(first.windows, units, first.train_end, first.horizon, tuple(case.data for case in study.cases))
    start = _blank(study, recipe.rank)
    best, lowest, chosen = start, study.mean_validation(start), "none"
    rng = np.random.default_rng(study.seed)
    for rate in recipe.learning_rates:
        start.put_on(study.engine)
        adapters.set_trained(study.engine.backbone, "AB")
        kept: dict[int, Tensors] = fit(
            study.engine.backbone,
            pool,
            steps=max(recipe.checkpoints),
            learning_rate=rate,
            batch_size=32,
            rng=rng,
            device=study.engine.device,
            checkpoints=recipe.checkpoints,
        )
        for step, tensors in kept.items():
            adapter = Adapter(start.plan, start.frozen, tensors)
            loss = study.mean_validation(adapter)
            if loss < lowest:
                best, lowest, chosen = adapter, loss, f"{step} steps at {rate:g}"
    study.notes["central"] = chosen
    return best
