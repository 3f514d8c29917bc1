"""Where what-ifs, orders and explanations are worked out: a process beside the one that forecasts.

They take seconds to minutes and hold Python's lock for much of it, so that in the process that forecasts every caller
would wait for them. The process is started at the first question, loads the home's models and sales of its own, runs
at a lower priority, and answers one question after the other; few may wait. What it learns of the sales alone is
learned once. If it dies, the caller is told to ask again, and a new one is started.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any, Final

from trend_client.decisions.levels import ServiceLevels
from trend_client.decisions.orders import orders
from trend_client.decisions.outlook import Outlook, outlook
from trend_client.decisions.paths import Dependence
from trend_client.decisions.policy import Position, Terms
from trend_client.decisions.stock import StockRow
from trend_client.serve.problems import ProblemError
from trend_client.serve.settings import ServeSettings
from trend_client.why.explain import explain
from trend_client.why.scenario import what_if
from trend_client.workplace import Workplace
from trend_common.errors import TrendError

__all__ = ["Desk"]

_NICE: Final = 10
_ORPHAN_SECONDS: Final = 5.0
_SLOWEST: Final = 60

Answer = tuple[str, Any]
"""("answer", JSON values), or ("error", message and hint of what is wrong with the question)."""


@dataclass(frozen=True, eq=False)
class _Kept(Outlook):
    """A home's outlook that learns each thing of the sales once."""

    memory: dict[tuple[object, ...], Any] = field(default_factory=dict)

    def dependence(self, steps: int) -> Dependence:
        """As it was learned."""
        key = ("dependence", steps)
        if key not in self.memory:
            self.memory[key] = Outlook.dependence(self, steps)
        found: Dependence = self.memory[key]
        return found

    def service_levels(self, dependence: Dependence, interval: int, *, stride: int) -> ServiceLevels:
        """As they were learned."""
        key = ("levels", dependence.common, dependence.carry, interval, stride)
        if key not in self.memory:
            self.memory[key] = Outlook.service_levels(self, dependence, interval, stride=stride)
        found: ServiceLevels = self.memory[key]
        return found


_LOOK: _Kept | None = None


def _begin(settings: str) -> None:
    """In the process: leave Ctrl-C to the parent, give way to it, and end when it has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(_NICE)
        parent = os.getppid()

        def watch() -> None:
            while os.getppid() == parent:
                time.sleep(_ORPHAN_SECONDS)
            os._exit(0)

        threading.Thread(target=watch, daemon=True, name="orphan").start()
    from trend_common.console import console

    console.quiet = True
    _load(settings)


def _load(settings: str) -> None:
    """Read the home as the offline commands do."""
    import torch

    global _LOOK
    told = ServeSettings.model_validate_json(settings)
    torch.set_num_threads(told.threads)
    place = Workplace(told.home, device=told.device, backbone=told.backbone, needs_data=False)
    place.source = told.source or place.source
    found = outlook(place)
    _LOOK = _Kept(found.place, found.panel, found.engine, found.model, found.method, found.basis, found.notes)


def _work(kind: str, question: dict[str, Any]) -> Answer:
    assert _LOOK is not None
    try:
        return "answer", _ANSWERS[kind](_LOOK, question)
    except TrendError as error:
        return "error", (error.message, error.hint)


def _what_if(look: Outlook, told: dict[str, Any]) -> dict[str, Any]:
    made = what_if(
        look,
        told["ids"],
        told["horizon"] or look.horizon,
        prices=told["prices"],
        promos=told["promos"],
        cost=told["cost"],
    )
    return made.to_json()


def _orders(look: Outlook, told: dict[str, Any]) -> dict[str, Any]:
    stock = {}
    for one in told["stock"]:
        own = {name: one[name] for name in ("moq", "pack") if one[name] is not None}
        stock[one["id"]] = StockRow(Position(one["on_hand"], one["on_order"]), Terms(**{**told["terms"], **own}))
    made = orders(look, stock).to_json()
    return {name: made[name] for name in ("origin", "orders", "notes")}


def _explain(look: Outlook, told: dict[str, Any]) -> dict[str, Any]:
    return explain(look, told["ids"], told["horizon"] or look.horizon, recent=0).to_json()


_ANSWERS: Final[Mapping[str, Callable[[Outlook, dict[str, Any]], dict[str, Any]]]] = {
    "what-if": _what_if,
    "orders": _orders,
    "explain": _explain,
}


class Desk:
    """The side of the service: asks the process, and lets few wait.

    Args:
        settings: ``advice`` says whether it is a process, or a thread of this one.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._pool: Executor | None = None
        self._seconds = 5.0
        self.pending = 0

    async def ask(self, kind: str, question: dict[str, Any]) -> dict[str, Any]:
        """The answer to a question.

        Args:
            kind: "what-if", "orders" or "explain".
            question: The request as JSON values.

        Raises:
            ProblemError: Too many wait, the process has died, or the question has no answer.
        """
        if self.pending >= self._settings.max_advice:
            wait = max(1, min(_SLOWEST, round(self.pending * self._seconds)))
            raise ProblemError(
                503,
                "busy",
                f"{self.pending} what-ifs, orders and explanations wait already.",
                f"Ask again in {wait} s; forecasts are answered meanwhile. --max-advice lets more wait.",
                headers={"Retry-After": str(wait)},
            )
        self.pending += 1
        start = time.monotonic()
        try:
            status, found = await asyncio.get_running_loop().run_in_executor(self._open(), _work, kind, question)
        except BrokenProcessPool:
            self._pool = None
            raise ProblemError(
                503,
                "restarting",
                "The process that answers this has ended, and is started again at the next question.",
                "Ask again. If it happens often, the machine has too little memory for it.",
                headers={"Retry-After": "5"},
            ) from None
        finally:
            self.pending -= 1
        self._seconds = 0.7 * self._seconds + 0.3 * (time.monotonic() - start)
        if status == "error":
            raise ProblemError(422, "unusable-sales", found[0], found[1] or "Correct the request.")
        answer: dict[str, Any] = found
        return answer

    def _open(self) -> Executor:
        if self._pool is None:
            told = self._settings.model_dump_json()
            if self._settings.advice == "thread":
                self._pool = ThreadPoolExecutor(1, "advice", initializer=_load, initargs=(told,))
            else:
                self._pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=_begin, initargs=(told,))
        return self._pool

    async def close(self) -> None:
        """Finish what is being answered, then stop."""
        if self._pool is not None:
            with suppress(BrokenProcessPool):
                await asyncio.to_thread(self._pool.shutdown, wait=True, cancel_futures=True)
