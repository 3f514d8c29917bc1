"""``trend-client explain``: what each forecast is made of, periods like this one, and days that went otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from trend_client.why.anomalies import anomalies
from trend_client.why.contributions import GROUPS, Contributions, contributions
from trend_client.why.similar import Period, similar_periods
from trend_common import __version__
from trend_common.windows import PanelWindows

if TYPE_CHECKING:
    from trend_client.decisions.outlook import Outlook
    from trend_common.panel import SalesPanel

__all__ = ["Explained", "explain"]

_ALIKE_FOR: int = 20


@dataclass(frozen=True, eq=False)
class Explained:
    """Why the forecasts of some series are what they are.

    Attributes:
        method: The model that is explained.
        contributions: Its parts, over ``steps`` steps.
        other: Series → what the forecast that the planner got has beyond the model's (another method was chosen or
            blended, intervals were set right); empty where there is none at hand.
        similar: Series → past periods like the last one.
        anomalies: Days outside their interval, of all series that were looked at.
        looked_at: Days that were compared.
        unknown: What is not known ahead, so that it cannot contribute.
    """

    method: str
    contributions: Contributions
    other: Mapping[str, float]
    similar: Mapping[str, Sequence[Period]]
    anomalies: pd.DataFrame
    looked_at: int
    unknown: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        parts = self.contributions
        return {
            "schema": 1,
            "version": __version__,
            "command": "explain",
            "method": self.method,
            "start": str(pd.Timestamp(parts.ds[0]).date()),
            "steps": len(parts.ds),
            "groups": list(GROUPS),
            "not_known_ahead": list(self.unknown),
            "series": [
                {
                    "unique_id": name,
                    **{key: round(value, 4) for key, value in parts.total(row).items()},
                    "other_methods": None if name not in self.other else round(self.other[name], 4),
                    "by_step": {
                        group: [round(float(one), 4) for one in parts.parts[row, place]]
                        for place, group in enumerate(GROUPS)
                    },
                    "similar": [
                        {
                            "unique_id": one.unique_id,
                            "start": str(one.start.date()),
                            "end": str(one.end.date()),
                            "likeness": round(one.likeness, 4),
                            "followed": round(one.followed, 4),
                        }
                        for one in self.similar.get(name, ())
                    ],
                }
                for row, name in enumerate(parts.ids)
            ],
            "anomalies": {
                "looked_at": self.looked_at,
                "outside": len(self.anomalies),
                "days": [
                    {
                        "unique_id": str(row["unique_id"]),
                        "ds": str(pd.Timestamp(row["ds"]).date()),
                        **{key: round(float(row[key]), 4) for key in ("y", "expected", "low", "high", "times")},
                    }
                    for row in self.anomalies.head(200).to_dict("records")
                ],
            },
        }


def explain(
    look: Outlook, ids: Sequence[str], steps: int, *, recent: int, of: Sequence[str] | None = None
) -> Explained:
    """Explain the forecasts of some series.

    Args:
        look: The home.
        ids: Series.
        steps: H.
        recent: Steps to look back for days that went otherwise; 0 for none.
        of: Series whose recent days are looked at. Default: all.
    """
    panel = look.panel
    windows = PanelWindows(panel, context=look.model.context, country=look.place.country, ahead=steps)
    where = {name: row for row, name in enumerate(windows.ids)}
    rows = np.array([where[name] for name in ids], dtype=np.int64)
    origin = windows.step_of(look.origin)
    parts = contributions(look.engine, look.model.adapters[look.method], windows, origin, steps, rows)
    kept, other = look.kept(), {}
    if kept is not None and kept.horizon >= len(parts.ds):
        mean = kept.select(ids).mean[:, : len(parts.ds)].sum(1)
        other = {name: float(mean[row] - parts.forecast[row].sum()) for row, name in enumerate(ids)}
    found, looked = anomalies(panel, look.trained_before(recent), recent, of) if recent else (pd.DataFrame(), 0)
    return Explained(
        look.method,
        parts,
        other,
        {name: similar_periods(panel, name, steps) for name in list(ids)[:_ALIKE_FOR]},
        found,
        looked,
        _unknown(panel, windows, look.place.country),
    )


def _unknown(panel: SalesPanel, windows: PanelWindows, country: str | None) -> tuple[str, ...]:
    """Groups without a single value ahead."""
    ahead = panel.future
    found = []
    for group, column in (("price", "price"), ("promotion", "promo"), ("holiday", "holiday")):
        known = column in ahead and bool(ahead[column].notna().any())
        if group == "price":
            known = known and windows.price_known_ahead
        if group == "holiday":
            known = known or (country is not None and "holiday" not in panel.frame)
        if not known:
            found.append(group)
    return tuple(found)
