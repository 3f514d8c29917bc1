"""Aggregations: many clients' tensors in, one set of tensors out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from trend_common.errors import UsageError
from trend_common.tensors import Tensors, TensorSpec

__all__ = ["AGGREGATIONS", "Aggregation", "Aggregator", "Mean", "Median", "TrimmedMean", "make_aggregator"]

Aggregation = Literal["mean", "trimmed-mean", "median"]
AGGREGATIONS: Final[tuple[str, ...]] = get_args(Aggregation)


class Aggregator(ABC):
    """Collects the replies of one round. All clients weigh the same: a weight by size would tell their sizes.

    Args:
        schema: The tensors of every reply.
    """

    def __init__(self, schema: Sequence[TensorSpec]) -> None:
        self.schema = tuple(schema)
        self.count = 0

    def add(self, tensors: Tensors) -> None:
        """Take one client's tensors, which fit the schema and are finite."""
        self._add(tensors)
        self.count += 1

    def result(self) -> Tensors:
        """Return the aggregate of what was added.

        Raises:
            ValueError: Nothing was added.
        """
        if self.count == 0:
            raise ValueError("nothing to aggregate")
        return self._result()

    @abstractmethod
    def _add(self, tensors: Tensors) -> None: ...

    @abstractmethod
    def _result(self) -> Tensors: ...


class Mean(Aggregator):
    """The mean, accumulated in float64 as replies come: memory does not grow with the number of clients."""

    def __init__(self, schema: Sequence[TensorSpec]) -> None:
        super().__init__(schema)
        self._sum = {spec.name: np.zeros(spec.shape) for spec in self.schema}

    def _add(self, tensors: Tensors) -> None:
        for name, total in self._sum.items():
            total += tensors[name]

    def _result(self) -> Tensors:
        return {name: (total / self.count).astype(np.float32) for name, total in self._sum.items()}


class _Coordinatewise(Aggregator):
    """Keeps all replies, since each element is judged among all clients': memory grows with their number."""

    def __init__(self, schema: Sequence[TensorSpec]) -> None:
        super().__init__(schema)
        self._rows: list[NDArray[np.float32]] = []

    def _add(self, tensors: Tensors) -> None:
        self._rows.append(np.concatenate([tensors[spec.name].reshape(-1) for spec in self.schema]))

    def _result(self) -> Tensors:
        flat = self._reduce(np.stack(self._rows)).astype(np.float32)
        out: Tensors = {}
        start = 0
        for spec in self.schema:
            out[spec.name] = flat[start : start + spec.size].reshape(spec.shape)
            start += spec.size
        return out

    @abstractmethod
    def _reduce(self, rows: NDArray[np.float32]) -> NDArray[np.floating]:
        """Reduce ``[clients, elements]`` to ``[elements]``."""


class Median(_Coordinatewise):
    """The median of each element (Yin et al. 2018): up to half of the clients may send anything."""

    def _reduce(self, rows: NDArray[np.float32]) -> NDArray[np.floating]:
        return np.asarray(np.median(rows, axis=0))


class TrimmedMean(_Coordinatewise):
    """The mean of each element without its lowest and highest values (Yin et al. 2018).

    Args:
        schema: The tensors of every reply.
        fraction: Share that is cut at each end, at least one client at each end as soon as three have answered.
    """

    def __init__(self, schema: Sequence[TensorSpec], fraction: float = 0.2) -> None:
        super().__init__(schema)
        if not 0 <= fraction < 0.5:
            raise UsageError(f"The share to trim at each end is {fraction}.", "It must be at least 0 and below 0.5.")
        self.fraction = fraction

    def _reduce(self, rows: NDArray[np.float32]) -> NDArray[np.floating]:
        cut = int(self.fraction * len(rows))
        if self.fraction > 0 and len(rows) >= 3:
            cut = max(cut, 1)
        kept = np.sort(rows, axis=0)[cut : len(rows) - cut]
        return np.asarray(np.mean(kept, axis=0, dtype=np.float64))


def make_aggregator(name: str, schema: Sequence[TensorSpec], *, trim: float = 0.2) -> Aggregator:
    """Return a fresh aggregation for one round.

    Raises:
        UsageError: There is none of that name.
    """
    if name == "mean":
        return Mean(schema)
    if name == "trimmed-mean":
        return TrimmedMean(schema, trim)
    if name == "median":
        return Median(schema)
    raise UsageError(f"There is no aggregation {name!r}.", f"Choose one of {', '.join(AGGREGATIONS)}.")
