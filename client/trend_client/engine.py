"""The model as a client uses it: one backbone in memory, and adapters put on it by turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_client.training import TrainingData, fit, pick_device
from trend_common import adapters
from trend_common.backbones import backbone_sha256, load_backbone
from trend_common.backbones.base import Backbone
from trend_common.errors import PolicyError
from trend_common.forecasts import Forecast
from trend_common.metrics import wql
from trend_common.panel import SalesPanel
from trend_common.predicting import predict
from trend_common.protocol import AdapterPlan
from trend_common.tensors import Tensors, check_tensors, tensors_sha256
from trend_common.windows import PanelWindows

__all__ = ["AdapterForecaster", "Engine", "PersonalSettings"]

_FEW_STEPS = 4
_LEVEL_STEPS = {"D": 28, "W": 8, "M": 6}


@dataclass(frozen=True)
class PersonalSettings:
    """How a personal adapter is trained; chosen on synthetic retailers, not on anybody's data.

    Attributes:
        learning_rates: Step sizes of Adam that are tried.
        checkpoints: Numbers of steps after which the adapter is looked at; 0 (no training) always is.
        batch_size: Windows a step.
    """

    learning_rates: tuple[float, ...] = (1e-3, 3e-3)
    checkpoints: tuple[int, ...] = (10, 20, 40, 60)
    batch_size: int = 32


class Engine:
    """A backbone with at most one adapter attached.

    Args:
        backbone: Name or folder.
        device: "auto", "cpu", "cuda" or "mps".
    """

    def __init__(self, backbone: str, *, device: str = "auto") -> None:
        self.backbone: Backbone = load_backbone(backbone)
        self.sha256 = backbone_sha256(self.backbone)
        self.device = pick_device(device)
        self.backbone.to(self.device)
        self._attached: AdapterPlan | None = None
        self._blank: Tensors = {}
        self.tested: AdapterPlan | None = None

    def install(self, plan: AdapterPlan, frozen: Mapping[str, NDArray[np.generic]]) -> None:
        """Attach the adapter of ``plan`` with its frozen tensors; B is zero until :meth:`use` sets it.

        Raises:
            PolicyError: The frozen tensors are not those of the plan.
        """
        checked = check_tensors(frozen, plan.frozen, "the frozen part of the adapter")
        if tensors_sha256(checked) != plan.frozen_sha256:
            raise PolicyError(
                "The frozen tensors that came with the plan are not the ones that it names.",
                "The plan was altered on its way; ask the operator.",
            )
        if self._attached != plan:
            adapters.attach(self.release(), rank=plan.rank, alpha=plan.alpha, targets=plan.targets, train=plan.train)
            self.backbone.to(self.device)
            self._attached = plan
        adapters.set_trained(self.backbone, plan.train)
        adapters.load(self.backbone, checked)
        everything = adapters.export(self.backbone)
        self._blank = {name: np.zeros_like(v) if "lora_B" in name else v for name, v in everything.items()}

    def install_local(self, rank: int) -> None:
        """Attach an adapter of this client's own, for work without any federation."""
        plan, _, frozen = adapters.initial_adapter(
            self.release(),
            rank=rank,
            alpha=2.0 * rank,
            targets=self.backbone.lora_targets,
            train="B",
        )
        self.install(plan, frozen)

    def release(self) -> Backbone:
        """Take the adapter off; the backbone as it was shipped."""
        if self._attached is not None:
            adapters.detach(self.backbone)
            self._attached = None
        return self.backbone

    def use(self, tensors: Mapping[str, NDArray[np.float32]] | None) -> None:
        """Set the adapter's tensors; those not named, and all for None, become the plan's untrained ones."""
        adapters.load(self.backbone, {**self._blank, **(tensors or {})})

    def forecaster(self, tensors: Tensors | None, *, context: int, country: str | None = None) -> AdapterForecaster:
        """Forecast with these tensors on the backbone; None is the backbone as it was shipped."""
        return AdapterForecaster(self, tensors, context, country)

    def personalise(
        self,
        data: TrainingData,
        start: Tensors | None,
        *,
        validation: int,
        seed: int,
        settings: PersonalSettings | None = None,
        train: Literal["B", "AB"] = "AB",
    ) -> tuple[Tensors, dict[str, float]]:
        """Train an adapter on this retailer's own series, without noise, since it never leaves.

        The number of steps and the step size are those with the lowest WQL on the validation horizon, "none" among
        them, so a personal adapter is never worse there than where it started.

        Args:
            data: What may be trained on; ends before ``validation``.
            start: Where to start: the shared adapter, or None for the plain backbone.
            validation: First step of the validation horizon.
            seed: Of the draws.
            settings: How to train.
            train: Which of A and B.

        Returns:
            The adapter (all tensors), and the validation WQL of each choice tried.
        """
        settings = settings or PersonalSettings()
        rng = np.random.default_rng(seed)
        self.use(start)
        best = adapters.export(self.backbone)
        before = self._validation_wql(data, validation)
        tried, lowest = {"none": before}, before
        adapters.set_trained(self.backbone, train)
        try:
            for rate in settings.learning_rates if data.n_units else ():
                self.use(start)
                kept = fit(
                    self.backbone,
                    data,
                    steps=max(settings.checkpoints),
                    learning_rate=rate,
                    batch_size=settings.batch_size,
                    rng=rng,
                    device=self.device,
                    checkpoints=settings.checkpoints,
                )
                for step, tensors in kept.items():
                    self.use(tensors)
                    found = self._validation_wql(data, validation)
                    tried[f"{step} steps at {rate:g}"] = found
                    if found < lowest:
                        best, lowest = tensors, found
        finally:
            adapters.set_trained(self.backbone, self._attached.train if self._attached else "B")
        return best, tried

    def _validation_wql(self, data: TrainingData, validation: int) -> float:
        windows = data.windows
        forecast = predict(self.backbone, windows, origin=validation, horizon=data.horizon, device=self.device)
        return wql(windows.actuals(validation, data.horizon), forecast)


@dataclass
class AdapterForecaster:
    """Forecasts a panel with one adapter; what ``backtest`` and ``forecast`` call.

    The windows of the panel that was asked last are kept, since several origins of one panel are usual.
    """

    engine: Engine
    tensors: Tensors | None
    context: int
    country: str | None = None
    _windows: PanelWindows | None = field(default=None, init=False, repr=False)

    def __call__(self, panel: SalesPanel, origin: pd.Timestamp, horizon: int) -> Forecast:
        """Forecast the ``horizon`` steps from ``origin`` for every series of ``panel``."""
        if self._windows is None or self._windows.panel is not panel or self._windows.ahead < horizon:
            self._windows = PanelWindows(panel, context=self.context, country=self.country, ahead=horizon)
        windows = self._windows
        step = windows.step_of(origin)
        self.engine.use(self.tensors)
        return predict(
            self.engine.backbone,
            windows,
            origin=step,
            horizon=horizon,
            level_hint=level_hints(windows, step),
            device=self.engine.device,
        )


def level_hints(windows: PanelWindows, origin: int) -> NDArray[np.float32]:
    """[S] a level for each series that has almost no history before ``origin``; 0 for the others.

    The same product in the retailer's other stores, else the same category, else the median of all. This looks across
    series, so it is for the owner's own forecasts and never for private training.
    """
    steps = _LEVEL_STEPS[windows.panel.freq]
    history = windows.history(origin)
    counts = np.isfinite(history).sum(axis=1)
    few = counts < _FEW_STEPS
    hints = np.zeros(len(history), dtype=np.float32)
    if not few.any() or few.all():
        return hints
    recent = history[:, -steps:]
    known = np.isfinite(recent).sum(axis=1)
    totals = np.nansum(recent, axis=1)
    levels = pd.Series(np.where((known > 0) & ~few, totals / np.maximum(known, 1), np.nan))
    static = windows.panel.static.reset_index(drop=True)
    overall = float(levels.median())
    by_product = levels.groupby(static["product"]).transform("mean")
    by_category = levels.groupby(static["category"].mask(static["category"] == "")).transform("median")
    best = by_product.fillna(by_category).fillna(0.0 if np.isnan(overall) else overall)
    hints[few] = best.to_numpy(dtype=np.float32)[few]
    return hints
