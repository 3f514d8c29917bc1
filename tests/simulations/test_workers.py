"""Many retailers: several processes give the same bits as one, and only who works is in memory."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trend_client.engine import Engine
from trend_client.training import TrainingData
from trend_common.errors import Declined
from trend_common.panel import SalesPanel
from trend_common.privacy.chain import inspect
from trend_common.privacy.plan import plan_epsilon
from trend_common.windows import PanelWindows
from trend_simulations.clients import Member
from trend_simulations.federation import Outcome, announce, federate_in_process, members
from trend_simulations.many import mapped
from trend_simulations.settings import DpRecipe, PlainRecipe, Settings
from trend_simulations.shelf import Shelf
from trend_simulations.sources import Retailer, ShelvedRetailer, last_history, synthetic

PLAIN = PlainRecipe("weights", rounds=2, steps=2, local_lr=1e-2, rank=2)


@pytest.fixture(scope="module")
def retailers() -> list[Retailer]:
    return last_history(synthetic(5, seed=2, freq="W", days=420, sizes=(3, 12)), horizon=4, history=30)


def play(
    engine: Engine,
    retailers: list[Retailer],
    root: Path,
    recipe: DpRecipe | PlainRecipe = PLAIN,
    *,
    workers: int = 1,
    shelf: Shelf | None = None,
    secure: bool = False,
    spoil: int | None = None,
) -> tuple[Outcome, list[Member]]:
    settings = Settings(freq="W", horizon=4, context=28)
    announced = announce(engine, settings, recipe, name="one", seed=5, secure=secure)
    joined = members(retailers, engine, announced.plan, root, seed=3, shelf=shelf)
    try:
        if spoil is not None:
            policy = joined[spoil].session.policy
            joined[spoil].session.policy = policy.model_copy(update={"epsilon_per_federation": 0.1})
        return federate_in_process(joined, announced, server_lr=0.05, workers=workers), joined
    finally:
        for member in joined:
            member.ledger.close()


def test_any_number_of_processes_gives_the_same_bits(
    engine: Engine, retailers: list[Retailer], tmp_path: Path
) -> None:
    shelf = Shelf(tmp_path / "shelf")
    one, _ = play(engine, retailers, tmp_path / "1")
    several = [
        play(engine, retailers, tmp_path / "2", workers=2)[0],
        play(engine, retailers, tmp_path / "3", workers=3, shelf=shelf)[0],
        play(engine, retailers, tmp_path / "4", shelf=shelf)[0],
    ]
    assert one.adapter.tensors is not None
    assert any(value.any() for value in one.adapter.tensors.values())
    for other in several:
        assert other.adapter.tensors is not None
        assert other.adapter.tensors.keys() == one.adapter.tensors.keys()
        for name, value in one.adapter.tensors.items():
            assert value.tobytes() == other.adapter.tensors[name].tobytes()
        assert other.bytes_up == one.bytes_up
        assert other.training > 0


def test_masks_cancel_across_processes(engine: Engine, retailers: list[Retailer], tmp_path: Path) -> None:
    recipe = PlainRecipe("weights", rounds=1, steps=2, local_lr=1e-2, rank=2)
    plain, _ = play(engine, retailers, tmp_path / "plain", recipe)
    secure, _ = play(engine, retailers, tmp_path / "secure", recipe, secure=True, workers=2)
    rules = secure.plan.secure_aggregation
    assert rules is not None
    assert plain.adapter.tensors is not None
    assert secure.adapter.tensors is not None
    for name, value in plain.adapter.tensors.items():
        atol = 1.01 * rules.range / rules.levels  # fixed point rounds at random
        np.testing.assert_allclose(secure.adapter.tensors[name], value, rtol=1e-6, atol=atol)


def test_private_clients_pay_and_seal_in_their_own_process(
    engine: Engine, retailers: list[Retailer], tmp_path: Path
) -> None:
    recipe = DpRecipe(rounds=3)
    outcome, joined = play(engine, retailers, tmp_path, recipe, workers=2, shelf=Shelf(tmp_path / "shelf"))
    assert outcome.spent.keys() == {one.name for one in retailers}
    for spent in outcome.spent.values():
        assert spent == pytest.approx(plan_epsilon(outcome.plan, "S"), rel=1e-6)
    for member in joined:
        home = member.session.home
        found = inspect(home.ledger_folder / "ledger.jsonl", home.root / "ledger.head")
        assert found.ok
        assert [line["kind"] for line in found.records].count("seal") == 3


def test_noise_is_not_the_same_in_two_processes(engine: Engine, retailers: list[Retailer], tmp_path: Path) -> None:
    recipe = DpRecipe(rounds=1)
    play(engine, [retailers[0]] * 2, tmp_path, recipe, workers=2)
    sealed = [next((tmp_path / f"{number:04d}").rglob("ledger-sealed/**/*.*")) for number in (0, 1)]
    assert sealed[0].read_bytes() != sealed[1].read_bytes()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_client_that_declines_says_why_from_its_process(
    engine: Engine, retailers: list[Retailer], tmp_path: Path, workers: int
) -> None:
    name = retailers[3].name
    with pytest.raises(Declined, match=rf"(?s){name} declined: .*epsilon_per_federation is 0.1"):
        play(engine, retailers, tmp_path, DpRecipe(rounds=1), workers=workers, spoil=3)


def test_only_who_works_is_in_memory(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many clients there are, windows and sales of one are there at a time."""
    shelf = Shelf(tmp_path / "shelf")
    drawn = last_history(synthetic(6, seed=2, freq="W", days=420, sizes=(3, 5), shelf=shelf), horizon=4, history=30)
    assert all(isinstance(one, ShelvedRetailer) for one in drawn)
    gc.collect()
    kinds = (PanelWindows, SalesPanel)
    before = {id(one) for one in gc.get_objects() if type(one) in kinds}
    most: dict[type, int] = {}
    draw = TrainingData.draw

    def counted(self: TrainingData, *arguments: object) -> object:
        gc.collect()
        held = [one for one in gc.get_objects() if type(one) in kinds and id(one) not in before]
        for kind in kinds:
            number = sum(type(one) is kind for one in held)
            most[kind] = max(most.get(kind, 0), number)
        return draw(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(TrainingData, "draw", counted)
    play(engine, drawn, tmp_path, shelf=shelf)
    assert most == {PanelWindows: 1, SalesPanel: 1}  # the panel is the one of these windows, without its rows


def test_what_is_taken_from_the_shelf_is_what_was_put_there(tmp_path: Path, retailers: list[Retailer]) -> None:
    shelf, panel = Shelf(tmp_path), retailers[0].panel
    value = {"a": np.arange(7.0), "b": np.ones((3, 2), np.float32).T, "empty": np.zeros((0, 3)), "text": "x"}
    shelf.put("one", value)
    for mapped_ in (True, False):
        found = shelf.take("one", mapped=mapped_)
        assert found["text"] == "x"
        for name in ("a", "b", "empty"):
            np.testing.assert_array_equal(found[name], value[name])
        assert found["a"].flags.writeable != mapped_
    shelf.put("one", panel)
    again = shelf.take("one")
    assert again.frame.equals(panel.frame)
    assert again.static.equals(panel.static)
    assert (again.freq, again.offset, again.ids) == (panel.freq, panel.offset, panel.ids)


def test_shelved_retailers_are_the_same_ones(tmp_path: Path) -> None:
    plain = synthetic(2, seed=4, freq="W", days=420, sizes=(5, 9))
    shelved = synthetic(2, seed=4, freq="W", days=420, sizes=(5, 9), shelf=Shelf(tmp_path))
    for kwargs in ({"history": None}, {"history": 30}, {"history": None, "max_series": 3}):
        ones, others = (last_history(found, horizon=4, **kwargs) for found in (plain, shelved))  # type: ignore[arg-type]
        assert [(one.name, one.group, one.series) for one in ones] == [(o.name, o.group, o.series) for o in others]
        assert all(one.panel.frame.equals(other.panel.frame) for one, other in zip(ones, others, strict=True))
        assert all(isinstance(other, ShelvedRetailer) for other in others)


@given(count=st.integers(0, 9), workers=st.integers(1, 4))
@settings(max_examples=8, deadline=None)
def test_results_come_in_the_items_order(count: int, workers: int) -> None:
    offset = 7  # known to the closure alone
    assert list(mapped(lambda number: number + offset, count, workers=workers)) == list(range(7, 7 + count))
