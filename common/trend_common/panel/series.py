"""Rows of a file as numbered series: ids, texts, and one row per series and step."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from trend_common.panel.findings import Report
from trend_common.panel.model import OWN, STATIC, series_id

__all__ = ["numbered", "static_texts", "unique_steps"]

_JOINED: Final = {
    "y": "sum",
    "returns": "sum",
    "promo": "max",
    "holiday": "max",
    "open": "max",
    "stock": "last",
    "ahead": "max",
    **dict.fromkeys(OWN, "max"),
}


def numbered(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Give every row the number of its series, in the order of the ids.

    Returns:
        The rows with an int column ``series``; and a table of the series (index ``unique_id``, sorted; columns store
        and product).
    """
    if "unique_id" in rows:
        codes, distinct = pd.factorize(rows["unique_id"].to_numpy(dtype=object), sort=True)
        ids = [str(uid) for uid in distinct]
        table = pd.DataFrame({"unique_id": ids}, dtype=object)
        first = np.full(len(ids), len(rows))
        np.minimum.at(first, codes, np.arange(len(rows)))
        parts = [_parts(uid) for uid in ids]
        for position, key in enumerate(("store", "product")):
            table[key] = rows[key].to_numpy()[first] if key in rows else [part[position] for part in parts]
        return rows.assign(series=codes), table.set_index("unique_id")
    store_codes, stores = pd.factorize(rows["store"])
    product_codes, products = pd.factorize(rows["product"])
    pair = store_codes.astype(np.int64) * max(1, len(products)) + product_codes
    pair_codes, pairs = pd.factorize(pair)
    of_store, of_product = stores[pairs // max(1, len(products))], products[pairs % max(1, len(products))]
    joined = np.array([series_id(str(s), str(p)) for s, p in zip(of_store, of_product, strict=True)], dtype=object)
    order = np.argsort(joined, kind="stable")
    rank = np.empty(len(joined), dtype=np.int64)
    rank[order] = np.arange(len(joined))
    table = pd.DataFrame({"unique_id": joined, "store": of_store, "product": of_product}).iloc[order]
    return rows.assign(series=rank[pair_codes]), table.set_index("unique_id")


def _parts(unique_id: str) -> tuple[str, str]:
    store, slash, product = unique_id.partition("/")
    if not slash:
        return "", unique_id
    return tuple(part.replace("%2F", "/").replace("%25", "%") for part in (store, product))  # type: ignore[return-value]


def static_texts(rows: pd.DataFrame, table: pd.DataFrame, report: Report) -> pd.DataFrame:
    """Store, product, and the most frequent category and description of each series' own rows ("" = unknown)."""
    static = table[["store", "product"]].astype(str)
    for role in ("category", "description"):
        static[role] = ""
        if role not in rows:
            continue
        filled = rows[rows[role] != ""]
        counts = filled.groupby(["series", role], sort=True).size().rename("n").reset_index()
        best = counts.sort_values(["series", "n", role], ascending=[True, False, True]).drop_duplicates("series")
        texts = np.full(len(static), "", dtype=object)
        texts[best["series"].to_numpy()] = best[role].to_numpy()
        static[role] = texts
        if role == "description":
            several = int((counts.groupby("series").size() > 1).sum())
            report.found("several_descriptions", several, f"{several} series have more than one description.")
    return static[list(STATIC)]


def unique_steps(rows: pd.DataFrame, key: str, report: Report | None) -> pd.DataFrame:
    """One row per series and ``key`` (a day or a step), sorted: amounts summed, prices weighted by quantity.

    Args:
        rows: With ``series`` and ``key``.
        key: The column that names the time.
        report: Told how many rows were joined; None where joining is the rule (order lines).
    """
    rows = rows.sort_values(["series", key, "line"], kind="stable")
    double = rows.duplicated(["series", key], keep=False).to_numpy()
    if not double.any():
        return rows.reset_index(drop=True)
    if report is not None:
        groups = int(double.sum() - rows.duplicated(["series", key]).sum())
        report.found(
            "duplicate_keys",
            int(double.sum()),
            f"{int(double.sum())} different rows share {groups} series and steps.",
        )
    several = rows[double]
    grouped = several.groupby(["series", key], sort=True)
    rules = {column: rule for column, rule in _JOINED.items() if column in rows and column not in ("y", "returns")}
    joined = grouped.agg({**rules, "line": "first", **{c: "first" for c in ("ds", "step") if c in rows and c != key}})
    for amount in ("y", "returns"):
        if amount in rows:
            joined[amount] = grouped[amount].sum(min_count=1)
    if "price" in rows:
        priced = several["price"].where(several["price"] > 0)
        weight = several["y"].where(several["y"] > 0, 0.0).fillna(0.0).where(priced.notna(), 0.0)
        sums = pd.DataFrame(
            {"series": several["series"], key: several[key], "v": priced * weight, "w": weight, "p": priced}
        )
        total = sums.groupby(["series", key], sort=True).agg({"v": "sum", "w": "sum", "p": "mean"})
        joined["price"] = (total["v"] / total["w"]).where(total["w"] > 0, total["p"])
    columns = [column for column in rows.columns if column in joined.columns or column in ("series", key)]
    merged = pd.concat([rows.loc[~double, columns], joined.reset_index()[columns]])
    return merged.sort_values(["series", key], kind="stable").reset_index(drop=True)
