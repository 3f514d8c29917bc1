"""One federation on Flower's engine: its clients are played by actors of a Ray cluster, on one machine or on many.

Any actor may be any client in any round. So what a client is lies in its home, in a folder that all machines see, as
a real client's does on its disk: the accepted plan, the ledger, the sealed answers; its sales and windows lie on a
shelf there. An actor that is asked restores the client as after a restart, answers, and puts its ledger away. Its
draws are each round's by themselves, so without noise the adapter is the in-process engine's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from flwr.app import ConfigRecord, Context, Error, Message

from trend_client.app import make_app
from trend_client.engine import Engine
from trend_client.session import SessionEvent
from trend_common.errors import TrendError, UsageError
from trend_common.flower.node import ERROR_CODE, ERROR_REASON
from trend_common.flower.rayed import RayGrid
from trend_common.protocol import FederationPlan
from trend_common.tensors import Tensors
from trend_server.checkpoints import Announcement
from trend_simulations.clients import Clock, member
from trend_simulations.federation import Left, Outcome, federate_over
from trend_simulations.shelf import Shelf
from trend_simulations.sources import Retailer, ShelvedRetailer

__all__ = ["federate_on_ray"]

_JOB = "job"
_REPORT = "left"


@dataclass(frozen=True)
class _Job:
    """All that an actor needs to be any of the clients."""

    backbone: str
    device: str
    plan: FederationPlan
    root: Path
    seed: int
    retailers: tuple[Retailer, ...]


def federate_on_ray(
    retailers: Sequence[Retailer],
    announced: Announcement,
    root: Path,
    *,
    backbone: str,
    seed: int,
    server_lr: float,
    on_round: Callable[[int], None] = lambda _: None,
    device: str = "cpu",
    gpus: float = 0.0,
) -> Outcome:
    """Play the whole federation on Flower's engine; compare :func:`.federation.federate_in_process`.

    Args:
        retailers: Who takes part; their sales are put under ``root``.
        announced: What they are asked to take part in.
        root: A folder that all machines of the cluster see under this name.
        backbone: Name or folder, the same on all machines.
        seed: Of the draws outside private training.
        server_lr: Step size of the server's optimiser.
        on_round: Told the number of each round that is over.
        device: Where an actor computes.
        gpus: Share of a GPU that a client takes.

    Raises:
        Declined: A client did not accept the plan, with its reason.
        UsageError: Ray is not installed, or secure aggregation is wanted.
    """
    if announced.plan.secure_aggregation is not None:
        raise UsageError(
            "Secure aggregation keeps the secrets of a round in a client's memory, which moves between Ray's actors.",
            "Leave out --engine ray, or --secure-aggregation.",
        )
    shelf = Shelf(root / "ray")
    kept = tuple(ShelvedRetailer(one, shelf, f"retailer-{number}") for number, one in enumerate(retailers))
    shelf.put(_JOB, _Job(backbone, device, announced.plan, root, seed, kept))
    clients = [(one.name, one.series) for one in kept]
    with RayGrid(partial(_Client, root / "ray"), range(1, len(kept) + 1), gpus=gpus) as grid:

        def reports() -> dict[int, Left]:
            return {node: _report(state[_REPORT]) for node, state in grid.states().items() if _REPORT in state}

        return federate_over(grid, clients, announced, reports, server_lr=server_lr, on_round=on_round)


class _Client:
    """The app of all clients: whose it is, a message says.

    Args:
        folder: Of the shelf with the job.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, message: Message, context: Context) -> Message:
        job, engine, shelf = _loaded(self._folder)
        number = message.metadata.dst_node_id - 1
        refused: list[str] = []

        def hear(_: str, event: SessionEvent) -> None:
            if event.kind == "declined":
                refused.append(event.text)

        one = member(
            number,
            job.retailers[number],
            engine,
            job.plan,
            job.root,
            seed=job.seed,
            on_event=hear,
            shelf=shelf,
            shared=_SHARED,
        )
        try:
            try:
                answer = make_app(one.session)(message, context)
            except TrendError:
                answer = Message(Error(code=ERROR_CODE, reason=ERROR_REASON), reply_to=message)
            before = _report(context.state[_REPORT]) if _REPORT in context.state else None
            now = Left.of(one, job.plan)
            context.state[_REPORT] = ConfigRecord(
                {
                    "training": now.clock.training + (before.clock.training if before else 0.0),
                    "payload": now.clock.payload or (before.clock.payload if before else 0),
                    "spent": now.spent,
                    "declined": now.declined or "; ".join(refused),
                }
            )
            return answer
        finally:
            one.ledger.close()


_SHARED: dict[str, Tensors] = {}
"""Frozen tensors by their hash, in this process."""


@cache
def _loaded(folder: Path) -> tuple[_Job, Engine, Shelf]:
    """Once a process: the model stays in it."""
    import torch

    torch.set_num_threads(1)
    shelf = Shelf(folder)
    job: _Job = shelf.take(_JOB)
    return job, Engine(job.backbone, device=job.device), shelf


def _report(found: object) -> Left:
    assert isinstance(found, ConfigRecord)
    values = dict(found)
    clock = Clock(training=float(values["training"]), payload=int(values["payload"]))
    return Left(clock, float(values["spent"]), str(values["declined"]) or None)
