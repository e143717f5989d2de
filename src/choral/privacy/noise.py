r"""Integer noise from a cipher's key stream: discrete Gaussian and Skellam, exact on the grid.

A draw takes 128 bits U of an AES-256-CTR stream and looks it up in a table of cumulative
probabilities, each an integer multiple of 2^-128 from arithmetic with 320 bits: the outcome is the
number of thresholds that are at most U. Only where the first 64 bits do not decide are the other 64
read. No floating-point number takes part in a draw, so every value is an integer and every integer
within the tails can come.

How far a draw is from its distribution:

- A table of n thresholds and cut tails is within n * 2^-128 + 2^-128 in statistical distance, below
  2^-110 for the largest table here.
- A discrete Gaussian wider than `MAX_TABLE_SIGMA` is a sum X + 256 Y of two narrower ones. Its
  probabilities are those of N_Z(0, s_x^2 + 256^2 s_y^2), multiplied by a factor within
  1 ± 4 exp(-2 pi^2 t^2), where 1 / t^2 = 256^2 / s_x^2 + 1 / s_y^2 (Poisson summation, as in
  Micciancio and Walter 2017, eprint 2017/259). With s_x = 448 and s_y > 3.5 that is below 2^-68 a
  level, and there are at most six levels.

So `DISTANCE` = 2^-64 bounds the distance of any draw. The accountant charges a release of d
coordinates with d * DISTANCE to its delta, on both sides: see `accounting.slack`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from functools import lru_cache, partial
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from choral.core.checks import real, whole
from choral.crypto.derivation import hkdf_sha256
from choral.crypto.encoding import frame
from choral.crypto.prg import Generator, Mask
from choral.crypto.ring import Ring
from choral.crypto.secret import SECRET_SIZE, Secret

Integers: TypeAlias = npt.NDArray[np.int64]
Words: TypeAlias = npt.NDArray[np.uint64]

DISTANCE: Final = 2.0**-64
"""Bound of the statistical distance of one draw from its distribution."""

MAX_TABLE_SIGMA: Final = 1024.0
"""Standard deviation up to which a discrete Gaussian has a table of its own."""

MAX_SIGMA: Final = 2.0**48
"""Largest standard deviation of a discrete Gaussian."""

MAX_SKELLAM_SIGMA: Final = 4096.0
"""Largest standard deviation of Skellam noise; it has no parts to be put together from."""

_LABEL: Final = "choral noise v1"
_STEP: Final = 256
_STEP_SIGMA: Final = 448.0
_FRACTION: Final = 320
_TAIL_BITS: Final = 140
_GUIDE_BITS: Final = 16
_BLOCK: Final = 1 << 16
_DIGITS: Final = Context(prec=120)


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """A distribution on the integers from `least` on.

    Attributes:
        least: The smallest outcome.
        high: First 64 bits of each threshold, ascending.
        low: The other 64.
        guide: For each value of a draw's first 16 bits, four times the number of thresholds that
            are below all such draws, plus how many are among them: 0, 1, or 2 for more.
    """

    least: int
    high: Words
    low: Words
    guide: npt.NDArray[np.int32]

    def look_up(self, words: Words, rest: Callable[[], Words]) -> Integers:
        """Return the outcomes of draws whose first 64 bits are `words`.

        Args:
            words: Shape `[n]`.
            rest: Gives the other 64 bits, which are hardly ever looked at.
        """
        top = (words >> np.uint64(64 - _GUIDE_BITS)).view(np.int64)
        guided = self.guide.take(top, mode="clip")
        some = np.flatnonzero(guided & 3)  # the first bits have decided all others
        near, near_guide = words.take(some), guided.take(some)
        found = (near_guide >> 2).astype(np.int64)
        found += self.high.take(found, mode="clip") <= near
        many = np.flatnonzero((near_guide & 3) > 1)
        found[many] = np.searchsorted(self.high, near[many], side="right")
        for i in np.flatnonzero(self.high.take(found - 1, mode="clip") == near):
            equal = int(np.searchsorted(self.high, near[i], side="left"))
            last = rest()[some[i]]
            decided = np.searchsorted(self.low[equal : found[i]], last, side="right")
            found[i] = equal + int(decided)
        index = (guided >> 2).astype(np.int64)
        index[some] = found
        index += self.least
        return index


def _table(masses: list[int], least: int) -> _Table:
    """Return the table of outcomes with these masses, in any unit."""
    total, running = sum(masses), 0
    thresholds = []
    for mass in masses[:-1]:
        running += mass
        thresholds.append((running << 128) // total)
    mask = 2**64 - 1
    high = np.array([t >> 64 for t in thresholds], np.uint64)
    low = np.array([t & mask for t in thresholds], np.uint64)
    edges = np.arange(1 << _GUIDE_BITS, dtype=np.uint64) << np.uint64(64 - _GUIDE_BITS)
    below = np.append(np.searchsorted(high, edges, side="left"), high.size)
    guide = 4 * below[:-1] + np.minimum(np.diff(below), 2)
    return _Table(least, high, low, guide.astype(np.int32))


def _exp(x: Fraction) -> int:
    """Return exp(x) in units of 2^-320, correct to about 110 digits."""
    quotient = _DIGITS.divide(Decimal(x.numerator), Decimal(x.denominator))
    scaled = _DIGITS.multiply(_DIGITS.exp(quotient), Decimal(2**_FRACTION))
    return int(scaled.to_integral_value(context=_DIGITS))


@lru_cache(maxsize=16)
def _gaussian_table(variance: Fraction) -> _Table:
    """Return the table of N_Z(0, variance): masses exp(-k^2 / (2 variance))."""
    mass, ratio = 1 << _FRACTION, _exp(-1 / (2 * variance))
    ratio_step = _exp(-1 / variance)
    side = []
    while mass >> (_FRACTION - _TAIL_BITS):
        side.append(mass)
        mass = mass * ratio >> _FRACTION
        ratio = ratio * ratio_step >> _FRACTION
    return _table(side[:0:-1] + side, 1 - len(side))


def skellam_end(variance: float, bits: float) -> int:
    """Return k with P(X >= k) below 2^-bits for Skellam X, by Chernoff's bound."""

    def log_tail(k: float) -> float:
        t = math.asinh(k / variance)
        return variance * (math.cosh(t) - 1.0) - k * t

    low, high = 0.0, 8.0
    while log_tail(high) > -bits * math.log(2.0):
        low, high = high, 2.0 * high
    while high - low > 1.0:
        middle = (low + high) / 2.0
        low, high = (middle, high) if log_tail(middle) > -bits * math.log(2.0) else (low, middle)
    return math.ceil(high)


@lru_cache(maxsize=16)
def _skellam_table(variance: Fraction) -> _Table:
    """Return the table of Skellam noise: masses I_|k|(variance), I the modified Bessel function.

    I_{k-1} = I_{k+1} + (2k / variance) I_k from far above the tail downward (Miller's recurrence):
    all terms are positive, and what was wrong at the start dies out.
    """
    end = skellam_end(float(variance), _TAIL_BITS)
    above, here = 0, 1 << _FRACTION
    side = []
    for k in range(skellam_end(float(variance), 3.0 * _TAIL_BITS), 0, -1):
        above, here = (
            here,
            above + 2 * k * variance.denominator * here // variance.numerator,
        )
        if k <= end:
            side.append(here)
    return _table(side + side[-2::-1], 1 - len(side))


def discrete_gaussian_levels(sigma: float) -> tuple[tuple[int, Fraction], ...]:
    """Return the parts of a discrete Gaussian: each a factor and the variance that it multiplies.

    >>> discrete_gaussian_levels(3.0)
    ((1, Fraction(9, 1)),)
    """
    levels = []
    factor, variance = 1, Fraction(sigma) ** 2
    while variance > Fraction(MAX_TABLE_SIGMA) ** 2:
        narrow = Fraction(_STEP_SIGMA) ** 2
        levels.append((factor, narrow))
        factor, variance = factor * _STEP, (variance - narrow) / _STEP**2
    return (*levels, (factor, variance))


def discrete_gaussian(seed: Secret, *, sigma: float, size: int, start: int = 0) -> Integers:
    """Return draws from N_Z(0, sigma^2): integers k with masses exp(-k^2 / (2 sigma^2)).

    Guarantees: the same seed gives the same draws, in whatever pieces; every draw is an integer,
    and within `DISTANCE` of its distribution.

    Args:
        seed: 32 bytes of the `Rand` port, for this noise alone. Whoever knows them can take the
            noise off.
        sigma: Parameter in units of the grid, 0.1 to 2^48. Above 1 it is the standard deviation to
            seven digits.
        size: How many.
        start: Place of the first in the whole vector.

    Returns:
        int64, shape `[size]`.

    Raises:
        ConfigError: `sigma`, `size` or `start` is out of range.

    Source: Canonne, Kamath, Steinke, "The Discrete Gaussian for Differential Privacy", 2020
    (arXiv 2004.00010), definition 1. Their sampler is exact in expectation of time; this one has
    tables instead, for speed.

    >>> discrete_gaussian(Secret(bytes(range(32))), sigma=2.0, size=4).dtype
    dtype('int64')
    """
    sigma = real("sigma", sigma, least=0.1, most=MAX_SIGMA)
    parts = [(factor, _gaussian_table(v)) for factor, v in discrete_gaussian_levels(sigma)]
    return _draw(seed, "discrete gaussian", parts, size=size, start=start)


def skellam(seed: Secret, *, variance: float, size: int, start: int = 0) -> Integers:
    """Return draws of the difference of two Poisson variables of mean variance / 2 each.

    Sums of independent Skellam draws are Skellam, with the sum of the variances. The difference is
    looked up in one table of its own, not taken.

    Guarantees: as for `discrete_gaussian`.

    Args:
        seed: As for `discrete_gaussian`.
        variance: In units of the grid squared, 0.01 to 2^24.
        size: How many.
        start: Place of the first in the whole vector.

    Returns:
        int64, shape `[size]`.

    Raises:
        ConfigError: `variance`, `size` or `start` is out of range.

    Source: Agarwal, Kairouz, Liu, "The Skellam Mechanism for Differentially Private Federated
    Learning", 2021 (arXiv 2110.04995).

    >>> int(abs(skellam(Secret(bytes(range(32))), variance=0.01, size=9)).max()) <= 9
    True
    """
    variance = real("variance", variance, least=0.01, most=MAX_SKELLAM_SIGMA**2)
    parts = [(1, _skellam_table(Fraction(variance)))]
    return _draw(seed, "skellam", parts, size=size, start=start)


def _draw(
    seed: Secret, name: str, parts: list[tuple[int, _Table]], *, size: int, start: int
) -> Integers:
    """Return the weighted sum of one draw from each table, for each place."""
    whole("size", size, least=0)
    whole("start", start, least=0, most=2**56)
    total = np.zeros(size, np.int64)
    for level, (factor, table) in enumerate(parts):
        first = _stream(seed, name, level, "first")
        second = _stream(seed, name, level, "second")
        for at in range(0, size, _BLOCK):
            part = total[at : at + _BLOCK]
            words = _words(first, part.size, start + at)
            rest = partial(_words, second, part.size, start + at)
            drawn = table.look_up(words, rest)
            part += drawn if factor == 1 else factor * drawn
        first.erase()
        second.erase()
    return total


def _stream(seed: Secret, name: str, level: int, half: str) -> Mask:
    """Return the key stream of one table's draws."""
    info = frame(_LABEL, name.encode(), str(level).encode(), half.encode())
    key = hkdf_sha256(seed.expose(), salt=b"", info=info, size=SECRET_SIZE)
    return Mask(Generator.AES_256_CTR, Secret(key), ring=Ring(64))


def _words(stream: Mask, size: int, start: int) -> Words:
    """Return `size` words of a stream from number `start` on."""
    words = np.zeros(size, np.uint64)
    stream.add_into(words, start=start, sign=1)
    return words
