"""The federated retail benchmark: one protocol over many federations, resumable, all that was used named.

The protocol is in ``docs/benchmark.md``. One run is a federation at one cut of the calendar. Its result is a file; a
run whose file is there, made by the same protocol from the same data, is not repeated.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trend_client.engine import Engine
from trend_common import __version__
from trend_common.errors import DataError
from trend_common.files import write_json
from trend_simulations.boosted import require_boosted
from trend_simulations.compare import COMPARED_BASELINES, RELATIVE, Watch, compare
from trend_simulations.federations import Federation, earlier
from trend_simulations.grouped import groups_of
from trend_simulations.intervals import Interval, bootstrap, share_closed
from trend_simulations.newcomers import Newcomers, drawn
from trend_simulations.settings import Settings, split_arm
from trend_simulations.sources import last_history

__all__ = ["ARMS_OF_BENCHMARK", "QUICK_ARMS", "Protocol", "Run", "run_benchmark", "table_of"]

ARMS_OF_BENCHMARK: Final = (
    "zero-shot",
    "local",
    "federated",
    "federated-personal",
    *(f"federated-dp@{epsilon}" for epsilon in (8, 4, 2, 1)),
    "federated-dp-personal@8",
    "alone",
    "gated",
    *(f"gated-dp@{epsilon}" for epsilon in (8, 4, 2, 1)),
    "central",
    "lightgbm",
    "grouped",
    "grouped-dp@8",
    "grouped-dp@4",
)
"""The grouped ones are run where a federation has groups."""

QUICK_ARMS: Final = ("zero-shot", "local", "federated", "federated-dp@8", "alone", "gated", "gated-dp@8")

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Protocol:
    """What is run on every federation.

    Attributes:
        arms, baselines: Scored.
        seeds: Number of repetitions.
        cuts: Calendar cuts; the first is the files' end, each further one a horizon earlier.
        backbone: Name or folder.
        threads: Of torch.
        newcomers: Retailers that are left out of every federation, and take its adapter as it is.
        launch_share: Share of the training windows that hide the history; None is that of each recipe.
    """

    arms: tuple[str, ...] = ARMS_OF_BENCHMARK
    baselines: tuple[str, ...] = COMPARED_BASELINES
    seeds: int = 3
    cuts: int = 1
    backbone: str = "trend-small"
    threads: int = 1
    newcomers: int = 0
    launch_share: float | None = None


@dataclass(frozen=True, eq=False)
class Run:
    """One federation at one cut, as its file has it."""

    federation: Federation
    cut: int
    result: dict[str, Any]
    repeated: bool


def run_benchmark(
    folder: Path,
    federations: Sequence[Federation],
    protocol: Protocol,
    out: Path,
    *,
    engine: Engine | None = None,
    watch: Watch | None = None,
    on_run: Callable[[Run], None] = lambda _: None,
) -> list[Run]:
    """Run what is missing, and return all.

    Args:
        folder: With the data files.
        federations: To run.
        protocol: How.
        out: Folder for ``NAME-cutK.json``.
        engine: To be used; default: one for the protocol's backbone, loaded when first needed.
        watch: Told about the progress.
        on_run: Told when a run is done, or was found done.

    Raises:
        UsageError: A file is missing, or a library that an arm needs.
    """
    if any(split_arm(arm)[0] == "lightgbm" for arm in protocol.arms):
        require_boosted()
    watch = watch or Watch()
    out.mkdir(parents=True, exist_ok=True)
    found: list[Run] = []
    for one in federations:
        one.files(folder)
    for one in federations:
        data = one.sha256(folder)
        for cut in range(protocol.cuts):
            path = out / f"{one.name}-cut{cut}.json"
            settings = Settings.of(
                one.freq,
                history=one.history,
                seeds=protocol.seeds,
                backbone=protocol.backbone,
                threads=protocol.threads,
                launch_share=protocol.launch_share,
            )
            key = _key(one, cut, protocol, settings, data)
            known = _known(path, key)
            repeated = known is None
            if known is None:
                engine = engine or Engine(protocol.backbone, device="cpu")
                result = _run(one, cut, folder, protocol, settings, engine, watch)
                if result is None:
                    watch.say(f"{one.name} has no retailer that can be scored at cut {cut} and is left out.")
                    continue
                known = {"benchmark": {"key": key, "federation": asdict(one), "cut": cut}, **result}
                write_json(path, known)
            found.append(Run(one, cut, known, repeated))
            on_run(found[-1])
    return found


def _run(
    one: Federation,
    cut: int,
    folder: Path,
    protocol: Protocol,
    settings: Settings,
    engine: Engine,
    watch: Watch,
) -> dict[str, Any] | None:
    loaded = one.load(folder, say=watch.say)
    left_out = drawn([retailer.name for retailer in loaded], protocol.newcomers)
    every = earlier(loaded, cut * settings.horizon)
    try:
        kept = last_history(
            every, horizon=settings.horizon, history=one.history, max_series=one.max_series, say=watch.say
        )
        joined = [retailer for retailer in kept if retailer.name not in left_out]
        guests = Newcomers([retailer for retailer in kept if retailer.name in left_out], settings)
        arms = [arm for arm in protocol.arms if not arm.startswith("grouped") or groups_of(joined)]
        result = compare(
            joined,
            arms,
            settings,
            engine=engine,
            baselines=protocol.baselines,
            watch=watch,
            on_chosen=guests.welcome,
        )
    except DataError as error:
        watch.say(error.message)
        return None
    return {**result.to_json(), **({"newcomers": guests.to_json()} if left_out else {})}


def _key(one: Federation, cut: int, protocol: Protocol, settings: Settings, data: str) -> str:
    """Changes with anything that changes a result, but for the code between two versions."""
    named = [__version__, asdict(one), cut, protocol.arms, protocol.baselines, asdict(settings), data]
    named += [protocol.newcomers] if protocol.newcomers else []
    return hashlib.sha256(json.dumps(named, sort_keys=True, default=str).encode()).hexdigest()


def _known(path: Path, key: str) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("benchmark", {}).get("key") == key else None


@dataclass(frozen=True)
class Row:
    """One arm in one federation: WQL over the seasonal naive's, and the difference to a rival.

    Attributes:
        relative: Over retailers, and cuts where there are several.
        difference: To the rival; below 0 is better.
        gain: Share of retailers that are better than with the rival, in the mean over cuts.
        not_worse: Share that is at most 1 % worse.
        closed: Share of the way from ``local`` to ``central`` that is covered; None where that way is not clearly
            longer than none, or one of the two was not run.
    """

    relative: Interval
    difference: Interval | None
    gain: float
    not_worse: float
    closed: Interval | None = None


def table_of(runs: Sequence[Run], *, rival: str = "alone", measure: str = "wql") -> dict[str, dict[str, Row]]:
    """Federation → arm or method → row.

    Each retailer's seeds are averaged first; with several cuts the bootstrap resamples retailers and cuts.

    Args:
        runs: Of one protocol.
        rival: The arm that the others are held against.
        measure: One of :data:`trend_simulations.compare.RELATIVE`.
    """
    if measure not in RELATIVE:
        raise ValueError(f"measure: {measure!r} is not one of {RELATIVE}")
    found: dict[str, dict[str, Row]] = {}
    for name in dict.fromkeys(run.federation.name for run in runs):
        some = [run.result for run in runs if run.federation.name == name]
        methods = [*some[0]["arms"], *some[0]["baselines"]]
        values = {method: _values(some, method, measure) for method in methods}
        other = values.get(rival)
        rows = {method: _row(values[method], None if method == rival else other) for method in methods}
        arms = {arm: values[arm] for arm in some[0]["arms"]}
        found[name] = {method: replace(row, closed=_closed(arms, method)) for method, row in rows.items()}
    return found


def _closed(values: Mapping[str, Array], method: str) -> Interval | None:
    if not {"local", "central", method} <= set(values) or method in ("local", "central"):
        return None
    return share_closed(values["local"], values[method], values["central"])


def _row(values: Array, other: Array | None) -> Row:
    if other is None:
        return Row(bootstrap(values), None, float("nan"), float("nan"))
    difference, ratio = values - other, values / np.where(other > 0, other, np.nan)
    some = ratio[np.isfinite(ratio).any(axis=1)]
    known = np.nanmean(some, axis=1) if some.size else np.zeros(0)
    gain, held = ((known < limit).mean() if known.size else np.nan for limit in (1.0, 1.01))
    return Row(bootstrap(values), bootstrap(difference), float(gain), float(held))


def _values(results: Sequence[dict[str, Any]], method: str, measure: str) -> Array:
    """[C, K] of the retailers that are in every cut, relative to the seasonal naive."""
    names = [client["name"] for client in results[0]["clients"]]
    cuts = [{client["name"]: client for client in one["clients"]} for one in results]
    kept = [name for name in names if all(name in cut for cut in cuts)]
    table = np.full((len(kept), len(cuts)), np.nan)
    for row, name in enumerate(kept):
        for column, cut in enumerate(cuts):
            client = cut[name]
            own = {**client["arms"], **client["baselines"]}
            value, naive = own[method][measure], own["seasonal-naive"][measure]
            if value is not None and naive:
                table[row, column] = value / naive
    return table
