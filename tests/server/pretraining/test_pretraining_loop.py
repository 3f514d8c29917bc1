"""A pretraining that can be stopped, killed, moved to other processes, and not mixed up with another."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import trend_server.pretraining.launch as launch
import trend_server.pretraining.pupil as pupil_module
from trend_common.backbones import backbone_sha256, load_backbone
from trend_common.errors import TrendError, UsageError
from trend_server.pretraining.keeper import Watch
from trend_server.pretraining.launch import choose_device, choose_processes, pretrain_in_processes
from trend_server.pretraining.loop import Run, pretrain
from trend_server.pretraining.recipe import Recipe
from trend_server.pretraining.state import locked

MakeRecipe = Callable[..., Recipe]


class Heard(Watch):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.rows: list[dict[str, Any]] = []

    def step(self, step: int, loss: float) -> None:
        """See :class:`Watch`."""
        self.steps.append(step)

    def checkpoint(self, row: dict[str, Any]) -> None:
        """See :class:`Watch`."""
        self.rows.append(row)


def weights(folder: Path) -> dict[str, Tensor]:
    """What a run wrote as its model."""
    found: dict[str, Tensor] = load_file(folder / "model.safetensors")
    return found


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two models are the same to the last bit."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.usefixtures("_no_validation")
def test_a_stopped_pretraining_ends_with_the_same_weights(tmp_path: Path, tiny: MakeRecipe) -> None:
    whole = pretrain(tiny(), Run(tmp_path / "whole"))
    pretrain(tiny(), Run(tmp_path / "parts", stop_after=5))
    parts = pretrain(tiny(), Run(tmp_path / "parts"))
    assert same(weights(whole), weights(parts))
    log = [json.loads(line) for line in (parts / "training-log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [5, 12]
    other = pretrain(tiny(seed=1), Run(tmp_path / "other"))
    assert not same(weights(whole), weights(other))


@pytest.mark.usefixtures("_no_validation")
def test_it_stops_after_the_step_it_is_in(tmp_path: Path, tiny: MakeRecipe) -> None:
    heard, run = Heard(), Run(tmp_path)
    pretrain(tiny(), run, watch=heard, stop=lambda: heard.steps[-1:] == [2])
    assert heard.steps == [0, 1, 2, 3]
    assert [row["step"] for row in heard.rows] == [3]
    again = Heard()
    pretrain(tiny(), run, watch=again)
    assert again.steps == list(range(3, 13))
    finished = Heard()
    pretrain(tiny(), run, watch=finished)
    assert (finished.steps, finished.rows) == ([12], []), "a finished run has nothing to do"


@pytest.mark.usefixtures("_no_validation")
def test_checkpoints_come_as_often_as_asked(tmp_path: Path, tiny: MakeRecipe) -> None:
    heard = Heard()
    pretrain(tiny(), Run(tmp_path, save_every_s=0), watch=heard)
    assert [row["step"] for row in heard.rows] == list(range(1, 13))
    assert all({"series", "elapsed_s", "loss", "validation_loss"} <= row.keys() for row in heard.rows)


def test_what_is_written_is_a_backbone_and_says_how_it_was_made(tmp_path: Path, tiny: MakeRecipe) -> None:
    heard = Heard()
    pretrain(tiny(), Run(tmp_path / "out"), watch=heard)
    assert load_backbone(str(tmp_path / "out")).core.config.d_model == 16
    made = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert (made["steps"], made["seed"], made["model"]["d_model"], made["start"]) == (12, 0, 16, None)
    assert 0.1 < heard.rows[-1]["validation_loss"] < 2


@pytest.mark.slow
def test_two_processes_learn_the_same_as_one(tmp_path: Path, tiny: MakeRecipe) -> None:
    recipe, heard = tiny(steps=6, decay=0), Heard()
    one = pretrain_in_processes(recipe, Run(tmp_path / "one", threads=1), 1)
    two = pretrain_in_processes(recipe, Run(tmp_path / "two", threads=1), 2, watch=heard)
    for name, value in weights(one).items():
        torch.testing.assert_close(value, weights(two)[name], rtol=1e-3, atol=1e-5)
    assert heard.steps == list(range(7))
    assert [row["step"] for row in heard.rows] == [6]


@pytest.mark.usefixtures("_no_validation")
def test_another_training_in_the_same_folder_is_refused(tmp_path: Path, tiny: MakeRecipe) -> None:
    run = Run(tmp_path / "out", stop_after=5)
    pretrain(tiny(), run)
    before = weights(run.out)
    for changes, named in (({"seed": 1}, "seed"), ({"batch": 16}, "batch"), ({"warmup": 3}, "warmup")):
        with pytest.raises(UsageError, match=f"holds 5 steps of another training: {named}"):
            pretrain_in_processes(tiny(**changes), run, 1)
    bigger = tiny(model={"d_model": 24, "n_heads": 2})
    with pytest.raises(UsageError, match="model"):
        pretrain_in_processes(bigger, run, 1)
    assert same(before, weights(run.out))
    pretrain(tiny(steps=20), Run(tmp_path / "out", stop_after=7))  # the rates of the first five steps are the same
    assert not same(before, weights(run.out))


@pytest.mark.usefixtures("_no_validation")
def test_a_state_from_before_recipes_were_kept_goes_on(tmp_path: Path, tiny: MakeRecipe) -> None:
    whole = pretrain(tiny(), Run(tmp_path / "whole"))
    run = Run(tmp_path / "old", stop_after=5)
    pretrain(tiny(), run)
    state = torch.load(run.out / "state.pt", weights_only=True)
    torch.save({key: value for key, value in state.items() if key not in ("recipe", "start")}, run.out / "state.pt")
    with pytest.raises(UsageError, match="another model"):
        pretrain_in_processes(tiny(model={"d_model": 24, "n_heads": 2}), run, 1)
    pretrain_in_processes(tiny(), Run(run.out), 1)
    assert same(weights(whole), weights(run.out))


def test_a_folder_that_is_not_a_runs_is_refused(tmp_path: Path, tiny: MakeRecipe) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "state.pt").write_bytes(b"nothing that torch wrote")
    with pytest.raises(UsageError, match="cannot be read"):
        pretrain_in_processes(tiny(), Run(out), 1)
    (out / "state.pt").unlink()
    (out / "model.safetensors").write_bytes(b"somebody's model")
    with pytest.raises(UsageError, match="no state of its training"):
        pretrain_in_processes(tiny(), Run(out), 1)
    assert (out / "model.safetensors").read_bytes() == b"somebody's model"
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be used"):
        pretrain_in_processes(tiny(), Run(tmp_path / "file"), 1)


def test_two_runs_do_not_share_a_folder(tmp_path: Path, tiny: MakeRecipe) -> None:
    with locked(tmp_path), pytest.raises(UsageError, match="is running in"):
        pretrain_in_processes(tiny(), Run(tmp_path), 1)


@pytest.mark.usefixtures("_no_validation")
def test_it_starts_from_given_weights(tmp_path: Path, tiny: MakeRecipe, tiny_backbone: Path) -> None:
    recipe = tiny(init=str(tiny_backbone), steps=1, warmup=0, decay=0, learning_rate=1e-5)
    out = pretrain_in_processes(recipe, Run(tmp_path / "out"), 1)
    given = weights(tiny_backbone)
    assert not same(given, weights(out))
    for name, value in weights(out).items():
        torch.testing.assert_close(value, given[name], rtol=0, atol=1e-4)
    made = json.loads((out / "recipe.json").read_text())
    assert made["start"] == backbone_sha256(load_backbone(str(tiny_backbone)))
    with pytest.raises(UsageError, match="another training: the model"):
        pretrain_in_processes(recipe.model_copy(update={"init": str(out)}), Run(tmp_path / "out"), 1)
    with pytest.raises(TrendError, match="nowhere"):
        pretrain_in_processes(tiny(init=str(tmp_path / "nowhere")), Run(tmp_path / "other"), 1)


@pytest.mark.usefixtures("_no_validation")
def test_a_spread_set_right_before_is_not_trained_against(
    tmp_path: Path, tiny: MakeRecipe, tiny_backbone: Path
) -> None:
    start = tmp_path / "start"
    shutil.copytree(tiny_backbone, start)
    config = json.loads((start / "config.json").read_text())
    (start / "config.json").write_text(json.dumps({**config, "spread": [1.0, 0.5, 1.0]}))
    made = {
        name: pretrain_in_processes(
            tiny(init=str(folder), steps=1, warmup=0, decay=0, learning_rate=1e-3), Run(tmp_path / name), 1
        )
        for name, folder in (("with", start), ("without", tiny_backbone))
    }
    assert same(weights(made["with"]), weights(made["without"]))
    assert json.loads((made["with"] / "config.json").read_text())["spread"] == [1.0, 1.0, 1.0]


class Foreign(nn.Module):
    """A backbone whose ``head`` did not come with its core."""

    name, max_context, max_horizon, tasks, task = "foreign", 56, 14, ("demand",), "demand"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.core, self.head = nn.Linear(14, 4), nn.Linear(4, 14)
        self.longest = 0

    def fresh_parameters(self) -> tuple[str, ...]:
        """See the interface."""
        return ("head.weight", "head.bias")

    def forward(self, batch: Any) -> Any:
        """A loss that reaches the head through the core."""
        self.longest = max(self.longest, batch.past_values.shape[1], batch.future_values.shape[1])
        past = torch.log1p(batch.past_values[:, -14:])
        error = self.head(self.core(past))[:, : batch.future_values.shape[1]] - torch.log1p(batch.future_values)
        return type("Out", (), {"loss_per_sample": (error**2 * batch.future_mask).mean(1)})

    def save_pretrained(self, folder: Path) -> None:
        """Core and head together."""
        torch.save(self.state_dict(), folder / "composite.pt")


def test_of_a_foreign_core_only_the_fresh_layers_are_trained(
    tmp_path: Path, tiny: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Foreign] = []

    def load(_name: str) -> Foreign:
        made.append(Foreign())
        return made[-1]

    monkeypatch.setattr(pupil_module, "load_backbone", load)
    out = pretrain_in_processes(tiny(backbone="foreign"), Run(tmp_path / "out", stop_after=6), 1)
    before, after = Foreign().state_dict(), torch.load(out / "composite.pt", weights_only=True)
    assert same(
        {name: before[name] for name in before if "core" in name}, {n: after[n] for n in after if "core" in n}
    )
    assert not torch.equal(before["head.weight"], after["head.weight"])
    assert 0 < made[-1].longest <= 56
    saved = torch.load(out / "state.pt", weights_only=True)
    assert set(saved["model"]) == {"head.weight", "head.bias"}
    pretrain_in_processes(tiny(backbone="foreign"), Run(tmp_path / "out"), 1)
    whole = pretrain_in_processes(tiny(backbone="foreign"), Run(tmp_path / "whole"), 1)
    again = torch.load(out / "composite.pt", weights_only=True)
    assert same(torch.load(whole / "composite.pt", weights_only=True), again)
    monkeypatch.setattr(Foreign, "fresh_parameters", lambda _: ())
    with pytest.raises(UsageError, match="nothing to train"):
        pretrain_in_processes(tiny(backbone="foreign"), Run(tmp_path / "none"), 1)


def test_processes_divide_the_micro_batches(tiny: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny(batch=24, micro_batch=4)
    for cores, expected in ((1, 1), (2, 2), (4, 3), (5, 3), (64, 6)):
        monkeypatch.setattr(launch, "_cores", lambda cores=cores: cores)
        assert choose_processes(recipe, None, "cpu") == expected
    assert choose_processes(recipe, 6, "cpu") == 6
    with pytest.raises(UsageError, match="does not divide among 4") as caught:
        choose_processes(recipe, 4, "cpu")
    assert "1, 2, 3, 6" in caught.value.hint
    monkeypatch.setattr("accelerate.Accelerator.num_processes", 5)
    with pytest.raises(ValueError, match="do not divide"):
        pretrain(recipe, Run(Path("unused")))


def test_a_device_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (choose_device("auto"), choose_device("cpu")) == ("cpu", "cpu")
    with pytest.raises(UsageError, match="no CUDA"):
        choose_device("cuda")
    with pytest.raises(UsageError, match="no device 'tpu'"):
        choose_device("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (choose_device("auto"), choose_device("cpu")) == ("cuda", "cpu")


@pytest.mark.usefixtures("_no_validation")
def test_the_log_goes_to_tensorboard(tmp_path: Path, tiny: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    pretrain(tiny(), Run(tmp_path, stop_after=5, tensorboard=True))
    pretrain(tiny(), Run(tmp_path, tensorboard=True))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    rows = [json.loads(line) for line in (tmp_path / "training-log.jsonl").read_text().splitlines()]
    found = [(one.step, round(one.value, 5)) for one in events.Scalars("loss")]
    assert found == [(row["step"], pytest.approx(row["loss"], abs=1e-5)) for row in rows]
    assert [one.step for one in events.Scalars("validation_loss")] == [5, 12]
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match="TensorBoard is not installed"):
        pretrain_in_processes(tiny(), Run(tmp_path / "other", tensorboard=True), 1)
    assert not (tmp_path / "other").exists()
