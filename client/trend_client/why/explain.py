"""``trend-client explain``: what each forecast is made of, periods like this one, and days that went otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from trend_client.decisions.orders import described
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
        method: The model that weighs most.
        weights: Method → its mean weight in the forecasts of these series.
        contributions: Parts of what the learned models among the methods say together, over ``steps`` steps.
        other: Series → what statistical methods, and sums that were made to fit, add to that or take away. Parts and
            this are together the forecast that the planner gets.
        names: Series → store, product and description.
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
    weights: Mapping[str, float]
    names: Mapping[str, Mapping[str, str]]

    def total(self, row: int) -> float:
        """The forecast of a series over the horizon."""
        return self.contributions.total(row)["forecast"] + self.other[self.contributions.ids[row]]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        parts = self.contributions
        return {
            "schema": 1,
            "version": __version__,
            "command": "explain",
            "method": self.method,
            "weights": {name: round(weight, 4) for name, weight in self.weights.items()},
            "start": str(pd.Timestamp(parts.ds[0]).date()),
            "steps": len(parts.ds),
            "groups": list(GROUPS),
            "not_known_ahead": list(self.unknown),
            "series": [
                {
                    "unique_id": name,
                    **self.names.get(name, {}),
                    **{key: round(value, 4) for key, value in parts.total(row).items()},
                    "other_methods": round(self.other[name], 4),
                    "forecast": round(self.total(row), 4),
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
    panel, blend = look.panel, look.blend
    full = look.forecast(steps, ids)
    parts = mixed(look, ids, max(steps, look.horizon))
    steps = min(steps, len(parts.ds))
    parts = Contributions(
        parts.ids, parts.ds[:steps], parts.base[:, :steps], parts.parts[..., :steps], parts.forecast[:, :steps]
    )
    other = full.mean[:, :steps].sum(1) - parts.forecast.sum(1)
    found, looked = anomalies(panel, look.past, recent, of) if recent else (pd.DataFrame(), 0)
    weights: dict[str, float] = {}
    for name in ids:
        for method, weight in blend.choice.weights_of(name).items():
            weights[method] = weights.get(method, 0.0) + weight / len(ids)
    windows = PanelWindows(
        panel.select([ids[0]]), context=look.model.context, country=look.place.country, ahead=steps
    )
    return Explained(
        look.method,
        parts,
        {name: float(value) for name, value in zip(ids, other, strict=True)},
        {name: similar_periods(panel, name, steps) for name in list(ids)[:_ALIKE_FOR]},
        found,
        looked,
        _unknown(panel, windows, look.place.country),
        dict(sorted(weights.items(), key=lambda one: -one[1])),
        {name: described(panel, name) for name in ids},
    )


def mixed(look: Outlook, ids: Sequence[str], steps: int) -> Contributions:
    """What the learned models say of some series, each series by its own weights among them, taken apart.

    Shapley values are linear in what is explained, so the parts of a weighted mean are the means of the parts.
    """
    panel = look.panel
    windows = PanelWindows(panel, context=look.model.context, country=look.place.country, ahead=steps)
    where = {name: row for row, name in enumerate(windows.ids)}
    shares = np.zeros((len(ids), len(look.model.adapters)))
    methods = list(look.model.adapters)
    for row, name in enumerate(ids):
        for method, weight in look.blend.choice.weights_of(name).items():
            if method in look.model.adapters:
                shares[row, methods.index(method)] = weight
    shares[shares.sum(1) == 0, methods.index(look.method)] = 1.0
    shares /= shares.sum(1, keepdims=True)
    total: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    for column, method in enumerate(methods):
        at = np.flatnonzero(shares[:, column] > 0)
        if not len(at):
            continue
        rows = np.array([where[ids[int(row)]] for row in at], dtype=np.int64)
        one = contributions(
            look.engine, look.model.adapters[method], windows, windows.step_of(look.origin), steps, rows
        )
        if total is None:
            count, horizon = len(ids), len(one.ds)
            total = np.zeros((count, horizon)), np.zeros((count, len(GROUPS), horizon)), np.zeros((count, horizon))
            ds = one.ds
        share = shares[at, column]
        total[0][at] += share[:, None] * one.base
        total[1][at] += share[:, None, None] * one.parts
        total[2][at] += share[:, None] * one.forecast
    assert total is not None
    return Contributions(tuple(ids), ds, *total)


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
