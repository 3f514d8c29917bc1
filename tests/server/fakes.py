"""A small federation for tests: a plan of two tensors, and clients whose answers are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from trend_common.flower.records import reply, unpack
from trend_common.protocol import (
    AdapterPlan,
    AdoptOrder,
    AdoptReply,
    BucketPlan,
    DescribeReply,
    FederationPlan,
    PrivacyPlan,
    TrainOrder,
    TrainReply,
)
from trend_common.tensors import Tensors, TensorSpec, encode_int8, tensors_sha256


class Uniforms:
    """Uniforms for the int8 rounding of a fake client."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def uniform(self, size: int) -> np.ndarray:
        """See ``encode_int8``."""
        return self._rng.uniform(1e-9, 1 - 1e-9, size)


def small_plan(
    *,
    rounds: int = 3,
    privacy: bool = False,
    update: str = "gradient",
    shape: tuple[int, ...] = (4, 2),
    steps: int = 1,
) -> tuple[FederationPlan, Tensors, Tensors]:
    """A plan with its initial and frozen tensors."""
    initial: Tensors = {"layer.lora_B.weight": np.zeros(shape, np.float32), "bias": np.zeros(3, np.float32)}
    frozen: Tensors = {"layer.lora_A.weight": np.arange(8, dtype=np.float32).reshape(2, 4)}
    plan = FederationPlan(
        federation="test",
        backbone="tiny",
        backbone_sha256="b" * 64,
        adapter=AdapterPlan(
            rank=2,
            alpha=4,
            targets=("layer",),
            tensors=tuple(TensorSpec(name=n, shape=initial[n].shape) for n in sorted(initial)),
            frozen=tuple(TensorSpec(name=n, shape=v.shape) for n, v in frozen.items()),
            frozen_sha256=tensors_sha256(frozen),
        ),
        freq="D",
        horizon=28,
        context=56,
        rounds=rounds,
        steps=steps,
        windows_per_series=4,
        update=update,
        local_learning_rate=0.1,
        proximal_mu=0,
        privacy=PrivacyPlan(
            epsilon=4,
            delta=1e-5,
            clip=0.1,
            buckets={"S": BucketPlan(q=1, noise_multiplier=4.8, expected_batch=50)},
        )
        if privacy
        else None,
        wire="int8" if privacy else "float32",
    )
    return plan, initial, frozen


class FakeClient:
    """A client that answers ``train`` with ``delta(round, adapter)`` and counts what it was asked.

    Args:
        delta: Round number and adapter → tensors; may raise.
        accept: Whether it accepts the plan.
        bucket: What it declares.
        seed: Of its int8 rounding.
    """

    def __init__(
        self,
        delta: Callable[[int, Tensors], Tensors] | None = None,
        *,
        accept: bool = True,
        bucket: str = "S",
        seed: int = 0,
        on_adopt: Callable[[AdoptOrder], None] = lambda _: None,
    ) -> None:
        self.delta = delta or (lambda number, adapter: {k: np.ones_like(v) for k, v in adapter.items()})
        self.accept = accept
        self.bucket = bucket
        self.seed = seed
        self.on_adopt = on_adopt
        self.plan: FederationPlan | None = None
        self.asked: list[str] = []
        self.orders: list[TrainOrder] = []
        self.adopted: Tensors | None = None

    def app(self) -> ClientApp:
        """The ClientApp."""
        app = ClientApp()

        @app.query("describe")
        def describe(message: Message, _: Context) -> Message:
            self.asked.append("describe")
            self.plan, _frozen = unpack(message.content, FederationPlan, tensors=None)
            answer = DescribeReply(answer="accepted", bucket=self.bucket) if self.accept else None
            return reply(message, answer or DescribeReply(answer="declined"))

        @app.train()
        def train(message: Message, _: Context) -> Message:
            order, adapter = unpack(message.content, TrainOrder, tensors=True)
            self.asked.append(f"train {order.round}")
            self.orders.append(order)
            assert order.adapter_sha256 == tensors_sha256(adapter)
            tensors = self.delta(order.round, {k: np.array(v, np.float32) for k, v in adapter.items()})
            header = TrainReply(answer="delta", federation=order.federation, round=order.round)
            if self.plan is not None and self.plan.wire == "int8":
                return reply(message, header, encode_int8(tensors, Uniforms(self.seed)))
            return reply(message, header, tensors)

        @app.query("adopt")
        def adopt(message: Message, _: Context) -> Message:
            order, adapter = unpack(message.content, AdoptOrder, tensors=True)
            self.asked.append("adopt")
            assert order.adapter_sha256 == tensors_sha256(adapter)
            self.adopted = {k: np.array(v, np.float32) for k, v in adapter.items()}
            self.on_adopt(order)
            return reply(message, AdoptReply())

        return app
