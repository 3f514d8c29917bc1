"""Clipped gradients of units never exceed C: any batch, windows, tokens, ranks, ragged histories, under autocast, and
on the shipped backbone; and what a secret of several units can do to a sum.

Every gradient here goes through the real path, :func:`trend_common.privacy.step._noised`, without its noise.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from trend_client.engine import Engine
from trend_client.shares import shares_of
from trend_client.training import TrainingData
from trend_common import adapters
from trend_common.panel import SalesPanel, from_frame
from trend_common.privacy.noise import SecureGenerator
from trend_common.privacy.per_series import PerSeriesGradients
from trend_common.privacy.step import private_gradient
from trend_common.protocol import BucketPlan
from trend_common.windows import PanelWindows

Losses = Callable[[NDArray[np.int64]], Tensor]
WHOLE = BucketPlan(q=1.0, noise_multiplier=0.0, expected_batch=1)
ROUNDING = 1 + 1e-6
quick = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def clipped_sum(model: nn.Module, losses: Losses, units: int, k: int, clip: float) -> NDArray[np.float64]:
    """The sum that is released, before its noise."""
    found = private_gradient(
        model,
        losses,
        n_units=units,
        windows_per_series=k,
        bucket=WHOLE,
        clip=clip,
        generator=SecureGenerator(),
    )
    return np.concatenate([found[name].ravel() for name in sorted(found)]).astype(np.float64)


class Lora(nn.Module):
    """One linear layer with a LoRA of any rank over any number of tokens; the loss is as large as it likes."""

    def __init__(self, rank: int, both: bool) -> None:
        super().__init__()
        self.base, self.a, self.b = (nn.Linear(i, o, bias=False) for i, o in ((5, 4), (5, rank), (rank, 4)))
        self.base.requires_grad_(False)
        self.a.requires_grad_(both)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x) + self.b(self.a(x))
        return y.square().flatten(1).sum(dim=1)


@given(
    units=st.integers(0, 6),
    k=st.integers(1, 5),
    tokens=st.integers(1, 7),
    rank=st.integers(1, 6),
    both=st.booleans(),
    scale=st.sampled_from([1e-6, 1.0, 1e4]),
    clip=st.sampled_from([1e-3, 0.5, 10.0]),
    autocast=st.booleans(),
)
@quick
def test_no_unit_moves_the_sum_by_more_than_the_clip(
    units: int, k: int, tokens: int, rank: int, both: bool, scale: float, clip: float, autocast: bool
) -> None:
    """Empty batches included: they sum to nothing."""
    torch.manual_seed(units * 1000 + k * 100 + tokens * 10 + rank)
    model, x = Lora(rank, both), torch.randn(max(units, 1), k, tokens, 5) * scale

    def losses(chosen: NDArray[np.int64]) -> Tensor:
        mixed = torch.autocast("cpu", dtype=torch.bfloat16) if autocast else contextlib.nullcontext()
        with mixed:
            result: Tensor = model(x[torch.from_numpy(chosen)].flatten(0, 1))
        return result.float()

    whole = clipped_sum(model, losses, units, k, clip)
    assert np.isfinite(whole).all()
    assert np.linalg.norm(whole) <= units * clip * ROUNDING
    if units == 0:
        assert not whole.any()
        return
    one = clipped_sum(model, lambda chosen: losses(chosen), 1, k, clip)
    without = clipped_sum(model, lambda chosen: losses(chosen + 1), units - 1, k, clip)
    assert np.linalg.norm(one) <= clip * ROUNDING
    # Under autocast a batch of another size may be summed in another order; each unit is clipped all the same.
    assert np.linalg.norm(whole - without) <= clip * (1.02 if autocast else ROUNDING)


@given(rank=st.integers(1, 6), both=st.booleans(), tokens=st.integers(1, 6), k=st.integers(1, 4))
@quick
def test_any_rank_and_number_of_tokens_is_what_autograd_says(rank: int, both: bool, tokens: int, k: int) -> None:
    model, x = Lora(rank, both).double(), torch.randn(3 * k, tokens, 5, dtype=torch.float64)
    with PerSeriesGradients(model, k) as gradients:
        gradients.start(len(x))
        gradients.backward(model(x))
        found = gradients.collect()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert found.keys() == trained.keys()
    assert ("a.weight" in found) == both
    for unit in range(3):
        truth = torch.autograd.grad(model(x[unit * k : (unit + 1) * k]).mean(), list(trained.values()))
        for name, gradient in zip(trained, truth, strict=True):
            torch.testing.assert_close(found[name][unit], gradient)


# --- the backbone that is shipped, on ragged histories ---


@pytest.fixture(scope="module")
def shipped() -> Iterator[Engine]:
    engine = Engine("trend-small", device="cpu")
    yield engine
    engine.release()


@pytest.fixture(scope="module")
def ragged() -> TrainingData:
    """Series that begin on different days, one of them all zeros and one enormous."""
    rng = np.random.default_rng(3)
    days = pd.date_range("2024-01-01", periods=160)
    rows = []
    for number, start in enumerate((0, 0, 35, 90, 0)):
        units = rng.poisson(5 + 10 * number, len(days) - start).astype(float)
        units = units * (0.0 if number == 1 else 1e6 if number == 4 else 1.0)
        rows.append(pd.DataFrame({"date": days[start:], "product": f"p{number}", "units": units}))
    panel = from_frame(pd.concat(rows, ignore_index=True))
    return TrainingData.of(PanelWindows(panel, context=112), train_end=140, horizon=14)


@pytest.mark.parametrize("train", ["B", "AB"])
def test_the_shipped_backbone_is_exact_and_bounded_on_ragged_histories(
    shipped: Engine, ragged: TrainingData, train: Any
) -> None:
    k, clip = 2, 0.02
    plan, initial, frozen = adapters.initial_adapter(
        shipped.release(), rank=2, alpha=4, targets=shipped.backbone.lora_targets, train=train, seed=1
    )
    shipped.install(plan, frozen)
    rng = np.random.default_rng(0)
    moved = {name: (value + rng.normal(0, 0.02, value.shape)).astype(np.float32) for name, value in initial.items()}
    shipped.use(moved)
    assert ragged.n_units >= 4
    batches = {unit: ragged.draw([unit], k, np.random.default_rng(unit).random) for unit in range(ragged.n_units)}
    core = shipped.backbone.core
    trained = {name: p for name, p in core.named_parameters() if p.requires_grad}
    for batch in batches.values():
        with PerSeriesGradients(core, k) as gradients:
            gradients.start(k)
            gradients.backward(shipped.backbone(batch).loss_per_sample)
            found = gradients.collect()
        loss = shipped.backbone(batch).loss_per_sample.mean()
        truth = dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))
        length = torch.stack([g.norm() for g in truth.values()]).norm()
        for name, gradient in truth.items():
            assert float((found[name][0] - gradient).norm()) <= 1e-4 * float(length) + 1e-9

    def losses(chosen: NDArray[np.int64]) -> Tensor:
        result = [shipped.backbone(batches[int(unit)]).loss_per_sample for unit in chosen]
        return torch.cat([one for one in result if one is not None])

    def shifted(by: int) -> Losses:
        return lambda chosen: losses(chosen + by)

    for unit in range(ragged.n_units):
        assert np.linalg.norm(clipped_sum(core, shifted(unit), 1, k, clip)) <= clip * ROUNDING


# --- units of several series, and secrets of several units ---


def panel_of(pairs: list[tuple[str, str]]) -> SalesPanel:
    days = pd.date_range("2024-01-01", periods=120)
    frames = [pd.DataFrame({"date": days, "product": p, "store": s, "units": 3.0}) for p, s in pairs]
    return from_frame(pd.concat(frames, ignore_index=True))


@given(st.sets(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), min_size=1, max_size=9))
@settings(max_examples=15, deadline=None)
def test_shares_count_the_units_that_a_secret_takes_with_it(pairs: set[tuple[str, str]]) -> None:
    """Against the definition: take each secret out and look which units are gone and which have changed."""
    panel = panel_of(sorted(pairs))
    of: dict[str, Callable[[str, str], object]] = {
        "series": lambda p, s: (p, s),
        "product": lambda p, s: p,
        "store": lambda p, s: s,
    }
    for unit, key in of.items():
        units = {key(*pair): {one for one in pairs if key(*one) == key(*pair)} for pair in pairs}
        found = shares_of(panel, unit)
        for secret, owner in of.items():
            best = (0, 0)
            for pair in pairs:
                rest = {one for one in pairs if owner(*one) != owner(*pair)}
                left = {name: own & rest for name, own in units.items()}
                gone = sum(1 for own in left.values() if not own)
                changed = sum(1 for name, own in left.items() if own and own != units[name])
                best = max(best, (gone, changed), key=lambda share: (share[0] + 2 * share[1], share[1]))
            assert found[secret] == best, (unit, secret)


@pytest.mark.parametrize("unit", ["product", "store"])
def test_a_unit_of_several_series_is_clipped_as_one(unit: Any) -> None:
    """Its k windows come from all its series, and are still k: it moves a sum by C, however many it owns."""
    panel = panel_of([(p, s) for p in "abcd" for s in "xy"])
    data = TrainingData.of(PanelWindows(panel, context=28), train_end=100, horizon=7, unit=unit)
    k, sizes = 3, {"product": (4, 2), "store": (2, 4)}[unit]
    assert (data.n_units, {len(own) for own in data.units}) == (sizes[0], {sizes[1]})
    assert len(data.draw(np.arange(data.n_units), k, np.random.default_rng(0).random)) == k * data.n_units
    model = nn.Linear(1, 1, bias=False)

    def losses(chosen: NDArray[np.int64]) -> Tensor:
        rows = len(data.draw(chosen, k, np.random.default_rng(0).random))
        result: Tensor = model(torch.full((rows, 1), 1e3)).squeeze(-1)
        return result

    moved = clipped_sum(model, losses, data.n_units, k, 0.5) - clipped_sum(model, losses, data.n_units - 1, k, 0.5)
    assert np.linalg.norm(moved) == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize(("whole", "changed"), [(3, 0), (1, 0), (0, 1), (2, 2)])
def test_a_secret_moves_a_sum_by_its_units_and_twice_by_those_it_changes(whole: int, changed: int) -> None:
    """The worst case of the conversion is reached: units that all point one way, and changed ones that turn round."""
    clip, rest = 0.5, 2
    units = rest + whole + changed
    model = nn.Linear(1, 1, bias=False)
    present = torch.ones(units, 1) * 100
    absent = torch.cat([torch.ones(rest, 1) * 100, -torch.ones(changed, 1) * 100])

    def losses_of(rows: Tensor) -> Losses:
        return lambda chosen: model(rows[torch.from_numpy(chosen)]).squeeze(-1)

    moved = clipped_sum(model, losses_of(present), units, 1, clip)
    moved -= clipped_sum(model, losses_of(absent), rest + changed, 1, clip)
    assert np.linalg.norm(moved) == pytest.approx((whole + 2 * changed) * clip, rel=1e-6)


def test_shares_are_kept_and_only_grow(tmp_path: Path) -> None:
    from trend_client.home import ClientHome
    from trend_client.shares import largest

    home = ClientHome(tmp_path)
    small, large = (shares_of(panel_of([("a", s) for s in stores]), "series") for stores in ("x", "xyz"))
    assert (small["product"], large["product"]) == ((1, 0), (3, 0))
    assert largest(large, small) == largest(small, large) == large
    home.save_shares("spring", large)
    assert home.shares("spring") == large
    (tmp_path / "federations" / "spring" / "shares.json").write_text("{")
    assert home.shares("spring") is None
