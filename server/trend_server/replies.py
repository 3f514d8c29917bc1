"""Reading a client's answer to ``train``, trusting nothing in it."""

from __future__ import annotations

from flwr.app import Message

from trend_common.errors import PolicyError
from trend_common.flower.records import unpack
from trend_common.privacy.plan import norm_bound
from trend_common.protocol import BucketName, FederationPlan, TrainOrder, TrainReply
from trend_common.tensors import Tensors, check_tensors, decode_int8, total_norm

__all__ = ["read_delta"]


def read_delta(message: Message, plan: FederationPlan, order: TrainOrder, bucket: BucketName) -> Tensors | None:
    """Return the tensors that a client sent, or None if it declined the round.

    Raises:
        PolicyError: The answer is to another question, has another shape, is not finite, or is larger than any
            honest client's could be.
    """
    reply, arrays = unpack(message.content, TrainReply, tensors=None)
    if (reply.federation, reply.round) != (order.federation, order.round):
        raise PolicyError(
            f"An answer for {reply.federation}, round {reply.round} came in {order.federation}, round {order.round}.",
            "",
        )
    if reply.answer == "declined":
        if arrays:
            raise PolicyError("An answer that declines carries tensors.", "")
        return None
    decoded = decode_int8(arrays, plan.adapter.tensors) if plan.wire == "int8" else arrays
    tensors = check_tensors(decoded, plan.adapter.tensors, "a client's answer")
    norm, bound = total_norm(tensors), norm_bound(plan, bucket)
    if not norm <= bound:
        raise PolicyError(f"A client's answer has norm {norm:.3g}; with this plan at most {bound:.3g} can be.", "")
    return tensors
