"""What a client uploads looks like noise, whatever it is; with controls that must be caught.

`tests/unit/crypto/test_prg.py` judges one mask. Here it is the masked vector of a whole attempt:
an update that is anything but random, the client's own mask, and one mask for each neighbour.
"""

import math
from dataclasses import replace

import numpy as np
import pytest

from choral.crypto.prg import Generator
from choral.secagg import masking

MODULI = [16, 24, 32, 64]
BYTES = 1 << 16
BITS = 45_000
"""More than twice the 19 937 bits of a Mersenne Twister's state."""
STATE = 19_937

LIMIT = 420.0
"""Of chi-square with 255 degrees of freedom. False alarm below 1e-9 each; here about 200 of them,
and the seeds are fixed."""


def false_alarm(limit, freedom):
    """Return the upper tail of chi-square; Wilson and Hilferty 1931."""
    spread = 2 / (9 * freedom)
    z = ((limit / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)
    return math.erfc(z / math.sqrt(2)) / 2


def chi_square(data):
    counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
    expected = len(data) / 256
    return float(((counts - expected) ** 2 / expected).sum())


def linear_complexity(bits):
    """Return the length of the shortest shift register that gives these bits.

    Source: Massey 1969. Polynomial and past bits are Python integers, one bit a coefficient, so
    that a step is one AND, one count and now and then one XOR.
    """
    now, before, length, since, seen = 1, 1, 0, 1, 0
    for place, bit in enumerate(bits):
        seen = seen << 1 | bit
        if (now & seen).bit_count() & 1:
            saved = now
            now ^= before << since
            if 2 * length <= place:
                length, before, since = place + 1 - length, saved, 0
        since += 1
    return length


class Twister:
    """A mask as frameworks have made them: a Mersenne Twister with 32 bits of a key for a seed."""

    def __init__(self, generator, key, *, ring):
        seed = int.from_bytes(key.expose()[:4], "little")
        self._source, self._ring, self._at = np.random.MT19937(seed), ring, 0

    def add_into(self, vector, *, start, sign):
        assert start == self._at, "it cannot seek"
        self._at += vector.size
        mask = self._source.random_raw(vector.size).astype(self._ring.dtype)
        (self._ring.add if sign == 1 else self._ring.subtract)(vector, mask)

    def erase(self):
        pass


def prepared(world, size, *, modulus=32, generator=1, n=3):
    """Return a world in which each update is one number, over and over."""
    w = world(n, size=size, chunk=size, modulus=modulus, bits=8)
    encoding = replace(w.encoding, generator=generator)
    w.encoding, w.expected = encoding, replace(w.expected, encoding=encoding)
    w.context = replace(w.context, encoding=encoding)
    for i, name in enumerate(w.ids):
        w.vectors[name] = np.full(size, i + 1, encoding.ring.dtype)
    w.begin()
    return w


def uploads(world, size, **options):
    """Return the masked vectors of an attempt, and its world."""
    w = prepared(world, size, **options).run()
    w.assert_exact()
    return [w.spools[name].chunks[0] for name in w.ids], w


def columns(ring, vector):
    """Return the bytes of each place in the elements."""
    packed = bytes(ring.pack(vector))
    return [packed[place :: ring.width] for place in range(ring.width)]


def test_the_limit_is_as_rare_as_it_says():
    assert 1e-11 < false_alarm(LIMIT, 255) < 1e-9


@pytest.mark.parametrize("generator", Generator)
@pytest.mark.parametrize("modulus", MODULI)
def test_every_byte_of_a_masked_vector_is_uniform(world, modulus, generator):
    masked, w = uploads(world, BYTES, modulus=modulus, generator=generator)
    ring = w.encoding.ring
    for vector in masked:
        for column in columns(ring, vector):
            assert chi_square(column) < LIMIT
    # What two uploads differ in is noise, too: they share one mask of three.
    ring.subtract(masked[0], masked[1])
    assert all(chi_square(column) < LIMIT for column in columns(ring, masked[0]))
    # And the control: what the clients have in common, the sum, is not.
    assert all(chi_square(column) > LIMIT for column in columns(ring, w.summed.total))


def test_an_update_that_is_not_masked_is_caught(world, monkeypatch):
    monkeypatch.setattr(masking.Mask, "add_into", lambda self, vector, *, start, sign: None)
    masked, w = uploads(world, BYTES)
    assert all(chi_square(c) > LIMIT for v in masked for c in columns(w.encoding.ring, v))


def test_a_byte_that_leaves_out_one_value_is_caught():
    rng = np.random.default_rng(3)
    assert chi_square(rng.integers(0, 255, BYTES, np.uint8).tobytes()) > LIMIT
    assert chi_square(rng.integers(0, 256, BYTES, np.uint8).tobytes()) < LIMIT


def test_two_attempts_of_one_update_have_nothing_in_common(world):
    w = prepared(world, BYTES).drop({"c001": 2}).run()
    assert w.summed is None
    first = w.spools["c000"].chunks[0]
    w.drop({}).begin(attempt=2)
    w.run().assert_exact()
    again = w.spools["c000"].chunks[0] - first
    assert all(chi_square(column) < LIMIT for column in columns(w.encoding.ring, again))


def test_linear_complexity_by_hand():
    assert linear_complexity([]) == 0
    assert linear_complexity([0, 0, 0]) == 0
    assert linear_complexity([1, 1, 1, 1]) == 1
    assert linear_complexity([0, 0, 0, 1]) == 4
    assert linear_complexity([1, 0, 1, 0, 1, 0]) == 2
    register, bits = [1, 0, 0, 1, 0, 1, 1], []
    for _ in range(100):  # x^7 + x + 1
        bits.append(register[0])
        register = [*register[1:], register[0] ^ register[1]]
    assert linear_complexity(bits) == 7


@pytest.mark.parametrize("generator", Generator)
@pytest.mark.parametrize("modulus", MODULI)
def test_low_bits_follow_no_short_register(world, modulus, generator):
    """Random bits have complexity n / 2 within c but for a chance of about 2^(1 - 2c).

    Source: Rueppel 1986, chapter 4.
    """
    masked, _ = uploads(world, BITS, modulus=modulus, generator=generator)
    low = (masked[0] & 1).tolist()
    assert abs(linear_complexity(low) - BITS / 2) < 20


def test_masks_of_a_mersenne_twister_are_caught(world, monkeypatch):
    """Chi-square and the sum see nothing wrong with them; the linear complexity does."""
    monkeypatch.setattr(masking, "Mask", Twister)
    masked, w = uploads(world, BITS)
    assert all(chi_square(c) < LIMIT for c in columns(w.encoding.ring, masked[0]))
    # Sums of twisters follow the twister's own recurrence; the update adds one constant bit.
    assert linear_complexity((masked[0] & 1).tolist()) in {STATE, STATE + 1}
