"""The client's Flower app: three messages in, three replies out, through the strict records of the protocol."""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from trend_client.session import ClientSession
from trend_common.flower.records import reply, unpack
from trend_common.protocol import AdoptOrder, FederationPlan, TrainOrder

__all__ = ["make_app"]


def make_app(session: ClientSession) -> ClientApp:
    """The ClientApp that answers for ``session``; it holds no other state and reads nothing from the context."""
    app = ClientApp()

    @app.query("describe")  # type: ignore[untyped-decorator]
    def describe(message: Message, _: Context) -> Message:
        plan, frozen = unpack(message.content, FederationPlan, tensors=None)
        answer = session.describe(plan, frozen)
        session.note("describe", answer, None, federation=plan.federation, round_number=0)
        return reply(message, answer)

    @app.train()  # type: ignore[untyped-decorator]
    def train(message: Message, _: Context) -> Message:
        order, adapter = unpack(message.content, TrainOrder, tensors=True)
        header, payload = session.train(order, adapter)
        session.note("train", header, payload, federation=order.federation, round_number=order.round)
        return reply(message, header, payload)

    @app.query("adopt")  # type: ignore[untyped-decorator]
    def adopt(message: Message, _: Context) -> Message:
        order, adapter = unpack(message.content, AdoptOrder, tensors=True)
        answer = session.adopt(order, adapter)
        session.note("adopt", answer, None, federation=order.federation, round_number=order.round)
        return reply(message, answer)

    return app
