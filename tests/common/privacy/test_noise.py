"""Noise that hides a series: the right distribution, and never the same twice."""

from __future__ import annotations

import copy
import math
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from trend_common.privacy.noise import SecureGenerator
from trend_common.tensors import encode_int8

generator = SecureGenerator()


@pytest.mark.parametrize("draw", ["normal", "gaussian"])
def test_draws_are_standard_normal(draw: str) -> None:
    values = getattr(generator, draw)(200_000)
    assert values.dtype == np.float64
    assert stats.kstest(values, "norm").pvalue > 1e-6
    assert abs(values.mean()) < 6 / np.sqrt(len(values))
    assert abs(values.var() - 1) < 6 * np.sqrt(2 / len(values))
    assert values.max() > 3.5, "the tail is missing"


@pytest.mark.parametrize(("power", "moment"), [(1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0), (6, 15.0)])
def test_moments_are_those_of_the_normal(power: int, moment: float) -> None:
    """Within six standard errors, which the (2·power)-th moment gives."""
    size = 200_000
    values = generator.gaussian(size)
    error = math.sqrt(math.prod(range(1, 2 * power, 2)) / size)
    assert abs(float((values**power).mean()) - moment) < 6 * error


def test_half_a_per_cent_of_missing_noise_is_seen() -> None:
    """The deviation of four million draws is known to a few thousandths; six standard errors either way."""
    size = 4_000_000
    deviation = float(np.concatenate([generator.gaussian(500_000) for _ in range(size // 500_000)]).std())
    assert abs(deviation - 1) < 6 / math.sqrt(2 * size)
    assert 6 / math.sqrt(2 * size) < 0.005


def test_both_tails_are_there() -> None:
    """P(|Z| > 4) is 6.3·10⁻⁵: about 13 of 200,000, and a truncated normal would have none."""
    beyond = int((np.abs(generator.gaussian(200_000)) > 4).sum())
    assert stats.binomtest(beyond, 200_000, 2 * stats.norm.sf(4)).pvalue > 1e-6


def test_draws_are_independent_within_a_call_and_across_rounds() -> None:
    """Lagged within one call, and the same place in successive calls, as the rounds of a federation are."""
    long = generator.gaussian(100_000)
    for lag in (1, 2, 3, 4, 1000, 25_000, 50_000):
        assert abs(np.corrcoef(long[:-lag], long[lag:])[0, 1]) < 6 / np.sqrt(len(long) - lag)
        assert abs(np.corrcoef(long[:-lag] ** 2, long[lag:] ** 2)[0, 1]) < 6 / np.sqrt(len(long) - lag)
    rounds = np.stack([SecureGenerator().gaussian(20_000) for _ in range(8)])
    assert np.abs(np.corrcoef(rounds) - np.eye(8)).max() < 6 / np.sqrt(20_000)
    total = rounds.sum(axis=0)
    assert stats.kstest(total / np.sqrt(8), "norm").pvalue > 1e-6, "noise that repeats would add up, not average out"


def test_a_stream_that_repeats_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check above on a generator whose key never changes."""
    monkeypatch.setattr("trend_common.privacy.noise.os.urandom", lambda size: bytes(size))
    first, second = SecureGenerator().gaussian(1000), SecureGenerator().gaussian(1000)
    assert np.corrcoef(first, second)[0, 1] > 0.99


def test_processes_with_the_same_seeds_draw_other_noise() -> None:
    """A client that is started again, in a new process, with every seed there is set alike."""
    code = (
        "import random, numpy as np; random.seed(7); np.random.seed(7)\n"
        "import torch; torch.manual_seed(7)\n"
        "from trend_common.privacy.noise import SecureGenerator\n"
        "print(SecureGenerator().gaussian(4).tobytes().hex(), torch.randn(1).item())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    drawn = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        for _ in range(2)
    ]
    (noise, other), (again, same) = (done.stdout.split() for done in drawn)
    assert other == same, "the seeds were set"
    assert noise != again


def test_a_new_key_and_a_new_counter_at_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = os.urandom

    def urandom(size: int) -> bytes:
        asked.append(size)
        return real(size)

    monkeypatch.setattr("trend_common.privacy.noise.os.urandom", urandom)
    for _ in range(3):
        generator.words(5)
    assert asked == [32, 16] * 3


def test_a_wrong_scale_would_be_seen() -> None:
    assert stats.kstest(generator.gaussian(200_000) * 0.95, "norm").pvalue < 1e-6


def test_uniforms_are_open_and_uniform() -> None:
    values = generator.uniform(200_000)
    assert values.min() > 0
    assert values.max() < 1
    assert stats.kstest(values, "uniform").pvalue > 1e-6


@pytest.mark.parametrize(("word", "value"), [(0, 2.0**-53), (2**64 - 1, 1 - 2.0**-53), (2**63, 0.5 + 2.0**-53)])
def test_the_ends_of_the_uniform_are_never_reached(word: int, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """log(0) would be an infinite noise that reveals itself; 1.0 a noise of exactly 0."""
    monkeypatch.setattr(SecureGenerator, "words", lambda self, size: np.full(size, word, dtype=np.uint64))
    assert (generator.uniform(3) == value).all()
    assert np.isfinite(generator.gaussian(3)).all()


@given(low=st.integers(-(2**40), 2**40), span=st.integers(1, 2**40), size=st.integers(0, 50))
@settings(max_examples=50, deadline=None)
def test_integers_stay_in_their_range(low: int, span: int, size: int) -> None:
    values = generator.integers(low, low + span, size)
    assert values.shape == (size,)
    assert ((values >= low) & (values < low + span)).all()


def test_integers_are_uniform() -> None:
    counts = np.bincount(generator.integers(0, 7, 70_000), minlength=7)
    assert stats.chisquare(counts).pvalue > 1e-6


def test_words_beyond_the_last_span_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """For three values 2⁶⁴ − 1 is one word too many: keeping it would favour 0."""
    answers = [np.array([2**64 - 1, 4], dtype=np.uint64), np.array([5], dtype=np.uint64)]
    monkeypatch.setattr(SecureGenerator, "words", lambda self, size: answers.pop(0))
    assert generator.integers(0, 3, 2).tolist() == [2, 1]
    assert not answers


@pytest.mark.parametrize("call", [lambda: generator.integers(3, 3, 1), lambda: generator.uniform(-1)])
def test_senseless_arguments_are_refused(call: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        call()


def test_no_draw_repeats() -> None:
    same = SecureGenerator()
    draws = [same.gaussian(8), same.gaussian(8), SecureGenerator().gaussian(8), SecureGenerator().gaussian(8)]
    assert len({draw.tobytes() for draw in draws}) == len(draws)


def test_seeding_every_other_generator_changes_nothing() -> None:
    def seeded() -> bytes:
        np.random.seed(42)
        return bytes(generator.gaussian(8).tobytes())

    assert seeded() != seeded()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_forked_children_draw_other_noise() -> None:
    """A worker that inherits the parent's stream would add the parent's noise, which then cancels in a difference."""
    shared = SecureGenerator()
    shared.gaussian(4)
    drawn = []
    for _ in range(2):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writing, shared.gaussian(4).tobytes())
            os._exit(0)
        os.waitpid(child, 0)
        drawn.append(os.read(reading, 32))
        os.close(reading)
        os.close(writing)
    drawn.append(shared.gaussian(4).tobytes())
    assert len(set(drawn)) == 3


def test_threads_draw_other_noise() -> None:
    shared, drawn = SecureGenerator(), list[bytes]()
    threads = [threading.Thread(target=lambda: drawn.append(shared.gaussian(64).tobytes())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(drawn)) == 8


@pytest.mark.parametrize("store", [copy.copy, copy.deepcopy, pickle.dumps])
def test_it_cannot_be_stored(store: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match="never stored or copied"):
        store(SecureGenerator())


def test_it_serves_stochastic_rounding() -> None:
    """Rounding up or down at random keeps the mean: 0.305 on steps of 0.01 is 30 or 31, half the time each."""
    value = np.full((100, 100), 0.305, dtype=np.float32)
    value[0, 0] = 1.27
    encoded = encode_int8({"a": value}, SecureGenerator())
    steps = np.concatenate([array.ravel() for array in encoded.values() if array.dtype == np.int8])
    assert set(np.unique(steps)) == {30, 31, 127}
    assert abs((steps == 31).mean() - 0.5) < 6 * 0.5 / np.sqrt(steps.size)
