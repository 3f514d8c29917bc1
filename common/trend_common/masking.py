"""Names that say nothing, for files that are shared: keyed pseudonyms of products and stores.

A name becomes the first 50 bits of HMAC-SHA256 (RFC 2104) of its kind and itself under a key that stays at home, so
the same product has the same mask in every file, and nobody without the key can try names out. The masks that were
given are listed beside the key, since a hash cannot be turned back. What is left to guess from is the figures.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import html
import json
import re
import secrets
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

import pandas as pd

from trend_common.errors import UsageError
from trend_common.files import write_bytes, write_json
from trend_common.panel.model import SalesPanel, series_id

__all__ = ["Mask"]

_KEY: Final = "mask-key"
_NAMES: Final = "mask-names.json"
_KINDS: Final = {"store": "S", "product": "P", "category": "C", "unique_id": "I"}
_LETTERS: Final = 10
_TOKEN: Final = re.compile(r"(?<![A-Z0-9])[SPCI]-[A-Z2-7]{10,20}(?![A-Z2-7])")
_KEPT: Final = ("", "all")
"""Nothing, and the name of the one store or product of a file without names."""


class Mask:
    """The key of a home and the masks it has given.

    Args:
        folder: The home; ``mask-key`` (32 random bytes) and ``mask-names.json``, both readable by their owner alone,
            are made there at the first use and never leave.
    """

    def __init__(self, folder: Path) -> None:
        self._key_path, self._names_path = folder / _KEY, folder / _NAMES
        self._names: dict[str, str] = {}
        if self._names_path.is_file():
            try:
                self._names = {str(k): str(v) for k, v in json.loads(self._names_path.read_text("utf-8")).items()}
            except (ValueError, AttributeError) as error:
                raise UsageError(
                    f"{self._names_path} is damaged.", "Restore it from a backup, or delete it and mask again."
                ) from error

    @property
    def key(self) -> bytes:
        """The key; made at the first use."""
        if not self._key_path.is_file():
            write_bytes(self._key_path, secrets.token_bytes(32), private=True)
        key = self._key_path.read_bytes()
        if len(key) != 32:
            raise UsageError(f"{self._key_path} is damaged.", "Restore it from a backup, or delete it: masks change.")
        return key

    def names(self, kind: str, given: Iterable[str]) -> dict[str, str]:
        """Name -> mask of each distinct name: ``P-ABCDE23456`` for a product.

        Args:
            kind: "store", "product", "category" or "unique_id".
            given: The names; "" and "all" stay.
        """
        key, letter = self.key, _KINDS[kind]
        masks: dict[str, str] = {}
        for name in dict.fromkeys(given):
            if name in _KEPT:
                masks[name] = name
                continue
            digest = hmac.new(key, f"{kind}\0{name}".encode("utf-8", "surrogatepass"), hashlib.sha256).digest()
            text = base64.b32encode(digest).decode()
            length = _LETTERS
            while self._names.get(mask := f"{letter}-{text[:length]}", name) != name:
                length += 1  # two names of one mask: the later one gets a longer one
            masks[name] = self._names.setdefault(mask, name) and mask
        return masks

    def keep(self) -> None:
        """Write the list of masks to the home."""
        write_json(self._names_path, self._names, private=True)

    def panel(self, panel: SalesPanel) -> SalesPanel:
        """The panel under masked names, in the order of these; descriptions are gone, findings are bare counts.

        Everything that is made of the result is masked, because it never knew a name.
        """
        static = panel.static.copy()
        ids = panel.static.index.astype(str)
        plain = [series_id(s, p) for s, p in zip(static["store"], static["product"], strict=True)]
        for kind in ("store", "product", "category"):
            static[kind] = static[kind].map(self.names(kind, static[kind]))
        static["description"] = ""
        whole = self.names("unique_id", (one for one, usual in zip(ids, plain, strict=True) if one != usual))
        masked = {
            one: whole[one] if one in whole else series_id(store, product)
            for one, store, product in zip(ids, static["store"], static["product"], strict=True)
        }
        self.keep()
        static.index = pd.Index([masked[one] for one in ids], name=panel.static.index.name)

        def renamed(table: pd.DataFrame) -> pd.DataFrame:
            if "unique_id" not in table:
                return table
            return table.assign(unique_id=table["unique_id"].map(masked)).sort_values(
                "unique_id", kind="stable", ignore_index=True
            )

        findings = tuple(replace(one, message=f"{one.count} of these.", action=one.action) for one in panel.findings)
        return replace(
            panel,
            name="masked",
            frame=renamed(panel.frame),
            future=renamed(panel.future),
            static=static.sort_index(),
            outages=renamed(panel.outages),
            findings=findings,
        )

    def frame(self, table: pd.DataFrame) -> pd.DataFrame:
        """A table of ours under masked names: ``store``, ``product``, ``category`` and ``unique_id``.

        ``description`` is emptied; other columns stay, whatever they hold.
        """
        masked = table.copy()
        for kind in ("store", "product", "category"):
            if kind in masked:
                text = masked[kind].fillna("").astype(str)
                masked[kind] = text.map(self.names(kind, text))
        if "description" in masked:
            masked["description"] = ""
        if "unique_id" in masked:
            ids = masked["unique_id"].astype(str)
            if {"store", "product"} <= set(masked.columns):
                rows = zip(ids, table["store"].fillna(""), table["product"].fillna(""), strict=True)
                usual = [one == series_id(str(store), str(product)) for one, store, product in rows]
                pairs = [series_id(s, p) for s, p in zip(masked["store"], masked["product"], strict=True)]
                whole = self.names("unique_id", (one for one, same in zip(ids, usual, strict=True) if not same))
                masked["unique_id"] = [
                    pair if same else whole[one] for one, same, pair in zip(ids, usual, pairs, strict=True)
                ]
            else:
                masked["unique_id"] = ids.map(self.names("unique_id", ids))
        self.keep()
        return masked

    def reveal(self, text: str, *, encode: bool = False, markup: bool = False) -> str:
        """``text`` with every mask that this home gave turned back into its name.

        Args:
            text: Any text.
            encode: Whether a slash inside a name is encoded, as in a ``unique_id``.
            markup: Whether the text is HTML.
        """

        def name_of(hit: re.Match[str]) -> str:
            name = self._names.get(hit.group())
            if name is None:
                return hit.group()
            if encode and not hit.group().startswith("I-"):
                name = name.replace("%", "%25").replace("/", "%2F")
            return html.escape(name) if markup else name

        return _TOKEN.sub(name_of, text)

    def reveal_frame(self, table: pd.DataFrame) -> pd.DataFrame:
        """A table with every mask in its text columns turned back."""
        revealed = table.copy()
        for column in revealed.select_dtypes(include=["object", "string"]).columns:
            encode = str(column) == "unique_id"
            revealed[column] = [
                self.reveal(cell, encode=encode) if isinstance(cell, str) else cell for cell in revealed[column]
            ]
        return revealed
