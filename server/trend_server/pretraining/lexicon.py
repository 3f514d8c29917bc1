"""Words that mean something on a shelf: what the descriptions of synthetic products are written from.

A description is a handful of words. Some say when a product sells (a bauble in December, a parasol in July), some how
much of it and at what price (a mini one, a set of twelve), most say nothing. The words are in the languages that the
sales panel reads. Whatever a model learns from them it learned from this page and not from anybody's catalogue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from trend_common.windows import description_bytes, text_features

__all__ = ["Catalogue", "catalogue"]

_SEASONS: Final = (
    # day of the year of the peak, width in days, log strength, words
    (
        343,
        17,
        2.2,
        "christmas xmas weihnachten weihnachts noel navidad natal advent snowman reindeer santa bauble tinsel",
    ),
    (343, 20, 1.5, "stocking nativity lebkuchen stollen panettone mistletoe wreath gingerbread sleigh 圣诞"),
    (352, 14, 1.2, "calendar diary planner kalender fireworks silvester sparkling champagne 年货"),
    (92, 12, 1.7, "easter ostern bunny egg osterhase paques pascua pascoa chick hen daffodil"),
    (40, 7, 1.5, "valentine valentines heart valentinstag love rose chocolates"),
    (128, 9, 1.0, "mother mothers muttertag bouquet carnation asparagus spargel"),
    (298, 10, 1.8, "halloween pumpkin witch ghost skeleton spider kuerbis zombie"),
    (196, 42, 1.0, "summer sommer beach sun sunscreen bbq grill picnic parasol verao ete 夏"),
    (196, 40, 0.9, "icecream eis sorvete lemonade lolly fan cooler ice sandal bikini swim mosquito"),
    (18, 45, 0.9, "winter glove scarf thermal hot bottle warmer soup tea fondue inverno hiver mitten 冬"),
    (20, 40, 0.9, "cold flu cough throat erkaeltung husten respiratory tissue antitussive"),
    (128, 32, 0.9, "spring garden seed plant flower garten planter hose lawn allergy hay antihistamine"),
    (248, 18, 1.0, "school backpack pencil schule notebook ruler lunchbox escola rentree"),
    (280, 35, 0.6, "autumn herbst umbrella mushroom chestnut boot raincoat outono lantern"),
)
_TIERS: Final = (
    # log units, log price, words
    (0.7, -0.8, "mini small single sample klein pequeno pocket"),
    (-0.7, 0.9, "premium deluxe luxury large giant gross grande professional xl"),
    (-0.9, 0.8, "furniture cabinet lamp clock mirror chair"),
    (-0.5, 0.4, "set pack box of case bundle dozen"),
    (0.6, -0.4, "basic value budget everyday refill"),
)
_STAPLES: Final = "milk bread butter flour rice water brot milch broetchen rolls salt sugar bags eggs banana nappies"
_PLAIN: Final = (
    "red blue green white pink black retro spot vintage wooden metal glass ceramic paper cotton mug cup plate "
    "bowl tin tray holder bag box frame sign cushion candle tape pen card wrap ribbon bottle jar spoon knife "
    "towel rug hook rack shirt sock cap belt purse wallet ring necklace bracelet juice orange coffee cake "
    "cookie croissant bar nut chips sauce oil pasta cheese ham fish chicken beer wine soap shampoo brush "
    "sponge tablet cream gel drops vitamin pain analgesic filter cable battery bulb charger toy puzzle doll "
    "car train ball game book classic original organic bio light fresh new design home kitchen bath baby kids "
    "men women assorted colour natural produto produkt article 商品"
)
_SYLLABLES: Final = (
    "ba ke li mo nu ra si to ve zan dor fel gri hum jax kor lin mar nox pel quin ros sta tur vol wex".split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Catalogue:
    """Descriptions with what they say. P products, T text features, D bytes.

    Attributes:
        text: [P, T] features of each description.
        description: [P, D] its first bytes.
        peak: [P] day of the year at which it sells; -1 where the description does not say.
        width: [P] days.
        strength: [P] on the log rate.
        level, price: [P] on the log of units and of price.
        staple: [P] 1 where sales hardly vary.
    """

    text: Tensor
    description: Tensor
    peak: Tensor
    width: Tensor
    strength: Tensor
    level: Tensor
    price: Tensor
    staple: Tensor

    def __len__(self) -> int:
        return len(self.text)

    def to(self, device: str) -> Catalogue:
        """The same on ``device``."""
        return Catalogue(**{name: value.to(device) for name, value in vars(self).items()})


def catalogue(products: int = 6000, seed: int = 7) -> Catalogue:
    """The same catalogue for the same arguments."""
    rng = np.random.default_rng(seed)
    plain = _PLAIN.split()
    brands = ["".join(rng.choice(_SYLLABLES, rng.integers(2, 4))) for _ in range(150)]
    texts = []
    columns = {
        name: np.zeros(products, dtype=np.float32) for name in ("width", "strength", "level", "price", "staple")
    }
    peak = np.full(products, -1.0, dtype=np.float32)
    for row in range(products):
        words = list(rng.choice(plain, rng.integers(1, 4), replace=False))
        if rng.random() < 0.4:
            words.append(str(rng.choice(brands)))
        draw = rng.random()
        if draw < 0.35:
            day, width, strength, said = _SEASONS[rng.integers(len(_SEASONS))]
            words.append(str(rng.choice(said.split())))
            # What a word says is a tendency: some gift shops sell baubles in July.
            peak[row] = (day + rng.normal(0, 4)) % 365
            columns["width"][row] = width * np.exp(rng.normal(0, 0.25))
            columns["strength"][row] = strength * rng.uniform(0.4, 1.3)
        elif draw < 0.45:
            words.append(str(rng.choice(_STAPLES.split())))
            columns["staple"][row] = 1
            columns["level"][row] += 0.5
        if rng.random() < 0.35:
            level, price, said = _TIERS[rng.integers(len(_TIERS))]
            words.append(str(rng.choice(said.split())))
            columns["level"][row] += level
            columns["price"][row] += price
        if rng.random() < 0.3:
            number = int(rng.choice([2, 3, 4, 6, 8, 10, 12, 20, 24, 50, 60, 72, 100]))
            words.append(str(number))
            columns["level"][row] -= 0.12 * np.log(number)
        rng.shuffle(words)
        text = " ".join(words)
        texts.append(text.upper() if rng.random() < 0.3 else text)
    tensors = {name: torch.from_numpy(value) for name, value in columns.items()}
    words_of = {"text": text_features(texts), "description": description_bytes(texts).copy()}
    return Catalogue(
        **{name: torch.from_numpy(value) for name, value in words_of.items()}, peak=torch.from_numpy(peak), **tensors
    )
