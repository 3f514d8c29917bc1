"""What a person is told of the budget, and the list of all that was sent."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from trend_common.errors import PolicyError
from trend_common.privacy.accounting import Run, best_guess, epsilon_of, gaussian_epsilon
from trend_common.privacy.budget import Budget, Share, UnitCost, read_budget
from trend_common.privacy.ledger import Ledger, Reservation
from trend_common.privacy.sent import SentLog, read_sent
from trend_common.protocol import FederationPlan

MakePlan = Callable[..., FederationPlan]


def opened(home: Path) -> Ledger:
    return Ledger(
        home / "ledger.jsonl", head_path=home / "state" / "head", epsilon_total=8.0, delta=1e-5, durable=False
    )


def budget_of(home: Path) -> Budget:
    return read_budget(home / "ledger.jsonl", head_path=home / "state" / "head", epsilon_total=8.0, delta=1e-5)


def spend(ledger: Ledger, plan: FederationPlan, rounds: int) -> None:
    ledger.accept(plan, "S", without_privacy=True)
    for number in range(1, rounds + 1):
        begun = ledger.begin_round(plan.federation, number, plan_sha256=plan.sha256(), adapter_sha256="d" * 64)
        assert isinstance(begun, Reservation)
        ledger.seal(begun, b"noised")


def test_a_new_home_has_spent_nothing(tmp_path: Path) -> None:
    budget = budget_of(tmp_path)
    assert (budget.epsilon_spent, budget.chain_ok, budget.guess, budget.rows) == (0.0, True, 0.5, ())
    assert budget.sentence() == "Nothing computed from your sales has left this computer."
    assert not list(tmp_path.iterdir()), "reading leaves nothing behind"


def test_what_is_spent_is_read_while_a_client_runs(tmp_path: Path, make_plan: MakePlan) -> None:
    with opened(tmp_path) as ledger:
        spend(ledger, make_plan(), 20)
        budget = budget_of(tmp_path)
        assert budget.epsilon_spent == ledger.spent()
        ledger.close_federation("spring")
    assert budget_of(tmp_path).rows == budget.rows, "closed at its end: finished, not left"
    found = budget.as_json()
    assert {"epsilon_spent", "epsilon_cap", "delta", "unit", "chain_ok"} <= found.keys()
    assert found["federations"][0] | {"epsilon": 0} == {
        "federation": "spring",
        "bucket": "S",
        "unit": "series",
        "noise_multiplier": 4.84,
        "q": 1.0,
        "rounds": 20,
        "rounds_answered": 20,
        "steps_charged": 20,
        "steps_accepted": 20,
        "epsilon": 0,
        "state": "finished",
    }
    json.dumps(found, allow_nan=False)
    assert budget.sentence() == (
        "Whoever sees everything that left this computer, and knows all your other sales, can tell whether one "
        "product at one store was in your data with at most 67.8 % certainty, where a coin gives 50 %; ε = 4.00 of 8 "
        "is spent (δ = 1e-05)."
    )


def test_a_step_too_small_to_show_is_not_nothing(tmp_path: Path, make_plan: MakePlan) -> None:
    with opened(tmp_path) as ledger:
        spend(ledger, make_plan(sigma=1e6), 1)
    budget = budget_of(tmp_path)
    assert budget.epsilon_spent < 0.01
    assert "Nothing" not in budget.sentence()
    assert "50.1 %" in budget.sentence(), "rounded up"


def test_no_privacy_is_said_plainly(tmp_path: Path, make_plan: MakePlan) -> None:
    with opened(tmp_path) as ledger:
        spend(ledger, make_plan(privacy_plan=None), 1)
    budget = budget_of(tmp_path)
    assert budget.epsilon_spent == math.inf
    assert budget.as_json()["epsilon_spent"] is None
    assert "no bound" in budget.sentence()
    json.dumps(budget.as_json(), allow_nan=False)


def test_a_broken_ledger_is_said_plainly(tmp_path: Path, make_plan: MakePlan) -> None:
    with opened(tmp_path) as ledger:
        spend(ledger, make_plan(), 3)
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"round":2', b'"round":9'))
    budget = budget_of(tmp_path)
    assert not budget.chain_ok
    assert "line 4 was changed" in budget.problem
    assert "cannot be said" in budget.sentence()


def test_the_common_unit_is_named_or_the_series(tmp_path: Path, make_plan: MakePlan) -> None:
    """A series is a part of every unit, so a total over several units is one for the series."""
    with opened(tmp_path) as ledger:
        spend(ledger, make_plan(federation="a", sigma=20.0, privacy={"unit": "product"}), 1)
        assert budget_of(tmp_path).unit == "product"
        ledger.close_federation("a")
        spend(ledger, make_plan(federation="b", sigma=20.0), 1)
    budget = budget_of(tmp_path)
    assert budget.unit == "series"
    assert [row.state for row in budget.rows] == ["left", "open"]


def costs(home: Path, shares: dict[str, dict[str, Share]]) -> dict[str, UnitCost]:
    budget = read_budget(
        home / "ledger.jsonl", head_path=home / "state" / "head", epsilon_total=8.0, delta=1e-5, shares=shares
    )
    return {cost.secret: cost for cost in budget.others}


def test_whole_products_and_stores_are_costed(tmp_path: Path, make_plan: MakePlan) -> None:
    with opened(tmp_path) as ledger:
        spend(ledger, make_plan(), 20)
    found = costs(tmp_path, {"spring": {"series": (1, 0), "product": (3, 0), "store": (40, 0)}})
    mu = math.sqrt(20) / 4.84
    assert set(found) == {"product", "store"}
    assert found["product"].epsilon == pytest.approx(gaussian_epsilon(3 * mu, 1e-5), rel=1e-9)
    assert found["product"].guess == pytest.approx(stats.norm.cdf(1.5 * mu), rel=1e-9)
    assert found["store"].epsilon == pytest.approx(gaussian_epsilon(40 * mu, 1e-5), rel=1e-9)
    assert "a whole product (up to 3 of the protected units): ε = 15.06," in found["product"].sentence()
    assert "100.0 %" in found["store"].sentence()


def test_a_secret_inside_a_unit_is_a_change_of_it(tmp_path: Path, make_plan: MakePlan) -> None:
    with opened(tmp_path) as ledger:
        spend(ledger, make_plan(privacy={"unit": "product"}), 20)
    mu = math.sqrt(20) / 4.84
    found = costs(tmp_path, {"spring": {"series": (0, 1), "product": (1, 0), "store": (2, 5)}})
    assert found["series"].epsilon == pytest.approx(gaussian_epsilon(2 * mu, 1e-5), rel=1e-9)
    assert found["store"].epsilon == pytest.approx(gaussian_epsilon(12 * mu, 1e-5), rel=1e-9)
    assert "up to 2 of the protected units and a part of 5" in found["store"].sentence()
    unknown = costs(tmp_path, {})
    assert unknown["series"].epsilon == found["series"].epsilon, "needs no look at the sales"
    assert unknown["store"].epsilon is None
    assert "not known" in unknown["store"].sentence()


def test_no_other_figures_without_spending_or_without_privacy(tmp_path: Path, make_plan: MakePlan) -> None:
    assert costs(tmp_path, {}) == {}
    with opened(tmp_path) as ledger:
        spend(ledger, make_plan(privacy_plan=None), 1)
        spend(ledger, make_plan(federation="later"), 1)
    assert costs(tmp_path, {}) == {}


@pytest.mark.parametrize(("sigma", "steps"), [(4.836, 20), (2.0, 1)])
def test_the_best_guess_is_what_the_best_guesser_reaches(sigma: float, steps: int) -> None:
    """He sums the releases and asks on which side of the middle they fall; nobody does better."""
    rng = np.random.default_rng(0)
    present = rng.integers(0, 2, 100_000)
    total = present * steps + rng.normal(0, sigma * np.sqrt(steps), len(present))
    right = ((total > steps / 2) == present).mean()
    assert best_guess([Run(sigma=sigma, q=1.0, steps=steps)]) == pytest.approx(right, abs=0.006)


def test_guesses_have_their_ends() -> None:
    assert best_guess([]) == 0.5
    assert best_guess([Run(sigma=0.0, q=1.0, steps=1)]) == 1.0
    whole = Run(sigma=1.6, q=1.0, steps=150)
    sampled = Run(sigma=1.6, q=0.1, steps=150)
    assert 0.5 < best_guess([sampled]) < best_guess([whole]) <= 1.0
    assert best_guess([sampled]) <= best_guess([sampled, Run(sigma=9.0, q=1.0, steps=1)]) <= 1.0


def test_a_guess_fits_its_epsilon() -> None:
    """(ε, δ) alone allows at most δ + (1 − δ)·e^ε / (1 + e^ε): the exact figure must be below."""
    epsilon = epsilon_of(sigma=1.586, q=0.1, steps=150, delta=1e-5)
    assert best_guess([Run(sigma=1.586, q=0.1, steps=150)]) <= math.exp(epsilon) / (1 + math.exp(epsilon)) + 1e-5


# --- what was sent ---


def sent_log(home: Path) -> SentLog:
    return SentLog(home / "sent.jsonl", head_path=home / "state" / "sent-head", durable=False)


def test_every_message_is_listed_with_its_hash(tmp_path: Path) -> None:
    with sent_log(tmp_path) as log:
        log.note("describe", b'{"answer":"accepted"}', federation="spring")
        log.note("train", b"noised", federation="spring", round_number=1)
    listed = read_sent(tmp_path / "sent.jsonl", head_path=tmp_path / "state" / "sent-head")
    assert [(m.kind, m.federation, m.round, m.bytes) for m in listed] == [
        ("describe", "spring", 0, 21),
        ("train", "spring", 1, 6),
    ]
    assert listed[1].sha256 == hashlib.sha256(b"noised").hexdigest()
    assert listed[0].time.endswith("+00:00")


def test_a_shortened_list_is_noticed(tmp_path: Path) -> None:
    with sent_log(tmp_path) as log:
        for number in range(3):
            log.note("train", b"noised", round_number=number)
    path = tmp_path / "sent.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(PolicyError, match="2 lines of 3"):
        read_sent(path, head_path=tmp_path / "state" / "sent-head")


def test_a_message_that_cannot_be_noted_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with sent_log(tmp_path) as log:
        monkeypatch.setattr("trend_common.privacy.chain.os.write", full)
        with pytest.raises(PolicyError, match="No space left"):
            log.note("train", b"noised")
        monkeypatch.undo()
    assert read_sent(tmp_path / "sent.jsonl", head_path=tmp_path / "state" / "sent-head") == ()
