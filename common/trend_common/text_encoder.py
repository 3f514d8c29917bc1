"""Descriptions through a sentence encoder instead of hashed words: "Baumkugel" near "bauble", in any language.

A backbone's text input was pretrained on hashed words and trigrams (:func:`trend_common.windows.text_features`), so
an embedding cannot take their place as it is. It is put through a fixed linear map into that same space: of all maps
the one that takes the embeddings of a public list of words, :func:`anchors`, nearest to the hashed features of those
words (ridge regression, dual form). A description that means about the same as some of these words is then read as
those words are. The map depends on the encoder and the list alone: no sales, no catalogue, and no training.

Any checkpoint of sentence-transformers that is one transformer with mean or CLS pooling can be used. It is read by
transformers, so the package sentence-transformers need not be there. The encoder runs on this machine; a description
is encoded by itself, so a window still depends on no other series.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from trend_common.errors import UsageError
from trend_common.synonyms import GROUPS

__all__ = ["VARIABLE", "TextEncoder", "anchors", "chosen_encoder"]

VARIABLE: Final = "TREND_TEXT_ENCODER"
"""Environment variable that names an encoder for all commands: a folder, or OWNER/MODEL@REVISION on the hub."""

_RIDGE: Final = 0.1
"""Penalty over the mean squared length of an embedding: how much of a word is told by words like it."""

_BATCH: Final = 32
_MOST_TOKENS: Final = 64
_POOLING: Final = ("1_Pooling/config.json", "2_Pooling/config.json")
_POOLED: Final = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}

_SHELF: Final = tuple(
    word
    for line in """
        advent allergy analgesic antihistamine antitussive article asparagus ball bar basic bath battery bauble bbq
        beach belt bikini book boots bouquet bracelet brush budget bulb bundle cabinet cable cap car carnation
        ceramic chair champagne charger chestnut chick chips chocolates classic cold colour cooler cough cream
        croissant daffodil dairy deluxe design diary drops dozen erkaeltung everyday fan filter fireworks flour flu
        fondue furniture game garden gel ghost gingerbread glove grill halloween hay hen home hook hose hot husten
        ice icecream kitchen knife kuerbis lantern lawn lebkuchen lemonade light lolly love lunchbox luxury mirror
        mistletoe mitten mosquito mother mothers mushroom muttertag nappies nativity natural necklace new notebook
        nut original osterhase pack pain panettone parasol pen pencil picnic plant planner planter pocket premium
        product professional puzzle raincoat rack refill reindeer rentree respiratory ribbon ring rolls rug ruler
        sandal santa sauce scarf seed sign silvester single skeleton skin sleigh snowman soup spargel sparkling
        spider sponge spoon spot staple stocking stollen sun sunscreen swim tablet tape thermal throat tinsel tissue
        train tray umbrella value vitamin wallet purse warmer weihnachts witch wrap wreath zombie holder banana
        backpack baby broetchen sample fisch gross sorvete eis orange retro calendar kalender 圣诞 年货 夏 冬 商品
        bags boot of produkt produto pumpkin shampoo xl
    """.splitlines()
    for word in line.split()
)


def anchors() -> tuple[str, ...]:
    """The public words that the map is fitted to, each once."""
    return tuple(dict.fromkeys([*(word for group in GROUPS for word in group), *_SHELF]))


class TextEncoder:
    """Texts → features in the space of hashed words.

    Args:
        name_or_folder: A folder as ``SentenceTransformer.save`` or ``save_pretrained`` writes it, or OWNER/MODEL on
            the hub, with ``@REVISION`` behind it. ``HF_HUB_OFFLINE`` is respected.

    Raises:
        UsageError: The weights cannot be had, or the encoder pools in a way that is not known here.
    """

    def __init__(self, name_or_folder: str) -> None:
        from safetensors import SafetensorError
        from transformers import AutoModel, AutoTokenizer

        from trend_common.backbones.hub import Source

        self.name = name_or_folder
        try:
            source = Source.parse(name_or_folder)
        except UsageError as error:
            raise _unavailable(name_or_folder, error.message) from error
        options = dict(source.options)
        self._pooling = _pooling(source.where, options)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(source.where, **options)
            self._model: Any = AutoModel.from_pretrained(
                source.where, use_safetensors=True, trust_remote_code=False, dtype="float32", **options
            )
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            raise _unavailable(name_or_folder, str(error).strip().split("\n")[0]) from error
        self._model.requires_grad_(False)
        self._model.eval()
        self._maps: dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}

    def embed(self, texts: list[str] | tuple[str, ...]) -> NDArray[np.float64]:
        """[len(texts), D] embeddings of norm 1."""
        found = []
        with torch.inference_mode():
            for start in range(0, len(texts), _BATCH):
                part = list(texts[start : start + _BATCH])
                asked = {"padding": True, "truncation": True, "max_length": _MOST_TOKENS, "return_tensors": "pt"}
                given = self._tokenizer(part, **asked)
                hidden = self._model(**given).last_hidden_state
                if self._pooling == "cls":
                    pooled = hidden[:, 0]
                else:
                    weight = given["attention_mask"][..., None].to(hidden.dtype)
                    pooled = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
                found.append(pooled.double().numpy())
        stacked = np.concatenate(found)
        return _of_norm_one(stacked)

    def __call__(self, texts: list[str], size: int = 256) -> NDArray[np.float32]:
        """Features of each text: [len(texts), size] of norm 1; a row of zeros for an empty text."""
        wanted = [text.strip().lower() for text in texts]
        distinct = [text for text in dict.fromkeys(wanted) if text]
        out = np.zeros((len(texts), size), dtype=np.float32)
        if not distinct:
            return out
        centre, through = self._map(size)
        features = _of_norm_one((self.embed(distinct) - centre) @ through)
        row = {text: number for number, text in enumerate(distinct)}
        for number, text in enumerate(wanted):
            if text:
                out[number] = features[row[text]]
        return out

    def _map(self, size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The mean embedding of the anchors [D], and the map [D, size] from what differs from it."""
        if size not in self._maps:
            from trend_common.windows import text_features

            words = anchors()
            embedded = self.embed(words)
            centre = embedded.mean(axis=0)
            x, target = embedded - centre, text_features(words, size).astype(np.float64)
            gram = x @ x.T
            penalty = _RIDGE * np.trace(gram) / len(words)
            self._maps[size] = centre, x.T @ np.linalg.solve(gram + penalty * np.eye(len(words)), target)
        return self._maps[size]


def chosen_encoder() -> TextEncoder | None:
    """The encoder that :data:`VARIABLE` names, loaded once; None where it names none.

    Raises:
        UsageError: It cannot be had.
    """
    name = os.environ.get(VARIABLE, "").strip()
    return _loaded(name) if name else None


@lru_cache(maxsize=2)
def _loaded(name: str) -> TextEncoder:
    return TextEncoder(name)


def _pooling(where: str, options: dict[str, Any]) -> str:
    """How the tokens of a text become one vector; the mean where the checkpoint does not say."""
    from transformers.utils import cached_file

    for name in _POOLING:
        try:
            found = cached_file(where, name, _raise_exceptions_for_missing_entries=False, **options)
        except (OSError, ValueError) as error:
            raise _unavailable(where, str(error).strip().split("\n")[0]) from error
        if found is None:
            continue
        settings = json.loads(Path(found).read_text("utf-8"))
        modes = [key for key, value in settings.items() if key.startswith("pooling_mode") and value is True]
        if len(modes) == 1 and modes[0] in _POOLED:
            return _POOLED[modes[0]]
        raise UsageError(
            f"The text encoder {where} pools by {', '.join(modes) or 'nothing'}.",
            "Use one that pools by the mean or the CLS token, as most of sentence-transformers' do.",
        )
    return "mean"


def _unavailable(name: str, reason: str) -> UsageError:
    return UsageError(
        f"The text encoder {name!r} cannot be had: {reason}",
        "Download it where there is a network (hf download OWNER/MODEL --local-dir FOLDER), with model.safetensors, "
        f"and name the folder; or unset {VARIABLE}: descriptions are then read as hashed words.",
    )


def _of_norm_one(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(norms > 0, norms, 1))
