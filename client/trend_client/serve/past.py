"""The forecasts that this service gave, and whether what was then sold lay inside them.

One SQLite file in the home, shared by all workers, readable by its owner alone. It holds intervals and whether they
held; what was sold is compared and forgotten.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Final

from trend_client.serve.schemas import Actual, DriftReport
from trend_common.errors import UsageError
from trend_common.files import private_directory
from trend_common.forecasts import Forecast

__all__ = ["FEWEST", "PastForecasts"]

FEWEST: Final = 100
"""Outcomes below which nothing is said about drift."""

_LAST: Final = 2000
_KEPT_DAYS: Final = 400
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS forecasts (
    series TEXT, ds TEXT, origin TEXT, q05 REAL, q10 REAL, q90 REAL, q95 REAL, PRIMARY KEY (series, ds)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outcomes (
    series TEXT, ds TEXT, in80 INTEGER, in90 INTEGER, PRIMARY KEY (series, ds)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS outcomes_by_day ON outcomes (ds);
"""
# Of several forecasts of one day the one that knew most counts.
_REMEMBER: Final = """
INSERT INTO forecasts VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (series, ds) DO UPDATE
SET origin = excluded.origin, q05 = excluded.q05, q10 = excluded.q10, q90 = excluded.q90, q95 = excluded.q95
WHERE excluded.origin >= origin
"""


class PastForecasts:
    """The file. One object belongs to one thread at a time.

    Args:
        path: Made if it is missing.
        tolerance: How far a coverage may lie below its level before it is an alert.

    Raises:
        UsageError: The file is damaged.
    """

    def __init__(self, path: Path, *, tolerance: float) -> None:
        self._tolerance = tolerance
        private_directory(path.parent)
        path.touch(mode=0o600)
        try:
            self._db = sqlite3.connect(path, timeout=10.0, check_same_thread=False, isolation_level=None)
            # Losing the last second of it in a power cut costs nothing.
            self._db.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; {_SCHEMA}")
            self._db.execute("DELETE FROM forecasts WHERE ds < date('now', ?)", (f"-{_KEPT_DAYS} days",))
            self._db.execute("DELETE FROM outcomes WHERE ds < date('now', ?)", (f"-{_KEPT_DAYS} days",))
        except sqlite3.DatabaseError as error:
            raise UsageError(
                f"{path} is damaged.", "Delete it: the service then begins anew to compare forecasts with sales."
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def remember(self, forecast: Forecast, origin: date) -> None:
        """Keep the intervals of a forecast that was given.

        Args:
            forecast: Of series of the sales file.
            origin: Its first step.
        """
        ends = [forecast.quantile(level) for level in (0.05, 0.1, 0.9, 0.95)]
        days = forecast.ds.astype("datetime64[D]").astype(str)
        rows = [
            (series, str(days[at, step]), origin.isoformat(), *(float(end[at, step]) for end in ends))
            for at, series in enumerate(forecast.ids)
            for step in range(forecast.horizon)
        ]
        self._write(_REMEMBER, rows)

    def compare(self, actuals: Sequence[Actual]) -> tuple[int, int]:
        """Compare what was sold with what was forecast; told twice, a day counts once.

        Returns:
            How many rows had a forecast, and how many had none.
        """
        held = []
        for one in actuals:
            found = self._db.execute(
                "SELECT q05, q10, q90, q95 FROM forecasts WHERE series = ? AND ds = ?", (one.id, one.date.isoformat())
            ).fetchone()
            if found is not None:
                q05, q10, q90, q95 = found
                inside = (q10 <= one.units <= q90, q05 <= one.units <= q95)
                held.append((one.id, one.date.isoformat(), *map(int, inside)))
        self._write("INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?)", held)
        return len(held), len(actuals) - len(held)

    def drift(self) -> DriftReport:
        """How often the intervals held, over the newest outcomes.

        Only too narrow is an alert: slow movers, which sell nothing on most days, lie inside more often than
        promised.
        """
        count, in80, in90 = self._db.execute(
            "SELECT count(*), avg(in80), avg(in90) FROM (SELECT in80, in90 FROM outcomes ORDER BY ds DESC LIMIT ?)",
            (_LAST,),
        ).fetchone()
        low = count >= FEWEST and (in80 < 0.8 - self._tolerance or in90 < 0.9 - self._tolerance)
        return DriftReport(outcomes=count, coverage80=in80, coverage90=in90, alert=bool(low))

    def _write(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany(statement, rows)
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")
