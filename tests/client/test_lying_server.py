"""A server that lies is refused before any sales are touched: one test for each lie.

The panel here lets through what an answer to a plan may look at, its frequency, and nothing else: whoever looks at
the sales raises :class:`Touched`, which no part of the client catches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from trend_client.app import make_app
from trend_client.engine import Engine
from trend_client.home import ClientHome
from trend_client.session import ClientSession, SessionEvent
from trend_client.training import TrainingData
from trend_common import adapters
from trend_common.errors import ExitCode
from trend_common.flower.inprocess import InProcessGrid
from trend_common.flower.node import ACTIONS, ERROR_REASON
from trend_common.flower.records import pack
from trend_common.panel import SalesPanel
from trend_common.privacy import plan as plan_module
from trend_common.privacy import step as step_module
from trend_common.privacy.accounting import Run, noise_multiplier_for
from trend_common.privacy.ledger import Account, Ledger, LedgerBehind
from trend_common.privacy.plan import make_privacy_plan
from trend_common.privacy.policy import Policy
from trend_common.privacy.sampling import poisson_sample
from trend_common.protocol import ACTION_DESCRIBE, ACTION_TRAIN, FederationPlan, TrainOrder
from trend_common.tensors import Tensors, tensors_sha256

ROUNDS = 3


class Touched(BaseException):
    """Somebody looked at the sales. No PolicyError and no Exception, so that nothing can swallow it."""


class SealedPanel:
    """A panel of which only the frequency may be read."""

    freq = "D"

    def __getattr__(self, name: str) -> Any:
        raise Touched(name)


@pytest.fixture(scope="module")
def engine(tiny_backbone: Path) -> Engine:
    return Engine(str(tiny_backbone), device="cpu")


class Client:
    """One client, its honest plan, and the means to lie to it."""

    def __init__(self, root: Path, engine: Engine, panel: SalesPanel) -> None:
        self.engine, self.panel = engine, panel
        self.home = ClientHome(root)
        self.policy = Policy.load(self.home.policy_path)
        self.events: list[SessionEvent] = []
        lora, self.initial, self.frozen = adapters.initial_adapter(
            engine.release(), rank=2, alpha=4, targets=engine.backbone.lora_targets, train="B"
        )
        self.plan = FederationPlan(
            federation="test",
            backbone="tiny",
            backbone_sha256=engine.sha256,
            adapter=lora,
            freq="D",
            horizon=14,
            context=56,
            rounds=ROUNDS,
            steps=1,
            windows_per_series=2,
            update="gradient",
            local_learning_rate=0.0,
            proximal_mu=0.0,
            privacy=make_privacy_plan(
                epsilon=4, delta=1e-5, clip=0.02, rounds=ROUNDS, steps=1, buckets={"S": (1.0, 20)}
            ),
        )
        self.ledger = self.open_ledger()

    def open_ledger(self) -> Ledger:
        return Ledger(
            self.home.ledger_folder / "ledger.jsonl",
            head_path=self.home.head_folder / "ledger-head.json",
            epsilon_total=self.policy.epsilon_total,
            delta=self.policy.delta_max,
        )

    def session(self, panel: Any = None) -> ClientSession:
        return ClientSession(
            home=self.home,
            engine=self.engine,
            panel=self.panel if panel is None else panel,
            policy=self.policy,
            ledger=self.ledger,
            on_event=self.events.append,
        )

    def accepted(self) -> ClientSession:
        session = self.session()
        assert session.describe(self.plan, dict(self.frozen)).answer == "accepted", session.declined
        return session

    def altered(self, **changes: Any) -> FederationPlan:
        return FederationPlan.model_validate({**self.plan.model_dump(), **changes})

    def private(self, **changes: Any) -> FederationPlan:
        assert self.plan.privacy is not None
        return self.altered(privacy={**self.plan.privacy.model_dump(), **changes})

    def noise(self, sigma: float, **changes: Any) -> FederationPlan:
        return self.private(buckets={"S": {"q": 1, "noise_multiplier": sigma, "expected_batch": 20}}, **changes)

    def order(self, number: int, adapter: Tensors, **more: Any) -> TrainOrder:
        fields = {"plan_sha256": self.plan.sha256(), "adapter_sha256": tensors_sha256(adapter), **more}
        return TrainOrder(federation="test", round=number, **fields)

    def bigger_adapter(self, **changes: Any) -> tuple[FederationPlan, Tensors]:
        """A plan whose adapter is honest in itself, only larger than the policy allows."""
        settings: dict[str, Any] = {
            "rank": 2,
            "alpha": 4,
            "targets": self.engine.backbone.lora_targets,
            "train": "B",
        } | changes
        lora, _, frozen = adapters.initial_adapter(self.engine.release(), **settings)
        return self.altered(adapter=lora.model_dump()), frozen


@pytest.fixture
def client(tmp_path: Path, engine: Engine, panel: SalesPanel) -> Iterator[Client]:
    made = Client(tmp_path / "home", engine, panel)
    yield made
    made.ledger.close()


@pytest.fixture
def sealed_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on nobody may draw a window."""

    def draw(*_: object) -> None:
        raise Touched("draw")

    monkeypatch.setattr(TrainingData, "draw", draw)
    monkeypatch.setattr(TrainingData, "draw_rows", draw, raising=False)


def test_an_honest_plan_does_look_at_the_sales(client: Client) -> None:
    """Else the tests below would prove nothing."""
    with pytest.raises(Touched):
        client.session(SealedPanel()).describe(client.plan, dict(client.frozen))


def test_an_honest_round_does_draw(client: Client, request: pytest.FixtureRequest) -> None:
    session = client.accepted()
    request.getfixturevalue("sealed_draws")
    with pytest.raises(Touched):
        session.train(client.order(1, client.initial), dict(client.initial))


# --- the plan ---

PLANS: dict[str, tuple[Callable[[Client], FederationPlan], str]] = {
    "no privacy": (lambda c: c.altered(privacy=None, wire="float32"), "require_privacy"),
    "no noise": (lambda c: c.noise(0.0), "it costs ε = inf"),
    "too little noise": (lambda c: c.noise(0.4), "noise_multiplier_min"),
    "an ε that its noise does not give": (lambda c: c.private(epsilon=1.0), "it claims ε = 1"),
    "more rounds than its noise is for": (lambda c: c.altered(rounds=40), "it claims ε = 4"),
    "more rounds than are allowed": (lambda c: c.altered(rounds=5000), "steps_max"),
    "a larger clip": (lambda c: c.private(clip=99.0), "clip_max"),
    "a larger delta": (lambda c: c.private(delta=1e-3), "delta_max"),
    "no such bucket": (
        lambda c: c.private(buckets={"L": {"q": 0.1, "noise_multiplier": 9, "expected_batch": 9}}),
        "no bucket S",
    ),
    "another backbone": (lambda c: c.altered(backbone_sha256="0" * 64), "has the hash 000000000000"),
    "other sales": (lambda c: c.altered(freq="W"), "weekly sales"),
    "more than the policy's ε": (
        lambda c: c.noise(noise_multiplier_for(epsilon=9, delta=1e-5, q=1, steps=ROUNDS), epsilon=9),
        "epsilon_per_federation is 8",
    ),
}


@pytest.mark.parametrize("lie", PLANS)
def test_a_lying_plan_is_declined_without_a_look_at_the_sales(client: Client, lie: str) -> None:
    make, reason = PLANS[lie]
    session = client.session(SealedPanel())
    answer = session.describe(make(client), dict(client.frozen))
    assert answer.model_dump() == {"answer": "declined", "bucket": None}
    assert reason in (session.declined or "")
    assert client.ledger.accounts == ()


@pytest.mark.parametrize(
    ("policy", "change", "reason"),
    [
        ({"max_rank": 2}, {"rank": 4}, "adapter.max_rank is 2"),
        ({"max_parameters": 100}, {}, "adapter.max_parameters is 100"),
        ({"max_bytes": 100}, {}, "adapter.max_bytes is 100"),
        ({"targets": ["q_proj"]}, {}, "adapter.targets does not name them"),
        ({"max_parameters": 1500}, {"train": "AB"}, "adapter.max_parameters is 1500"),
    ],
)
def test_a_bigger_adapter_is_declined(client: Client, policy: Any, change: Any, reason: str) -> None:
    client.policy = Policy.model_validate({"adapter": policy})
    plan, frozen = client.bigger_adapter(**change)
    session = client.session(SealedPanel())
    assert session.describe(plan, dict(frozen)).answer == "declined"
    assert reason in (session.declined or "")


def test_a_federation_that_would_overrun_the_lifetime_is_declined_whole(client: Client) -> None:
    """Its first rounds would fit. They are not begun."""
    client.ledger.close()
    client.policy = Policy(epsilon_total=5.0)
    client.ledger = client.open_ledger()
    assert client.plan.privacy is not None
    client.ledger.accept(client.altered(federation="earlier"), "S")
    session = client.session(SealedPanel())
    assert session.describe(client.plan, dict(client.frozen)).answer == "declined"
    assert "with what is spent and promised already" in (session.declined or "")
    assert "The nearest plan that these caps would allow: σ of" in (session.declined or "")
    assert [account.federation for account in client.ledger.accounts] == ["earlier"]


def test_a_series_that_is_part_of_a_larger_unit_counts_twice(client: Client) -> None:
    """Plans of other units add up for the series, the part of each; two plans that seem to fit then do not."""
    client.ledger.close()
    client.policy = Policy(epsilon_total=7.0)
    client.ledger = client.open_ledger()
    client.ledger.accept(client.altered(federation="earlier"), "S")
    session = client.session(SealedPanel())
    assert session.describe(client.private(unit="product"), dict(client.frozen)).answer == "declined"
    assert "would bring the total to" in (session.declined or "")
    with pytest.raises(Touched):  # the same noise for the same unit fits
        client.session(SealedPanel()).describe(client.plan, dict(client.frozen))


def test_a_plan_that_changes_in_mid_federation_is_declined(client: Client) -> None:
    session = client.accepted()
    session.train(client.order(1, client.initial), dict(client.initial))
    changed = client.altered(windows_per_series=4)
    for asked in (session, client.session(SealedPanel())):
        asked.panel = SealedPanel()  # type: ignore[assignment]
        assert asked.describe(changed, dict(client.frozen)).answer == "declined"
        assert "accepted before with another plan" in (asked.declined or "")
    stored = client.home.plan("test")
    assert stored is not None
    assert stored[0] == client.plan, "the accepted plan stays on the disk"
    assert session.train(client.order(1, client.initial), dict(client.initial))[0].answer == "delta"


# --- the rounds ---


def wrong(client: Client, kind: str) -> dict[str, Any]:
    good: dict[str, Any] = dict(client.initial)
    name = next(iter(good))
    one = {
        "nan": np.full_like(good[name], np.nan),
        "infinite": np.full_like(good[name], np.inf),
        "giant": np.full_like(good[name], 1e9),
        "float64": good[name].astype(np.float64),
        "float16": good[name].astype(np.float16),
        "integers": np.zeros(good[name].shape, np.int8),
        "another shape": np.zeros((1, 1), np.float32),
        "transposed": np.ascontiguousarray(good[name].T),
    }
    return good | {name: one[kind]}


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize(
    "kind", ["nan", "infinite", "giant", "float64", "float16", "integers", "another shape", "transposed"]
)
def test_wrong_weights_are_refused_before_a_window_is_drawn(
    client: Client, kind: str, request: pytest.FixtureRequest
) -> None:
    session, adapter = client.accepted(), wrong(client, kind)
    lines = client.ledger._chain.records
    request.getfixturevalue("sealed_draws")
    reply, payload = session.train(client.order(1, adapter), adapter)
    assert (reply.answer, payload) == ("declined", None)
    assert client.ledger._chain.records == lines, "nothing is charged for it"


def test_the_same_round_with_other_weights_is_refused(client: Client, request: pytest.FixtureRequest) -> None:
    session = client.accepted()
    session.train(client.order(1, client.initial), dict(client.initial))
    spent = client.ledger.spent()
    request.getfixturevalue("sealed_draws")
    other = {name: value + np.float32(0.01) for name, value in client.initial.items()}
    assert session.train(client.order(1, other), dict(other))[0].answer == "declined"
    assert client.session().train(client.order(1, other), dict(other))[0].answer == "declined", "after a restart"
    assert client.ledger.spent() == spent


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"round": ROUNDS + 1}, "of a plan of 3"),
        ({"round": 99_999}, "of a plan of 3"),
        ({"plan_sha256": "0" * 64}, "another plan"),
        ({"adapter_sha256": "0" * 64}, "not the one that the message names"),
        ({"federation": "other"}, "never accepted a plan"),
    ],
)
def test_an_order_that_does_not_fit_is_refused(
    client: Client, change: dict[str, Any], reason: str, request: pytest.FixtureRequest
) -> None:
    session = client.accepted()
    request.getfixturevalue("sealed_draws")
    order = client.order(1, client.initial).model_copy(update=change)
    assert session.train(order, dict(client.initial))[0].answer == "declined"
    assert reason in client.events[-1].text
    assert client.ledger.spent() == 0


# --- the messages ---


def ask(session: ClientSession, action: str, content: RecordDict) -> Message:
    """The answer of the client's app, as the server gets it."""
    with InProcessGrid(lambda _: make_app(session), [2], raise_errors=False) as grid:
        (answer,) = grid.send_and_receive([Message(content, 2, action)])
    return answer


def body(text: str, tensors: object = None, **more: object) -> RecordDict:
    record: Any = {"body": text, **({} if tensors is None else {"tensors": tensors}), **more}
    return RecordDict({"body": ConfigRecord(record)})


MESSAGES: dict[str, Callable[[Client], tuple[str, RecordDict]]] = {
    "a field too many": lambda c: (
        ACTION_TRAIN,
        body(c.order(1, c.initial).canonical()[:-1] + ',"report":"loss"}', b""),
    ),
    "a second entry": lambda c: (ACTION_TRAIN, body(c.order(1, c.initial).canonical(), b"", sql="select 1")),
    "a second record": lambda c: (
        ACTION_TRAIN,
        RecordDict({**pack(c.order(1, c.initial), c.initial), "more": ConfigRecord({"x": 1})}),
    ),
    "no tensors": lambda c: (ACTION_TRAIN, body(c.order(1, c.initial).canonical())),
    "tensors that are none": lambda c: (ACTION_TRAIN, body(c.order(1, c.initial).canonical(), b"\x00" * 64)),
    "a pickle": lambda c: (ACTION_TRAIN, body(c.order(1, c.initial).canonical(), b"\x80\x04N.")),
    "tensors of eight bytes a number": lambda c: (
        ACTION_TRAIN,
        body(c.order(1, c.initial).canonical(), _doubles(c.initial)),
    ),
    "a plan with NaN": lambda c: (ACTION_DESCRIBE, body(c.plan.canonical().replace('"clip":0.02', '"clip":NaN'))),
    "a plan without end": lambda c: (ACTION_DESCRIBE, body("[" * 3_000_000)),
    "a plan of a newer version": lambda c: (
        ACTION_DESCRIBE,
        body(c.plan.canonical().replace('"version":1', '"version":2')),
    ),
    "more than one step of one gradient": lambda c: (
        ACTION_DESCRIBE,
        body(c.plan.canonical().replace('"steps":1', '"steps":7')),
    ),
    "an order in a plan's place": lambda c: (ACTION_DESCRIBE, pack(c.order(1, c.initial), c.initial)),
}


def _doubles(tensors: Tensors) -> bytes:
    from safetensors.numpy import save

    return bytes(save({name: value.astype(np.float64) for name, value in tensors.items()}))


@pytest.mark.parametrize("kind", MESSAGES)
def test_a_message_that_is_none_does_not_reach_the_session(
    client: Client, kind: str, request: pytest.FixtureRequest
) -> None:
    session = client.accepted()
    request.getfixturevalue("sealed_draws")
    session.panel = SealedPanel()  # type: ignore[assignment]
    action, content = MESSAGES[kind](client)
    answer = ask(session, action, content)
    assert answer.has_error()
    assert answer.error.reason == ERROR_REASON, "not a word of why"
    assert client.ledger.spent() == 0


def test_the_same_app_answers_an_honest_message(client: Client) -> None:
    """Else the two tests around this one would prove nothing."""
    assert not ask(client.session(), ACTION_DESCRIBE, pack(client.plan, client.frozen)).has_error()
    assert not ask(client.session(), ACTION_TRAIN, pack(client.order(1, client.initial), client.initial)).has_error()


@pytest.mark.parametrize("action", ["evaluate", "query", "query.sales", "train.more"])
def test_an_unknown_message_has_nobody_to_answer_it(client: Client, action: str) -> None:
    assert ask(client.session(SealedPanel()), action, pack(client.plan, client.frozen)).has_error()
    assert action not in ACTIONS


# --- one plan for sampler, clip, noise and accountant ---


def test_a_mechanism_that_the_ledger_did_not_charge_is_not_used(
    client: Client, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    session = client.accepted()
    request.getfixturevalue("sealed_draws")
    honest = Account.run
    monkeypatch.setattr(
        Account, "run", lambda self, steps, secret="": Run(sigma=2 * honest(self, steps, secret).sigma, q=1, steps=1)
    )
    assert session.train(client.order(1, client.initial), dict(client.initial))[0].answer == "declined"
    assert "The ledger has charged" in client.events[-1].text


@pytest.mark.parametrize("sigma", [6.5, 9.75])
@pytest.mark.parametrize("clip", [0.02, 0.5])
@pytest.mark.parametrize("q", [1.0, 0.5])
def test_all_four_take_their_numbers_from_the_plan(
    client: Client, sigma: float, clip: float, q: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What sampler, clipping, noise and accountant were given, as they were called."""
    plan = client.private(
        clip=clip, epsilon=7.9, buckets={"S": {"q": q, "noise_multiplier": sigma, "expected_batch": 20}}
    )
    monkeypatch.setattr(Policy, "check_plan", lambda *_, **__: None)  # its ε is not what this is about
    used: dict[str, float] = {}
    sample, optimiser = poisson_sample, step_module._secure_optimizer()

    def spied_sample(n: int, q: float, generator: Any) -> Any:
        used["q"] = q
        return sample(n, q, generator)

    class Spied(optimiser):  # type: ignore[misc, valid-type]
        def add_noise(self) -> None:
            used["noise"], used["clip"] = self.noise_multiplier, self.max_grad_norm
            super().add_noise()

    monkeypatch.setattr(step_module, "poisson_sample", spied_sample)
    monkeypatch.setattr(step_module, "_secure_optimizer", lambda: Spied)
    session = client.session()
    assert session.describe(plan, dict(client.frozen)).answer == "accepted", session.declined
    order = client.order(1, client.initial, plan_sha256=plan.sha256())
    assert session.train(order, dict(client.initial))[0].answer == "delta", client.events[-1].text
    (charged,) = client.ledger.charged()
    assert used == {"q": q, "noise": sigma, "clip": clip}
    assert charged == Run(sigma=sigma, q=q, steps=1)


@pytest.mark.parametrize("part", ["sigma", "q", "steps"])
def test_a_part_that_is_changed_behind_the_plan_is_caught(
    client: Client, part: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Mutations of the one object between the agreement and the round."""
    session = client.accepted()
    honest = plan_module.Mechanism.of(client.plan, "S")
    bucket, steps = honest.bucket, honest.steps
    if part == "sigma":
        bucket = bucket.model_copy(update={"noise_multiplier": bucket.noise_multiplier / 4})
    elif part == "q":
        bucket = bucket.model_copy(update={"q": 0.5})
    else:
        steps = 2
    mutated = plan_module.Mechanism(bucket, honest.clip, honest.windows_per_series, steps, honest.rounds)
    request.getfixturevalue("sealed_draws")
    monkeypatch.setattr(plan_module.Mechanism, "of", classmethod(lambda *_: mutated))
    assert session.train(client.order(1, client.initial), dict(client.initial))[0].answer == "declined"
    assert "must be of one plan" in client.events[-1].text


# --- a ledger that is behind the server ---


def test_a_rolled_back_disk_is_noticed_by_the_servers_count(client: Client, request: pytest.FixtureRequest) -> None:
    """Ledger, its second place and the sealed answers are all one round old; only the server knows better."""
    import shutil

    session = client.accepted()
    session.train(client.order(1, client.initial), dict(client.initial))
    client.ledger.close()
    places = [client.home.ledger_folder, client.home.head_folder]
    for place in places:
        shutil.copytree(place, place.with_name(place.name + "-backup"))
    client.ledger = client.open_ledger()
    second = {name: value + np.float32(0.01) for name, value in client.initial.items()}
    session = client.session()
    assert session.train(client.order(2, second, answered=1), dict(second))[0].answer == "delta"
    honest = client.ledger.spent()
    client.ledger.close()
    for place in places:
        shutil.rmtree(place)
        place.with_name(place.name + "-backup").rename(place)
    client.ledger = client.open_ledger()
    assert client.ledger.spent() < honest, "the old ledger is intact in itself"
    session = client.session()
    third = {name: value + np.float32(0.02) for name, value in client.initial.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingData, "draw", lambda *_: pytest.fail("drawn"))
        assert session.train(client.order(3, third, answered=2), dict(third))[0].answer == "declined"
    assert isinstance(session.failure, LedgerBehind)
    assert session.failure.exit_code == ExitCode.POLICY
    assert "restored from an older copy" in session.failure.message
    assert client.ledger.spent() == honest, "the missing round is charged"
    assert client.session().train(client.order(3, third, answered=2), dict(third))[0].answer == "delta"
    assert client.ledger.accounts[0].charged == ROUNDS


def test_an_absence_is_no_rollback(client: Client) -> None:
    """Rounds that went on without this client: the server has one answer of it, and so has the ledger."""
    session = client.accepted()
    session.train(client.order(1, client.initial), dict(client.initial))
    later = {name: value + np.float32(0.01) for name, value in client.initial.items()}
    assert session.train(client.order(3, later, answered=1), dict(later))[0].answer == "delta"
    assert session.failure is None
    assert client.ledger.accounts[0].charged == 2


def test_a_server_that_claims_answers_it_never_had_spends_no_more_than_the_plan(client: Client) -> None:
    session = client.accepted()
    for count in (50, 99):
        assert session.train(client.order(1, client.initial, answered=count), dict(client.initial))[1] is None
    assert client.ledger.accounts[0].charged == ROUNDS
