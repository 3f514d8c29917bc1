"""Small assortments, what a personal model forgets, and what becomes of it when a newer shared adapter comes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from trend_client.drawing import Drawer
from trend_client.engine import Engine
from trend_client.fewshot import few_shot, part_way
from trend_client.finetune import FineTuneSettings, LaunchSettings
from trend_client.home import ClientHome
from trend_client.memory import forgetting, made_up, rehearsal
from trend_client.outcome import Model, measured, personalise
from trend_client.parts import Parts, rebased
from trend_client.training import TrainingData
from trend_common.panel import SalesPanel
from trend_common.scoring import origins
from trend_common.windows import PanelWindows

H, CONTEXT = 7, 64


@pytest.fixture(scope="module")
def engine(tiny_backbone: Path) -> Engine:
    made = Engine(str(tiny_backbone), device="cpu")
    made.install_local(2)
    return made


def shifted(engine: Engine, size: float, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        name: (value + size * rng.normal(size=value.shape)).astype(np.float32) if "lora_B" in name else value
        for name, value in engine.worn(None).items()
    }


def test_few_shot_is_never_worse_than_its_start_over_its_windows(engine: Engine, panel: SalesPanel) -> None:
    windows = PanelWindows(panel, context=CONTEXT)
    rolling = tuple(windows.step_of(day) for day in origins(panel, H, windows=2).rolling)
    made, tried = few_shot(engine, windows, None, rolling=rolling, horizon=H, seed=0)
    assert set(tried) == {"none", "25% of the way", "50% of the way", "75% of the way", "100% of the way"}
    from trend_common.metrics import wql

    found = [wql(windows.actuals(one, H), engine.forecast(made, windows, one, H)) for one in rolling]
    assert float(np.mean(found)) == pytest.approx(min(tried.values()), rel=1e-5)


def test_half_the_way() -> None:
    start, end = {"a": np.zeros(3, np.float32)}, {"a": np.ones(3, np.float32), "own": np.ones(2, np.float32)}
    assert_allclose(part_way(start, end, 0.5)["a"], 0.5)
    assert_allclose(part_way(start, end, 0.5)["own"], 1.0)


def test_made_up_sales_are_the_same_for_all_and_others_for_the_score() -> None:
    assert made_up("D", seed=1).frame.equals(made_up("D", seed=1).frame)
    assert not made_up("D", seed=1).frame["y"].equals(made_up("D", seed=2).frame["y"])
    for freq in ("D", "W", "M"):
        panel = made_up(freq, seed=1, series=3)  # type: ignore[arg-type]
        assert panel.n_series == 3
        assert (panel.frame["y"] >= 0).all()
        assert PanelWindows(panel, context=24).n_steps == len(panel.frame) // 3


def test_forgetting_is_nothing_for_the_same_model_and_much_for_a_broken_one(engine: Engine) -> None:
    same = engine.worn(None)
    assert forgetting(engine, None, same, "D", context=CONTEXT, horizon=H) == pytest.approx(0.0, abs=1e-6)
    broken = shifted(engine, 3.0)
    assert abs(forgetting(engine, None, broken, "D", context=CONTEXT, horizon=H)) > 0.05


def test_replay_takes_its_share_of_a_batch(panel: SalesPanel) -> None:
    windows = PanelWindows(panel, context=CONTEXT)
    data = TrainingData.of(windows, train_end=windows.n_steps - H, horizon=H)
    settings = FineTuneSettings(batch_size=20, replay=0.25, launch=LaunchSettings(steps=0))
    own, foreign = Drawer(data, settings, np.random.default_rng(0)).draw()
    assert (len(own), len(foreign)) == (15, 5)
    made = rehearsal("D", context=CONTEXT, horizon=H)
    names = {tuple(row) for row in made.windows.batch(np.arange(48), np.full(48, 80), H).static_ids.tolist()}
    assert {tuple(row) for row in foreign.static_ids.tolist()} <= names
    plain = Drawer(data, settings.model_copy(update={"replay": 0.0}), np.random.default_rng(0)).draw()
    assert [len(part) for part in plain] == [20]


def test_what_was_learned_is_put_on_top_of_the_new_shared_adapter(engine: Engine) -> None:
    old, new = shifted(engine, 0.1, seed=1), shifted(engine, 0.1, seed=2)
    learned = shifted(engine, 0.2, seed=3)
    blank = engine.worn(None)
    personal = Parts(({name: old[name] + learned[name] - blank[name] for name in old}, learned), learned).join()
    found = Parts.of(rebased(personal, old, new))
    member = found.members[0]
    assert member is not None
    for name in old:
        assert_allclose(member[name], new[name] + learned[name] - blank[name], atol=1e-5)
    assert found.launch is not None
    assert rebased({"word": np.ones(2, np.float32)}, old, new)["word"].tolist() == [1, 1]


def test_a_personal_model_says_what_it_has_seen_and_is_scored_after_it(
    engine: Engine, panel: SalesPanel, tmp_path: Path
) -> None:
    home = ClientHome(tmp_path / "home")
    model = Model("local", H, CONTEXT, {"zero-shot": None})
    made = personalise(home, engine, panel, model, few=True)
    rolling = origins(panel, H, windows=2).rolling
    assert made.since["personal"] == rolling[0]
    assert home.personal_seen("local") == str(rolling[0].date())
    assert made.forgetting is not None
    methods = {name: engine.forecaster(tensors, context=CONTEXT) for name, tensors in made.adapters.items()}
    from trend_client.backtest import baseline_forecasters

    both = {**baseline_forecasters(("same-phase-mean",)), **methods}
    found = measured(panel, made, both)
    assert found.scored_on == {"same-phase-mean": 4, "zero-shot": 4, "personal": 2}
    from dataclasses import replace

    import pandas as pd

    late = replace(made, since={"personal": rolling[-1] + pd.Timedelta(days=1)})
    assert "personal" not in measured(panel, late, both).methods, "it has seen the last window as well"


def test_a_training_that_changed_nothing_is_told() -> None:
    from trend_client.join import told_of

    assert "no training was better than none" in told_of(0.0)
    assert "1.2% higher" in told_of(0.012)
    assert "1.2% lower" in told_of(-0.012)
