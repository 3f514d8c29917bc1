"""The personal model: trained on this retailer's own series, without noise, since it never leaves.

It starts from the shared adapter or from the backbone as shipped. Whatever was tried, the choice is made on the
validation horizon with "none" (no training) among the candidates, so a personal model is never worse there than where
it started. Products without history have a part of their own, which is chosen on products held out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trend_client.drawing import Drawer
from trend_client.finetune import FineTuneSettings, LaunchSettings
from trend_client.freeze import training
from trend_client.launch import exam, hold_out, launch_run
from trend_client.parts import Parts, average
from trend_client.siblings import Siblings
from trend_client.trainer import Course, run
from trend_client.training import TrainingData
from trend_common.forecasts import Forecast
from trend_common.metrics import rmse, wql
from trend_common.predicting import predict
from trend_common.tensors import Tensors

if TYPE_CHECKING:
    from trend_client.engine import Engine

__all__ = ["PersonalSettings", "Validation", "personalise"]


@dataclass(frozen=True)
class PersonalSettings:
    """The grid that is tried where a person set nothing; chosen on synthetic retailers, not on anybody's data.

    Attributes:
        learning_rates: Step sizes of Adam that are tried.
        checkpoints: Numbers of steps after which the adapter is looked at; 0 (no training) always is.
        batch_size: Windows a step.
        launch: The part for products without history; None makes none.
    """

    learning_rates: tuple[float, ...] = (1e-3, 3e-3)
    checkpoints: tuple[int, ...] = (10, 20, 40, 60)
    batch_size: int = 32
    launch: LaunchSettings | None = None

    def runs(self) -> list[FineTuneSettings]:
        """One run for each step size."""
        return [
            FineTuneSettings(
                learning_rate=rate,
                steps=max(self.checkpoints),
                batch_size=self.batch_size,
                schedule="constant",
                warmup=0,
                patience=0,
            )
            for rate in self.learning_rates
        ]


class Validation:
    """How good a model is on the validation horizon; lower is better.

    Args:
        data: The series; targets end before ``origin``.
        siblings: Their levels.
        origin: First step of the validation horizon.
        loss: "quantile" measures the weighted quantile loss, "squared" the root mean squared error of the mean over
            the mean of what was sold.
    """

    def __init__(self, data: TrainingData, siblings: Siblings, origin: int, *, loss: str = "quantile") -> None:
        self._windows, self._origin, self._horizon, self._loss = data.windows, origin, data.horizon, loss
        self._hints = siblings.hints(origin)
        self._actuals = data.windows.actuals(origin, data.horizon)

    def forecast(self, engine: Engine) -> Forecast:
        """The forecast of the model as it is."""
        return predict(
            engine.backbone,
            self._windows,
            origin=self._origin,
            horizon=self._horizon,
            level_hint=self._hints,
            device=engine.device,
        )

    def measure(self, forecast: Forecast) -> float:
        """How good ``forecast`` is."""
        if self._loss == "quantile":
            return wql(self._actuals, forecast)
        known = np.isfinite(self._actuals)
        mean = float(np.abs(self._actuals[known]).mean()) if known.any() else 0.0
        return rmse(self._actuals, forecast.mean) / mean if mean else float("nan")


def personalise(
    engine: Engine,
    data: TrainingData,
    start: Tensors | None,
    *,
    validation: int,
    seed: int,
    settings: FineTuneSettings | PersonalSettings | None = None,
) -> tuple[Tensors, dict[str, float]]:
    """See :meth:`trend_client.engine.Engine.personalise`."""
    asked = settings or PersonalSettings(launch=LaunchSettings())
    work = _Work(engine, data, start, validation, seed, Siblings(data.windows))
    members = [engine.worn(start)]
    launch = None
    if data.n_units:
        members = work.grid(asked) if isinstance(asked, PersonalSettings) else work.ensemble(asked)
        if asked.launch is not None and asked.launch.steps and engine.backbone.capabilities.cold_start:
            launch = work.launch(asked.launch)
    return Parts(tuple(members), launch).join(), work.tried


class _Work:
    """One personal model in the making."""

    def __init__(
        self,
        engine: Engine,
        data: TrainingData,
        start: Tensors | None,
        validation: int,
        seed: int,
        siblings: Siblings,
    ) -> None:
        self.tried: dict[str, float] = {}
        self._engine, self._data, self._start, self._siblings = engine, data, start, siblings
        self._validation, self._seed = validation, seed

    def grid(self, asked: PersonalSettings) -> list[Tensors]:
        """The best over all step sizes and numbers of steps."""
        judge, before = self._judge("quantile")
        best, rng = self._engine.worn(self._start), np.random.default_rng(self._seed)
        lowest = before
        for one in asked.runs():
            course = self._run(one, judge, rng, lowest, looks=asked.checkpoints)
            self.tried |= {f"{step} steps at {one.learning_rate:g}": value for step, value in course.looks.items()}
            if course.best is not None:
                best, lowest = course.best, course.looks[course.best_step]
        return [best]

    def ensemble(self, asked: FineTuneSettings) -> list[Tensors]:
        """The best of a run for each seed, as one model if it is better than no training."""
        judge, before = self._judge(asked.loss)
        found = []
        for number in range(asked.ensemble):
            rng = np.random.default_rng(self._seed if asked.ensemble == 1 else [self._seed, number])
            course = self._run(asked, judge, rng, before)
            said = f"model {number + 1}: " if asked.ensemble > 1 else ""
            self.tried |= {f"{said}{step} steps": value for step, value in course.looks.items()}
            if course.best is not None:
                found.append(course.best)
        if len(found) > 1:
            made = []
            for one in found:
                self._engine.use(one)
                made.append(judge.forecast(self._engine))
            name = f"mean of {len(found)} models"
            self.tried[name] = judge.measure(average(made))
            found = found if self.tried[name] < before else []
        return found or [self._engine.worn(self._start)]

    def launch(self, asked: LaunchSettings) -> Tensors | None:
        """The part for products without history; None where it could not be shown to be better."""
        held_out = hold_out(self._data.windows.panel.static["product"].tolist())
        judge = exam(self._data, self._siblings, held_out, validation=self._validation) if held_out else None
        if judge is None:
            return None
        self._engine.use(self._start)
        before = judge.measure(self._engine)
        course = self._run(
            launch_run(asked),
            lambda: judge.measure(self._engine),
            np.random.default_rng([self._seed, 1 << 20]),
            before,
            held_out=held_out,
        )
        found = {"launch: none": before, **{f"launch: {step} steps": value for step, value in course.looks.items()}}
        self.tried |= found
        return course.best

    def _judge(self, loss: str) -> tuple[Validation, float]:
        judge = Validation(self._data, self._siblings, self._validation, loss=loss)
        self._engine.use(self._start)
        self.tried["none"] = judge.measure(judge.forecast(self._engine))
        return judge, self.tried["none"]

    def _run(
        self,
        settings: FineTuneSettings,
        judge: Validation | Callable[[], float],
        rng: np.random.Generator,
        limit: float,
        *,
        looks: Collection[int] = (),
        held_out: frozenset[str] = frozenset(),
    ) -> Course:
        """One run from the start; the engine wears the start again afterwards."""
        engine = self._engine
        siblings = self._siblings if engine.backbone.capabilities.cold_start else None
        drawer = Drawer(self._data, settings, rng, siblings=siblings, held_out=held_out)
        seed = int(rng.integers(1 << 31))

        def look() -> float:
            return judge.measure(judge.forecast(engine)) if isinstance(judge, Validation) else judge()

        engine.use(self._start)
        try:
            with training(engine.backbone, engine.plan, engine.weights, settings, seed=seed) as made:
                return run(made, drawer, settings, look, limit=limit, looks=looks, device=engine.device, seed=seed)
        finally:
            engine.backbone.to(engine.device)
            engine.use(self._start)
