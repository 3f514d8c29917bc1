"""Reading a client's answer to ``train``, trusting nothing in it."""

from __future__ import annotations

import math
from typing import Final

from flwr.app import Message

from trend_common.errors import PolicyError
from trend_common.flower.records import unpack
from trend_common.protocol import BucketName, FederationPlan, TrainOrder, TrainReply
from trend_common.tensors import Tensors, check_tensors, decode_int8, total_norm

__all__ = ["norm_bound", "read_delta"]

_FILL: Final = 4.0
"""How many times its bucket's expected batch a client may truly have."""
_SLACK: Final = 1.5
_TAIL: Final = 6.0
"""Standard deviations by which the norm of the noise may exceed its mean; it has a deviation of about σC/√2."""


def norm_bound(plan: FederationPlan, bucket: BucketName) -> float:
    """The largest norm that an honest client's delta can have; infinity where nothing bounds it.

    A step's gradient is the sum of N clipped gradients, at most N·C, plus noise of norm about σ·C·√D, divided by the
    bucket's expected batch. The bound allows for both, so under privacy it cannot catch a client that stays within
    the noise: that is what the robust aggregations are for.
    """
    if plan.privacy is None:
        return math.inf
    of = plan.privacy.buckets[bucket]
    parameters = plan.adapter.parameters
    noise = of.noise_multiplier * plan.privacy.clip * (math.sqrt(parameters) + _TAIL) / of.expected_batch
    gradient = _SLACK * (_FILL * plan.privacy.clip + noise)
    if plan.update == "gradient":
        return gradient
    # Local steps: with plain descent a step moves by lr times the gradient, with Adam by up to lr in each element.
    return _SLACK * plan.steps * plan.local_learning_rate * max(gradient, math.sqrt(parameters))


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
