"""Words of one meaning: replaced whole, in place, and only by their own kind."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trend_common.synonyms import GROUPS, paraphrase

WORDS = [word for group in GROUPS for word in group]


def test_no_word_means_two_things() -> None:
    assert len(set(WORDS)) == len(WORDS)
    assert all(len(group) > 1 for group in GROUPS)
    assert all(re.fullmatch(r"[^\W\d_]+", word) and word == word.lower() for word in WORDS)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from([*WORDS, "xyzzy", "12", "Retrospot"]), max_size=8),
    st.integers(0, 10**6),
)
def test_each_word_stays_or_becomes_one_of_its_own_group(words: list[str], seed: int) -> None:
    found = paraphrase(" ".join(words), 1.0, np.random.default_rng(seed)).split()
    assert len(found) == len(words)
    for old, new in zip(words, found, strict=True):
        group = next((group for group in GROUPS if old in group), None)
        assert new == old if group is None else new in group and new != old


def test_no_share_changes_nothing_and_case_is_kept() -> None:
    rng = np.random.default_rng(0)
    assert paraphrase("RED Mug, 12 pcs.", 0.0, rng) == "RED Mug, 12 pcs."
    replaced = paraphrase("RED Mug, 12 pcs.", 1.0, rng)
    first, second = re.findall(r"\w+", replaced)[:2]
    assert first.isupper()
    assert second.istitle()
    assert replaced.endswith(", 12 pcs.")
