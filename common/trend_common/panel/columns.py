"""Which column means what: by the header's words, checked against the cells, or as a person says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import pandas as pd

from trend_common.errors import UsageError
from trend_common.panel.dates import date_like
from trend_common.panel.findings import Report
from trend_common.panel.model import OWN
from trend_common.panel.numeric import mostly_numeric, sampled
from trend_common.panel.vocabulary import MAPPABLE, Match, OwnKind, Role, match, own_kind, plain

__all__ = ["Layout", "recognise"]

NONE: Final = "-"
"""``--columns store=-``: there is no such column, whatever the names say."""

_DATE_PARTS: Final = {
    "year": ("年份", "年", "annee", "ano", "jahr", "year"),
    "month": ("月份", "月", "mois", "mes", "monat", "month"),
    "week": (
        "周",
        "semaine",
        "semana",
        "kalenderwoche",
        "woche",
        "kw",
        "week_no",
        "week_of_year",
        "week_number",
        "week",
    ),
    "day": ("日", "jour", "dia", "tag", "day_of_month", "day"),
}
_NUMERIC: Final = ("units", "revenue", "price", "stock", "returns", "customers")
_SINGLE: Final = (
    "price",
    "promo",
    "category",
    "description",
    "holiday",
    "stock",
    "returns",
    "order",
    "open",
    "closed",
)
_OWN_ORDER: Final[tuple[OwnKind, ...]] = ("flyer", "school_holiday", "event", "weather")


@dataclass
class Layout:
    """The meaning of a table's columns.

    Attributes:
        roles: Role -> column.
        shape: "long" (a row per series and step, or per order line), "wide" (a column per product) or "across" (a
            column per date).
        values: The columns of a wide table's products or of an across table's dates.
        date_parts: Year, month or week, and day columns where no single column is the date.
        counted: Whether each order line counts as one piece, there being no quantities.
        own_ahead: Those of the roles ``own_1`` and ``own_2`` whose column can be known before the day.
    """

    roles: dict[str, str] = field(default_factory=dict)
    shape: str = "long"
    values: list[str] = field(default_factory=list)
    date_parts: dict[str, str] = field(default_factory=dict)
    counted: bool = False
    own_ahead: tuple[str, ...] = ()


def recognise(frame: pd.DataFrame, mapping: Mapping[str, str], report: Report) -> Layout:
    """Give every column a role, or say why not; problems are collected in ``report``.

    Raises:
        UsageError: ``mapping`` names a role that does not exist.
    """
    names = [str(name) for name in frame.columns]
    layout = Layout(roles=_mapped(names, mapping, report))
    _own_mapped(layout, report)
    refused = {role for role, name in mapping.items() if name.strip() == NONE}
    taken = set(layout.roles.values())
    by_role: dict[str, list[tuple[Match, str]]] = {}
    unknown: list[str] = []
    for name in names:
        if name in taken:
            continue
        hit = match(name)
        if hit is not None and hit.role in _NUMERIC and not mostly_numeric(frame[name]):
            hit = None if frame[name].astype(str).str.strip().any() else hit
        if hit is None:
            unknown.append(name)
        else:
            by_role.setdefault(hit.role, []).append((hit, name))
    for candidates in by_role.values():
        candidates.sort(key=lambda pair: pair[0].rank)
    picker = _Picker(frame, layout, by_role, unknown, refused, report)
    picker.date(names)
    picker.keys()
    picker.optional()
    picker.own()
    if layout.shape == "across":
        picker.across()
    else:
        picker.target()
    picker.leftover()
    return layout


def _mapped(names: Sequence[str], mapping: Mapping[str, str], report: Report) -> dict[str, str]:
    roles: dict[str, str] = {}
    by_plain: dict[str, list[str]] = {}
    for name in names:
        by_plain.setdefault(plain(name), []).append(name)
    for role, wanted in mapping.items():
        wanted = wanted.strip()
        if role not in MAPPABLE:
            raise UsageError(
                f"--columns {role}={wanted}: there is no role {role!r}.", f"Roles: {', '.join(MAPPABLE)}."
            )
        if wanted == NONE:
            continue
        alike = [wanted] if wanted in names else by_plain.get(plain(wanted), [])
        if len(alike) == 1:
            roles[role] = alike[0]
        else:
            report.problem(
                f"--columns {role}={wanted}: the file has no column of that name.",
                f"Its columns: {', '.join(names[:30])}.",
            )
    return roles


def _own_mapped(layout: Layout, report: Report) -> None:
    """Own columns that a person named, and whether they are known ahead."""
    roles = layout.roles
    for own, ahead in zip(OWN, ("ahead_1", "ahead_2"), strict=True):
        column = roles.pop(ahead, None)
        if column is not None and own in roles:
            report.problem(
                f"--columns names both {own}={roles[own]} and {ahead}={column}, which are one place.",
                "Leave one of them out, or use the other number.",
            )
        if column is not None:
            if _known_afterwards(column):
                report.problem(
                    f"--columns {ahead}={column}: counts of customers and the weather are not known before the day.",
                    f"Give it as --columns {own}={column}: then its past alone is used.",
                )
            roles[own] = column
            layout.own_ahead += (own,)
        elif own in roles and own_kind(roles[own]) not in (None, "weather"):
            layout.own_ahead += (own,)


def _known_afterwards(column: str) -> bool:
    """Whether a name says that nobody can know the column's values before the day."""
    hit = match(column)
    return own_kind(column) == "weather" or (hit is not None and hit.role == "customers")


@dataclass
class _Picker:
    """Chooses among the candidates of each role."""

    frame: pd.DataFrame
    layout: Layout
    by_role: dict[str, list[tuple[Match, str]]]
    unknown: list[str]
    refused: set[str]
    report: Report

    def date(self, names: Sequence[str]) -> None:
        """The date column; failing that, dates across the header, or year and month in columns of their own."""
        if "date" in self.layout.roles:
            self.by_role.setdefault("calendar", []).extend(self.by_role.pop("date", []))
            return
        readable = [(hit, name) for hit, name in self.by_role.get("date", []) if _dates(self.frame[name]) > 0.5]
        others = [pair for pair in self.by_role.pop("date", []) if pair not in readable]
        self.by_role.setdefault("calendar", []).extend(others)
        if readable:
            best = [pair for pair in readable if pair[0].rank == readable[0][0].rank]
            self._choose("date", best, "dates")
            self.by_role["calendar"].extend(pair for pair in readable if pair[1] != self.layout.roles.get("date"))
            return
        across = [name for name in names if date_like(name)]
        if len(across) >= max(2, 0.4 * len(names)):
            self.layout.shape, self.layout.values = "across", across
            self.unknown = [name for name in self.unknown if name not in across]
            return
        if self._date_parts(others):
            return
        guessed = [name for name in self.unknown if _dates(self.frame[name], strict=True) > 0.9]
        if len(guessed) == 1:
            self.layout.roles["date"] = guessed[0]
            self.unknown.remove(guessed[0])
            self.report.found("guessed_column", 1, f"Column {guessed[0]!r} holds dates and is taken as the date.")
        elif guessed:
            self._ambiguous("date", guessed, "dates")
        elif others:
            name = others[0][1]
            example = next((str(cell) for cell in self.frame[name] if str(cell).strip()), "")
            self.report.problem(
                f"Column {name!r} should hold the dates, but most of its cells are no dates (such as {example!r}).",
                "Write them as YYYY-MM-DD, name their form (--date-format) or another column (--columns date=NAME).",
            )
        else:
            self.report.problem(
                f"There is no date column among: {', '.join(names[:30])}.",
                "Name it: --columns date=NAME. Names such as date, Datum, data or 日期 are recognised.",
            )

    def _date_parts(self, others: list[tuple[Match, str]]) -> bool:
        """Year and month (and day), or year and week, in columns of their own."""
        pool = {plain(name): name for _, name in [*others, *self.by_role.get("calendar", [])]}
        parts = {part: pool[word] for part, words in _DATE_PARTS.items() for word in words if word in pool}
        if "year" not in parts or not {"month", "week"} & set(parts):
            return False
        wanted = ("year", "month", "day") if "month" in parts else ("year", "week")
        self.layout.date_parts = {part: parts[part] for part in wanted if part in parts}
        return True

    def keys(self) -> None:
        """Store and product, with their stand-ins: a single country; a description or a product group."""
        roles = self.layout.roles
        if "unique_id" in [hit.role for pairs in self.by_role.values() for hit, _ in pairs]:
            roles["unique_id"] = self.by_role.pop("unique_id")[0][1]
        stores = self.by_role.pop("store", [])
        places = [pair for pair in stores if pair[0].tier == 2]
        proper = [pair for pair in stores if pair[0].tier < 2]
        if self._open("store"):
            if proper:
                self._choose("store", self._best(proper), "stores")
            elif len(places) == 1 and "unique_id" not in roles:
                roles["store"] = places[0][1]
                self.report.found(
                    "country_as_store", 1, f"There is no store column; {places[0][1]!r} takes its place."
                )
        self.unknown += [name for _, name in stores if name not in roles.values()]
        products = self.by_role.pop("product", [])
        if self._open("product"):
            if products:
                self._choose("product", self._best(products), "products")
            elif "unique_id" not in roles:
                self._stand_in()
        spare = [name for _, name in products if name not in roles.values()]
        if spare and not self.by_role.get("description") and "product" in roles:
            self.by_role["description"] = [(Match("description", 1, True), spare.pop(0))]
        self.unknown += spare

    def _stand_in(self) -> None:
        described = self.by_role.get("description", [])
        grouped = [pair for pair in self.by_role.get("category", []) if plain(pair[1]) != "store_type"]
        if described:
            self._choose("product", self._best(described), "products")
            name = self.layout.roles.get("product", "")
            self.report.found(
                "guessed_column", 1, f"There is no column of product codes; {name!r} names the products."
            )
        elif grouped:
            lesser = [pair for pair in grouped if pair[0].tier > 0] or grouped
            self._choose("product", self._best(lesser), "products")
            chosen = self.layout.roles.get("product")
            self.by_role["category"] = [pair for pair in grouped if pair[1] != chosen]

    def optional(self) -> None:
        """Roles a file may lack; of several equal candidates the first is taken, and said."""
        for role in _SINGLE:
            candidates = [pair for pair in self.by_role.pop(role, []) if pair[1] not in self.layout.roles.values()]
            spare = [name for _, name in candidates]
            if candidates and self._open(role):
                best = self._best(candidates)
                self.layout.roles[role] = best[0][1]
                spare.remove(best[0][1])
                if len(best) > 1:
                    others = ", ".join(repr(name) for _, name in best[1:])
                    self.report.found(
                        "guessed_column",
                        len(best) - 1,
                        f"{best[0][1]!r} is taken as the {role}; {others} could be, too.",
                    )
            self.unknown += spare

    def own(self) -> None:
        """The two columns of a retailer's own; the weather takes the first place, which a model knows as a curve."""
        spare = [name for name in self.unknown if own_kind(name) is not None]
        named = [*(name for _, name in self.by_role.pop("own", [])), *spare]
        usable = [
            name for name in dict.fromkeys(named) if own_kind(name) != "weather" or mostly_numeric(self.frame[name])
        ]
        ranked = sorted(usable, key=lambda name: _OWN_ORDER.index(own_kind(name) or "weather"))
        free = [role for role in OWN if self._open(role)] if self.layout.shape != "across" else []
        taken = ranked[: len(free)]
        for name in sorted(taken, key=lambda name: own_kind(name) != "weather"):
            role = free.pop(0)
            self.layout.roles[role] = name
            if own_kind(name) != "weather":
                self.layout.own_ahead += (role,)
        # What finds no place is neither units nor a product of a wide table.
        self.unknown = [name for name in self.unknown if name not in named]
        self.by_role.setdefault("other", []).extend((Match("other", 0, True), n) for n in named if n not in taken)
        said = [
            f"{self.layout.roles[role]!r} ({'known ahead' if role in self.layout.own_ahead else 'its past alone'})"
            for role in OWN
            if role in self.layout.roles
        ]
        self.report.found("own_columns", len(said), f"Columns of your own: {', '.join(said)}.")

    def across(self) -> None:
        """A row per product, a column per date: without a known name the first column of text is the product."""
        roles, dates = self.layout.roles, self.layout.values
        self.report.found("dates_across", len(dates), f"{len(dates)} columns are dates, {dates[0]} to {dates[-1]}.")
        totals = [name for _, name in self.by_role.pop("total", [])]
        self.report.found("total_columns", len(totals), f"Total column(s): {', '.join(map(repr, totals))}.")
        if "product" not in roles and self._open("product") and self.unknown:
            texts = [name for name in self.unknown if not mostly_numeric(self.frame[name])] or self.unknown
            roles["product"] = texts[0]
            self.unknown.remove(texts[0])
            self.report.found("guessed_column", 1, f"Column {texts[0]!r} is taken as the products' names.")

    def target(self) -> None:
        """The column to forecast: units before revenue; else a wide table's columns; else the only number left."""
        roles, report = self.layout.roles, self.report
        units, revenue = self.by_role.pop("units", []), self.by_role.pop("revenue", [])
        if "units" in roles:
            self.unknown += [name for _, name in [*units, *revenue]]
            return
        if units:
            self._choose("units", self._best(units), "units sold")
            names = ", ".join(repr(name) for _, name in revenue)
            report.found("units_over_revenue", len(revenue), f"The file has units and revenue ({names}).")
            self.unknown += [name for _, name in units if name != roles.get("units")]
            return
        if revenue:
            self._choose("units", self._best(revenue), "revenue")
            report.found("revenue_target", 1, f"There are no units; the revenue in {revenue[0][1]!r} is the target.")
            self.unknown += [name for _, name in revenue if name != roles.get("units")]
            return
        totals = [name for _, name in self.by_role.get("total", [])]
        numeric = [name for name in self.unknown if mostly_numeric(self.frame[name])]
        if "order" in roles:
            self.layout.counted = True
            report.found("counted_lines", len(self.frame), "There are order numbers but no quantities.")
        elif len(numeric) == 1 or (not numeric and len(totals) == 1):
            chosen = (numeric or totals)[0]
            roles["units"] = chosen
            self.unknown = [name for name in self.unknown if name != chosen]
            report.found(
                "guessed_column", 1, f"Column {chosen!r} is the only number without a meaning; taken as the units."
            )
        elif numeric and "product" not in roles and "unique_id" not in roles and self._one_row_per_date():
            self.layout.shape, self.layout.values = "wide", numeric
            report.found(
                "wide_table", len(numeric), f"{len(numeric)} columns hold one product each, {numeric[0]!r} first."
            )
            report.found("total_columns", len(totals), f"Total column(s): {', '.join(map(repr, totals))}.")
            texts = [name for name in self.unknown if name not in numeric]
            report.found(
                "text_columns", len(texts), f"Column(s) without numbers: {', '.join(map(repr, texts[:20]))}."
            )
            self.unknown = []
        elif numeric:
            self._ambiguous("units", numeric, "units sold")
        else:
            self.report.problem(
                "There is no column of numbers that could be the units sold.",
                "Name it: --columns units=NAME. Names such as units, quantity, Menge, Absatz, vendas or 销量 are "
                "recognised.",
            )

    def leftover(self) -> None:
        """Say which columns are not used, and why."""
        said = {
            "calendar": ("helper_columns", "Parts of the calendar: {}."),
            "row_id": ("helper_columns", "Numbers of lines: {}."),
            "customers": ("customers_column", "Counts of customers, visits or receipts: {}."),
            "personal": ("personal_columns", "Customers' own data: {}."),
            "other": ("unused_columns", "Costs, weights, further columns of your own and the like: {}."),
        }
        used = {*self.layout.roles.values(), *self.layout.date_parts.values()}
        for role, (code, message) in said.items():
            names = [name for _, name in self.by_role.get(role, []) if name not in used]
            self.report.found(code, len(names), message.format(", ".join(map(repr, names))))
        rest = [name for name in dict.fromkeys(self.unknown) if name not in used]
        self.report.found("unused_columns", len(rest), f"Without a meaning here: {', '.join(map(repr, rest[:20]))}.")

    def _open(self, role: Role | str) -> bool:
        return role not in self.layout.roles and role not in self.refused

    def _best(self, candidates: list[tuple[Match, str]]) -> list[tuple[Match, str]]:
        ranked = sorted(candidates, key=lambda pair: pair[0].rank)
        return [pair for pair in ranked if pair[0].rank == ranked[0][0].rank]

    def _choose(self, role: str, best: list[tuple[Match, str]], what: str) -> None:
        """The single best candidate, or the first of several that say the same; otherwise a problem."""
        first = best[0][1]
        rivals = [
            name
            for _, name in best[1:]
            if not _equivalent(self.frame, first, name, keys=role in ("store", "product"))
        ]
        if rivals:
            self._ambiguous(role, [first, *rivals], what)
        self.layout.roles[role] = first

    def _ambiguous(self, role: str, names: Sequence[str], what: str) -> None:
        listed = ", ".join(repr(name) for name in names[:12])
        flags = " or ".join(f'--columns "{role}={name}"' for name in names[:3])
        self.report.problem(f"Several columns could hold the {what}: {listed}.", f"Say which: {flags}.")

    def _one_row_per_date(self) -> bool:
        roles = self.layout.roles
        keys = [roles[role] for role in ("date", "store") if role in roles] + list(self.layout.date_parts.values())
        return bool(keys) and self.frame.duplicated(keys).mean() < 0.02


def _dates(cells: pd.Series, *, strict: bool = False) -> float:
    """The share of a sample of non-empty cells that are dates."""
    if pd.api.types.is_datetime64_any_dtype(cells):
        return 1.0
    if strict and pd.api.types.is_numeric_dtype(cells):
        return 0.0
    sample = sampled(cells, 100)
    return sum(date_like(cell, bare=not strict) for cell in sample) / max(1, len(sample))


def _equivalent(frame: pd.DataFrame, first: str, second: str, *, keys: bool) -> bool:
    """Whether two columns say the same: equal cells or, for keys, a one-to-one naming."""
    if keys:
        pairs = frame[[first, second]].drop_duplicates()
        return len(pairs) == pairs[first].nunique() == pairs[second].nunique()
    return bool((frame[first] == frame[second]).all())
