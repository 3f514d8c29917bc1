"""A client's secure rounds on its own home: what it pins, remembers through a restart, refuses, and charges once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from trend_client.engine import Engine
from trend_client.home import ClientHome
from trend_client.screens import show_rosters
from trend_client.secure import RoundMemory, SecureRounds
from trend_client.session import ClientSession
from trend_common import adapters
from trend_common.flower.keys import new_private_key, public_key_text
from trend_common.flower.records import tensors_from_bytes
from trend_common.panel import SalesPanel
from trend_common.privacy.ledger import Ledger
from trend_common.privacy.plan import make_privacy_plan, norm_bound
from trend_common.privacy.policy import Policy
from trend_common.protocol import FederationPlan, SecureAggregationPlan, TrainOrder
from trend_common.secagg import masks
from trend_common.secagg.fixedpoint import FIXED_KEY, decode, range_of
from trend_common.secagg.messages import (
    Advert,
    Attempt,
    Box,
    ConfirmOrder,
    FederationRoster,
    KeysOrder,
    MaskedOrder,
    RosterEntry,
    SharesOrder,
    Signature,
    UnmaskOrder,
)
from trend_common.secagg.participant import Participant
from trend_common.tensors import tensors_sha256, total_norm

N = 5
KEYS = [new_private_key() for _ in range(N)]


@pytest.fixture(scope="module")
def engine(tiny_backbone: Path) -> Engine:
    return Engine(str(tiny_backbone), device="cpu")


class World:
    """A real client, the other four members as participants, and a server that a test can make lie."""

    def __init__(self, root: Path, engine: Engine, panel: SalesPanel) -> None:
        self.engine, self.panel = engine, panel
        self.home = ClientHome(root)
        self.policy = Policy.load(self.home.policy_path)
        adapter_plan, self.initial, self.frozen = adapters.initial_adapter(
            engine.release(), rank=2, alpha=4, targets=engine.backbone.lora_targets, train="B"
        )
        plain = FederationPlan(
            federation="test",
            backbone="tiny",
            backbone_sha256=engine.sha256,
            adapter=adapter_plan,
            freq="D",
            horizon=14,
            context=56,
            rounds=3,
            steps=1,
            windows_per_series=2,
            update="gradient",
            local_learning_rate=0.0,
            proximal_mu=0.0,
            privacy=make_privacy_plan(epsilon=4, delta=1e-5, clip=0.02, rounds=3, steps=1, buckets={"S": (1.0, 20)}),
        )
        self.rules = SecureAggregationPlan(min_clients=3, max_clients=128, threshold=0.5, range=range_of(plain))
        self.plan = self.secured(plain, self.rules)
        self.events: list[str] = []
        self.ledger = self.open_ledger()
        self.roster = FederationRoster(
            federation="test",
            plan_sha256=self.plan.sha256(),
            members=tuple(RosterEntry(name=f"s{i}", public_key=public_key_text(key)) for i, key in enumerate(KEYS)),
        )
        self.restart()

    @staticmethod
    def secured(plan: FederationPlan, rules: SecureAggregationPlan) -> FederationPlan:
        return FederationPlan.model_validate(
            {**plan.model_dump(), "wire": "fixed32", "secure_aggregation": rules.model_dump()}
        )

    def open_ledger(self) -> Ledger:
        return Ledger(
            self.home.ledger_folder / "ledger.jsonl",
            head_path=self.home.head_folder / "ledger-head.json",
            epsilon_total=self.policy.epsilon_total,
            delta=self.policy.delta_max,
        )

    def restart(self, key: ec.EllipticCurvePrivateKey | None = KEYS[0]) -> None:
        """A new process of this client."""
        self.session = ClientSession(
            home=self.home,
            engine=self.engine,
            panel=self.panel,
            policy=self.policy,
            ledger=self.ledger,
            on_event=lambda event: self.events.append(event.text),
        )
        self.session.describe(self.plan, dict(self.frozen))
        self.secure = SecureRounds(self.session, key)

    def attempt(self, name: str, number: int = 1) -> Attempt:
        order = TrainOrder(
            federation="test",
            round=number,
            plan_sha256=self.plan.sha256(),
            adapter_sha256=tensors_sha256(self.initial),
        )
        return Attempt(name=name * 32, order=order, roster_sha256=self.roster.sha256())


class Try:
    """One attempt at a round: the client and its partners, step by step."""

    def __init__(self, world: World, name: str, number: int = 1, members: tuple[int, ...] = tuple(range(N))) -> None:
        self.world, self.attempt, self.members = world, world.attempt(name, number), members
        self.own = world.secure.keys(KeysOrder(attempt=self.attempt, roster=world.roster)).advert
        self.others = {
            place: Participant(self.attempt, world.roster, world.rules, KEYS[place]) for place in members if place
        }
        self.adverts: list[Advert] = [*([self.own] if self.own else []), *(o.advert() for o in self.others.values())]

    def shares(self, threshold: int = 3) -> bool:
        """Deal; whether the client did."""
        order = SharesOrder(attempt=self.attempt.name, threshold=threshold, adverts=tuple(self.adverts))
        dealt = {0: self.world.secure.shares(order).boxes}
        if dealt[0]:
            dealt |= {place: one.share(self.adverts, threshold) for place, one in self.others.items()}
        self.dealt = dealt
        return bool(dealt[0])

    def boxes(self, to: int) -> tuple[Box, ...]:
        return tuple(
            Box(member=sender, content=next(b.content for b in boxes if b.member == to))
            for sender, boxes in self.dealt.items()
            if sender != to
        )

    def masked(self) -> masks.Words | None:
        """The client's vector; the others mask zeros."""
        order = MaskedOrder(attempt=self.attempt.name, order=self.attempt.order, boxes=self.boxes(0))
        reply, payload = self.world.secure.masked(order, dict(self.world.initial))
        if payload is None:
            assert reply.answer == "declined"
            return None
        words: masks.Words = tensors_from_bytes(payload)[FIXED_KEY]
        for place, one in self.others.items():
            one.mask(np.zeros_like(words), self.boxes(place))
        return words

    def confirm(self, survivors: tuple[int, ...] | None = None) -> tuple[Signature, ...]:
        chosen = survivors or self.members
        own = self.world.secure.confirm(ConfirmOrder(attempt=self.attempt.name, survivors=chosen)).signature
        signed = {place: one.confirm(chosen) for place, one in self.others.items() if place in chosen}
        if own is not None:
            signed[0] = own
        return tuple(Signature(member=m, signature=s) for m, s in sorted(signed.items()))

    def unmask(self, signatures: tuple[Signature, ...]) -> bool:
        """Whether the client gives its shares."""
        return bool(self.world.secure.unmask(UnmaskOrder(attempt=self.attempt.name, signatures=signatures)).shares)

    def bare(self, words: masks.Words) -> masks.Words:
        """The client's vector without its masks, which the test can take off since it is all partners at once."""
        one = self.world.secure._participant
        assert one is not None
        found = words - masks.self_mask(one._seed, self.attempt.name, 0, words.size)
        for place, other in self.others.items():
            secret = masks.agree(other._mask, masks.public_of(one._mask))
            found -= masks.pair_mask(secret, self.attempt.name, 0, place, words.size)
        return found


@pytest.fixture
def world(tmp_path: Path, engine: Engine, panel: SalesPanel) -> Iterator[World]:
    made = World(tmp_path / "home", engine, panel)
    yield made
    made.ledger.close()


def test_a_round_is_charged_once_and_a_retry_masks_the_same_sealed_bytes(world: World) -> None:
    first = Try(world, "1")
    assert first.shares()
    words = first.masked()
    assert words is not None
    bare = first.bare(words)
    spent = world.ledger.spent()
    assert spent > 0
    world.restart()  # the process dies: the attempt's secrets are gone
    second = Try(world, "2")
    assert second.shares()
    again = second.masked()
    assert again is not None
    assert (again != words).mean() > 0.99, "masked anew"
    np.testing.assert_array_equal(second.bare(again), bare)
    assert world.ledger.spent() == spent
    delta = decode(bare, 1, world.plan.adapter.tensors, world.rules)
    assert 0 < total_norm(delta) <= norm_bound(world.plan, "S")
    sealed = world.ledger.accounts[0].by_round[1]
    assert sealed.attempts == 1


def test_shares_are_given_once_a_round_through_restarts_and_retries(world: World) -> None:
    one = Try(world, "1")
    one.shares()
    one.masked()
    signatures = one.confirm()
    assert one.unmask(signatures)
    assert one.unmask(signatures), "the same question gets the same answer"
    assert not one.unmask(signatures[:4]), "and another question none"
    assert Try(world, "2").own is None
    world.restart()
    assert Try(world, "3").own is None
    assert any("was unmasked already" in text for text in world.events)
    assert Try(world, "4", number=2).own is not None
    nxt = Try(world, "5", number=2)
    nxt.shares()
    nxt.masked()
    assert Try(world, "6", number=1).own is None, "an older round is over"


def test_shares_that_are_noted_as_given_are_not_given_whatever_is_in_memory(world: World) -> None:
    """The file decides: it may be another process of this home that gave them."""
    one = Try(world, "1")
    one.shares()
    one.masked()
    signatures = one.confirm()
    path = world.home.federation("test") / "secure-round.json"
    noted = RoundMemory.model_validate_json(path.read_text("utf-8"))
    assert not noted.unmasked
    path.write_text(noted.model_copy(update={"unmasked": True}).canonical(), "utf-8")
    assert not one.unmask(signatures)
    path.write_text(noted.canonical(), "utf-8")
    assert one.unmask(signatures)


@pytest.mark.parametrize("restart", [False, True])
def test_a_retry_with_other_members_or_a_smaller_threshold_is_refused(world: World, restart: bool) -> None:
    first = Try(world, "1", members=(0, 1, 2, 3))
    assert first.shares(threshold=4)
    assert first.masked() is not None
    if restart:
        world.restart()
    assert not Try(world, "2", members=(0, 1, 2, 4)).shares(threshold=4), "4 was not there"
    assert not Try(world, "3", members=(0, 1, 2)).shares(threshold=3), "3 is less than 4"
    assert not Try(world, "4", members=(0, 1, 2, 3)).shares(threshold=3)
    assert Try(world, "5", members=(0, 1, 2, 3)).shares(threshold=4)
    assert any("could be subtracted" in text for text in world.events)


def test_an_attempt_that_ended_before_masks_binds_nobody(world: World) -> None:
    assert Try(world, "1", members=(0, 1, 2, 3)).shares(threshold=4)
    later = Try(world, "2", members=(0, 1, 4))
    assert later.shares(threshold=3)
    assert later.masked() is not None


def test_a_second_list_of_survivors_is_not_signed(world: World) -> None:
    one = Try(world, "1")
    one.shares()
    one.masked()
    assert 0 in {signature.member for signature in one.confirm()}
    other = ConfirmOrder(attempt=one.attempt.name, survivors=(0, 1, 2))
    assert world.secure.confirm(other).signature is None


def test_an_old_attempt_cannot_be_unmasked_after_a_new_one_began(world: World) -> None:
    one = Try(world, "1")
    one.shares()
    one.masked()
    signatures = one.confirm()
    Try(world, "2")
    assert not one.unmask(signatures)


def test_the_delta_is_never_sent_without_masks(world: World) -> None:
    order = world.attempt("1").order
    reply, payload = world.session.train(order, dict(world.initial))
    assert (reply.answer, payload) == ("declined", None)
    assert world.ledger.spent() == 0
    assert any("without its masks" in text for text in world.events)


def test_the_order_to_train_must_be_that_of_the_attempt(world: World) -> None:
    one = Try(world, "1")
    one.shares()
    other = one.attempt.order.model_copy(update={"round": 2})
    order = MaskedOrder(attempt=one.attempt.name, order=other, boxes=one.boxes(0))
    assert world.secure.masked(order, dict(world.initial))[1] is None
    assert world.ledger.spent() == 0


def test_the_roster_is_pinned_shown_and_kept(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    Try(world, "1")
    assert any(world.roster.fingerprint in text for text in world.events)
    show_rosters(world.home.rosters())
    shown = capsys.readouterr().out
    assert world.roster.fingerprint in shown
    assert "s0, s1, s2, s3, s4" in shown
    longer = world.roster.model_copy(
        update={
            "members": (*world.roster.members, RosterEntry(name="x", public_key=public_key_text(new_private_key())))
        }
    )
    world.restart()
    attempt = world.attempt("2").model_copy(update={"roster_sha256": longer.sha256()})
    assert world.secure.keys(KeysOrder(attempt=attempt, roster=longer)).advert is None
    assert any("Retailers were added" in text for text in world.events)


def test_a_roster_without_this_client_or_of_another_plan_is_not_pinned(world: World) -> None:
    for wrong in (
        world.roster.model_copy(update={"members": world.roster.members[1:]}),
        world.roster.model_copy(update={"plan_sha256": "0" * 64}),
    ):
        attempt = world.attempt("1").model_copy(update={"roster_sha256": wrong.sha256()})
        assert world.secure.keys(KeysOrder(attempt=attempt, roster=wrong)).advert is None
    assert not (world.home.federation("test") / "roster.json").exists()


def test_without_a_key_or_without_the_plan_nothing_is_answered(world: World) -> None:
    world.restart(key=None)
    assert Try(world, "1").own is None
    plain = FederationPlan.model_validate({**world.plan.model_dump(), "wire": "int8", "secure_aggregation": None})
    assert plain.sha256() != world.plan.sha256()
    attempt = world.attempt("2")
    order = attempt.order.model_copy(update={"plan_sha256": plain.sha256()})
    world.restart()
    changed = attempt.model_copy(update={"order": order})
    assert world.secure.keys(KeysOrder(attempt=changed, roster=world.roster)).advert is None


def test_a_full_disk_keeps_the_vector_and_the_shares_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Try(world, "1")
    one.shares()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("trend_client.secure.write_text", full)
        assert one.masked() is None
    assert any("No space left" in text for text in world.events)
    two = Try(world, "2")
    two.shares()
    assert two.masked() is not None
    signatures = two.confirm()
    monkeypatch.setattr("trend_client.secure.write_text", full)
    assert not two.unmask(signatures)


LIES = {
    "half is enough": ({"threshold": 0.5}, {"secure_threshold_min": 0.667}, "secure_threshold_min is 0.667"),
    "a narrower range": ({"range": 0.001}, {}, "range of its secure sum"),
    "a wider range": ({"range": 1e6}, {}, "range of its secure sum"),
}


@pytest.mark.parametrize("lie", LIES)
def test_the_policy_checks_the_rules_of_the_sum(world: World, lie: str) -> None:
    rules, policy, message = LIES[lie]
    plan = world.secured(world.plan, world.rules.model_copy(update=rules))
    session = ClientSession(
        home=world.home,
        engine=world.engine,
        panel=world.panel,
        policy=world.policy.model_copy(update=policy),
        ledger=world.ledger,
    )
    changed = plan.model_copy(update={"federation": "other"})
    assert session.describe(changed, dict(world.frozen)).answer == "declined"
    assert message in (session.declined or "")


def test_a_policy_can_ask_for_secure_aggregation(world: World) -> None:
    plain = FederationPlan.model_validate(
        {**world.plan.model_dump(), "federation": "other", "wire": "int8", "secure_aggregation": None}
    )
    session = ClientSession(
        home=world.home,
        engine=world.engine,
        panel=world.panel,
        policy=world.policy.model_copy(update={"require_secure_aggregation": True}),
        ledger=world.ledger,
    )
    assert session.describe(plain, dict(world.frozen)).answer == "declined"
    assert "require_secure_aggregation is true" in (session.declined or "")
