"""One noised gradient: what it is made of, that it carries its noise, and that nothing else comes out.

The sensitivity and noise tests each hold a mutation: the same check on a broken mechanism must fail.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from trend_common import adapters
from trend_common.backbones import load_backbone
from trend_common.backbones.synthetic import random_batch
from trend_common.errors import PolicyError
from trend_common.privacy import step as step_module
from trend_common.privacy.noise import SecureGenerator
from trend_common.privacy.per_series import PerSeriesGradients
from trend_common.privacy.step import LocalDiagnostics, Losses, private_gradient, private_update
from trend_common.protocol import BucketPlan
from trend_common.tensors import Tensors, total_norm

Factory = Callable[..., Any]
Noised = NDArray[np.float32]
D = 24


class Linear(nn.Module):
    """Loss x·w per window: the gradient of a unit is the mean of its own rows, so every test knows the truth."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(D, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y.squeeze(-1)


def losses_of(model: nn.Module, data: Tensor) -> Losses:
    """``data`` [units, k, D]."""

    def losses(units: NDArray[np.int64]) -> Tensor:
        result: Tensor = model(data[torch.from_numpy(units)].flatten(0, 1))
        return result

    return losses


def release(
    data: Tensor, *, sigma: float = 0.0, q: float = 1.0, expected: int = 1, **more: Any
) -> NDArray[np.float32]:
    model = more.pop("model", None) or Linear()
    return private_gradient(
        model,
        more.pop("losses", None) or losses_of(model, data),
        n_units=len(data),
        windows_per_series=data.shape[1],
        bucket=BucketPlan(q=q, noise_multiplier=sigma, expected_batch=expected),
        clip=more.pop("clip", 1.0),
        generator=SecureGenerator(),
        **more,
    )["layer.weight"].reshape(-1)


# --- sensitivity ---


@given(
    k=st.sampled_from([1, 4, 8]),
    units=st.integers(0, 4),
    scale=st.sampled_from([1e-6, 1e-2, 1.0, 1e3, 1e12, 1e30, float("inf"), float("nan")]),
    clip=st.sampled_from([1e-3, 0.1, 1.0, 50.0]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=80, deadline=None)
def test_one_series_moves_the_sum_by_at_most_the_clipping_norm(
    k: int, units: int, scale: float, clip: float, seed: int
) -> None:
    """Whatever the series holds, NaN and infinity included, and for any number of overlapping windows."""
    torch.manual_seed(seed)
    others, extra = torch.randn(units, k, D), torch.randn(1, k, D) * scale
    without, with_it = release(others, clip=clip), release(torch.cat([others, extra]), clip=clip)
    assert np.isfinite(with_it).all()
    # The one rounding to float32 is after the noise in a real release; here it is all there is.
    slack = 1e-6 * max(total_norm({"w": with_it}), clip)
    assert total_norm({"w": with_it - without}) <= clip + slack


def test_clipping_each_window_would_break_the_bound() -> None:
    """The mutation: the same series with its eight windows as eight units moves the sum by 8·C."""
    series = torch.full((1, 8, D), 5.0)
    assert total_norm({"w": release(series)}) == pytest.approx(1.0, abs=1e-5)
    assert total_norm({"w": release(series.transpose(0, 1))}) == pytest.approx(8.0, abs=1e-4)


def test_clipping_is_over_all_tensors_together(make_model: Factory, make_batch: Factory) -> None:
    """Clipping each of ten tensors to C by itself would allow √10·C."""
    model, batch, clip = make_model(), make_batch(2), 1e-3
    result = private_gradient(
        model,
        lambda units: model(batch).loss_per_sample,
        n_units=1,
        windows_per_series=2,
        bucket=BucketPlan(q=1, noise_multiplier=0, expected_batch=1),
        clip=clip,
        generator=SecureGenerator(),
    )
    assert len(result) == 10
    assert total_norm(result) == pytest.approx(clip, rel=5e-3)
    assert total_norm(result) <= clip


def test_small_gradients_are_not_touched_and_the_denominator_is_public() -> None:
    data = torch.randn(5, 2, D) * 1e-3
    expected = data.mean(dim=1).sum(dim=0).numpy()
    np.testing.assert_allclose(release(data), expected, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(release(data, expected=40), expected / 40, rtol=1e-5, atol=1e-9)


def test_opacus_alone_gives_the_same_clipped_sum() -> None:
    from opacus.optimizers import DPOptimizer

    data, model = torch.randn(6, 2, D) * torch.logspace(-2, 2, 6)[:, None, None], Linear()
    optimizer = DPOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.0), noise_multiplier=0.0, max_grad_norm=1.0, expected_batch_size=3
    )
    with PerSeriesGradients(model, 2) as gradients:
        gradients.start(12)
        gradients.backward(model(data.flatten(0, 1)))
        optimizer.pre_step()
        assert model.layer.weight.grad is not None
        theirs = model.layer.weight.grad.numpy().reshape(-1).copy()
    np.testing.assert_allclose(release(data, model=model, expected=3), theirs, rtol=1e-5, atol=1e-7)


@given(chunk=st.integers(1, 9), units=st.integers(1, 8))
@settings(max_examples=15, deadline=None)
def test_the_chunk_changes_nothing_but_memory(chunk: int, units: int) -> None:
    data = torch.randn(units, 2, D)
    seen: list[int] = []

    def losses(chosen: NDArray[np.int64]) -> Tensor:
        seen.append(len(chosen))
        return losses_of(model, data)(chosen)

    model = Linear()
    np.testing.assert_allclose(
        release(data, model=model, losses=losses, chunk=chunk), release(data), rtol=1e-5, atol=1e-7
    )
    assert max(seen) <= chunk
    assert sum(seen) == units


def test_a_unit_that_is_taken_out_moves_the_others_by_rounding_alone(
    make_model: Factory, make_batch: Factory
) -> None:
    """Products of matrices round by their shapes: float32 gradients of the others may change in their last bits."""
    model, whole, clip = make_model(), make_batch(2 * 150), 0.05

    def clipped(kept: NDArray[np.int64]) -> Tensor:
        rows = torch.from_numpy(np.stack([2 * kept, 2 * kept + 1], axis=1).ravel())
        found = []
        with PerSeriesGradients(model, 2) as gradients:
            for part in rows.split(2 * 64):
                gradients.start(len(part))
                gradients.backward(model(whole.rows(part)).loss_per_sample)
                found.append(torch.cat([g.double().flatten(1) for g in gradients.collect().values()], dim=1))
        joined = torch.cat(found)
        return joined * (clip / joined.norm(dim=1, keepdim=True)).clamp(max=1)

    everybody = np.arange(150)
    before = clipped(everybody)
    for gone in (0, 70, 149):
        kept = np.delete(everybody, gone)
        moved = (clipped(kept) - before[kept]).norm(dim=1).sum()
        assert float(moved) < 1e-4 * clip, "beside the clip that the accountant knows of"


def test_one_bad_series_does_not_silence_the_others() -> None:
    """A NaN must count as zero: it would otherwise tell the server that this series is there."""
    good = torch.randn(3, 2, D) * 1e-3
    bad = torch.full((1, 2, D), float("nan"))
    diagnostics = LocalDiagnostics()
    np.testing.assert_array_equal(release(torch.cat([good, bad]), diagnostics=diagnostics), release(good))
    assert (diagnostics.units, diagnostics.not_finite, diagnostics.clipped) == (4, 1, 0)


# --- noise ---


def noise_is_right(released: NDArray[np.floating], sigma: float, clip: float, expected: int) -> bool:
    """Is this pure noise of standard deviation σ·C/expected_batch? Six standard errors either way."""
    z = released.astype(np.float64) * expected / (sigma * clip)
    n = z.size
    return bool(abs(z.mean()) < 6 / np.sqrt(n) and abs(z.var() - 1) < 6 * np.sqrt(2 / n))


def many(sigma: float, times: int = 150) -> NDArray[np.float32]:
    data = torch.zeros(3, 1, D)
    return np.stack([release(data, sigma=sigma, clip=0.1, expected=30) for _ in range(times)])


def test_the_noise_is_that_of_the_plan() -> None:
    assert noise_is_right(many(2.0), 2.0, 0.1, 30)


@pytest.mark.parametrize("mutation", [0.0, 0.25, 0.9])
def test_too_little_noise_is_caught(mutation: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """No noise, σ/4 and even 0.9 σ fail the check that the real mechanism passes."""
    honest = SecureGenerator.gaussian
    monkeypatch.setattr(SecureGenerator, "gaussian", lambda self, size: honest(self, size) * mutation)
    assert not noise_is_right(many(2.0), 2.0, 0.1, 30)


def test_noise_once_a_chunk_would_be_caught() -> None:
    """The other direction: noise drawn once for each of three chunks is √3 too large."""
    data = torch.zeros(3, 1, D)
    released = np.stack([release(data, sigma=2.0, clip=0.1, expected=30, chunk=1) for _ in range(150)])
    assert noise_is_right(released, 2.0, 0.1, 30)
    assert not noise_is_right(released * np.sqrt(3), 2.0, 0.1, 30)


def test_noise_is_new_in_every_call_and_coordinate() -> None:
    released = many(2.0, times=400).astype(np.float64)
    # A handful of float32 values coincide by chance; a repeated stream would halve them.
    assert len(np.unique(released)) > 0.99 * released.size
    between_calls = np.corrcoef(released[:-1].ravel(), released[1:].ravel())[0, 1]
    assert abs(between_calls) < 6 / np.sqrt(released.size)
    coordinates = np.corrcoef(released.T) - np.eye(D)
    assert np.abs(coordinates).max() < 6 / np.sqrt(len(released))


def test_seeding_torch_does_not_repeat_the_noise() -> None:
    """The mutation that a stock generator is: with it, two rounds of one seed cancel."""

    def seeded() -> NDArray[np.float32]:
        torch.manual_seed(42)
        np.random.seed(42)
        return release(torch.zeros(3, 1, D), sigma=2.0)

    assert not np.array_equal(seeded(), seeded())


@given(sigma=st.floats(0.01, 50), clip=st.floats(1e-3, 10), seed=st.integers(0, 2**16))
@settings(max_examples=40, deadline=None)
def test_what_leaves_is_a_multiple_of_a_public_grid(sigma: float, clip: float, seed: int) -> None:
    """So that a value near zero shows no more digits of the sum than another one. The grid is far below the noise."""
    torch.manual_seed(seed)
    grid = 2.0 ** (np.floor(np.log2(sigma * clip)) - 24)
    assert sigma * clip * 2**-25 < grid <= sigma * clip * 2**-24
    released = release(torch.randn(3, 2, D), sigma=sigma, clip=clip).astype(np.float64) / grid
    assert (released == np.round(released)).all()


def test_the_grid_is_public_and_there_for_values_near_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise that all but cancels the sum: without the grid the difference would be released in full precision."""
    data = torch.full((1, 1, D), 0.1)
    monkeypatch.setattr(SecureGenerator, "gaussian", lambda self, size: np.full(size, -0.05 * (1 + 1e-12)))
    assert (release(data, sigma=2.0) == 0).all()


def test_an_empty_sample_still_adds_noise() -> None:
    """Nothing, or exact zeros, would tell that nobody was drawn."""
    for data in (torch.zeros(0, 2, D), torch.randn(4, 2, D)):
        released = release(data, sigma=2.0, q=1e-12 if len(data) else 1.0)
        assert released.shape == (D,)
        assert (released != 0).all()


def test_every_tensor_gets_noise(make_model: Factory, make_batch: Factory) -> None:
    model, batch = make_model(), make_batch(2)
    results = [
        private_gradient(
            model,
            lambda units: model(batch).loss_per_sample,
            n_units=2,
            windows_per_series=1,
            bucket=BucketPlan(q=1, noise_multiplier=1, expected_batch=2),
            clip=0.1,
            generator=SecureGenerator(),
        )
        for _ in range(2)
    ]
    for name, value in results[0].items():
        assert (value != results[1][name]).all(), name


# --- what comes out ---


def test_only_the_trainable_tensors_come_out(make_model: Factory, make_batch: Factory) -> None:
    model, batch = make_model(train="B"), make_batch(4)
    result = private_gradient(
        model,
        lambda units: model(batch).loss_per_sample,
        n_units=2,
        windows_per_series=2,
        bucket=BucketPlan(q=1, noise_multiplier=1, expected_batch=2),
        clip=0.1,
        generator=SecureGenerator(),
    )
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}
    assert {name: value.shape for name, value in result.items()} == shapes
    assert all(value.dtype == np.float32 for value in result.values())
    assert all("lora_B" in name for name in result)


def test_nothing_but_tensors_is_returned() -> None:
    """No count, loss or norm: a field for one would sooner or later be sent."""
    for function in (private_gradient, private_update):
        assert inspect.signature(function).return_annotation == "Tensors"
    public = {field.name for field in dataclasses.fields(LocalDiagnostics)}
    assert public == {"units", "clipped", "not_finite"}
    assert "NEVER SENT" in (LocalDiagnostics.__doc__ or "")
    assert "trend_common.privacy.step" not in inspect.getsource(inspect.getmodule(BucketPlan) or step_module)


def test_the_model_is_left_as_it_was(make_model: Factory, make_batch: Factory) -> None:
    model, batch = make_model(), make_batch(4)
    before = {name: p.detach().clone() for name, p in model.state_dict().items()}
    common: dict[str, Any] = {
        "n_units": 2,
        "windows_per_series": 2,
        "bucket": BucketPlan(q=1, noise_multiplier=1, expected_batch=2),
        "clip": 0.1,
        "generator": SecureGenerator(),
    }
    private_gradient(model, lambda units: model(batch).loss_per_sample, **common)
    private_update(model, lambda units: model(batch).loss_per_sample, steps=2, learning_rate=1.0, **common)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None and not hasattr(p, "grad_sample") for p in model.parameters())


def test_diagnostics_count_for_the_own_screen() -> None:
    diagnostics = LocalDiagnostics()
    assert diagnostics.clipped_fraction == 0
    data = torch.zeros(4, 1, D)
    data[:3] = 10.0
    release(data, diagnostics=diagnostics)
    assert diagnostics.clipped_fraction == 0.75


def test_a_sample_follows_q() -> None:
    diagnostics = LocalDiagnostics()
    for _ in range(20):
        release(torch.zeros(200, 1, D), q=0.25, sigma=1.0, diagnostics=diagnostics)
    assert abs(diagnostics.units - 1000) < 6 * np.sqrt(4000 * 0.25 * 0.75)


@pytest.mark.parametrize("wrong", [{"clip": 0.0}, {"clip": float("inf")}, {"chunk": 0}])
def test_senseless_parameters_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        release(torch.zeros(2, 1, D), **wrong)


def test_a_model_that_mixes_units_up_is_refused() -> None:
    model = nn.Sequential(nn.Linear(D, D), nn.BatchNorm1d(D))
    with pytest.raises(PolicyError, match="BatchNorm"):
        release(torch.zeros(2, 1, D), model=model)


# --- several local steps ---


def update(data: Tensor, *, sigma: float = 0.0, steps: int = 1, lr: float = 0.5, mu: float = 0.0) -> Tensors:
    model = Linear()
    with torch.no_grad():
        model.layer.weight.fill_(1.0)

    def losses(units: NDArray[np.int64]) -> Tensor:
        # Quadratic, so that a later step depends on the weights that an earlier one left.
        x = data[torch.from_numpy(units)].flatten(0, 1)
        loss: Tensor = model(x).square() / 2
        return loss

    return private_update(
        model,
        losses,
        steps=steps,
        learning_rate=lr,
        proximal_mu=mu,
        n_units=len(data),
        windows_per_series=data.shape[1],
        bucket=BucketPlan(q=1, noise_multiplier=sigma, expected_batch=len(data)),
        clip=1e6,
        generator=SecureGenerator(),
    )


@pytest.mark.parametrize("mu", [0.0, 0.3])
def test_steps_without_noise_are_sgd(mu: float) -> None:
    torch.manual_seed(3)
    data = torch.randn(3, 1, D) * 0.2
    w = torch.ones(D)
    for _ in range(4):
        gradient = sum((x.squeeze(0) @ w) * x.squeeze(0) for x in data) / 3
        w = w - 0.5 * (gradient + mu * (w - 1))
    found = update(data, steps=4, mu=mu)["layer.weight"].reshape(-1)
    np.testing.assert_allclose(found, (w - 1).numpy(), rtol=1e-4, atol=1e-6)


def test_each_step_takes_its_own_noise() -> None:
    """The variance of S steps is S times that of one; one noise for all would give S²."""
    data, steps = torch.zeros(4, 1, D), 4
    changes = np.stack([update(data, sigma=1e-6, steps=steps)["layer.weight"].ravel() for _ in range(100)])
    one = 0.5 * 1e-6 * 1e6 / 4
    assert noise_is_right(changes, one * np.sqrt(steps), 1.0, 1)
    assert not noise_is_right(changes, one * steps, 1.0, 1)


def test_each_step_draws_its_own_sample() -> None:
    """One sample for all steps, or every unit in each, is not the mechanism that the ledger charges."""
    data, model, drawn = torch.zeros(200, 1, D), Linear(), list[tuple[int, ...]]()

    def losses(units: NDArray[np.int64]) -> Tensor:
        drawn.append(tuple(units.tolist()))
        return losses_of(model, data)(units)

    private_update(
        model,
        losses,
        steps=20,
        learning_rate=1.0,
        n_units=200,
        windows_per_series=1,
        bucket=BucketPlan(q=0.25, noise_multiplier=1, expected_batch=50),
        clip=1.0,
        generator=SecureGenerator(),
        chunk=200,
    )
    assert len(set(drawn)) == 20
    assert abs(sum(map(len, drawn)) - 1000) < 6 * np.sqrt(4000 * 0.25 * 0.75)


def test_an_error_puts_the_weights_back() -> None:
    model, calls = Linear(), [0]
    before = model.layer.weight.detach().clone()

    def losses(units: NDArray[np.int64]) -> Tensor:
        calls[0] += 1
        if calls[0] == 2:
            raise KeyboardInterrupt
        return losses_of(model, torch.ones(2, 1, D))(units)

    with pytest.raises(KeyboardInterrupt):
        private_update(
            model,
            losses,
            steps=3,
            learning_rate=1.0,
            n_units=2,
            windows_per_series=1,
            bucket=BucketPlan(q=1, noise_multiplier=1, expected_batch=2),
            clip=1.0,
            generator=SecureGenerator(),
        )
    assert torch.equal(model.layer.weight, before)
    assert "forward" not in vars(model.layer)


def test_no_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="steps is 0"):
        update(torch.zeros(1, 1, D), steps=0)


@pytest.mark.parametrize("train", ["B", "AB"])
def test_of_a_lora_every_element_is_where_autograd_has_it(tiny_backbone: Path, train: Literal["B", "AB"]) -> None:
    """The gradients of B lie in memory the other way round until they are summed."""
    backbone = load_backbone(str(tiny_backbone))
    adapters.attach(backbone, rank=3, alpha=4, targets=backbone.lora_targets, train=train)
    rng = np.random.default_rng(0)
    start = {n: 0.1 * rng.normal(size=v.shape).astype(np.float32) for n, v in adapters.export(backbone).items()}
    adapters.load(backbone, start)
    batch = random_batch(5, context=56, horizon=7, freq="D")

    def losses(units: NDArray[np.int64]) -> Tensor:
        found = backbone(batch.rows(slice(int(units[0]), int(units[-1]) + 1))).loss_per_sample
        assert found is not None
        return found

    private = private_gradient(
        backbone.core,
        losses,
        n_units=5,
        windows_per_series=1,
        bucket=BucketPlan(q=1.0, noise_multiplier=0.0, expected_batch=5),
        clip=1e6,
        generator=SecureGenerator(),
        chunk=2,
    )
    losses(np.arange(5)).mean().backward()  # type: ignore[no-untyped-call]
    truth = {name: p.grad for name, p in backbone.core.named_parameters() if p.requires_grad}
    assert private.keys() == truth.keys()
    for name, gradient in truth.items():
        assert gradient is not None
        np.testing.assert_allclose(
            private[name], gradient.numpy(), rtol=1e-3, atol=1e-5 * float(gradient.abs().max())
        )
