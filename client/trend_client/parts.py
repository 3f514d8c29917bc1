"""What a personal model is made of, as one set of named tensors that a home can keep.

A shared adapter is one set of tensors. A personal model may be an ensemble, whose members forecast together, and may
have a part of its own for products that were just launched. The members' tensors are named "member-0/...", the launch
part's "launch/..."; one member alone has no prefix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trend_common.forecasts import Forecast
from trend_common.tensors import Tensors

__all__ = ["Parts", "average", "overlaid", "rank_of", "rebased"]

_MEMBER: Final = "member-"
_LAUNCH: Final = "launch"


@dataclass(frozen=True, eq=False)
class Parts:
    """A model's parts.

    Attributes:
        members: Each forecasts every series; the mean of their quantiles is the forecast. None is the backbone as
            shipped.
        launch: Forecasts series with almost no history, if there is such a part.
    """

    members: tuple[Tensors | None, ...]
    launch: Tensors | None = None

    @classmethod
    def of(cls, tensors: Mapping[str, NDArray[np.float32]] | None) -> Parts:
        """Take apart what :meth:`join` joined."""
        if tensors is None:
            return cls((None,))
        found: dict[str, Tensors] = {}
        for name, value in tensors.items():
            part, slash, rest = name.partition("/")
            found.setdefault(part if slash else "", {})[rest if slash else name] = value
        launch = found.pop(_LAUNCH, None)
        members = [found[part] for part in sorted(found, key=lambda part: (len(part), part))]
        return cls(tuple(members) or ({},), launch)

    def join(self) -> Tensors:
        """All tensors in one dictionary."""
        joined: Tensors = {}
        for number, member in enumerate(self.members):
            prefix = f"{_MEMBER}{number}/" if len(self.members) > 1 else ""
            joined |= {f"{prefix}{name}": value for name, value in (member or {}).items()}
        return joined | {f"{_LAUNCH}/{name}": value for name, value in (self.launch or {}).items()}


def average(forecasts: list[Forecast]) -> Forecast:
    """The mean of the quantiles and of the means, series by series."""
    if len(forecasts) == 1:
        return forecasts[0]
    return replace(
        forecasts[0],
        quantiles=np.mean([one.quantiles for one in forecasts], axis=0),
        mean=np.mean([one.mean for one in forecasts], axis=0),
    )


def overlaid(forecast: Forecast, rows: NDArray[np.int64], other: Forecast) -> Forecast:
    """``forecast`` with the series ``rows`` taken from ``other``, which has those alone."""
    quantiles, mean = forecast.quantiles.copy(), forecast.mean.copy()
    quantiles[rows], mean[rows] = other.quantiles, other.mean
    return replace(forecast, quantiles=quantiles, mean=mean)


def rebased(personal: Tensors, old: Tensors, new: Tensors) -> Tensors:
    """What a personal model learned on top of one shared adapter, put on top of another.

    The shared tensors are the B of LoRA with a frozen A, in which the change of a layer is linear, so the sum holds
    both changes exactly; how well they go together, the backtest says.

    Args:
        personal: A joined model.
        old: The shared adapter that it started from.
        new: The one that is there now.
    """

    def moved(part: Tensors) -> Tensors:
        return {
            name: (value + new[name] - old[name]).astype(np.float32) if name in old and name in new else value
            for name, value in part.items()
        }

    found = Parts.of(personal)
    return Parts(
        tuple(moved(one or {}) for one in found.members), None if found.launch is None else moved(found.launch)
    ).join()


def rank_of(tensors: Mapping[str, NDArray[np.float32]] | None) -> int | None:
    """LoRA's r in a stored model; None if there is no adapter in it."""
    found = (value.shape[0] for name, value in (tensors or {}).items() if name.endswith("lora_A.weight"))
    return next(found, None)
