"""One adapter for each group of alike retailers, grown from a common one.

The operator declares the groups by what everybody may know of a retailer (its kind, its segment, the step of its
data), never by its sales. The first half of the rounds is everybody's; from the adapter that they end with each group
goes on alone. With privacy both halves are noised alike, with a σ that is calibrated to all rounds together, and each
client's one ledger adds up what it has spent in both federations.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from trend_common.privacy.plan import plan_epsilon
from trend_common.protocol import FederationPlan
from trend_server.checkpoints import Announcement
from trend_simulations.cases import Adapter
from trend_simulations.federation import Outcome, announce, federate_in_process, members
from trend_simulations.settings import DpRecipe, PlainRecipe, split_arm

if TYPE_CHECKING:
    from trend_simulations.arms import Study
    from trend_simulations.sources import Retailer

__all__ = ["SMALLEST_GROUP", "grouped", "groups_of", "half_plan"]

SMALLEST_GROUP: Final = 3
"""Retailers below which a group keeps the common adapter: two could take their own part off the mean."""


def groups_of(retailers: Sequence[Retailer]) -> dict[str, list[int]]:
    """Group → its retailers' positions, for groups that are large enough; empty where fewer than two groups are.

    A group's name is what the operator declared; retailers without one are in none.
    """
    names = [one.group for one in retailers]
    if len({name for name in names if name}) < 2:
        return {}
    found = {name: [row for row, other in enumerate(names) if other == name] for name in sorted(set(names)) if name}
    return {name: rows for name, rows in found.items() if len(rows) >= SMALLEST_GROUP}


def half_plan(plan: FederationPlan, name: str, rounds: int) -> FederationPlan:
    """``plan`` with another name and fewer rounds: the same σ, and the ε that so many rounds cost."""
    changed = plan.model_copy(update={"federation": name, "rounds": rounds})
    if plan.privacy is not None:
        (bucket,) = plan.privacy.buckets
        cheaper = plan.privacy.model_copy(update={"epsilon": plan_epsilon(changed, bucket)})
        changed = changed.model_copy(update={"privacy": cheaper})
    return FederationPlan.model_validate(changed.model_dump())


def grouped(study: Study, arm: str) -> list[Adapter]:
    """Play the common rounds, then each group's.

    Without two groups of enough retailers there is nothing to group, and the arm is the plain federation of the same
    rounds and the same ε.

    Args:
        study: The seed's; the outcome is left in ``outcomes`` with the plan of all rounds.
        arm: ``grouped`` or ``grouped-dp``, with or without an ε.

    Returns:
        One adapter for each case.
    """
    from trend_simulations.arms import run_arm

    name, epsilon = split_arm(arm)
    settings = study.settings if epsilon is None else replace(study.settings, epsilon=epsilon)
    retailers = [case.retailer for case in study.cases]
    groups = groups_of(retailers)
    recipe: DpRecipe | PlainRecipe = settings.dp if name == "grouped-dp" else settings.plain[0]
    if not groups or recipe.rounds < 2:
        study.notes[arm] = "no groups are declared, or they are too small"
        return run_arm(study, arm.replace("grouped", "federated"))
    secure = settings.secure and isinstance(recipe, DpRecipe)
    whole = announce(
        study.engine, settings, recipe, name=f"sim-{arm.replace('@', '-')}", seed=study.seed, secure=secure
    )
    first = recipe.rounds // 2
    everybody = list(range(len(retailers)))
    with tempfile.TemporaryDirectory(prefix="trend-sim-") as folder:

        def play(label: str, rows: list[int], start: Adapter | None, rounds: int, done: int) -> Outcome:
            plan = half_plan(whole.plan, f"{whole.plan.federation}-{label}", rounds)
            initial = whole.initial if start is None or start.tensors is None else start.tensors
            return _half(
                study,
                [retailers[row] for row in rows],
                Announcement(plan, initial, whole.frozen),
                [Path(folder) / f"{row:04d}" for row in rows],
                server_lr=recipe.server_lr,
                epsilon_total=whole.plan.privacy.epsilon if whole.plan.privacy else None,
                on_round=lambda number: study.on_round(arm, done + number, recipe.rounds),
            )

        common = play("common", everybody, None, first, 0)
        found = {
            group: play(f"group-{number}", rows, common.adapter, recipe.rounds - first, first)
            for number, (group, rows) in enumerate(groups.items(), 1)
        }
    parts = [common, *found.values()]
    study.outcomes[arm] = Outcome(
        adapter=common.adapter,
        plan=whole.plan,
        # A ledger holds both halves; of those in no group it holds the first alone.
        spent={client: spent for part in parts for client, spent in part.spent.items()},
        bytes_up=max(part.bytes_up for part in parts),
        seconds=sum(part.seconds for part in parts),
        training=sum(part.training for part in parts),
        signal_to_noise=min(part.signal_to_noise for part in parts),
    )
    study.notes[arm] = f"{first} common rounds, then " + ", ".join(
        f"{recipe.rounds - first} of {len(rows)} in {group}" for group, rows in groups.items()
    )
    adapters = [common.adapter] * len(retailers)
    for group, rows in groups.items():
        for row in rows:
            adapters[row] = found[group].adapter
    return adapters


def _half(
    study: Study,
    retailers: Sequence[Retailer],
    announced: Announcement,
    homes: Sequence[Path],
    *,
    server_lr: float,
    epsilon_total: float | None,
    on_round: Callable[[int], None],
) -> Outcome:
    """One of the two federations; a client's home, and so its ledger, is the same in both."""
    joined = []
    try:
        for retailer, home in zip(retailers, homes, strict=True):
            joined += members(
                [retailer],
                study.engine,
                announced.plan,
                home,
                seed=study.seed * 1009 + int(home.name),
                epsilon_total=epsilon_total,
            )
        return federate_in_process(joined, announced, server_lr=server_lr, on_round=on_round)
    finally:
        for member in joined:
            member.ledger.close()
