"""When a client leaves: with its last answer, whether or not it hears that it arrived."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from trend_client.join import _Screen
from trend_common.flower.node import NodeEvent


@pytest.mark.parametrize("kind", ["answered", "dropped"])
@pytest.mark.parametrize(("finished", "failure"), [(True, None), (False, ValueError()), (False, None)])
def test_it_leaves_when_the_federation_is_over(kind: str, finished: bool, failure: Exception | None) -> None:
    """The server may have the last answer whole, and exit, before the client has heard so; it must not wait on."""
    stop = threading.Event()
    screen = _Screen(stop)
    screen.watch(SimpleNamespace(finished=finished, failure=failure))  # type: ignore[arg-type]
    screen.node(NodeEvent("online", "Connected."))
    assert not stop.is_set()
    screen.node(NodeEvent(kind, "The last answer."))  # type: ignore[arg-type]
    assert stop.is_set() == (finished or failure is not None)
