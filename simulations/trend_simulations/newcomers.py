"""Retailers who were not there when the federation trained: what the shared adapter is worth to them as it is.

Newcomers are drawn once, by their names alone, and left out of everything that trains or chooses. Each is forecast
at the test origin by the pretrained model and by the shared adapters, knowing

- ``history``: its sales as any member knows its own, calibrated by itself on its own validation horizon;
- ``level``: no sales at all, but of each series the level that the retailer expects (here the mean of the last four
  or eight weeks before the origin, which a retailer who has opened elsewhere could put down);
- ``nothing``: no sales and no level: calendar, prices, promotions, names and descriptions.

The last two see nothing that could be calibrated or chosen on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_client.siblings import Siblings
from trend_common.errors import DataError
from trend_common.forecasts import Forecast
from trend_common.predicting import predict
from trend_common.windows import PanelWindows
from trend_simulations.arms import Study, run_arm
from trend_simulations.cases import Adapter, Case, Model, make_case
from trend_simulations.intervals import Interval, bootstrap
from trend_simulations.settings import Settings
from trend_simulations.sources import Retailer

__all__ = ["KNOWN", "NEWCOMER_ARMS", "Newcomers", "Welcome", "blind_forecast", "drawn", "welcome_of"]

KNOWN: Final = ("history", "level", "nothing")
"""What of a newcomer's sales is known."""

NEWCOMER_ARMS: Final = ("federated", "federated-dp@8")
"""Whose adapters newcomers take, if they are among the arms."""

_START: Final = "zero-shot"


def drawn(names: Sequence[str], count: int) -> tuple[str, ...]:
    """``count`` of the names, by a hash of each: who is a newcomer depends on nobody's sales, at no cut."""
    return tuple(sorted(names, key=lambda name: hashlib.sha256(f"newcomer:{name}".encode()).hexdigest())[:count])


class _Unseen(PanelWindows):
    """Windows in which no sales before ``origin`` exist, as if every series were launched there.

    Attributes:
        origin: The launch.
        stated: [S] levels that are stated; 0 for none.
    """

    origin: int = 0
    stated: NDArray[np.float32]

    def batch(self, *args: Any, **more: Any) -> Any:
        """See :meth:`PanelWindows.batch`."""
        rows = np.asarray(args[0], dtype=np.int64)
        unseen = {"seen_from": np.full(len(rows), self.origin), "stated": self.stated[rows]}
        return super().batch(*args, **{**more, **unseen})


def blind_forecast(study: Study, case: Case, adapter: Adapter, origin: pd.Timestamp, *, level: bool) -> Forecast:
    """The forecast from ``origin`` of a retailer without any sales.

    Args:
        study: With the engine.
        case: The retailer.
        adapter: That it takes.
        origin: First step.
        level: Whether it puts down what it expects to sell of each series in an average step.
    """
    windows = case.data.windows
    step = windows.step_of(origin)
    blind = _Unseen(windows.panel, context=windows.context)
    blind.origin = step
    blind.stated = np.zeros(len(windows.ids), dtype=np.float32)
    if level:
        blind.stated = np.nan_to_num(Siblings(windows).levels(step)).astype(np.float32)
    adapter.put_on(study.engine)
    return predict(
        study.engine.backbone,
        blind,
        origin=step,
        horizon=case.data.horizon,
        device=study.engine.device,
    )


@dataclass
class Newcomers:
    """Scores of the retailers that were left out; hand :meth:`welcome` to ``compare(on_chosen=...)``.

    Attributes:
        retailers: They.
        settings: As the members'.
        left_out: Those that cannot be scored, with the reason.
    """

    retailers: Sequence[Retailer]
    settings: Settings
    left_out: list[str] = field(default_factory=list)
    _cases: list[Case] | None = field(default=None, init=False, repr=False)
    _found: list[list[dict[str, dict[str, float]]]] = field(default_factory=list, init=False, repr=False)

    @property
    def cases(self) -> list[Case]:
        """Those that can be scored."""
        if self._cases is None:
            self._cases = []
            for one in self.retailers:
                try:
                    self._cases.append(make_case(one, self.settings))
                except DataError as error:
                    self.left_out.append(f"{one.name}: {error.message}")
        return self._cases

    def welcome(self, study: Study) -> None:
        """Score the newcomers with the adapters that a seed's federations ended with.

        Args:
            study: Of the members, whose choices are all made.
        """
        arms = [_START, *(arm for arm in NEWCOMER_ARMS if arm in study.adapters)]
        adapters = {arm: run_arm(study, arm)[0] for arm in arms}
        self._found.append([_scored(study, case, adapters) for case in self.cases])

    def to_json(self) -> dict[str, Any]:
        """WQL of each newcomer over its seasonal naive's, seeds averaged: ``known.<what>.<arm>``."""
        return {
            "names": [one.name for one in self.retailers],
            "left_out": self.left_out,
            "clients": [
                {
                    "name": case.retailer.name,
                    "group": case.retailer.group,
                    "series": case.retailer.series,
                    "known": {known: self._means(row, known) for known in KNOWN},
                }
                for row, case in enumerate(self.cases)
            ],
        }

    def _means(self, row: int, known: str) -> dict[str, float | None]:
        found = [seed[row][known] for seed in self._found]
        means = {arm: float(np.mean([one[arm] for one in found])) for arm in (found[0] if found else {})}
        return {arm: round(value, 6) if np.isfinite(value) else None for arm, value in means.items()}


def _scored(study: Study, case: Case, adapters: Mapping[str, Adapter]) -> dict[str, dict[str, float]]:
    origin, ids = case.cut.test, case.test.ids
    found: dict[str, dict[str, float]] = {known: {} for known in KNOWN}
    for arm, adapter in adapters.items():
        model = Model.of(adapter)
        if study.settings.calibrate:
            model = model.calibrated(study.engine, case)
        made = {"history": model.forecast(study.engine, case, origin, ids)}
        for known in KNOWN[1:]:
            made[known] = blind_forecast(study, case, adapter, origin, level=known == "level").select(ids)
        for known, forecast in made.items():
            found[known][arm] = case.test.relative_wql(forecast)
    return found


@dataclass(frozen=True)
class Welcome:
    """What an arm's adapter is to newcomers who know so much.

    Attributes:
        retailers: How many, in every cut.
        relative: WQL over the seasonal naive's (which knows the history in any case).
        change: WQL over the pretrained model's, minus 1; below 0 is better. None for the pretrained model.
        better: Share of newcomers for whom it is better, in the mean over the cuts.
    """

    retailers: int
    relative: Interval
    change: Interval | None
    better: float

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "retailers": self.retailers,
            "relative": self.relative.to_json(),
            "change": self.change.to_json() if self.change else None,
            "better": None if self.change is None else round(self.better, 6),
        }


def welcome_of(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Welcome]]:
    """What is known → arm → the newcomers of one federation at its cuts; empty where there are none.

    Args:
        results: Its runs' JSON. The bootstrap resamples retailers and cuts.
    """
    parts = [
        {one["name"]: one["known"] for one in result.get("newcomers", {}).get("clients", [])} for result in results
    ]
    names = [name for name in (parts[0] if parts else {}) if all(name in part for part in parts)]
    if not names:
        return {}
    found: dict[str, dict[str, Welcome]] = {}
    for known in KNOWN:
        arms = list(parts[0][names[0]][known])
        values = {
            arm: np.array([[part[name][known].get(arm) for part in parts] for name in names], dtype=np.float64)
            for arm in arms
        }
        found[known] = {arm: _welcome(values[arm], None if arm == _START else values[_START]) for arm in arms}
    return found


def _welcome(values: NDArray[np.float64], start: NDArray[np.float64] | None) -> Welcome:
    if start is None:
        return Welcome(len(values), bootstrap(values), None, float("nan"))
    change = values / np.where(start > 0, start, np.nan) - 1
    means = change.mean(axis=1)
    known = means[np.isfinite(means)]
    better = float((known < 0).mean()) if known.size else float("nan")
    return Welcome(len(values), bootstrap(values), bootstrap(change), better)
