"""Every finding the panel can report: its code, how grave it is, and what is done about it.

``docs/data.md`` lists the same codes; a test holds the two together.
"""

from __future__ import annotations

from typing import Final

from trend_common.errors import DataError
from trend_common.panel.model import Finding, Severity

__all__ = ["CATALOGUE", "Report"]

CATALOGUE: Final[dict[str, tuple[Severity, str]]] = {
    # The file's format
    "encoding": ("info", "decoded with this encoding"),
    "broken_characters": ("warning", "each damaged character became a question mark"),
    "double_encoded": ("warning", "kept as they are; export again as UTF-8 to mend the names"),
    "control_characters": ("info", "characters that no name has removed"),
    "sheets": ("warning", "one sheet is read; --sheet NAME takes another, --sheet '*' all with the same columns"),
    "formulas": ("info", "the values that the formulas had when the file was saved are used"),
    "merged_cells": ("info", "each cell of a merged block has the block's value"),
    "decimal_comma": ("info", "read with a decimal comma"),
    "ambiguous_thousands": ("warning", "read as stated; --decimal says otherwise"),
    "title_lines": ("info", "lines above the header skipped"),
    "blank_lines": ("info", "skipped"),
    "ragged_lines": ("warning", "lines with more cells than the header dropped"),
    "trailing_separators": ("info", "empty columns at the end dropped"),
    "duplicate_header": ("info", "the second of two equal columns is named after its place"),
    "total_lines": ("info", "lines of totals dropped"),
    # Columns
    "revenue_target": ("info", "the forecast is of revenue, not of pieces"),
    "units_over_revenue": ("info", "units are the target; the revenue column is not used"),
    "country_as_store": ("info", "each value is treated as one store"),
    "guessed_column": ("warning", "used in this role; --columns says otherwise"),
    "no_store": ("info", "all rows belong to one store, 'all'"),
    "no_product": ("info", "all rows belong to one product, 'all'"),
    "helper_columns": ("info", "not used: the calendar is computed from the date"),
    "customers_column": ("warning", "never used: it is not known ahead of the day"),
    "personal_columns": ("info", "never read further: they identify people"),
    "own_columns": ("info", "used beside the sales; --columns own_1=NAME (own_2, ahead_1, ahead_2) names others"),
    "unused_columns": ("info", "not used"),
    "total_columns": ("info", "columns of totals dropped"),
    "text_columns": ("info", "columns without numbers are not products; not used"),
    # Shape
    "wide_table": ("info", "each column became one product"),
    "dates_across": ("info", "each row became one series, each dated column one step"),
    "order_lines": ("info", "summed to days; days without a line are true zeros"),
    "counted_lines": ("warning", "each line counts as one piece; --columns units=NAME says otherwise"),
    "sub_daily": ("info", "summed to days"),
    # Order lines
    "cancellations": ("info", "their quantities are counted as returns of that day, not as negative sales"),
    "non_product_lines": ("info", "lines of postage, fees, adjustments and the like dropped"),
    "stock_corrections": ("info", "lines without an order's price that correct the stock dropped"),
    "several_descriptions": ("info", "the most frequent description is kept"),
    "code_case": ("info", "product codes written in upper case"),
    # Cells
    "date_order": ("warning", "read day first; --date-format says otherwise"),
    "excel_dates": ("info", "numbers read as Excel's day count"),
    "bad_dates": ("warning", "rows dropped"),
    "bad_numbers": ("warning", "treated as unknown"),
    "padded_text": ("info", "spaces around store and product names removed"),
    "formula_names": (
        "warning",
        "kept; files written here put an apostrophe before them, so that no sheet runs them",
    ),
    "future_dates": ("warning", "kept; check for a mistyped year"),
    "blank_keys": ("warning", "rows without a store or product dropped"),
    "outside_period": ("info", "rows outside the given period dropped"),
    "declared_end": ("info", "the calendar goes on to the declared last day"),
    "far_dates": ("warning", "kept; check for a mistyped year"),
    # Rows
    "duplicate_rows": ("warning", "identical rows: the first is kept"),
    "duplicate_keys": ("warning", "different rows of one series and step are summed"),
    "negative_units": ("warning", "set to 0; added to the returns where the file has that column"),
    "off_grid_dates": ("warning", "moved to the nearest week or to the month they fall in"),
    "resampled": ("info", "summed to the wanted frequency; incomplete steps at either end dropped"),
    # The calendar
    "closed_flag": ("info", "marked closed, demand 0"),
    "closed_weekdays": ("info", "a weekday on which the series never trades: closed, demand 0"),
    "closed_holidays": ("info", "a date on which the series never trades in any year: closed, demand 0"),
    "zero_filled": ("info", "days without a row are true zeros"),
    "missing_steps": ("info", "left unknown, never counted as zero"),
    "unknown_units": ("info", "empty cells left unknown"),
    "stock_outs": ("info", "demand unknown: nothing was there to sell"),
    "inferred_stock_outs": ("warning", "demand unknown, not zero: the shelf was empty, or the store closed"),
    "zero_prices": ("info", "treated as unknown"),
    "carried_prices": ("info", "the series' last known price is carried forward"),
    "future_rows": ("info", "kept as known-ahead values"),
    "trailing_rows": ("info", "rows after the last known sale without any known-ahead value dropped"),
    # Series
    "no_history": ("warning", "series without any known sale dropped"),
    "all_zero_series": ("info", "kept"),
    "short_series": ("info", "kept; forecasts lean on description, price and calendar"),
}
"""Code -> (severity, what is done about it)."""


class Report:
    """Collects findings and blocking problems, so that a person sees all of them at once."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self._problems: list[tuple[str, str]] = []

    def found(self, code: str, count: int, message: str) -> None:
        """Note a finding; one with a count of zero is no finding."""
        if count:
            severity, action = CATALOGUE[code]
            self.findings.append(Finding(code, severity, int(count), message, action))

    def problem(self, message: str, hint: str) -> None:
        """Note something that makes the file unusable."""
        if (message, hint) not in self._problems:
            self._problems.append((message, hint))

    @property
    def blocked(self) -> bool:
        """Whether any problem was noted."""
        return bool(self._problems)

    def stop_if_blocked(self) -> None:
        """Raise one :class:`DataError` with every problem noted so far, or do nothing."""
        if not self._problems:
            return
        if len(self._problems) == 1:
            raise DataError(*self._problems[0])
        lines = [f"{number}. {message}" for number, (message, _) in enumerate(self._problems, 1)]
        hints = [f"{number}. {hint}" for number, (_, hint) in enumerate(self._problems, 1)]
        raise DataError(
            f"The file cannot be used as it is; {len(lines)} things stand in the way:\n" + "\n".join(lines),
            "What to do:\n" + "\n".join(hints),
        )

    def fail(self, message: str, hint: str) -> DataError:
        """The error to raise at once for a problem that hides all further ones; earlier ones are listed with it."""
        self.problem(message, hint)
        try:
            self.stop_if_blocked()
        except DataError as error:
            return error
        raise AssertionError("unreachable: a problem was just noted")
