"""A personal model's own tensors: laid over the backbone while it is used, gone after it, and never sent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trend_client.engine import Engine, PersonalSettings
from trend_client.finetune import FineTuneSettings, LaunchSettings
from trend_client.home import ClientHome
from trend_client.parts import Parts, average, overlaid
from trend_client.session import ClientSession
from trend_client.training import TrainingData
from trend_client.weights import WORDS, base_parameters
from trend_common import adapters
from trend_common.errors import PolicyError
from trend_common.flower.records import tensors_from_bytes
from trend_common.forecasts import Forecast
from trend_common.panel import SalesPanel
from trend_common.privacy.ledger import Ledger
from trend_common.privacy.plan import make_privacy_plan
from trend_common.privacy.policy import Policy
from trend_common.protocol import FederationPlan, TrainOrder
from trend_common.tensors import Tensors, TensorSpec, decode_int8, tensors_sha256
from trend_common.windows import PanelWindows

CONTEXT, HORIZON, TRAIN_END = 56, 14, 112


@pytest.fixture(scope="module")
def engine(tiny_backbone: Path) -> Engine:
    return Engine(str(tiny_backbone), device="cpu")


@pytest.fixture
def data(panel: SalesPanel) -> TrainingData:
    return TrainingData.of(PanelWindows(panel, context=CONTEXT), train_end=TRAIN_END, horizon=HORIZON)


def trained(engine: Engine, data: TrainingData, **changes: object) -> Tensors:
    """A personal model that moved words, whatever validation says of it."""
    engine.install_local(2)
    settings = FineTuneSettings(
        steps=12, learning_rate=2e-2, look_every=4, patience=0, words=True, launch=LaunchSettings(steps=0)
    ).model_copy(update=changes)
    tensors, _ = engine.personalise(data, None, validation=TRAIN_END, seed=0, settings=settings)
    return tensors


def with_words(engine: Engine) -> Tensors:
    """A personal model with every kind of part, drawn at random."""
    engine.install_local(2)
    rng = np.random.default_rng(0)
    shapes = {name: value.shape for name, value in engine.worn(None).items()}
    shapes |= {name: tuple(base_parameters(engine.backbone)[name].shape) for name in WORDS}

    def drawn() -> Tensors:
        return {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}

    return Parts((drawn(), drawn()), drawn()).join()


def test_after_a_personal_model_the_zero_shot_forecast_is_bit_for_bit_as_before(
    engine: Engine, panel: SalesPanel
) -> None:
    personal = with_words(engine)
    origin = panel.end
    zero_shot = engine.forecaster(None, context=CONTEXT)
    before = zero_shot(panel, origin, HORIZON)
    own = engine.forecaster(personal, context=CONTEXT)(panel, origin, HORIZON)
    assert not np.allclose(own.quantiles, before.quantiles, rtol=1e-2)
    after = zero_shot(panel, origin, HORIZON)
    assert np.array_equal(before.quantiles, after.quantiles)
    assert np.array_equal(before.mean, after.mean)
    # The same without asking for a forecast first: a federation installs its plan, a comparison another.
    engine.forecaster(personal, context=CONTEXT)(panel, origin, HORIZON)
    engine.install_local(4)
    assert all(np.array_equal(a, b) for a, b in zip(_words(engine), _shipped(engine), strict=True))
    engine.install_local(2)
    assert np.array_equal(zero_shot(panel, origin, HORIZON).quantiles, before.quantiles)


def _words(engine: Engine) -> list[np.ndarray]:
    named = base_parameters(engine.backbone)
    return [named[name].detach().numpy().copy() for name in WORDS]


def _shipped(engine: Engine) -> list[np.ndarray]:
    return [engine.weights.shipped(name).numpy() for name in WORDS]


def test_what_is_stored_is_what_is_used_again(
    engine: Engine, panel: SalesPanel, data: TrainingData, tmp_path: Path
) -> None:
    tensors = trained(engine, data)
    assert set(WORDS) <= set(tensors)
    home = ClientHome(tmp_path / "home")
    home.save_personal("f", tensors, {"none": 1.0}, "backbone")
    again = home.personal("f")
    assert again is not None
    one = engine.forecaster(tensors, context=CONTEXT)(panel, panel.end, HORIZON)
    two = engine.forecaster(again, context=CONTEXT)(panel, panel.end, HORIZON)
    assert np.array_equal(one.quantiles, two.quantiles)


def test_nothing_but_the_plans_tensors_can_be_sent(
    engine: Engine, panel: SalesPanel, data: TrainingData, tmp_path: Path
) -> None:
    """A client that just used and trained its personal model answers a private round."""
    personal = trained(engine, data, freeze="full")
    engine.use(personal)
    plan, initial, frozen = adapters.initial_adapter(
        engine.release(), rank=2, alpha=4, targets=engine.backbone.lora_targets, train="B"
    )
    privacy = make_privacy_plan(epsilon=4, delta=1e-5, clip=0.02, rounds=1, steps=1, buckets={"S": (1.0, 20)})
    federation = FederationPlan(
        federation="test",
        backbone="tiny",
        backbone_sha256=engine.sha256,
        adapter=plan,
        freq="D",
        horizon=HORIZON,
        context=CONTEXT,
        rounds=1,
        steps=1,
        windows_per_series=2,
        update="gradient",
        local_learning_rate=0.0,
        proximal_mu=0.0,
        privacy=privacy,
    )
    home = ClientHome(tmp_path / "home")
    policy = Policy.load(home.policy_path)
    with Ledger(
        home.ledger_folder / "ledger.jsonl",
        head_path=home.head_folder / "ledger-head.json",
        epsilon_total=policy.epsilon_total,
        delta=policy.delta_max,
    ) as ledger:
        session = ClientSession(home=home, engine=engine, panel=panel, policy=policy, ledger=ledger)
        assert session.describe(federation, frozen).answer == "accepted"
        engine.install(plan, frozen)
        engine.use(personal)
        order = TrainOrder(
            federation="test",
            round=1,
            plan_sha256=federation.sha256(),
            adapter_sha256=tensors_sha256(initial),
        )
        reply, payload = session.train(order, initial)
    assert reply.answer == "delta"
    assert payload is not None
    sent = decode_int8(tensors_from_bytes(payload), plan.tensors)
    assert set(sent) == {spec.name for spec in plan.tensors}
    assert all("lora_B" in name for name in sent)
    # And it was computed on the backbone as shipped.
    assert all(np.array_equal(a, b) for a, b in zip(_words(engine), _shipped(engine), strict=True))
    assert not any("text" in name or "categories" in name for name in adapters.export(engine.backbone))


@pytest.mark.parametrize("what", ["words", "everything", "less"])
def test_a_plan_that_would_train_other_tensors_is_refused(engine: Engine, what: str) -> None:
    """The tensors of the backbone are one name away from those of the adapter; only the engine stands between."""
    plan, _, frozen = adapters.initial_adapter(
        engine.release(), rank=2, alpha=4, targets=engine.backbone.lora_targets, train="B"
    )
    named = {name: tuple(p.shape) for name, p in base_parameters(engine.backbone).items()}
    extra = {"words": ["text.weight"], "everything": list(named), "less": []}[what]
    tensors = (*plan.tensors, *(TensorSpec(name=name, shape=named[name]) for name in extra))
    altered = plan.model_copy(update={"tensors": tensors if extra else plan.tensors[1:]})
    with pytest.raises(PolicyError, match="others than its adapter's") as caught:
        engine.install(altered, frozen)
    assert "full fine-tuning" in caught.value.hint
    engine.install(plan, frozen)


def test_a_personal_model_of_another_backbone_is_refused_and_changes_nothing(engine: Engine) -> None:
    engine.install_local(2)
    for wrong in ({"text.weight": np.zeros((3, 3), np.float32)}, {"nowhere.weight": np.zeros(3, np.float32)}):
        with pytest.raises(PolicyError, match="personal model"):
            engine.use(wrong)
    engine.use({"text.weight": base_parameters(engine.backbone)["text.weight"].detach().numpy() + 1})
    with pytest.raises(PolicyError):
        engine.use({"text.weight": np.full_like(_shipped(engine)[0], np.nan)})
    assert np.array_equal(_words(engine)[0], _shipped(engine)[0])


def test_an_ensemble_forecasts_the_mean_of_its_members(engine: Engine, panel: SalesPanel) -> None:
    joined = with_words(engine)
    parts = Parts.of(joined)
    assert len(parts.members) == 2
    whole = engine.forecaster(Parts(parts.members).join(), context=CONTEXT)(panel, panel.end, HORIZON)
    alone = [engine.forecaster(one, context=CONTEXT)(panel, panel.end, HORIZON) for one in parts.members]
    np.testing.assert_allclose(whole.quantiles, (alone[0].quantiles + alone[1].quantiles) / 2)
    np.testing.assert_allclose(whole.mean, (alone[0].mean + alone[1].mean) / 2)


def test_the_launch_part_forecasts_the_young_alone(engine: Engine, panel: SalesPanel) -> None:
    """At step 10 all series are young, at step 60 none, whatever the launch part would say."""
    parts = Parts.of(with_words(engine))
    windows = PanelWindows(panel, context=CONTEXT)
    with_launch = Parts(parts.members[:1], parts.launch).join()
    for origin, wanted in ((10, parts.launch), (60, parts.members[0])):
        found = engine.forecast(with_launch, windows, origin, HORIZON)
        alone = engine.forecast(wanted, windows, origin, HORIZON)
        assert np.array_equal(found.quantiles, alone.quantiles)
    some = engine.forecast(with_launch, windows, 10, HORIZON, rows=np.array([7, 2]))
    assert some.ids == (windows.ids[7], windows.ids[2])
    np.testing.assert_allclose(
        some.quantiles, engine.forecast(with_launch, windows, 10, HORIZON).quantiles[[7, 2]], rtol=1e-4, atol=1e-4
    )


def test_members_are_trained_with_different_seeds_and_kept_if_together_they_are_better(
    engine: Engine, data: TrainingData
) -> None:
    engine.install_local(2)
    settings = FineTuneSettings(
        steps=20, learning_rate=1e-2, look_every=10, ensemble=3, launch=LaunchSettings(steps=0)
    )
    tensors, tried = engine.personalise(data, None, validation=TRAIN_END, seed=0, settings=settings)
    members = Parts.of(tensors).members
    assert len(members) == 3
    assert tried["mean of 3 models"] < tried["none"]
    assert len({tensors_sha256(one) for one in members if one is not None}) == 3


def test_the_grid_and_a_single_run_are_the_same_for_the_same_seed(engine: Engine, data: TrainingData) -> None:
    engine.install_local(2)
    grid = PersonalSettings(learning_rates=(1e-2,), checkpoints=(4, 8))
    again = [engine.personalise(data, None, validation=TRAIN_END, seed=3, settings=grid) for _ in range(2)]
    assert again[0][1] == again[1][1]
    assert tensors_sha256(again[0][0]) == tensors_sha256(again[1][0])
    single = grid.runs()[0].model_copy(update={"look_every": 4, "launch": LaunchSettings(steps=0)})
    tensors, tried = engine.personalise(data, None, validation=TRAIN_END, seed=3, settings=single)
    assert list(tried.values()) == list(again[0][1].values())
    assert tensors_sha256(tensors) == tensors_sha256(again[0][0])


names = st.text(st.sampled_from("abc._"), min_size=1, max_size=5)
sets = st.dictionaries(names, st.integers(0, 9).map(lambda n: np.full(2, n, np.float32)), min_size=1, max_size=3)


@settings(max_examples=50, deadline=None)
@given(st.lists(sets, min_size=1, max_size=12), st.none() | sets)
def test_parts_come_apart_as_they_were_joined(members: list[Tensors], launch: Tensors | None) -> None:
    found = Parts.of(Parts(tuple(members), launch).join())
    assert len(found.members) == len(members)
    for one, two in zip([*found.members, found.launch], [*members, launch], strict=True):
        assert (one is None) == (two is None)
        assert (
            one is None
            or two is None
            or {n: v.tolist() for n, v in one.items()} == {n: v.tolist() for n, v in two.items()}
        )


def test_rows_are_laid_over_a_forecast() -> None:
    dates = np.arange(2).astype("datetime64[D]")
    ones = np.ones((3, 2, 1))
    whole = Forecast.repaired(("a", "b", "c"), dates, ones, ones[..., 0], levels=(0.5,))
    part = Forecast.repaired(("b",), dates, 5 * ones[:1], 5 * ones[:1, :, 0], levels=(0.5,))
    found = overlaid(whole, np.array([1]), part)
    assert found.mean[:, 0].tolist() == [1, 5, 1]
    assert found.quantiles[:, 0, 0].tolist() == [1, 5, 1]
    assert whole.mean[1, 0] == 1
    assert average([whole]) is whole
