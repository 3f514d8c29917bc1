"""Quick forecasts on a processor: the encoder in int8 through onnxruntime, checked against torch before it is used.

An adapter is merged into the weights first. What is forecast that way is for this machine's own use: no private
training, message or hash rests on it. Rounding depends on the batch that a window is in, so that forecasts of one
window in other company differ in the third digit.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trend_common.backbones.base import LEVELS, Backbone, Batch, ForecastOutput
from trend_common.backbones.trend import Prepared, TrendBackbone, TrendModel
from trend_common.covariates import FREQUENCIES, SEASON
from trend_common.errors import UsageError
from trend_common.files import write_bytes
from trend_common.rollout import Forecaster
from trend_common.tensors import tensors_sha256
from trend_common.windows import PanelWindows

__all__ = [
    "ENGINES",
    "MOST_COST",
    "VARIABLE",
    "Agreement",
    "Engine",
    "QuickTrend",
    "agreement",
    "chosen_engine",
    "merged",
    "quick_or_torch",
]

Engine = Literal["torch", "int8"]
ENGINES: Final[tuple[Engine, ...]] = ("torch", "int8")

VARIABLE: Final = "TREND_ENGINE"
"""Environment variable that names the engine of all commands."""

MOST_COST: Final = 0.005
"""The largest share by which int8 may raise the scaled quantile loss on past windows."""

_MOST_DIFFERENCE: Final = 0.5
"""Where there is no past to score: the largest difference of a quantile, over it or the window's mean."""

_FORMAT: Final = 2
_KEPT: Final = 8
_CHECKED_WINDOWS: Final = 64

_log = logging.getLogger(__name__)
_made: OrderedDict[str, QuickTrend] = OrderedDict()
_trusted: WeakKeyDictionary[PanelWindows, dict[str, Agreement]] = WeakKeyDictionary()


def chosen_engine(name: str | None = None) -> Engine:
    """The engine of that name; None takes what :data:`VARIABLE` names, else torch.

    Raises:
        UsageError: There is none of that name.
    """
    wanted = name or os.environ.get(VARIABLE, "").strip() or "torch"
    for engine in ENGINES:
        if engine == wanted:
            return engine
    raise UsageError(f"There is no engine {wanted!r}.", f"Engines are {', '.join(ENGINES)}; {VARIABLE} may name one.")


class QuickTrend:
    """A :class:`TrendBackbone`'s forecasts with its encoder in int8.

    Args:
        model: Without an adapter, as :func:`merged` gives it.
        cache: Folder that keeps the graph, readable by its owner alone, since a personal adapter is merged into it;
            None keeps nothing.
    """

    def __init__(self, model: TrendModel, *, cache: Path | None = None) -> None:
        self.max_horizon = int(model.config.max_horizon)
        self._model, self.key = model, _key(model)
        self._session = _session(model, None if cache is None else cache / f"int8-{self.key[:24]}.onnx")

    def __call__(self, batch: Batch) -> ForecastOutput:
        """Forecast ``batch``; there is no loss."""
        model = self._model
        ready = model.prepare(
            batch.past_values,
            batch.past_mask,
            batch.past_cov,
            batch.future_cov,
            batch.freq,
            batch.text,
            batch.static_ids,
            batch.level_hint,
        )
        hidden, first = self._encode(ready)
        out: Any = model.conclude(ready, hidden, first, batch.future_cov)
        return ForecastOutput(out.quantiles, out.mean, None, out.no_sale, out.trend)

    def _encode(self, ready: Prepared) -> tuple[Tensor, Tensor]:
        hidden, first = self._session.run(
            ["hidden", "first"],
            {
                "tokens": ready.tokens.numpy(),
                "summary": ready.summary[:, None].numpy(),
                "position": self._model.positions(ready).numpy(),
                "visible": ready.visible.to(torch.int32).numpy(),
                "ahead": np.array([-ready.n_future], dtype=np.int64),
            },
        )
        return torch.from_numpy(hidden), torch.from_numpy(first[:, 0])


def merged(backbone: TrendBackbone) -> TrendModel:
    """A copy of the network, its adapter merged into the weights."""
    core: Any = copy.deepcopy(backbone.core).to("cpu")
    model = core.merge_and_unload() if hasattr(core, "merge_and_unload") else core
    assert isinstance(model, TrendModel)
    model.requires_grad_(False)
    model.eval()
    return model


def _key(model: TrendModel) -> str:
    state: dict[str, NDArray[np.float32]] = {name: value.numpy() for name, value in model.state_dict().items()}
    text = json.dumps([_FORMAT, model.config.d_model, model.config.n_heads, model.config.patch])
    return hashlib.sha256(f"{text}|{tensors_sha256(state)}".encode()).hexdigest()


def _session(model: TrendModel, file: Path | None) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3

    def opened(graph: bytes) -> Any:
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    if file is not None and file.is_file():
        try:
            return opened(file.read_bytes())
        except Exception:  # what onnxruntime raises for a broken file is of many kinds; it is written again
            file.unlink(missing_ok=True)
    from trend_common.backbones.encoder_graph import encoder_graph

    graph = encoder_graph(model)
    if file is not None:
        write_bytes(file, graph, private=True)
    return opened(graph)


@dataclass(frozen=True)
class Agreement:
    """How well int8 and torch agree on the same windows.

    Attributes:
        difference: The largest difference of a quantile, over it or over the window's mean sales if those are more.
        cost: Share by which int8 has the higher scaled quantile loss (below 0: the lower); None without known sales.
        windows: How many were compared.
    """

    difference: float
    cost: float | None
    windows: int

    def __str__(self) -> str:
        cost = "" if self.cost is None else f"it costs {100 * self.cost:.2f} % of the scaled quantile loss there, "
        return f"{cost}the largest difference is {100 * self.difference:.1f} % in {self.windows} past windows"

    @property
    def good(self) -> bool:
        """Whether int8 may be used."""
        if not np.isfinite(self.difference):
            return False
        return self.difference <= _MOST_DIFFERENCE if self.cost is None else self.cost <= MOST_COST


def agreement(exact: Forecaster, quick: Forecaster, batch: Batch) -> Agreement:
    """Compare two forecasters, each called with a batch, on ``batch``; with its targets if it has any."""
    with torch.inference_mode():
        true, said = exact(batch), quick(batch)
    level = (batch.past_values * batch.past_mask).sum(1) / batch.past_mask.sum(1).clamp(min=1)
    size = torch.maximum(true.quantiles, level[:, None, None]).clamp(min=1e-6)
    difference = float(((said.quantiles - true.quantiles).abs() / size).max())
    losses = [_scaled_loss(out.quantiles, batch) for out in (true, said)]
    if losses[0] is None or losses[1] is None or not losses[0] > 0:
        return Agreement(difference, None, len(batch))
    return Agreement(difference, losses[1] / losses[0] - 1, len(batch))


def _scaled_loss(quantiles: Tensor, batch: Batch) -> float | None:
    """Mean over the windows of twice the pinball loss over .1 to .9, over the mean seasonal difference before."""
    if batch.future_values is None or batch.future_mask is None:
        return None
    wanted = [number for number, level in enumerate(LEVELS) if 0.1 <= level <= 0.9]
    levels = torch.tensor([LEVELS[number] for number in wanted])
    error = batch.future_values[..., None] - quantiles[..., wanted]
    steps = 2 * torch.maximum(levels * error, (levels - 1) * error).mean(-1) * batch.future_mask
    lag = SEASON[FREQUENCIES[int(batch.freq[0])]]
    pair = batch.past_mask[:, lag:] * batch.past_mask[:, :-lag]
    scale = ((batch.past_values[:, lag:] - batch.past_values[:, :-lag]).abs() * pair).sum(1) / pair.sum(1).clamp(
        min=1
    )
    usable = (scale > 0) & (batch.future_mask.sum(1) > 0)
    if not usable.any():
        return None
    return float(((steps.sum(1) / batch.future_mask.sum(1).clamp(min=1))[usable] / scale[usable]).mean())


def quick_or_torch(
    backbone: Backbone,
    windows: PanelWindows,
    *,
    origin: int,
    horizon: int,
    rows: NDArray[np.int64],
    cache: Path | None = None,
) -> Forecaster:
    """The int8 forecaster of ``backbone`` if it is as good on these series, else the backbone itself.

    The check is on windows of the same series that end before ``origin``, once for each panel and set of weights.
    Why int8 was not taken is logged as a warning.

    Raises:
        UsageError: onnxruntime is not installed.
    """
    if not isinstance(backbone, TrendBackbone):
        _log.warning("int8 forecasts are for our own models; %s forecasts in torch.", backbone.name)
        return backbone
    if next(backbone.parameters()).device.type != "cpu":
        _log.warning("int8 forecasts are for the processor; the model is elsewhere and forecasts there.")
        return backbone
    try:
        quick = _remembered(backbone, cache)
    except ImportError as error:
        raise UsageError(
            "int8 forecasts need the packages onnx and onnxruntime.", "Install them, or leave int8 out."
        ) from error
    known = _trusted.setdefault(windows, {})
    if quick.key not in known:
        batch = _past_windows(windows, rows, origin, min(horizon, backbone.max_horizon))
        known[quick.key] = agreement(backbone, quick, batch)
        if not known[quick.key].good:
            _log.warning("int8 was left out, %s: forecasts are made in torch.", known[quick.key])
    return quick if known[quick.key].good else backbone


def _remembered(backbone: TrendBackbone, cache: Path | None) -> QuickTrend:
    model = merged(backbone)
    key = _key(model)
    if key not in _made:
        _made[key] = QuickTrend(model, cache=cache)
    _made.move_to_end(key)
    while len(_made) > _KEPT:
        _made.popitem(last=False)
    return _made[key]


def _past_windows(windows: PanelWindows, rows: NDArray[np.int64], origin: int, horizon: int) -> Batch:
    """Up to 64 windows, spread over the series, whose horizons end at ``origin`` or before; else at ``origin``."""
    step = max(len(rows) // _CHECKED_WINDOWS, 1)
    chosen = rows[::step][:_CHECKED_WINDOWS]
    blocks = max(min(_CHECKED_WINDOWS // max(len(chosen), 1), 8), 1)
    back = [origin - horizon * (block + 1) for block in range(blocks)]
    usable = [one for one in back if one > horizon]
    if not usable:
        return windows.batch(chosen, np.full(len(chosen), origin), horizon)
    repeated = np.concatenate([chosen for _ in usable])
    origins = np.concatenate([np.full(len(chosen), one) for one in usable])
    return windows.batch(repeated, origins, horizon, targets_end=origin)
