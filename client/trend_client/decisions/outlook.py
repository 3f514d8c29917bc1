"""What decisions start from: the sales and their plan, the models of this home, the forecast of the next steps, and
past forecasts.

The next steps are those of ``trend-client forecast``, quantile for quantile (:mod:`trend_client.decisions.blend`).
What may be believed of sums is learned from the same blend's forecasts of past windows, of a sample of the series.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from trend_client.decisions.blend import Blend, Past, fingerprint, hashes, load_basis, plain_choice
from trend_client.decisions.levels import PAST_SUMS, ServiceLevels, ranks
from trend_client.decisions.paths import Dependence, Sampler, normal_scores
from trend_client.decisions.words import say
from trend_client.planned import planned
from trend_client.trial import sampled
from trend_common.errors import UsageError
from trend_common.forecasts import Forecast
from trend_common.panel import SalesPanel
from trend_common.scoring import MINIMUM_HISTORY, actuals, next_origin, panel_before

if TYPE_CHECKING:
    from trend_client.contest import Forecaster
    from trend_client.decisions.blend import Basis
    from trend_client.engine import Engine
    from trend_client.outcome import Model
    from trend_client.workplace import Workplace

__all__ = ["Outlook", "dependence_before", "method_of", "outlook"]

_PAST_WINDOWS: Final = 4
_LEARNED: Final = ("personal", "shared", "zero-shot")

LEARNED_FROM: Final = 256
"""Series from whose past decisions learn how steps hang together and which level meets which service level."""


@dataclass(frozen=True, eq=False)
class Outlook:
    """A home ready for decisions.

    Attributes:
        place: The home.
        panel: Its sales, and what is planned.
        engine: The backbone.
        model: Its adapters.
        method: Which of them stands for the home where only one can: the heaviest of the blend.
        basis: What the last forecast was made with, if there was one of this assortment.
        notes: What a person should know of how the forecast came about.
    """

    place: Workplace
    panel: SalesPanel
    engine: Engine
    model: Model
    method: str
    basis: Basis | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def origin(self) -> pd.Timestamp:
        """The first step ahead."""
        return next_origin(self.panel)

    @property
    def horizon(self) -> int:
        """Steps of the forecast files, or of those that there would be."""
        return self.model.horizon if self.basis is None else self.basis.horizon

    @cached_property
    def blend(self) -> Blend:
        """The home's blend; one model alone where no backtest has compared any."""
        choice = None if self.basis is None else self.basis.choice
        if choice is None:
            choice = plain_choice(self.method)
        return Blend(
            self.engine,
            replace(self.model, horizon=self.horizon),  # what the methods were compared for
            choice,
            sales=self.panel,
            country=self.place.country,
            kept=self.place.home.trees,
        )

    @cached_property
    def past(self) -> Forecaster:
        """The blend for past windows, without what trained on them."""
        return Past(self.blend, self.panel)

    @cached_property
    def sample(self) -> SalesPanel:
        """The series from whose past decisions learn."""
        if self.panel.n_series <= LEARNED_FROM:
            return self.panel
        chosen = self.panel.select(sampled(self.panel.ids, LEARNED_FROM))
        return replace(chosen, until=self.panel.calendar_end)

    @property
    def written_steps(self) -> int:
        """Steps ahead for which the forecast files hold; 0 where sales, plan or models have changed since."""
        return 0 if self._written is None else self._written[1]

    @cached_property
    def _written(self) -> tuple[Path, int] | None:
        basis = self.basis
        if basis is None or basis.sales != fingerprint(self.panel) or basis.models != hashes(self.engine, self.model):
            return None
        path = Path(basis.folder) / "forecasts.parquet"
        return (path, basis.horizon) if path.is_file() else None

    def kept(self, ids: Sequence[str]) -> Forecast | None:
        """What ``trend-client forecast`` wrote of some series, if it holds."""
        if self._written is None:
            return None
        try:
            rows = pd.read_parquet(self._written[0], filters=[("unique_id", "in", list(ids))])
            found = Forecast.from_frame(rows)
        except (ValueError, OSError):
            return None
        if not len(found) or pd.Timestamp(found.ds[0, 0]) != self.origin or not set(ids) <= set(found.ids):
            return None
        return found.select(ids)

    def forecast(self, steps: int, ids: Sequence[str] | None = None) -> Forecast:
        """``steps`` steps ahead, as ``trend-client forecast`` has them; of all series, or of some."""
        wanted = self.panel.ids if ids is None else tuple(ids)
        kept = self.kept(wanted)
        if kept is not None and kept.horizon >= steps:
            return _first(kept, steps)
        near = kept or self.blend.of(self.panel, self.origin, self.horizon, wanted)
        if near.horizon >= steps:
            return _first(near, steps)
        # A model that is asked for more steps may say a little else of the first ones.
        far = self.blend.of(self.panel, self.origin, steps, wanted)
        quantiles, mean = far.quantiles.copy(), far.mean.copy()
        quantiles[:, : near.horizon], mean[:, : near.horizon] = near.quantiles, near.mean
        return replace(far, quantiles=quantiles, mean=mean)

    def forecast_of(self, panel: SalesPanel, ids: Sequence[str], steps: int) -> Forecast:
        """The steps ahead of some series of ``panel``, whose plan may be another."""
        return _first(self.blend.of(panel, self.origin, max(steps, self.horizon), ids), steps)

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

    def service_levels(self, dependence: Dependence, interval: int, *, stride: int) -> ServiceLevels:
        """Which level of the paths met which service level in sums over ``interval`` steps, the last ones."""
        sampler = Sampler(dependence, interval)
        panel = self.sample
        calendar = pd.date_range(panel.start, self.origin, freq=panel.offset, inclusive="left")
        past = []
        for back in range(PAST_SUMS):
            start = len(calendar) - interval - back * stride
            if start < MINIMUM_HISTORY[panel.freq]:
                break
            truth = actuals(panel, calendar[start], interval)
            if truth.ids:
                known = panel_before(panel.select(truth.ids), calendar[start])
                made = self.past(known, calendar[start], interval)
                totals = np.concatenate([one.sum(2) for _, one in sampler.demand(made.select(truth.ids))])
                past.append(ranks(totals, np.nansum(truth.y, axis=1)))
        return ServiceLevels.fit(past)

    def dependence(self, steps: int) -> Dependence:
        """How steps hang together, from forecasts of the last windows and what came to pass in them."""
        return dependence_before(self.past, self.sample, self.origin, steps)


def _first(forecast: Forecast, steps: int) -> Forecast:
    if forecast.horizon == steps:
        return forecast
    return replace(
        forecast,
        ds=forecast.ds[:, :steps],
        quantiles=forecast.quantiles[:, :steps],
        mean=forecast.mean[:, :steps],
    )


def outlook(place: Workplace, steps: int | None = None, *, blends: bool = True) -> Outlook:
    """Load the sales, the plan and the models of a home.

    Args:
        place: The home.
        steps: How far ahead the command looks; default the forecast's horizon.
        blends: Whether the command forecasts by the blend, so that its state is worth a note.
    """
    from trend_client.backtest import METHOD_NAMES
    from trend_client.outcome import load_model

    panel, engine = place.panel(), place.engine()
    model = load_model(place.home, engine, panel)
    panel, noted = planned(place, panel, steps or model.horizon, doors=blends)
    basis = load_basis(place.home, panel)
    look = Outlook(place, panel, engine, model, method_of(place, model, basis), basis, list(noted))
    if not blends:
        return look
    if basis is None:
        look.notes.append(
            say(
                "No forecast of these sales lies in the home, so no methods have been compared: %(method)s answers "
                "alone. Run trend-client forecast first.",
                method=say(METHOD_NAMES.get(look.method, look.method)),
            )
        )
    elif not look.written_steps:
        look.notes.append(
            say(
                "Sales, plan or models have changed since the last trend-client forecast: its weights are used, on "
                "what is known now. Run it again, and its files and this will say the same."
            )
        )
    return look


def method_of(place: Workplace, model: Model, basis: Basis | None = None) -> str:
    """The learned model that weighs most in the blend, else the one that the last backtest liked best.

    Else it is the shared one, else the pretrained one.

    The personal model is taken on the backtest's word alone: without one nothing says that it is better.
    """
    if basis is not None and basis.choice is None:  # no backtest: as such a forecast is made
        return next(name for name in ("shared", "zero-shot") if name in model.adapters)
    ranked = [] if basis is None or basis.choice is None else [n for n in basis.choice.shares if n in _LEARNED]
    try:
        body = json.loads((place.home.output / "backtest.json").read_text("utf-8"))
        losses = {
            name: float(one["validation"]["sql"])
            for name, one in body["methods"].items()
            if name in _LEARNED and one["validation"]["sql"] is not None
        }
        ranked += sorted(losses, key=lambda name: losses[name])
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
