"""Who gains from joining and who loses: by size, by volume and by kind, with the worst of all.

A retailer's change is its WQL over its WQL with the rival (``alone``: what it can do without anybody), minus 1, in
the mean over the cuts; below 0 is better. Groups:

- by number of series and by units sold before the validation, in thirds of the retailers (volumes are compared within
  a kind, since revenue and pieces do not compare);
- by kind: the group that the operator declares (:class:`trend_simulations.sources.Retailer`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trend_simulations.intervals import Interval, bootstrap

__all__ = ["FAIR_ARMS", "Share", "fairness_of"]

Array = NDArray[np.float64]

FAIR_ARMS: Final = ("gated", "gated-dp@8", "gated-dp@4", "gated-dp@2", "gated-dp@1")
"""The arms that a retailer would be offered."""

_WORSE: Final = 0.01
_THIRDS: Final = ("fewest", "middle", "most")
_SMALLEST: Final = 6
"""Retailers below which thirds say nothing."""


@dataclass(frozen=True)
class Share:
    """How one group of retailers fares.

    Attributes:
        retailers: How many.
        change: Mean change and its interval over retailers and cuts.
        gain: Share that is better than with the rival.
        worse: Share that is more than 1 % worse.
        worst: The largest change, and whose it is.
    """

    retailers: int
    change: Interval
    gain: float
    worse: float
    worst: float
    worst_name: str

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "retailers": self.retailers,
            "change": self.change.to_json(),
            "gain": round(self.gain, 6),
            "worse": round(self.worse, 6),
            "worst": round(self.worst, 6),
            "worst_name": self.worst_name,
        }


def fairness_of(
    results: Sequence[Mapping[str, Any]],
    *,
    arms: Sequence[str] = FAIR_ARMS,
    rival: str = "alone",
    measure: str = "wql",
) -> dict[str, dict[str, Share]]:
    """Arm → group → how it fares, for one federation at its cuts.

    Args:
        results: Its runs' JSON; retailers that are not in every cut are left out.
        arms: Those of them that were run are looked at.
        rival: What they are held against.
        measure: The loss.

    Returns:
        Groups in the order all, series, volume, kind; empty where the rival was not run.
    """
    if not results or rival not in results[0]["arms"]:
        return {}
    cuts = [{client["name"]: client for client in result["clients"]} for result in results]
    names = [client["name"] for client in results[0]["clients"] if all(client["name"] in cut for cut in cuts)]
    groups = _groups(results[0], names)
    found: dict[str, dict[str, Share]] = {}
    for arm in arms:
        if arm not in results[0]["arms"] or arm == rival:
            continue
        change = np.array([[_change(cut[name]["arms"], arm, rival, measure) for cut in cuts] for name in names])
        some = {group: _share(change[rows], [names[row] for row in rows]) for group, rows in groups.items()}
        found[arm] = {group: share for group, share in some.items() if share is not None}
    return found


def _change(arms: Mapping[str, Any], arm: str, rival: str, measure: str) -> float:
    own, other = arms[arm][measure], arms[rival][measure]
    return float("nan") if own is None or not other else own / other - 1


def _share(change: Array, names: Sequence[str]) -> Share | None:
    means = change.mean(axis=1)
    known = np.flatnonzero(np.isfinite(means))
    if not known.size:
        return None
    worst = known[int(np.argmax(means[known]))]
    return Share(
        retailers=len(known),
        change=bootstrap(change),
        gain=float((means[known] < 0).mean()),
        worse=float((means[known] > _WORSE).mean()),
        worst=float(means[worst]),
        worst_name=names[worst],
    )


def _groups(result: Mapping[str, Any], names: Sequence[str]) -> dict[str, list[int]]:
    """Group → positions in ``names``."""
    about = {one["name"]: one for one in result["data"]}
    declared = {client["name"]: client.get("group", "") for client in result["clients"]}
    kinds = [declared[name] for name in names]
    found = {"all": list(range(len(names)))}
    series = np.array([about[name]["series"] for name in names], dtype=np.float64)
    found |= {f"{third} series": rows for third, rows in _thirds(series).items()}
    if all("volume" in about[name] for name in names):
        volume = np.array([about[name]["volume"] for name in names], dtype=np.float64)
        parts = [[row for row, kind in enumerate(kinds) if kind == one] for one in dict.fromkeys(kinds)]
        joined: dict[str, list[int]] = {}
        for part in parts:
            for third, rows in _thirds(volume[part]).items():
                joined.setdefault(third, []).extend(part[row] for row in rows)
        found |= {f"{third} sales": sorted(joined[third]) for third in _THIRDS if third in joined}
    if len(set(kinds)) > 1:
        found |= {
            f"kind {kind}": [row for row, one in enumerate(kinds) if one == kind] for kind in sorted(set(kinds))
        }
    return found


def _thirds(sizes: Array) -> dict[str, list[int]]:
    """Thirds of the retailers by size, ties broken by their order; none where they are few or all alike."""
    if len(sizes) < _SMALLEST or sizes.min() == sizes.max():
        return {}
    order = np.argsort(sizes, kind="stable")
    return {name: sorted(part.tolist()) for name, part in zip(_THIRDS, np.array_split(order, 3), strict=True)}
