"""Text that a spreadsheet does not take for a formula.

A product called ``=HYPERLINK(...)`` is a name in a sales file and a command in Excel. In files that people open
there, such text gets an apostrophe in front, which the programs show as text (OWASP, "CSV Injection"). Parquet
keeps names as they are.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

__all__ = ["safe_frame", "safe_text"]

_DANGEROUS: Final = ("=", "+", "-", "@", "\t", "\r", "\n")


def safe_text(text: str) -> str:
    """``text`` with an apostrophe in front if a spreadsheet could run it.

    >>> safe_text("=1+1"), safe_text("Brot")
    ("'=1+1", 'Brot')
    """
    start = text.lstrip(" \u00a0\ufeff\u200b")[:1]
    return f"'{text}" if text.startswith(_DANGEROUS) or start in _DANGEROUS else text


def safe_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """A copy of ``frame`` whose text, headers included, no spreadsheet runs; other columns are the same objects."""
    made = frame.copy(deep=False)
    for name in frame.columns:
        if frame[name].dtype == object or isinstance(frame[name].dtype, pd.StringDtype):
            codes, values = pd.factorize(frame[name], use_na_sentinel=True)
            safe = np.empty(len(values) + 1, dtype=object)  # the last one, which code -1 takes, is missing
            safe[:-1] = [safe_text(one) if isinstance(one, str) else one for one in values]
            made[name] = safe[codes]
    return made.rename(columns={name: safe_text(name) for name in frame.columns if isinstance(name, str)})
