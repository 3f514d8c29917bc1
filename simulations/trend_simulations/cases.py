"""A simulated retailer cut for scoring: what may be trained on, what decides, and what is looked at once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd

from trend_client.engine import Engine, level_hints
from trend_client.training import TrainingData
from trend_client.trees import TREES
from trend_client.trees.forecaster import TreeForecaster
from trend_common.baselines import baseline_forecast
from trend_common.calibration import Calibration
from trend_common.covariates import YEAR
from trend_common.errors import DataError
from trend_common.forecasts import Forecast
from trend_common.metrics import SeasonalError, wql
from trend_common.predicting import predict
from trend_common.protocol import AdapterPlan
from trend_common.scoring import Origins, Score, actuals, origins, panel_before, scale_of, score
from trend_common.tensors import Tensors
from trend_common.windows import PanelWindows
from trend_simulations.boosted import BOOSTED, for_case
from trend_simulations.settings import Settings
from trend_simulations.sources import Retailer

__all__ = ["Adapter", "Case", "Model", "Truth", "make_case"]


_TREES: WeakKeyDictionary[Case, dict[pd.Timestamp, Forecast]] = WeakKeyDictionary()
"""They depend on no seed and on no federation, so what was forecast once serves all arms."""


@dataclass(frozen=True)
class Adapter:
    """An adapter that the engine can put on: its plan, the frozen part, and the tensors (None: untrained)."""

    plan: AdapterPlan
    frozen: Tensors
    tensors: Tensors | None

    def put_on(self, engine: Engine) -> None:
        """Make ``engine`` forecast with it."""
        engine.install(self.plan, self.frozen)
        engine.use(self.tensors)


@dataclass(frozen=True, eq=False)
class Model:
    """What one retailer ends an arm with: a weighted mean of forecasts, calibrated.

    Quantiles are averaged level by level, which keeps them in order and as sharp as their parts (Lichtendahl,
    Grushka-Cockayne and Winkler 2013).

    Attributes:
        parts: Adapters and names of statistical methods, with weights that sum to 1.
        calibration: Of the mean.
    """

    parts: tuple[tuple[Adapter | str, float], ...]
    calibration: Calibration = field(default_factory=Calibration)

    @classmethod
    def of(cls, adapter: Adapter) -> Model:
        """One adapter alone."""
        return cls(((adapter, 1.0),))

    def raw(self, engine: Engine, case: Case, origin: pd.Timestamp, ids: tuple[str, ...]) -> Forecast:
        """The mean before its calibration, for the series ``ids``."""
        made = []
        used = [(part, weight) for part, weight in self.parts if weight > 0]
        for part, _ in used:
            if part == TREES:
                made.append(case.trees(engine, origin).select(ids))
            elif isinstance(part, str):
                made.append(case.statistical(part, origin).select(ids))
            else:
                part.put_on(engine)
                made.append(case.forecast(engine, origin).select(ids))
        if len(made) == 1:
            return made[0]
        weights = [weight for _, weight in used]
        return Forecast.repaired(
            ids,
            made[0].ds,
            np.sum([weight * one.quantiles for weight, one in zip(weights, made, strict=True)], axis=0),
            np.sum([weight * one.mean for weight, one in zip(weights, made, strict=True)], axis=0),
            levels=made[0].levels,
        )

    def forecast(self, engine: Engine, case: Case, origin: pd.Timestamp, ids: tuple[str, ...]) -> Forecast:
        """The calibrated mean."""
        return self.calibration.apply(self.raw(engine, case, origin, ids))

    def calibrated(self, engine: Engine, case: Case) -> Model:
        """The same, calibrated on the validation horizon, on which nothing was trained."""
        truth = case.validation
        made = self.raw(engine, case, case.cut.validation, truth.ids)
        return replace(self, calibration=Calibration.fit([(truth.y, made)], np.nan_to_num(truth.scale.absolute)))


@dataclass(frozen=True, eq=False)
class Truth:
    """What came to pass in one window: S series, their yardstick, and the seasonal naive's WQL there."""

    ids: tuple[str, ...]
    y: np.ndarray
    scale: SeasonalError
    naive_wql: float

    def score(self, forecast: Forecast) -> Score:
        """All measures of ``forecast``."""
        return score(self.y, forecast.select(self.ids), self.scale)

    def relative_wql(self, forecast: Forecast) -> float:
        """WQL over the seasonal naive's."""
        return wql(self.y, forecast.select(self.ids)) / self.naive_wql if self.naive_wql > 0 else float("nan")


@dataclass(frozen=True, eq=False)
class Case:
    """One retailer at the common cut.

    Attributes:
        retailer: Name and all sales.
        cut: Validation and test.
        data: Its series as training data; no target reaches the validation.
        validation: Decides about steps, step sizes and gates.
        test: For the scores at the end alone.
    """

    retailer: Retailer
    cut: Origins
    data: TrainingData
    validation: Truth
    test: Truth

    @property
    def years(self) -> float:
        """Years of sales before the validation."""
        return self.data.train_end / YEAR[self.retailer.panel.freq]

    def forecast(self, engine: Engine, origin: pd.Timestamp) -> Forecast:
        """The engine's forecast from ``origin``, with the adapter that it wears."""
        windows = self.data.windows
        step = windows.step_of(origin)
        return predict(
            engine.backbone,
            windows,
            origin=step,
            horizon=self.data.horizon,
            level_hint=level_hints(windows, step),
            device=engine.device,
        )

    def statistical(self, method: str, origin: pd.Timestamp) -> Forecast:
        """A statistical method's forecast from ``origin``, or that of the boosted trees."""
        if method in BOOSTED:
            return for_case(self, method, origin)
        known = panel_before(self.retailer.panel, origin)
        return baseline_forecast([method], known, origin, self.data.horizon)[method]

    def trees(self, engine: Engine, origin: pd.Timestamp) -> Forecast:
        """Boosted trees on the pretrained model, fitted to this retailer's sales before ``origin``; made once."""
        made = _TREES.setdefault(self, {})
        if origin not in made:
            forecaster = TreeForecaster(engine, None, context=self.data.windows.context, horizon=self.data.horizon)
            made[origin] = forecaster(panel_before(self.retailer.panel, origin), origin, self.data.horizon)
        return made[origin]

    def baselines(self, names: tuple[str, ...]) -> dict[str, Score]:
        """Statistical methods on the test window."""
        known = panel_before(self.retailer.panel, self.cut.test)
        made = baseline_forecast(list(names), known, self.cut.test, self.data.horizon)
        return {name: self.test.score(forecast) for name, forecast in made.items()}


def make_case(retailer: Retailer, settings: Settings) -> Case:
    """Cut one retailer.

    The windows are built on the panel as it was known just before the test, so that nothing of the test can reach a
    forecast; training stops before the validation.

    Raises:
        DataError: It cannot be scored or trained on; the message names it.
    """
    panel, horizon = retailer.panel, settings.horizon
    cut = origins(panel, horizon)
    windows = PanelWindows(panel_before(panel, cut.test), context=settings.context)
    data = TrainingData.of(windows, train_end=windows.step_of(cut.validation), horizon=horizon)
    if not data.n_units:
        raise DataError(
            f"{retailer.name} has no series with enough history before {cut.validation.date()}.", "Leave it out."
        )
    return Case(
        retailer, cut, data, _truth(panel, cut, cut.validation, horizon), _truth(panel, cut, cut.test, horizon)
    )


def _truth(panel: object, cut: Origins, origin: pd.Timestamp, horizon: int) -> Truth:
    from trend_common.panel import SalesPanel

    assert isinstance(panel, SalesPanel)
    known = panel_before(panel, origin)
    truth = actuals(panel, origin, horizon)
    naive = baseline_forecast(["seasonal-naive"], known, origin, horizon)["seasonal-naive"]
    available = set(naive.ids)
    ids = tuple(name for name in truth.ids if name in available)
    if not ids:
        raise DataError(f"{panel.name} has no sales to score from {origin.date()} on.", "Leave it out.")
    y = truth.select(ids).y
    scale = scale_of(panel, ids, cut.validation)
    return Truth(ids, y, scale, wql(y, naive.select(ids)))
