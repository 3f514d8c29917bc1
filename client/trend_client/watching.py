"""A folder of exports, watched: each new one is forecast, the last forecast is held against it, a person is told.

All state is in the home (``watch/``), replaced whole: a watcher that is killed goes on where it was.
"""

from __future__ import annotations

import fnmatch
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from trend_client.drift import Drift, Expected, StepScore, drift_of, scores_of
from trend_common.errors import TrendError, UsageError
from trend_common.files import private_directory, replacing, write_json

if TYPE_CHECKING:
    from trend_common.panel import SalesPanel

__all__ = ["Ran", "Seen", "WatchState", "Watcher", "rejoin_advice"]

_UNFINISHED: Final = (".tmp", ".part", ".partial", ".crdownload", ".download", ".swp", ".lock", "~")
_REJOIN_STEPS: Final = {"D": 56, "W": 16, "M": 6}
"""New steps since the shared adapter arrived after which joining again looks worth it: two usual horizons."""
_KEPT_SCORES: Final = 400


@dataclass(frozen=True)
class Ran:
    """What a run on one export left: the forecast table, and what its backtest says of it."""

    forecast: pd.DataFrame
    expected: Expected
    report: Path


@dataclass(frozen=True)
class Seen:
    """One export that was dealt with: "done", "failed" (with the reason) or "older" (a newer one was there)."""

    size: int
    changed: int
    result: str
    message: str = ""
    when: str = ""


@dataclass
class WatchState:
    """What a watcher remembers.

    Attributes:
        seen: File name -> what became of it.
        scores: Day -> score of that step.
        forecast: File under ``watch/`` with the newest forecast, "" before the first.
        wape, coverage80: What the backtest of that forecast says; None where there was none.
        joined: Hash of the shared adapter in use, and the last step of the sales when it was first seen here.
        joined_end: That step, YYYY-MM-DD.
    """

    seen: dict[str, Seen] = field(default_factory=dict)
    scores: dict[str, StepScore] = field(default_factory=dict)
    forecast: str = ""
    wape: float | None = None
    coverage80: float | None = None
    joined: str = ""
    joined_end: str = ""

    @classmethod
    def load(cls, path: Path) -> WatchState:
        """Read it; a new one if there is none.

        Raises:
            UsageError: It is damaged.
        """
        if not path.is_file():
            return cls()
        try:
            raw = json.loads(path.read_text("utf-8"))
            raw["seen"] = {name: Seen(**one) for name, one in raw["seen"].items()}
            raw["scores"] = {day: StepScore(**one) for day, one in raw["scores"].items()}
            return cls(**raw)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UsageError(
                f"{path} is damaged.", "Delete it: the folder's exports are then looked at anew."
            ) from error

    def save(self, path: Path) -> None:
        """Replace the file."""
        self.scores = dict(sorted(self.scores.items())[-_KEPT_SCORES:])
        write_json(path, asdict(self), private=True)


class Watcher:
    """Looks at a folder, and runs what is new in it.

    Args:
        folder: Where exports arrive.
        home: The client's home.
        read: Reads an export.
        run: Forecasts from a panel and writes the files.
        adapter: Hash of the shared adapter in use, "" for none.
        say: Prints a line for the person.
        pattern: Of the file names.
        settle: Seconds that a file must not have changed for.
        sleep, clock: For tests.
    """

    def __init__(
        self,
        folder: Path,
        home: Path,
        *,
        read: Callable[[Path], SalesPanel],
        run: Callable[[Path, SalesPanel], Ran],
        adapter: Callable[[], str],
        say: Callable[[str], None],
        pattern: str = "*",
        settle: float = 10.0,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not folder.is_dir():
            raise UsageError(f"There is no folder {folder}.", "Name the folder that the exports arrive in.")
        self.folder, self.place = folder, private_directory(home / "watch")
        self.read, self.run, self.adapter, self.say = read, run, adapter, say
        self.pattern, self.settle, self.sleep, self.clock = pattern, settle, sleep, clock
        self.state_path = self.place / "state.json"
        self.state = WatchState.load(self.state_path)
        self.drift: Drift | None = None
        self.advice: list[str] = []

    def pending(self) -> list[Path]:
        """New or changed exports that are complete, the newest first.

        A file is complete when its size and time stay the same over ``settle`` seconds.
        """
        first = self._candidates()
        if any(self.clock() - changed / 1e9 < self.settle for _, changed in first.values()):
            self.sleep(self.settle)
        second = self._candidates()
        stable = [path for path, what in first.items() if second.get(path) == what and what[0] > 0]
        return sorted(stable, key=lambda path: (first[path][1], path.name), reverse=True)

    def _candidates(self) -> dict[Path, tuple[int, int]]:
        found = {}
        for path in self.folder.iterdir():
            name = path.name
            if name.startswith((".", "~$")) or name.lower().endswith(_UNFINISHED):
                continue
            if not fnmatch.fnmatch(name, self.pattern):
                continue
            try:
                if not path.is_file():
                    continue
                status = path.stat()
            except OSError:  # gone again
                continue
            known = self.state.seen.get(name)
            if known is None or (known.size, known.changed) != (status.st_size, status.st_mtime_ns):
                found[path] = (status.st_size, status.st_mtime_ns)
        return found

    def once(self) -> str:
        """Deal with what has arrived: the newest export that can be used; older ones are passed over.

        Returns:
            "nothing", "done" or "failed" (the newest export could not be used).
        """
        arrived = self.pending()
        outcome = "nothing"
        for position, path in enumerate(arrived):
            if self._deal_with(path):
                for older in arrived[position + 1 :]:
                    self._note(older, "older", f"{path.name} is newer")
                self.state.save(self.state_path)
                return "done" if outcome == "nothing" else outcome
            outcome = "failed"
        return outcome

    def _deal_with(self, path: Path) -> bool:
        self.say(f"{path.name}: new export.")
        try:
            before = path.stat()
            panel = self.read(path)
            # Scores are kept before the new forecast takes the old one's place: a kill in between loses none.
            self._score(panel)
            self.state.save(self.state_path)
            ran = self.run(path, panel)
        except TrendError as error:
            self._failed(path, f"{error.message} {error.hint}".strip())
            return False
        except Exception as error:  # whatever is wrong with one file, tomorrow's must be read
            self._failed(path, f"{type(error).__name__}: {error}")
            return False
        self._keep(ran, panel)
        self._note(path, "done", f"sales to {panel.calendar_end.date()}", (before.st_size, before.st_mtime_ns))
        self.state.save(self.state_path)
        self._tell(panel, ran)
        return True

    def _failed(self, path: Path, message: str) -> None:
        self.say(f"{path.name} cannot be used, and the forecasts stay as they are: {message}")
        self._note(path, "failed", message)
        self.state.save(self.state_path)

    def _note(self, path: Path, result: str, message: str, what: tuple[int, int] | None = None) -> None:
        try:
            status = path.stat()
            size, changed = what or (status.st_size, status.st_mtime_ns)
        except OSError:
            return
        when = datetime.now(UTC).isoformat(timespec="seconds")
        self.state.seen[path.name] = Seen(size, changed, result, message[:500], when)

    def _score(self, panel: SalesPanel) -> None:
        old = self.place / self.state.forecast
        if not self.state.forecast or not old.is_file():
            return
        for score in scores_of(pd.read_parquet(old), panel.frame):
            self.state.scores.setdefault(score.day, score)  # the first forecast that knew no sale of that day counts

    def _keep(self, ran: Ran, panel: SalesPanel) -> None:
        name = f"forecast-{panel.calendar_end.date()}-{time.time_ns()}.parquet"
        with replacing(self.place / name, private=True) as temporary:
            ran.forecast.to_parquet(temporary, index=False)
        self.drift = drift_of(self.state.scores, self._expected(), panel.freq)
        self.state.forecast = name
        self.state.wape = None if ran.expected.wape != ran.expected.wape else ran.expected.wape
        coverage = ran.expected.coverage80
        self.state.coverage80 = None if coverage != coverage else coverage
        now = self.adapter()
        if now != self.state.joined:
            self.state.joined, self.state.joined_end = now, str(panel.calendar_end.date())
        self.state.save(self.state_path)
        for older in self.place.glob("forecast-*.parquet"):
            if older.name != name:
                older.unlink(missing_ok=True)

    def _expected(self) -> Expected:
        """Of the backtest of the forecast that was scored."""
        nan = float("nan")
        wape, coverage = self.state.wape, self.state.coverage80
        return Expected(nan if wape is None else wape, nan if coverage is None else coverage)

    def _tell(self, panel: SalesPanel, ran: Ran) -> None:
        drift = self.drift
        assert drift is not None
        self.say(f"Forecasts and report are new: {ran.report}")
        if drift.outcome == "drift":
            self.say(f"DRIFT over the last {drift.steps} steps: {'; '.join(drift.reasons)}.")
        elif drift.outcome == "as expected":
            self.say(
                f"The last {drift.steps} steps came out as expected: {drift.coverage80:.0%} in the 80 % interval, "
                f"WAPE {drift.wape:.3f}."
            )
        else:
            self.say(f"Too early to judge the forecasts: {drift.steps} step(s) are known since.")
        self.advice = rejoin_advice(self.state, drift, panel)
        for line in self.advice:
            self.say(line)

    def summary(self) -> dict[str, Any]:
        """For ``--json``: what became of each file, and the drift. It holds no sales figure but these rates."""
        drift = self.drift
        return {
            "files": {name: asdict(one) for name, one in sorted(self.state.seen.items())},
            "drift": None
            if drift is None
            else {
                "outcome": drift.outcome,
                "steps": drift.steps,
                "coverage80": _number(drift.coverage80),
                "wape": _number(drift.wape),
                "expected": {
                    "coverage80": _number(drift.expected.coverage80),
                    "wape": _number(drift.expected.wape),
                },
                "reasons": list(drift.reasons),
            },
            "rejoin": self.advice,
        }


def rejoin_advice(state: WatchState, drift: Drift, panel: SalesPanel) -> list[str]:
    """Whether joining the federation again looks worth it; empty if not.

    It does if the forecasts drift, or if two horizons of new sales (56 days, 16 weeks, 6 months) have come since the
    shared adapter in use was first seen here.
    """
    why = []
    if drift.outcome == "drift":
        why.append("the forecasts drift")
    if state.joined and state.joined_end:
        new = len(pd.date_range(state.joined_end, panel.calendar_end, freq=panel.offset)) - 1
        if new >= _REJOIN_STEPS[panel.freq]:
            why.append(f"{new} new steps of sales have come since the shared model arrived")
    if not why:
        return []
    act = "Joining again" if state.joined else "Joining a federation"
    return [
        f"{act} looks worth it: {' and '.join(why)}. It is your decision: nothing joins by itself "
        "(trend-client --server HOST:PORT; trend-client budget shows what is spent).",
        "This advice was made from your sales. The privacy bound covers what a run sends, not the choice of when to "
        "join: see docs/watch.md.",
    ]


def _number(value: float) -> float | None:
    return None if value != value else round(value, 4)
