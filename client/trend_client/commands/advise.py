"""``trend-client advise``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from trend_client.commands.opening import open_place
from trend_client.options import (
    BackboneOption,
    ColumnsOption,
    CountryOption,
    DataOption,
    DeviceOption,
    HomeOption,
    JsonOption,
    UntilOption,
    VerboseOption,
)
from trend_common.console import console
from trend_common.defaults import DEFAULT_ROUNDS

if TYPE_CHECKING:
    from trend_client.advise import Advice, Facts
    from trend_client.engine import Engine
    from trend_client.outcome import Model
    from trend_client.workplace import Workplace
    from trend_common.panel import SalesPanel

__all__ = ["after_a_run", "register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("advise")(_advise)


def _advise(
    retailers: Annotated[int | None, typer.Option(min=1, help="How many take part, as the operator says.")] = None,
    series: Annotated[int | None, typer.Option(min=1, help="Series of each. Default: as many as yours.")] = None,
    epsilon: Annotated[float, typer.Option(help="ε of the whole federation for each unit.")] = 4.0,
    delta: Annotated[float, typer.Option(help="δ.")] = 1e-5,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds.")] = DEFAULT_ROUNDS,
    data: DataOption = None,
    home: HomeOption = None,
    columns: ColumnsOption = None,
    until: UntilOption = None,
    country: CountryOption = None,
    device: DeviceOption = "auto",
    backbone: BackboneOption = "trend-small",
    json_out: JsonOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Stay alone, take the shared adapter without training, or train with the others? Offline; nothing leaves."""
    from trend_client.advise import Facts
    from trend_client.outcome import load_model
    from trend_common.errors import UsageError
    from trend_common.files import write_json

    if not (epsilon > 0 and 0 < delta < 1):
        raise UsageError(f"--epsilon is {epsilon} and --delta is {delta}.", "ε is above 0, and δ between 0 and 1.")
    place = open_place(home, data, columns, until, country, device, backbone)
    with console.status("Preparing the model"):
        panel, engine = place.panel(), place.engine()
        model = load_model(place.home, engine, panel)
    facts = None if retailers is None else Facts(retailers, series or panel.n_series, epsilon, delta, rounds)
    found = _found(place, panel, engine, model, facts)
    _show(found)
    if json_out is not None:
        write_json(json_out, found.to_json(), private=True)


def after_a_run(place: Workplace) -> None:
    """What a federation that is over was worth, on this retailer's own screen; silent with too little history."""
    from trend_client.outcome import load_model
    from trend_common.errors import DataError

    panel, engine = place.panel(), place.engine()
    try:
        _show(_found(place, panel, engine, load_model(place.home, engine, panel), None))
    except DataError:
        return


def _found(place: Workplace, panel: SalesPanel, engine: Engine, model: Model, facts: Facts | None) -> Advice:
    from trend_client.advise import advise, measure
    from trend_client.backtest import baseline_forecasters

    forecasters = dict(baseline_forecasters(("seasonal-naive", "same-phase-mean")))
    for name, tensors in model.adapters.items():
        forecasters[name] = engine.forecaster(tensors, context=model.context, country=place.country)
    with console.status("Comparing on your last two horizons"):
        measured = measure(panel, model, forecasters)
    policy, budget = place.policy(), place.budget()
    return advise(
        measured,
        units=panel.n_series,
        min_units=policy.min_units,
        facts=facts,
        remaining=max(policy.epsilon_total - budget.epsilon_spent, 0.0),
    )


def _show(found: Advice) -> None:
    from rich.markup import escape

    console.print(f"[bold]{escape(found.headline)}.[/] {escape(' '.join(found.reasons))}", soft_wrap=True)
