"""The ways to forecast that a comparison has as its arms; each ends with one adapter for each retailer.

Every choice (steps, step sizes, recipes, gates) is made on the validation horizon; nothing here can see the test.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from trend_client.engine import Engine, PersonalSettings
from trend_client.training import TrainingData, fit
from trend_client.trees import TREES
from trend_client.trees.forecaster import require_trees
from trend_client.weighing import best_weights
from trend_common import adapters
from trend_common.backbones.base import Batch
from trend_common.blending import gentle_weights
from trend_common.tensors import Tensors
from trend_simulations.boosted import choose_boosted
from trend_simulations.cases import Adapter, Case, Model
from trend_simulations.federation import Outcome, announce, federate_in_process, members
from trend_simulations.settings import (
    BLENDED_METHODS,
    BLENDS,
    PRIVATE,
    DpRecipe,
    LocalRecipe,
    PlainRecipe,
    Settings,
    split_arm,
)

__all__ = ["Study", "run_arm", "run_models"]

Say = Callable[[str], None]

_DOUBT: Final = 10.0
"""Trust at which the weights are half those of the best blend: a year of sales at the default trust."""


@dataclass
class Study:
    """One seed of a comparison: what the arms share, and what they leave for one another.

    Attributes:
        outcomes: Federated arm → what its federation ended with; the personal arms start from it.
        adapters: Arm → each retailer's adapter; the blends take them from here.
        notes: Arm → what was chosen, for the record.
    """

    cases: Sequence[Case]
    engine: Engine
    settings: Settings
    seed: int
    on_round: Callable[[str, int, int], None] = lambda _arm, _round, _rounds: None
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    adapters: dict[str, list[Adapter]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def validation(self, case: Case) -> float:
        """The engine's WQL on validation over the seasonal naive's, as it is now."""
        return case.validation.relative_wql(case.forecast(self.engine, case.cut.validation))

    def mean_validation(self, adapter: Adapter) -> float:
        """The mean of :meth:`validation` over the retailers."""
        adapter.put_on(self.engine)
        return float(np.nanmean([self.validation(case) for case in self.cases]))


def run_models(study: Study, arm: str) -> list[Model]:
    """Play one arm and let every retailer do what it does alone: blend, and calibrate, on its own validation.

    Args:
        study: The seed's.
        arm: One of :data:`trend_simulations.settings.ARMS`.

    Returns:
        One model for each case.
    """
    name, epsilon = split_arm(arm)
    if name == "lightgbm":
        found = [Model(((choose_boosted(case), 1.0),)) for case in study.cases]
    elif name == TREES:
        require_trees()
        found = [Model(((TREES, 1.0),)) for _ in study.cases]
    elif name in BLENDS:
        parts = [_with(part, epsilon) for part in BLENDS[name]]
        found = [_blend(study, case, row, parts) for row, case in enumerate(study.cases)]
        study.notes[arm] = ", ".join(
            f"{part} {np.mean([model.parts[number][1] for model in found]):.2f}"
            for number, part in enumerate((*parts, *BLENDED_METHODS))
        )
    else:
        found = [Model.of(adapter) for adapter in run_arm(study, arm)]
    if study.settings.calibrate:
        found = [model.calibrated(study.engine, case) for model, case in zip(found, study.cases, strict=True)]
    return found


def _with(arm: str, epsilon: float | None) -> str:
    """The arm with its ε, if it is a private one."""
    return arm if epsilon is None or arm not in PRIVATE else f"{arm}@{epsilon:g}"


def _blend(study: Study, case: Case, row: int, arms: Sequence[str]) -> Model:
    """Weights by the retailer's own validation horizon, trusted the more, the more years there were to train on.

    One horizon is one season. What was learned of half a year may be wrong in the next, so there the weights fall
    gently with the loss; where every season was in the training, they are nearly those of the best blend. A part
    that repeats another, as a local adapter does for which no training was best, weighs nothing.
    """
    parts: list[Adapter | str] = [*(run_arm(study, arm)[row] for arm in arms), *BLENDED_METHODS]
    truth = case.validation
    made = {
        str(number): Model(((part, 1.0),)).raw(study.engine, case, case.cut.validation, truth.ids)
        for number, part in enumerate(parts)
    }
    kept = [
        name
        for name, one in made.items()
        if not any(
            np.array_equal(one.quantiles, made[other].quantiles) for other in itertools.takewhile(name.__ne__, made)
        )
    ]
    losses = np.array([truth.relative_wql(made[name]) for name in kept])
    trust = study.settings.trust * case.years
    weights = gentle_weights(losses, trust)
    if np.isfinite(losses).all() and losses.min() > 0:
        level = np.ones(len(truth.ids))  # all units sold weigh alike, as in WQL
        unit = float(np.nanmean(np.abs(truth.y))) * truth.naive_wql * float(losses.min())
        best = best_weights([(truth.y, made)], level, kept, ratio=np.log(losses / losses.min()), unit=unit)
        share = trust / (trust + _DOUBT)
        weights = share * best + (1 - share) * weights
    found = dict(zip(kept, weights.tolist(), strict=True))
    return Model(tuple((part, found.get(str(number), 0.0)) for number, part in enumerate(parts)))


def run_arm(study: Study, arm: str) -> list[Adapter]:
    """Play one arm; asked again, what it ended with before.

    Args:
        study: The seed's.
        arm: One of :data:`trend_simulations.settings.ARMS`, not a blend.

    Returns:
        One adapter for each case.
    """
    if arm not in study.adapters:
        study.adapters[arm] = _run(study, arm)
    return study.adapters[arm]


def _run(study: Study, arm: str) -> list[Adapter]:
    name, epsilon = split_arm(arm)
    if name == "zero-shot":
        return [_blank(study, 1)] * len(study.cases)
    if name == "local":
        start = _blank(study, study.settings.local.rank)
        return _personal(study, start, study.settings.local, arm)
    if name in ("federated", "federated-dp"):
        return [_federated(study, arm).adapter] * len(study.cases)
    if name in ("federated-personal", "federated-dp-personal"):
        shared = _federated(study, _with(name.removesuffix("-personal"), epsilon)).adapter
        return _personal(study, shared, study.settings.local, arm)
    if name == "central":
        return [_central(study)] * len(study.cases)
    if name in ("grouped", "grouped-dp"):
        from trend_simulations.grouped import grouped

        return grouped(study, arm)
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
    name, epsilon = split_arm(arm)
    if name == "federated-dp":
        study.outcomes[arm] = _federate(study, study.settings.dp, arm, epsilon)
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


def _federate(study: Study, recipe: DpRecipe | PlainRecipe, arm: str, epsilon: float | None = None) -> Outcome:
    settings = study.settings if epsilon is None else replace(study.settings, epsilon=epsilon)
    secure = settings.secure and isinstance(recipe, DpRecipe)
    name = f"sim-{arm.replace('@', '-')}"
    announced = announce(study.engine, settings, recipe, name=name, seed=study.seed, secure=secure)
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
    everybody = tuple(case.data for case in study.cases)
    pool = _Pool(first.windows, units, first.train_end, first.horizon, members=everybody)
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
