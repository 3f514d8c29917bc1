"""Secure aggregation from plan to adapter with the real clients: without noise it is the plain run, with noise it is
charged and sealed as ever."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trend_client.engine import Engine
from trend_common.privacy.plan import plan_epsilon
from trend_simulations.federation import Outcome, announce, federate_in_process, members
from trend_simulations.settings import DpRecipe, PlainRecipe, Settings
from trend_simulations.sources import Retailer, last_history, synthetic


@pytest.fixture(scope="module")
def retailers() -> list[Retailer]:
    return last_history(synthetic(4, seed=2, freq="W", days=420, sizes=(6, 10)), horizon=4, history=30)


def play(
    engine: Engine,
    retailers: list[Retailer],
    root: Path,
    recipe: DpRecipe | PlainRecipe,
    tiny_backbone: Path,
    *,
    secure: bool,
) -> tuple[Outcome, list[list[str]]]:
    """One federation; what came of it, and the kinds of the ledgers' lines."""
    settings = Settings(freq="W", horizon=4, context=28, backbone=str(tiny_backbone))
    announced = announce(engine, settings, recipe, name="one", seed=5, secure=secure)
    joined = members(retailers, engine, announced.plan, root, seed=3)
    try:
        result = federate_in_process(joined, announced, server_lr=0.05)
        kinds = [[line["kind"] for line in member.ledger._chain.records] for member in joined]
    finally:
        for member in joined:
            member.ledger.close()
    return result, kinds


def test_without_noise_the_shared_adapter_is_the_plain_ones(
    engine: Engine, retailers: list[Retailer], tmp_path: Path, tiny_backbone: Path
) -> None:
    """After one round the adapters differ by the rounding of the fixed point alone."""
    recipe = PlainRecipe("weights", rounds=1, steps=3, local_lr=1e-2, rank=2)
    plain, _ = play(engine, retailers, tmp_path / "plain", recipe, tiny_backbone, secure=False)
    secure, _ = play(engine, retailers, tmp_path / "secure", recipe, tiny_backbone, secure=True)
    rules = secure.plan.secure_aggregation
    assert rules is not None
    assert plain.adapter.tensors is not None
    assert secure.adapter.tensors is not None
    step = rules.range / rules.levels
    assert step < 1e-6
    for name, value in plain.adapter.tensors.items():
        np.testing.assert_allclose(secure.adapter.tensors[name], value, rtol=1e-6, atol=1.01 * step)
    assert max(float(np.abs(value).max()) for value in plain.adapter.tensors.values()) > 1e-3
    assert secure.bytes_up == pytest.approx(plain.bytes_up, abs=2000), "four bytes a number, as float32"


def test_with_noise_it_is_charged_and_sealed_as_ever(
    engine: Engine, retailers: list[Retailer], tmp_path: Path, tiny_backbone: Path
) -> None:
    recipe = DpRecipe(rounds=2, windows_per_series=2)
    result, kinds = play(engine, retailers, tmp_path, recipe, tiny_backbone, secure=True)
    assert all(one == ["accept", *["reserve", "seal", "sent"] * 2, "close"] for one in kinds)
    assert list(result.spent.values()) == pytest.approx([plan_epsilon(result.plan, "S")] * 4)
    assert any(np.abs(value).max() > 0 for value in (result.adapter.tensors or {}).values())
