"""Order lines: what is a sale, what undoes one, and what is no product at all.

Every rule looks at one line, or at the lines of one series and day.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_common.panel.findings import Report

__all__ = ["are_order_lines", "clean_lines"]

_CODES: Final = (
    r"POST|POSTAGE|DOT|BANK ?CHARGES|AMAZON ?FEE|CRUK|ADJUST\d*|SHIPPING|DELIVERY|VERSAND|PORTO|FRETE"
    r"|GIFT[_ ].*|TEST\d+"
)
_SERVICES: Final = (
    r"(?:dotcom |next day |express |express-)?(?:postage|carriage|shipping|delivery)"
    r"(?: (?:fee|cost|costs|charge|charges))?|versand(?:kosten)?|porto|frete|taxa de entrega|运费|邮费"
    r"|discount|rabatt|desconto|折扣|manual|samples?|bank charges?|amazon fee|cruk commission"
    r"|adjust(?:ment)?(?: .*)?|gift (?:voucher|card)(?: .*)?|.* gift voucher(?: .*)?|gutschein(?: .*)?"
    r"|vale[- ]presente|礼品卡|pfand|processing fee|service fee|bearbeitungsgebühr|servicegebühr"
)
_REMARKS: Final = (
    r".*\b(?:damage[sd]?|damges?|broken|faulty|lost|missing|found|check(?:ed)?|adjust(?:ment)?|thrown? away|rusty|"
    r"wet|mould?y|crushed|mixed up|wrong(?:ly)?|stock ?take|write.?off|sold as|amazon|dotcom|ebay|mailout|test|"
    r"beschädigt|defekt|bruch|"
    r"schwund|inventur|korrektur|quebrad[oa]|danificad[oa]|ajuste|perdid[oa])\b.*|\?+|.*(?:盘亏|盘盈|报损|损坏).*"
)
_MOST_DOUBLED: Final = 0.2


def are_order_lines(rows: pd.DataFrame, minutes: tuple[int, ...], identical: NDArray[np.bool_]) -> bool:
    """Whether rows are sales as they happened: order ids, times of day, or many unequal rows per series and day.

    Args:
        rows: Parsed rows.
        minutes: Distinct minutes past the hour that occur; hourly totals have one, receipts many.
        identical: [rows] whether an equal line stands before.
    """
    if "product" not in rows:
        return False
    if "order" in rows or len(minutes) > 4:
        return True
    keys = [key for key in ("unique_id", "store", "product", "ds") if key in rows]
    if minutes or not rows.duplicated(keys).any():
        return False
    if rows[~identical].duplicated(keys, keep=False).mean() > _MOST_DOUBLED:
        return True
    # A file that was appended to itself has every row twice; a list of single sales has any number of equal rows.
    return bool(identical.mean() > _MOST_DOUBLED and rows.groupby(keys, sort=False).size().max() > 3)


def clean_lines(rows: pd.DataFrame, report: Report) -> pd.DataFrame:
    """Sales and returns by line: ``y`` >= 0 is sold, ``returns`` >= 0 came back; lines that are neither are gone."""
    upper = rows["product"].str.upper()
    report.found("code_case", int((upper != rows["product"]).sum()), "Some product codes are in lower case.")
    rows = rows.assign(product=upper)
    rows = rows[~_report_services(rows, report)]
    rows = rows[~_report_corrections(rows, report)].reset_index(drop=True)
    quantity = rows["y"].to_numpy()
    cancelled = (quantity < 0) | _cancelled_ids(rows)
    back = np.where(cancelled, np.abs(quantity), 0.0)
    undone = _undone(rows, cancelled)
    report.found(
        "cancellations",
        int(cancelled.sum()),
        f"{int(cancelled.sum())} line(s) cancel a sale; {int((undone & cancelled).sum())} of them undo a line of the "
        "same day.",
    )
    given = np.nan_to_num(rows["returns"].to_numpy()) if "returns" in rows else 0.0
    rows = rows.assign(y=np.where(cancelled, 0.0, quantity), returns=np.nan_to_num(back) + given)
    return rows[~undone].reset_index(drop=True)


def _report_services(rows: pd.DataFrame, report: Report) -> NDArray[np.bool_]:
    service = rows["product"].str.fullmatch(_CODES).to_numpy(dtype=bool)
    service |= _describes(rows, _SERVICES)
    names = rows.loc[service, "description" if "description" in rows else "product"].str.lower().value_counts()
    shown = ", ".join(f"{name!r}" for name in names.index[:8])
    report.found("non_product_lines", int(service.sum()), f"{int(service.sum())} line(s) are no products: {shown}.")
    return service


def _report_corrections(rows: pd.DataFrame, report: Report) -> NDArray[np.bool_]:
    """Corrections of the stock: no order's price, and either a quantity below zero or a remark for a description."""
    negative = (rows["y"] < 0).to_numpy() & ~_cancelled_ids(rows)
    remark = _describes(rows, _REMARKS)
    if "price" in rows:
        free = ~(rows["price"] > 0).to_numpy()
        nameless = (
            (rows["description"] == "").to_numpy() if "description" in rows else np.zeros(len(rows), dtype=bool)
        )
        correction = free & (negative | remark | nameless)
    else:
        correction = negative & remark
    report.found(
        "stock_corrections",
        int(correction.sum()),
        f"{int(correction.sum())} line(s) correct the stock (damaged, lost, found).",
    )
    return correction


def _describes(rows: pd.DataFrame, pattern: str) -> NDArray[np.bool_]:
    if "description" not in rows:
        return np.zeros(len(rows), dtype=bool)
    codes, distinct = pd.factorize(rows["description"])
    hit = pd.Series(distinct, dtype=object).str.casefold().str.fullmatch(pattern).to_numpy(dtype=bool)
    return hit[codes]


def _cancelled_ids(rows: pd.DataFrame) -> NDArray[np.bool_]:
    if "order" not in rows:
        return np.zeros(len(rows), dtype=bool)
    return rows["order"].str.fullmatch(r"[Cc]\d+").to_numpy(dtype=bool)


def _undone(rows: pd.DataFrame, cancelled: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pairs of a sale and a cancellation of the same series, day and quantity: both are as if they never were."""
    undone = np.zeros(len(rows), dtype=bool)
    if not cancelled.any():
        return undone
    key, _ = pd.factorize(pd.MultiIndex.from_arrays([rows["store"], rows["product"], rows["ds"], rows["y"].abs()]))
    at = np.flatnonzero(np.isin(key, key[cancelled]) & (rows["y"] != 0).to_numpy())
    table = pd.DataFrame({"key": key[at], "back": cancelled[at]})
    table["place"] = table.groupby(["key", "back"]).cumcount()
    undone[at] = (table.groupby(["key", "place"])["back"].transform("nunique") == 2).to_numpy()
    return undone
