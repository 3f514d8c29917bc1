"""The model as a client uses it: one backbone in memory, and adapters put on it by turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_client.finetune import FineTuneSettings
from trend_client.parts import Parts, average, overlaid
from trend_client.personal import PersonalSettings, personalise
from trend_client.siblings import Siblings, level_hints
from trend_client.training import TrainingData, pick_device
from trend_client.weights import BaseWeights, is_adapter
from trend_common import adapters
from trend_common.backbones import backbone_sha256, load_backbone
from trend_common.backbones.base import Backbone
from trend_common.errors import PolicyError
from trend_common.forecasts import Forecast
from trend_common.panel import SalesPanel
from trend_common.predicting import predict
from trend_common.protocol import AdapterPlan
from trend_common.tensors import Tensors, check_tensors, tensors_sha256
from trend_common.windows import PanelWindows

__all__ = ["AdapterForecaster", "Engine", "PersonalSettings", "level_hints"]


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
        self.weights = BaseWeights(self.backbone)
        self._attached: AdapterPlan | None = None
        self._blank: Tensors = {}
        self.tested: AdapterPlan | None = None

    def install(self, plan: AdapterPlan, frozen: Mapping[str, NDArray[np.generic]]) -> None:
        """Attach the adapter of ``plan`` with its frozen tensors; B is zero until :meth:`use` sets it.

        Raises:
            PolicyError: The frozen tensors are not those of the plan, or the plan would train and send others than
                those of its adapter.
        """
        digest = tensors_sha256(frozen)
        again = self._attached == plan
        if not (again and digest == plan.frozen_sha256):  # what has the hash of tensors that fitted, fits
            check_tensors(frozen, plan.frozen, "the frozen part of the adapter")
        if digest != plan.frozen_sha256:
            raise PolicyError(
                "The frozen tensors that came with the plan are not the ones that it names.",
                "The plan was altered on its way; ask the operator.",
            )
        if not again:
            adapters.attach(self.release(), rank=plan.rank, alpha=plan.alpha, targets=plan.targets, train=plan.train)
            self.backbone.to(self.device)
            self._attached, self._blank = plan, {}
        self.weights.lay_over({})
        adapters.set_trained(self.backbone, plan.train, plan.layers)
        self._check_travelling(plan)
        adapters.load(self.backbone, frozen)
        if self._blank and all(name in frozen for name in self._blank if "lora_B" not in name):
            return  # another client's turn: every A came with the plan
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

    def _check_travelling(self, plan: AdapterPlan) -> None:
        """Whatever a plan names, nothing but the tensors of its adapter is trained under it and sent."""
        trained = adapters.trained_parameters(self.backbone)
        own = {(name, tuple(value.shape)) for name, value in trained.items()}
        named = {(spec.name, spec.shape) for spec in plan.tensors}
        strange = sorted({name for name, _ in own ^ named})
        if strange:
            self.release()
            raise PolicyError(
                f"The plan trains others than its adapter's tensors; they differ in {', '.join(strange[:5])}.",
                "Only a LoRA on linear layers can be trained privately: full fine-tuning, prefixes, AdaLoRA and the "
                "backbone's own tensors are for the personal model, which never leaves.",
            )

    @property
    def plan(self) -> AdapterPlan:
        """Of the attached adapter."""
        if self._attached is None:
            raise ValueError("no adapter is attached")
        return self._attached

    def release(self) -> Backbone:
        """Take the adapter off; the backbone as it was shipped."""
        self.weights.lay_over({})
        if self._attached is not None:
            adapters.detach(self.backbone)
            self._attached = None
        return self.backbone

    def use(self, tensors: Mapping[str, NDArray[np.float32]] | None) -> None:
        """Set the adapter's tensors; those not named, and all for None, become the plan's untrained ones.

        Tensors of the backbone itself, which a personal model may hold besides, are laid over it; whichever are not
        named are as shipped. Of a model of several parts the first member is used; :meth:`forecast` uses all.
        """
        given = Parts.of(tensors).members[0] or {}
        adapters.load(self.backbone, {**self._blank, **{name: v for name, v in given.items() if is_adapter(name)}})
        self.weights.lay_over({name: value for name, value in given.items() if not is_adapter(name)})

    def worn(self, tensors: Tensors | None) -> Tensors:
        """All tensors of a model that names some of them, with the plan's untrained ones for the others."""
        return {**self._blank, **(tensors or {})}

    def forecast(
        self,
        tensors: Tensors | None,
        windows: PanelWindows,
        origin: int,
        horizon: int,
        *,
        rows: NDArray[np.int64] | None = None,
    ) -> Forecast:
        """Forecast from step ``origin`` on with a whole model: all members, and the launch part.

        Args:
            tensors: The model; None is the backbone as shipped.
            windows: The panel's windows.
            origin: First step to forecast.
            horizon: H.
            rows: Series; all by default.
        """
        parts, siblings = Parts.of(tensors), Siblings(windows)
        hints = siblings.hints(origin)
        wanted = np.arange(len(windows.ids)) if rows is None else np.asarray(rows)

        def made(one: Tensors | None, rows: NDArray[np.int64]) -> Forecast:
            self.use(one)
            return predict(
                self.backbone,
                windows,
                origin=origin,
                horizon=horizon,
                rows=rows,
                level_hint=hints[rows],
                device=self.device,
            )

        found = average([made(member, wanted) for member in parts.members])
        young = np.flatnonzero(np.isin(wanted, siblings.young(origin)))
        if parts.launch is None or not len(young):
            return found
        return overlaid(found, young, made(parts.launch, wanted[young]))

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
        settings: FineTuneSettings | PersonalSettings | None = None,
    ) -> tuple[Tensors, dict[str, float]]:
        """Train a personal model on this retailer's own series, without noise, since it never leaves.

        The choice, among several step sizes and numbers of steps or along one course, is made by the loss on the
        validation horizon, "none" among the candidates, so a personal model is never worse there than where it
        started.

        Args:
            data: What may be trained on; ends before ``validation``.
            start: Where to start: the shared adapter, or None for the plain backbone.
            validation: First step of the validation horizon.
            seed: Of the draws.
            settings: How to train; default: the grid of :class:`PersonalSettings`, and a launch part.

        Returns:
            The personal model (all tensors of the adapter and those of the backbone that were trained, for each of
            its :class:`~trend_client.parts.Parts`), and the validation measure of each choice tried.
        """
        return personalise(self, data, start, validation=validation, seed=seed, settings=settings)


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
        return self.engine.forecast(self.tensors, self._windows, self._windows.step_of(origin), horizon)
