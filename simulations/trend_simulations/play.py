"""One private federation of simulated retailers, and what each of them is left with."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from trend_client.backtest import Backtest, Forecaster, backtest, baseline_forecasters
from trend_client.engine import Engine
from trend_client.gate import CHOSEN
from trend_common import __version__
from trend_common.errors import DataError, UsageError
from trend_server.checkpoints import Announcement
from trend_simulations.compare import Watch
from trend_simulations.federation import Outcome, announce, federate_in_process, members
from trend_simulations.many import mapped
from trend_simulations.settings import Settings
from trend_simulations.shelf import Shelf
from trend_simulations.sources import Retailer, fingerprint

__all__ = ["Played", "play", "played_table"]

_SHOWN = ("seasonal-naive", "same-phase-mean", "zero-shot", "shared", CHOSEN)


@dataclass(frozen=True, eq=False)
class Played:
    """A federation's outcome and each retailer's own backtest of it."""

    settings: Settings
    retailers: Sequence[Retailer]
    outcome: Outcome
    backtests: Sequence[Backtest]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        privacy = self.outcome.plan.privacy
        assert privacy is not None
        return {
            "schema": 1,
            "version": __version__,
            "command": "trend-sim",
            "freq": self.settings.freq,
            "horizon": self.settings.horizon,
            "backbone": self.settings.backbone,
            "clients": [
                {
                    "name": one.name,
                    "series": one.series,
                    "epsilon_spent": round(self.outcome.spent[one.name], 6),
                    "backtest": found.to_json(),
                }
                for one, found in zip(self.retailers, self.backtests, strict=True)
            ],
            "privacy": {
                "epsilon": round(privacy.epsilon, 6),
                "delta": privacy.delta,
                "unit": privacy.unit,
                "noise_multiplier": privacy.buckets["S"].noise_multiplier,
                "signal_to_noise": round(self.outcome.signal_to_noise, 6),
            },
            "bytes_up_per_client_round": {"federated-dp": self.outcome.bytes_up},
            "seconds": {
                "total": round(self.seconds, 2),
                "training": round(self.outcome.training, 2),
                "overhead": round(self.outcome.seconds - self.outcome.training, 2),
            },
            "data": [
                {"name": one.name, "series": one.series, "fingerprint": fingerprint(one.panel)}
                for one in self.retailers
            ],
            "seeds": list(self.settings.seeds[:1]),
        }


def play(
    retailers: Sequence[Retailer],
    settings: Settings,
    *,
    watch: Watch | None = None,
    workers: int = 1,
    ray: bool = False,
    shared: Path | None = None,
    device: str = "cpu",
) -> Played:
    """Play one private federation with the first of the settings' seeds.

    Every retailer has its own policy and ledger, in a home that is thrown away at the end.

    Args:
        retailers: Who takes part.
        settings: The simulation's.
        watch: Told how far it is.
        workers: Processes; see :func:`trend_simulations.federation.federate_in_process`.
        ray: Play it on Flower's engine; see :func:`trend_simulations.on_ray.federate_on_ray`.
        shared: A folder that all machines of Ray's cluster see; by default this machine's temporary one.
        device: Where to compute.

    Raises:
        DataError: A retailer cannot be scored.
        Declined: A retailer's client did not accept the plan.
        UsageError: Several workers are wanted on a machine that cannot fork, Ray is not installed, or there is no
            such device.
    """
    watch, started = watch or Watch(), time.perf_counter()
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"torch sees no GPU for --device {device}.", "Use --device cpu, or torch's build for CUDA.")
    engine = Engine(settings.backbone, device=device)
    announced = announce(
        engine, settings, settings.dp, name="simulation", seed=settings.seeds[0], secure=settings.secure
    )
    with tempfile.TemporaryDirectory(prefix="trend-sim-", dir=shared) as folder:
        watch.stage(f"{len(retailers)} retailers, {settings.dp.rounds} private rounds", settings.dp.rounds)
        outcome = _federated(retailers, engine, announced, settings, Path(folder), watch.step, workers, ray)
    watch.stage("each retailer tests it on its own sales", len(retailers))
    outcome.adapter.put_on(engine)
    forecasters: dict[str, Forecaster] = {
        **baseline_forecasters(("seasonal-naive", "same-phase-mean")),
        "zero-shot": engine.forecaster(None, context=settings.context),
        "shared": engine.forecaster(outcome.adapter.tensors, context=settings.context),
    }

    def tested(number: int) -> Backtest | str:
        try:
            return backtest(retailers[number].panel, settings.horizon, forecasters)
        except DataError as error:
            return error.message

    kept, found = [], []
    for done, result in enumerate(mapped(tested, len(retailers), workers=workers), 1):
        one = retailers[done - 1]
        if isinstance(result, str):
            watch.say(f"{one.name} cannot be tested: {result}")
        else:
            found.append(result)
            kept.append(one)
        watch.step(done)
    if not kept:
        raise DataError("No retailer can be tested.", "Use a shorter --horizon or more history.")
    return Played(settings, kept, outcome, found, time.perf_counter() - started)


def _federated(
    retailers: Sequence[Retailer],
    engine: Engine,
    announced: Announcement,
    settings: Settings,
    root: Path,
    on_round: Callable[[int], None],
    workers: int,
    ray: bool,
) -> Outcome:
    seed, server_lr = settings.seeds[0], settings.dp.server_lr
    if ray:
        from trend_simulations.on_ray import federate_on_ray

        return federate_on_ray(
            retailers,
            announced,
            root,
            backbone=settings.backbone,
            seed=seed,
            server_lr=server_lr,
            on_round=on_round,
            device=engine.device,
            gpus=float(engine.device.startswith("cuda")),
        )
    joined = members(retailers, engine, announced.plan, root, seed=seed, shelf=Shelf(root / "shelf"))
    try:
        return federate_in_process(joined, announced, server_lr=server_lr, on_round=on_round, workers=workers)
    finally:
        for member in joined:
            member.ledger.close()


def played_table(result: Played) -> Table:
    """What each retailer gets: scaled quantile losses on the test window, ε spent, and its own verdict."""
    table = Table(
        title=f"Scaled quantile loss on the last {result.settings.horizon} steps, lower is better",
        title_justify="left",
    )
    table.add_column("retailer", no_wrap=True)
    table.add_column("series", justify="right")
    for name in _SHOWN:
        table.add_column("chosen per product" if name == CHOSEN else name, justify="right")
    table.add_column("against the old method")
    table.add_column("ε spent", justify="right")
    for one, found in zip(result.retailers, result.backtests, strict=True):
        scores = {name: found.methods[name].test["sql"] for name in _SHOWN}
        best = min(scores.values())
        cells = [f"[bold green]{value:.3f}[/]" if value == best else f"{value:.3f}" for value in scores.values()]
        gain = found.test_gain
        told = f"{abs(gain.relative):.1%} {'lower' if gain.relative > 0 else 'higher'} ({gain.outcome})"
        table.add_row(one.name, str(one.series), *cells, told, f"{result.outcome.spent[one.name]:.2f}")
    return table
