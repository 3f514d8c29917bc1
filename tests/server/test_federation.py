"""The round loop with clients in this process: what is asked, counted and kept, and what follows a crash."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pytest
from fakes import FakeClient, Uniforms, small_plan
from flwr.app import Message

from trend_common.errors import ConnectionFailure, Declined
from trend_common.flower.inprocess import InProcessGrid
from trend_common.privacy.plan import norm_bound
from trend_common.protocol import FederationPlan
from trend_common.tensors import Tensors, decode_int8, encode_int8, tensors_sha256, total_norm
from trend_server.checkpoints import Checkpoint, DiskStore, MemoryStore
from trend_server.desk import Answer, Desk, FederationEvent
from trend_server.federation import FederationResult, LoopSettings, federate

PLAIN = LoopSettings(min_clients=1, round_timeout=None, patience=0.0, optimiser="sgd", learning_rate=1.0)


def constant(value: float) -> Callable[[int, Tensors], Tensors]:
    """A delta that is the same everywhere."""
    return lambda number, adapter: {name: np.full_like(one, value) for name, one in adapter.items()}


def play(
    clients: list[FakeClient],
    *,
    plan: tuple[FederationPlan, Tensors, Tensors] | None = None,
    settings: LoopSettings = PLAIN,
    store: object = None,
    grid: InProcessGrid | None = None,
    events: list[FederationEvent] | None = None,
) -> FederationResult:
    """A whole federation."""
    made, initial, frozen = plan or small_plan()
    nodes = grid or InProcessGrid(lambda node: clients[node].app(), range(len(clients)), raise_errors=False)
    say = events.append if events is not None else (lambda _: None)
    return federate(nodes, made, initial, frozen, settings, store, say)  # type: ignore[arg-type]


def test_all_rounds_are_played_and_everybody_gets_the_adapter() -> None:
    clients = [FakeClient(constant(1.0)), FakeClient(constant(3.0))]
    events: list[FederationEvent] = []
    result = play(clients, events=events)
    for value in result.adapter.values():
        np.testing.assert_allclose(value, -6.0)  # three rounds of the mean, 2, subtracted
    assert [record.participants for record in result.history] == [2, 2, 2]
    assert result.accepted == (0, 1)
    assert result.adopted == (0, 1)
    for client in clients:
        assert client.asked == ["describe", "train 1", "train 2", "train 3", "adopt"]
        assert client.adopted is not None
        assert tensors_sha256(client.adopted) == tensors_sha256(result.adapter)
    assert [event.kind for event in events].count("closed") == 3


def test_a_change_of_weights_is_added() -> None:
    plan = small_plan(update="weights", rounds=1)
    settings = LoopSettings(min_clients=1, round_timeout=None, patience=0.0, optimiser="none")
    result = play([FakeClient(constant(1.0)), FakeClient(constant(2.0))], plan=plan, settings=settings)
    for value in result.adapter.values():
        np.testing.assert_allclose(value, 1.5)


def test_int8_after_noise_is_decoded() -> None:
    plan = small_plan(privacy=True, rounds=2)
    result = play([FakeClient(constant(0.01), seed=s) for s in range(3)], plan=plan)
    for value in result.adapter.values():
        np.testing.assert_allclose(value, -0.02, rtol=1e-3)


def test_who_declines_is_not_asked_to_train_but_may_have_the_adapter() -> None:
    no = FakeClient(accept=False)
    result = play([FakeClient(), no])
    assert no.asked == ["describe", "adopt"]
    assert [record.participants for record in result.history] == [1, 1, 1]
    assert result.accepted == (0,)


def test_when_all_decline_it_is_said() -> None:
    with pytest.raises(Declined, match="All 2 clients declined"):
        play([FakeClient(accept=False), FakeClient(accept=False)])


def test_too_few_is_said() -> None:
    settings = LoopSettings(min_clients=3, round_timeout=None, patience=0.0)
    with pytest.raises(ConnectionFailure, match="needs 3 clients in round 1, and has 2"):
        play([FakeClient(), FakeClient()], settings=settings)


def failing(number: int, adapter: Tensors) -> Tensors:
    """A client that breaks."""
    raise RuntimeError("broken")


def test_a_client_that_fails_does_not_count_and_does_not_stop_the_others() -> None:
    events: list[FederationEvent] = []
    result = play([FakeClient(constant(2.0)), FakeClient(failing)], events=events)
    assert [record.participants for record in result.history] == [1, 1, 1]
    np.testing.assert_allclose(result.adapter["bias"], -6.0)
    assert "failed" in {event.kind for event in events}


def test_when_too_few_can_answer_the_federation_is_given_up() -> None:
    settings = LoopSettings(min_clients=2, round_timeout=None, patience=0.0)
    with pytest.raises(ConnectionFailure, match="needs 2 clients"):
        play([FakeClient(), FakeClient(failing)], settings=settings)


@pytest.mark.parametrize(
    "bad",
    [
        lambda n, a: {"bias": a["bias"]},
        lambda n, a: {**a, "extra": np.ones(1, np.float32)},
        lambda n, a: {name: np.full_like(value, np.nan) for name, value in a.items()},
        lambda n, a: {name: np.ones((5, 5), np.float32) for name in a},
        lambda n, a: {name: value.astype(np.int8) for name, value in a.items()},
    ],
    ids=["missing", "extra", "nan", "shape", "dtype"],
)
def test_an_answer_that_does_not_fit_is_refused(bad: Callable[[int, Tensors], Tensors]) -> None:
    events: list[FederationEvent] = []
    result = play([FakeClient(constant(2.0)), FakeClient(bad)], events=events)
    np.testing.assert_allclose(result.adapter["bias"], -6.0)
    assert [event.kind for event in events].count("rejected") == 3


def test_an_answer_of_another_round_is_refused() -> None:
    late = FakeClient()
    app = late.app()
    from trend_common.flower.records import reply
    from trend_common.protocol import TrainReply

    def wrong(message: Message, _: object) -> Message:
        header = TrainReply(answer="delta", federation="test", round=99)
        return reply(message, header, constant(1.0)(1, small_plan()[1]))

    app._registered_funcs["train.default"] = wrong
    events: list[FederationEvent] = []
    good = FakeClient(constant(2.0)).app()
    grid = InProcessGrid(lambda node: [good, app][node], range(2))
    plan, initial, frozen = small_plan()
    federate(grid, plan, initial, frozen, PLAIN, None, events.append)
    assert [event.kind for event in events].count("rejected") == 3


def test_an_answer_that_comes_twice_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever could be counted twice would weigh twice."""
    honest = Desk.look

    def twice(self: Desk) -> Iterator[Answer]:
        for answer in honest(self):
            yield answer
            if answer.node_id == 0:
                yield answer

    monkeypatch.setattr(Desk, "look", twice)
    result = play([FakeClient(constant(1.0)), FakeClient(constant(3.0))], plan=small_plan(rounds=1))
    for value in result.adapter.values():
        np.testing.assert_allclose(value, -2.0)
    assert [record.participants for record in result.history] == [2]


def test_an_answer_larger_than_the_noise_allows_is_refused() -> None:
    plan = small_plan(privacy=True, rounds=1)
    bound = norm_bound(plan[0], "S")
    size = math.sqrt(plan[0].adapter.parameters)
    for factor, expected in ((0.9, 2), (1.2, 1)):
        clients = [FakeClient(constant(1e-3)), FakeClient(constant(factor * bound / size))]
        assert play(clients, plan=plan).history[0].participants == expected


def test_honest_noise_stays_within_the_bound() -> None:
    """σC/expected_batch in each element, after int8: thousand draws, none above the bound."""
    plan, initial, _ = small_plan(privacy=True, shape=(400, 20))
    bucket = plan.privacy.buckets["S"]
    rng = np.random.default_rng(0)
    scale = bucket.noise_multiplier * plan.privacy.clip / bucket.expected_batch
    worst = 0.0
    for _ in range(100):
        noise = {
            name: rng.normal(scale=scale, size=value.shape).astype(np.float32) for name, value in initial.items()
        }
        worst = max(worst, total_norm(decode_int8(encode_int8(noise, Uniforms(1)), plan.adapter.tensors)))
    bound = norm_bound(plan, "S")
    assert worst + plan.privacy.clip * 4 < bound
    assert bound < 10 * (worst + plan.privacy.clip)


def test_a_bucket_that_the_plan_does_not_have_is_not_accepted() -> None:
    plan = small_plan(privacy=True)
    with pytest.raises(ConnectionFailure):
        play([FakeClient(bucket="L")], plan=plan, settings=LoopSettings(patience=0.01, round_timeout=None))


class Crash(Exception):
    """The server's process ends."""


class CrashingStore(DiskStore):
    """Crashes before or after it has saved a round."""

    def __init__(self, folder, number: int, *, after: bool) -> None:
        super().__init__(folder)
        self.number, self.after = number, after

    def save(self, checkpoint: Checkpoint) -> None:
        """Save, or crash."""
        if checkpoint.round == self.number and not self.after:
            raise Crash
        super().save(checkpoint)
        if checkpoint.round == self.number:
            raise Crash


@pytest.mark.parametrize("after", [False, True])
def test_after_a_crash_the_same_question_is_asked_and_the_result_is_the_same(tmp_path, after: bool) -> None:
    def delta(number: int, adapter: Tensors) -> Tensors:
        return {name: (value + number).astype(np.float32) for name, value in adapter.items()}

    settings = LoopSettings(min_clients=1, round_timeout=None, patience=0.0, optimiser="adam", learning_rate=0.1)
    plan = small_plan(rounds=4)
    whole = play([FakeClient(delta)], plan=plan, settings=settings)
    client = FakeClient(delta)
    with pytest.raises(Crash):
        play([client], plan=plan, settings=settings, store=CrashingStore(tmp_path, 2, after=after))
    resumed = play([client], plan=plan, settings=settings, store=DiskStore(tmp_path))
    assert tensors_sha256(resumed.adapter) == tensors_sha256(whole.adapter)
    assert [record.round for record in resumed.history] == [1, 2, 3, 4]
    asked = [order.round for order in client.orders]
    assert asked == ([1, 2, 3, 4] if after else [1, 2, 2, 3, 4])
    by_round = {}
    for order in client.orders:
        by_round.setdefault(order.round, set()).add(order.sha256())
    assert all(len(found) == 1 for found in by_round.values())


def test_a_finished_federation_only_hands_over() -> None:
    store = MemoryStore()
    play([FakeClient()], store=store)
    late = FakeClient()
    result = play([late], store=store)
    assert late.asked == ["describe", "adopt"]
    assert len(result.history) == 3


class Restless(InProcessGrid):
    """Clients that come late, restart and vanish, as ``script`` says: look number → sessions."""

    def __init__(self, clients: list[FakeClient], script: Callable[[int], dict[int, str]]) -> None:
        super().__init__(lambda node: clients[node].app(), range(len(clients)), raise_errors=False)
        self._script = script
        self._looks = 0
        self.lost: set[int] = set()

    def presence(self) -> dict[int, str]:
        self._looks += 1
        return self._script(self._looks)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = list(super().push_messages(messages))
        if self.lost:  # these clients die with the question in hand
            gone = {m.metadata.message_id for m in self._waiting if m.metadata.dst_node_id in self.lost}
            self._waiting = type(self._waiting)(m for m in self._waiting if m.metadata.message_id not in gone)
        return ids


def test_a_client_that_started_anew_is_asked_again_in_the_same_round() -> None:
    clients = [FakeClient(constant(1.0)), FakeClient(constant(3.0))]

    def script(look: int) -> dict[int, str]:
        # Once the other has answered round 1, this one is back with a new session.
        back = "train 1" in clients[0].asked
        if back:
            grid.lost = set()
        return {0: "x", 1: "b" if back else "a"}

    grid = Restless(clients, script)

    class Watch(list):
        def append(self, event: FederationEvent) -> None:
            if event.kind == "opened" and event.round == 1:
                grid.lost = {1}  # it dies with the first order in hand

    settings = LoopSettings(min_clients=2, round_timeout=None, patience=5.0, optimiser="sgd", learning_rate=1.0)
    result = play(clients, grid=grid, settings=settings, events=Watch())
    assert [record.participants for record in result.history] == [2, 2, 2]
    assert result.history[0].seconds < 0.9, "it is asked at once, not after the pause for clients that fail"
    assert clients[1].asked == ["describe", "describe", "train 1", "train 2", "train 3", "adopt"]
    assert clients[0].asked == ["describe", "train 1", "train 2", "train 3", "adopt"]


def test_a_late_client_joins_the_following_rounds() -> None:
    clients = [FakeClient(), FakeClient()]
    grid = Restless(clients, lambda look: {0: "x"} | ({1: "y"} if "train 1" in clients[0].asked else {}))
    result = play(clients, grid=grid)
    assert clients[1].asked == ["describe", "train 2", "train 3", "adopt"]
    assert [record.participants for record in result.history] == [1, 2, 2]


def test_a_round_closes_at_its_deadline_without_who_is_silent() -> None:
    clients = [FakeClient(), FakeClient()]
    grid = Restless(clients, lambda look: {0: "x", 1: "y"})
    settings = LoopSettings(min_clients=1, round_timeout=0.3, optimiser="sgd", adopt_timeout=0.2)

    class Watch(list):
        def append(self, event: FederationEvent) -> None:
            super().append(event)
            if event.kind == "opened" and event.round == 2:
                grid.lost = {1}

    result = play(clients, grid=grid, settings=settings, events=Watch())
    assert [record.participants for record in result.history] == [2, 1, 1]
    assert result.history[1].seconds >= 0.3


def test_a_round_below_the_minimum_goes_on_after_its_deadline() -> None:
    clients = [FakeClient(), FakeClient()]
    grid = Restless(clients, lambda look: {0: "x", 1: "y"})
    events: list[FederationEvent] = []

    class Watch(list):
        def append(self, event: FederationEvent) -> None:
            events.append(event)
            if event.kind == "opened" and event.round == 1:
                grid.lost = {1}
            if event.kind == "extended":
                grid.lost = set()
                grid._script = lambda look: {0: "x", 1: "z"}

    settings = LoopSettings(min_clients=2, round_timeout=0.2, optimiser="sgd")
    result = play(clients, grid=grid, settings=settings, events=Watch())
    assert [record.participants for record in result.history] == [2, 2, 2]
    assert [event.kind for event in events].count("extended") == 1
    assert clients[0].asked.count("train 1") == 1, "who has answered is not asked again"
