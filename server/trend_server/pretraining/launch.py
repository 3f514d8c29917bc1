"""A pretraining on this machine: checked before anything starts, on all cores or GPUs, stopped cleanly by Ctrl-C."""

from __future__ import annotations

import multiprocessing.synchronize
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, Final

import torch
from torch.multiprocessing.spawn import spawn

from trend_common.errors import UsageError
from trend_server.pretraining.keeper import Watch
from trend_server.pretraining.loop import Run, pretrain
from trend_server.pretraining.pupil import make_pupil
from trend_server.pretraining.recipe import Recipe
from trend_server.pretraining.sources import make_panels
from trend_server.pretraining.state import Shelf, locked, require_tensorboard

__all__ = ["choose_device", "choose_processes", "pretrain_in_processes"]

_POLL_S: Final = 0.2


def choose_device(wanted: str) -> str:
    """ "cpu" or "cuda"; "auto" takes a GPU where there is one.

    Raises:
        UsageError: There is no such device here.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise UsageError(f"There is no device {wanted!r}.", "It is auto, cpu or cuda.")
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise UsageError("torch sees no CUDA GPU on this machine.", "Use --device cpu, or a build of torch for CUDA.")
    return "cuda" if there and wanted != "cpu" else "cpu"


def choose_processes(recipe: Recipe, wanted: int | None, device: str) -> int:
    """How many processes share a step: as many as wanted, else one a core or GPU as far as micro-batches divide.

    Raises:
        UsageError: The micro-batches do not divide among the processes, or there are fewer GPUs.
    """
    parts = recipe.micro_batches
    divisors = [n for n in range(1, parts + 1) if parts % n == 0]
    places = torch.cuda.device_count() if device == "cuda" else _cores()
    if wanted is None:
        return max(n for n in divisors if n <= max(places, 1))
    if wanted not in divisors:
        raise UsageError(
            f"A step of {recipe.batch} series in micro-batches of {recipe.micro_batch} does not divide among "
            f"{wanted} processes.",
            f"Use {', '.join(map(str, divisors))} of them, or a recipe with another micro_batch.",
        )
    if device == "cuda" and wanted > places:
        raise UsageError(f"There are {places} GPUs for {wanted} processes.", "Each process needs one.")
    return wanted


def pretrain_in_processes(
    recipe: Recipe, run: Run, processes: int | None = None, *, watch: Watch | None = None
) -> Path:
    """Train data-parallel on this machine; return the model's folder.

    Ctrl-C and SIGTERM end the run after the step it is in, with a checkpoint; a second one ends it at once.

    Args:
        recipe: What to train, and how.
        run: Where; ``threads`` 0 shares the cores (or OMP_NUM_THREADS) out among the processes.
        processes: One a CPU core or GPU by default.
        watch: Told of steps and checkpoints.

    Raises:
        UsageError: Something does not fit; nothing was written.
        DataError: A sales file cannot be used.
        KeyboardInterrupt: The run was stopped; its last checkpoint is on disk.
    """
    number = choose_processes(recipe, processes, run.device)
    run = replace(run, threads=run.threads or max(1, min(_cores(), torch.get_num_threads()) // number))
    told = watch or Watch()
    _check(recipe, run)
    with locked(run.out), _stopping() as stop:
        if number == 1:
            pretrain(recipe, run, watch=told, stop=stop.is_set)
        else:
            _spawned(recipe, run, number, told, stop)
    if stop.is_set():
        raise KeyboardInterrupt
    return run.out


def _cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check(recipe: Recipe, run: Run) -> None:
    """Find a user's mistakes here, where they can be told, and not in a child."""
    if run.tensorboard:
        require_tensorboard()
    for name in recipe.data:
        if not Path(name).is_file():
            raise UsageError(f"There is no file {name}.", "Name sales files with --data.")
    pupil = make_pupil(recipe)
    saved = Shelf(run.out, recipe, pupil.origin).load()
    if saved is not None:
        try:
            pupil.load(saved.model)
        except ValueError as error:
            raise UsageError(
                f"{run.out} holds the training state of another model.",
                "Go on with the recipe that it began with, or name another --out.",
            ) from error
    make_panels(recipe)


class _Messages(Watch):
    """Passes on to another process what a run tells."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue

    def step(self, step: int, loss: float) -> None:
        """See :class:`Watch`."""
        self._queue.put(("step", (step, loss)))

    def checkpoint(self, row: dict[str, Any]) -> None:
        """See :class:`Watch`."""
        self._queue.put(("checkpoint", (row,)))


def _spawned(recipe: Recipe, run: Run, processes: int, watch: Watch, stop: threading.Event) -> None:
    context = torch.multiprocessing.get_context("spawn")
    queue, asked = context.SimpleQueue(), context.Event()

    def pass_on() -> None:
        while not queue.empty():
            name, arguments = queue.get()
            getattr(watch, name)(*arguments)

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = spawn(_process, (processes, port, recipe, run, queue, asked), processes, join=False)  # type: ignore[no-untyped-call]
    try:
        while not children.join(timeout=_POLL_S):
            if stop.is_set():
                asked.set()
            pass_on()
        pass_on()
    finally:
        for child in children.processes:
            if child.is_alive():
                child.terminate()
            child.join()


def _process(
    rank: int,
    processes: int,
    port: int,
    recipe: Recipe,
    run: Run,
    queue: Any,
    asked: multiprocessing.synchronize.Event,
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true" if run.device == "cpu" else "",
    }
    # A terminal sends Ctrl-C to every process of the group; the parent says when to stop. If the parent is gone,
    # torch sends the same signal, and the run ends as cleanly.
    signal.signal(signal.SIGINT, lambda *_: asked.set())
    pretrain(recipe, run, watch=_Messages(queue), stop=asked.is_set)


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; the second is a KeyboardInterrupt at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def asked(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
