"""The batcher: who waits together is computed together, alone where it must be, and never too many."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from trend_client.serve.batching import Batcher, Busy


class Recorder:
    """Doubles numbers; remembers the batches, and can be held up."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[str] = set()
        self.go = threading.Event()
        self.go.set()

    def __call__(self, jobs: Sequence[int]) -> list[int]:
        self.go.wait(10)
        self.batches.append(list(jobs))
        self.threads.add(threading.current_thread().name)
        if 13 in jobs:
            raise ValueError("thirteen")
        return [2 * job for job in jobs]


def batcher(run: Recorder, **changes: float) -> Batcher[int, int]:
    options = {"max_batch": 8, "max_wait": 0.05, "max_queue": 100, **changes}
    found: Batcher[int, int] = Batcher(run, **options)  # type: ignore[arg-type]
    found.start()
    return found


def test_those_who_come_together_share_one_pass_in_one_thread() -> None:
    run = Recorder()

    async def scene() -> list[int]:
        one = batcher(run)
        found = await asyncio.gather(*(one.submit(job, 1) for job in range(6)))
        await one.close()
        return found

    assert asyncio.run(scene()) == [0, 2, 4, 6, 8, 10]
    assert run.batches == [[0, 1, 2, 3, 4, 5]]
    assert len(run.threads) == 1


def test_a_batch_holds_no_more_windows_than_allowed_and_a_large_job_goes_alone() -> None:
    run = Recorder()

    async def scene() -> None:
        one = batcher(run)
        await asyncio.gather(*(one.submit(job, size) for job, size in ((1, 5), (2, 3), (3, 1), (4, 20), (5, 1))))
        await one.close()

    asyncio.run(scene())
    assert run.batches == [[1, 2], [3], [4], [5]]


def test_without_waiting_a_lone_job_is_computed_at_once() -> None:
    run = Recorder()

    async def scene() -> int:
        one = batcher(run, max_wait=60.0, max_batch=1)
        found = await asyncio.wait_for(one.submit(4, 1), 5)
        await one.close()
        return found

    assert asyncio.run(scene()) == 8


def test_a_full_queue_turns_away_until_there_is_room() -> None:
    run = Recorder()
    run.go.clear()

    async def scene() -> None:
        one = batcher(run, max_queue=10, max_wait=0.0)

        async def ask(job: int, size: int) -> int:
            with one.admitted(size):
                return await one.submit(job, size)

        first = asyncio.create_task(ask(1, 8))
        await asyncio.sleep(0.05)
        with pytest.raises(Busy) as caught:
            await ask(2, 3)
        assert caught.value.retry_after >= 1
        second = asyncio.create_task(ask(3, 2))
        await asyncio.sleep(0)
        run.go.set()
        assert (await first, await second) == (2, 6)
        assert one.pending == 0
        assert await ask(4, 99) == 8, "who finds the queue empty is admitted"
        await one.close()
        with pytest.raises(Busy):
            await ask(5, 1)

    asyncio.run(scene())


def test_a_bad_job_fails_alone() -> None:
    run = Recorder()

    async def scene() -> list[int | BaseException]:
        one = batcher(run)
        found = await asyncio.gather(*(one.submit(job, 1) for job in (12, 13, 14)), return_exceptions=True)
        await one.close()
        return found

    first, second, third = asyncio.run(scene())
    assert (first, third) == (24, 28)
    assert isinstance(second, ValueError)


def test_closing_answers_what_was_admitted_and_skips_who_has_gone() -> None:
    run = Recorder()
    run.go.clear()

    async def scene() -> int:
        one = batcher(run, max_wait=0.0)

        async def ask(job: int) -> int:
            with one.admitted(1):
                await asyncio.sleep(0.1)  # still preparing when the service is told to stop
                return await one.submit(job, 1)

        held = asyncio.create_task(one.submit(1, 1))
        await asyncio.sleep(0.02)
        gone = asyncio.create_task(one.submit(2, 1))
        admitted = asyncio.create_task(ask(3))
        await asyncio.sleep(0.02)
        gone.cancel()
        closing = asyncio.create_task(one.close())
        run.go.set()
        await closing
        await held
        return await asyncio.wait_for(admitted, 1)

    assert asyncio.run(scene()) == 6
    assert 2 not in [job for batch in run.batches for job in batch]
