"""``trend-client --server HOST:PORT --data FILE``: join, train, receive, and end with forecasts and a report."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from trend_client.app import make_app
from trend_client.commands.advise import after_a_run
from trend_client.finetune import FineTuneSettings
from trend_client.home import ClientHome, Identity
from trend_client.outcome import Outcome, Wishes, conclude, load_model, personalise
from trend_client.planned import planned
from trend_client.session import ClientSession, SessionEvent
from trend_client.workplace import Workplace
from trend_common.console import console
from trend_common.errors import ConnectionFailure, PolicyError
from trend_common.flower.authority import fetch_successor
from trend_common.flower.enrol_client import enrol
from trend_common.flower.environment import prepare, quiet_logs
from trend_common.flower.faults import UntrustedServer
from trend_common.flower.invite import Invite
from trend_common.flower.keys import load_or_create_key
from trend_common.flower.node import ERROR_REASON, NodeEvent, run_node
from trend_common.panel import SalesPanel
from trend_common.privacy.ledger import Ledger
from trend_common.privacy.sent import SentLog

__all__ = ["join"]


def join(place: Workplace, *, server: str, invite: Path | None, adapter_only: bool, personal: bool = True) -> Outcome:
    """Take part in the federation at ``server`` until it is over, then conclude.

    Everything that can be wrong with the file, the invitation or the policy is found before the first connection.

    Raises:
        DataError, PolicyError, ConnectionFailure: With what to do; the exit code says which.
    """
    home = place.home
    prepare(home.root / "flower")
    quiet_logs(home.log_path)
    policy = place.policy()
    panel = place.panel()
    if not adapter_only:
        _enough_to_train(place, panel.n_series, policy.check_units)
        _recommend_bucket(place, panel.n_series, policy.bucket)
        _recommend_until(panel)
    with (
        Ledger(
            place.ledger_path,
            head_path=home.head_folder / "ledger-head.json",
            epsilon_total=policy.epsilon_total,
            delta=policy.delta_max,
        ) as ledger,
        SentLog(place.sent_path, head_path=home.head_folder / "sent-head.json") as sent,
    ):
        for finding in ledger.findings:
            console.print(f"[yellow]Ledger:[/] {escape(finding)}")
        identity = _identity(place, server, invite, sent)
        engine = place.engine()
        stop = threading.Event()
        with _Screen(stop) as screen:
            session = ClientSession(
                home=home,
                engine=engine,
                panel=panel,
                policy=policy,
                ledger=ledger,
                sent=sent,
                country=place.country,
                adapter_only=adapter_only,
                on_event=screen.session,
            )
            screen.watch(session)

            def heard(event: NodeEvent) -> None:
                if event.kind in ("refused", "failed"):
                    sent.note("refusal", ERROR_REASON.encode())
                screen.node(event)

            key = load_or_create_key(home.key_path)

            def serve() -> None:
                run_node(
                    make_app(session, key),
                    server=server,
                    ca_pem_path=home.ca_path,
                    private_key=key,
                    expected_fab_hash=identity.fab_sha256,
                    stop=stop,
                    on_event=heard,
                    memory=home.node_path,
                )

            _under_pinned_authority(serve, home, server, sent)
    if session.failure is not None:
        raise session.failure
    if session.adopted is None and session.declined is not None:
        raise PolicyError(session.declined, "No shared adapter was received; `trend-client forecast` works without.")
    outcome = finish(place, personal=personal)
    after_a_run(place)
    return outcome


def finish(
    place: Workplace,
    *,
    personal: bool,
    out: Path | None = None,
    settings: FineTuneSettings | None = None,
    horizon: int | None = None,
    future: Path | None = None,
    wishes: Wishes | None = None,
    few_shot: bool = False,
) -> Outcome:
    """The offline part: personal adapter, backtest, forecasts, report.

    Args:
        place: Home and sales file.
        personal: Train the personal model first.
        out: Folder of the files.
        settings: Of that training.
        horizon: Steps ahead; default: the federation's.
        future: A file of what is known of the coming days.
        wishes: Formats, sums, prices.
        few_shot: Train for a small assortment.
    """
    panel, engine = place.panel(), place.engine()
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    ) as bars:
        task = bars.add_task("Preparing the model", total=None)

        def progress(text: str) -> None:
            bars.update(task, description=escape(text.capitalize()))

        def pieces(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        model = load_model(place.home, engine, panel, horizon=horizon)
        place.future = future or place.future
        panel, noted = planned(place, panel, model.horizon)
        for line in noted:
            bars.console.print(f"[yellow]{escape(line)}[/]", soft_wrap=True)
        panel, out = place.shown(panel, out)
        if personal:
            progress("training the personal model (it never leaves)")
            model = personalise(
                place.home, engine, panel, model, settings=settings, country=place.country, few=few_shot
            )
            if model.forgetting is not None:
                bars.console.print(told_of(model.forgetting), soft_wrap=True)
        return conclude(
            place.home,
            engine,
            panel,
            model,
            privacy=place.privacy(),
            sent=place.sent(),
            country=place.country,
            out=out,
            wishes=wishes,
            progress=progress,
            pieces=pieces,
            keep=not place.mask,
        )


def _recommend_bucket(place: Workplace, n_series: int, declared: str) -> None:
    """Say on this screen which bucket would suit; the policy is a person's to edit, never the program's."""
    suits = "S" if n_series <= 100 else "M" if n_series <= 500 else "L"
    if suits != declared:
        console.print(
            f"[yellow]Your policy declares the size {declared}; with {n_series} series {suits} serves you better. "
            f'You decide: bucket = "{suits}" in {escape(str(place.home.policy_path))}.[/]',
            soft_wrap=True,
        )


def _recommend_until(panel: SalesPanel) -> None:
    """Say that the last day is not declared: read off the file, it depends on all series together."""
    if panel.until is None:
        console.print(
            "[yellow]The export's last day is not declared, so it is read off all series together. With --until "
            "YYYY-MM-DD, the last day of the period that you exported, no single series can move it.[/]",
            soft_wrap=True,
        )


def _enough_to_train(place: Workplace, n_series: int, check: Callable[[int], None]) -> None:
    try:
        check(n_series)
    except PolicyError as error:
        raise PolicyError(
            error.message,
            f"{error.hint}\nAdd --adapter-only to join without training: you receive the shared adapter, and nothing "
            f"computed from your sales is sent. The policy is {place.home.policy_path}.",
        ) from error


def _identity(place: Workplace, server: str, invite_path: Path | None, sent: SentLog) -> Identity:
    """This home's identity at ``server``; redeems the invitation at the first join."""
    home = place.home
    known = home.identity()
    invite = Invite.load(invite_path) if invite_path is not None else None
    if known is None and invite is None:
        raise ConnectionFailure(
            f"This home has not joined the server {server} yet, and no invitation was given.",
            "Ask the operator for an invitation file (trend-server invite NAME --out FILE) and add --invite FILE.",
        )
    if known is not None and known.server == server:
        return known
    if invite is None:
        assert known is not None
        raise ConnectionFailure(
            f"This home has joined {known.server}, not {server}.",
            "Use that address, or add --invite FILE of the other server, or another --home.",
        )
    if invite.server != server:
        raise ConnectionFailure(
            f"The invitation is for the server {invite.server}, not {server}.",
            f"Use --server {invite.server}, or ask the operator which address is right.",
        )
    key = load_or_create_key(home.key_path)
    sent.note("enrol", b"invitation token and public key")
    ca_pem = invite.ca_pem
    try:
        enrol(invite, key.public_key())
    except UntrustedServer:  # the authority was renewed since the invitation was made, or this is not the server
        renewed = _renewed(server, ca_pem, sent)
        if renewed is None:
            raise
        ca_pem = renewed
        enrol(invite.model_copy(update={"ca_pem": ca_pem}), key.public_key())
    identity = Identity(server=server, name=invite.name, fab_sha256=invite.fab_sha256)
    home.save_identity(identity, ca_pem)
    console.print(f"Joined {server} as {escape(invite.name)}.")
    return identity


def _under_pinned_authority(serve: Callable[[], None], home: ClientHome, server: str, sent: SentLog) -> None:
    """Call ``serve``; again where the authority was renewed, which is then the pinned one."""
    while True:
        try:
            return serve()
        except UntrustedServer:
            renewed = _renewed(server, home.ca_path.read_text("ascii"), sent)
            if renewed is None:
                raise
            home.renew_authority(renewed)


def _renewed(server: str, pinned_pem: str, sent: SentLog) -> str | None:
    """A renewed authority that the pinned one vouches for; None leaves everything as it is."""
    sent.note("authority", b"")
    found = fetch_successor(server, pinned_pem)
    if found is None:
        return None
    console.print(
        "The federation has renewed its certificate authority. The old one vouches for the new one, which is "
        f"trusted from now on: {found[1]}",
        soft_wrap=True,
    )
    return found[0]


class _Screen:
    """Progress of the federation, and the end of it."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._session: ClientSession | None = None
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
        )
        self._task: TaskID | None = None

    def __enter__(self) -> _Screen:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def watch(self, session: ClientSession) -> None:
        """Whose end to wait for."""
        self._session = session

    def session(self, event: SessionEvent) -> None:
        """Show what the session says."""
        if event.kind in ("training", "trained") and event.rounds:
            if self._task is None:
                self._task = self._progress.add_task("Training rounds", total=event.rounds)
            done = event.round if event.kind == "trained" else event.round - 1
            self._progress.update(self._task, completed=done)
            if not console.is_terminal and event.kind == "trained":
                console.print(f"Round {event.round} of {event.rounds} is sealed.")
            return
        colour = {"declined": "yellow", "finished": "green"}.get(event.kind, "cyan")
        console.print(f"[{colour}]{event.kind.capitalize()}:[/] {escape(event.text)}")

    def node(self, event: NodeEvent) -> None:
        """Show what the connection says, and stop when the session is over."""
        if event.kind in ("online", "offline", "refused"):
            console.print(f"[dim]{escape(event.text)}[/]")
        elif event.kind == "failed":
            console.print(f"[red]{escape(event.text)}[/]")
        over = self._session is not None and (self._session.finished or self._session.failure is not None)
        # Dropped: the server may have the last answer whole, and be gone, before the client has heard so.
        if event.kind in ("answered", "dropped") and over:
            self._stop.set()


def told_of(forgetting: float) -> str:
    """What training did to the error on made-up sales; exactly nothing is a model that training left as it was."""
    if forgetting == 0:
        return (
            "On validation no training was better than none, so for products with a history the personal model is "
            "the one that it started from."
        )
    word = "higher" if forgetting > 0 else "lower"
    return (
        "Forgetting: on made-up sales of other shops the personal model's error is "
        f"{abs(forgetting):.1%} {word} than that of the model that it started from."
    )
