"""The federations of the benchmark: natural ones from public data as they are published here, and synthetic ones.

Nothing is downloaded or redistributed: a person puts the files into one folder (``docs/benchmark.md`` says which). A
federation is a fixed set of retailers; which stores they are made of is drawn once and does not depend on sales.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import pandas as pd

from trend_common.errors import DataError, UsageError
from trend_common.scoring import panel_before
from trend_simulations.sources import Retailer, from_files, from_split, synthetic

__all__ = ["FEDERATIONS", "QUICK", "Federation", "earlier", "find", "resized"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class Part:
    """Retailers out of one file.

    Attributes:
        file: Its name in the folder.
        group: Stores that make one retailer; 0: the file is one retailer.
        retailers: At most so many; None takes all.
        skip: So many of the file's retailers, in the order of the draw, belong to another federation.
    """

    file: str
    group: int = 1
    retailers: int | None = None
    skip: int = 0


@dataclass(frozen=True)
class Federation:
    """One federation of the benchmark.

    Attributes:
        name: For commands and files.
        title: For tables.
        parts: Where its retailers come from; none for synthetic ones.
        synthetic: Number of synthetic retailers.
        freq: Step of all; files are read so.
        history: Steps before the cut that are known; the rest of the files is not.
        max_series: At most so many series of each retailer.
    """

    name: str
    title: str
    parts: tuple[Part, ...] = ()
    synthetic: int = 0
    freq: Literal["D", "W"] = "W"
    history: int | None = 26
    max_series: int | None = None

    def files(self, folder: Path) -> list[Path]:
        """Its files.

        Raises:
            UsageError: One is not in the folder.
        """
        found = [folder / part.file for part in self.parts]
        missing = [path.name for path in found if not path.is_file()]
        if missing:
            raise UsageError(
                f"{folder} lacks {', '.join(missing)}, which {self.name} needs.",
                "docs/benchmark.md says where the data come from; --federations leaves federations out.",
            )
        return found

    def sha256(self, folder: Path) -> str:
        """Of all its files' bytes."""
        digest = hashlib.sha256()
        for path in self.files(folder):
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def load(self, folder: Path, *, say: Say = lambda _: None) -> list[Retailer]:
        """Its retailers, with all their sales; those of one file, or of one synthetic segment, are a group."""
        if self.synthetic:
            return synthetic(self.synthetic, seed=0, freq=self.freq)
        found: list[Retailer] = []
        for part, path in zip(self.parts, self.files(folder), strict=True):
            some = self._taken(part, path, say)
            kind = "" if len(self.parts) == 1 else path.name.split(".")[0]
            found += [Retailer(f"{kind}-{one.name}" if kind else one.name, one.panel, kind) for one in some]
        return found

    def _taken(self, part: Part, path: Path, say: Say) -> list[Retailer]:
        if not part.group:
            return from_files([path], freq=self.freq)
        if not part.skip:
            return from_split(path, retailers=part.retailers, group=part.group, freq=self.freq, say=say)
        every = from_split(path, group=part.group, freq=self.freq, say=say)
        if len(every) <= part.skip:
            raise DataError(f"{path.name} has {len(every)} retailers; {self.name} needs more than {part.skip}.", "")
        first = {one.name for one in from_split(path, retailers=part.skip, group=part.group, freq=self.freq)}
        return [one for one in every if one.name not in first][: part.retailers]


_WALMART, _JUICE = "walmart_dept_weekly.csv.gz", "dominicks_oj.csv.gz"
_ROSSMANN: Final = tuple(Part(f"rossmann_{kind}.csv.gz", group=10) for kind in "abc")

FEDERATIONS: Final = (
    Federation("walmart", "15 Walmart stores, 26 weeks", (Part(_WALMART, retailers=15),)),
    Federation("walmart-others", "the other Walmart stores, 26 weeks", (Part(_WALMART, skip=15),)),
    Federation("walmart-year", "15 Walmart stores, 52 weeks", (Part(_WALMART, retailers=15),), history=52),
    Federation("walmart-full", "15 Walmart stores, all their weeks", (Part(_WALMART, retailers=15),), history=None),
    Federation("walmart-small", "45 Walmart stores of 10 series, 26 weeks", (Part(_WALMART),), max_series=10),
    Federation("juice-groups", "6 groups of juice stores, 26 weeks", (Part(_JUICE, group=10),)),
    Federation("juice-stores", "juice stores singly, 26 weeks", (Part(_JUICE),)),
    Federation("rossmann", "32 groups of drugstores, 182 days", _ROSSMANN, freq="D", history=182),
    Federation(
        "gifts",
        "UK gifts by country, up to 100 series each, 182 days",
        (Part("uk_gift_online.csv.gz"),),
        freq="D",
        history=182,
        max_series=100,
    ),
    Federation(
        "mixed",
        "8 Walmart stores and 6 groups of juice stores, 26 weeks",
        (Part(_WALMART, retailers=8), Part(_JUICE, group=10)),
    ),
    Federation("synthetic-10", "10 synthetic retailers, 26 weeks", synthetic=10),
    Federation("synthetic-30", "30 synthetic retailers, 26 weeks", synthetic=30),
    Federation("synthetic-100", "100 synthetic retailers, 26 weeks", synthetic=100),
    Federation("synthetic-1000", "1,000 synthetic retailers, 26 weeks", synthetic=1000),
)
"""All federations of the benchmark."""

QUICK: Final = ("walmart", "juice-groups", "synthetic-10")
"""Those of a quick run."""


def find(names: list[str]) -> list[Federation]:
    """The federations of these names, in the benchmark's order.

    Raises:
        UsageError: There is none of a name.
    """
    known = {one.name: one for one in FEDERATIONS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"There is no federation {unknown[0]!r}.", f"Federations are {', '.join(known)}.")
    return [one for one in FEDERATIONS if one.name in names]


def earlier(retailers: list[Retailer], steps: int) -> list[Retailer]:
    """The retailers as if their sales had ended ``steps`` steps earlier: an earlier cut of the calendar."""
    if not steps:
        return retailers
    found = []
    for one in retailers:
        panel = one.panel
        calendar = pd.date_range(panel.start, panel.calendar_end, freq=panel.offset)
        if len(calendar) <= steps:
            continue
        known = panel_before(panel, calendar[len(calendar) - steps])
        found.append(replace(one, panel=replace(known, future=known.future.iloc[:0])))
    return found


def resized(one: Federation, *, retailers: int, max_series: int) -> Federation:
    """A smaller federation of the same kind, for a quick look."""
    parts = tuple(replace(part, retailers=min(retailers, part.retailers or retailers)) for part in one.parts)
    return replace(one, parts=parts, synthetic=min(one.synthetic, retailers), max_series=max_series)
