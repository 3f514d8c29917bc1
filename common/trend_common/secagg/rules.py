"""What a client asks of a plan with secure aggregation, and of one without."""

from __future__ import annotations

import math

from trend_common.protocol import FederationPlan
from trend_common.secagg.fixedpoint import range_of

__all__ = ["secure_problems"]


def secure_problems(plan: FederationPlan, required: bool, threshold_min: float) -> list[str]:
    """What a policy forbids.

    Args:
        plan: As received.
        required: The policy's ``require_secure_aggregation``.
        threshold_min: Its ``secure_threshold_min``.
    """
    rules = plan.secure_aggregation
    if rules is None:
        if required:
            return ["the server would see each client's answer; require_secure_aggregation is true"]
        return []
    problems = []
    if rules.threshold < threshold_min:
        problems.append(
            f"more than {rules.threshold:.3g} of the clients would be enough to reveal a sum; "
            f"secure_threshold_min is {threshold_min:g}"
        )
    derived = range_of(plan)
    # Under privacy the range is the plan's own norm bound, so that no honest value is out of it.
    if plan.privacy is not None and not math.isclose(rules.range, derived, rel_tol=1e-9):
        problems.append(f"the range of its secure sum is {rules.range:.6g}; its noise and clip give {derived:.6g}")
    return problems
