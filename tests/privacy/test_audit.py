"""The product under attack: what it claims holds, and every known mistake, once built in, is caught.

A real client plays whole federations against a server that made some of its series; see
``simulations/trend_simulations/audit_canaries.py``. Each run here costs a few seconds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trend_client.engine import Engine
from trend_common.backbones.synthetic import random_batch
from trend_common.console import console
from trend_common.privacy import step
from trend_common.privacy.audit import Membership
from trend_common.privacy.ledger import Ledger
from trend_common.privacy.noise import SecureGenerator
from trend_simulations import audit as audit_module
from trend_simulations import cli
from trend_simulations.audit import Report, audit_draws, audit_one
from trend_simulations.audit_canaries import Target, _coordinates, _planted
from trend_simulations.audit_inversion import Inversion, draw_inversion, invert
from trend_simulations.audit_membership import ARMS, Attack, attack_members
from trend_simulations.audit_mutations import MUTATIONS, Mutation, noise_times

SEEN = [one for one in MUTATIONS if one.seen]
USUAL = Target(rank=4, windows_per_series=1)


@pytest.fixture(scope="module")
def engine(tiny_backbone: Path) -> Engine:
    return Engine(str(tiny_backbone), device="cpu")


# --- one-run audits ---


@pytest.mark.parametrize(
    "target",
    [USUAL, replace(USUAL, rounds=4, steps=5), replace(USUAL, q=0.25)],
    ids=["one gradient a round", "local steps", "sampled"],
)
def test_an_honest_client_keeps_its_promise(engine: Engine, target: Target) -> None:
    found = audit_one(engine, target, plan="honest")
    audit, claimed = found.evidence.audit, found.evidence.claimed
    assert 3.9 < claimed <= 4.0
    assert audit.lower_bound < claimed
    assert found.verdict == "holds"
    # The attack is not blind either: it proves a good part of what was really spent.
    assert audit.lower_bound > 0.4
    assert audit.estimate is None or 2.5 < audit.estimate < 4.6


@pytest.mark.parametrize("mutation", SEEN, ids=lambda one: one.name)
def test_each_mistake_is_caught(engine: Engine, mutation: Mutation) -> None:
    found = audit_one(engine, USUAL, plan="broken", mutation=mutation)
    assert found.evidence.audit.lower_bound > found.evidence.claimed
    assert found.verdict == "caught"


def test_what_one_run_cannot_prove_is_said_and_something_else_sees_it(engine: Engine) -> None:
    """Three quarters of the noise: the bound is too coarse, the estimate is not."""
    (weak,) = [one for one in MUTATIONS if one.name == "σ × 0.75"]
    found = audit_one(engine, USUAL, plan="broken", mutation=weak)
    assert found.verdict == "not seen"
    assert found.evidence.audit.estimate is not None
    assert found.evidence.audit.estimate > found.evidence.claimed


def test_shuffled_batches_show_in_the_draws_and_not_in_the_bound(engine: Engine) -> None:
    (shuffled,) = [one for one in MUTATIONS if one.name == "batches shuffled"]
    assert audit_one(engine, USUAL, plan="broken", mutation=shuffled).verdict == "not seen"
    honest, broken = audit_draws(engine, Target(rank=4, series=1, q=0.25, windows_per_series=1, canaries=800))
    assert (honest.verdict, broken.verdict) == ("as assumed", "caught")


def test_a_canary_adds_exactly_one_clipped_unit_to_its_own_coordinate(engine: Engine, tmp_path: Path) -> None:
    """What the whole audit stands on: the gradient that the client computes is the one that the attacker planned."""
    from trend_simulations.audit_canaries import audit_client

    with noise_times(0.0):
        found = audit_client(Target(rank=4, canaries=300, series=1, rounds=2), engine, tmp_path)
    for answer in found.answers:
        # int8 and the one ordinary series leave an uncertainty of a hundredth or so.
        np.testing.assert_allclose(np.median(answer[found.included]), 1.0, atol=0.02)
        np.testing.assert_allclose(np.median(np.abs(answer[~found.included])), 0.0, atol=0.02)


def test_ordinary_series_are_left_alone_by_the_canaries(engine: Engine) -> None:
    target = Target(rank=4, canaries=50)
    announced = target.announce(engine)
    engine.install(announced.plan.adapter, announced.frozen)
    batch = random_batch(6, context=14, horizon=7, seed=1)
    before = engine.backbone(batch).loss_per_sample
    with _planted(engine.backbone, _coordinates(engine, target), 1.0):
        within = engine.backbone(batch).loss_per_sample
    assert torch.equal(before, within)
    assert "forward" not in vars(engine.backbone)
    with pytest.raises(ValueError, match="canaries need as many weights"):
        _coordinates(engine, Target(rank=4, canaries=10**6))


def test_a_client_that_declines_is_not_taken_for_a_safe_one(engine: Engine, tmp_path: Path) -> None:
    from trend_common.errors import PolicyError
    from trend_simulations.audit_canaries import audit_client

    with pytest.raises(PolicyError, match="declined the plan"):
        audit_client(Target(rank=32), engine, tmp_path)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.name)
def test_a_mutation_ends_with_its_context(mutation: Mutation) -> None:
    """And while it lasts it really replaces something of the product."""

    def parts() -> list[Any]:
        return [
            SecureGenerator.gaussian,
            step.PerSeriesGradients,
            step.poisson_sample,
            step._secure_optimizer,
            Ledger.charged,
        ]

    before = parts()
    with mutation.inject():
        within = parts()
    assert sum(one is not other for one, other in zip(before, within, strict=True)) == 1
    assert all(one is other for one, other in zip(before, parts(), strict=True))


# --- inversion ---


@pytest.fixture(scope="module")
def inversion(engine: Engine) -> Inversion:
    return invert(engine, windows=6, ladder=(1e-3,))


def test_sales_can_be_read_out_of_a_gradient_without_noise_and_not_with_it(inversion: Inversion) -> None:
    assert inversion.windows == 6
    assert inversion.without_noise.min() > 0.999
    assert np.abs(inversion.with_noise).mean() < 0.45
    assert np.abs(inversion.averaged).mean() < 0.45
    assert inversion.ladder[1e-3] > 0.3, "a thousandth of the clipping norm does not hide a window"
    np.testing.assert_allclose(inversion.read, inversion.truth, atol=0.02)


def test_the_picture_is_drawn(inversion: Inversion, tmp_path: Path) -> None:
    assert draw_inversion(inversion, tmp_path / "pictures" / "inversion.png").read_bytes().startswith(b"\x89PNG")


# --- membership ---


@pytest.mark.slow
def test_members_are_found_without_privacy_and_not_with_it() -> None:
    """The shipped backbone, since one of random weights has nothing to remember with."""
    torch.set_num_threads(1)
    engine = Engine("trend-small", device="cpu")
    open_, private = attack_members(engine, federations=1, arms=ARMS[:2])
    assert (open_.arm.epsilon, private.arm.epsilon) == (None, 4.0)
    assert open_.found.auc_interval[0] > 0.5
    assert private.found.auc < open_.found.auc
    # A coin, as far as so few can say: four standard errors.
    assert abs(private.found.auc - 0.5) < 4 * (private.found.auc_interval[1] - private.found.auc) / 1.96
    assert private.limits is not None
    assert private.limits[0] == pytest.approx(0.743, abs=0.003)
    assert open_.limits is None


# --- the command ---


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Callable[[Target, Mutation | None], None]:
    """Make the command audit one small target, and no federations."""
    found = Membership(auc=0.5, auc_interval=(0.4, 0.6), tpr=0.0, fpr=0.01, members=30, others=90)

    def prepare(target: Target, mutation: Mutation | None) -> None:
        monkeypatch.setattr(audit_module, "_runs", lambda quick: [("one", mutation, target)])
        monkeypatch.setattr(audit_module, "attack_members", lambda *_, **__: [Attack(ARMS[1], found, (0.74, 0.08))])
        monkeypatch.setattr(audit_module, "invert", lambda engine, windows: invert(engine, windows=2, ladder=()))

    return prepare


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(console, "width", 160)
    monkeypatch.setattr(sys, "argv", ["trend-sim", "audit", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    code = ended.value.code
    return code if isinstance(code, int) else 0


SMALL = Target(rank=4, canaries=300, epsilon=1.0, rounds=2, windows_per_series=1)


def test_the_command_writes_tables_json_and_a_picture(
    short: Callable[[Target, Mutation | None], None],
    tiny_backbone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    short(SMALL, None)
    monkeypatch.setattr(audit_module, "audit_draws", lambda _: [])
    target = tmp_path / "out.json"
    assert run(monkeypatch, "--quick", "--backbone", tiny_backbone, "--json", target, "--out", tmp_path) == 0
    found = json.loads(target.read_text("utf-8"))
    assert found["ok"] is True
    assert found["runs"][0]["verdict"] == "holds"
    assert found["runs"][0]["lower_bound"] < found["runs"][0]["claimed"]
    assert found["inversion"]["correlation_without_noise"] > 0.999
    assert found["membership"][0]["limit_auc"] == 0.74
    assert (tmp_path / "inversion.png").is_file()
    shown = capsys.readouterr().out
    assert "1 honest claims hold" in shown
    assert "Membership inference" in shown


def test_a_refuted_claim_and_a_blind_audit_end_with_an_error(
    short: Callable[[Target, Mutation | None], None],
    tiny_backbone: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(audit_module, "audit_draws", lambda _: [])
    short(SMALL, None)
    with MUTATIONS[0].inject():
        assert run(monkeypatch, "--backbone", tiny_backbone) == 4
    assert "one, honest: REFUTED" in capsys.readouterr().err
    short(SMALL, Mutation("nothing at all", "no mistake", lambda: nullcontext()))
    assert run(monkeypatch, "--backbone", tiny_backbone) == 4
    assert "one, nothing at all: MISSED" in capsys.readouterr().err


def test_an_inversion_that_reads_nothing_or_too_much_is_a_finding(inversion: Inversion) -> None:
    def failures(**changes: Any) -> list[str]:
        return Report(True, "tiny", [], [], [], replace(inversion, **changes), 0.0).failures

    assert failures() == []
    assert "without noise" in failures(without_noise=np.zeros(6))[0]
    assert "under the plan's noise" in failures(with_noise=np.full(6, -0.9))[0]
