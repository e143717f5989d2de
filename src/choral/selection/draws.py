"""Draws for selectors, from the raw bits of a key.

Only integer arithmetic on `Key.bits()` and the four operations and the square root of IEEE 754, so
that a cohort is the same with every version of NumPy and on every machine. (NumPy keeps its raw
streams for ever, but may change the methods of its `Generator`.) A key is reproducible and not
secret: whoever knows the seed of a run knows its cohorts.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection, Sequence
from fractions import Fraction
from itertools import accumulate
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from choral.core.errors import ConfigError
from choral.core.keys import Key

T = TypeVar("T")
Indices = npt.NDArray[np.int64]

_DOUBT: Final = 1e-9
"""Distance of a draw to a threshold below which float64 does not decide."""


def check_count(count: int, size: int) -> None:
    """Raise `ConfigError` unless 1 to `size` clients are asked for."""
    if count < 1:
        raise ConfigError(f"selection asks for {count} clients, expected at least 1")
    if count > size:
        raise ConfigError(
            f"selection asks for {count} clients of {size}",
            hint="lower `clients_per_round`, or wait for more clients",
        )


def sample(key: Key, size: int, count: int, taken: Collection[int] = ()) -> list[int]:
    """Return `count` distinct numbers of 0 to size - 1, none of `taken`, in the order drawn.

    Every sequence of such numbers is equally likely, so that the beginning of the result is a
    uniform sample as well. Up to half of `size`, numbers are drawn until enough differ: time and
    memory grow with `count` and `taken` alone. Above, all are permuted.

    >>> len(set(sample(Key.root(1), 1_000_000, 1000)))
    1000
    """
    if 2 * (count + len(taken)) > size:
        rest = np.setdiff1d(np.arange(size), np.fromiter(taken, np.int64, len(taken)))
        return [int(i) for i in rest[permutation(key, rest.size)[:count]]]
    bits = key.bits()
    barred = np.fromiter(taken, np.int64, len(taken))
    found = np.empty(0, np.int64)
    while found.size < count:
        drawn = _below(bits, size, 2 * count + 16)
        found = np.concatenate([found, drawn[~np.isin(drawn, barred)]])
        _, first = np.unique(found, return_index=True)
        found = found[np.sort(first)]
    return [int(i) for i in found[:count]]


def permutation(key: Key, size: int) -> Indices:
    """Return 0 to size - 1 in random order, each order equally likely.

    The order of `size` random words of 64 bits; where two are equal, all are drawn again.
    """
    bits = key.bits()
    while True:
        words = bits.random_raw(size)
        order = np.argsort(words, kind="stable")
        ordered = words[order]
        if not (ordered[1:] == ordered[:-1]).any():
            return order


def shuffled(key: Key, items: Sequence[T]) -> list[T]:
    """Return the items in random order."""
    return [items[i] for i in permutation(key, len(items))]


def integer(key: Key, bound: int) -> int:
    """Return one number of 0 to bound - 1, each equally likely; `bound` is 1 to 2^63."""
    if bound == 1:
        return 0
    bits = key.bits()
    while True:
        drawn = _below(bits, bound, 16)
        if drawn.size:
            return int(drawn[0])


def _below(bits: np.random.SFC64, bound: int, words: int) -> Indices:
    """Return those of `words` draws of as many bits as bound - 1 has that are below `bound`."""
    drawn = bits.random_raw(words) >> np.uint64(64 - (bound - 1).bit_length())
    return drawn[drawn < bound].astype(np.int64)


def binomial(uniform: float, trials: int, mean: int, *, further: int = 0) -> int:
    """Return how many of `trials` succeed, each with probability mean / trials, by inversion.

    Accountants of differential privacy rely on this distribution, so a draw that 53 bits and
    float64 do not decide is decided by 256 further bits and whole numbers: a size is within 2^-64
    of its distribution.

    Args:
        uniform: A draw from [0, 1), a multiple of 2^-53.
        trials: At least 1.
        mean: 1 to `trials`; also the distribution's mode.
        further: 256 more bits of the draw, behind those of `uniform`.

    Returns:
        The smallest k with P(X <= k) > uniform, X binomial. Probabilities follow from their ratios
        to that of the mode. Values beyond it by more than 10 standard deviations plus 50, whose
        probability together is below 1e-20, are left out.

    >>> binomial(0.5, 1000, 10)
    10
    """
    if mean == trials:
        return trials
    low, high = _around(trials, mean, 10, 50)
    odds = mean / (trials - mean)
    up = np.arange(mean, high, dtype=np.float64)
    down = np.arange(mean, low, -1, dtype=np.float64)
    above = np.cumprod((trials - up) / (up + 1) * odds)
    below = np.cumprod(down / (trials - down + 1) / odds)
    cumulative = np.cumsum(np.concatenate([below[::-1], [1.0], above]))
    found = uniform * cumulative[-1]
    at = int(np.searchsorted(cumulative, found, side="right"))
    if np.abs(cumulative[max(0, at - 1) : at + 1] - found).min() < _DOUBT * cumulative[-1]:
        drawn = Fraction(uniform) + Fraction(further, 1 << (53 + 256))
        return min(max(low, _exactly(drawn, trials, mean)), high)
    return low + min(at, cumulative.size - 1)


def _around(trials: int, mean: int, deviations: int, more: int) -> tuple[int, int]:
    """Return the ends of a window around the mode."""
    width = math.ceil(deviations * math.sqrt(mean * (1 - mean / trials))) + more
    return max(0, mean - width), min(trials, mean + width)


def _exactly(drawn: Fraction, trials: int, mean: int) -> int:
    """Return what `binomial` returns, from probabilities that are right to 450 bits."""
    low, high = _around(trials, mean, 20, 200)
    unit = 1 << 512
    above, below = [unit], []
    for k in range(mean, high):
        above.append(above[-1] * (trials - k) * mean // ((k + 1) * (trials - mean)))
    mass = unit
    for k in range(mean, low, -1):
        mass = mass * k * (trials - mean) // ((trials - k + 1) * mean)
        below.append(mass)
    masses = below[::-1] + above
    cumulative = list(accumulate(masses))
    wanted = drawn.numerator * cumulative[-1] // drawn.denominator
    return low + min(bisect_right(cumulative, wanted), len(masses) - 1)
