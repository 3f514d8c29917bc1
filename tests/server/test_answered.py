"""The server tells each client how many of its answers it has, through crashes; a refused one does not count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes import FakeClient, small_plan

from trend_common.flower.inprocess import InProcessGrid
from trend_common.tensors import Tensors
from trend_server.checkpoints import Checkpoint, DiskStore, MemoryStore, Store
from trend_server.federation import LoopSettings, federate

SETTINGS = LoopSettings(min_clients=1, round_timeout=None, patience=0.0, optimiser="sgd", learning_rate=1.0)


def play(clients: list[FakeClient], store: Store, rounds: int = 3) -> None:
    plan, initial, frozen = small_plan(rounds=rounds)
    grid = InProcessGrid(lambda node: clients[node].app(), range(len(clients)), raise_errors=False)
    federate(grid, plan, initial, frozen, SETTINGS, store)


def told(client: FakeClient) -> list[tuple[int, int]]:
    return [(order.round, order.answered) for order in client.orders]


def test_each_client_is_told_its_own_count() -> None:
    """One that answers in every round, and one whose answer to the second is not what the plan says."""

    def faulty(number: int, adapter: Tensors) -> Tensors:
        value = np.nan if number == 2 else 1.0
        return {name: np.full_like(one, value) for name, one in adapter.items()}

    steady, wrong = FakeClient(), FakeClient(faulty)
    play([steady, wrong], MemoryStore())
    assert told(steady) == [(1, 0), (2, 1), (3, 2)]
    assert sorted(set(told(wrong))) == [(1, 0), (2, 1), (3, 1)], "a refused answer does not count"


class Dies(DiskStore):
    """The server is gone after the checkpoint of a round."""

    def save(self, checkpoint: Checkpoint) -> None:
        super().save(checkpoint)
        if checkpoint.round == 2:
            raise KeyboardInterrupt


def test_the_count_survives_the_server(tmp_path: Path) -> None:
    client = FakeClient()
    with pytest.raises(KeyboardInterrupt):
        play([client], Dies(tmp_path))
    play([client], DiskStore(tmp_path))
    assert told(client) == [(1, 0), (2, 1), (3, 2)]
