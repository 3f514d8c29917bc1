"""How good a backbone's other heads are: the trend class and the probability of no sale, beside simple rules.

The labels are those of :mod:`trend_common.tasks`. The rule beside the trend head reads the class off the mean of the
last equal phases; the one beside the probability of no sale is the share of zeros so far. Shapes: N windows, H
horizon steps, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from trend_common.backbones import Backbone
from trend_common.covariates import INDEX
from trend_common.forecasts import Forecast
from trend_common.tasks import trend_class
from trend_common.windows import PanelWindows

__all__ = ["HeadScores", "auroc", "brier", "macro_f1"]

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

_CLASSES = 3


def macro_f1(labels: Labels, predicted: Labels, classes: int = _CLASSES) -> float:
    """Mean over the classes of F1 = 2·TP / (2·TP + FP + FN); a class that is nowhere does not count.

    >>> round(macro_f1(np.array([0, 1, 2, 0, 1, 2]), np.array([0, 2, 1, 0, 0, 1])), 4)
    0.2667
    """
    scores = []
    for one in range(classes):
        true, said = labels == one, predicted == one
        if (total := int(true.sum() + said.sum())) > 0:
            scores.append(2 * int((true & said).sum()) / total)
    return float(np.mean(scores)) if scores else float("nan")


def auroc(labels: Labels, scores: Array) -> float:
    """Mean over the classes of the area under the ROC curve of one class against the rest.

    It is the share of pairs, one of the class and one of the rest, in which the first has the higher score; ties
    count half (Hanley and McNeil 1982). A class that all or none belong to does not count.

    Args:
        labels: [N].
        scores: [N, K], higher where a class is likelier.
    """
    areas = []
    for one in range(scores.shape[1]):
        mine = labels == one
        n, rest = int(mine.sum()), int((~mine).sum())
        if n and rest:
            areas.append((rankdata(scores[:, one])[mine].sum() - n * (n + 1) / 2) / (n * rest))
    return float(np.mean(areas)) if areas else float("nan")


def brier(probability: Array, happened: NDArray[np.bool_]) -> float:
    """Mean squared difference between probabilities and what happened (Brier 1950)."""
    return float(np.mean((probability - happened) ** 2)) if probability.size else float("nan")


@dataclass
class HeadScores:
    """What a backbone's heads said of the windows of one data set, and what came true."""

    labels: list[Labels] = field(default_factory=list)
    trend: list[Array] = field(default_factory=list)
    rule: list[Array] = field(default_factory=list)
    no_sale: list[Array] = field(default_factory=list)
    zero_share: list[Array] = field(default_factory=list)
    nothing_sold: list[NDArray[np.bool_]] = field(default_factory=list)

    def add(
        self, backbone: Backbone, windows: PanelWindows, origin: int, y: Array, phases: Forecast, device: str = "cpu"
    ) -> None:
        """Ask ``backbone`` about the series of ``phases`` from step ``origin`` on.

        Args:
            backbone: In evaluation mode.
            windows: Of the panel as it was known at the origin.
            origin: First step of the horizon.
            y: [N, H] what came true, NaN where unknown.
            phases: The mean of equal phases for the same N series.
            device: Where to compute.
        """
        row = {name: position for position, name in enumerate(windows.ids)}
        rows = np.array([row[name] for name in phases.ids], dtype=np.int64)
        for start in range(0, len(rows), 256):
            part = slice(start, start + 256)
            self._add(backbone, windows, rows[part], origin, y[part], phases.mean[part], device)

    def _add(
        self,
        backbone: Backbone,
        windows: PanelWindows,
        rows: Labels,
        origin: int,
        y: Array,
        phases: Array,
        device: str,
    ) -> None:
        horizon = y.shape[1]
        batch = windows.batch(rows, np.full(len(rows), origin), horizon).to(device)
        with torch.inference_mode():
            out = backbone(batch)
        if out.trend is not None:
            past, known = (value.double().cpu() for value in (batch.past_values, batch.past_mask))
            truth, seen = torch.from_numpy(np.nan_to_num(y)), torch.from_numpy(np.isfinite(y).astype(np.float64))
            label = trend_class(past, known, truth, seen).numpy()
            has = label >= 0
            self.labels.append(label[has])
            self.trend.append(out.trend.double().cpu().numpy()[has])
            recent = (past * known)[:, -horizon:].sum(1) / known[:, -horizon:].sum(1).clamp(min=1)
            self.rule.append(np.stack([phases.mean(1), recent.numpy()], axis=-1)[has])
        if out.no_sale is not None:
            # As in training: days that are known to be closed are no question.
            asked = np.isfinite(y) & (batch.future_cov[..., INDEX["closed"]].cpu().numpy() == 0)
            was_open = batch.past_mask * (1 - batch.past_cov[..., INDEX["closed"]])
            zeros = ((batch.past_values == 0) * was_open).sum(1) / was_open.sum(1).clamp(min=1)
            self.no_sale.append(out.no_sale.double().cpu().numpy()[asked])
            self.zero_share.append(np.broadcast_to(zeros.double().cpu().numpy()[:, None], y.shape)[asked])
            self.nothing_sold.append(y[asked] <= 0)

    def to_json(self) -> dict[str, Any]:
        """``trend`` and ``no_sale``, each with its ``baseline``, as far as the backbone has these heads."""
        found: dict[str, Any] = {}
        if self.labels and (labels := np.concatenate(self.labels)).size:
            said, rule = np.concatenate(self.trend), np.concatenate(self.rule)
            new, old = rule[:, 0], rule[:, 1]
            ones = torch.ones(len(rule), 1, dtype=torch.float64)
            by_rule = trend_class(torch.from_numpy(old[:, None]), ones, torch.from_numpy(new[:, None]), ones).numpy()
            change = np.log((new + 1e-9) / (old + 1e-9))
            found["trend"] = {
                "macro_f1": macro_f1(labels, said.argmax(axis=1)),
                "auroc": auroc(labels, said),
                "windows": int(labels.size),
                "baseline": {
                    # No forecast of either and no recent sale either: flat.
                    "macro_f1": macro_f1(labels, np.where(by_rule < 0, 1, by_rule)),
                    # The rule ranks by how far it expects sales to move: more than its class alone says.
                    "auroc": auroc(labels, np.stack([-change, -np.abs(change), change], axis=-1)),
                },
            }
        if self.no_sale and (said := np.concatenate(self.no_sale)).size:
            happened = np.concatenate(self.nothing_sold)
            found["no_sale"] = {
                "brier": brier(said, happened),
                "share": float(happened.mean()),
                "baseline": {"brier": brier(np.concatenate(self.zero_share), happened)},
            }
        return found
