"""What a sales file becomes: one regular series per product and store, with everything that was found on the way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import numpy as np
import pandas as pd

from trend_common.errors import UsageError

__all__ = ["COVARIATES", "KNOWN_AHEAD", "OWN", "STATIC", "Finding", "Freq", "SalesPanel", "Severity", "series_id"]

Freq = Literal["D", "W", "M"]
Severity = Literal["info", "warning", "error"]

OWN: Final = ("own_1", "own_2")
"""Columns of a retailer's own: a flyer, school holidays, an event, the weather."""

COVARIATES: Final = ("price", "promo", "holiday", "stock", "returns", *OWN)
"""Optional columns of ``SalesPanel.frame``, in this order; all float64, NaN = unknown."""

KNOWN_AHEAD: Final = ("price", "promo", "holiday")
"""The covariates that a retailer can always know before the day comes; ``SalesPanel.known_ahead`` adds own ones."""

STATIC: Final = ("store", "product", "category", "description")


@dataclass(frozen=True)
class Finding:
    """One thing that was noticed in a sales file.

    Attributes:
        code: Stable name, one of :data:`trend_common.panel.findings.CATALOGUE`.
        severity: ``error`` findings make the file unusable and are raised, never stored in a panel.
        count: How many rows, cells, days or columns it concerns (the message says which).
        message: What was found.
        action: What was done about it.
    """

    code: str
    severity: Severity
    count: int
    message: str
    action: str


def series_id(store: str, product: str) -> str:
    """``store/product``; a slash (or percent sign) inside a part is percent-encoded, so that ids stay unique."""
    parts = (part.replace("%", "%25").replace("/", "%2F") for part in (store, product))
    return "/".join(parts)


@dataclass(frozen=True)
class SalesPanel:
    """All series of one retailer on one regular calendar grid.

    Attributes:
        name: For the person's own screen only; never sent.
        freq: "D", "W" or "M".
        offset: pandas offset alias of the grid: "D", "W-FRI", "MS", ...
        frame: Sorted by ``unique_id, ds``; each series is a regular grid of ``offset`` from its own first to its own
            last step. Columns ``unique_id`` (str), ``ds`` (datetime64), ``y`` (float64, NaN = missing or unknown),
            ``closed`` (bool, known closed: ``y`` is 0 there) and those of :data:`COVARIATES` that the source has.
        future: Like ``frame`` with the columns of :attr:`known_ahead` alone: steps after a series' last one for which
            the source gives such values. May be empty.
        static: Index ``unique_id`` (sorted); str columns store, product, category, description ("" = unknown).
        columns: Role -> source column.
        findings: Everything noticed, each with what was done.
        rows: Rows read from the source.
        until: The export's last step, where a person declared its last day; no row of ``frame`` is later. None leaves
            it to the file. Unlike :attr:`end`, it does not depend on which series are there.
        outages: Runs of steps without stock, stated by the file or inferred: ``unique_id, start, end, days, lost``
            (an estimate of the demand they hid, in units; NaN = unknown), ``stated`` (bool). For the person's screen.
        shut: Store -> days ahead on which it is expected to be closed (:mod:`trend_common.closures`); for forecasts.
        own_ahead: Those of :data:`OWN` that can be known before the day comes, by what their columns are called.
    """

    name: str
    freq: Freq
    offset: str
    frame: pd.DataFrame
    future: pd.DataFrame
    static: pd.DataFrame
    columns: dict[str, str]
    findings: tuple[Finding, ...]
    rows: int
    until: pd.Timestamp | None = None
    own_ahead: tuple[str, ...] = ()
    outages: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    shut: Mapping[str, frozenset[pd.Timestamp]] = field(default_factory=dict, repr=False)

    @property
    def start(self) -> pd.Timestamp:
        """The first step of any series."""
        return pd.Timestamp(self.frame["ds"].min())

    @property
    def end(self) -> pd.Timestamp:
        """The last step of any series."""
        return pd.Timestamp(self.frame["ds"].max())

    @property
    def calendar_end(self) -> pd.Timestamp:
        """The last step of the calendar, from which cuts are counted back: the declared one, else :attr:`end`."""
        return self.end if self.until is None else self.until

    @property
    def known_ahead(self) -> tuple[str, ...]:
        """The covariates that this retailer can know before the day comes, the only ones in :attr:`future`."""
        return (*KNOWN_AHEAD, *self.own_ahead)

    @property
    def ids(self) -> tuple[str, ...]:
        """The series' ids in the frame's order."""
        return tuple(self.static.index)

    @property
    def n_series(self) -> int:
        """Number of series."""
        return len(self.static)

    def select(self, ids: Iterable[str]) -> SalesPanel:
        """A panel of the named series alone, in the panel's own order.

        Raises:
            UsageError: An id is not in the panel, or none was given.
        """
        wanted = set(ids)
        unknown = sorted(wanted - set(self.static.index))
        if unknown:
            shown = ", ".join(unknown[:5])
            raise UsageError(f"{len(unknown)} of {len(wanted)} series are not in the panel: {shown}.")
        if not wanted:
            raise UsageError("No series was named.", "Name at least one unique_id.")
        return self._restricted(self.frame["unique_id"].isin(wanted).to_numpy())

    def split_by_store(self) -> dict[str, SalesPanel]:
        """One panel per store, in the stores' sorted order; each is named after its store."""
        stores = self.static["store"]
        codes, names = pd.factorize(stores, sort=True)
        of_row = codes[self.static.index.get_indexer(pd.Index(self.frame["unique_id"]))]
        return {
            str(store): replace(self._restricted(of_row == code), name=str(store)) for code, store in enumerate(names)
        }

    def last_steps(self, n: int) -> SalesPanel:
        """Only the last ``n`` steps of the panel's calendar, as if the export had begun there.

        Series that ended earlier are dropped; ``future`` is kept for those that remain.

        Raises:
            UsageError: ``n`` is not positive.
        """
        if n < 1:
            raise UsageError(f"The number of steps is {n}.", "Give at least 1.")
        first = pd.date_range(end=self.calendar_end, periods=n, freq=self.offset)[0]
        return self._restricted((self.frame["ds"] >= first).to_numpy())

    def _restricted(self, rows: np.ndarray) -> SalesPanel:
        frame = self.frame[rows].reset_index(drop=True)
        ids = pd.Index(frame["unique_id"].unique())
        static = self.static[self.static.index.isin(ids)]
        future = self.future[self.future["unique_id"].isin(ids)].reset_index(drop=True)
        outages = self.outages
        if len(outages):
            first = frame.groupby("unique_id")["ds"].min()
            outages = outages[outages["end"] >= outages["unique_id"].map(first)].reset_index(drop=True)
        return replace(self, frame=frame, future=future, static=static, outages=outages)
