"""Where the retailers of a simulation come from: synthetic ones, one file each, or one file split by its stores."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from trend_common.errors import DataError, UsageError
from trend_common.panel import SalesPanel, from_frame, read
from trend_common.scoring import MINIMUM_HISTORY
from trend_simulations.shelf import Shelf

__all__ = ["Retailer", "ShelvedRetailer", "fingerprint", "from_files", "from_split", "last_history", "synthetic"]

_ORDER_SEED = 7
"""Of the choice of stores: the same stores whatever the seeds of training are."""

_CLOSED_AT_THE_END = 7
"""Days that a store of daily data may be shut when its file ends."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Retailer:
    """One simulated retailer: a name, its sales, and the group that the operator puts it in ("": none)."""

    name: str
    panel: SalesPanel
    group: str = ""

    @property
    def series(self) -> int:
        """Number of series."""
        return self.panel.n_series

    def having(self, panel: SalesPanel) -> Retailer:
        """The same retailer with other sales."""
        return replace(self, panel=panel)


class ShelvedRetailer(Retailer):
    """A retailer whose sales are read from a shelf each time that they are asked for.

    Args:
        retailer: Whose sales are put there.
        shelf: Where.
        key: Under which name.
    """

    def __init__(self, retailer: Retailer, shelf: Shelf, key: str) -> None:
        shelf.put(key, retailer.panel)
        vars(self).update(name=retailer.name, group=retailer.group, _series=retailer.series, _shelf=shelf, _key=key)

    def having(self, panel: SalesPanel) -> Retailer:
        """See :meth:`Retailer.having`; the other sales lie on the shelf, too."""
        mine = vars(self)
        return ShelvedRetailer(Retailer(self.name, panel, self.group), mine["_shelf"], f"{mine['_key']}-cut")

    @property
    def panel(self) -> SalesPanel:
        """The sales, in a copy of its own."""
        found: SalesPanel = vars(self)["_shelf"].take(vars(self)["_key"])
        return found

    @property
    def series(self) -> int:
        """Number of series."""
        return int(vars(self)["_series"])


def fingerprint(panel: SalesPanel) -> str:
    """SHA-256 of the values that a simulation works on: series, dates, sales, closures and covariates."""
    digest = hashlib.sha256(f"{panel.freq}|{panel.offset}|{','.join(panel.frame.columns)}".encode())
    digest.update(pd.util.hash_pandas_object(panel.frame, index=False).to_numpy().tobytes())
    return digest.hexdigest()


def synthetic(
    n: int,
    *,
    seed: int,
    freq: Literal["D", "W"] = "D",
    days: int = 730,
    sizes: tuple[int, int] = (20, 80),
    shelf: Shelf | None = None,
) -> list[Retailer]:
    """``n`` synthetic retailers of one market, read as their own files would be.

    With a ``shelf`` their sales go there as they are drawn, and are never in memory together.
    """
    from trend_simulations.retailers import draw_retailers

    found: list[Retailer] = []
    for number, one in enumerate(draw_retailers(n, seed=seed, freq=freq, days=days, series=sizes)):
        drawn = Retailer(one.name, from_frame(one.frame, freq=freq, name=one.name), one.segment)
        found.append(drawn if shelf is None else ShelvedRetailer(drawn, shelf, f"sales-{number}"))
    return found


def from_files(paths: Sequence[Path], *, freq: Literal["D", "W", "M"] | None = None) -> list[Retailer]:
    """One retailer for each file.

    Raises:
        DataError: A file cannot be used, or the files' steps differ.
        UsageError: The same file is given twice.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise UsageError("A file is given twice.", "Each file is one retailer; name each once.")
    found: list[Retailer] = []
    for path in paths:
        name = path.name.split(".")[0]
        if any(other.name == name for other in found):
            name = f"{name}-{len(found) + 1}"
        found.append(Retailer(name, read(path, freq=freq)))
    kinds = {one.panel.freq for one in found}
    if len(kinds) > 1:
        listed = ", ".join(f"{one.name}: {one.panel.freq}" for one in found)
        raise DataError(
            f"The files differ in their step ({listed}).",
            "One federation forecasts one calendar; --freq W reads daily files as weekly ones.",
        )
    return found


def from_split(
    path: Path,
    *,
    retailers: int | None = None,
    group: int = 1,
    freq: Literal["D", "W", "M"] | None = None,
    say: Say = lambda _: None,
) -> list[Retailer]:
    """One file whose stores become retailers, each of about ``group`` stores.

    Stores that closed before the file ends are left out, since they have no sales to test on. Which stores come
    together, and which are taken where fewer are wanted, is drawn once and does not depend on their sales.

    Raises:
        DataError: The file has too few stores.
    """
    panel = read(path, freq=freq)
    by_store = panel.split_by_store()
    slack = pd.Timedelta(days=_CLOSED_AT_THE_END if panel.freq == "D" else 0)
    alive = {name: part for name, part in by_store.items() if part.end >= panel.end - slack}
    if len(alive) < len(by_store):
        say(f"{len(by_store) - len(alive)} of {len(by_store)} stores end before {panel.end.date()} and are left out.")
    names = sorted(alive, key=_natural)
    parts = max(1, round(len(names) / group))
    wanted = retailers or parts
    if wanted > parts or len(names) < 2:
        raise DataError(
            f"{path.name} has {len(names)} stores, which make {parts} retailers of {group}; {wanted} are wanted.",
            "Ask for fewer with --retailers, or put fewer stores into each with --group-stores.",
        )
    rng = np.random.default_rng(_ORDER_SEED)
    shuffled = [names[position] for position in rng.permutation(len(names))]
    if group == 1:
        chosen = [[name] for name in sorted(shuffled[:wanted], key=_natural)]
    else:
        chosen = [list(part) for part in np.array_split(np.array(shuffled, dtype=object), parts)][:wanted]
    stores = panel.static["store"]
    result = []
    for index, members in enumerate(chosen, 1):
        name = f"store-{members[0]}" if group == 1 else f"group-{index}"
        one = alive[members[0]] if group == 1 else panel.select(stores.index[stores.isin(members)])
        result.append(Retailer(name, one))
    return result


def last_history(
    retailers: Sequence[Retailer],
    *,
    horizon: int,
    history: int | None,
    max_series: int | None = None,
    say: Say = lambda _: None,
) -> list[Retailer]:
    """What remains of the retailers if only ``history`` steps before the cut are known, and few series are wanted.

    The cut is the validation's first step: two horizons before the end.

    Raises:
        UsageError: ``history`` is too short to train on.
        DataError: No retailer is left.
    """
    kept = []
    for one in retailers:
        panel = whole = one.panel
        if history is not None:
            least = MINIMUM_HISTORY[panel.freq]
            if history < least:
                raise UsageError(f"--history {history} is too short.", f"Use at least {least} steps.")
            panel = panel.last_steps(history + 2 * horizon)
        needed = MINIMUM_HISTORY[panel.freq] + 2 * horizon
        steps = len(pd.date_range(panel.start, panel.end, freq=panel.offset))
        if steps < needed:
            say(f"{one.name} covers {steps} steps where {needed} are needed and is left out.")
            continue
        if max_series is not None and panel.n_series > max_series:
            rng = np.random.default_rng(_ORDER_SEED)
            picked = rng.choice(panel.n_series, max_series, replace=False)
            panel = panel.select(panel.ids[row] for row in sorted(picked))
        kept.append(one if panel is whole else one.having(panel))
    if not kept:
        raise DataError(
            f"No retailer has enough history for a horizon of {horizon}.", "Use a shorter --horizon or more data."
        )
    return kept


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts store 2 before store 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
