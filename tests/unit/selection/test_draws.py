"""Draws: their values for ever, and their distributions."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from math import comb, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from choral.core.errors import ConfigError
from choral.core.keys import Key
from choral.selection.draws import binomial, check_count, integer, permutation, sample, shuffled

KEY = Key.root(7).fold("x")


def test_draws_never_change() -> None:
    """Logs of earlier versions replay: these values are part of the format."""
    assert sample(KEY, 1000, 6) == [546, 815, 166, 614, 798, 543]
    assert sample(KEY, 6, 4) == [5, 2, 0, 3]
    assert sample(KEY, 1000, 4, taken=[815, 614]) == [546, 166, 798, 543]
    assert permutation(KEY, 5).tolist() == [2, 0, 3, 4, 1]
    assert integer(KEY, 10) == 8
    assert [binomial(u, 20, 5) for u in (0, 0.1, 0.5, 0.9, 0.999999)] == [0, 3, 5, 8, 15]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.data(), size=st.integers(0, 60), seed=st.integers(0, 2**32))
def test_a_sample_is_distinct_in_range_and_free(data: st.DataObject, size: int, seed: int) -> None:
    taken = data.draw(st.sets(st.integers(0, size - 1)) if size else st.just(set()))
    count = data.draw(st.integers(0, size - len(taken)))
    found = sample(Key.root(seed), size, count, taken)
    assert len(found) == len(set(found)) == count
    assert set(found) <= set(range(size)) - taken
    assert all(type(i) is int for i in found)


def test_a_smaller_sample_begins_a_larger_one() -> None:
    """The size of the batches in which it draws does not show."""
    assert sample(KEY, 10_000, 2000)[:7] == sample(KEY, 10_000, 7)
    assert sample(KEY, 100, 50)[:7] == sample(KEY, 100, 7)


@pytest.mark.parametrize("count", [2, 4])
def test_every_place_of_a_sample_is_uniform(count: int) -> None:
    """Both ways of drawing; within 6 standard deviations, 2e-9 for each of 20 or 40 counts."""
    rounds, size = 3000, 7
    drawn = [sample(Key.root(3).fold(at), size, count) for at in range(rounds)]
    mean = rounds / size
    for place in range(count):
        found = Counter(s[place] for s in drawn)
        assert all(abs(found[i] - mean) < 6 * sqrt(mean * (1 - 1 / size)) for i in range(size))


def test_a_sample_beside_others_is_uniform_over_the_rest() -> None:
    rounds, size, taken = 3000, 12, [0, 5, 6]
    found = Counter(i for at in range(rounds) for i in sample(KEY.fold(at), size, 2, taken))
    mean = rounds * 2 / 9
    assert set(found) == set(range(size)) - set(taken)
    assert all(abs(n - mean) < 6 * sqrt(mean * 7 / 9) for n in found.values())


def test_an_integer_is_uniform_whatever_the_bound() -> None:
    rounds, bound = 3000, 5
    found = Counter(integer(KEY.fold(at), bound) for at in range(rounds))
    mean = rounds / bound
    assert set(found) == set(range(bound))
    assert all(abs(n - mean) < 6 * sqrt(mean * 0.8) for n in found.values())
    assert integer(KEY, 1) == 0
    assert 0 <= integer(KEY, 2**63) < 2**63


def test_a_permutation_starts_again_on_equal_words() -> None:
    class Bits:
        batches = iter([[5, 9, 5], [30, 10, 20]])

        def random_raw(self, size: int) -> np.ndarray:
            return np.array(next(self.batches), np.uint64)

    class Rigged:
        def bits(self) -> Bits:
            return Bits()

    assert permutation(Rigged(), 3).tolist() == [1, 2, 0]


def test_shuffled_keeps_the_items() -> None:
    assert shuffled(KEY, "abcde") == ["c", "a", "d", "e", "b"]
    assert shuffled(KEY, []) == []


@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data(), trials=st.integers(1, 120), u=st.integers(0, 2**53 - 1))
def test_binomial_against_exact_fractions(data: st.DataObject, trials: int, u: int) -> None:
    """P(X < k) <= u < P(X <= k), up to the rounding of float64 sums."""
    mean = data.draw(st.integers(1, trials))
    p = Fraction(mean, trials)
    chances = [comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(trials + 1)]
    k = binomial(u * 2.0**-53, trials, mean)
    rounding = Fraction(1, 10**14)
    assert sum(chances[:k]) - rounding <= Fraction(u, 2**53) < sum(chances[: k + 1]) + rounding


def exact_size(u: int, further: int, trials: int, mean: int) -> int:
    """The smallest k with P(X <= k) above the draw, in fractions."""
    drawn, p, total = Fraction((u << 256) + further, 1 << 309), Fraction(mean, trials), Fraction(0)
    for k in range(trials + 1):
        total += comb(trials, k) * p**k * (1 - p) ** (trials - k)
        if total > drawn:
            return k
    raise AssertionError("no such draw")


@pytest.mark.parametrize(("trials", "mean"), [(60, 7), (100, 50), (41, 40)])
def test_binomial_at_its_thresholds_is_decided_by_further_bits(trials: int, mean: int) -> None:
    """Where 53 bits of the draw are the same, and float64 cannot tell the two sides apart."""
    p, total, seen = Fraction(mean, trials), Fraction(0), 0
    for k in range(trials):
        total += comb(trials, k) * p**k * (1 - p) ** (trials - k)
        u, rest = divmod(int(total * (1 << 309)), 1 << 256)
        if total < Fraction(1, 10**15) or 1 - total < Fraction(1, 10**15):
            continue
        for further in (0, max(0, rest - 1), rest + 1, (1 << 256) - 1):
            found = binomial(u * 2.0**-53, trials, mean, further=further)
            assert found == exact_size(u, further, trials, mean)
            seen += 1
    assert seen > 40


def test_binomial_of_everyone_is_everyone() -> None:
    assert binomial(0.0, 9, 9) == binomial(1 - 2.0**-53, 9, 9) == 9


def test_binomial_extremes_are_within_the_trials() -> None:
    for trials, mean in ((1, 1), (2, 1), (10, 9), (1_000_000, 1000), (1_000_000, 999_999)):
        values = [binomial(u, trials, mean) for u in (0.0, 0.25, 0.5, 0.75, 1 - 2.0**-53)]
        assert values == sorted(values)
        assert 0 <= values[0] <= values[-1] <= trials


def test_check_count() -> None:
    check_count(10, 10)
    with pytest.raises(ConfigError, match="asks for 12 clients of 10"):
        check_count(12, 10)
    with pytest.raises(ConfigError, match="asks for -1 clients"):
        check_count(-1, 10)
