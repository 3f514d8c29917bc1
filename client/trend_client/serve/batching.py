"""Micro-batching: whoever asks while the model is busy, or within a moment, shares one forward pass.

One thread computes, since a second one would only take its cores away. The event loop admits, waits and answers.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Batcher", "Busy"]

J = TypeVar("J")
R = TypeVar("R")

_POLL = 0.01
_SLOWEST = 60
"""Most seconds that a caller is told to wait."""


class Busy(Exception):
    """Too much waits already.

    Args:
        retry_after: Seconds after which the queue should have room again.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__("the queue is full")
        self.retry_after = retry_after


@dataclass(eq=False)
class _Waiting(Generic[J, R]):
    job: J
    size: int
    future: asyncio.Future[R]


class Batcher(Generic[J, R]):
    """Collects jobs into batches.

    Args:
        run: Jobs → their results, in their order; called in the one worker thread.
        max_batch: Windows of a batch; a larger job is a batch of its own.
        max_wait: Seconds that the first job of a batch waits for others while the worker is idle.
        max_queue: Windows that may be admitted and not yet answered.
        observe: Told of each batch: jobs, windows, seconds.
    """

    def __init__(
        self,
        run: Callable[[Sequence[J]], Sequence[R]],
        *,
        max_batch: int,
        max_wait: float,
        max_queue: int,
        observe: Callable[[int, int, float], None] = lambda jobs, windows, seconds: None,
    ) -> None:
        self._run, self._observe = run, observe
        self._max_batch, self._max_wait, self._max_queue = max_batch, max_wait, max_queue
        self._queue: deque[_Waiting[J, R]] = deque()
        self._queued = 0
        self._arrived = asyncio.Event()
        self._full = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._task: asyncio.Task[None] | None = None
        self._closing = self._ended = False
        self._seconds_per_window = 0.0
        self.pending = 0

    @property
    def thread(self) -> ThreadPoolExecutor:
        """The worker thread; loading the model belongs there, too."""
        return self._thread

    def start(self) -> None:
        """Begin to work; within a running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._work(), name="batcher")

    async def close(self) -> None:
        """Finish what was admitted, then stop."""
        self._closing = True
        while self.pending:
            await asyncio.sleep(_POLL)
        self._ended = True
        self._arrived.set()
        if self._task is not None:
            await self._task
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)

    @contextmanager
    def admitted(self, size: int) -> Iterator[None]:
        """Room for ``size`` windows, from before they are prepared until they are answered.

        Raises:
            Busy: There is no room. Who finds the queue empty is always admitted.
        """
        if self._closing or (self.pending and self.pending + size > self._max_queue):
            raise Busy(self._retry_after())
        self.pending += size
        try:
            yield
        finally:
            self.pending -= size

    def _retry_after(self) -> int:
        return max(1, min(_SLOWEST, math.ceil(self.pending * self._seconds_per_window)))

    async def submit(self, job: J, size: int) -> R:
        """The result of one job of ``size`` windows; whatever ``run`` raises for it is raised here."""
        waiting: _Waiting[J, R] = _Waiting(job, size, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._queued += size
        self._arrived.set()
        if self._queued >= self._max_batch:
            self._full.set()
        return await waiting.future

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            if self._queue and not self._closing and self._queued < self._max_batch and self._max_wait > 0:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._full.wait(), self._max_wait)
            while self._queue:
                batch = self._take()
                if batch:
                    start = time.perf_counter()
                    await loop.run_in_executor(self._thread, self._compute, loop, batch)
                    self._measure(batch, time.perf_counter() - start)
            self._full.clear()
            if self._ended:
                return

    def _take(self) -> list[_Waiting[J, R]]:
        batch: list[_Waiting[J, R]] = []
        size = 0
        while self._queue and (not batch or size + self._queue[0].size <= self._max_batch):
            one = self._queue.popleft()
            self._queued -= one.size
            if not one.future.cancelled():  # its caller has gone
                batch.append(one)
                size += one.size
        return batch

    def _compute(self, loop: asyncio.AbstractEventLoop, batch: list[_Waiting[J, R]]) -> None:
        try:
            found: Sequence[R | BaseException] = self._run([one.job for one in batch])
        except Exception as error:
            # One bad job must not fail its neighbours: each is asked again on its own.
            found = [error] if len(batch) == 1 else [self._alone(one.job) for one in batch]
        loop.call_soon_threadsafe(_deliver, batch, found)

    def _alone(self, job: J) -> R | BaseException:
        try:
            return self._run([job])[0]
        except Exception as error:
            return error

    def _measure(self, batch: list[_Waiting[J, R]], seconds: float) -> None:
        windows = sum(one.size for one in batch)
        each = seconds / max(windows, 1)
        self._seconds_per_window = (
            each if not self._seconds_per_window else 0.8 * self._seconds_per_window + 0.2 * each
        )
        self._observe(len(batch), windows, seconds)


def _deliver(batch: Sequence[_Waiting[J, R]], found: Sequence[R | BaseException]) -> None:
    for one, result in zip(batch, found, strict=True):
        if one.future.done():
            continue
        if isinstance(result, BaseException):
            one.future.set_exception(result)
        else:
            one.future.set_result(result)
