"""A client's part in a federation: what it answers to each message, and what it does before it answers.

The client decides. Each message is checked against the accepted plan, the policy and the ledger before any data are
touched; whatever does not fit raises :class:`~trend_common.errors.PolicyError`, whose text is for this screen alone.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trend_client.engine import Engine
from trend_client.home import ClientHome, Lineage
from trend_client.shares import largest, shares_of
from trend_client.training import TrainingData, difference, fit
from trend_common import adapters
from trend_common.backbones.base import Batch
from trend_common.backbones.synthetic import random_batch
from trend_common.errors import DataError, PolicyError, TrendError
from trend_common.flower.records import tensors_to_bytes
from trend_common.panel import SalesPanel
from trend_common.privacy.ledger import Ledger, LedgerBehind, Sealed
from trend_common.privacy.noise import SecureGenerator
from trend_common.privacy.plan import Mechanism, norm_bound, plan_epsilon, signal_note
from trend_common.privacy.policy import Policy
from trend_common.privacy.sent import SentLog
from trend_common.protocol import (
    AdoptOrder,
    AdoptReply,
    DescribeReply,
    FederationPlan,
    TrainOrder,
    TrainReply,
    WireModel,
)
from trend_common.scoring import training_panel
from trend_common.secagg import fixedpoint
from trend_common.tensors import Tensors, check_tensors, encode_int8, largest_value, tensors_sha256, total_norm
from trend_common.windows import PanelWindows

__all__ = ["ClientSession", "SessionEvent"]

_LARGEST_VALUE = 1e3
_PLAIN_BATCH = 32
_ROUNDING = 0.97
"""Room below the server's bound for what stochastic rounding adds to a norm."""


@dataclass(frozen=True)
class SessionEvent:
    """Something for the client's own screen; never sent.

    Attributes:
        kind: What happened.
        text: One sentence.
        round, rounds: Where the federation stands, if it runs.
    """

    kind: Literal["accepted", "declined", "training", "trained", "resent", "adopted", "finished"]
    text: str
    round: int = 0
    rounds: int = 0


class ClientSession:
    """One retailer in one federation.

    Args:
        home: Where plans, adapters and the ledger lie.
        engine: The backbone; several sessions of a rehearsal may share one.
        panel: The sales.
        policy: What this client allows.
        ledger: What it has spent.
        on_event: Told what happens.
        sent: Where every message is noted before it goes; None in rehearsals.
        shipped_sha256: Hash of the shipped backbone, which the policy allows; default: the engine's.
        adapter_only: Decline to train whatever the plan, and take the shared adapter.
        country: For public holidays where the file has none.
        seed: Of draws outside private training, each round by itself, so that a client that starts anew draws what it
            would have drawn; None takes one from the operating system.
    """

    def __init__(
        self,
        *,
        home: ClientHome,
        engine: Engine,
        panel: SalesPanel,
        policy: Policy,
        ledger: Ledger,
        on_event: Callable[[SessionEvent], None] = lambda _: None,
        sent: SentLog | None = None,
        shipped_sha256: str | None = None,
        adapter_only: bool = False,
        country: str | None = None,
        seed: int | None = None,
    ) -> None:
        self.home = home
        self.engine = engine
        self.panel = panel
        self.policy = policy
        self.ledger = ledger
        self.shipped_sha256 = shipped_sha256 or engine.sha256
        self.country = country
        self.adapter_only = adapter_only
        self.finished = False
        self.declined: str | None = None
        self.failure: LedgerBehind | None = None
        self.plan: FederationPlan | None = None
        self._plan_sha256 = ""
        self.adopted: Lineage | None = None
        self._sent = sent
        self._say = on_event
        self._seed = secrets.randbits(64) if seed is None else seed
        self._generator = SecureGenerator()
        self._frozen: Tensors = {}
        self._data: TrainingData | None = None
        self._tested: str | None = None
        self._rehearsed: dict[str, bytes] = {}

    def say(self, event: SessionEvent) -> None:
        """Tell this client's own screen."""
        self._say(event)

    def note(self, kind: str, body: WireModel, payload: bytes | None, *, federation: str, round_number: int) -> None:
        """Write down a message before it is handed to the network.

        Raises:
            PolicyError: It cannot be written down, so it must not be sent.
        """
        if self._sent is not None:
            content = body.canonical().encode() + (payload or b"")
            self._sent.note(kind, content, federation=federation, round_number=round_number)

    # -- describe ------------------------------------------------------------------------------------------------

    def describe(self, plan: FederationPlan, frozen: dict[str, NDArray[np.generic]]) -> DescribeReply:
        """Accept the whole plan, or decline it; the reason is told to this screen alone."""
        try:
            self._accept(plan, frozen)
        except TrendError as error:  # whatever its kind: an error reply would set the reason apart from others
            self.declined = str(error)
            self._say(SessionEvent("declined", f"Declined the federation {plan.federation}: {error}"))
            return DescribeReply(answer="declined")
        return DescribeReply(answer="accepted", bucket=self.policy.bucket)

    def _accept(self, plan: FederationPlan, frozen: dict[str, NDArray[np.generic]]) -> None:
        """Check everything that can be checked without the sales, charge nothing, and note the agreement."""
        self._fits(plan)
        known = {account.federation: account.plan_sha256 for account in self.ledger.accounts}
        if known.get(plan.federation, plan.sha256()) != plan.sha256():
            raise PolicyError(
                f'Federation "{plan.federation}" was accepted before with another plan.',
                "A plan cannot change after it was accepted. Ask the operator for a new federation name.",
            )
        self.engine.install(plan.adapter, frozen)
        self._frozen = {name: np.asarray(value, dtype=np.float32) for name, value in frozen.items()}
        # Kept even if it is declined below: without training, the shared adapter can still be received.
        self.home.save_plan(plan, self._frozen)
        # This federation's own account is left out: asked again after a restart, it must not count twice.
        others = self.ledger.committed(besides=plan.federation, unit=plan.privacy.unit if plan.privacy else "")
        spent = [run for run in others if run.sigma > 0]
        self.policy.check_plan(plan, backbone_sha256=self.shipped_sha256, spent=spent)
        rehearsal = not self.policy.require_privacy
        self.ledger.check(plan, self.policy.bucket, without_privacy=rehearsal)
        if self.adapter_only:
            raise PolicyError("This client takes the shared adapter and does not train.", "")
        self._self_test(plan)
        try:
            data = self._training_data(plan)
        except DataError as error:  # too short for this horizon; declined like anything else, and nothing charged
            raise PolicyError(error.message, error.hint) from error
        self.ledger.accept(plan, self.policy.bucket, without_privacy=rehearsal)
        self._note_shares(plan)
        if self.plan is None or self.plan.sha256() != plan.sha256():
            cost = "without privacy (a rehearsal)"
            if plan.privacy is not None:
                cost = f"ε = {plan_epsilon(plan, self.policy.bucket):.2f} at δ = {plan.privacy.delta:g} in all"
            text = f"Accepted {plan.federation}: {plan.rounds} rounds, {cost}."
            if plan.privacy is not None and (note := signal_note(plan, self.policy.bucket, data.n_units)):
                text += f" {note}"
            self._say(SessionEvent("accepted", text, 0, plan.rounds))
        self.plan, self._plan_sha256, self._data, self.declined = plan, plan.sha256(), data, None

    def _note_shares(self, plan: FederationPlan) -> None:
        """Keep how many units a whole product or store is, for the screen of ``budget``; never sent."""
        if plan.privacy is not None:
            found, before = shares_of(self.panel, plan.privacy.unit), self.home.shares(plan.federation)
            self.home.save_shares(plan.federation, found if before is None else largest(found, before))

    def _fits(self, plan: FederationPlan) -> None:
        """Calendar, task and model of the plan must be this client's."""
        problems = []
        if plan.freq != self.panel.freq:
            words = {"D": "daily", "W": "weekly", "M": "monthly"}
            problems.append(
                f"the federation is about {words[plan.freq]} sales and this file is {words[self.panel.freq]}"
            )
        if plan.backbone_sha256 != self.engine.sha256:
            problems.append(
                f"its backbone {plan.backbone} has the hash {plan.backbone_sha256[:12]}, the one here "
                f"({self.engine.backbone.name}) has {self.engine.sha256[:12]}"
            )
        longest = (self.engine.backbone.max_context, self.engine.backbone.max_horizon)
        if plan.context > longest[0] or plan.horizon > longest[1]:
            problems.append(
                f"it asks for {plan.context} steps of history and {plan.horizon} ahead; the backbone has at most "
                f"{longest[0]} and {longest[1]}"
            )
        if problems:
            raise PolicyError(
                f"The federation does not fit: {'; '.join(problems)}.",
                "Ask the operator for a federation of this kind; --freq reads daily sales as weekly ones.",
            )

    def _training_data(self, plan: FederationPlan) -> TrainingData:
        if self._data is not None and self.plan is not None and self.plan.sha256() == plan.sha256():
            return self._data
        # Validation and test are not in it; where each series ends depends on a declared day or on its own rows.
        panel = training_panel(self.panel, plan.horizon)
        windows = PanelWindows(panel, context=plan.context, country=self.country)
        unit = plan.privacy.unit if plan.privacy else "series"
        return TrainingData.of(
            windows, train_end=windows.n_steps, horizon=plan.horizon, unit=unit, launch_share=plan.launch_share
        )

    def _self_test(self, plan: FederationPlan) -> None:
        """Once for each plan in a process: the gradients are what the privacy analysis takes them for."""
        if plan.privacy is None or self.engine.tested == plan.adapter:
            return
        from trend_common.privacy.selftest import run_selftest

        def make_batch(rows: int) -> Batch:
            context = min(plan.context, 56)
            batch = random_batch(rows, context=context, horizon=min(plan.horizon, 28), freq=plan.freq)
            return batch.to(self.engine.device)

        self.engine.use(None)
        run_selftest(self.engine.backbone, make_batch, plan.windows_per_series)
        self.engine.tested = plan.adapter

    # -- train ---------------------------------------------------------------------------------------------------

    def train(self, order: TrainOrder, adapter: dict[str, NDArray[np.generic]]) -> tuple[TrainReply, bytes | None]:
        """One round: the noised delta as the bytes that travel, or a decline.

        Asked twice for the same, it returns the same bytes; the ledger decides what that means after a crash.
        """
        try:
            return TrainReply(answer="delta", federation=order.federation, round=order.round), self._delta(
                order, adapter
            )
        except TrendError as error:
            if isinstance(error, LedgerBehind):
                self.failure = error  # a person must see it: the client stops after this answer
            self._say(SessionEvent("declined", f"Refused round {order.round}: {error}", order.round))
            return TrainReply(answer="declined", federation=order.federation, round=order.round), None

    def _delta(self, order: TrainOrder, adapter: dict[str, NDArray[np.generic]]) -> bytes:
        if self.agreed(order).secure_aggregation is not None:
            raise PolicyError("The server asks for a delta without its masks.", "This plan's deltas are only summed.")
        return self.sealed(order, adapter)

    def agreed(self, order: TrainOrder) -> FederationPlan:
        """The accepted plan that ``order`` belongs to.

        Raises:
            PolicyError: There is none, or it has no such round.
        """
        plan = self._accepted(order.federation, order.plan_sha256)
        if order.round > plan.rounds:
            raise PolicyError(
                f"The server asks for round {order.round} of a plan of {plan.rounds}.",
                "This client does what it accepted and no more.",
            )
        return plan

    def sealed(self, order: TrainOrder, adapter: dict[str, NDArray[np.generic]]) -> bytes:
        """The one answer to a round, charged and sealed in the ledger; under secure aggregation it is masked next.

        Raises:
            PolicyError: Plan, policy or ledger say no.
        """
        plan = self.agreed(order)
        start = self._received(plan, adapter, order.adapter_sha256)
        if plan.privacy is None:
            return self._rehearse(plan, order, start)
        self.ledger.compare(order.federation, order.answered)
        state = self.ledger.begin_round(
            order.federation, order.round, plan_sha256=order.plan_sha256, adapter_sha256=order.adapter_sha256
        )
        if isinstance(state, Sealed):
            text = f"Round {order.round}: sending the same bytes again."
            self._say(SessionEvent("resent", text, order.round, plan.rounds))
            self.ledger.mark_sent(state)
            return state.payload
        mechanism = Mechanism.of(plan, self.policy.bucket)
        mechanism.require(state.run)
        self._say(SessionEvent("training", f"Round {order.round} of {plan.rounds}.", order.round, plan.rounds))
        noised = check_tensors(self._private_delta(plan, mechanism, start), plan.adapter.tensors, "the delta")
        delta = _within(noised, _ROUNDING * norm_bound(plan, self.policy.bucket))
        payload = self._encoded(plan, delta)
        sealed = self.ledger.seal(state, payload)
        self.ledger.mark_sent(sealed)
        self._say(SessionEvent("trained", f"Round {order.round} is done.", order.round, plan.rounds))
        return sealed.payload

    def _encoded(self, plan: FederationPlan, delta: Tensors) -> bytes:
        if plan.secure_aggregation is not None:
            words = fixedpoint.encode(delta, plan.secure_aggregation, self._generator)
            return tensors_to_bytes({fixedpoint.FIXED_KEY: words})
        return tensors_to_bytes(encode_int8(delta, self._generator) if plan.wire == "int8" else delta)

    def _accepted(self, federation: str, plan_sha256: str) -> FederationPlan:
        """The plan that this client accepted, restored from disk after a restart."""
        if self.plan is None or self.plan.federation != federation:
            known = self.home.plan(federation)
            if known is None:
                raise PolicyError(
                    f"This client never accepted a plan of the federation {federation}.", "It trains under no other."
                )
            self._accept(*known)  # type: ignore[arg-type]
        assert self.plan is not None
        if self._plan_sha256 != plan_sha256:
            raise PolicyError("The server names another plan than the accepted one.", "A plan cannot change.")
        return self.plan

    def _described(self, federation: str, plan_sha256: str) -> FederationPlan:
        """A plan that was received and fits, accepted for training or not."""
        known = self.home.plan(federation)
        if known is None or known[0].sha256() != plan_sha256:
            raise PolicyError(f"This client knows no such plan of the federation {federation}.", "")
        return known[0]

    def _received(self, plan: FederationPlan, adapter: dict[str, NDArray[np.generic]], sha256: str) -> Tensors:
        """The shared adapter that came, after every check."""
        checked = check_tensors(adapter, plan.adapter.tensors, "the shared adapter")
        if tensors_sha256(checked) != sha256:
            raise PolicyError("The shared adapter is not the one that the message names.", "It was altered.")
        if (highest := largest_value(checked)) > _LARGEST_VALUE:
            raise PolicyError(
                f"The shared adapter has a value of {highest:.3g}; {_LARGEST_VALUE:g} is the largest allowed.",
                "Weights of that size are a fault or an attack; ask the operator.",
            )
        return checked

    def _private_delta(self, plan: FederationPlan, mechanism: Mechanism, start: Tensors) -> Tensors:
        """The noised gradient (or DP-SGD update) of one round."""
        from trend_common.privacy.step import private_gradient, private_update

        assert self._data is not None
        data, engine = self._data, self.engine
        engine.install(plan.adapter, self._frozen)
        engine.use(start)

        def losses(units: NDArray[np.int64]) -> object:
            batch = data.draw(units, mechanism.windows_per_series, self._generator.uniform)
            return engine.backbone(batch.to(engine.device)).loss_per_sample

        common = {"n_units": data.n_units, "generator": self._generator, **mechanism.arguments()}
        if plan.update == "gradient":
            found = private_gradient(engine.backbone.core, losses, **common)  # type: ignore[arg-type]
        else:
            found = private_update(
                engine.backbone.core,
                losses,  # type: ignore[arg-type]
                steps=mechanism.steps,
                learning_rate=plan.local_learning_rate,
                proximal_mu=plan.proximal_mu,
                **common,  # type: ignore[arg-type]
            )
        return {adapters.wire_name(name): value for name, value in found.items()}

    def _rehearse(self, plan: FederationPlan, order: TrainOrder, start: Tensors) -> bytes:
        """A round without privacy; a policy allows it only where a person wrote so."""
        if self.policy.require_privacy:
            raise PolicyError("The plan has no privacy.", "Rehearsals need require_privacy = false in policy.toml.")
        key = order.sha256()
        if key not in self._rehearsed:
            assert self._data is not None
            rng = np.random.default_rng([self._seed, order.round])
            engine = self.engine
            engine.install(plan.adapter, self._frozen)
            engine.use(start)
            if plan.update == "gradient":
                delta = self._plain_gradient(plan, rng)
            else:
                fit(
                    engine.backbone,
                    self._data,
                    steps=plan.steps,
                    learning_rate=plan.local_learning_rate,
                    batch_size=_PLAIN_BATCH,
                    rng=rng,
                    proximal_mu=plan.proximal_mu,
                    device=engine.device,
                )
                delta = difference(adapters.export(engine.backbone), start)
            self._rehearsed = {key: self._encoded(plan, delta)}
        return self._rehearsed[key]

    def _plain_gradient(self, plan: FederationPlan, rng: np.random.Generator, chunk: int = 64) -> Tensors:
        """The mean gradient over all units, unclipped and without noise."""
        assert self._data is not None
        engine, data = self.engine, self._data
        parameters = adapters.trained_parameters(engine.backbone)
        for value in parameters.values():
            value.grad = None
        for begin in range(0, data.n_units, chunk):
            units = np.arange(begin, min(begin + chunk, data.n_units))
            batch = data.draw(units, plan.windows_per_series, rng.random).to(engine.device)
            out = engine.backbone(batch).loss_per_sample
            (out.sum() / (plan.windows_per_series * data.n_units)).backward()
        gradient = {}
        for name, value in parameters.items():
            assert value.grad is not None
            gradient[name] = value.grad.detach().cpu().numpy().copy()
            value.grad = None
        return gradient

    # -- adopt ---------------------------------------------------------------------------------------------------

    def adopt(self, order: AdoptOrder, adapter: dict[str, NDArray[np.generic]]) -> AdoptReply:
        """Keep the shared adapter; the reply is always the same, whatever is made of it here."""
        try:
            plan = self._described(order.federation, order.plan_sha256)
            tensors = self._received(plan, adapter, order.adapter_sha256)
            lineage = Lineage(
                federation=order.federation,
                round=order.round,
                final=order.final,
                plan_sha256=order.plan_sha256,
                adapter_sha256=order.adapter_sha256,
            )
            self.home.save_shared(lineage, tensors)
            self.adopted = lineage
            self._say(
                SessionEvent(
                    "adopted", f"Received the shared adapter of round {order.round}.", order.round, plan.rounds
                )
            )
        except PolicyError as error:
            self._say(SessionEvent("declined", f"Did not take the adapter of round {order.round}: {error}"))
        if order.final:
            self.finished = True
            self.ledger.close_federation(order.federation)
            self._say(SessionEvent("finished", f"The federation {order.federation} is over.", order.round))
        return AdoptReply()


def _within(delta: Tensors, bound: float) -> Tensors:
    """``delta`` shortened to the norm that the plan allows for.

    A client with many more series than its declared bucket has would otherwise be refused. This looks at noised
    values and public numbers alone, so it is post-processing and costs no privacy.
    """
    norm = total_norm(delta)
    if norm <= bound:
        return delta
    return {name: (value * np.float32(bound / norm)).astype(np.float32) for name, value in delta.items()}
