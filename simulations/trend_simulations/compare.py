"""Arms against one another at one calendar cut: choices on the horizon before the test, the test looked at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trend_client.engine import Engine
from trend_common import __version__
from trend_common.errors import DataError
from trend_common.scoring import Score
from trend_simulations.arms import Study, run_models
from trend_simulations.cases import Case, Model, make_case
from trend_simulations.federation import Outcome
from trend_simulations.intervals import Interval, bootstrap
from trend_simulations.settings import ARMS, MORE_ARMS, Settings, split_arm
from trend_simulations.sources import Retailer, fingerprint

__all__ = ["COMPARED_BASELINES", "MEASURES", "RELATIVE", "Comparison", "Watch", "compare"]

COMPARED_BASELINES: Final = ("naive", "seasonal-naive", "auto-ets", "auto-theta")
REFERENCE: Final = "seasonal-naive"
MEASURES: Final = ("wape", "wape_mean", "mase", "rmsse", "sql", "wql", "coverage80", "coverage90")
RELATIVE: Final = ("wql", "sql", "wape", "mase", "rmsse")
"""Measures that are also given relative to the seasonal naive's."""

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Scores of all arms on the test window. C retailers, S seeds.

    Attributes:
        settings: What was asked.
        cases: The retailers.
        arms: Arm → [C][S] scores.
        baselines: Statistical method → [C] scores.
        outcomes: Federated arm → the federation of each seed.
        notes: Arm → what was chosen in each seed.
        seconds: Wall-clock time of everything.
    """

    settings: Settings
    cases: Sequence[Case]
    arms: Mapping[str, Sequence[Sequence[Score]]]
    baselines: Mapping[str, Sequence[Score]]
    outcomes: Mapping[str, Sequence[Outcome]] = field(default_factory=dict)
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    seconds: float = 0.0

    def values(self, name: str, measure: str) -> Array:
        """[C, S] one measure of an arm or a baseline (a baseline is the same in every seed)."""
        if name in self.arms:
            rows = [[float(one[measure]) for one in seeds] for seeds in self.arms[name]]  # type: ignore[literal-required]
        else:
            one = [float(score[measure]) for score in self.baselines[name]]  # type: ignore[literal-required]
            rows = [[value] * len(self.settings.seeds) for value in one]
        return np.array(rows, dtype=np.float64)

    def relative(self, name: str, measure: str) -> Array:
        """[C, S] a measure over the seasonal naive's; NaN where that is 0 or unknown."""
        reference = self.values(REFERENCE, measure)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(reference > 0, self.values(name, measure) / reference, np.nan)
        return np.asarray(ratio, dtype=np.float64)

    def interval(self, name: str, measure: str) -> Interval:
        """Mean over retailers and seeds of :meth:`relative`, with its bootstrap interval."""
        return bootstrap(self.relative(name, measure))

    def against(self, other: str, name: str, measure: str) -> tuple[Interval, float] | None:
        """The difference of :meth:`relative` to another arm's (below 0 is better), and the share that gains."""
        if other not in self.arms or name == other:
            return None
        difference = self.relative(name, measure) - self.relative(other, measure)
        known = difference[np.isfinite(difference)]
        return bootstrap(difference), float((known < 0).mean()) if known.size else math.nan

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON values; undefined numbers are null."""
        names = [*self.arms, *self.baselines]
        return {
            "schema": 1,
            "version": __version__,
            "command": "trend-sim",
            "freq": self.settings.freq,
            "horizon": self.settings.horizon,
            "context": self.settings.context,
            "backbone": self.settings.backbone,
            "calibrated": self.settings.calibrate,
            "seeds": list(self.settings.seeds),
            "arms": {arm: {**self._means(arm), "chosen": list(self.notes.get(arm, ()))} for arm in self.arms},
            "baselines": {name: self._means(name) for name in self.baselines},
            "clients": [self._client(index) for index in range(len(self.cases))],
            "intervals": {name: self._intervals(name) for name in names},
            "privacy": self._privacy(),
            "bytes_up_per_client_round": {arm: found[0].bytes_up for arm, found in self.outcomes.items()},
            "seconds": self._seconds(),
            "data": [
                {
                    "name": case.retailer.name,
                    "series": case.retailer.series,
                    "volume": round(float(np.nansum(case.data.windows.history(case.data.train_end))), 1),
                    "fingerprint": fingerprint(case.retailer.panel),
                    "validation": str(case.cut.validation.date()),
                    "test": str(case.cut.test.date()),
                    "end": str(case.retailer.panel.end.date()),
                }
                for case in self.cases
            ],
        }

    def _means(self, name: str) -> dict[str, Any]:
        means = {measure: _number(float(np.nanmean(self.values(name, measure)))) for measure in MEASURES}
        return {**means, "relative": {m: _number(self.interval(name, m).mean) for m in RELATIVE}}

    def _client(self, index: int) -> dict[str, Any]:
        case = self.cases[index]

        def one(name: str) -> dict[str, float | None]:
            return {measure: _number(self.values(name, measure)[index].mean()) for measure in MEASURES}

        return {
            "name": case.retailer.name,
            "group": case.retailer.group,
            "series": case.retailer.series,
            "arms": {arm: one(arm) for arm in self.arms},
            "baselines": {name: one(name) for name in self.baselines},
        }

    def _intervals(self, name: str) -> dict[str, Any]:
        result: dict[str, Any] = {"relative": {m: self.interval(name, m).to_json() for m in RELATIVE}}
        for other in ("local", "alone"):
            found = {m: self.against(other, name, m) for m in RELATIVE}
            if other in self.arms and name != other:
                result[f"difference_to_{other}"] = {m: pair[0].to_json() for m, pair in found.items() if pair}
                result[f"gain_over_{other}"] = {m: _number(pair[1]) for m, pair in found.items() if pair}
        return result

    def _privacy(self) -> dict[str, Any] | None:
        """Of the first private federation; ``by_arm`` has all."""
        private = {arm: self._paid(found[0]) for arm, found in self.outcomes.items() if found[0].plan.privacy}
        return {**next(iter(private.values())), "by_arm": private} if private else None

    def _paid(self, outcome: Outcome) -> dict[str, Any]:
        privacy = outcome.plan.privacy
        assert privacy is not None
        return {
            "epsilon": _number(privacy.epsilon),
            "delta": privacy.delta,
            "unit": privacy.unit,
            "noise_multiplier": privacy.buckets["S"].noise_multiplier,
            "clip": privacy.clip,
            "rounds": outcome.plan.rounds,
            "parameters": outcome.plan.adapter.parameters,
            "signal_to_noise": _number(outcome.signal_to_noise),
            "epsilon_in_ledgers": _number(max(outcome.spent.values())),
            "bytes_up": outcome.bytes_up,
        }

    def _seconds(self) -> dict[str, float]:
        every = [one for found in self.outcomes.values() for one in found]
        training = sum(one.training for one in every)
        overhead = sum(one.seconds for one in every) - training
        return {"total": round(self.seconds, 2), "training": round(training, 2), "overhead": round(overhead, 2)}


@dataclass
class Watch:
    """Where a comparison tells how far it is; every member may be replaced."""

    stage: Callable[[str, int], None] = lambda _text, _steps: None
    step: Callable[[int], None] = lambda _done: None
    say: Callable[[str], None] = lambda _text: None


def compare(
    retailers: Sequence[Retailer],
    arms: Sequence[str],
    settings: Settings,
    *,
    engine: Engine | None = None,
    baselines: Sequence[str] = COMPARED_BASELINES,
    watch: Watch | None = None,
    on_chosen: Callable[[Study], None] = lambda _: None,
) -> Comparison:
    """Play and score the arms.

    Args:
        retailers: All of one frequency.
        arms: Of :data:`trend_simulations.settings.ARMS`; private ones may carry an ε (``federated-dp@8``).
        settings: How.
        engine: To be used; default: one for the settings' backbone.
        baselines: Statistical methods; the seasonal naive is always among them.
        watch: Told about the progress.
        on_chosen: Told of each seed when all its choices are made, before the test is looked at.

    Raises:
        UsageError: An arm is unknown.
        DataError: No retailer can be scored.
    """
    wanted = sorted(dict.fromkeys(arms), key=lambda arm: (*ARMS, *MORE_ARMS).index(split_arm(arm)[0]))
    watch, started = watch or Watch(), time.perf_counter()
    engine = engine or Engine(settings.backbone, device="cpu")
    cases = _cases(retailers, settings, watch)

    scores: dict[str, list[list[Score]]] = {arm: [[] for _ in cases] for arm in wanted}
    outcomes: dict[str, list[Outcome]] = {}
    notes: dict[str, list[str]] = {}
    for seed in settings.seeds:

        def on_round(arm: str, done: int, total: int) -> None:
            watch.step(done)

        study = Study(cases, engine, settings, seed, on_round)
        chosen: dict[str, list[Model]] = {}
        for arm in wanted:
            watch.stage(f"seed {seed}: {arm}", _length(arm, settings, len(cases)))
            chosen[arm] = run_models(study, arm)
        for arm, note in study.notes.items():
            notes.setdefault(arm, []).append(note)
        for arm, outcome in study.outcomes.items():
            outcomes.setdefault(arm, []).append(outcome)
        # Everything is chosen; only now is the test window looked at.
        on_chosen(study)
        watch.stage(f"seed {seed}: test", len(wanted))
        for done, arm in enumerate(wanted, 1):
            for row, (case, model) in enumerate(zip(cases, chosen[arm], strict=True)):
                made = model.forecast(engine, case, case.cut.test, case.test.ids)
                scores[arm][row].append(case.test.score(made))
            watch.step(done)
    methods = tuple(dict.fromkeys((REFERENCE, *baselines)))
    ordered = tuple(name for name in COMPARED_BASELINES if name in methods)
    watch.stage("statistical methods", len(cases))
    found: dict[str, list[Score]] = {name: [] for name in ordered}
    for done, case in enumerate(cases, 1):
        for name, one in case.baselines(ordered).items():
            found[name].append(one)
        watch.step(done)
    return Comparison(settings, cases, scores, found, outcomes, notes, time.perf_counter() - started)


def _cases(retailers: Sequence[Retailer], settings: Settings, watch: Watch) -> list[Case]:
    watch.stage("reading", len(retailers))
    cases = []
    for done, retailer in enumerate(retailers, 1):
        try:
            cases.append(make_case(retailer, settings))
        except DataError as error:
            watch.say(f"{retailer.name} is left out: {error.message}")
        watch.step(done)
    if not cases:
        raise DataError("No retailer can be scored.", "Use a shorter --horizon or more history.")
    ends = {case.retailer.panel.end for case in cases}
    if len(ends) > 1:
        watch.say("The retailers' sales end on different days: each is cut at its own end.")
    return cases


def _length(arm: str, settings: Settings, clients: int) -> int:
    """Steps that an arm reports."""
    name = split_arm(arm)[0]
    if name == "federated":
        return max((recipe.rounds for recipe in settings.plain), default=1)
    if name == "federated-dp":
        return settings.dp.rounds
    return clients if name == "local" or name.endswith("-personal") else 1


def _number(value: float) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None
