"""Arms at one cut: the test enters no choice, noise and ledgers are real, and the numbers are what they say."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trend_client.engine import Engine
from trend_client.trees import fit as trees_fit
from trend_common.calibration import Calibration
from trend_common.errors import DataError, Declined, UsageError
from trend_common.privacy.plan import plan_epsilon
from trend_common.tensors import Tensors, tensors_sha256
from trend_server.checkpoints import Announcement
from trend_simulations.arms import Study, run_arm, run_models
from trend_simulations.cases import Adapter, Case, Model, make_case
from trend_simulations.compare import Comparison, compare
from trend_simulations.federation import Member, announce, federate_in_process, members
from trend_simulations.report import comparison_table, headline, privacy_line
from trend_simulations.settings import ARMS, DpRecipe, LocalRecipe, PlainRecipe, Settings, split_arm
from trend_simulations.sources import Retailer, last_history, synthetic


@pytest.fixture(scope="module")
def settings(tiny_backbone: Path) -> Settings:
    """Everything small."""
    return Settings(
        freq="W",
        horizon=4,
        context=28,
        seeds=(0, 1),
        backbone=str(tiny_backbone),
        dp=DpRecipe(rounds=3, windows_per_series=2),
        plain=(
            PlainRecipe("weights", rounds=2, steps=2, local_lr=1e-2, rank=2),
            PlainRecipe("gradient", rounds=2, rank=2, windows_per_series=2),
        ),
        local=LocalRecipe(learning_rates=(1e-2,), checkpoints=(2, 4), rank=2),
        central=LocalRecipe(learning_rates=(1e-2,), checkpoints=(4, 8), rank=2),
    )


@pytest.fixture(scope="module")
def retailers() -> list[Retailer]:
    """Four weekly retailers."""
    drawn = synthetic(4, seed=2, freq="W", days=420, sizes=(6, 10))
    return last_history(drawn, horizon=4, history=30)


@pytest.fixture(scope="module")
def result(retailers: list[Retailer], settings: Settings, engine: Engine) -> Comparison:
    """All arms."""
    return compare(retailers, [*ARMS, "gated-dp@1"], settings, engine=engine, baselines=("naive",))


def spoilt(retailer: Retailer, horizon: int) -> Retailer:
    """The same retailer whose last ``horizon`` weeks went quite differently."""
    frame = retailer.panel.frame
    first = sorted(frame["ds"].unique())[-horizon]
    changed = frame["y"].where(frame["ds"] < first, frame["y"] * 7 + 100)
    return Retailer(retailer.name, replace(retailer.panel, frame=frame.assign(y=changed)))


def same(left: Adapter, right: Adapter) -> bool:
    """The same tensors."""

    def key(tensors: Tensors | None) -> str:
        return "none" if tensors is None else tensors_sha256(tensors)

    return key(left.tensors) == key(right.tensors)


@pytest.mark.parametrize("arm", ["local", "federated", "federated-personal", "central"])
def test_no_choice_sees_the_test(arm: str, retailers: list[Retailer], settings: Settings, engine: Engine) -> None:
    adapters = []
    for group in (retailers, [spoilt(one, settings.horizon) for one in retailers]):
        cases = [make_case(one, settings) for one in group]
        adapters.append(run_arm(Study(cases, engine, settings, seed=0), arm))
    assert all(same(one, other) for one, other in zip(*adapters, strict=True))


def test_the_test_is_what_is_scored(retailers: list[Retailer], settings: Settings) -> None:
    case, other = make_case(retailers[0], settings), make_case(spoilt(retailers[0], settings.horizon), settings)
    np.testing.assert_array_equal(case.validation.y, other.validation.y)
    assert not np.array_equal(case.test.y, other.test.y)
    assert case.cut.test == retailers[0].panel.end - 3 * np.timedelta64(7, "D")
    windows = case.data.windows
    assert windows.dates[case.data.train_end] == case.cut.validation
    assert windows.n_steps == windows.step_of(case.cut.test)


def test_training_stops_before_the_validation(retailers: list[Retailer], settings: Settings, engine: Engine) -> None:
    case = make_case(retailers[0], settings)
    batch = case.data.draw(np.arange(case.data.n_units), 20, np.random.default_rng(0).random)
    assert batch.future_mask is not None
    origins = case.data.windows.draw_origins(
        np.repeat([int(unit[0]) for unit in case.data.units], 20),
        case.data.train_end,
        case.data.horizon,
        np.random.default_rng(0).random(case.data.n_units * 20),
    )
    assert (origins < case.data.train_end).all()
    spoiled = make_case(spoilt_from_validation(retailers[0], settings.horizon), settings)
    again = spoiled.data.draw(np.arange(case.data.n_units), 20, np.random.default_rng(0).random)
    assert again.future_values is not None
    assert batch.future_values is not None
    np.testing.assert_array_equal(batch.future_values.numpy(), again.future_values.numpy())
    np.testing.assert_array_equal(batch.past_values.numpy(), again.past_values.numpy())


def spoilt_from_validation(retailer: Retailer, horizon: int) -> Retailer:
    """Everything from the validation on went differently."""
    return spoilt(retailer, 2 * horizon)


@pytest.fixture
def joined(
    retailers: list[Retailer], settings: Settings, engine: Engine
) -> Iterator[tuple[Announcement, list[Member]]]:
    """A private federation that has not begun."""
    announced = announce(engine, settings, settings.dp, name="test", seed=0)
    with tempfile.TemporaryDirectory() as folder:
        found = members(retailers, engine, announced.plan, Path(folder), seed=0)
        yield announced, found
        for member in found:
            member.ledger.close()


def test_every_client_pays_the_whole_plan_into_its_own_ledger(
    joined: tuple[Announcement, list[Member]], settings: Settings
) -> None:
    announced, clients = joined
    rounds: list[int] = []
    outcome = federate_in_process(clients, announced, server_lr=1e-3, on_round=rounds.append)
    assert rounds == [1, 2, 3]
    assert outcome.spent.keys() == {member.name for member in clients}
    for spent in outcome.spent.values():
        assert spent == pytest.approx(plan_epsilon(announced.plan, "S"), rel=1e-6)
        assert 0.95 * settings.epsilon < spent <= settings.epsilon
    for member in clients:
        assert member.ledger.accounts[0].charged == 3
        assert member.session.adopted is not None
        assert member.session.adopted.final
    assert outcome.adapter.tensors is not None
    assert any(value.any() for value in outcome.adapter.tensors.values())
    assert outcome.seconds >= outcome.training > 0
    assert announced.plan.adapter.parameters < outcome.bytes_up < 2 * announced.plan.adapter.parameters + 2000


def test_the_noise_is_not_the_same_twice(retailers: list[Retailer], settings: Settings, engine: Engine) -> None:
    cases = [make_case(one, settings) for one in retailers]
    first, second = (run_arm(Study(cases, engine, settings, seed=0), "federated-dp")[0] for _ in range(2))
    assert not same(first, second)


def test_named_layers_alone_are_trained_by_the_federation(
    retailers: list[Retailer], settings: Settings, engine: Engine
) -> None:
    cases = [make_case(one, settings) for one in retailers]
    heads = replace(settings, dp=replace(settings.dp, layers=("head1", "head2")))
    study = Study(cases, engine, heads, seed=0)
    shared = run_arm(study, "federated-dp")[0]
    assert shared.tensors is not None
    assert {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in shared.tensors} == {"head1", "head2"}
    assert all(value.any() for value in shared.tensors.values())
    shared.put_on(engine)
    others = {name: value for name, value in engine.worn(shared.tensors).items() if name not in shared.tensors}
    assert not any(value.any() for name, value in others.items() if "lora_B" in name)


def test_more_privacy_means_more_noise(settings: Settings, engine: Engine) -> None:
    def sigma(epsilon: float) -> float:
        plan = announce(engine, replace(settings, epsilon=epsilon), settings.dp, name="x", seed=0).plan
        assert plan.privacy is not None
        return plan.privacy.buckets["S"].noise_multiplier

    assert sigma(1.0) > sigma(4.0) > sigma(8.0)


def test_a_client_that_declines_ends_the_simulation_with_its_reason(
    joined: tuple[Announcement, list[Member]],
) -> None:
    announced, clients = joined
    clients[1].session.policy = clients[1].session.policy.model_copy(update={"epsilon_per_federation": 0.1})
    with pytest.raises(Declined, match=r"(?s)drugstore-1 declined: .*epsilon_per_federation is 0.1"):
        federate_in_process(clients, announced, server_lr=1e-3)


def test_personal_arms_are_never_worse_on_validation_than_where_they_start(
    retailers: list[Retailer], settings: Settings, engine: Engine
) -> None:
    cases = [make_case(one, settings) for one in retailers]
    study = Study(cases, engine, settings, seed=0)
    shared, personal = run_arm(study, "federated-dp"), run_arm(study, "federated-dp-personal")

    def loss(case: Case, adapter: Adapter) -> float:
        adapter.put_on(engine)
        return study.validation(case)

    for case, before, after in zip(cases, shared, personal, strict=True):
        assert loss(case, after) <= loss(case, before) + 1e-9


def test_federated_takes_the_recipe_that_is_best_in_the_mean(
    retailers: list[Retailer], settings: Settings, engine: Engine
) -> None:
    cases = [make_case(one, settings) for one in retailers]
    study = Study(cases, engine, settings, seed=0)
    chosen = run_arm(study, "federated")[0]
    alone = []
    for recipe in settings.plain:
        single = Study(cases, engine, replace(settings, plain=(recipe,)), seed=0)
        alone.append(single.mean_validation(run_arm(single, "federated")[0]))
    assert study.mean_validation(chosen) == pytest.approx(min(alone))
    assert study.notes["federated"] == settings.plain[int(np.argmin(alone))].label


def test_the_json_has_every_key_and_no_number_that_is_none(result: Comparison) -> None:
    found = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert {"schema", "version", "command", "arms", "clients", "baselines", "intervals", "privacy", "seeds"} <= set(
        found
    )
    assert {"bytes_up_per_client_round", "seconds", "data"} <= set(found)
    assert set(found["arms"]) == {*ARMS, "gated-dp@1"}
    measures = {"wape", "mase", "rmsse", "sql", "wql", "coverage80"}
    for values in (*found["arms"].values(), *found["baselines"].values()):
        assert measures <= set(values)
        assert all(isinstance(values[name], float) for name in measures)
    assert set(found["baselines"]) == {"naive", "seasonal-naive"}
    assert [one["name"] for one in found["clients"]] == [case.retailer.name for case in result.cases]
    assert set(found["clients"][0]["arms"]) == {*ARMS, "gated-dp@1"}
    assert {"epsilon", "delta", "unit", "noise_multiplier", "signal_to_noise"} <= set(found["privacy"])
    assert found["privacy"]["epsilon"] <= 4.0
    assert set(found["seconds"]) == {"total", "training", "overhead"}
    assert {"name", "series", "fingerprint"} <= set(found["data"][0])
    assert found["seeds"] == [0, 1]


def test_means_and_intervals_are_over_retailers_and_seeds(result: Comparison) -> None:
    found = result.to_json()
    values = result.values("local", "wql")
    assert values.shape == (4, 2)
    assert found["arms"]["local"]["wql"] == pytest.approx(values.mean(), abs=1e-6)
    relative = values / result.values("seasonal-naive", "wql")
    interval = found["intervals"]["local"]["relative"]["wql"]
    assert interval["mean"] == pytest.approx(relative.mean(), abs=1e-6)
    assert interval["low"] <= interval["mean"] <= interval["high"]
    difference = found["intervals"]["federated"]["difference_to_local"]["wql"]["mean"]
    expected = (result.values("federated", "wql") - values) / result.values("seasonal-naive", "wql")
    assert difference == pytest.approx(expected.mean(), abs=1e-6)
    assert found["intervals"]["federated"]["gain_over_local"]["wql"] == pytest.approx((expected < 0).mean())
    reference = found["intervals"]["seasonal-naive"]["relative"]["wql"]
    assert reference == {"mean": 1.0, "low": 1.0, "high": 1.0}


def test_zero_shot_is_the_backbone_alone(result: Comparison, engine: Engine) -> None:
    values = result.values("zero-shot", "wql")
    np.testing.assert_allclose(values[:, 0], values[:, 1])
    engine.install_local(1)
    engine.use(None)
    case = result.cases[0]
    made = case.forecast(engine, case.cut.validation).select(case.validation.ids)
    fitted = Calibration.fit([(case.validation.y, made)], case.validation.scale.absolute)
    again = fitted.apply(case.forecast(engine, case.cut.test).select(case.test.ids))
    assert case.test.score(again)["wql"] == pytest.approx(values[0, 0])


def test_the_screen_says_what_is_better_and_what_is_not(result: Comparison) -> None:
    table = comparison_table(result)
    assert table.row_count == len(ARMS) + 1 + 2
    lines = headline(result)
    assert len(lines) == 7
    assert sum("training alone" in line for line in lines) == 4
    assert sum("what it has alone" in line for line in lines) == 3
    assert all("% of the retailers gain" in line for line in lines)
    private = privacy_line(result)
    assert private is not None
    assert "ε = 4.00" in private or "ε = 3.99" in private


def test_a_blend_and_its_calibration_do_not_see_the_test(
    retailers: list[Retailer], settings: Settings, engine: Engine
) -> None:
    found = []
    for group in (retailers[:2], [spoilt(one, settings.horizon) for one in retailers[:2]]):
        cases = [make_case(one, settings) for one in group]
        models = run_models(Study(cases, engine, settings, seed=0), "alone")
        found.append([([weight for _, weight in model.parts], model.calibration) for model in models])
    assert found[0] == found[1]
    assert any(calibration.windows for _, calibration in found[0])


def test_a_retailer_trusts_what_was_better_on_its_own_validation(
    retailers: list[Retailer], settings: Settings, engine: Engine
) -> None:
    cases = [make_case(one, settings) for one in retailers]
    study = Study(cases, engine, replace(settings, trust=1e6, calibrate=False), seed=0)
    gains = []
    for case, model in zip(cases, run_models(study, "alone"), strict=True):
        assert sum(weight for _, weight in model.parts) == pytest.approx(1)
        alone = [Model(((part, 1.0),)) for part, _ in model.parts]
        loss = [
            case.validation.relative_wql(one.forecast(engine, case, case.cut.validation, case.validation.ids))
            for one in (model, *alone)
        ]
        gains.append(min(loss[1:]) - loss[0])
    assert min(gains) > -0.002, "the best blend, up to what its descent leaves"
    assert max(gains) > 0.001, "and it is more than the choice of the best part"


def test_without_trust_all_parts_weigh_alike(
    retailers: list[Retailer], settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees_fit, "HISTORY", {"W": 10})
    case = make_case(retailers[0], settings)
    trained = replace(settings, trust=0.0, calibrate=False)
    model = run_models(Study([case], engine, trained, seed=0), "gated")[0]
    assert [weight for _, weight in model.parts] == pytest.approx([1 / 5] * 5)
    parts = [
        Model(((part, 1.0),)).forecast(engine, case, case.cut.test, case.test.ids).quantiles
        for part, _ in model.parts
    ]
    made = model.forecast(engine, case, case.cut.test, case.test.ids)
    np.testing.assert_allclose(made.quantiles, np.mean(parts, axis=0), rtol=1e-6)


def test_the_trust_grows_with_the_years_of_sales(
    retailers: list[Retailer], settings: Settings, engine: Engine
) -> None:
    case = make_case(retailers[0], settings)
    assert case.years == pytest.approx(30 / 52)
    local = run_arm(Study([case], engine, settings, seed=0), "local")
    losses = []
    for years in (0.25, 1, 4):
        # The same evidence; nothing is trained on the case that is said to be older.
        older = replace(case, data=replace(case.data, train_end=round(52 * years)))
        study = Study([older], engine, replace(settings, trust=1.0, calibrate=False), seed=0)
        study.adapters["local"] = local
        model = run_models(study, "alone")[0]
        made = model.forecast(engine, case, case.cut.validation, case.validation.ids)
        losses.append(case.validation.relative_wql(made))
    assert losses[0] > losses[1] > losses[2]


def test_a_part_that_repeats_another_has_no_weight(
    retailers: list[Retailer], settings: Settings, engine: Engine
) -> None:
    cases = [make_case(one, settings) for one in retailers]
    study = Study(cases, engine, replace(settings, trust=0.0), seed=0)
    study.adapters["local"] = run_arm(study, "zero-shot")  # what is left where no training was best
    for model in run_models(study, "alone"):
        # Trees of half a year change nothing, so they repeat the pretrained model, too.
        assert [weight for _, weight in model.parts] == pytest.approx([0.5, 0.0, 0.5, 0.0])


def test_arms_are_calibrated_unless_asked_not_to_be(
    retailers: list[Retailer], settings: Settings, engine: Engine
) -> None:
    cases = [make_case(one, settings) for one in retailers[:2]]
    for calibrate in (True, False):
        study = Study(cases, engine, replace(settings, calibrate=calibrate), seed=0)
        models = run_models(study, "zero-shot")
        assert all(model.calibration.changes_nothing is not calibrate for model in models)


def test_an_arm_may_carry_an_epsilon_of_its_own(result: Comparison) -> None:
    private = result.to_json()["privacy"]["by_arm"]
    assert private.keys() == {"federated-dp", "federated-dp@1"}
    assert private["federated-dp@1"]["epsilon"] <= 1 < private["federated-dp"]["epsilon"] <= 4
    assert private["federated-dp@1"]["noise_multiplier"] > private["federated-dp"]["noise_multiplier"]
    for arm in ("local@4", "federated-dp@0", "federated-dp@x", "gossip@4"):
        with pytest.raises(UsageError, match=r"no arm"):
            split_arm(arm)


def test_what_cannot_be_compared_is_refused(retailers: list[Retailer], settings: Settings, engine: Engine) -> None:
    with pytest.raises(UsageError, match="'gossip'"):
        compare(retailers, ["gossip"], settings, engine=engine)
    with pytest.raises(DataError, match="No retailer"):
        compare(retailers, ["zero-shot"], replace(settings, horizon=30), engine=engine)


def test_defaults_shrink_the_context_to_the_history_and_take_what_is_asked() -> None:
    found = Settings.of("W", history=26, rounds=7, rank=3, steps=9, clip=0.5, seeds=2)
    assert found.context == 42
    assert (found.dp.rounds, found.dp.rank, found.dp.clip) == (7, 3, 0.5)
    assert {recipe.rounds for recipe in found.plain} == {7}
    assert {recipe.steps for recipe in found.plain if recipe.update == "weights"} == {9}
    assert found.seeds == (0, 1)
    assert Settings.of("D").context == 252
    assert math.isclose(Settings.of("D").epsilon, 4.0)
