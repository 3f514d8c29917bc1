"""The terms under which products are ordered, as options: the same for ``orders`` and ``recommend``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from trend_client.decisions.policy import Terms

__all__ = [
    "LeadTimeSdOption",
    "MoqOption",
    "PackOption",
    "ReviewOption",
    "ServiceLevelOption",
    "ShelfLifeOption",
    "SkipUnknownOption",
    "terms",
]

_REVIEW = {"D": 7, "W": 1, "M": 1}

ServiceLevelOption = Annotated[
    float, typer.Option("--service-level", help="Probability of not running out before the next delivery.")
]
LeadTimeSdOption = Annotated[
    float, typer.Option("--lead-time-sd", help="Standard deviation of the lead time in steps.")
]
ReviewOption = Annotated[
    int | None, typer.Option("--review", help="Steps between two orders. Default: 7 with daily data, else 1.")
]
MoqOption = Annotated[float, typer.Option("--moq", help="Least quantity of an order that is placed.")]
PackOption = Annotated[float, typer.Option("--pack", help="Orders are multiples of it.")]
ShelfLifeOption = Annotated[int | None, typer.Option("--shelf-life", help="Steps for which a delivery can be sold.")]
SkipUnknownOption = Annotated[
    bool, typer.Option("--skip-unknown", help="Pass over products that the sales do not know.")
]


def terms(freq: str | None, review: int | None, **given: float | int | None) -> Terms:
    """The terms of a command line.

    Args:
        freq: Of the sales; None before they are read, when only the terms themselves are checked.
        review: As given.
        given: The other fields of :class:`~trend_client.decisions.policy.Terms`.

    Raises:
        UsageError: A term is out of range.
    """
    from trend_client.decisions.policy import Terms

    return Terms(review=review or _REVIEW[freq or "W"], **given)  # type: ignore[arg-type]
