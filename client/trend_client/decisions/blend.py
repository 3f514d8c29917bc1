"""The forecast of ``trend-client forecast`` for those who decide: the same blend, of the series that are asked for.

``forecast`` leaves a *basis* in the home: the weights and the calibration that its backtest chose, the models and the
sales that they were used on, and where the forecasts lie. A decision about the next steps reads those forecasts where
sales, plan and models are still the same, and blends anew where they are not, or where it looks further, at other
prices, or back: then with the same weights, and in past windows without the models that have trained on them.

Shapes: S series, H horizon steps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
from pydantic import TypeAdapter, ValidationError

from trend_client.gate import Choice
from trend_client.trees import TREES
from trend_client.trees.forecaster import TreeForecaster
from trend_client.trial import Tryout
from trend_common.errors import DataError
from trend_common.files import write_text
from trend_common.forecasts import Forecast
from trend_common.panel import SalesPanel
from trend_common.scoring import origins
from trend_common.tensors import tensors_sha256
from trend_common.windows import PanelWindows

if TYPE_CHECKING:
    from trend_client.contest import Forecaster
    from trend_client.engine import Engine
    from trend_client.home import ClientHome
    from trend_client.outcome import Model

__all__ = ["Basis", "Blend", "Past", "fingerprint", "hashes", "keep_basis", "load_basis", "plain_choice", "without"]

SLOW: Final = frozenset(Tryout().methods)
"""Methods that are not asked again for past windows: their weight falls to the others there."""

_KNOWN_SHARE: Final = 0.5
"""Of a basis' series that a panel must have, so that its weights are those of this assortment."""

_UNTRAINED: Final = ("zero-shot",)


@dataclass(frozen=True)
class Basis:
    """What the last forecast of a home was made with.

    Attributes:
        freq: Of the sales.
        horizon: H of the files.
        sales: :func:`fingerprint` of the sales and what was planned.
        models: Method → SHA-256 of its tensors, "" for the backbone as shipped, whose own is under "backbone".
        choice: Weights and calibration; None where the history was too short for a backtest.
        folder: Where ``forecasts.parquet`` lies.
        reconciled: How sums were made to fit, if the series' forecasts were moved for it.
    """

    freq: str
    horizon: int
    sales: str
    models: dict[str, str]
    choice: Choice | None
    folder: str
    reconciled: str | None = None


_STORED: Final = TypeAdapter(Basis)


def fingerprint(panel: SalesPanel) -> str:
    """SHA-256 of everything in a panel that a forecast depends on."""
    told = hashlib.sha256(f"{panel.freq}|{panel.offset}|{panel.calendar_end}|{panel.own_ahead}".encode())
    told.update("\0".join(panel.ids).encode())
    told.update("\0".join(panel.static["description"]).encode())
    told.update(repr(sorted((store, tuple(map(str, sorted(days)))) for store, days in panel.shut.items())).encode())
    for table in (panel.frame, panel.future):
        for name in table.columns:
            told.update(f"|{name}|".encode())
            if name == "unique_id":
                told.update(pd.Index(panel.ids).get_indexer(pd.Index(table[name])).astype(np.int64).tobytes())
            elif name == "ds":
                told.update(table[name].to_numpy(dtype="datetime64[ns]").tobytes())
            else:
                told.update(table[name].to_numpy(dtype=np.float64).tobytes())
    return told.hexdigest()


def hashes(engine: Engine, model: Model) -> dict[str, str]:
    """Of all that forecasts."""
    tensors = {name: "" if one is None else tensors_sha256(one) for name, one in model.adapters.items()}
    return {**tensors, "backbone": engine.sha256}


def keep_basis(
    home: ClientHome,
    engine: Engine,
    panel: SalesPanel,
    model: Model,
    choice: Choice | None,
    folder: Path,
    *,
    reconciled: str | None = None,
) -> None:
    """Note in the home what its newest forecast was made with; readable by its owner alone."""
    basis = Basis(
        panel.freq,
        model.horizon,
        fingerprint(panel),
        hashes(engine, model),
        choice,
        str(folder.absolute()),
        "mint" if reconciled == "mint" else None,
    )
    write_text(home.root / "basis.json", _STORED.dump_json(basis).decode(), private=True)


def load_basis(home: ClientHome, panel: SalesPanel) -> Basis | None:
    """What the newest forecast was made with; None where there was none, or of another assortment."""
    try:
        found = _STORED.validate_json((home.root / "basis.json").read_bytes())
    except (OSError, ValidationError):
        return None
    known = set(panel.ids)
    if found.freq != panel.freq:
        return None
    if found.choice is not None:
        same = sum(name in known for name in found.choice.methods)
        if same < _KNOWN_SHARE * max(len(found.choice.methods), 1):
            return None
    return found


def plain_choice(method: str) -> Choice:
    """One method for all, where no backtest has compared any."""
    return Choice(method, {}, (method,), {})


def without(choice: Choice, names: Collection[str]) -> Choice:
    """The choice as if these methods did not exist; their weights fall to the others, as in a window they lack."""
    if not set(names) & set(choice.ranking):
        return choice
    ranking = tuple(name for name in choice.ranking if name not in names) or _UNTRAINED

    def kept(weights: dict[str, float]) -> dict[str, float]:
        left = {name: weight for name, weight in weights.items() if name not in names}
        return left or {ranking[0]: 1.0}

    return replace(
        choice,
        default=choice.default if choice.default not in names else ranking[0],
        methods={one: name if name not in names else ranking[0] for one, name in choice.methods.items()},
        ranking=ranking,
        weights={one: kept(dict(weights)) for one, weights in choice.weights.items()},
        panel=kept(dict(choice.panel)) if choice.panel else {},
    )


class Blend:
    """Forecasts as ``trend-client forecast`` does, of any series of a panel, at any origin.

    What the statistical methods say of the same sales is kept: other prices do not move it.

    Args:
        engine, model: The home's.
        choice: The weights.
        sales: All sales, which trees learn from.
        country: For public holidays.
        kept: Folder of fitted trees.
    """

    def __init__(
        self,
        engine: Engine,
        model: Model,
        choice: Choice,
        *,
        sales: SalesPanel | None = None,
        country: str | None = None,
        kept: Path | None = None,
    ) -> None:
        from trend_client.outcome import forecasters

        self.engine, self.model, self.country = engine, model, country
        usable = forecasters(engine, model, sales=sales, country=country, kept=kept)
        trees = usable.get(TREES)
        self.trees = trees if isinstance(trees, TreeForecaster) else None
        if self.trees is not None:
            self.trees.every = 2 * model.horizon  # looking back over many windows must not fit for each
        lost = [name for name in choice.ranking if name not in usable]
        self.choice = without(choice, lost)
        self._methods = usable
        self._said: dict[tuple[object, ...], tuple[pd.DataFrame, Forecast]] = {}
        self._windows: PanelWindows | None = None

    def __call__(self, panel: SalesPanel, origin: pd.Timestamp, horizon: int) -> Forecast:
        """Forecast every series."""
        return self.of(panel, origin, horizon, panel.ids)

    def of(
        self,
        panel: SalesPanel,
        origin: pd.Timestamp,
        horizon: int,
        ids: Sequence[str],
        *,
        choice: Choice | None = None,
    ) -> Forecast:
        """Forecast some series; the others are there for what young ones can expect.

        Args:
            panel: What is known before ``origin``, and planned after it.
            origin: First step.
            horizon: H.
            ids: S series.
            choice: Other weights.

        Returns:
            Their forecasts in that order, without series of which nothing was known before ``origin``.
        """
        from trend_client.outcome import combined

        used = choice or self.choice
        if horizon > self.model.horizon:
            used = without(used, (TREES,))  # so far ahead they have learned nothing
        # The calendar's end is the panel's: series that were given up must not move it.
        part = replace(panel.select(ids), until=panel.calendar_end)
        methods = {name: self._one(name, panel) for name in used.used}
        found = combined(used, methods, part, origin, horizon)
        made = set(found.ids)
        return found.select(name for name in ids if name in made)

    def _one(self, name: str, panel: SalesPanel) -> Forecaster:
        if name == TREES:
            return lambda part, origin, horizon: self._corrected(panel, part, origin, horizon)
        if name not in self.model.adapters:
            return lambda part, origin, horizon: self._statistical(name, panel, part, origin, horizon)
        tensors = self.model.adapters[name]

        def learned(part: SalesPanel, origin: pd.Timestamp, horizon: int) -> Forecast:
            windows = self._windows_of(panel, horizon)
            place = {one: row for row, one in enumerate(windows.ids)}
            rows = np.array([place[one] for one in part.ids], dtype=np.int64)
            return self.engine.forecast(tensors, windows, windows.step_of(origin), horizon, rows=rows)

        return learned

    def _corrected(self, panel: SalesPanel, part: SalesPanel, origin: pd.Timestamp, horizon: int) -> Forecast:
        """What the trees say; young series start from what their siblings sell, as in the other methods."""
        assert self.trees is not None
        return self.trees(part, origin, horizon, plain=self._one("zero-shot", panel)(part, origin, horizon))

    def _windows_of(self, panel: SalesPanel, horizon: int) -> PanelWindows:
        kept = self._windows
        if kept is None or kept.panel is not panel or kept.ahead < horizon:
            kept = PanelWindows(panel, context=self.model.context, country=self.country, ahead=horizon)
            self._windows = kept
        return kept

    def _statistical(
        self, name: str, panel: SalesPanel, part: SalesPanel, origin: pd.Timestamp, horizon: int
    ) -> Forecast:
        key = (name, id(panel.frame), origin, horizon, part.ids)
        if key not in self._said:
            # The frame is kept beside it, so that no other one can get its number.
            self._said[key] = (panel.frame, self._methods[name](part, origin, horizon))
            while len(self._said) > 2 * len(self._methods):
                del self._said[next(iter(self._said))]
        return self._said[key][1]


class Past:
    """A blend that looks back: in each window with the methods that had not trained on it, the slow ones left out.

    Args:
        blend: The blend.
        panel: All sales; where nothing says when a model's training ended, it was before their validation window.
    """

    def __init__(self, blend: Blend, panel: SalesPanel) -> None:
        self._blend = blend
        try:
            last = origins(panel, blend.model.horizon).validation
        except DataError:
            last = panel.calendar_end
        trained = [name for name in blend.model.adapters if name not in _UNTRAINED]
        self._since = {name: blend.model.since.get(name, last) for name in trained}
        self._choices: dict[frozenset[str], Choice] = {}

    def __call__(self, panel: SalesPanel, origin: pd.Timestamp, horizon: int) -> Forecast:
        """Forecast every series of what was known before ``origin``."""
        unfit = SLOW | {name for name, day in self._since.items() if origin < day}
        if unfit not in self._choices:
            self._choices[unfit] = without(self._blend.choice, unfit)
        return self._blend.of(panel, origin, horizon, panel.ids, choice=self._choices[unfit])
