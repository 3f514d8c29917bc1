"""What a sentence encoder is mapped onto covers every word that pretraining gave a meaning."""

from __future__ import annotations

from trend_common.text_encoder import anchors
from trend_server.pretraining import lexicon


def test_every_word_of_the_lexicon_is_an_anchor() -> None:
    lists = [said for *_, said in (*lexicon._SEASONS, *lexicon._TIERS)]
    words = {word for said in (*lists, lexicon._STAPLES, lexicon._PLAIN) for word in said.split()}
    assert len(words) > 200
    assert words <= set(anchors())
