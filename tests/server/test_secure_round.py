"""Secure rounds between the real client and the real server: exact sums, dropouts, lies, kills, and their limits."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message
from hypothesis import example, given, settings
from hypothesis import strategies as st
from secure_fakes import ADDED, KEYS, World, secure_plan, words

from trend_common.errors import ConnectionFailure, UsageError
from trend_common.flower.keys import new_private_key
from trend_common.protocol import BODY_KEY
from trend_common.secagg import masks, shamir
from trend_common.secagg.fixedpoint import FIXED_KEY
from trend_common.secagg.messages import (
    ACTION_CONFIRM,
    ACTION_KEYS,
    ACTION_MASKED,
    ACTION_SHARES,
    ACTION_UNMASK,
    Box,
    FederationRoster,
    KeysOrder,
    KeysReply,
    Share,
    SharesOrder,
    SharesReply,
    UnmaskReply,
    to_text,
)
from trend_common.secagg.signing import sign
from trend_server.checkpoints import DiskStore, MemoryStore
from trend_server.federation import LoopSettings

STEPS = [ACTION_KEYS, ACTION_SHARES, ACTION_MASKED, ACTION_CONFIRM, ACTION_UNMASK]


def test_the_sum_is_exact_and_each_client_is_asked_five_times_a_round(tmp_path: Path) -> None:
    world = World(tmp_path, 4, secure_plan(rounds=2))
    result = world.play(MemoryStore())
    np.testing.assert_array_equal(result.adapter["x"], world.exact(range(4), (1, 2)))
    for one in world.retailers:
        assert one.asked == ["query.describe", *STEPS, *STEPS, "query.adopt"]
    assert [record.participants for record in result.history] == [4, 4]


def outcome(stages: list[int], min_clients: int, threshold: float) -> tuple[str, list[int]]:
    """What must come of a round in which client i is gone from step ``stages[i]`` on (5: never).

    A model of the protocol in ten lines, apart from the code: "sum" of whom, "skipped", or "waiting".
    """
    there = [[i for i, gone in enumerate(stages) if gone > step] for step in range(5)]
    needed = max(min_clients, int(threshold * len(there[0])) + 1)
    if len(there[0]) < needed or len(there[1]) < needed:
        return "waiting", []
    if len(there[2]) < needed or len(there[3]) < needed or len(there[4]) < needed:
        return "skipped", []
    return "sum", there[2]


@settings(max_examples=20, deadline=None)
@given(
    stages=st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 5, 5, 5]), min_size=3, max_size=7),
    threshold=st.sampled_from([0.5, 0.667]),
)
@example(stages=[0, 1, 2, 3, 4, 5, 5], threshold=0.5)
@example(stages=[2, 2, 5, 5, 5, 5, 5], threshold=0.667)
@example(stages=[3, 3, 5, 5, 5], threshold=0.5)
@example(stages=[4, 4, 5, 5, 5], threshold=0.5)
@example(stages=[4, 4, 4, 5, 5], threshold=0.5)
@example(stages=[2, 2, 2, 5, 5], threshold=0.5)
def test_any_dropouts_down_to_the_threshold_give_the_exact_sum_of_the_survivors(
    stages: list[int], threshold: float
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plan = secure_plan(threshold=threshold)

        def drop(place: int, action: str, before: int) -> bool:
            return action in STEPS and STEPS.index(action) >= stages[place]

        world = World(Path(folder), len(stages), plan, drop=drop)
        store = MemoryStore()
        kind, survivors = outcome(stages, 3, threshold)
        if kind == "waiting":
            with pytest.raises(ConnectionFailure):
                world.play(store)
            assert not any(ACTION_MASKED in one.asked for one in world.retailers), "nothing was even masked"
            return
        result = world.play(store)
        if kind == "sum":
            np.testing.assert_array_equal(result.adapter["x"], world.exact(survivors))
            assert result.history[0].participants == len(survivors)
            return
        np.testing.assert_array_equal(result.adapter["x"], 0)
        assert result.history[0].participants == 0
        assert "skipped" in world.kinds()
        # Nothing was revealed: no more shares were given than fit every secret.
        given_shares = [place for place, action, _ in world.replies if action == ACTION_UNMASK]
        needed = max(3, int(threshold * sum(gone > 0 for gone in stages)) + 1)
        assert len(given_shares) < needed
        confirmed = sum(gone > 3 for gone in stages)
        if confirmed < needed:
            assert given_shares == [], "nobody is asked for shares of a sum that too few confirm"


@pytest.mark.parametrize("step", STEPS)
def test_who_is_silent_is_a_dropout_at_the_deadline(tmp_path: Path, step: str) -> None:
    world = World(tmp_path, 4)
    world.silent = {(0, step)}
    result = world.play(MemoryStore(), LoopSettings(min_clients=3, round_timeout=0.2, optimiser="none"))
    in_the_sum = range(1, 4) if STEPS.index(step) < 3 else range(4)
    np.testing.assert_array_equal(result.adapter["x"], world.exact(in_the_sum))


def test_after_a_skipped_round_the_next_one_is_played(tmp_path: Path) -> None:
    world = World(
        tmp_path, 3, secure_plan(rounds=2), drop=lambda p, action, before: action == ACTION_MASKED and before < 3
    )
    result = world.play(MemoryStore())
    assert [record.participants for record in result.history] == [0, 3]
    np.testing.assert_array_equal(result.adapter["x"], world.exact(range(3), (2,)))


def test_rounds_that_come_to_nothing_do_not_use_up_the_federation(tmp_path: Path) -> None:
    world = World(tmp_path, 3, secure_plan(rounds=9), drop=lambda p, action, _: p == 0 and action == ACTION_MASKED)
    with pytest.raises(ConnectionFailure, match="3 rounds in a row"):
        world.play(MemoryStore())
    assert world.kinds().count("skipped") == 3


def test_a_retry_masks_the_same_delta_with_fresh_keys(tmp_path: Path) -> None:
    """Three of five drop out once, after masks were sent; the second attempt has all five."""
    world = World(tmp_path, 5, drop=lambda p, action, before: p < 3 and action == ACTION_MASKED and before == 0)
    result = world.play(MemoryStore())
    np.testing.assert_array_equal(result.adapter["x"], world.exact(range(5)))
    sent = [masked(message) for place, action, message in world.replies if action == ACTION_MASKED and place == 4]
    assert len(sent) == 2
    assert (sent[0] != sent[1]).mean() > 0.9
    adverts = [m.content[BODY_KEY][BODY_KEY] for p, action, m in world.replies if action == ACTION_KEYS and p == 4]
    assert len(set(adverts)) == 2


def masked(message: Message) -> np.ndarray:
    """The vector that a client has sent."""
    from trend_common.flower.records import tensors_from_bytes

    return tensors_from_bytes(message.content[BODY_KEY]["tensors"])[FIXED_KEY]


def test_what_the_server_gets_of_one_client_is_not_its_delta(tmp_path: Path) -> None:
    world = World(tmp_path, 3)
    world.play(MemoryStore())
    for place, action, message in world.replies:
        if action == ACTION_MASKED:
            assert (masked(message) != words(place)).all()


# -- a server in the middle ------------------------------------------------------------------------------------------


def body(message: Message) -> ConfigRecord:
    """The record with the text of a message."""
    record = message.content[BODY_KEY]
    assert isinstance(record, ConfigRecord)
    return record


@pytest.mark.parametrize("signer", ["a stranger", "another member", "nobody"])
def test_a_server_that_swaps_keys_is_caught(tmp_path: Path, signer: str) -> None:
    """It puts its own keys in for shop-1, to read the shares and to know the masks."""
    keys = {"a stranger": new_private_key(), "another member": KEYS[2], "nobody": None}

    def swap(place: int, message: Message) -> None:
        if place == 0 and message.metadata.message_type == ACTION_SHARES:
            order = SharesOrder.model_validate_json(str(body(message)[BODY_KEY]))
            victim = order.adverts[1]
            attempt = world.retailers[0].secure._participant.attempt
            mine = to_text(masks.public_of(b"s" * 32))
            false = victim.model_copy(update={"mask": mine, "channel": mine})
            key = keys[signer]
            if key is not None:
                false = false.model_copy(update={"signature": sign(key, false.signed(attempt))})
            altered = order.model_copy(update={"adverts": (order.adverts[0], false, *order.adverts[2:])})
            body(message)[BODY_KEY] = altered.canonical()

    world = World(tmp_path, 3, tamper=swap)
    with pytest.raises(ConnectionFailure):
        world.play(MemoryStore())
    assert any("shop-1 are not signed by that retailer" in text for text in world.retailers[0].said)
    assert ACTION_MASKED not in world.retailers[0].asked


@pytest.mark.parametrize("lie", ["no signature", "the place of another"])
def test_one_client_with_keys_that_are_not_its_own_costs_the_others_nothing(tmp_path: Path, lie: str) -> None:
    """Passed on, its keys would make every honest client refuse the round."""
    lost: list[KeysReply] = []

    def spoil(place: int, message: Message) -> None:
        if place not in (0, 1) or message.metadata.message_type != ACTION_KEYS:
            return
        reply = KeysReply.model_validate_json(str(body(message)[BODY_KEY]))
        assert reply.advert is not None
        if place == 0:
            lost.append(reply)
        elif lie == "no signature":
            advert = reply.advert.model_copy(update={"signature": to_text(bytes(96))})
            body(message)[BODY_KEY] = KeysReply(advert=advert).canonical()
        else:
            body(message)[BODY_KEY] = lost[-1].canonical()

    world = World(tmp_path, 5, spoil=spoil)
    result = world.play(MemoryStore())
    np.testing.assert_array_equal(result.adapter["x"], world.exact([0, 2, 3, 4]))
    assert any("not signed with its enrolled key" in event.text for event in world.events)


def test_a_roster_that_changes_after_it_was_pinned_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path, 3, secure_plan(rounds=2))
    store = MemoryStore()

    def other(place: int, message: Message) -> None:
        if message.metadata.message_type == ACTION_KEYS and place == 0:
            order = KeysOrder.model_validate_json(str(body(message)[BODY_KEY]))
            if order.attempt.order.round == 2:
                roster = FederationRoster.model_validate_json(store.kept("roster") or "")
                false = roster.members[1].model_copy(
                    update={"public_key": world.directory()[1].public_key[:-4] + "AAAA"}
                )
                roster = roster.model_copy(update={"members": (roster.members[0], false, roster.members[2])})
                attempt = order.attempt.model_copy(update={"roster_sha256": roster.sha256()})
                body(message)[BODY_KEY] = KeysOrder(attempt=attempt, roster=roster).canonical()

    world.tamper = other
    with pytest.raises(ConnectionFailure):
        world.play(store)
    assert any("not the one that was pinned" in text for text in world.retailers[0].said)
    assert any("fingerprint" in text for text in world.retailers[0].said)


def test_clients_that_are_told_different_things_do_not_confirm(tmp_path: Path) -> None:
    """One box is withheld from one client: it masks with other partners, so the others' transcript is not its own."""

    def withhold(place: int, message: Message) -> None:
        if place == 0 and message.metadata.message_type == ACTION_MASKED:
            from trend_common.secagg.messages import MaskedOrder

            order = MaskedOrder.model_validate_json(str(body(message)[BODY_KEY]))
            body(message)[BODY_KEY] = order.model_copy(update={"boxes": order.boxes[1:]}).canonical()

    world = World(tmp_path, 5, tamper=withhold)
    result = world.play(MemoryStore())
    # What it signs is another transcript, and its masks do not cancel: neither its delta nor a sum comes out.
    assert any("does not confirm the sum" in event.text for event in world.events)
    np.testing.assert_array_equal(result.adapter["x"], 0)


# -- clients that lie ------------------------------------------------------------------------------------------------


def lying_holder(places: set[int]) -> object:
    """Holders who give other shares than they were dealt."""

    def spoil(place: int, message: Message) -> None:
        if place in places and message.metadata.message_type == ACTION_UNMASK:
            reply = UnmaskReply.model_validate_json(str(body(message)[BODY_KEY]))
            false = tuple(Share(member=s.member, value=to_text((12345).to_bytes(33))) for s in reply.shares)
            body(message)[BODY_KEY] = UnmaskReply(shares=false).canonical()

    return spoil


def test_a_wrong_share_among_enough_right_ones_does_no_harm(tmp_path: Path) -> None:
    world = World(tmp_path, 5, spoil=lying_holder({1, 3}))  # type: ignore[arg-type]
    result = world.play(MemoryStore())
    np.testing.assert_array_equal(result.adapter["x"], world.exact(range(5)))


def test_too_many_wrong_shares_give_no_sum_rather_than_a_wrong_one(tmp_path: Path) -> None:
    world = World(tmp_path, 5, spoil=lying_holder({0, 1, 3}))  # type: ignore[arg-type]
    result = world.play(MemoryStore())
    np.testing.assert_array_equal(result.adapter["x"], 0)
    assert any("do not give what it signed" in event.text for event in world.events)


@pytest.mark.parametrize("gone", [False, True], ids=["survivor", "dropout"])
def test_a_dealer_of_wrong_shares_is_found(tmp_path: Path, gone: bool) -> None:
    """Its boxes cannot be opened, so its masks cannot be removed: the round is given up, and it is named."""

    def spoil(place: int, message: Message) -> None:
        if place == 2 and message.metadata.message_type == ACTION_SHARES:
            reply = SharesReply.model_validate_json(str(body(message)[BODY_KEY]))
            false = tuple(Box(member=box.member, content=to_text(bytes(94))) for box in reply.boxes)
            body(message)[BODY_KEY] = SharesReply(boxes=false).canonical()

    world = World(tmp_path, 5, spoil=spoil, drop=lambda p, action, _: gone and p == 2 and action == ACTION_MASKED)
    result = world.play(MemoryStore())
    np.testing.assert_array_equal(result.adapter["x"], 0)
    assert any("member 2 do not give what it signed" in event.text for event in world.events)


def test_a_sum_larger_than_its_clients_can_send_is_refused(tmp_path: Path) -> None:
    def spoil(place: int, message: Message) -> None:
        if place == 1 and message.metadata.message_type == ACTION_MASKED:
            from trend_common.flower.records import tensors_to_bytes

            body(message)["tensors"] = tensors_to_bytes({FIXED_KEY: masked(message) + np.uint32(2**30)})

    world = World(tmp_path, 3, spoil=spoil)
    result = world.play(MemoryStore())
    np.testing.assert_array_equal(result.adapter["x"], 0)
    assert any("larger than 3 of them can send" in event.text for event in world.events)


def test_a_mean_larger_than_the_noise_allows_is_refused(tmp_path: Path) -> None:
    """All that the server can check of norms: the mean is no longer than the longest honest delta."""
    from trend_common.protocol import BucketPlan, FederationPlan, PrivacyPlan

    bucket = BucketPlan(q=1, noise_multiplier=4.8, expected_batch=50)
    privacy = PrivacyPlan(epsilon=4, delta=1e-5, clip=0.1, buckets={"S": bucket})
    for reach, expected in ((1e-3, 3), (1e6, 0)):
        plan = secure_plan(reach=reach)
        plan = FederationPlan.model_validate({**plan.model_dump(), "privacy": privacy.model_dump()})
        world = World(tmp_path / str(reach), 3, plan)
        assert world.play(MemoryStore()).history[0].participants == expected
    assert any("the mean has norm" in event.text for event in world.events)


# -- a server that is killed -----------------------------------------------------------------------------------------


class Killed(BaseException):
    """The server's process ends."""


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("after", [1, 3])
def test_a_server_killed_in_any_step_plays_the_round_to_its_sum(tmp_path: Path, step: str, after: int) -> None:
    """Killed when ``after`` clients have been asked for ``step``; then started again on the same folder."""
    store = DiskStore(tmp_path / "server")
    count = 0

    def kill(place: int, message: Message) -> None:
        nonlocal count
        count += message.metadata.message_type == step
        if count == after:
            count += 1
            raise Killed

    world = World(tmp_path, 4, tamper=kill)
    with pytest.raises(Killed):
        world.play(store)
    result = world.play(DiskStore(tmp_path / "server"))
    np.testing.assert_array_equal(result.adapter["x"], world.exact(range(4)))
    attempts = {KeysOrder.model_validate_json(text).attempt.name for text in world.keys_asked}
    # Before shares were asked for it begins again with fresh keys; afterwards the same attempt goes on.
    assert len(attempts) == (1 if step == ACTION_UNMASK else 2)


def test_secure_aggregation_takes_no_median(tmp_path: Path) -> None:
    world = World(tmp_path, 3)
    with pytest.raises(UsageError, match="no median of the clients"):
        world.play(MemoryStore(), LoopSettings(min_clients=3, aggregation="median"))


def test_who_joined_after_the_first_round_is_not_in_the_sums(tmp_path: Path) -> None:
    world = World(tmp_path, 4, secure_plan(rounds=2))
    everybody = world.directory
    world.directory = lambda: {n: e for n, e in everybody().items() if n < 3 or "closed" in world.kinds()}
    result = world.play(MemoryStore())
    assert [record.participants for record in result.history] == [3, 3]
    assert ACTION_KEYS not in world.retailers[3].asked
    assert world.retailers[3].adopted is not None, "it has the shared adapter all the same"


def test_a_server_that_is_started_again_keeps_the_roster(tmp_path: Path) -> None:
    """Clients have pinned it: with another one no further round would come to a sum."""
    world = World(tmp_path, 4)
    everybody = world.directory
    world.directory = lambda: {n: e for n, e in everybody().items() if n < 3}
    store = MemoryStore()
    world.play(store)
    world.directory = everybody
    again = world.federation(store, LoopSettings(min_clients=3))._secure
    assert again is not None
    assert [one.name for one in again.roster().members] == ["shop-0", "shop-1", "shop-2"]


def test_shamirs_field_is_a_field() -> None:
    from sympy import isprime

    assert isprime(shamir.PRIME)
    assert ADDED.aggregation == "mean"
