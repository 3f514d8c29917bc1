"""One run of a real client against an attacker who made some of its series himself.

The client is the product's own :class:`~trend_client.session.ClientSession` with a home, a policy and a ledger; the
attacker is the server. He knows everything but which of his *canaries* are in the panel: each is, by a fair coin. A
canary is a whole series, which sells a number of its own every day. Where the model sees a window of one, a loss of
his choice takes the place of the model's: ``push · |w_j|`` for one weight w_j of the adapter, so that the series'
gradient is ``± push`` in that coordinate and 0 in all others (a Dirac canary). It passes the same layers, the same
per-series backward pass, clipping, sampling, noise, rounding to int8, ledger and bytes as every other series.

The server chooses the adapter of each round: ``+a`` everywhere in odd rounds and ``−a`` in even ones, which turns the
sign of every canary's gradient. A canary's score is the sum of its coordinate over all answers, with that sign.
Honest noise adds up as it would without the turning; noise that repeats itself cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from trend_client.engine import Engine
from trend_client.home import ClientHome
from trend_client.session import ClientSession
from trend_common.backbones.base import Backbone, Batch, ForecastOutput
from trend_common.errors import PolicyError
from trend_common.flower.records import tensors_from_bytes
from trend_common.panel import SalesPanel, from_frame
from trend_common.privacy.audit import Audit, audit_scores
from trend_common.privacy.ledger import Ledger
from trend_common.privacy.policy import Policy
from trend_common.protocol import FederationPlan, TrainOrder
from trend_common.tensors import Tensors, decode_int8, tensors_sha256
from trend_server.checkpoints import Announcement
from trend_server.plans import make_plan
from trend_server.settings import Bucket, ServerSettings

__all__ = ["Evidence", "Target", "audit_client"]

_FIRST: Final = 1_000_000
"""Canary i sells ``_FIRST + i`` units a day: exact in float32, and far more than the ordinary series sell."""
_PUSH: Final = 50.0
"""Norm of a canary's gradient before clipping, over C."""
_AMPLITUDE: Final = 0.01
"""The adapter that the server sends: every number is plus or minus this."""
_DAYS: Final = 60
_STORE: Final = "main"


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is audited: a client, and the plan of the federation that it joins.

    Attributes:
        canaries: m, at most the number of weights that are trained.
        series: Ordinary series beside them.
        epsilon, delta, clip: Of the plan, for each series over all rounds.
        rounds: T, an even number.
        steps: S; above 1 the answer is the change of weights after so many local steps.
        q: Sampling probability.
        windows_per_series: k.
        rank: r of LoRA; B alone is trained.
        seed: Of the ordinary series, the coins and the coordinates; noise and sampling have none.
    """

    canaries: int = 1800
    series: int = 20
    epsilon: float = 4.0
    delta: float = 1e-5
    clip: float = 0.02
    rounds: int = 20
    steps: int = 1
    q: float = 1.0
    windows_per_series: int = 4
    rank: int = 2
    seed: int = 0

    def announce(self, engine: Engine) -> Announcement:
        """The plan as the server's own code makes it; a short context, since the canaries' loss does not need one."""
        settings = ServerSettings(
            federation="audit",
            backbone=engine.backbone.name,
            horizon=7,
            context=14,
            rounds=self.rounds,
            steps=self.steps,
            update="gradient" if self.steps == 1 else "weights",
            rank=self.rank,
            windows_per_series=self.windows_per_series,
            launch_share=0.0,  # a canary is known by its history
            epsilon=self.epsilon,
            delta=self.delta,
            clip=self.clip,
            buckets={"S": Bucket(q=self.q, expected_batch=round(self.q * (self.series + self.canaries / 2)))},
        )
        return make_plan(settings, backbone=engine.release(), sha256=engine.sha256, seed=self.seed)

    @property
    def included(self) -> NDArray[np.bool_]:
        """[m] the coins."""
        return np.random.default_rng([self.seed, 3]).random(self.canaries) < 0.5


@dataclass(frozen=True)
class Evidence:
    """What came of one run.

    Attributes:
        claimed: ε that the client's own ledger says was spent.
        audit: What the attacker could show.
        answers: [T, m] each canary's coordinate in each answer, signed so that a canary that is in adds to it, in
            units of what it adds in one step.
        included: [m] which canaries were in.
        bytes_sent: Of all answers.
    """

    claimed: float
    audit: Audit
    answers: NDArray[np.float64]
    included: NDArray[np.bool_]
    bytes_sent: int

    def drawn(self) -> NDArray[np.bool_]:
        """[T, canaries that were in] who took part, as it can be read from gradients that carry no noise."""
        return self.answers[:, self.included] > 0.5

    @property
    def refuted(self) -> bool:
        """Whether the claim is shown to be false."""
        return self.audit.lower_bound > self.claimed


@dataclass(frozen=True)
class _Coordinate:
    """One weight of the adapter: its layer in the model, its row (output) and column (input)."""

    layer: str
    row: int
    column: int

    @property
    def tensor(self) -> str:
        """The tensor's name on the wire."""
        return self.layer.replace(".default", "") + ".weight"


def audit_client(target: Target, engine: Engine, root: Path) -> Evidence:
    """Play a whole federation with one client, and guess which canaries it had.

    Args:
        target: What to audit.
        engine: The backbone.
        root: An empty folder for the client's home.

    Raises:
        PolicyError: The client declined the plan or a round.
        ValueError: There are more canaries than weights.
    """
    announced = target.announce(engine)
    plan, included = announced.plan, target.included
    assert plan.privacy is not None
    policy = Policy(
        epsilon_per_federation=100.0, epsilon_total=100.0, noise_multiplier_min=1e-3, backbones=[engine.sha256]
    )
    engine.install(plan.adapter, announced.frozen)
    coordinates = _coordinates(engine, target)
    home = ClientHome(root)
    with (
        Ledger(
            home.ledger_folder / "ledger.jsonl",
            head_path=home.root / "head.json",
            epsilon_total=policy.epsilon_total,
            delta=target.delta,
            durable=False,
        ) as ledger,
        _planted(engine.backbone, coordinates, _PUSH * plan.privacy.clip),
    ):
        session = ClientSession(
            home=home, engine=engine, panel=_panel(target, included), policy=policy, ledger=ledger
        )
        if session.describe(plan, dict(announced.frozen)).answer != "accepted":
            raise PolicyError(f"The audited client declined the plan: {session.declined}")
        answers, sent = _attack(session, plan, coordinates)
        claimed = ledger.spent()
    # Where units are sampled, the score of a canary that is in is a mixture and no Gaussian.
    audit = audit_scores(answers.sum(axis=0), included, delta=target.delta, gaussian=target.q == 1)
    return Evidence(claimed, audit, answers, included, sent)


def _attack(
    session: ClientSession, plan: FederationPlan, coordinates: Sequence[_Coordinate]
) -> tuple[NDArray[np.float64], int]:
    """[T, m] what the bytes of each round say, and how many bytes there were."""
    answers, sent = [], 0
    for number in range(1, plan.rounds + 1):
        sign = 1.0 if number % 2 else -1.0
        adapter: Tensors = {
            spec.name: np.full(spec.shape, sign * _AMPLITUDE, dtype=np.float32) for spec in plan.adapter.tensors
        }
        order = TrainOrder(
            federation=plan.federation,
            round=number,
            plan_sha256=plan.sha256(),
            adapter_sha256=tensors_sha256(adapter),
        )
        _, payload = session.train(order, dict(adapter))
        if payload is None:
            raise PolicyError(f"The audited client declined round {number}.")
        sent += len(payload)
        delta = decode_int8(tensors_from_bytes(payload), plan.adapter.tensors)
        answers.append([sign * float(delta[one.tensor][one.row, one.column]) for one in coordinates])
    assert plan.privacy is not None
    # A clipped canary has norm C; a change of weights goes against the gradient.
    unit = plan.privacy.clip / plan.privacy.buckets["S"].expected_batch
    return np.array(answers) / (unit if plan.update == "gradient" else -unit * plan.local_learning_rate), sent


def _panel(target: Target, included: NDArray[np.bool_]) -> SalesPanel:
    """The ordinary series, and the canaries that are in."""
    whole = _everything(target.series, target.canaries, target.seed)
    left_out = {f"{_STORE}/{_canary(number)}" for number in np.flatnonzero(~included).tolist()}
    return whole.select(name for name in whole.ids if name not in left_out)


@lru_cache(maxsize=4)
def _everything(series: int, canaries: int, seed: int) -> SalesPanel:
    rng = np.random.default_rng([seed, 1])
    ordinary = rng.poisson(rng.uniform(3, 30, (series, 1)), (series, _DAYS))
    constant = np.broadcast_to(_FIRST + np.arange(canaries)[:, None], (canaries, _DAYS))
    names = [f"product-{number}" for number in range(series)] + [_canary(number) for number in range(canaries)]
    frame = pd.DataFrame(
        {
            "date": np.tile(pd.date_range("2024-01-01", periods=_DAYS), len(names)),
            "store": _STORE,
            "product": np.repeat(names, _DAYS),
            "units": np.concatenate([ordinary, constant]).ravel(),
        }
    )
    return from_frame(frame, freq="D")


def _canary(number: int) -> str:
    return f"canary-{number:05d}"


def _coordinates(engine: Engine, target: Target) -> list[_Coordinate]:
    """A weight of its own for each canary, drawn among those that are trained."""
    found = [
        _Coordinate(name.removesuffix(".weight"), row, column)
        for name, parameter in engine.backbone.core.named_parameters()
        if parameter.requires_grad
        for row, column in np.ndindex(*parameter.shape)
    ]
    if target.canaries > len(found):
        raise ValueError(f"{target.canaries} canaries need as many weights; the adapter has {len(found)}")
    order = np.random.default_rng([target.seed, 2]).permutation(len(found))
    return [found[position] for position in order[: target.canaries]]


@contextmanager
def _planted(backbone: Backbone, coordinates: Sequence[_Coordinate], push: float) -> Iterator[None]:
    """Give the windows of canaries the attacker's loss, for as long as the context lasts."""
    honest: Callable[[Batch], ForecastOutput] = backbone.forward
    layers = sorted({one.layer for one in coordinates})
    layer_of = torch.tensor([layers.index(one.layer) for one in coordinates])
    row_of = torch.tensor([one.row for one in coordinates])
    column_of = torch.tensor([one.column for one in coordinates])

    def forward(batch: Batch) -> ForecastOutput:
        out = honest(batch)
        numbers = (batch.past_values.amax(dim=1) - _FIRST).round().long()
        canary = numbers >= 0
        if out.loss_per_sample is None or not bool(canary.any()):
            return out
        modules: dict[str, Any] = dict(backbone.core.named_modules())
        number = numbers.clamp(min=0)
        weight = torch.zeros_like(out.loss_per_sample)
        for index in sorted(set(layer_of[number[canary]].tolist())):
            layer = modules[layers[index]]
            rows = torch.nonzero(canary & (layer_of[number] == index)).flatten()
            # Over all rows of the batch, since per-series gradients go by row; a row of zeros has a gradient of zero.
            inputs = torch.zeros(len(number), layer.in_features)
            inputs[rows, column_of[number[rows]]] = 1.0
            chosen = torch.zeros(len(number), layer.out_features)
            chosen[rows, row_of[number[rows]]] = 1.0
            weight = weight + (layer(inputs) * chosen).sum(dim=1)
        return replace(out, loss_per_sample=torch.where(canary, push * weight.abs(), out.loss_per_sample))

    backbone.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        del backbone.forward
