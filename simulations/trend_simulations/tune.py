"""A search for settings on validation windows: fine-tuning's, the launch part's, or a private federation's recipe.

The measure of a trial is the mean over the retailers of the weighted quantile loss on the validation horizon over the
seasonal naive's; for the launch part, of its loss on products held out over that without training. Training ends
before validation, and the windows were made from sales before the test, so nothing of the test can enter. The
validation horizon also decides how long each trial trains; its figure flatters all trials alike, and the test is for
whoever uses the settings.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trend_client.engine import Engine, PersonalSettings
from trend_client.finetune import FineTuneSettings, LaunchSettings, refuse_private
from trend_common import __version__
from trend_common.errors import DataError, UsageError
from trend_simulations.arms import Study, run_arm
from trend_simulations.cases import Case, make_case
from trend_simulations.settings import Settings
from trend_simulations.sources import Retailer, fingerprint
from trend_simulations.tune_space import Kind, best_toml, default_values, suggest, to_recipe, to_settings

if TYPE_CHECKING:
    import optuna

__all__ = ["Tuned", "tune"]

OnTrial = Callable[[int, float, float], None]
"""(trial, its measure, the lowest so far)."""


@dataclass(frozen=True)
class Tuned:
    """What a study found.

    Attributes:
        kind: What was searched.
        zero_shot: The measure without any training (for "launch": 1).
        usual: The measure of what is done where nobody sets anything: ``personalise``'s own grid, the launch part or
            the recipe as shipped.
        best: The lowest measure, at ``values`` in trial ``number``.
        toml: The best settings as the file that the commands read.
        trials: Each finished trial: number, measure, values.
    """

    kind: Kind
    zero_shot: float
    usual: float
    best: float
    number: int
    values: dict[str, Any]
    toml: str
    trials: tuple[dict[str, Any], ...]
    data: tuple[dict[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        """The study as JSON values."""
        return {
            "schema": 1,
            "version": __version__,
            "command": "tune",
            "kind": self.kind,
            "zero_shot": round(self.zero_shot, 6),
            "usual": round(self.usual, 6),
            "best": {"trial": self.number, "measure": round(self.best, 6), "values": self.values},
            "toml": self.toml,
            "trials": list(self.trials),
            "data": list(self.data),
        }


def tune(
    retailers: Sequence[Retailer],
    settings: Settings,
    *,
    kind: Kind,
    trials: int,
    study: Path | None = None,
    freeze: tuple[str, ...] = ("lora",),
    engine: Engine | None = None,
    on_trial: OnTrial = lambda _number, _value, _best: None,
) -> Tuned:
    """Search until so many trials are finished, those of earlier runs of the same study counted.

    Args:
        retailers: All of one frequency.
        settings: Horizon, context, backbone, ε and δ; the first seed is that of training and of the search.
        kind: What is searched.
        trials: Finished trials in all.
        study: An sqlite file that keeps them; None keeps nothing.
        freeze: Policies that a trial may take (kind "personal").
        engine: To be used; default: one for the settings' backbone.
        on_trial: Told about each finished trial.

    Raises:
        UsageError: The file holds a study of other sales or another kind, or optuna is not installed.
        PolicyError: A federation is to train what cannot be trained privately.
        DataError: A retailer has too little history, or nothing could be judged.
    """
    if kind == "federated":
        for policy in freeze:
            refuse_private(FineTuneSettings(freeze=policy, patience=0, launch=LaunchSettings(steps=0)))
    search = _optuna()
    engine = engine or Engine(settings.backbone, device="cpu")
    cases = [make_case(one, settings) for one in retailers]
    bench = _Bench(cases, engine, settings, kind)
    known = _known(cases, settings, engine, kind, freeze)
    opened = _open(search, study, known, seed=settings.seeds[0])
    for name, measured in (("zero_shot", bench.zero_shot), ("usual", bench.usual)):
        if name not in opened.user_attrs:
            opened.set_user_attr(name, measured())
    if not opened.get_trials(deepcopy=False):
        opened.enqueue_trial(default_values(kind, freeze))

    def objective(trial: optuna.Trial) -> float:
        values = suggest(trial, kind, freeze)
        trial.set_user_attr("values", values)
        value = bench.measure(values)
        if not math.isfinite(value):
            raise search.TrialPruned
        return value

    def told(_study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if trial.value is not None:
            on_trial(trial.number, trial.value, _finished(opened)[0].value or trial.value)

    while (missing := trials - len(_finished(opened))) > 0:
        opened.optimize(objective, n_trials=missing, callbacks=[told])
        if len(_finished(opened)) == trials - missing:
            raise DataError(
                f"None of {missing} trials could be judged on these sales.",
                "A launch part needs at least 24 products; use more retailers or another kind of study.",
            )
    return _tuned(opened, kind, settings, cases)


class _Bench:
    """Measures settings on all retailers."""

    def __init__(self, cases: Sequence[Case], engine: Engine, settings: Settings, kind: Kind) -> None:
        self._cases, self._engine, self._settings, self._kind = cases, engine, settings, kind
        self._seed = settings.seeds[0]

    def zero_shot(self) -> float:
        """The measure without training."""
        if self._kind == "launch":
            return 1.0
        self._engine.install_local(1)
        return float(np.nanmean([self._judged(case, None) for case in self._cases]))

    def usual(self) -> float | None:
        """The measure of a personal model without any settings; None where the first trial is just that."""
        if self._kind != "personal":
            return None
        self._engine.install_local(FineTuneSettings().rank)
        return float(np.nanmean([self._trained(case, n, PersonalSettings()) for n, case in enumerate(self._cases)]))

    def measure(self, values: dict[str, Any]) -> float:
        """The mean over the retailers."""
        if self._kind == "federated":
            return self._federated(values)
        found = [self._one(case, number, values) for number, case in enumerate(self._cases)]
        known = [value for value in found if math.isfinite(value)]
        return float(np.mean(known)) if known else math.nan

    def _one(self, case: Case, number: int, values: dict[str, Any]) -> float:
        wanted = to_settings(self._kind, values)
        wanted = (
            wanted.model_copy(update={"steps": 1})
            if self._kind == "launch"
            else wanted.model_copy(update={"launch": LaunchSettings(steps=0)})
        )
        self._engine.install_local(wanted.rank)
        return self._trained(case, number, wanted)

    def _trained(self, case: Case, number: int, settings: FineTuneSettings | PersonalSettings) -> float:
        tensors, tried = self._engine.personalise(
            case.data,
            None,
            validation=case.data.windows.step_of(case.cut.validation),
            seed=self._seed * 1009 + number,
            settings=settings,
        )
        if self._kind == "launch":
            looks = [value for name, value in tried.items() if name.startswith("launch: ")]
            return min(looks) / tried["launch: none"] if looks else math.nan
        return self._judged(case, tensors)

    def _judged(self, case: Case, tensors: Any) -> float:
        windows = case.data.windows
        step = windows.step_of(case.cut.validation)
        return case.validation.relative_wql(self._engine.forecast(tensors, windows, step, case.data.horizon))

    def _federated(self, values: dict[str, Any]) -> float:
        settings = replace(self._settings, dp=to_recipe(values))
        study = Study(self._cases, self._engine, settings, self._seed)
        return study.mean_validation(run_arm(study, "federated-dp")[0])


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UsageError(
            "trend-sim tune needs optuna, which is not installed.", 'Install it: pip install "trend-federated[sim]".'
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _known(
    cases: Sequence[Case], settings: Settings, engine: Engine, kind: Kind, freeze: tuple[str, ...]
) -> dict[str, Any]:
    """What a study is about; trials of anything else cannot be compared with it."""
    digest = hashlib.sha256()
    for case in cases:
        digest.update(fingerprint(case.retailer.panel).encode())
    return {
        "kind": kind,
        "sales": digest.hexdigest()[:16],
        "horizon": settings.horizon,
        "context": settings.context,
        "backbone": engine.sha256[:16],
        "freeze": list(freeze) if kind == "personal" else None,
        "epsilon": settings.epsilon if kind == "federated" else None,
        "delta": settings.delta if kind == "federated" else None,
    }


def _open(search: Any, path: Path | None, known: dict[str, Any], *, seed: int) -> optuna.Study:
    """The study of this file, or a new one; trials that an interruption left open count as failed."""
    storage = None
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        storage = f"sqlite:///{path.absolute()}"
    try:
        names = search.get_all_study_names(storage) if storage else []
    except Exception as error:  # SQLAlchemy's own errors of a file that is no database
        raise UsageError(f"{path} is not a file of trend-sim tune.", "Name another one with --study.") from error
    done = len(search.load_study(study_name=names[0], storage=storage).get_trials(deepcopy=False)) if names else 0
    opened: optuna.Study = search.create_study(
        study_name="tune",
        storage=storage,
        load_if_exists=True,
        # A sampler that began with the same seed again would propose what it proposed before the interruption.
        sampler=search.samplers.TPESampler(seed=seed + done),
    )
    found = opened.user_attrs.get("about")
    if found is not None and found != known:
        differ = ", ".join(sorted(key for key in known if found.get(key) != known[key]))
        raise UsageError(
            f"The study in {path} is about another {differ}.", "Name a new file with --study, or remove this one."
        )
    opened.set_user_attr("about", known)
    for trial in opened.get_trials(deepcopy=False):
        if trial.state == search.trial.TrialState.RUNNING:
            opened.tell(trial.number, state=search.trial.TrialState.FAIL)
    return opened


def _finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials with a measure, the best first."""
    found = [trial for trial in study.get_trials(deepcopy=False) if trial.value is not None]
    return sorted(found, key=lambda trial: (trial.value, trial.number))


def _tuned(study: optuna.Study, kind: Kind, settings: Settings, cases: Sequence[Case]) -> Tuned:
    ranked = _finished(study)
    best = ranked[0]
    values = dict(best.user_attrs["values"])
    first = next((one for one in ranked if one.number == 0), best)
    usual = study.user_attrs["usual"]
    assert best.value is not None
    assert first.value is not None
    return Tuned(
        kind=kind,
        zero_shot=float(study.user_attrs["zero_shot"]),
        usual=float(first.value if usual is None else usual),
        best=float(best.value),
        number=best.number,
        values=values,
        toml=best_toml(kind, values, epsilon=settings.epsilon, delta=settings.delta),
        trials=tuple(
            {"trial": one.number, "measure": round(float(one.value or 0), 6), "values": one.user_attrs["values"]}
            for one in sorted(ranked, key=lambda trial: trial.number)
        ),
        data=tuple(
            {
                "name": case.retailer.name,
                "series": case.retailer.series,
                "fingerprint": fingerprint(case.retailer.panel),
                "validation": str(case.cut.validation.date()),
            }
            for case in cases
        ),
    )
