"""The client's Flower app: messages in, replies out, through the strict records of the protocol."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from trend_client.secure import SecureRounds
from trend_client.session import ClientSession
from trend_common.flower.records import reply, unpack
from trend_common.protocol import AdoptOrder, FederationPlan, TrainOrder, WireModel
from trend_common.secagg.messages import ConfirmOrder, KeysOrder, MaskedOrder, SharesOrder, UnmaskOrder

__all__ = ["answer_secure_rounds", "make_app"]


def make_app(session: ClientSession, key: ec.EllipticCurvePrivateKey | None = None) -> ClientApp:
    """The ClientApp that answers for ``session``; it reads nothing from the context.

    Args:
        session: Holds all state but the secrets of a secure round.
        key: The enrolled key, for secure aggregation; without it such rounds are declined.
    """
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

    answer_secure_rounds(app, session, SecureRounds(session, key))
    return app


def answer_secure_rounds(app: ClientApp, session: ClientSession, secure: SecureRounds) -> None:
    """The five questions that take the place of ``train`` under secure aggregation."""
    last = ("", 0)

    def sending(kind: str, to: Message, body: WireModel, payload: bytes | None = None) -> Message:
        session.note(kind, body, payload, federation=last[0], round_number=last[1])
        return reply(to, body, payload)

    @app.query("keys")  # type: ignore[untyped-decorator]
    def keys(message: Message, _: Context) -> Message:
        nonlocal last
        order, _none = unpack(message.content, KeysOrder, tensors=False)
        last = (order.attempt.order.federation, order.attempt.order.round)
        return sending("keys", message, secure.keys(order))

    @app.query("shares")  # type: ignore[untyped-decorator]
    def shares(message: Message, _: Context) -> Message:
        order, _none = unpack(message.content, SharesOrder, tensors=False)
        return sending("shares", message, secure.shares(order))

    @app.train("masked")  # type: ignore[untyped-decorator]
    def masked(message: Message, _: Context) -> Message:
        order, adapter = unpack(message.content, MaskedOrder, tensors=True)
        return sending("train", message, *secure.masked(order, adapter))

    @app.query("confirm")  # type: ignore[untyped-decorator]
    def confirm(message: Message, _: Context) -> Message:
        order, _none = unpack(message.content, ConfirmOrder, tensors=False)
        return sending("confirm", message, secure.confirm(order))

    @app.query("unmask")  # type: ignore[untyped-decorator]
    def unmask(message: Message, _: Context) -> Message:
        order, _none = unpack(message.content, UnmaskOrder, tensors=False)
        return sending("unmask", message, secure.unmask(order))
