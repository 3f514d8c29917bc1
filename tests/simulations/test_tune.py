"""The search for settings: on validation alone, resumable, and in the form that the commands read."""

from __future__ import annotations

import json
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from trend_client.engine import Engine
from trend_client.finetune import FineTuneSettings, load_settings
from trend_common.errors import DataError, PolicyError, UsageError
from trend_common.panel import from_frame
from trend_server.settings import load_settings as load_server_settings
from trend_simulations import cli
from trend_simulations import tune as module
from trend_simulations.settings import DpRecipe, Settings
from trend_simulations.sources import Retailer, synthetic
from trend_simulations.tune import Tuned, tune
from trend_simulations.tune_space import KINDS, default_values, to_recipe, to_settings

H = 7


@pytest.fixture(scope="module")
def shops() -> list[Retailer]:
    return synthetic(2, seed=0, days=160, sizes=(4, 6))


def settings_of(tiny_backbone: Path) -> Settings:
    return replace(Settings.of("D", horizon=H, history=120, backbone=str(tiny_backbone)), seeds=(0,))


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials of a few steps: what is searched is not what is tested here."""

    def few(kind: Any, values: dict[str, Any]) -> FineTuneSettings:
        made = to_settings(kind, values)
        launch = made.launch.model_copy(update={"steps": 4, "look_every": 2})
        return made.model_copy(update={"steps": 4, "look_every": 2, "launch": launch})

    monkeypatch.setattr(module, "to_settings", few)


def search(shops: list[Retailer], engine: Engine, tiny: Path, trials: int = 3, **more: Any) -> Tuned:
    return tune(shops, settings_of(tiny), **{"kind": "personal", "trials": trials, "engine": engine, **more})


def test_the_defaults_are_those_as_shipped() -> None:
    assert to_settings("personal", default_values("personal")) == FineTuneSettings()
    assert to_settings("launch", default_values("launch")) == FineTuneSettings()
    assert to_recipe(default_values("federated")) == DpRecipe()
    assert default_values("personal", ("head",))["freeze"] == "head"
    assert "dropout" not in default_values("personal", ("head", "full"))


def test_a_study_finds_settings_that_personalise_reads(
    shops: list[Retailer], engine: Engine, tiny_backbone: Path, tmp_path: Path
) -> None:
    found = search(shops, engine, tiny_backbone, freeze=("head", "lora"))
    assert found.best == min(one["measure"] for one in found.trials) or found.best <= found.trials[0]["measure"]
    assert len(found.trials) == 3
    assert found.best <= found.zero_shot + 1e-6, "no training is among the choices of every trial"
    path = tmp_path / "best.toml"
    path.write_text(found.toml, "utf-8")
    assert load_settings(path) == to_settings("personal", found.values)
    assert json.loads(json.dumps(found.to_json()))["best"]["values"] == found.values


def test_a_study_goes_on_where_it_ended(
    shops: list[Retailer], engine: Engine, tiny_backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "study.db"
    measured: list[dict[str, Any]] = []
    own = module._Bench.measure

    def interrupted(self: Any, values: dict[str, Any]) -> float:
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(values)
        return own(self, values)

    monkeypatch.setattr(module._Bench, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        search(shops, engine, tiny_backbone, trials=4, study=file)
    monkeypatch.setattr(module._Bench, "measure", lambda self, values: measured.append(values) or own(self, values))
    found = search(shops, engine, tiny_backbone, trials=4, study=file)
    assert len(found.trials) == 4
    assert len(measured) == 4, "trials that were finished are not measured again"
    assert len({json.dumps(one, sort_keys=True) for one in measured}) == 4
    again = search(shops, engine, tiny_backbone, trials=4, study=file)
    assert len(measured) == 4
    assert again.to_json() == found.to_json()


def test_a_study_of_other_sales_is_not_mixed_with(
    shops: list[Retailer], engine: Engine, tiny_backbone: Path, tmp_path: Path
) -> None:
    file = tmp_path / "study.db"
    search(shops, engine, tiny_backbone, trials=1, study=file)
    with pytest.raises(UsageError, match="another sales"):
        search(shops[:1], engine, tiny_backbone, trials=1, study=file)
    with pytest.raises(UsageError, match="another freeze"):
        search(shops, engine, tiny_backbone, trials=1, study=file, freeze=("head",))
    other = tmp_path / "notes.txt"
    other.write_text("not a database, but long enough to be read as one " * 50, "utf-8")
    with pytest.raises(UsageError, match="is not a file of trend-sim tune"):
        search(shops, engine, tiny_backbone, trials=1, study=other)


@pytest.mark.parametrize("kind", ["personal", "federated"])
def test_the_test_window_cannot_be_seen(kind: str, engine: Engine, tiny_backbone: Path) -> None:
    """The last horizon is poisoned; every measure must be the same to the last digit (private noise aside)."""
    shop = synthetic(1, seed=0, days=160, sizes=(5, 5))[0]
    frame = shop.panel.frame
    late = frame["ds"] > shop.panel.end - pd.Timedelta(days=H)
    spoilt = replace(shop.panel, frame=frame.assign(y=np.where(late & frame["y"].notna(), 1e6, frame["y"])))
    engine.install_local(2)
    found = []
    for panel in (shop.panel, spoilt):
        cases = [module.make_case(Retailer("one", panel), settings_of(tiny_backbone))]
        bench = module._Bench(cases, engine, settings_of(tiny_backbone), kind)  # type: ignore[arg-type]
        measured = [bench.zero_shot()]
        if kind == "personal":
            measured += [bench.usual() or 0.0, bench.measure(default_values("personal"))]
        found.append(measured)
    assert found[0] == found[1]


def test_a_federations_recipe_is_searched_and_fits_the_servers_file(
    shops: list[Retailer], engine: Engine, tiny_backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[DpRecipe] = []
    own = module.run_arm

    def noted(study: Any, arm: str) -> Any:
        seen.append(study.settings.dp)
        study.settings = replace(study.settings, dp=replace(study.settings.dp, rounds=1))
        return own(study, arm)

    monkeypatch.setattr(module, "run_arm", noted)
    found = search(shops, engine, tiny_backbone, trials=2, kind="federated")
    assert seen[0] == DpRecipe()
    assert seen[1] != DpRecipe()
    assert [to_recipe(one["values"]) for one in found.trials] == seen
    path = tmp_path / "server.toml"
    path.write_text(found.toml, "utf-8")
    server, best = load_server_settings(path, {}), to_recipe(found.values)
    assert (server.rounds, server.rank, server.clip) == (best.rounds, best.rank, best.clip)
    assert (server.learning_rate, server.windows_per_series) == (best.server_lr, best.windows_per_series)


@pytest.mark.parametrize("policy", ["full", "adalora"])
def test_a_private_federation_cannot_train_everything(
    policy: str, shops: list[Retailer], engine: Engine, tiny_backbone: Path
) -> None:
    with pytest.raises(PolicyError, match=f'freeze = "{policy}"'):
        search(shops, engine, tiny_backbone, kind="federated", freeze=(policy,))


def test_the_launch_part_is_judged_on_products_held_out(engine: Engine, tiny_backbone: Path) -> None:
    rng = np.random.default_rng(0)
    dates = pd.date_range("2024-01-01", periods=160)
    frame = pd.concat(
        [
            pd.DataFrame(
                {
                    "date": dates[(n % 5) * 20 :],
                    "store": "s",
                    "product": f"p{n}",
                    "units": rng.poisson(5 + n % 7, 160 - (n % 5) * 20),
                    "description": f"mug {n}",
                }
            )
            for n in range(30)
        ]
    )
    shop = Retailer("one", from_frame(frame, freq="D"))
    found = search([shop], engine, tiny_backbone, trials=2, kind="launch")
    assert found.zero_shot == 1.0
    assert found.best <= 1.0
    assert set(found.values) == {"learning_rate", "words_rate", "batch_size", "synonyms"}
    assert tomllib.loads(found.toml)["launch"]["learning_rate"] == found.values["learning_rate"]
    few = Retailer("few", shop.panel.select(shop.panel.ids[:10]))
    with pytest.raises(DataError, match="could be judged"):
        search([few], engine, tiny_backbone, trials=2, kind="launch")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["trend-sim", "tune", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_the_command_prints_toml_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_backbone: Path, tmp_path: Path
) -> None:
    target, best = tmp_path / "t.json", tmp_path / "best.toml"
    arguments = ["--data", "synthetic", "--retailers", "1", "--sizes", "3-3", "--horizon", "7", "--trials", "2"]
    arguments += ["--backbone", str(tiny_backbone), "--study", str(tmp_path / "s.db"), "--out", str(best)]
    assert run(monkeypatch, *arguments, "--json", str(target)) == 0
    shown = capsys.readouterr()
    assert FineTuneSettings.model_validate(tomllib.loads(shown.out)) == load_settings(best)
    assert "2 trials on validation" in " ".join(shown.err.split())
    found = json.loads(target.read_text("utf-8"))
    assert (found["command"], found["kind"], len(found["trials"])) == ("tune", "personal", 2)
    assert found["toml"] == shown.out
    assert len(found["data"]) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "No sales were named"),
        (["--data", "synthetic", "--launch", "--federated"], 2, "two studies"),
        (["--data", "synthetic", "a.csv"], 2, "stands beside files"),
        (["--data", "nowhere.csv"], 3, "nowhere.csv"),
        (["--data", "synthetic", "--freeze", "lora,ice"], 2, "names ice"),
        (["--data", "synthetic", "--freeze", "prefix"], 2, "names prefix"),
        (["--data", "synthetic", "--federated", "--freeze", "full"], 4, "Private training refuses"),
    ],
)
def test_mistakes_are_explained(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    assert run(monkeypatch, *arguments) == code
    shown = capsys.readouterr()
    assert words in " ".join(shown.err.split())
    assert "Traceback" not in shown.err


def test_without_optuna_the_command_says_what_to_install(
    shops: list[Retailer], engine: Engine, tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match="not installed") as caught:
        search(shops, engine, tiny_backbone)
    assert "trend-federated[sim]" in caught.value.hint


def test_every_kind_has_defaults() -> None:
    assert all(default_values(kind) for kind in KINDS)
