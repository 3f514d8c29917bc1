"""What each kind of information adds to a forecast: Shapley values over six groups, by exact enumeration.

A group that is left out takes its usual course instead of its own:

===========  =========================================================================================================
history      the window's mean level instead of its ups and downs
season       no calendar, and the window without its weekday (yearly) pattern
price        the usual price over the horizon
promotion    no promotion over the horizon
holiday      no holiday over the horizon, and nothing of the retailer's own columns
text         no description and names; for a product without history the level of its store
===========  =========================================================================================================

The forecast is made with all 2⁶ combinations. A group's contribution is its mean effect over all orders in which the
groups can be added (Shapley 1953; for models Lundberg and Lee 2017). The contributions of all groups are together
exactly the forecast minus the *base*, the forecast with every group left out; this is checked each time. Shapes: S
series, H steps, G = 6 groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray

from trend_client.parts import Parts
from trend_client.siblings import Siblings
from trend_common.covariates import INDEX, N_CALENDAR, YEAR
from trend_common.rollout import forecast_steps

if TYPE_CHECKING:
    from trend_client.engine import Engine
    from trend_common.backbones.base import Batch
    from trend_common.tensors import Tensors
    from trend_common.windows import PanelWindows

__all__ = ["GROUPS", "Contributions", "contributions", "occluded", "shapley"]

Array = NDArray[np.float64]

GROUPS: Final = ("history", "season", "price", "promotion", "holiday", "text")

_PERIOD: Final = {"D": 7, "W": YEAR["W"], "M": YEAR["M"]}
_AHEAD: Final = {
    "price": ("log_relative_price",),
    "promotion": ("promo",),
    "holiday": ("holiday", "holiday_lead", "own_1", "own_2"),
}
_TOLERANCE: Final = 1e-6


@dataclass(frozen=True, eq=False)
class Contributions:
    """The parts of a forecast.

    Attributes:
        ids: S series.
        ds: [H] steps.
        base: [S, H] the forecast with every group left out.
        parts: [S, G, H] contributions in the order of :data:`GROUPS`.
        forecast: [S, H] the model's mean.

    Raises:
        ValueError: Base and parts do not add up to the forecast.
    """

    ids: tuple[str, ...]
    ds: NDArray[np.datetime64]
    base: Array
    parts: Array
    forecast: Array

    def __post_init__(self) -> None:
        off = np.abs(self.base + self.parts.sum(1) - self.forecast)
        if (off > _TOLERANCE * (1 + np.abs(self.forecast))).any():
            raise ValueError(f"contributions: they miss the forecast by up to {off.max():g}")

    def total(self, row: int) -> dict[str, float]:
        """``base``, each group and ``forecast`` of one series, summed over the horizon."""
        groups = {name: float(self.parts[row, place].sum()) for place, name in enumerate(GROUPS)}
        return {"base": float(self.base[row].sum()), **groups, "forecast": float(self.forecast[row].sum())}


def shapley(values: Array) -> Array:
    """Exact Shapley values.

    Args:
        values: [2^G, ...] the value of every set of players; player g is in set number n where bit g of n is 1.

    Returns:
        [G, ...]; their sum is ``values[-1] - values[0]``.
    """
    players = len(values).bit_length() - 1
    if len(values) != 1 << players:
        raise ValueError(f"values: {len(values)} sets, expected a power of two")
    sets = np.arange(len(values))
    sizes = np.array([int(one).bit_count() for one in sets])
    weight = np.array(
        [math.factorial(k) * math.factorial(players - k - 1) / math.factorial(players) for k in range(players)]
    )
    out = np.empty((players, *values.shape[1:]))
    for player in range(players):
        without = sets[(sets >> player) & 1 == 0]
        gain = values[without | (1 << player)] - values[without]
        out[player] = np.tensordot(weight[sizes[without]], gain, axes=1)
    return out


def occluded(batch: Batch, present: Sequence[str], *, freq: str, store_level: torch.Tensor) -> Batch:
    """``batch`` with only the groups of ``present``; the others take their usual course.

    Args:
        batch: N windows.
        present: Of :data:`GROUPS`.
        freq: "D", "W" or "M".
        store_level: [N] what stands for the expected level of a product without description.
    """
    past, future = batch.past_cov.clone(), batch.future_cov.clone()
    values = batch.past_values
    if "history" not in present or "season" not in present:
        values = _plainer(batch, _PERIOD[freq], shape="season" in present, course="history" in present)
    if "season" not in present:
        past[..., :N_CALENDAR], future[..., :N_CALENDAR] = 0.0, 0.0
    for group, channels in _AHEAD.items():
        if group not in present:
            for name in channels:
                future[..., INDEX[name]] = 0.0
    changed = replace(batch, past_values=values, past_cov=past, future_cov=future)
    if "text" in present:
        return changed
    return replace(
        changed,
        text=torch.zeros_like(batch.text),
        static_ids=torch.zeros_like(batch.static_ids),
        level_hint=torch.where(batch.level_hint > 0, store_level, batch.level_hint),
        description=None if batch.description is None else torch.zeros_like(batch.description),
    )


def _plainer(batch: Batch, period: int, *, shape: bool, course: bool) -> torch.Tensor:
    """[N, L] the history without its seasonal shape, without its course, or without both.

    Shape and course add up to the values; what is closed stays 0.
    """
    open_steps = batch.past_mask * (1.0 - batch.past_cov[..., INDEX["closed"]])
    values = batch.past_values * open_steps
    level = values.sum(1, keepdim=True) / open_steps.sum(1, keepdim=True).clamp(min=1)
    phase = torch.arange(values.shape[1], device=values.device) % period
    one_hot = torch.nn.functional.one_hot(phase, period).to(values.dtype)
    count = open_steps @ one_hot
    # A phase that was seen once or twice says little about itself.
    mean = ((values - level * open_steps) @ one_hot) / count.clamp(min=1) * count / (count + 1)
    season = mean[:, phase]
    plain = torch.zeros_like(values)
    if shape and not course:
        plain = level + season
    elif course and not shape:
        plain = values - season
    elif not course:
        plain = level.expand_as(values)
    return plain.clamp(min=0.0) * open_steps


def contributions(
    engine: Engine,
    tensors: Tensors | None,
    windows: PanelWindows,
    origin: int,
    horizon: int,
    rows: NDArray[np.int64],
    *,
    batch_size: int = 128,
) -> Contributions:
    """Explain the forecasts of some series.

    Args:
        engine: The backbone.
        tensors: The model, all its parts.
        windows: The panel's windows.
        origin: First step ahead.
        horizon: H; cut to what the backbone sees at once.
        rows: S series.
        batch_size: Series at a time.
    """
    horizon = min(horizon, engine.backbone.max_horizon)
    parts, siblings = Parts.of(tensors), Siblings(windows)
    hints, plain = siblings.hints(origin), _store_levels(windows, siblings, origin)
    young = np.isin(rows, siblings.young(origin)) if parts.launch is not None else np.zeros(len(rows), dtype=bool)
    freq = windows.panel.freq
    values = np.zeros((1 << len(GROUPS), len(rows), horizon))
    for chosen, members in ((np.flatnonzero(~young), parts.members), (np.flatnonzero(young), [parts.launch])):
        for start in range(0, len(chosen), batch_size):
            at = chosen[start : start + batch_size]
            batch = windows.batch(rows[at], np.full(len(at), origin), horizon, level_hint=hints[rows[at]])
            batch = batch.to(engine.device)
            level = torch.from_numpy(plain[rows[at]]).to(engine.device)
            for member in members:
                engine.use(member)
                for number in range(1 << len(GROUPS)):
                    present = [name for place, name in enumerate(GROUPS) if number >> place & 1]
                    seen = occluded(batch, present, freq=freq, store_level=level)
                    values[number, at] += _mean(engine, seen, origin, horizon) / len(members)
    dates = windows.dates[origin : origin + horizon].to_numpy()
    return Contributions(
        tuple(windows.ids[row] for row in rows), dates, values[0], shapley(values).swapaxes(0, 1), values[-1]
    )


def _mean(engine: Engine, batch: Batch, origin: int, horizon: int) -> Array:
    with torch.inference_mode():
        _, mean = forecast_steps(engine.backbone, lambda step, size: batch, origin, horizon)
    return np.maximum(mean.cpu().numpy().astype(np.float64), 0.0)


def _store_levels(windows: PanelWindows, siblings: Siblings, origin: int) -> NDArray[np.float32]:
    """[S] the mean level of each series' store; 0 where nothing is known."""
    import pandas as pd

    found = pd.Series(siblings.levels(origin))
    stores = windows.panel.static["store"].to_numpy()
    return np.asarray(found.groupby(stores).transform("mean").fillna(found.mean()).fillna(0.0), dtype=np.float32)
