"""Wrap-around, packing and centring, at every width."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from choral.core.errors import ConfigError, OutOfRange, WrongShape
from choral.crypto.ring import OVERREAD, Ring

ALL = [16, 24, 32, 64]


def vector(ring, values):
    return np.array([v % 2**ring.bits for v in values], ring.dtype)


@pytest.mark.parametrize("bits", [0, 8, 31, 40, 128])
def test_other_moduli_are_refused(bits):
    with pytest.raises(ConfigError, match=f"{bits} bits: expected 16, 24, 32 or 64"):
        Ring(bits)


@pytest.mark.parametrize("bits", ALL)
@given(data=st.data())
def test_adding_and_subtracting_are_integers_modulo_2_to_the_m(bits, data):
    ring, size = Ring(bits), data.draw(st.integers(0, 20))
    elements = st.lists(st.integers(0, 2**bits - 1), min_size=size, max_size=size)
    a, b = data.draw(elements), data.draw(elements)
    total = vector(ring, a)
    ring.add(total, vector(ring, b))
    assert total.tolist() == [(x + y) % 2**bits for x, y in zip(a, b, strict=True)]
    ring.subtract(total, vector(ring, b))
    ring.subtract(total, vector(ring, b))
    assert total.tolist() == [(x - y) % 2**bits for x, y in zip(a, b, strict=True)]


@pytest.mark.parametrize("bits", ALL)
@given(data=st.data())
def test_packing_is_little_endian_and_reversible(bits, data):
    ring = Ring(bits)
    values = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=20))
    raw = ring.pack(vector(ring, values))
    assert bytes(raw) == b"".join(v.to_bytes(bits // 8, "little") for v in values)
    back = ring.unpack(bytes(raw))
    assert back.dtype == ring.dtype
    assert back.tolist() == values
    padded = np.frombuffer(bytes(raw) + b"\xff" * OVERREAD, np.uint8)
    total = ring.zeros(len(values))
    ring.add(total, ring.view(padded, len(values)))
    assert total.tolist() == values


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_packing_copies_nothing_where_it_need_not(bits):
    ring = Ring(bits)
    held = ring.zeros(4)
    raw = ring.pack(held)
    held[0] = 7
    assert raw[0] == 7
    assert ring.unpack(raw)[0] == 7


@pytest.mark.parametrize("bits", ALL)
def test_centred_values_at_the_edges(bits):
    ring, half = Ring(bits), 2 ** (bits - 1)
    edges = [0, 1, -1, half - 1, -half]
    assert ring.centred(vector(ring, edges)).tolist() == edges
    one_more = vector(ring, [half - 1])
    ring.add(one_more, vector(ring, [1]))
    assert ring.centred(one_more).tolist() == [-half]
    ring.subtract(one_more, vector(ring, [1]))
    assert ring.centred(one_more).tolist() == [half - 1]


def test_elements_of_24_bits_stay_below_2_to_the_24():
    ring = Ring(24)
    total = ring.zeros(1)
    ring.subtract(total, vector(ring, [1]))
    assert total.tolist() == [2**24 - 1]
    ring.add(total, vector(ring, [2]))
    assert total.tolist() == [1]
    with pytest.raises(OutOfRange, match="2\\^24"):
        ring.pack(np.array([2**24], np.uint32))


@pytest.mark.parametrize("bits", ALL)
def test_other_arrays_are_refused(bits):
    ring = Ring(bits)
    for wrong in (np.zeros(2), np.zeros(2, ring.signed), np.zeros((2, 2), ring.dtype)):
        for call in (ring.check, ring.pack, ring.centred):
            with pytest.raises(WrongShape, match="ring vector"):
                call(wrong)
    with pytest.raises(WrongShape, match=f"multiple of {bits // 8}"):
        ring.unpack(bytes(bits // 8 + 1))
