"""The same for many items, in several forked processes, in the items' order."""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

__all__ = ["mapped"]

Result = TypeVar("Result")

_function: Callable[[int], Any] | None = None
"""What a forked process finds here when it begins: a closure over what is loaded, which need not be pickled."""


def mapped(function: Callable[[int], Result], count: int, *, workers: int) -> Iterator[Result]:
    """Yield ``function(0)``, ``function(1)``, ... ``function(count - 1)``.

    Args:
        function: Its results must be picklable where there are several workers.
        count: How many.
        workers: Processes, forked from this one: what is in memory is shared. One computes here.
    """
    if workers < 2 or count < 2:
        yield from map(function, range(count))
        return
    global _function
    _function = function
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
            with ProcessPoolExecutor(min(workers, count), mp_context=multiprocessing.get_context("fork")) as pool:
                yield from pool.map(_call, range(count))
    finally:
        _function = None


def _call(number: int) -> Any:
    assert _function is not None
    return _function(number)
