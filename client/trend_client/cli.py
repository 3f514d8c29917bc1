"""The command ``trend-client``. Heavy modules are imported inside the commands, so that ``--help`` is instant."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trend_client.commands import (
    advise,
    explain,
    forecast,
    mask,
    newproducts,
    orders,
    recommend,
    season,
    serve,
    watch,
    whatif,
)
from trend_client.options import (
    BackboneOption,
    ColumnsOption,
    CountryOption,
    DataOption,
    DateFormatOption,
    DecimalOption,
    DeviceOption,
    FreqOption,
    HomeOption,
    JsonOption,
    LanguageOption,
    OutOption,
    SettingsOption,
    SheetOption,
    SpokenOption,
    UntilOption,
    VerboseOption,
)
from trend_client.workplace import Workplace
from trend_common import __version__
from trend_common.console import console, run_app
from trend_common.errors import UsageError

if TYPE_CHECKING:
    from trend_client.finetune import FineTuneSettings
    from trend_client.outcome import Outcome

__all__ = ["app", "main"]

app = typer.Typer(
    name="trend-client",
    help="Forecasts for a retailer, trained together with others without sharing a row of sales.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        console.print(f"trend-client {__version__}")
        raise typer.Exit()


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    server: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="The federation's server.")] = None,
    data: DataOption = None,
    invite: Annotated[Path | None, typer.Option(help="The operator's invitation; for the first join.")] = None,
    home: HomeOption = None,
    columns: ColumnsOption = None,
    date_format: DateFormatOption = None,
    freq: FreqOption = None,
    decimal: DecimalOption = None,
    until: UntilOption = None,
    sheet: SheetOption = None,
    country: CountryOption = None,
    device: DeviceOption = "auto",
    backbone: BackboneOption = "trend-small",
    adapter_only: Annotated[
        bool, typer.Option("--adapter-only", help="Receive the shared adapter without training.")
    ] = False,
    json_out: JsonOption = None,
    verbose: VerboseOption = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Join a federation with --server and --data, or use a command below; those work offline.

    Exit codes: 0 done, 2 usage, 3 the sales file, 4 policy or ledger, 5 connection or identity, 6 declined by the
    server, 130 interrupted.
    """
    if context.invoked_subcommand is not None:
        _refuse_before(context)
        return
    if server is None:
        if data is None and invite is None:
            console.print(context.get_help())
            return
        raise UsageError(
            "No server was named.", "Add --server HOST:PORT, or use a command such as check or forecast."
        )
    place = _place(home, data, columns, freq, date_format, decimal, until, country, device, backbone, sheet=sheet)
    from trend_client.join import join
    from trend_client.screens import show_budget, show_outcome

    outcome = join(place, server=server, invite=invite, adapter_only=adapter_only)
    show_outcome(outcome)
    show_budget(place.budget(), None)
    if json_out is not None:
        _write_outcome(place, outcome, json_out)


def _refuse_before(context: typer.Context) -> None:
    """A command does not see what stands before it: ``--home X forecast`` would quietly use another home."""
    given = [
        option.opts[0]
        for option in context.command.params
        if option.name not in (None, "verbose")
        and getattr(context.get_parameter_source(option.name or ""), "name", "") == "COMMANDLINE"
    ]
    if given:
        command = context.invoked_subcommand
        raise UsageError(
            f"{', '.join(given)} before {command} would not be used.",
            f"--server joins a federation: leave {command} out."
            if "--server" in given
            else f"Options stand behind the command: trend-client {command} {given[0]} ...",
        )


@app.command("check")
def check_command(
    data: Annotated[Path, typer.Option("--data", help="The sales file: CSV, CSV.gz, Parquet or Excel.")],
    columns: ColumnsOption = None,
    date_format: DateFormatOption = None,
    freq: FreqOption = None,
    decimal: DecimalOption = None,
    until: UntilOption = None,
    sheet: SheetOption = None,
    json_out: JsonOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Show what is understood of a sales file: columns, frequency, findings, examples. Nothing leaves the machine."""
    from trend_client.check import check, parse_columns

    check(
        data,
        parse_columns(columns or []),
        json_out,
        date_format=date_format,
        freq=freq,
        decimal=decimal,
        until=until,
        sheet=sheet,
    )


@app.command("personalise")
def personalise_command(
    data: DataOption = None,
    home: HomeOption = None,
    columns: ColumnsOption = None,
    date_format: DateFormatOption = None,
    freq: FreqOption = None,
    decimal: DecimalOption = None,
    until: UntilOption = None,
    sheet: SheetOption = None,
    country: CountryOption = None,
    device: DeviceOption = "auto",
    backbone: BackboneOption = "trend-small",
    settings: SettingsOption = None,
    few_shot: Annotated[
        bool, typer.Option("--few-shot", help="For small assortments: short, cautious training.")
    ] = False,
    language: LanguageOption = None,
    out: OutOption = None,
    json_out: JsonOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Train the personal model on these sales (it never leaves), then forecast. As often as you like. Offline."""
    if few_shot and settings is not None:
        raise UsageError("--few-shot has settings of its own.", "Leave --settings out, or --few-shot.")
    place = _place(home, data, columns, freq, date_format, decimal, until, country, device, backbone, sheet=sheet)
    _conclude(
        place, personal=True, out=out, json_out=json_out, settings=settings, few_shot=few_shot, language=language
    )


@app.command("backtest")
def backtest_command(
    data: DataOption = None,
    home: HomeOption = None,
    columns: ColumnsOption = None,
    date_format: DateFormatOption = None,
    freq: FreqOption = None,
    decimal: DecimalOption = None,
    until: UntilOption = None,
    sheet: SheetOption = None,
    country: CountryOption = None,
    horizon: Annotated[
        int | None, typer.Option(min=1, max=400, help="Steps ahead. Default: the federation's.")
    ] = None,
    full: Annotated[
        bool,
        typer.Option("--full", help="Run slow methods on all series, not on a sample first. Can take many minutes."),
    ] = False,
    compare: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Score only these: before,after is the model before and after fine-tuning."),
    ] = None,
    settings: SettingsOption = None,
    price: Annotated[
        float | None, typer.Option(help="Of one unit, for the gain in money. Default: the file's prices.")
    ] = None,
    margin: Annotated[float | None, typer.Option(help="Share of the price that is left after the cost.")] = None,
    device: DeviceOption = "auto",
    backbone: BackboneOption = "trend-small",
    language: SpokenOption = None,
    json_out: JsonOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Compare all methods on your own sales, and say which to use. Offline."""
    place = _place(home, data, columns, freq, date_format, decimal, until, country, device, backbone, sheet=sheet)
    if compare is not None:
        from trend_client.change import run_compare

        run_compare(place, compare, horizon=horizon, settings=_settings(settings), json_out=json_out)
        return
    if settings is not None:
        raise UsageError("--settings is about fine-tuning.", "Add --compare before,after, or use personalise.")
    from trend_client.asides import asides
    from trend_client.commands.scores import show_asides, show_backtest
    from trend_client.decisions.words import speaking
    from trend_client.outcome import forecasters, load_model, measured
    from trend_client.report.language import language as known_language
    from trend_client.value import Pricing
    from trend_common.files import write_json

    pricing = Pricing(price, margin)
    known_language(language)  # before anything is computed

    panel, engine = place.panel(), place.engine()
    with console.status("Preparing the model") as status:
        model = load_model(place.home, engine, panel, horizon=horizon)
        result = measured(
            panel,
            model,
            forecasters(engine, model, sales=panel, country=place.country, kept=place.home.trees),
            pricing=pricing,
            full=full,
            progress=lambda name: status.update(name.capitalize()),
        )
        beside = asides(engine, model, panel, result)
    with speaking(language):
        show_backtest(result)
        show_asides(beside)
    if json_out is not None:
        write_json(json_out, {**result.to_json(), "beside": beside.to_json()}, private=True)


@app.command("report")
def report_command(
    home: HomeOption = None,
    language: LanguageOption = None,
    out: OutOption = None,
    device: DeviceOption = "auto",
    verbose: VerboseOption = False,
) -> None:
    """Write forecasts and the report again from the last sales file and adapters. Offline."""
    _conclude(_place(home, device=device), personal=False, out=out, json_out=None, language=language)


@app.command("budget")
def budget_command(home: HomeOption = None, json_out: JsonOption = None, verbose: VerboseOption = False) -> None:
    """Explain the privacy spent, and verify the ledger. Exit code 4 if the ledger is not intact. Offline."""
    from trend_client.screens import show_budget, show_rosters
    from trend_common.errors import PolicyError

    place = _place(home, needs_data=False)
    budget = place.budget()
    show_budget(budget, json_out)
    show_rosters(place.home.rosters())
    if not budget.chain_ok:
        raise PolicyError(
            f"The ledger {place.ledger_path} is not intact: {budget.problem}.",
            "Restore it from a backup that is as new as the last run; this client will not train before.",
        )


@app.command("sent")
def sent_command(home: HomeOption = None, json_out: JsonOption = None, verbose: VerboseOption = False) -> None:
    """List every message that ever left this machine: the answer to "what did we reveal?". Offline."""
    from trend_client.screens import show_sent
    from trend_common.privacy.sent import read_sent

    place = _place(home, needs_data=False)
    show_sent(read_sent(place.sent_path, head_path=place.home.head_folder / "sent-head.json"), json_out)


@app.command("leave")
def leave_command(home: HomeOption = None, verbose: VerboseOption = False) -> None:
    """Leave the server: the key is deleted, open federations are closed; adapters, ledger and list stay. Offline."""
    from trend_common.privacy.ledger import Ledger

    place = _place(home, needs_data=False)
    policy = place.policy()
    with Ledger(
        place.ledger_path,
        head_path=place.home.head_folder / "ledger-head.json",
        epsilon_total=policy.epsilon_total,
        delta=policy.delta_max,
    ) as ledger:
        for account in ledger.accounts:
            ledger.close_federation(account.federation)
    place.home.forget_identity()
    console.print("Left. The shared adapter and your personal model still work: trend-client forecast.")


def _place(
    home: Path | None,
    data: Path | None = None,
    columns: list[str] | None = None,
    freq: str | None = None,
    date_format: str | None = None,
    decimal: str | None = None,
    until: str | None = None,
    country: str | None = None,
    device: str = "auto",
    backbone: str = "trend-small",
    *,
    sheet: str | None = None,
    needs_data: bool = True,
) -> Workplace:
    from trend_client.check import parse_columns, parse_day
    from trend_client.home import default_home

    if freq not in (None, "D", "W", "M"):
        raise UsageError(f"--freq is {freq!r}.", "It is D for days, W for weeks or M for months.")
    if decimal not in (None, ".", ","):
        raise UsageError(f"--decimal is {decimal!r}.", "It is a point or a comma.")
    if device not in ("auto", "cpu", "cuda", "mps"):
        raise UsageError(f"--device is {device!r}.", "It is auto, cpu, cuda or mps.")
    return Workplace(
        home or default_home(),
        data=data,
        columns=parse_columns(columns or []),
        freq=freq,
        date_format=date_format,
        decimal=decimal,
        until=parse_day(until),
        sheet=sheet,
        country=country,
        device=device,
        backbone=backbone,
        needs_data=needs_data,
    )


def _settings(path: Path | None) -> FineTuneSettings | None:
    from trend_client.finetune import load_settings

    return None if path is None else load_settings(path)


def _conclude(
    place: Workplace,
    *,
    personal: bool,
    out: Path | None,
    json_out: Path | None,
    settings: Path | None = None,
    language: str | None = None,
    few_shot: bool = False,
) -> None:
    from trend_client.join import finish
    from trend_client.outcome import Wishes
    from trend_client.screens import show_outcome

    wishes = Wishes(language=language)
    outcome = finish(
        place, personal=personal, out=out, settings=_settings(settings), few_shot=few_shot, wishes=wishes
    )
    show_outcome(outcome)
    if json_out is not None:
        _write_outcome(place, outcome, json_out)


def _write_outcome(place: Workplace, outcome: Outcome, path: Path) -> None:
    from trend_common.files import write_json

    sent = place.sent()
    body = {
        "schema": 1,
        "version": __version__,
        "command": "client",
        "forecasts": str(outcome.forecasts_csv),
        "report": str(outcome.report),
        "backtest": None if outcome.backtest is None else outcome.backtest.to_json(),
        "budget": place.budget().as_json(),
        "sent": {"messages": len(sent), "bytes": sum(one.bytes for one in sent)},
    }
    write_json(path, body, private=True)


forecast.register(app)
advise.register(app)
explain.register(app)
mask.register(app)
newproducts.register(app)
orders.register(app)
recommend.register(app)
season.register(app)
watch.register(app)
whatif.register(app)
serve.register(app)

main = run_app(app)

if __name__ == "__main__":
    main()
