"""``trend-client backtest --compare``: two or more methods on the test window, the last against the first.

"before" is the model where fine-tuning starts (the shared adapter, or the backbone as shipped), "after" the same
model fine-tuned now on the sales before the validation horizon, which decides how long. Neither has seen the test
window.
What is trained here is not kept: ``trend-client personalise`` does that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.markup import escape
from rich.table import Table

from trend_client.backtest import METHOD_NAMES, baseline_forecasters
from trend_client.contest import Forecaster, common
from trend_client.gate import Gain, compared, gain
from trend_client.parts import rank_of
from trend_client.trees import TREES
from trend_client.trees.forecaster import TreeForecaster, require_trees
from trend_common import __version__
from trend_common.baselines import BASELINES
from trend_common.console import console
from trend_common.errors import DataError, UsageError
from trend_common.files import write_json
from trend_common.metrics import series_losses
from trend_common.scoring import Score, actuals, origins, panel_before, scale_of, score

if TYPE_CHECKING:
    from trend_client.engine import Engine
    from trend_client.finetune import FineTuneSettings
    from trend_client.outcome import Model
    from trend_client.workplace import Workplace
    from trend_common.panel import SalesPanel
    from trend_common.tensors import Tensors

__all__ = ["AFTER", "BEFORE", "Change", "compare_methods", "methods_of", "run_compare", "show_change"]

BEFORE: Final = "before"
AFTER: Final = "after"
_NAMES: Final = {**METHOD_NAMES, BEFORE: "Before fine-tuning", AFTER: "After fine-tuning"}
_MEASURES: Final = ("wape", "mase", "sql", "wql", "coverage80")


@dataclass(frozen=True)
class Change:
    """The test window as each method forecast it.

    Attributes:
        test: First day of the window.
        horizon: H.
        scores: Method → its measures, all on the same series.
        change: The scaled quantile loss of the last method against the first one's.
        young: Series that sold in the window but are too young to be scored.
    """

    test: str
    horizon: int
    scores: Mapping[str, Score]
    change: Gain
    young: int

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON values; undefined numbers are null."""
        numbers = {"relative": self.change.relative, "low": self.change.low, "high": self.change.high}
        return {
            "schema": 1,
            "version": __version__,
            "command": "compare",
            "test": self.test,
            "horizon": self.horizon,
            "methods": {
                name: {key: _number(value) for key, value in one.items()}  # type: ignore[arg-type]
                for name, one in self.scores.items()
            },
            "change": {
                "of": list(self.scores)[-1],
                "against": self.change.against,
                **{key: _number(value) for key, value in numbers.items()},
                "series": self.change.series,
                "outcome": self.change.outcome,
            },
            "too_young": self.young,
        }


def methods_of(text: str) -> tuple[str, ...]:
    """The methods that ``--compare`` names.

    Raises:
        UsageError: Fewer than two, one twice, or one that there is not.
    """
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    known = (BEFORE, AFTER, "zero-shot", "shared", "personal", TREES, *BASELINES)
    strange = [name for name in names if name not in known]
    if strange or len(names) < 2 or len(set(names)) < len(names):
        found = f"There is no method {strange[0]!r}" if strange else f"--compare {text} does not name two methods"
        raise UsageError(f"{found}.", f"Name two or more of {', '.join(known)}, such as before,after.")
    return names


def compare_methods(panel: SalesPanel, horizon: int, forecasters: Mapping[str, Forecaster]) -> Change:
    """Score methods on the last horizon of the sales.

    Args:
        panel: All sales.
        horizon: H.
        forecasters: Method → forecaster, in the order of the table; none may have seen the last horizon.

    Raises:
        DataError: The history is too short, or no series can be scored.
    """
    cut = origins(panel, horizon)
    known = panel_before(panel, cut.test)
    made = {name: forecaster(known, cut.test, horizon) for name, forecaster in forecasters.items()}
    truth = actuals(panel, cut.test, horizon)
    ids = common([truth.ids, *(one.ids for one in made.values())])
    if not ids:
        raise DataError(
            f"No series has enough sales before {cut.test.date()} and any from then on.", "Use a shorter --horizon."
        )
    y, scale = truth.select(ids).y, scale_of(panel, ids, cut.validation)
    chosen = {name: one.select(ids) for name, one in made.items()}
    first, last = next(iter(chosen)), list(chosen)[-1]
    found = gain(series_losses(y, chosen[last], scale), series_losses(y, chosen[first], scale), against=first)
    scores = {name: score(y, one, scale) for name, one in chosen.items()}
    return Change(str(cut.test.date()), horizon, scores, found, truth.excluded)


def run_compare(
    place: Workplace, text: str, *, horizon: int | None, settings: FineTuneSettings | None, json_out: Path | None
) -> None:
    """The command: read, train if "after" is asked for, score, show.

    Raises:
        UsageError: A method is not there.
    """
    from trend_client.outcome import load_model

    names = methods_of(text)
    panel, engine = place.panel(), place.engine()
    with console.status("Preparing the model") as status:
        model = load_model(place.home, engine, panel, horizon=horizon)
        forecasters = _forecasters(names, place, engine, panel, model, settings, status.update)
        status.update("Comparing")
        found = compare_methods(panel, model.horizon, forecasters)
    show_change(found)
    if json_out is not None:
        write_json(json_out, found.to_json(), private=True)


def show_change(found: Change) -> None:
    """The table, and the change in words."""
    table = Table(title=f"The {found.horizon} steps from {found.test} on, which no method has seen")
    table.add_column("method")
    for name in ("WAPE", "MASE", "SQL", "WQL", "80 % interval covers"):
        table.add_column(name, justify="right")
    for name, one in found.scores.items():
        cells = [f"{float(one[key]):.3f}" for key in _MEASURES[:-1]]
        table.add_row(_NAMES.get(name, name), *cells, f"{100 * one['coverage80']:.0f} %")
    console.print(table)
    last = _NAMES.get(list(found.scores)[-1], list(found.scores)[-1])
    first = _NAMES.get(found.change.against, found.change.against)
    verdict = {
        "better": "The gain is more than chance among series would give",
        "unclear": "The difference is within what chance among series can do",
        "worse": "The loss is more than chance among series would give",
    }[found.change.outcome]
    young = f" {found.young} series are too young to be scored here." if found.young else ""
    console.print(
        escape(f"{last}: the error (SQL) was {compared(found.change)} than with “{first}”. {verdict}.{young}"),
        soft_wrap=True,
    )


def _forecasters(
    names: Sequence[str],
    place: Workplace,
    engine: Engine,
    panel: SalesPanel,
    model: Model,
    settings: FineTuneSettings | None,
    say: Any,
) -> dict[str, Forecaster]:
    from trend_client.outcome import fine_tune

    found: dict[str, Forecaster] = {}
    tensors: Tensors | None
    for name in names:
        if name in BASELINES:
            found[name] = baseline_forecasters([name])[name]
            continue
        if name == TREES:
            require_trees()
            found[name] = TreeForecaster(
                engine,
                panel,
                context=model.context,
                horizon=model.horizon,
                country=place.country,
                kept=place.home.trees,
            )
            continue
        if name == AFTER:
            say("Fine-tuning (what is trained here is not kept)")
            tensors, _, _ = fine_tune(engine, panel, model, settings=settings, country=place.country)
        elif name == BEFORE:
            tensors = model.adapters.get("shared")
        elif name in model.adapters:
            tensors = model.adapters[name]
        else:
            raise UsageError(
                f"This home has no {name} model for these sales.",
                "Join a federation for a shared one; trend-client personalise trains a personal one.",
            )
        found[name] = engine.forecaster(tensors, context=model.context, country=place.country)
    kept = rank_of(model.adapters.get("personal"))
    if "personal" in names and AFTER in names and kept != engine.plan.rank:
        raise UsageError(
            f"The personal model of this home has rank {kept}, the settings ask for {engine.plan.rank}.",
            "Compare each with before by a command of its own.",
        )
    return found


def _number(value: float | None) -> float | int | None:
    if value is None or value != value:
        return None
    return value if isinstance(value, int) else round(float(value), 6)
