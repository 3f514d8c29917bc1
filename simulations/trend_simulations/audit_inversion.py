"""Can a server read a series' sales out of one gradient?

The worst case: a client of one series and one window, a server that chose an adapter with A and B to its liking and
asks for float32, and an attacker who knows the window's dates. The gradient of A in the input layers is a sum over
the window's tokens t,

    ∂loss/∂A = Σ_t u_t x_tᵀ        [r, features]

so its rows lie in the span of the tokens' inputs x_t, and span all of it where there are as many rows as tokens. Part
of each x_t is the calendar, which is public. Solving for the combination of rows that shows a token's calendar gives
the whole token, and with it the sales: exactly, in one step, without any search. (Reading inputs off the gradient of
a linear layer: Phong et al. 2018; the known part that tells the tokens apart is particular to forecasters.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from trend_client.engine import Engine
from trend_common import adapters
from trend_common.backbones.base import Batch
from trend_common.covariates import N_CALENDAR
from trend_common.files import replacing
from trend_common.privacy.accounting import noise_multiplier_for
from trend_common.privacy.noise import SecureGenerator
from trend_common.privacy.step import private_gradient
from trend_common.protocol import BucketPlan
from trend_common.tensors import Tensors
from trend_common.windows import PanelWindows
from trend_simulations.sources import synthetic

__all__ = ["Inversion", "draw_inversion", "invert"]

_LAYERS: Final = ("in1", "in_skip")
_RANK: Final = 8
_CONTEXT, _HORIZON = 56, 28
_CLIP: Final = 0.02
_ROUNDS: Final = 20
_LADDER: Final = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class Inversion:
    """What was read out of gradients.

    Attributes:
        epsilon, sigma: Of the plan: 20 rounds, every series in each.
        windows: How many windows were attacked.
        without_noise: [windows] correlation of the reconstruction with the sales.
        with_noise: [windows] the same under the plan's noise, from one round.
        averaged: [windows] the same from the mean of all 20 rounds, the same window in each.
        ladder: σ → mean absolute correlation.
        truth, read, read_noised: [L] one window: sales over their mean, and what was read without and with noise.
    """

    epsilon: float
    sigma: float
    windows: int
    without_noise: NDArray[np.float64]
    with_noise: NDArray[np.float64]
    averaged: NDArray[np.float64]
    ladder: dict[float, float]
    truth: NDArray[np.float64]
    read: NDArray[np.float64]
    read_noised: NDArray[np.float64]


def invert(
    engine: Engine, *, windows: int = 20, epsilon: float = 4.0, ladder: Sequence[float] = _LADDER
) -> Inversion:
    """Attack ``windows`` windows of a synthetic retailer, each alone.

    Args:
        engine: A backbone whose input layers are ``in1`` and ``in_skip``, as ours.
        windows: Of different series.
        epsilon: Of the plan whose noise is tried, at δ = 1e-5.
        ladder: Further noise multipliers to try.
    """
    panel = synthetic(1, seed=5, days=420, sizes=(40, 40))[0].panel
    made = PanelWindows(panel, context=_CONTEXT)
    whole = np.flatnonzero(np.isfinite(made.history(made.n_steps)).all(axis=1))
    rows = whole[:windows]
    origin = made.n_steps - _HORIZON
    batches = [made.batch([row], [origin], _HORIZON, targets_end=made.n_steps) for row in rows]
    _chosen_by_the_server(engine)
    sigma = noise_multiplier_for(epsilon=epsilon, delta=1e-5, q=1.0, steps=_ROUNDS)

    def correlations(noise: float, times: int = 1) -> NDArray[np.float64]:
        return np.array([_similarity(*_attack(engine, batch, noise, times)) for batch in batches])

    truth, read = _attack(engine, batches[0], 0.0)
    return Inversion(
        epsilon=epsilon,
        sigma=sigma,
        windows=len(batches),
        without_noise=correlations(0.0),
        with_noise=correlations(sigma),
        averaged=correlations(sigma, _ROUNDS),
        ladder={noise: float(np.abs(correlations(noise)).mean()) for noise in ladder},
        truth=truth,
        read=read,
        read_noised=_attack(engine, batches[0], sigma)[1],
    )


def _chosen_by_the_server(engine: Engine) -> None:
    """Attach an adapter with A and B trained and neither of them zero: with B = 0 the gradient of A would be."""
    plan, _, frozen = adapters.initial_adapter(
        engine.release(), rank=_RANK, alpha=2.0 * _RANK, targets=engine.backbone.lora_targets, train="AB"
    )
    engine.install(plan, frozen)
    rng = np.random.default_rng(0)
    engine.use({spec.name: rng.normal(0, 0.05, spec.shape).astype(np.float32) for spec in plan.tensors})


def _attack(
    engine: Engine, batch: Batch, noise: float, times: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[L] the window's sales over their mean, and what the attacker reads out of the mean of ``times`` answers."""
    generator, answers = SecureGenerator(), list[Tensors]()
    for _ in range(times):
        answers.append(
            private_gradient(
                engine.backbone.core,
                lambda _: engine.backbone(batch).loss_per_sample,
                n_units=1,
                windows_per_series=1,
                bucket=BucketPlan(q=1.0, noise_multiplier=noise, expected_batch=1),
                clip=_CLIP,
                generator=generator,
            )
        )
    wanted = [name for name in answers[0] if "lora_A" in name and name.split(".lora_A")[0].endswith(_LAYERS)]
    rows = np.concatenate([np.mean([one[name] for one in answers], axis=0, dtype=np.float64) for name in wanted])
    tokens = _tokens(engine, batch)
    patch = int(str(engine.backbone.config["patch"]))
    steps = np.arange(tokens.shape[1]).reshape(patch, -1)
    # Channels of a step: value, whether it is known, candidates, whether these are, covariates (the calendar first).
    first = steps.shape[1] - batch.past_cov.shape[-1]
    public = np.concatenate([steps[:, 1], steps[:, first : first + N_CALENDAR].ravel()])
    _, _, directions = np.linalg.svd(rows, full_matrices=False)
    directions = directions[: len(tokens)]
    past = _CONTEXT // patch
    read = []
    for token in tokens[:past]:
        combination, *_ = np.linalg.lstsq(directions[:, public].T, token[public], rcond=None)
        read.append((directions.T @ combination)[steps[:, 0]])
    return np.sinh(tokens[:past, steps[:, 0]].ravel()), np.sinh(np.clip(np.concatenate(read), -6, 6))


def _tokens(engine: Engine, batch: Batch) -> NDArray[np.float64]:
    """[tokens, features] what the input layer sees: the truth, and the public part that the attacker knows."""
    seen: list[Any] = []
    modules: dict[str, Any] = dict(engine.backbone.core.named_modules())
    layer = next(module for name, module in modules.items() if name.endswith(_LAYERS[0]))
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        with torch.no_grad():
            engine.backbone(batch)
    finally:
        hook.remove()
    return np.asarray(seen[0][0].double().numpy())


def _similarity(truth: NDArray[np.float64], read: NDArray[np.float64]) -> float:
    """Pearson's correlation; 0 where one of them does not vary."""
    if truth.std() == 0 or read.std() == 0:
        return 0.0
    return float(np.corrcoef(truth, read)[0, 1])


def draw_inversion(result: Inversion, path: Path) -> Path:
    """Write the picture: the window, what was read with and without noise, and how much noise it takes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3, width_ratios=(1.2, 1.2, 1))
    days = np.arange(1, len(result.truth) + 1)
    under = f"with the noise of ε = {result.epsilon:g} (σ = {result.sigma:g})"
    panels: tuple[tuple[Any, NDArray[np.float64], str, NDArray[np.float64]], ...] = (
        (axes[0], result.read, "without noise", result.without_noise),
        (axes[1], result.read_noised, under, result.with_noise),
    )
    for axis, read, title, found in panels:
        axis.plot(days, result.truth, color="#5a6b7b", linewidth=3, alpha=0.5, label="sales")
        axis.plot(days, read, color="#b4232c", linewidth=1, label="read out of the gradient")
        axis.set_title(f"{title}\ncorrelation {np.mean(found):.3f} (mean of {result.windows})", fontsize=9)
        axis.set_xlabel("day of the window")
        axis.set_ylim(-0.5, max(3.0, 1.2 * float(result.truth.max())))
    axes[0].set_ylabel("sales over their mean")
    axes[0].legend(fontsize=8, frameon=False)
    ladder = {**result.ladder, result.sigma: float(np.abs(result.with_noise).mean())}
    noises = sorted(ladder)
    axes[2].semilogx(noises, [ladder[noise] for noise in noises], marker="o", markersize=4, color="#1f5f8b")
    axes[2].axvline(result.sigma, color="#2d7d46", linestyle="--", linewidth=1)
    axes[2].annotate("the plan", (result.sigma, 0.9), rotation=90, fontsize=8, color="#2d7d46", ha="right", va="top")
    axes[2].set_title("how much noise it takes", fontsize=9)
    axes[2].set_xlabel("noise multiplier σ")
    axes[2].set_ylabel("mean |correlation|")
    axes[2].set_ylim(0, 1.05)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
    return path
