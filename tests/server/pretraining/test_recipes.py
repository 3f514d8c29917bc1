"""Recipes: what is shipped, what is refused, and when one run may go on as another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trend_common.errors import UsageError
from trend_server.pretraining.recipe import RECIPES, Recipe, load_recipe

MakeRecipe = Callable[..., Recipe]


@pytest.mark.parametrize("name", RECIPES)
def test_the_shipped_ones_warm_up_and_end_small(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.rate(0) < recipe.rate(recipe.warmup) == recipe.learning_rate
    assert recipe.rate(recipe.steps - 1) < 0.1 * recipe.learning_rate


def test_a_mistake_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no recipe"):
        load_recipe("nothing")
    bad = tmp_path / "bad.toml"
    bad.write_text("stepz = 3\nbatch = 7\n")
    with pytest.raises(UsageError, match="stepz"):
        load_recipe(str(bad))
    with pytest.raises(UsageError, match="multiple"):
        load_recipe("trend-small", batch=100)
    with pytest.raises(UsageError, match="exclude"):
        load_recipe("continue", backbone="gpt2")


@given(st.integers(1, 40_000))
def test_any_number_of_steps_has_a_schedule(steps: int) -> None:
    recipe = load_recipe("trend-small", steps=steps)
    assert recipe.steps == steps
    assert 0 < recipe.rate(steps - 1) <= recipe.learning_rate


def test_more_steps_do_not_change_the_first_ones() -> None:
    shorter, longer = load_recipe("trend-small"), load_recipe("trend-small", steps=50_000)
    assert (longer.warmup, longer.decay) == (shorter.warmup, shorter.decay)
    begins_to_fall = shorter.steps - shorter.decay
    assert shorter.agrees(longer, begins_to_fall)
    assert not shorter.agrees(longer, begins_to_fall + 2)


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"batch": 16}, {"micro_batch": 8}, {"weight_decay": 0.1}, {"learning_rate": 0.1}]
)
def test_recipes_that_train_otherwise_do_not_agree(tiny: MakeRecipe, change: dict[str, float]) -> None:
    assert tiny().agrees(tiny(), 12)
    assert not tiny().agrees(tiny(**change), 1)
