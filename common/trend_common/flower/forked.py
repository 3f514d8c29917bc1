"""The clients of a simulation in several processes of one machine, which share one resident model.

The processes are forked once everything is loaded: the model's weights, and whatever else the clients only read, are
in memory once. Each client lives in one of them from beginning to end, so its session, its ledger and its draws are
where it works. Answers are handed over in the order of the questions, whichever process is quicker, so that sums, and
with them all weights, are the same bits for any number of processes.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import queue
import signal
import sys
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Generic, TypeVar

from flwr.app import Message
from flwr.clientapp import ClientApp

from trend_common.errors import ConnectionFailure, UsageError
from trend_common.flower.inprocess import InProcessGrid

__all__ = ["ForkedGrid"]

Report = TypeVar("Report")

_GRACE_S = 10.0


@dataclass(frozen=True)
class _Failure:
    """An exception in a worker: its type, its text and where it came from."""

    text: str


@dataclass(frozen=True)
class _Reports(Generic[Report]):
    found: dict[int, Report]


class ForkedGrid(InProcessGrid, Generic[Report]):
    """An :class:`InProcessGrid` whose clients may live in forked processes.

    With one process nothing is forked, and a client works where it is asked.

    Args:
        make_app: Returns the ClientApp of a node; called in the node's process.
        node_ids: The clients.
        processes: How many.
        loads: How much work each client is about, by which they are spread; default: all alike.
        report: Nodes → what :meth:`reports` gives of them; called in the nodes' process.

    Raises:
        UsageError: Several processes are wanted where forking is not safe.
    """

    def __init__(
        self,
        make_app: Callable[[int], ClientApp],
        node_ids: Sequence[int],
        *,
        processes: int = 1,
        loads: Sequence[float] | None = None,
        report: Callable[[Sequence[int]], dict[int, Report]] = lambda _: {},
    ) -> None:
        super().__init__(make_app, node_ids)
        nodes = list(dict.fromkeys(node_ids))
        self._report = report
        self._nodes = nodes
        self._asked: deque[str] = deque()
        self._at: dict[str, int] = {}
        self._answers: dict[str, Message] = {}
        self._pipes: list[Connection] = []
        self._workers: list[multiprocessing.process.BaseProcess] = []
        self._home: dict[int, int] = {}
        if min(processes, len(nodes)) > 1:
            self._fork(_spread(nodes, loads or [1.0] * len(nodes), min(processes, len(nodes))))

    def _fork(self, groups: list[list[int]]) -> None:
        if sys.platform != "linux":
            raise UsageError(
                "Several processes are forked from one, which is safe on Linux alone.",
                "Leave out --workers, or use --engine ray.",
            )
        context = multiprocessing.get_context("fork")
        for number, nodes in enumerate(groups):
            ours, theirs = context.Pipe()
            others = [*self._pipes, ours]
            with warnings.catch_warnings():
                # Newer Pythons warn of threads, of which none here holds a lock that a child could wait for.
                warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
                worker = context.Process(target=self._serve, args=(theirs, others, nodes), daemon=True)
                worker.start()
            theirs.close()
            self._pipes.append(ours)
            self._workers.append(worker)
            self._home |= dict.fromkeys(nodes, number)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand the messages to their clients' processes and return their ids."""
        if not self._pipes:
            return super().push_messages(messages)
        ids = list(super().push_messages(messages))
        queued: list[list[Message]] = [[] for _ in self._pipes]
        for message in self._waiting:
            number = self._home[message.metadata.dst_node_id]
            queued[number].append(message)
            self._asked.append(message.metadata.message_id)
            self._at[message.metadata.message_id] = number
        self._waiting.clear()
        for pipe, some in zip(self._pipes, queued, strict=True):
            if some:
                self._send(pipe, some)  # in one piece, so that what they share is sent once
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Yield each answer as soon as it and those to earlier questions are there."""
        if not self._pipes:
            yield from super().pull_messages(message_ids)
            return
        wanted = set(message_ids)
        for _ in range(len(self._asked)):
            identity = self._asked.popleft()
            if identity not in self._at:
                continue  # withdrawn
            if identity not in wanted:
                self._asked.append(identity)
                continue
            while identity not in self._answers:
                self._listen()
            del self._at[identity]
            yield self._answers.pop(identity)

    def withdraw(self, message_ids: Iterable[str]) -> None:
        """Drop questions; what a client is already working on is dropped when it comes."""
        gone = set(message_ids)
        super().withdraw(gone)
        for identity in gone:
            self._at.pop(identity, None)
            self._answers.pop(identity, None)

    def reports(self) -> dict[int, Report]:
        """What ``report`` says of every client now, wherever it lives."""
        if not self._pipes:
            return self._report(self._nodes)
        for pipe in self._pipes:
            self._send(pipe, None)
        found: dict[int, Report] = {}
        heard = 0
        while heard < len(self._pipes):
            for one in self._listen():
                found |= one.found
                heard += 1
        return found

    def close(self) -> None:
        """End the processes."""
        super().close()
        for pipe in self._pipes:
            pipe.close()
        for worker in self._workers:
            worker.join(_GRACE_S)
            if worker.is_alive():
                worker.terminate()
                worker.join(_GRACE_S)
        self._pipes.clear()
        self._workers.clear()

    def _send(self, pipe: Connection, what: list[Message] | None) -> None:
        try:
            pipe.send(what)
        except OSError as error:
            raise _ended() from error

    def _listen(self) -> list[_Reports[Report]]:
        """Wait until some process says something, and take what all have said, so that none of them waits for us."""
        reports = []
        for ready in multiprocessing.connection.wait(self._pipes):
            assert isinstance(ready, Connection)
            try:
                found = ready.recv()
            except (EOFError, OSError) as error:
                raise _ended() from error
            if isinstance(found, _Failure):
                raise RuntimeError(f"a client failed in a worker process:\n{found.text}")
            if isinstance(found, _Reports):
                reports.append(found)
            elif found.metadata.reply_to_message_id in self._at:
                self._answers[found.metadata.reply_to_message_id] = found
        return reports

    def _serve(self, pipe: Connection, others: list[Connection], nodes: list[int]) -> None:
        """A worker's life: answer until the pipe is closed."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
        for other in others:
            other.close()  # else no worker would see that the parent has closed it
        # Read beside the work, so that the parent, which reads what we say, never waits for us to listen.
        inbox: queue.SimpleQueue[list[Message] | EOFError | None] = queue.SimpleQueue()
        threading.Thread(target=_read, args=(pipe, inbox), daemon=True).start()
        while not isinstance(asked := inbox.get(), EOFError):
            try:
                if asked is None:
                    pipe.send(_Reports(self._report(nodes)))
                    continue
                for message in asked:
                    pipe.send(self._answer(message))
            except BrokenPipeError:
                return
            except BaseException:
                pipe.send(_Failure(traceback.format_exc()))
                return


def _read(pipe: Connection, inbox: queue.SimpleQueue[list[Message] | EOFError | None]) -> None:
    while True:
        try:
            inbox.put(pipe.recv())
        except (EOFError, OSError):
            inbox.put(EOFError())
            return


def _spread(nodes: list[int], loads: Sequence[float], groups: int) -> list[list[int]]:
    """The largest first, each to whoever has least; neighbours differ, so that answers come about in order."""
    totals, found = [0.0] * groups, [list[int]() for _ in range(groups)]
    for load, node in sorted(zip(loads, nodes, strict=True), key=lambda pair: (-pair[0], pair[1])):
        least = totals.index(min(totals))
        totals[least] += load
        found[least].append(node)
    return found


def _ended() -> ConnectionFailure:
    return ConnectionFailure(
        "A worker process of the simulation has ended.", "If memory ran out, use fewer --workers."
    )
