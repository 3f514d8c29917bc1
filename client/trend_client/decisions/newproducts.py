"""Products without history: a forecast from words, price, launch date and the products most like them.

As days pass, the forecast slides from text to history: with n known days it is made of the forecast from the
product's own sales with weight n / (n + 8) and of the one made as if it had none, with the rest. The 8 was chosen on
one half of the launches of a public data set and measured on the other (``docs/results.md``). A level that the
planner states goes before that of the products alike. Shapes: S series, H steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from trend_client.decisions.tables import Problems, lines, nearest, read_named
from trend_client.decisions.words import say
from trend_client.parts import Parts, average
from trend_client.siblings import Siblings
from trend_common import __version__
from trend_common.errors import DataError
from trend_common.forecasts import LEVELS, Forecast
from trend_common.panel import Finding, SalesPanel
from trend_common.panel.dates import parse_dates
from trend_common.panel.findings import Report
from trend_common.panel.model import series_id
from trend_common.rollout import forecast_steps
from trend_common.windows import PanelWindows

if TYPE_CHECKING:
    from trend_client.decisions.outlook import Outlook
    from trend_client.engine import Engine
    from trend_common.tensors import Tensors

__all__ = ["Like", "NewProducts", "forecast_new", "read_new", "slid", "with_new"]

HALF_WAY: Final = 8
"""Known values at which own history and the products alike weigh the same."""

_SLIDES_UNTIL: Final = 56
_FARTHEST_DAYS: Final = 366
_TEXT: Final = {
    "product": ("sku", "item", "article", "artikel", "produit"),
    "store": ("shop", "filiale", "magasin"),
    "description": ("name", "title", "beschreibung", "bezeichnung"),
    "category": ("group", "kategorie", "catégorie", "warengruppe"),
    "launch": ("launch date", "start", "start date", "date", "einführung"),
}
_NUMBERS: Final = {
    "price": ("unit price", "preis", "prix"),
    "level": ("expected", "expected level", "erwartet", "niveau", "attendu"),
}
_EXAMPLE: Final = "product, store, description, category, price, launch, level"
_SHOWN: Final = 5


@dataclass(frozen=True)
class Like:
    """A product that a new one is expected to sell like; ``level``: what it would sell in the new one's store."""

    unique_id: str
    description: str
    likeness: float
    level: float


@dataclass(frozen=True, eq=False)
class NewProducts:
    """Forecasts of new products.

    Attributes:
        ids: S series.
        forecasts: Series → its forecast, from its launch on.
        known: Series → its own known values so far.
        why: Series → the rule its level comes from ("stated", "description", "category", ...) and the products alike.
        panel: The sales with the new products.
        new: Series that the sales do not know yet.
        notes: For a person.
    """

    ids: tuple[str, ...]
    forecasts: dict[str, Forecast]
    known: dict[str, int]
    why: dict[str, tuple[str, tuple[Like, ...]]]
    panel: SalesPanel
    new: frozenset[str]
    notes: tuple[str, ...]

    def table(self) -> pd.DataFrame:
        """The forecasts as ``forecasts.csv`` has them."""
        return pd.concat([self.forecasts[name].to_frame(self.panel.static) for name in self.ids], ignore_index=True)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        rows = []
        for name in self.ids:
            made, (reason, alike) = self.forecasts[name], self.why[name]
            rows.append(
                {
                    "unique_id": name,
                    "launch": str(pd.Timestamp(made.ds[0, 0]).date()),
                    "known_values": self.known[name],
                    "weight_of_history": round(self.known[name] / (self.known[name] + HALF_WAY), 4),
                    "total_mean": round(float(made.mean.sum()), 4),
                    "mean": [round(float(one), 4) for one in made.mean[0]],
                    "q10": [round(float(one), 4) for one in made.quantile(0.1)[0]],
                    "q50": [round(float(one), 4) for one in made.median[0]],
                    "q90": [round(float(one), 4) for one in made.quantile(0.9)[0]],
                    "level_from": reason,
                    "similar": [
                        {
                            "unique_id": one.unique_id,
                            "description": one.description,
                            "likeness": round(one.likeness, 4),
                            "level": round(one.level, 4),
                        }
                        for one in alike
                    ],
                }
            )
        return {
            "schema": 1,
            "version": __version__,
            "command": "newproducts",
            "notes": list(self.notes),
            "products": rows,
        }


def read_new(path: Path, panel: SalesPanel) -> pd.DataFrame:
    """Read a file of new products.

    Args:
        path: Columns product, description, and where known store, category, price, launch, and level: what is
            expected to be sold in an average step. A row without a store is for every store.
        panel: The sales.

    Returns:
        ``unique_id, store, product, description, category, price, launch, level``, one row a series.

    Raises:
        DataError: Everything that is wrong with the file, at once.
    """
    table, problems = read_named(
        path, text=_TEXT, numbers=_NUMBERS, required=("product", "description"), example=_EXAMPLE
    )
    static = panel.static
    stores = sorted(static["store"].unique())
    categories = sorted(one for one in static["category"].unique() if one)
    count = table.rows
    empty = [""] * count
    text = {name: table.text.get(name, empty) for name in _TEXT}
    price = table.numbers.get("price", np.full(count, np.nan))
    for name in ("product", "description"):
        blank = [row for row, one in enumerate(text[name]) if not one]
        if blank:
            problems.add(
                f"{name!r} is empty in {lines(blank)}.", "A new product is forecast from its words; write them."
            )
    level = table.numbers.get("level", np.full(count, np.nan))
    for name, numbers in (("price", price), ("level", level)):
        bad = np.flatnonzero(numbers <= 0)
        if len(bad):
            problems.add(f"{name!r} is not above 0 in {lines(bad)}.", "Leave the cell empty if it is not known.")
    for role, known in (("store", stores), ("category", categories)):
        strange = [row for row, one in enumerate(text[role]) if one and one not in known]
        for row in strange[:_SHOWN] if known else ():
            like = nearest(text[role][row], known)
            problems.add(
                f"The {role} {text[role][row]!r} ({lines([row])}) is not in the sales"
                + (f"; the nearest name is {like!r}." if like else "."),
                f"Write one that is, or leave the cell empty{' for every store' if role == 'store' else ''}.",
            )
    launch = _launches(text["launch"], panel, problems)
    problems.stop()
    rows = [
        {
            "unique_id": series_id(store, text["product"][row]),
            "store": store,
            "product": text["product"][row],
            "description": text["description"][row],
            "category": text["category"][row],
            "price": float(price[row]),
            "launch": launch[row],
            "level": float(level[row]),
        }
        for row in range(count)
        for store in ([text["store"][row]] if text["store"][row] else stores)
    ]
    found = pd.DataFrame(rows)
    twice = found["unique_id"][found["unique_id"].duplicated()].unique()
    if len(twice):
        problems.add(f"{twice[0]!r} is meant by several rows.", "Give one row for each product and store.")
        problems.stop()
    return found


def _launches(texts: Sequence[str], panel: SalesPanel, problems: Problems) -> list[pd.Timestamp]:
    """The launch of each row; the first step ahead where none is given."""
    first = pd.date_range(panel.calendar_end, periods=2, freq=panel.offset)[1]
    given = [row for row, one in enumerate(texts) if one]
    out = [first] * len(texts)
    if not given:
        return out
    try:
        report = Report()
        parsed = parse_dates(pd.Series([texts[row] for row in given], dtype=object), "launch", report)
        report.stop_if_blocked()
    except DataError as error:
        problems.add(error.message, "Write every launch as YYYY-MM-DD.")
        return out
    for row, day in zip(given, pd.to_datetime(pd.Series(parsed.days)), strict=True):
        if pd.isna(day):
            problems.add(f"'launch' is {texts[row]!r} in {lines([row])}, which is no date.", "Write YYYY-MM-DD.")
        elif (day - panel.calendar_end).days > _FARTHEST_DAYS:
            problems.add(f"The launch {day.date()} in {lines([row])} is more than a year away.", "Correct the date.")
        else:
            out[row] = max(pd.Timestamp(day), first)
    return out


def with_new(panel: SalesPanel, new: pd.DataFrame, horizon: int) -> SalesPanel:
    """The panel with the new products' descriptions, and their prices as planned.

    A product that the sales know keeps its rows and takes the description of the file.
    """
    described = new.set_index("unique_id")[["store", "product", "category", "description"]].astype(str)
    static = pd.concat([panel.static[~panel.static.index.isin(described.index)], described]).sort_index()
    static.index.name = panel.static.index.name
    parts = [panel.future] if len(panel.future) else []
    if "price" in panel.frame:
        for _, row in new[new["price"].notna()].iterrows():
            dates = pd.date_range(row["launch"], periods=horizon, freq=panel.offset)
            parts.append(pd.DataFrame({"unique_id": row["unique_id"], "ds": dates, "price": row["price"]}))
    future = panel.future
    if parts:
        joined = pd.concat(parts, ignore_index=True).drop_duplicates(["unique_id", "ds"], keep="last")
        future = joined.sort_values(["unique_id", "ds"], kind="stable", ignore_index=True)
    findings: tuple[Finding, ...] = panel.findings
    return replace(panel, static=static, future=future, findings=findings)


def slid(
    engine: Engine,
    tensors: Tensors | None,
    windows: PanelWindows,
    origin: int,
    horizon: int,
    rows: NDArray[np.int64],
    stated: NDArray[np.float32] | None = None,
) -> Forecast:
    """Forecasts that slide from text to history as a product's own values come in.

    Args:
        engine: The backbone.
        tensors: The model; its launch part, if it has one, makes the forecast as if there were no history.
        windows: The panel's windows.
        origin: First step to forecast.
        horizon: H.
        rows: S series.
        stated: [S] levels that go before those of the products alike; 0 for none.
    """
    parts, siblings = Parts.of(tensors), Siblings(windows)
    own = engine.forecast(tensors, windows, origin, horizon, rows=rows)
    known = np.isfinite(windows.history(min(origin, windows.n_steps)))[rows].sum(1)
    weight = np.where(known >= _SLIDES_UNTIL, 1.0, known / (known + HALF_WAY))
    if (weight == 1).all():
        return own
    told = np.zeros(len(rows), dtype=np.float32) if stated is None else stated
    hints = np.array([siblings.hint(int(row), origin) for row in rows], dtype=np.float32) * (told == 0)
    made = []
    for member in parts.members if parts.launch is None else (parts.launch,):
        engine.use(member)

        def window(step: int, size: int) -> Any:
            batch = windows.batch(
                rows,
                np.full(len(rows), step),
                size,
                level_hint=hints,
                seen_from=np.full(len(rows), origin),
                stated=told,
            )
            return batch.to(engine.device)

        with torch.inference_mode():
            quantiles, mean = forecast_steps(engine.backbone, window, origin, horizon)
        made.append(Forecast.repaired(own.ids, own.ds, quantiles.cpu().numpy(), mean.cpu().numpy(), levels=LEVELS))
    new = average(made)
    return replace(
        own,
        quantiles=weight[:, None, None] * own.quantiles + (1 - weight)[:, None, None] * new.quantiles,
        mean=weight[:, None] * own.mean + (1 - weight)[:, None] * new.mean,
    )


def forecast_new(look: Outlook, new: pd.DataFrame, horizon: int) -> NewProducts:
    """Forecast the products of :func:`read_new` from their launch on."""
    panel = with_new(look.panel, new, horizon)
    # Prices of new products are set by a person, even where those of old ones were computed from order lines.
    if new["price"].notna().any():
        panel = replace(panel, columns={k: v for k, v in panel.columns.items() if k not in ("returns", "order")})
    ahead = [int((launch - panel.calendar_end).days) + 1 for launch in new["launch"]]
    windows = PanelWindows(panel, context=look.model.context, country=look.place.country, ahead=max(ahead) + horizon)
    where = {name: row for row, name in enumerate(windows.ids)}
    siblings = Siblings(windows)
    known = np.isfinite(windows.history(windows.n_steps)).sum(1)
    tensors = look.model.adapters[look.method]
    forecasts: dict[str, Forecast] = {}
    why: dict[str, tuple[str, tuple[Like, ...]]] = {}
    for launch, group in new.groupby("launch", sort=True):
        origin = windows.step_of(pd.Timestamp(str(launch)))
        names = list(group["unique_id"])
        rows = np.array([where[name] for name in names], dtype=np.int64)
        stated = np.nan_to_num(group["level"].to_numpy(dtype=np.float32))
        made = slid(look.engine, tensors, windows, origin, horizon, rows, stated)
        for name, row, told in zip(names, rows, stated, strict=True):
            forecasts[name] = made.select([name])
            if told > 0:
                why[name] = ("stated", ())
                continue
            peers = siblings.peers(int(row), origin)
            if peers is None:
                why[name] = ("nothing", ())
                continue
            why[name] = (
                peers.reason,
                tuple(
                    Like(windows.ids[one], str(panel.static["description"].iloc[one]), float(near), float(level))
                    for one, near, level in zip(peers.rows[:10], peers.likeness, peers.levels, strict=False)
                ),
            )
    ids = tuple(new["unique_id"])
    notes = list(look.notes)
    if not look.engine.backbone.capabilities.text:
        notes.append(say("This backbone reads no descriptions; the level comes from products alike."))
    if new["price"].notna().any() and "price" not in look.panel.frame:
        notes.append(say("The sales have no prices, so those of the new products play no part."))
    return NewProducts(
        ids,
        forecasts,
        {name: int(known[where[name]]) for name in ids},
        why,
        panel,
        frozenset(name for name in ids if name not in set(look.panel.static.index)),
        tuple(notes),
    )
