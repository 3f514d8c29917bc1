"""Numbers as integers modulo 2³², so that masks cancel exactly and the sum of all clients is exact.

The plan states the range R and, by its largest number of clients, the levels L = ⌊(2³¹ - 1) / clients⌋. A value x
of -R … R becomes x·L/R, rounded up or down at random so that the expectation is x itself. A sum of as many clients
stays within ±(2³¹ - 1), so it never wraps around.

R is derived from the plan: the largest norm that an honest client's noised delta may have. Every client shortens its
delta to that norm anyway, after the noise, so under privacy no element can be out of range. One that is (in a
rehearsal, which has no such norm) is counted, and the round is declined: clipping it would send a value that nobody
computed, and would bias the sum without a trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trend_common.errors import PolicyError
from trend_common.privacy.plan import norm_bound
from trend_common.protocol import FederationPlan, SecureAggregationPlan
from trend_common.tensors import Tensors, TensorSpec, UniformSource

__all__ = ["FIXED_KEY", "decode", "encode", "range_of"]

FIXED_KEY: Final = "fixed32"
"""Name of the one array of a message: uint32 [D], the tensors flattened in the order of their names."""
_REHEARSAL_RANGE: Final = 8.0


def range_of(plan: FederationPlan) -> float:
    """R for ``plan``: its largest norm bound, or 8 in a rehearsal, where there is no noise to derive it from."""
    if plan.privacy is None:
        return _REHEARSAL_RANGE
    return max(norm_bound(plan, bucket) for bucket in plan.privacy.buckets)


def encode(tensors: Tensors, scale: SecureAggregationPlan, source: UniformSource) -> NDArray[np.uint32]:
    """[D] ``tensors`` as words modulo 2³², stochastically rounded.

    Raises:
        PolicyError: Values are out of range; how many is said.
    """
    flat = np.concatenate([tensors[name].reshape(-1).astype(np.float64) for name in sorted(tensors)])
    outside = int(np.count_nonzero(~(np.abs(flat) <= scale.range)))
    if outside:
        raise PolicyError(
            f"{outside} of {flat.size} values are beyond ±{scale.range:g}, the range of the secure sum.",
            "The round is declined rather than answered with clipped values. The operator can begin a federation "
            "with smaller local steps, or one without secure aggregation.",
        )
    exact = flat * (scale.levels / scale.range)
    floor = np.floor(exact)
    rounded = floor + (source.uniform(flat.size) < exact - floor)
    words: NDArray[np.uint32] = np.clip(rounded, -scale.levels, scale.levels).astype(np.int64).astype(np.uint32)
    return words


def decode(
    total: NDArray[np.uint32], clients: int, schema: Sequence[TensorSpec], scale: SecureAggregationPlan
) -> Tensors:
    """The mean of ``clients`` from their exact sum modulo 2³².

    Raises:
        PolicyError: It has another length, or is larger than so many clients' values can add up to.
    """
    specs = sorted(schema, key=lambda spec: spec.name)
    if total.shape != (sum(spec.size for spec in specs),):
        raise PolicyError(f"The sum has the shape {total.shape}, not that of the plan's adapter.", "")
    signed = total.astype(np.uint32).view(np.int32).astype(np.int64)
    if signed.size and int(np.abs(signed).max()) > clients * scale.levels:
        raise PolicyError(f"The sum of {clients} clients is larger than {clients} of them can send.", "")
    mean = (signed * (scale.range / scale.levels) / clients).astype(np.float32)
    out: Tensors = {}
    start = 0
    for spec in specs:
        out[spec.name] = mean[start : start + spec.size].reshape(spec.shape)
        start += spec.size
    return out
