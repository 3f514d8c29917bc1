"""The server's Flower app, and the service around it: TLS, invitations, the SuperLink, the rounds, the registry."""

from __future__ import annotations

import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from trend_common import __version__
from trend_common.errors import UsageError
from trend_common.files import write_json
from trend_common.flower.environment import prepare, quiet_logs
from trend_common.flower.gate import RateLimit
from trend_common.flower.grid import RoundGrid
from trend_common.flower.link import Link
from trend_common.protocol import FederationPlan
from trend_common.secagg.messages import RosterEntry
from trend_server.certificates import ensure_certificates, server_names
from trend_server.checkpoints import Announcement, Checkpoint, DiskStore
from trend_server.enrolment import Door
from trend_server.federation import Federation, LoopSettings
from trend_server.home import ServerHome
from trend_server.plans import make_plan
from trend_server.registry import ModelCard, Registry
from trend_server.roster import Roster
from trend_server.screen import Screen
from trend_server.settings import ServerSettings, parse_duration

__all__ = ["Service", "app", "check_same_plan", "joins", "make_server_app", "serve"]

_RECONCILE_SECONDS: Final = 2.0

app = ServerApp()
"""What the app bundle names. It is not run by Flower: ``trend-server`` drives an app of its own making."""


@app.main()  # type: ignore[untyped-decorator]
def _main(_grid: Grid, _context: Context) -> None:
    raise UsageError("This app runs inside trend-server.", "Start it with the command trend-server.")


def make_server_app(play: Callable[[RoundGrid], None]) -> ServerApp:
    """Return a ServerApp that plays ``play`` on the grid it is given."""
    made = ServerApp()

    @made.main()  # type: ignore[untyped-decorator]
    def main(grid: Grid, _: Context) -> None:
        if not isinstance(grid, RoundGrid):
            raise TypeError("the loop needs a RoundGrid")
        play(grid)

    return made


@dataclass(frozen=True, kw_only=True)
class Service:
    """What ``trend-server`` is asked to do.

    Attributes:
        home: Where everything is kept.
        settings: ``server.toml`` with the command line over it.
        host, port: Where to listen.
        exit_when_done: Stop when everybody who took part has the adapter; else stay for those who come later.
        json_path: Where to write what came of it.
        adopt_timeout: Seconds to wait at the end for those who took part.
        plan_of: Makes the plan of a new federation.
    """

    home: ServerHome
    settings: ServerSettings
    host: str
    port: int
    exit_when_done: bool = False
    json_path: Path | None = None
    adopt_timeout: float = 30.0
    plan_of: Callable[[ServerSettings], Announcement] = make_plan


def serve(service: Service) -> ModelCard:
    """Run the server until the federation is done (and on, unless it shall exit), or until Ctrl-C.

    Raises:
        UsageError: The home is in use, the settings are not those that the federation began with, the address cannot
            be listened on.
    """
    home = service.home.create()
    prepare(home.root / "flower")
    quiet_logs(home.log_path)
    started = time.monotonic()
    with _sigterm_is_ctrl_c(), home.locked():
        names = server_names(service.host, service.settings.names)
        certificates = ensure_certificates(home.tls, names)
        screen = Screen(lambda status: home.write_status(status))
        door = Door(Roster(home.roster_path), on_join=screen.joined)
        link = Link(
            host=service.host,
            port=service.port,
            certificate=certificates.certificate,
            private_key=certificates.private_key,
            enrol=door.redeem,
            authority=certificates.renewals,
            rate=joins(service.settings),
        )
        # Before anybody can call: whoever comes back first must not be taken for a stranger.
        door.open(link)
        with link, screen:
            write_json(home.address_path, {"host": service.host, "port": link.port})
            screen.listening(service.host, link.port, certificates.fingerprint)
            with _shutting_out(door, screen):
                return _federate(service, link, screen, started)


def joins(settings: ServerSettings) -> RateLimit:
    """How many may join from one address at once, and how fast they may come after that."""
    return RateLimit(settings.joins_at_once, settings.joins_per_minute / 60)


def _federate(service: Service, link: Link, screen: Screen, started: float) -> ModelCard:
    home, settings = service.home, service.settings
    store = DiskStore(home.federation(settings.federation))
    announcement = store.announced()
    if announcement is None:
        screen.note("Preparing the plan: backbone, adapter, noise.")
        announcement = service.plan_of(settings)
        store.announce(announcement)
    else:
        check_same_plan(announcement.plan, settings)
    plan = announcement.plan
    screen.plan(plan)
    cards: list[ModelCard] = []

    def play(grid: RoundGrid) -> None:
        names = _Names(link)
        federation = Federation(
            grid,
            plan,
            announcement.initial,
            announcement.frozen,
            _loop_settings(service),
            store,
            screen.event,
            names,
            lambda: _directory(link, Roster(home.roster_path)),
        )
        state = federation.train()
        shelf = Registry(home.registry)
        cards.append(shelf.add(plan, state.adapter, announcement.frozen, announcement.initial, state.history))
        screen.note(f"The shared adapter is version {cards[-1].version} of the registry.")
        federation.hand_over(state.adapter, seconds=service.adopt_timeout)
        if service.json_path is not None:
            write_json(service.json_path, _summary(plan, state, cards[-1], time.monotonic() - started))
        if not service.exit_when_done:
            screen.note("Everybody who is here has the adapter. Staying for those who come later; Ctrl-C ends this.")
            federation.hand_over(state.adapter, seconds=None)

    link.run(make_server_app(play))
    return cards[-1]


def check_same_plan(plan: FederationPlan, settings: ServerSettings) -> None:
    """See that a federation goes on as it began: clients have agreed to its plan.

    Raises:
        UsageError: A setting differs; all that do are named.
    """
    privacy = plan.privacy
    pairs: dict[str, tuple[Any, Any]] = {
        "backbone": (plan.backbone, settings.backbone),
        "freq": (plan.freq, settings.freq),
        "horizon": (plan.horizon, settings.horizon),
        "rounds": (plan.rounds, settings.rounds),
        "steps": (plan.steps, settings.steps),
        "update": (plan.update, settings.update),
        "train": (plan.adapter.train, settings.train),
        "rank": (plan.adapter.rank, settings.rank),
        "windows_per_series": (plan.windows_per_series, settings.windows_per_series),
        "launch_share": (plan.launch_share, settings.launch_share),
        "wire": (plan.wire, "fixed32" if settings.secure_aggregation else settings.wire),
        "secure_aggregation": (plan.secure_aggregation is not None, settings.secure_aggregation),
        "private": (privacy is not None, settings.private),
    }
    if settings.context:
        pairs["context"] = (plan.context, settings.context)
    if privacy is not None and settings.private:
        sizes = {name: (bucket.q, bucket.expected_batch) for name, bucket in privacy.buckets.items()}
        wanted = {name: (bucket.q, bucket.expected_batch) for name, bucket in settings.buckets.items()}
        # The plan holds the ε that is reached, a little below the one that was asked for.
        reached = (
            settings.epsilon if 0.9 * settings.epsilon < privacy.epsilon <= settings.epsilon else privacy.epsilon
        )
        pairs |= {
            "epsilon": (reached, settings.epsilon),
            "delta": (privacy.delta, settings.delta),
            "clip": (privacy.clip, settings.clip),
            "unit": (privacy.unit, settings.unit),
            "buckets": (sizes, wanted),
        }
    changed = [f"{name} is {now} and was {then}" for name, (then, now) in pairs.items() if then != now]
    if changed:
        raise UsageError(
            f"The federation {plan.federation} has begun with other settings: {'; '.join(changed)}.",
            "Go on with those, or start another federation with --federation NAME (clients spend privacy anew).",
        )


def _directory(link: Link, roster: Roster) -> dict[int, RosterEntry]:
    """Who has joined: node id → name and enrolled key."""
    keys = {entry.name: entry.public_key for entry in roster.entries() if entry.state == "joined"}
    found = {}
    for node in link.nodes():
        key = keys.get(node.name)
        if key is not None:
            found[node.node_id] = RosterEntry(name=node.name, public_key=key)
    return found


def _loop_settings(service: Service) -> LoopSettings:
    settings = service.settings
    return LoopSettings(
        min_clients=settings.min_clients,
        round_timeout=parse_duration(settings.round_timeout),
        aggregation=settings.aggregation,
        trim=settings.trim,
        optimiser=settings.server_optimiser,
        learning_rate=settings.learning_rate,
        betas=settings.betas,
        adopt_timeout=service.adopt_timeout,
    )


def _summary(plan: FederationPlan, state: Checkpoint, card: ModelCard, seconds: float) -> dict[str, Any]:
    return {
        "schema": 1,
        "version": __version__,
        "command": "trend-server",
        "federation": plan.federation,
        "plan_sha256": card.plan_sha256,
        "adapter_sha256": card.adapter_sha256,
        "model": asdict(card),
        "rounds": [vars(record) for record in state.history],
        "seconds": round(seconds, 3),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


class _Names:
    """The invited name of a client."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._names: dict[int, str] = {}

    def __call__(self, node_id: int) -> str:
        if node_id not in self._names:
            self._names = {node.node_id: node.name for node in self._link.nodes()}
        return self._names.get(node_id, f"client {node_id}")


@contextmanager
def _shutting_out(door: Door, screen: Screen) -> Iterator[None]:
    """Apply what ``revoke`` writes to the roster while the server runs."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_RECONCILE_SECONDS):
            try:
                gone = door.reconcile()
            except sqlite3.Error as error:  # another process holds the roster for long, or its disk is full
                screen.note(f"The roster cannot be read at the moment ({error}); looking again.")
                continue
            for name in gone:
                screen.note(f"{name} was revoked and is shut out.")

    thread = threading.Thread(target=watch, name="roster", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=5.0)


@contextmanager
def _sigterm_is_ctrl_c() -> Iterator[None]:
    """Let a service manager stop the server as cleanly as a person does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
