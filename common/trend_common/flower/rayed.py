"""The clients of a simulation on Flower's own engine: actors of a Ray cluster, on this machine or on many.

An actor serves whichever client is asked next, so a client's state is in its Flower context and in files that all
machines see. Answers are handed over in the order of the questions, as by the other grids.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from trend_common.errors import ConnectionFailure, UsageError
from trend_common.flower.inprocess import InProcessGrid

__all__ = ["RayGrid"]


class RayGrid(InProcessGrid):
    """An :class:`InProcessGrid` whose clients work in Ray's actors.

    The cluster is the one that RAY_ADDRESS names, or one that is started here and ends with this.

    Args:
        make_app: Gives the app of all clients, in an actor; it travels with each question.
        node_ids: The clients.
        cpus, gpus: What one client takes of a machine while it works; decides how many actors there are.

    Raises:
        UsageError: Ray is not installed, or no machine has so much.
    """

    def __init__(
        self, make_app: Callable[[], ClientApp], node_ids: Sequence[int], *, cpus: float = 1.0, gpus: float = 0.0
    ) -> None:
        os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_DISABLE_IMPORT_WARNING="1")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray  # noqa: F401
        except ImportError as error:
            raise UsageError(
                "Flower's engine needs Ray, which is not installed.",
                'Install it with: pip install "trend-federated[ray]"; or leave out --engine ray.',
            ) from error
        from flwr.server.superlink.fleet.vce.backend.raybackend import RayBackend

        super().__init__(lambda _: make_app(), node_ids)
        self._jobs: dict[str, Future[Message]] = {}
        self._places = {node: place for place, node in enumerate(self._node_ids)}
        with _kept("PYTHONPATH"):  # the backend writes it for its actors
            self._backend: Any = RayBackend(
                {
                    "client_resources": {"num_cpus": cpus, "num_gpus": gpus},
                    "init_args": {"log_to_driver": False, "logging_level": "error"},
                }
            )
            try:
                self._backend.build(make_app)
            except ValueError as error:
                self._backend.terminate()
                raise UsageError(
                    f"No machine of the cluster has {cpus:g} processors and {gpus:g} GPUs.",
                    "Start Ray on a larger one, or play without --engine ray.",
                ) from error
        self._threads = ThreadPoolExecutor(self._backend.num_workers, thread_name_prefix="ray")

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand the messages to the actors and return their ids."""
        ids = list(super().push_messages(messages))
        for message in self._waiting:
            self._jobs[message.metadata.message_id] = self._threads.submit(self._answer, message)
        self._waiting.clear()
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Yield each answer as soon as it and those to earlier questions are there."""
        wanted = set(message_ids)
        for identity in list(self._jobs):
            if identity in wanted and identity in self._jobs:
                yield self._jobs.pop(identity).result()

    def withdraw(self, message_ids: Iterable[str]) -> None:
        """Drop questions; those that an actor is working on are dropped when they come."""
        for identity in set(message_ids):
            job = self._jobs.pop(identity, None)
            if job is not None:
                job.cancel()

    def states(self) -> dict[int, RecordDict]:
        """What each client has in its Flower context."""
        return {node: context.state for node, context in self._contexts.items()}

    def close(self) -> None:
        """End the actors, and the cluster if it was started here."""
        super().close()
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._backend.terminate()

    def _answer(self, message: Message) -> Message:
        from flwr.common.constant import PARTITION_ID_KEY

        node_id = message.metadata.dst_node_id
        context = self._contexts.get(node_id)
        if context is None:
            context = Context(1, node_id, {PARTITION_ID_KEY: self._places[node_id]}, RecordDict(), {})
        try:
            answer, self._contexts[node_id] = self._backend.process_message(message, context)
        except Exception as error:
            import ray

            if isinstance(error, ray.exceptions.RayActorError):
                raise ConnectionFailure(
                    "An actor of the Ray cluster has ended.", "If memory ran out, start Ray with fewer processors."
                ) from error
            raise
        found: Message = answer
        return found


@contextmanager
def _kept(name: str) -> Iterator[None]:
    before = os.environ.get(name)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before
