"""What privacy needs of a foreign core: exact gradients of single series, and a refusal of what would be wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from trend_common import adapters
from trend_common.backbones import Backbone, Batch, load_backbone
from trend_common.backbones.chronos import Chronos2Network
from trend_common.backbones.foreign import ForeignBackbone
from trend_common.backbones.synthetic import random_batch
from trend_common.errors import PolicyError, UsageError
from trend_common.privacy.per_series import PerSeriesGradients
from trend_common.privacy.policy import AdapterPolicy, Policy
from trend_common.privacy.selftest import run_selftest

CHRONOS_DEFAULTS = ("self_attention.q", "self_attention.v", "self_attention.k", "self_attention.o")
Checkpoint = Callable[..., Path]


def adapted(folder: Path, train: Literal["B", "AB"] = "B", targets: tuple[str, ...] | None = None) -> Backbone:
    backbone = load_backbone(str(folder))
    adapters.attach(backbone, rank=2, alpha=4, targets=targets or backbone.lora_targets, train=train)
    return backbone


def move(backbone: nn.Module) -> None:
    """Away from B = 0, where A has no gradient."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))


def doubled(batch: Batch) -> Batch:
    """In float64, where an exact gradient differs from another by rounding of 1e-15."""
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return replace(
        batch, **{n: v.double() for n, v in values.items() if isinstance(v, Tensor) and v.is_floating_point()}
    )


def by_unit(model: nn.Module, batch: Batch, k: int) -> dict[str, Tensor]:
    with PerSeriesGradients(model, k) as gradients:
        gradients.start(len(batch))
        gradients.backward(model(batch).loss_per_sample)
        return {name: g.clone() for name, g in gradients.collect().items()}


def one_at_a_time(model: nn.Module, batch: Batch, k: int) -> dict[str, Tensor]:
    """The truth: each series by itself, through ordinary autograd."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found: dict[str, list[Tensor]] = {name: [] for name in trained}
    for start in range(0, len(batch), k):
        loss = model(batch.rows(slice(start, start + k))).loss_per_sample.mean()
        for name, g in zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True):
            found[name].append(g)
    return {name: torch.stack(gs) for name, gs in found.items()}


def test_gradients_are_those_of_each_series_alone(core_folder: Path) -> None:
    """To 1e-10 of their size, layer by layer, so that no large layer hides a small one."""
    backbone = adapted(core_folder, train="AB").double()
    move(backbone)
    batch = doubled(random_batch(6, context=56, horizon=20, seed=1))
    found, truth = by_unit(backbone, batch, 2), one_at_a_time(backbone, batch, 2)
    assert found.keys() == truth.keys()
    largest = max(float(g.norm()) for g in truth.values())
    for name, expected in truth.items():
        for unit in range(3):
            error = float((found[name][unit] - expected[unit]).norm())
            assert error <= 1e-10 * float(expected[unit].norm()) + 1e-14 * largest, name


def test_adapters_reach_the_core_and_not_only_our_layers(core_folder: Path) -> None:
    backbone = adapted(core_folder)
    # Of 16 windows some have a past of more than one patch on any machine: a query that sees one alone has no effect.
    gradients = by_unit(backbone, random_batch(16, context=56, horizon=20, seed=2), 2)
    of_core = {name: g for name, g in gradients.items() if ".body." in name}
    assert of_core
    assert all(float(g.norm()) > 0 for g in of_core.values()), "a core layer without effect only carries noise"


def test_the_self_test_passes(core_folder: Path) -> None:
    backbone = adapted(core_folder)
    drawn = iter(range(10_000))

    def make(rows: int) -> Batch:
        return random_batch(rows, context=56, horizon=20, seed=next(drawn))

    report = run_selftest(backbone, make, 2)
    assert report.parity < 1e-4
    assert report.independence < 1e-6
    assert report.moved > 0


def test_the_plan_of_a_federation_fits_a_policy_that_names_its_layers(core_folder: Path) -> None:
    backbone = load_backbone(str(core_folder))
    spoil(backbone)
    plan, trained, _ = adapters.initial_adapter(backbone, rank=2, alpha=4, targets=backbone.lora_targets, train="B")
    assert plan.parameters == sum(value.size for value in trained.values()) > 0
    allowed = Policy(adapter=AdapterPolicy(targets=list(backbone.lora_targets)))
    assert allowed._adapter_problems(plan) == []
    refused = Policy(adapter=AdapterPolicy(targets=["something_else"]))._adapter_problems(plan)
    assert "adapter.targets does not name them" in refused[0]
    assert "docs/backbones.md" in refused[0]
    letters = tuple(target[1:] for target in plan.targets)
    stranger = plan.model_copy(update={"targets": letters})
    named = Policy(adapter=AdapterPolicy(targets=list(letters)))._adapter_problems(stranger)
    assert any("is not a LoRA factor" in problem for problem in named), "the end of a name is not its last letters"


def spoil(backbone: Backbone) -> None:
    """Change the fresh layers, as pretraining would."""
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if name in backbone.fresh_parameters():
                parameter.add_(0.01)


@pytest.mark.parametrize("name", ["gpt2", "patchtst"])
def test_random_heads_are_not_put_into_a_federation(name: str, checkpoint: Checkpoint) -> None:
    backbone = load_backbone(str(checkpoint(name)))
    assert backbone.needs_pretraining
    with pytest.raises(UsageError, match="drawn at random") as caught:
        adapters.initial_adapter(backbone, rank=2, alpha=4, targets=backbone.lora_targets, train="B")
    assert "pretrain --backbone" in caught.value.hint
    spoil(backbone)
    assert not backbone.needs_pretraining


# -- what must be refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("patchtst", {"norm_type": "batchnorm"}),
        ("patchtsmixer", {"norm_mlp": "BatchNorm"}),
    ],
)
def test_batch_normalisation_is_refused_with_the_reason(
    name: str, changes: dict[str, Any], checkpoint: Checkpoint
) -> None:
    with pytest.raises(UsageError, match="mixes the series of a batch"):
        load_backbone(str(checkpoint(name, **changes)))


@pytest.mark.parametrize("name", ["patchtst", "patchtsmixer"])
def test_three_channels_are_refused_with_the_reason(name: str, checkpoint: Checkpoint) -> None:
    with pytest.raises(UsageError, match="3 channels, which it folds into the batch"):
        load_backbone(str(checkpoint(name, num_input_channels=3)))


def test_chronos_own_adapter_is_refused_with_the_reason(checkpoint: Checkpoint) -> None:
    with pytest.raises(PolicyError, match="that layer swaps batch and time") as caught:
        adapted(checkpoint("chronos-2"), targets=CHRONOS_DEFAULTS)
    assert "layer.1.self_attention" in caught.value.message
    assert "layer.0.self_attention.q" in caught.value.hint


@pytest.mark.parametrize("horizon", [20, 56])
def test_the_self_test_refuses_it_too(checkpoint: Checkpoint, horizon: int) -> None:
    """Behind the back of ``attach``: whoever names such layers in another way is stopped before any data is read."""
    backbone = load_backbone(str(checkpoint("chronos-2")))
    core: Any = backbone.core
    backbone.core = get_peft_model(core, LoraConfig(r=2, target_modules=list(CHRONOS_DEFAULTS)))
    with pytest.raises(PolicyError, match="leading dimension"):
        run_selftest(backbone, lambda rows: random_batch(rows, context=56, horizon=horizon), 2)


def test_rows_of_a_window_that_are_not_declared_are_refused(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted one by one, the rows of a series' covariates would each get a clipping norm of their own."""
    monkeypatch.setattr(Chronos2Network, "rows_per_window", 1)
    with pytest.raises(PolicyError, match="leading dimension of 28 where the batch has 4 windows"):
        by_unit(adapted(checkpoint("chronos-2")), random_batch(4, context=56, horizon=20, seed=1), 2)


def test_unknown_covariates_of_chronos_tie_nothing_together(checkpoint: Checkpoint) -> None:
    """A covariate that one series lacks does not move others, and its own empty row does not move the series."""
    backbone = load_backbone(str(checkpoint("chronos-2")))
    batch = random_batch(3, context=56, horizon=20, seed=1)
    nothing = replace(batch, past_cov=batch.past_cov * 0, future_cov=batch.future_cov * 0)
    one = replace(
        nothing,
        past_cov=torch.cat([batch.past_cov[:1].abs(), nothing.past_cov[1:]]),
        future_cov=torch.cat([batch.future_cov[:1].abs(), nothing.future_cov[1:]]),
    )
    with torch.enable_grad():
        plain, told = backbone(nothing).quantiles, backbone(one).quantiles
    assert not torch.allclose(plain[0], told[0])
    torch.testing.assert_close(plain[1:], told[1:], rtol=1e-5, atol=1e-5)
    with torch.inference_mode():  # which leaves rows of unknown covariates out
        torch.testing.assert_close(backbone(nothing).quantiles, plain, rtol=1e-5, atol=1e-5)


# -- layers of other kinds ---------------------------------------------------------------------------------------

quick = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Transposed(nn.Module):
    """GPT-2's layer, whose weight is stored the other way round."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layer = Conv1D(outputs, inputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y.square().flatten(1).sum(dim=1)


@given(
    inputs=st.integers(1, 5),
    outputs=st.integers(1, 5),
    tokens=st.integers(1, 4),
    units=st.integers(1, 4),
    k=st.integers(1, 3),
)
@quick
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning")
def test_adapters_on_transposed_layers(inputs: int, outputs: int, tokens: int, units: int, k: int) -> None:
    torch.manual_seed(inputs * 100 + outputs)
    peft: Any = get_peft_model(
        Transposed(inputs, outputs),  # type: ignore[arg-type]
        LoraConfig(r=2, target_modules=["layer"], init_lora_weights=False),
    )
    model = peft.double().eval()
    x = torch.randn(units * k, tokens, inputs, dtype=torch.float64)
    with PerSeriesGradients(model, k) as gradients:
        gradients.start(len(x))
        gradients.backward(model(x))
        found = gradients.collect()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert found.keys() == trained.keys()
    for unit in range(units):
        loss = model(x[unit * k : (unit + 1) * k]).mean()
        for name, g in zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True):
            torch.testing.assert_close(found[name][unit], g)


class Spread(nn.Module):
    """Each window as ``rows_per_window`` rows, side by side, of which the first answers for all."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows_per_window = rows
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, rows, 3]."""
        y: Tensor = self.layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        mixed = torch.softmax(y @ y.transpose(1, 2), -1) @ y
        return mixed[:, 0].square().sum(dim=1)


@given(rows=st.integers(1, 4), units=st.integers(1, 4), k=st.integers(1, 3))
@quick
def test_rows_of_one_window_are_one_units(rows: int, units: int, k: int) -> None:
    torch.manual_seed(rows)
    model = Spread(rows).double()
    x = torch.randn(units * k, rows, 3, dtype=torch.float64)
    with PerSeriesGradients(model, k) as gradients:
        gradients.start(len(x))
        gradients.backward(model(x))
        found = gradients.collect()
    for unit in range(units):
        loss = model(x[unit * k : (unit + 1) * k]).mean()
        for name, g in zip(found, torch.autograd.grad(loss, list(model.parameters())), strict=True):
            torch.testing.assert_close(found[name][unit], g)


def test_rows_that_are_declared_differently_or_not_at_all_possible() -> None:
    for wrong in (nn.ModuleList([Spread(2), Spread(3)]), nn.ModuleList([Spread(0)])):
        with pytest.raises(PolicyError, match="rows for each window"):
            PerSeriesGradients(wrong)


def test_the_network_is_the_same_under_an_adapter(core_folder: Path) -> None:
    backbone = load_backbone(str(core_folder))
    assert isinstance(backbone, ForeignBackbone)
    network = backbone.network
    before = backbone(random_batch(2, context=28, horizon=7, seed=1)).quantiles
    adapters.attach(backbone, rank=2, alpha=4, targets=backbone.lora_targets, train="B")
    assert backbone.network is network
    for refused in (backbone.fresh_parameters, lambda: backbone.save_pretrained("nowhere")):
        with pytest.raises(ValueError, match="detach the adapter"):
            refused()
    adapters.detach(backbone)
    assert torch.equal(before, backbone(random_batch(2, context=28, horizon=7, seed=1)).quantiles)
