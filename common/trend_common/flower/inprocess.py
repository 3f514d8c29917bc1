"""A whole federation in one process: the same ServerApp loop and the same ClientApps, with no network and no Ray."""

from __future__ import annotations

import copy
import itertools
import queue
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from trend_common.errors import TrendError
from trend_common.flower.grid import RoundGrid
from trend_common.flower.node import ERROR_CODE, ERROR_REASON

__all__ = ["InProcessGrid"]

_RUN_ID = 1
_SERVER_NODE_ID = 1


class InProcessGrid(RoundGrid):
    """Runs the clients where they are asked.

    With one worker nothing is started beside the caller: a client works inside ``pull_messages``, one at a time and
    in the order in which they were asked, so a simulation is reproducible and holds one client's memory at a time.

    Args:
        make_app: Returns the ClientApp of a node; called once per node, when the node is first asked.
        node_ids: The clients.
        workers: Threads that run clients. More than one pays only where clients release Python's lock.
        raise_errors: Let a client's exception out instead of turning it into the error reply that a real server
            would see. Errors for people (``TrendError``) always become replies.
    """

    poll_interval = 0.0

    def __init__(
        self,
        make_app: Callable[[int], ClientApp],
        node_ids: Sequence[int],
        *,
        workers: int = 1,
        raise_errors: bool = True,
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1, not {workers}")
        self._make_app = make_app
        self._node_ids = tuple(dict.fromkeys(node_ids))
        self._apps: dict[int, ClientApp] = {}
        self._contexts: dict[int, Context] = {}
        self._raise_errors = raise_errors
        self._ids = itertools.count(1)
        self._waiting: deque[Message] = deque()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="client") if workers > 1 else None
        self._finished: queue.SimpleQueue[Message | BaseException] = queue.SimpleQueue()
        self._running = 0
        self._run: Run | None = None
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = _RUN_ID, _SERVER_NODE_ID, 0

    def set_run(self, run: Run) -> None:
        """Part of Flower's interface."""
        self._run = run

    @property
    def run(self) -> Run:
        """Part of Flower's interface."""
        return self._run if self._run is not None else Run.create_empty(_RUN_ID)

    def presence(self) -> dict[int, str]:
        """Return all nodes; nobody ever leaves."""
        return dict.fromkeys(self._node_ids, "1")

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue the messages and return their ids."""
        ids = []
        for message in messages:
            identity = f"{next(self._ids):016d}"
            message.metadata.__dict__.update(_message_id=identity, _run_id=_RUN_ID, _src_node_id=_SERVER_NODE_ID)
            ids.append(identity)
            if self._pool is None:
                self._waiting.append(message)
            else:
                self._running += 1
                self._pool.submit(self._work, message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Let the clients that were asked work, and yield each answer as soon as it is there."""
        wanted = set(message_ids)
        if self._pool is None:
            for _ in range(len(self._waiting)):
                message = self._waiting.popleft()
                if message.metadata.message_id in wanted:
                    yield self._answer(message)
                else:
                    self._waiting.append(message)
            return
        while self._running:
            finished = self._finished.get()
            self._running -= 1
            if isinstance(finished, BaseException):
                raise finished
            if finished.metadata.reply_to_message_id in wanted:
                yield finished

    def withdraw(self, message_ids: Iterable[str]) -> None:
        """Drop questions that no client has started on."""
        gone = set(message_ids)
        self._waiting = deque(message for message in self._waiting if message.metadata.message_id not in gone)

    def close(self) -> None:
        """Stop the threads, if there are any; what has not started is dropped."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> InProcessGrid:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self, message: Message) -> None:
        try:
            self._finished.put(self._answer(message))
        except BaseException as error:
            self._finished.put(error)

    def _answer(self, message: Message) -> Message:
        node_id = message.metadata.dst_node_id
        if node_id not in self._apps:
            self._apps[node_id] = self._make_app(node_id)
            self._contexts[node_id] = Context(_RUN_ID, node_id, {}, RecordDict(), {})
        # The same record goes to many clients, and an app may change what it is given: each gets its own copy.
        try:
            return _copied(self._apps[node_id](_copied(message), self._contexts[node_id]))
        except TrendError:
            pass
        except Exception:
            if self._raise_errors:
                raise
        return Message(Error(code=ERROR_CODE, reason=ERROR_REASON), reply_to=message)


def _copied(message: Message) -> Message:
    """A message that shares nothing which could be changed with ``message``."""
    if message.has_error():
        return copy.deepcopy(message)
    content = RecordDict()
    for name, record in message.content.items():
        # Text and bytes cannot be changed; a general copy takes ten times as long.
        plain = type(record) is ConfigRecord and not any(isinstance(value, list) for value in record.values())
        content[name] = ConfigRecord(dict(record)) if plain else copy.deepcopy(record)
    return Message(content=content, metadata=copy.copy(message.metadata))
