"""Integer noise against its exact distribution, its grid, its stream and its cost."""

from __future__ import annotations

import ast
import bisect
import itertools
import math
import time
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy import special, stats

from choral.core.errors import ConfigError
from choral.crypto.secret import Secret
from choral.privacy import noise
from choral.privacy.noise import discrete_gaussian, skellam

SEED = bytes(range(32))
FALSE_ALARM = 1e-6
"""Of each chi-square test; the draws are fixed, so a pass stays a pass."""


def gaussian_pmf(k: np.ndarray, sigma: float) -> np.ndarray:
    """Exact to float64: the sum over all integers is taken far beyond the tail."""
    wide = np.arange(-math.ceil(40 * sigma) - 10, math.ceil(40 * sigma) + 11)
    return np.exp(-(k**2) / (2 * sigma**2)) / np.exp(-(wide**2) / (2 * sigma**2)).sum()


def skellam_pmf(k: np.ndarray, variance: float) -> np.ndarray:
    return special.ive(np.abs(k), variance)


def chi_square(draws: np.ndarray, pmf) -> float:
    """The p-value of draws against a distribution, rare outcomes put together."""
    k = np.arange(draws.min() - 1, draws.max() + 2)
    expected = pmf(k.astype(float)) * draws.size
    observed = np.bincount(draws - k[0], minlength=k.size)
    kept = expected >= 20
    rest = draws.size - expected[kept].sum()
    seen = [*observed[kept], observed[~kept].sum()]
    due = [*expected[kept], rest]
    return float(stats.chisquare(seen, due, sum_check=False).pvalue)


@pytest.mark.parametrize("sigma", [0.2, 0.5, 1.0, 2.0, 17.3, 400.0])
def test_a_discrete_gaussian_has_its_distribution(sigma: float) -> None:
    draws = discrete_gaussian(Secret(SEED), sigma=sigma, size=400_000)
    assert chi_square(draws, lambda k: gaussian_pmf(k, sigma)) > FALSE_ALARM


@pytest.mark.parametrize("variance", [0.01, 0.7, 4.0, 250.0, 90_000.0])
def test_skellam_noise_has_its_distribution(variance: float) -> None:
    draws = skellam(Secret(SEED), variance=variance, size=400_000)
    assert chi_square(draws, lambda k: skellam_pmf(k, variance)) > FALSE_ALARM


def test_the_chi_square_test_sees_a_sigma_that_is_one_percent_off() -> None:
    draws = discrete_gaussian(Secret(SEED), sigma=2.0, size=400_000)
    assert chi_square(draws, lambda k: gaussian_pmf(k, 2.02)) < FALSE_ALARM


def test_skellam_noise_is_a_difference_of_poisson_variables() -> None:
    poisson = stats.poisson.pmf(np.arange(60), 3.0)
    difference = np.convolve(poisson, poisson[::-1])
    table = noise._skellam_table(Fraction(6))
    thresholds = table.high.astype(float) * 2.0**-64 + table.low.astype(float) * 2.0**-128
    mine = np.diff([0.0, *thresholds, 1.0])
    k = np.arange(-20, 21)
    np.testing.assert_allclose(mine[k - table.least], difference[k + 59], rtol=1e-9, atol=1e-16)


@pytest.mark.parametrize("sigma", [1500.0, 2.0**23, 2.0**40])
def test_a_wide_discrete_gaussian_is_the_sum_of_narrow_ones(sigma: float) -> None:
    draws = discrete_gaussian(Secret(SEED), sigma=sigma, size=200_000)
    assert stats.kstest(draws / sigma, "norm").pvalue > FALSE_ALARM
    spread = np.bincount(draws % 256, minlength=256)
    assert stats.chisquare(spread).pvalue > FALSE_ALARM, "low digits are uniform"


def test_a_wide_sum_has_the_probabilities_that_the_page_of_the_module_states() -> None:
    """The convolution itself in float64, near the narrowest width that is put together."""
    sigma = 1024.5
    (_, narrow), (step, wide) = noise.discrete_gaussian_levels(sigma)
    assert narrow + step**2 * wide == Fraction(sigma) ** 2
    x = np.arange(-30_000, 30_001)
    inner = gaussian_pmf(x.astype(float), math.sqrt(narrow))
    total = np.zeros(2 * 30_000 + 1)
    for k in range(-60, 61):
        weight = gaussian_pmf(np.array([float(k)]), math.sqrt(wide))[0]
        shift = step * k
        total += weight * np.interp(x - shift, x, inner, left=0, right=0)
    middle = slice(30_000 - 6000, 30_000 + 6001)
    expected = gaussian_pmf(x.astype(float), sigma)
    np.testing.assert_allclose(total[middle], expected[middle], rtol=1e-11)


@pytest.mark.parametrize("sigma", [1024.5, 3000.0, 2.0**20, 2.0**48])
def test_what_a_sum_of_levels_is_off_by_is_below_the_stated_distance(sigma: float) -> None:
    levels = noise.discrete_gaussian_levels(sigma)
    off = 0.0
    for (factor, narrow), (after, _) in itertools.pairwise(levels):
        rest = sum(Fraction(f, after) ** 2 * v for f, v in levels if f >= after)
        t2 = 1 / (float(Fraction(after, factor) ** 2 / narrow) + 1 / float(rest))
        off += 4 * math.exp(-2 * math.pi**2 * t2)
    assert 0 < off < noise.DISTANCE / 2
    assert len(levels) <= 7


@pytest.mark.parametrize(
    "table", [noise._gaussian_table(Fraction(1024) ** 2), noise._skellam_table(Fraction(2**24))]
)
def test_the_largest_tables_are_within_the_stated_distance(table) -> None:
    assert table.high.size * 2.0**-128 < 2.0**-110
    assert (np.diff(table.high.astype(object)) >= 0).all()


def test_a_table_is_symmetric_to_its_last_bit_but_rounding() -> None:
    table = noise._gaussian_table(Fraction(17))
    whole = [(int(h) << 64) + int(low) for h, low in zip(table.high, table.low, strict=True)]
    for a, b in zip(whole, reversed(whole), strict=True):
        assert abs(a + b - 2**128) <= 1


def test_draws_at_a_threshold_are_decided_by_the_second_word() -> None:
    table = noise._gaussian_table(Fraction(4))
    middle = -table.least
    word = np.full(3, table.high[middle])
    low = int(table.low[middle])
    rest = np.array([low - 1, low, low + 1], np.uint64)
    assert table.look_up(word, lambda: rest).tolist() == [0, 1, 1]


def test_a_look_up_is_a_search_through_all_thresholds() -> None:
    rng = np.random.default_rng(3)
    for table in (noise._gaussian_table(Fraction(900) ** 2), noise._skellam_table(Fraction(1, 50))):
        words = rng.integers(0, 2**64, 20_000, dtype=np.uint64)
        words[:4] = [0, 2**64 - 1, table.high[0], table.high[-1]]
        rest = rng.integers(0, 2**64, words.size, dtype=np.uint64)
        whole = [(int(h) << 64) + int(low) for h, low in zip(table.high, table.low, strict=True)]

        slow = [
            table.least + bisect.bisect_right(whole, (int(w) << 64) + int(r))
            for w, r in zip(words, rest, strict=True)
        ]
        assert table.look_up(words, partial(np.copy, rest)).tolist() == slow


def test_the_support_is_the_integers_and_both_signs_come() -> None:
    for draws in (
        discrete_gaussian(Secret(SEED), sigma=3.0, size=100_000),
        skellam(Secret(SEED), variance=9.0, size=100_000),
    ):
        assert draws.dtype == np.int64
        assert set(range(-9, 10)) <= set(draws.tolist())
        assert abs(draws).max() < 40


def test_the_same_seed_gives_the_same_noise_in_any_pieces() -> None:
    for make in (
        lambda **a: discrete_gaussian(Secret(SEED), sigma=5000.0, **a),
        lambda **a: skellam(Secret(SEED), variance=40.0, **a),
    ):
        whole = make(size=70_000)
        pieces = [make(size=n, start=s) for s, n in ((0, 1), (1, 65_536), (65_537, 4463))]
        assert (np.concatenate(pieces) == whole).all()


def test_another_seed_mechanism_or_level_gives_other_noise() -> None:
    a = discrete_gaussian(Secret(SEED), sigma=30.0, size=4000)
    b = discrete_gaussian(Secret(SEED[::-1]), sigma=30.0, size=4000)
    c = skellam(Secret(SEED), variance=900.0, size=4000)
    for x, y in ((a, b), (a, c)):
        assert abs(np.corrcoef(x, y)[0, 1]) < 0.08


def test_noise_of_no_length_is_empty() -> None:
    assert discrete_gaussian(Secret(SEED), sigma=1.0, size=0).size == 0


@pytest.mark.parametrize("sigma", [0, -1.0, math.nan, math.inf, 0.05, 2.0**50])
def test_a_sigma_out_of_range_is_refused(sigma: float) -> None:
    with pytest.raises(ConfigError, match="sigma"):
        discrete_gaussian(Secret(SEED), sigma=sigma, size=1)


@pytest.mark.parametrize("variance", [0, -1.0, math.nan, 2.0**25])
def test_a_variance_out_of_range_is_refused(variance: float) -> None:
    with pytest.raises(ConfigError, match="variance"):
        skellam(Secret(SEED), variance=variance, size=1)


def test_a_million_draws_take_less_than_half_a_second_of_cpu() -> None:

    discrete_gaussian(Secret(SEED), sigma=2.0**23, size=1)
    skellam(Secret(SEED), variance=1e4, size=1)
    for make in (
        lambda: discrete_gaussian(Secret(SEED), sigma=2.0**23, size=1_000_000),
        lambda: skellam(Secret(SEED), variance=1e4, size=1_000_000),
    ):
        start = time.process_time()
        make()
        assert time.process_time() - start < 0.5


def test_noise_from_a_global_or_seeded_by_default_generator_is_not_to_be_found() -> None:
    """Trap of the design: nothing in the room imports or calls `numpy.random`."""
    for path in sorted(Path(noise.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "random":
                assert not isinstance(node.value, ast.Name), path.name  # `np.random`
            if isinstance(node, ast.ImportFrom):
                assert "random" not in (node.module or "").split("."), path.name
