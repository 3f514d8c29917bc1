"""How many privacy units a larger secret owns: what a whole product or a whole store is under a series promise.

Depends on the sales, so it is noted in the client's home for its own screen and never sent, and no answer to a server
depends on it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_common.panel import SalesPanel
from trend_common.privacy.budget import Share

__all__ = ["largest", "shares_of"]

_KINDS: Final = ("series", "product", "store")


def shares_of(panel: SalesPanel, unit: str) -> dict[str, Share]:
    """For each kind of secret the share of the largest one: units that it owns entirely, and units it has a part in.

    Taking a secret out removes the former and changes the latter. "Largest" is by how far it can move a clipped sum,
    whole + 2·changed (:func:`trend_common.privacy.accounting.group_run`).

    Args:
        panel: The sales; all its series count, also those too short to train on, so the figures are upper bounds.
        unit: What one unit of the federation is.

    Returns:
        "series", "product" and "store" → (whole, changed); the unit's own kind is (1, 0).
    """
    labels: dict[str, NDArray[np.str_]] = {
        "series": np.asarray(panel.ids, dtype=np.str_),
        "product": panel.static["product"].to_numpy(dtype=np.str_),
        "store": panel.static["store"].to_numpy(dtype=np.str_),
    }
    codes = {kind: pd.factorize(values)[0] for kind, values in labels.items()}
    sizes = np.bincount(codes[unit])
    found: dict[str, Share] = {}
    for secret in _KINDS:
        if secret == unit:
            found[secret] = (1, 0)
            continue
        # One row for each pair of a secret and a unit that it has series in, with how many.
        pairs, counts = np.unique(np.stack([codes[secret], codes[unit]]), axis=1, return_counts=True)
        whole = counts == sizes[pairs[1]]
        number = int(codes[secret].max()) + 1
        owned = np.bincount(pairs[0], weights=whole, minlength=number).astype(int)
        shared = np.bincount(pairs[0], weights=~whole, minlength=number).astype(int)
        found[secret] = max(zip(owned.tolist(), shared.tolist(), strict=True), key=lambda s: (s[0] + 2 * s[1], s[1]))
    return found


def largest(one: dict[str, Share], other: dict[str, Share]) -> dict[str, Share]:
    """The larger share of each kind: a file may hold more products tomorrow than in the rounds before."""
    return {kind: max(one[kind], other[kind], key=lambda s: (s[0] + 2 * s[1], s[1])) for kind in one}
