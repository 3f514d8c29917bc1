"""What decisions start from: the sales, the model of this home, the forecast of the next steps, and past forecasts.

Decisions need forecasts of their own: over other horizons than the report's, under other prices, and from past days
on, to learn what may be believed of sums. All come from one forecaster, so that what is learned fits what is used.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from trend_client.decisions.levels import PAST_SUMS, ServiceLevels, ranks
from trend_client.decisions.paths import Dependence, Sampler, normal_scores
from trend_common.errors import TrendError, UsageError
from trend_common.forecasts import Forecast
from trend_common.panel import SalesPanel
from trend_common.scoring import MINIMUM_HISTORY, actuals, next_origin, panel_before

if TYPE_CHECKING:
    from trend_client.contest import Forecaster
    from trend_client.engine import Engine
    from trend_client.outcome import Model
    from trend_client.workplace import Workplace

__all__ = ["Outlook", "dependence_before", "method_of", "outlook"]

_PAST_WINDOWS: Final = 4
_LEARNED: Final = ("personal", "shared", "zero-shot")


@dataclass(frozen=True, eq=False)
class Outlook:
    """A home ready for decisions.

    Attributes:
        place: The home.
        panel: Its sales.
        engine: The backbone.
        model: Its adapters.
        method: Which of them forecasts where no forecast is at hand, and looks back.
        notes: What a person should know of how the forecast came about.
    """

    place: Workplace
    panel: SalesPanel
    engine: Engine
    model: Model
    method: str
    notes: list[str] = field(default_factory=list)

    @property
    def origin(self) -> pd.Timestamp:
        """The first step ahead."""
        return next_origin(self.panel)

    @property
    def forecaster(self) -> Forecaster:
        """The home's model."""
        return self.engine.forecaster(
            self.model.adapters[self.method], context=self.model.context, country=self.place.country
        )

    def forecast(self, steps: int) -> Forecast:
        """``steps`` steps ahead for every series, by the home's model."""
        return self.forecaster(self.panel, self.origin, steps)

    def forecast_of(self, panel: SalesPanel, ids: Sequence[str], steps: int) -> Forecast:
        """The steps ahead of some series of ``panel``; the others are there for what young ones can expect."""
        from trend_common.windows import PanelWindows

        windows = PanelWindows(panel, context=self.model.context, country=self.place.country, ahead=steps)
        where = {name: row for row, name in enumerate(windows.ids)}
        rows = np.array([where[name] for name in ids], dtype=np.int64)
        tensors = self.model.adapters[self.method]
        return self.engine.forecast(tensors, windows, windows.step_of(self.origin), steps, rows=rows)

    def chosen(self, product: str | None, store: str | None, *, most: int) -> tuple[str, ...]:
        """The series of a product and a store; where none is named those that sold most lately, largest first.

        Raises:
            UsageError: Nothing goes by that name; the nearest name is told.
        """
        from trend_client.decisions.tables import nearest

        static = self.panel.static
        kept = static
        for role, name in (("store", store), ("product", product)):
            if name is None:
                continue
            found = kept[kept[role] == name]
            if role == "product" and not len(found):
                found = kept[kept["description"].str.casefold() == name.casefold()]
            if not len(found):
                like = nearest(
                    name, [*kept[role].unique(), *(kept["description"].unique() if role == "product" else [])]
                )
                raise UsageError(
                    f"There is no {role} {name!r}" + (f" in {store!r}." if role == "product" and store else "."),
                    f"The nearest name is {like!r}." if like else f"Names are as in the sales file's {role} column.",
                )
            kept = found
        recent = self.panel.frame["ds"] > self.panel.calendar_end - pd.Timedelta(days=91)
        sums = self.panel.frame[recent].groupby("unique_id")["y"].sum().reindex(kept.index).fillna(0.0)
        return tuple(sums.sort_values(ascending=False, kind="stable").index[:most])

    def trained_before(self, steps: int) -> Forecaster:
        """A forecaster that did not train on the last ``steps`` steps: the home's model where that holds for it.

        Personal and shared models train up to two horizons before the end. For more steps the pretrained model, which
        never saw these sales, stands in, and a note says so.
        """
        if self.method == "zero-shot" or steps <= 2 * self.model.horizon:
            return self.forecaster
        self.notes.append(f"The {self.method} model has trained on part of these steps; the pretrained one plays.")
        return self.engine.forecaster(None, context=self.model.context, country=self.place.country)

    def kept(self) -> Forecast | None:
        """The forecast in the output folder, if it begins after these sales and has all their series."""
        from trend_client.outputs import read_forecasts

        try:
            found = read_forecasts(self.place.home.output)
        except TrendError:
            return None
        if not len(found) or pd.Timestamp(found.ds[0, 0]) != self.origin or not set(self.panel.ids) <= set(found.ids):
            return None
        return found.select(self.panel.ids)

    def service_levels(self, dependence: Dependence, interval: int, *, stride: int) -> ServiceLevels:
        """Which level of the paths met which service level in sums over ``interval`` steps, the last ones."""
        sampler = Sampler(dependence, interval)
        calendar = pd.date_range(self.panel.start, self.origin, freq=self.panel.offset, inclusive="left")
        past = []
        for back in range(PAST_SUMS):
            start = len(calendar) - interval - back * stride
            if start < MINIMUM_HISTORY[self.panel.freq]:
                break
            truth = actuals(self.panel, calendar[start], interval)
            if truth.ids:
                made = self.forecaster(panel_before(self.panel, calendar[start]), calendar[start], interval)
                totals = np.concatenate([one.sum(2) for _, one in sampler.demand(made.select(truth.ids))])
                past.append(ranks(totals, np.nansum(truth.y, axis=1)))
        return ServiceLevels.fit(past)

    def dependence(self, steps: int) -> Dependence:
        """How steps hang together, from forecasts of the last windows and what came to pass in them."""
        return dependence_before(self.forecaster, self.panel, self.origin, steps)


def outlook(place: Workplace) -> Outlook:
    """Load the sales and the model of a home."""
    from trend_client.outcome import load_model

    panel, engine = place.panel(), place.engine()
    model = load_model(place.home, engine, panel)
    return Outlook(place, panel, engine, model, method_of(place, model))


def method_of(place: Workplace, model: Model) -> str:
    """The learned model that the last backtest liked best, else the shared one, else the pretrained one.

    The personal model is taken on the backtest's word alone: without one nothing says that it is better.
    """
    ranked: list[str] = []
    try:
        body = json.loads((place.home.output / "backtest.json").read_text("utf-8"))
        losses = {
            name: float(one["validation"]["sql"])
            for name, one in body["methods"].items()
            if name in _LEARNED and one["validation"]["sql"] is not None
        }
        ranked = sorted(losses, key=lambda name: losses[name])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return next(name for name in (*ranked, "shared", "zero-shot") if name in model.adapters)


def dependence_before(
    forecaster: Forecaster, panel: SalesPanel, origin: pd.Timestamp, steps: int, *, windows: int = _PAST_WINDOWS
) -> Dependence:
    """The dependence that windows before ``origin`` showed; the default where there is no room for any.

    Args:
        forecaster: Forecasts each window from what was known before it.
        panel: Sales; nothing dated on or after ``origin`` is looked at.
        origin: Where the last window ends.
        steps: Length of a window.
        windows: Most windows, one behind the other.
    """
    known = panel_before(panel, origin)
    calendar = pd.date_range(panel.start, origin, freq=panel.offset, inclusive="left")
    found: list[np.ndarray] = []
    for back in range(1, windows + 1):
        start = len(calendar) - back * steps
        if start < 2 * steps or steps < 2:
            break
        at = calendar[start]
        # The calendar of the known panel may end before the origin, if nothing was sold lately.
        try:
            truth = actuals(known, at, steps)
        except ValueError:
            continue
        if not truth.ids:
            continue
        made = forecaster(panel_before(known, at), at, steps)
        ids = _both(truth.ids, made.ids)
        if ids:
            found.append(normal_scores(made.select(ids), truth.select(ids).y))
    return Dependence.fit(found)


def _both(one: Sequence[str], other: Sequence[str]) -> tuple[str, ...]:
    also = set(other)
    return tuple(name for name in one if name in also)
