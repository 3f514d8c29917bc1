"""What ``trend-client budget`` shows of other secrets: the figures of this home's own largest product and store."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from trend_client.cli import main
from trend_client.home import ClientHome
from trend_client.shares import shares_of
from trend_common.panel import SalesPanel
from trend_common.privacy.accounting import gaussian_epsilon
from trend_common.privacy.ledger import Ledger, Reservation
from trend_common.protocol import AdapterPlan, BucketPlan, FederationPlan, PrivacyPlan
from trend_common.tensors import TensorSpec


def spent(home: ClientHome, panel: SalesPanel) -> None:
    """A ledger with one round of a federation, and the shares that a session notes."""
    plan = FederationPlan(
        federation="spring",
        backbone="tiny",
        backbone_sha256="a" * 64,
        adapter=AdapterPlan(
            rank=2,
            alpha=2.0,
            targets=("q_proj",),
            tensors=(TensorSpec(name="q_proj.lora_B.weight", shape=(8, 2)),),
            frozen_sha256="b" * 64,
        ),
        freq="D",
        horizon=14,
        context=56,
        rounds=1,
        steps=1,
        windows_per_series=2,
        update="gradient",
        local_learning_rate=0.0,
        proximal_mu=0.0,
        privacy=PrivacyPlan(
            epsilon=4.0,
            delta=1e-5,
            clip=0.1,
            buckets={"S": BucketPlan(q=1.0, noise_multiplier=2.0, expected_batch=9)},
        ),
    )
    with Ledger(
        home.ledger_folder / "ledger.jsonl",
        head_path=home.head_folder / "ledger-head.json",
        epsilon_total=8.0,
        delta=1e-5,
    ) as ledger:
        ledger.accept(plan, "S")
        begun = ledger.begin_round("spring", 1, plan_sha256=plan.sha256(), adapter_sha256="c" * 64)
        assert isinstance(begun, Reservation)
        ledger.seal(begun, b"noised")
    home.save_shares("spring", shares_of(panel, "series"))


def test_whole_products_and_stores_are_shown(
    tmp_path: Path, panel: SalesPanel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Six products in two stores: a product is two series, a store is six."""
    home = ClientHome(tmp_path / "home")
    spent(home, panel)
    out = tmp_path / "budget.json"
    monkeypatch.setattr("sys.argv", ["trend-client", "budget", "--home", str(home.root), "--json", str(out)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    product, store = gaussian_epsilon(2 / 2.0, 1e-5), gaussian_epsilon(6 / 2.0, 1e-5)
    assert f"a whole product (up to 2 of the protected units): ε = {product:.4g}" in shown
    assert f"a whole store (up to 6 of the protected units): ε = {store:.4g}" in shown
    found = json.loads(out.read_text())["other_units"]
    assert math.isclose(found["product"]["epsilon"], product)
    assert math.isclose(found["store"]["epsilon"], store)
    assert found["store"]["best_guess"] == pytest.approx(0.9332, abs=1e-4)
