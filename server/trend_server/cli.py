"""``trend-server``: run a federation; invite and revoke retailers; see and export what came of it."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from rich.markup import escape
from rich.table import Table
from typer.core import TyperCommand

from trend_common.console import console, run_app, stderr
from trend_common.errors import UsageError
from trend_server.home import ServerHome, default_home
from trend_server.pretraining.command import pretrain_command

__all__ = ["app", "main"]

app = typer.Typer(
    help="Run a federation: retailers train a shared forecasting model without showing anybody their sales.",
    no_args_is_help=False,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

_DEFAULT_PORT = 9443

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="Folder of this server. Default: TREND_SERVER_HOME or ~/.trend/server."),
]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")]


@app.callback(invoke_without_command=True)
def run(
    context: typer.Context,
    home: HomeOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)
    ] = _DEFAULT_PORT,
    name: Annotated[
        list[str] | None, typer.Option(help="Host name under which clients reach this server; repeat for several.")
    ] = None,
    federation: Annotated[str | None, typer.Option(help="Name of the run; a new name starts a new one.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds to play.")] = None,
    steps: Annotated[int | None, typer.Option(help="Local steps in a round.")] = None,
    min_clients: Annotated[int | None, typer.Option(help="Answers that a round needs.")] = None,
    round_timeout: Annotated[str | None, typer.Option(help="When a round closes, such as 90s or 10m.")] = None,
    horizon: Annotated[int | None, typer.Option(help="Steps to forecast.")] = None,
    freq: Annotated[str | None, typer.Option(help="Step of the series: D, W or M.")] = None,
    context_steps: Annotated[
        int | None, typer.Option("--context", help="Steps of history that the model sees.")
    ] = None,
    epsilon: Annotated[float | None, typer.Option(help="Privacy of each unit over the whole federation.")] = None,
    delta: Annotated[float | None, typer.Option(help="δ of differential privacy.")] = None,
    clip: Annotated[float | None, typer.Option(help="Largest norm of one unit's gradient.")] = None,
    private: Annotated[
        bool | None, typer.Option("--private/--rehearsal", help="A rehearsal has no privacy; clients refuse it.")
    ] = None,
    update: Annotated[str | None, typer.Option(help="gradient or weights.")] = None,
    backbone: Annotated[str | None, typer.Option(help="The frozen model: a name, or a folder.")] = None,
    aggregation: Annotated[str | None, typer.Option(help="mean, trimmed-mean or median.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the server's optimiser.")] = None,
    secure_aggregation: Annotated[
        bool | None,
        typer.Option(
            "--secure-aggregation/--no-secure-aggregation",
            help="See only the sum of the clients' answers; the retailers then see each other's names.",
        ),
    ] = None,
    exit_when_done: Annotated[
        bool, typer.Option("--exit-when-done", help="Stop when everybody who took part has the shared adapter.")
    ] = False,
    json_path: JsonOption = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show tracebacks.")] = False,
) -> None:
    """Run the server; the same command goes on where an interrupted one stopped."""
    context.obj = home
    if context.invoked_subcommand is not None:
        return
    from trend_server.settings import load_settings

    where = _home(context, None).create()
    overrides: dict[str, Any] = {
        "federation": federation,
        "names": tuple(name) if name else None,
        "rounds": rounds,
        "steps": steps,
        "min_clients": min_clients,
        "round_timeout": round_timeout,
        "horizon": horizon,
        "freq": freq,
        "context": context_steps,
        "epsilon": epsilon,
        "delta": delta,
        "clip": clip,
        "private": private,
        "update": update,
        "backbone": backbone,
        "aggregation": aggregation,
        "learning_rate": learning_rate,
        "secure_aggregation": secure_aggregation,
    }
    if private is False:
        overrides["wire"] = "float32"
    if steps is not None and steps > 1 and update is None:
        overrides["update"] = "weights"
    settings = load_settings(where.settings_path, overrides)
    with console.status("Starting"):
        from trend_server.app import Service, serve
    serve(
        Service(
            home=where, settings=settings, host=host, port=port, exit_when_done=exit_when_done, json_path=json_path
        )
    )


@app.command()
def invite(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What you call this retailer; with secure aggregation, others see it.")],
    out: Annotated[Path, typer.Option(help="Where to write the invitation; hand it over like a password.")],
    address: Annotated[
        str | None,
        typer.Option(help="HOST:PORT as the retailer reaches this server. Default: where it last listened."),
    ] = None,
    expires: Annotated[str, typer.Option(help="How long it can be used, such as 12h or 7d.")] = "7d",
    home: HomeOption = None,
) -> None:
    """Invite a retailer: a file that lets one client join, once."""
    from trend_server.certificates import ensure_authority
    from trend_server.enrolment import write_invite
    from trend_server.roster import Roster
    from trend_server.settings import parse_duration

    where = _home(context, home).create()
    server = address or _last_address(where.address_path)
    made = write_invite(
        Roster(where.roster_path),
        ensure_authority(where.tls),
        name=name,
        server=server,
        lifetime=timedelta(seconds=parse_duration(expires)),
        out=out,
    )
    console.print(
        f"Wrote {escape(str(out))}: {escape(name)} can join {server} once, until {made.expires:%F %H:%M} UTC."
    )
    console.print(f"trend-client --server {server} --invite {escape(str(out))} --data SALES.csv", soft_wrap=True)


@app.command("rotate-ca")
def rotate_ca(context: typer.Context, home: HomeOption = None) -> None:
    """Renew the certificate authority; clients accept the new one on the old one's word. Stop the server first."""
    from trend_server.certificates import rotate_authority

    where = _home(context, home, must_exist=True)
    with where.locked():
        old, new = rotate_authority(where.tls)
    console.print(f"Old authority: {old}", soft_wrap=True)
    console.print(f"New authority: {new}", soft_wrap=True)
    console.print(
        "The old one's key is gone. Clients that trusted it trust the new one at their next connection, also with "
        "invitations that were made before. Back up the tls folder now."
    )


@app.command()
def revoke(
    context: typer.Context, name: Annotated[str, typer.Argument(help="Whom to shut out.")], home: HomeOption = None
) -> None:
    """Shut a retailer out: its invitation and its key no longer work."""
    from trend_server.roster import Roster

    where = _home(context, home, must_exist=True)
    Roster(where.roster_path).revoke(name)
    console.print(f"{escape(name)} is revoked; a running server shuts it out within seconds.")


@app.command()
def status(context: typer.Context, home: HomeOption = None, json_path: JsonOption = None) -> None:
    """Show whether the server runs, where the federation stands, and who has joined."""
    from trend_common import __version__
    from trend_common.files import write_json
    from trend_server.roster import Roster

    where = _home(context, home, must_exist=True)
    running, last = where.running(), where.read_status()
    entries = Roster(where.roster_path).entries()
    online = set(last.get("online", [])) if running else set()
    console.print("The server is running." if running else "The server is not running.")
    if "federation" in last:
        state = f"round {last.get('round', 0)} of {last['rounds']}"
        console.print(f"Federation {escape(str(last['federation']))}: {state}. {escape(str(last.get('last', '')))}")
    table = Table("Name", "State", "Online", "Joined or expires (UTC)")
    for entry in entries:
        moment = entry.joined or entry.expires
        table.add_row(entry.name, entry.state, "yes" if entry.name in online else "", f"{moment:%F %H:%M}")
    console.print(table if entries else "Nobody is invited yet: trend-server invite NAME --out FILE.")
    if json_path is not None:
        clients = [
            {
                "name": entry.name,
                "state": entry.state,
                "online": entry.name in online,
                "joined": entry.joined.isoformat() if entry.joined else None,
                "expires": entry.expires.isoformat(),
            }
            for entry in entries
        ]
        shown = {key: last.get(key) for key in ("federation", "round", "rounds", "finished", "updated")}
        write_json(
            json_path,
            {
                "schema": 1,
                "version": __version__,
                "command": "status",
                "running": running,
                **shown,
                "clients": clients,
            },
        )


@app.command()
def models(context: typer.Context, home: HomeOption = None, json_path: JsonOption = None) -> None:
    """List the finished shared adapters."""
    from dataclasses import asdict

    from trend_common import __version__
    from trend_common.files import write_json
    from trend_server.registry import Registry

    cards = Registry(_home(context, home, must_exist=True).registry).cards()
    table = Table("Version", "Federation", "Backbone", "Rounds", "Clients", "ε", "Created (UTC)", "Hash")
    for card in cards:
        epsilon = "none" if card.epsilon is None else f"{card.epsilon:.2f}"
        row = (card.federation, card.backbone, str(card.rounds), f"{round(card.participants_mean, 1):g}", epsilon)
        table.add_row(str(card.version), *row, card.created[:16], card.adapter_sha256[:12])
    console.print(table if cards else "No federation has finished yet.")
    if json_path is not None:
        found = [asdict(card) for card in cards]
        write_json(json_path, {"schema": 1, "version": __version__, "command": "models", "models": found})


@app.command()
def export(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder to write to, in peft's format.")],
    version: Annotated[int | None, typer.Option("--model", help="Version; default: the newest.")] = None,
    home: HomeOption = None,
) -> None:
    """Write a finished shared adapter as a folder that peft loads."""
    from trend_server.registry import Registry

    card = Registry(_home(context, home, must_exist=True).registry).export(version, out)
    console.print(f"Wrote version {card.version} ({card.adapter_sha256[:12]}) to {escape(str(out))}.")


class _Spread(TyperCommand):
    """Takes ``--data a.csv b.csv`` for ``--data a.csv --data b.csv``; so for ``--model``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click."""
        spread: list[str] = []
        option = ""
        for word in args:
            if word.startswith("-"):
                option = word if word in ("--data", "--model") else ""
            elif option and spread[-1] != option:
                spread.append(option)
            spread.append(word)
        return super().parse_args(ctx, spread)


app.command("pretrain", cls=_Spread)(pretrain_command)


@app.command(cls=_Spread)
def evaluate(
    data: Annotated[list[Path], typer.Option(help="Sales files, or a folder of them; --data a.csv b.csv.")],
    model: Annotated[
        list[str] | None, typer.Option(help="Backbones, by name or folder; default: trend-small.")
    ] = None,
    baselines: Annotated[
        str | None, typer.Option(help="Statistical methods beside them, by commas; 'none' for none. Default: all.")
    ] = None,
    windows: Annotated[int, typer.Option(min=1, help="Rolling windows of 28 days, 8 weeks or 6 months.")] = 3,
    series: Annotated[int, typer.Option(min=1, help="Most series of each file, drawn at random.")] = 150,
    seed: Annotated[int, typer.Option(min=0, help="Of that draw.")] = 0,
    context: Annotated[
        int | None, typer.Option(min=1, help="Steps of history. Default: the backbone's most.")
    ] = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where the backbones compute.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
    calibrate: Annotated[
        int,
        typer.Option(min=0, help="Earlier windows that intervals are set right on, as a row of its own; 0: none."),
    ] = 8,
    skip: Annotated[int, typer.Option(min=0, help="Leave out so many windows at the end, for choices.")] = 0,
    engine: Annotated[
        str, typer.Option(metavar="torch|int8", help="int8: several times as fast, rounded.")
    ] = "torch",
    json_path: JsonOption = None,
    markdown_path: Annotated[Path | None, typer.Option("--markdown", help="Write the tables to this file.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show tracebacks.")] = False,
) -> None:
    """Score backbones as they are on rolling windows of sales files, beside what statistics can do."""
    with console.status("Starting"):
        import torch

        from trend_common.baselines import BASELINES
        from trend_common.files import write_json, write_text
        from trend_common.quick import chosen_engine
        from trend_server import evaluate as evaluation
        from trend_server.evaluation_tables import data_table, markdown, summary_table
        from trend_server.pretraining.launch import choose_device

        torch.set_num_threads(threads)
    methods = () if baselines == "none" else BASELINES if baselines is None else tuple(baselines.split(","))
    settings = evaluation.Settings(
        models=tuple(dict.fromkeys(model or ("trend-small",))),
        baselines=tuple(dict.fromkeys(methods)),
        windows=windows,
        series=series,
        seed=seed,
        context=context,
        device=choose_device(device),
        calibrate=calibrate,
        skip=skip,
        engine=chosen_engine(engine),
    )
    with console.status("Reading the sales"):
        panels = evaluation.read_panels(data, settings, lambda text: stderr.print(escape(text), soft_wrap=True))
    with console.status("") as status:
        found = evaluation.evaluate(
            panels,
            settings,
            progress=lambda name, method: status.update(escape(f"{name}: {method}")),
            finished=lambda results: console.print(data_table(results)),
        )
    console.print(summary_table(found))
    if markdown_path is not None:
        write_text(markdown_path, markdown(found))
    if json_path is not None:
        write_json(json_path, found.to_json())


def _home(context: typer.Context, given: Path | None, *, must_exist: bool = False) -> ServerHome:
    root = given or context.obj or default_home()
    if must_exist and not root.is_dir():
        raise UsageError(f"There is no server in {root}.", "Name its folder with --home.")
    return ServerHome(root)


def _last_address(path: Path) -> str:
    try:
        found = json.loads(path.read_text("utf-8"))
        host, port = str(found["host"]), int(found["port"])
    except (OSError, ValueError, KeyError, TypeError):
        host, port = "", 0
    if not host or host in ("0.0.0.0", "::"):
        raise UsageError(
            "It is not known under which address retailers reach this server.", "Add --address HOST:PORT."
        )
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


main = run_app(app)


if __name__ == "__main__":
    main()
