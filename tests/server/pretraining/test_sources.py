"""Micro-batches of sales files: random windows that never reach into what is held out, by turns with the world."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from trend_common.backbones import Batch
from trend_common.errors import DataError, UsageError
from trend_server.pretraining.keeper import data_loss
from trend_server.pretraining.launch import pretrain_in_processes
from trend_server.pretraining.loop import Run, pretrain
from trend_server.pretraining.pupil import make_pupil
from trend_server.pretraining.recipe import Recipe
from trend_server.pretraining.sources import HELD_OUT, Mixed, Panels, Synthetic, make_source

MakeRecipe = Callable[..., Recipe]
MakeFile = Callable[..., Path]


def test_a_number_is_a_micro_batch(sales_file: MakeFile) -> None:
    path = sales_file()
    one, again, other = (Panels([path]).draw(number, 16, "cpu") for number in (6, 6, 7))
    assert torch.equal(one.past_values, again.past_values)
    assert one.past_values.shape == other.past_values.shape, "two in a row have one shape"
    assert not torch.equal(one.future_values, other.future_values)
    shapes = {Panels([path]).draw(number, 2, "cpu").past_values.shape for number in range(0, 40, 2)}
    assert len(shapes) > 3


@pytest.mark.parametrize("days", [140, 300])  # in the short file, horizons reach beyond what may be seen
def test_what_is_held_out_is_in_no_window(sales_file: MakeFile, days: int) -> None:
    """The last three horizons of the file sell a thousandfold: one of their values in a batch would show."""
    panels = Panels([sales_file(marked=True, days=days)])
    sold = 0.0
    for number in range(60):
        batch = panels.draw(number, 32, "cpu")
        assert batch.future_values is not None
        sold = max(sold, float(batch.past_values.max()), float(batch.future_values.max()))
        assert (batch.future_values.sum(1) > 0).all(), "every window has a target"
    assert 0 < sold < 1000
    held_out = list(panels.files[0].held_out())
    assert len(held_out) == HELD_OUT
    for batch in held_out:
        assert batch.future_values is not None
        assert batch.future_values.shape == (8, 28)
        assert float(batch.future_values.min()) > 1000
    assert float(held_out[0].past_values.max()) < 1000 < float(held_out[1].past_values.max())


def test_names_are_not_learned(sales_file: MakeFile) -> None:
    panels = Panels([sales_file()])
    assert not panels.draw(1, 8, "cpu").static_ids.any()
    assert not next(iter(panels.files[0].held_out())).static_ids.any()


def test_weekly_and_monthly_files_give_windows_of_their_lengths(tmp_path: Path) -> None:
    for freq, alias, context in (("W", "W-MON", 252), ("M", "MS", 112)):
        dates = pd.date_range("2005-01-03" if freq == "W" else "2005-01-01", periods=190, freq=alias)
        path = tmp_path / f"{freq}.csv"
        pd.DataFrame({"date": dates, "product": "p", "units": np.arange(190) + 1}).to_csv(path, index=False)
        panels = Panels([path])
        for number in range(0, 30, 2):
            batch = panels.draw(number, 4, "cpu")
            assert batch.future_values is not None
            assert batch.past_values.shape[1] % 14 == 0 < batch.past_values.shape[1] <= context
            assert batch.future_values.shape[1] % 14 == 0 < batch.future_values.shape[1] <= 56


def test_a_file_that_is_too_short_is_named(sales_file: MakeFile, tiny: MakeRecipe, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"short\.csv covers 90 steps"):
        Panels([sales_file("short.csv", days=90)])
    with pytest.raises(UsageError, match="no file"):
        pretrain_in_processes(tiny(data=("missing.csv",)), Run(tmp_path / "out"), 1)


class _Named:
    def __init__(self, name: str) -> None:
        self.name, self.drawn = name, list[int]()

    def draw(self, number: int, _rows: int, _device: str) -> Batch:
        """Notes the number."""
        self.drawn.append(number)
        return None  # type: ignore[return-value]


@pytest.mark.parametrize("share", [0.001, 0.25, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("seed", [0, 3])
def test_the_share_is_exact_and_pairs_stay_together(share: float, seed: int) -> None:
    world, files = _Named("world"), _Named("files")
    source = Mixed(world, files, share)
    start = seed * 10**9
    for number in range(start, start + 2000):
        source.draw(number, 1, "cpu")
    assert len(files.drawn) == 2000 * share
    assert len(world.drawn) == 2000 - 2000 * share
    assert {number // 2 for number in files.drawn}.isdisjoint({number // 2 for number in world.drawn})


def test_without_files_all_is_synthetic(tiny: MakeRecipe) -> None:
    assert isinstance(make_source(tiny(), None), Synthetic)


@pytest.mark.usefixtures("_no_validation")
def test_training_on_a_file_lowers_its_held_out_loss(sales_file: MakeFile, tiny: MakeRecipe, tmp_path: Path) -> None:
    path = sales_file()
    panels = Panels([path])
    recipe = tiny(data=(str(path),), steps=60, batch=16, micro_batch=8, warmup=5, decay=20, learning_rate=0.01)

    def loss_after(one: Recipe, out: Path) -> float:
        pretrain(one, Run(out))
        return data_loss(make_pupil(tiny(init=str(out))).backbone, panels)

    torch.manual_seed(recipe.seed)
    before = data_loss(make_pupil(recipe).backbone, panels)
    after = loss_after(recipe, tmp_path / "mixed")
    without = loss_after(recipe.model_copy(update={"data": ()}), tmp_path / "synthetic")
    assert after < 0.8 * before
    assert after < 0.95 * without
