"""The grid by hand, its edges, its rounding, and the proof that a sum cannot overflow."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from choral.core.errors import ConfigError, NotFinite, OutOfRange, PlanError, WrongShape
from choral.core.keys import Key
from choral.crypto.fixed_point import GRANULE, MAX_BITS, FixedPoint, check_no_overflow
from choral.crypto.ring import Ring

KEY = Key.root(3)
PAIRS = [(16, 2), (16, 12), (16, 16), (24, 20), (32, 20), (32, 32), (64, MAX_BITS)]


class Draws:
    """A key whose rounding draws are all one given 16-bit word."""

    def __init__(self, word):
        self._word = word

    def fold(self, *parts):
        return self

    def bits(self):
        return self

    def random_raw(self, size):
        return np.full(size, self._word * 0x0001000100010001, np.uint64)


LOWEST, HIGHEST = Draws(0), Draws(2**16 - 1)


def encode(fixed, x, *, key=KEY, start=0, weight=1.0):
    x = np.asarray(x)
    out = fixed.ring.zeros(x.size)
    fixed.encode_into(x, out, start=start, key=key, weight=weight)
    return out


def integers(fixed, x, **options):
    return fixed.ring.centred(encode(fixed, x, **options)).tolist()


def test_by_hand():
    """b = 4: L = 7; C = 7, so the grid is 1. Draws: 2^-17 and 1 - 2^-17."""
    fixed = FixedPoint(Ring(16), 4, 7.0)
    assert (fixed.limit, fixed.grid) == (7, 1.0)
    x = np.array([0, 0.5, -0.5, 2, -2, 2.25, -2.25, 9, -9])
    assert integers(fixed, x, key=LOWEST) == [0, 0, -1, 2, -2, 2, -3, 7, -7]
    assert integers(fixed, x, key=HIGHEST) == [0, 1, 0, 2, -2, 3, -2, 7, -7]
    assert encode(fixed, [-1.0], key=LOWEST).tolist() == [2**16 - 1]
    assert integers(fixed, x, key=LOWEST, weight=0.5) == [0, 0, -1, 1, -1, 1, -2, 3, -4]
    assert integers(fixed, x, key=HIGHEST, weight=0.0) == [0] * 9


@pytest.mark.parametrize(("modulus", "bits"), PAIRS)
@pytest.mark.parametrize("clip", [1.0, 0.1, 3.7, 2.0**-60, 1e9])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("key", [LOWEST, HIGHEST, KEY])
def test_rounding_cannot_leave_the_limit(modulus, bits, clip, dtype, key):
    fixed = FixedPoint(Ring(modulus), bits, clip)
    near = [clip, np.nextafter(clip, 0), np.nextafter(clip, np.inf), 2 * clip, 1e30]
    x = np.array([*near, *(-v for v in near)], dtype)
    found = integers(fixed, x, key=key)
    assert max(map(abs, found)) == fixed.limit
    for weight in (1.0, 1 - 2**-53, 0.3):
        assert max(map(abs, integers(fixed, x, key=key, weight=weight))) <= fixed.limit


@pytest.mark.parametrize(("modulus", "bits"), PAIRS)
@given(data=st.data())
def test_an_encoded_coordinate_is_one_of_its_two_neighbours(modulus, bits, data):
    fixed = FixedPoint(Ring(modulus), bits, 2.0)
    x = data.draw(st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=10))
    for value, found in zip(x, integers(fixed, np.array(x, np.float32)), strict=True):
        exact = Fraction(min(max(value, -2.0), 2.0)) * fixed.limit / 2
        slack = Fraction(1, 2**16)  # the product is a float64, and draws stop 2^-17 short of 0, 1
        assert math.floor(exact - slack) <= found <= math.ceil(exact + slack)


def test_rounding_is_unbiased():
    """Mean of 2^16 roundings of 0.3; six standard errors, false alarm below 1e-8."""
    fixed, count = FixedPoint(Ring(32), 20, 1.0), 1 << 16
    x = np.full(count, 0.3 * fixed.grid)
    mean = np.mean(integers(fixed, x))
    assert abs(mean - 0.3) < 6 * math.sqrt(0.3 * 0.7 / count)


def test_rounding_repeats_for_a_key_and_differs_between_keys():
    fixed = FixedPoint(Ring(32), 20, 1.0)
    x = np.linspace(-1, 1, 100)
    assert integers(fixed, x) == integers(fixed, x)
    assert integers(fixed, x) != integers(fixed, x, key=KEY.fold("other"))


@given(
    st.lists(st.sampled_from([0, 1, 3, GRANULE - 1, GRANULE, GRANULE + 1, 777]), max_size=6),
    st.sampled_from([16, 24, 32, 64]),
)
def test_chunks_of_any_size_give_the_same_integers(sizes, modulus):
    fixed = FixedPoint(Ring(modulus), 16, 1.0)
    x = KEY.rng().uniform(-1, 1, sum(sizes)).astype(np.float32)
    parts, start = [], 0
    for size in sizes:
        parts += integers(fixed, x[start : start + size], start=start)
        start += size
    assert parts == integers(fixed, x)


def test_granules_draw_apart():
    fixed = FixedPoint(Ring(32), 20, 1.0)
    x = np.full(2 * GRANULE, 0.5 * fixed.grid)
    found = integers(fixed, x)
    assert found[:GRANULE] != found[GRANULE:]
    assert abs(np.corrcoef(found[:GRANULE], found[GRANULE:])[0, 1]) < 6 / math.sqrt(GRANULE)


def test_frozen():
    """Any change of these integers is a change of every secure run."""
    fixed = FixedPoint(Ring(24), 12, 1.0)
    x = np.linspace(-1, 1, 9, dtype=np.float32)
    assert integers(fixed, x, start=GRANULE - 4, weight=0.75) == FROZEN


FROZEN = [-1536, -1152, -768, -384, 0, 383, 768, 1151, 1536]


@pytest.mark.parametrize(
    ("modulus", "bits", "clients"), [(16, 5, 1024), (24, 13, 1024), (32, 21, 1024)]
)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_sum_at_the_edge_does_not_wrap(modulus, bits, clients, sign):
    """The largest cohort that is allowed, each coordinate at its clip."""
    check_no_overflow(bits=bits, clients=clients, modulus_bits=modulus, noise_headroom=0)
    fixed = FixedPoint(Ring(modulus), bits, 2.0)
    one, total = encode(fixed, [2.0 * sign]), fixed.ring.zeros(1)
    for _ in range(clients):
        fixed.ring.add(total, one)
    found = fixed.decode(total, count=clients, slack=0)
    assert found == pytest.approx([2.0 * sign * clients], rel=1e-12)


def test_negative_numbers_are_elements_of_the_ring():
    fixed = FixedPoint(Ring(24), 4, 7.0)
    assert encode(fixed, [-1.0, 1.0], key=LOWEST).tolist() == [2**24 - 1, 1]


def test_decoding_by_hand():
    fixed = FixedPoint(Ring(16), 4, 3.5)
    total = np.array([0, 3, 2**16 - 3, 14, 2**16 - 14], np.uint16)
    assert fixed.decode(total, count=2, slack=0).tolist() == [0, 1.5, -1.5, 7, -7]
    assert fixed.decode(total[:0], count=2, slack=0).size == 0


@pytest.mark.parametrize("value", [15, 2**16 - 15, 2**15, 2**15 - 1])
def test_a_sum_beyond_its_bound_is_refused(value):
    fixed = FixedPoint(Ring(16), 4, 3.5)
    total = np.array([0, value], np.uint16)
    with pytest.raises(OutOfRange, match="2 clipped contributions"):
        fixed.decode(total, count=2, slack=0)
    assert fixed.decode(total, count=2, slack=2**15).size == 2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_not_finite_is_refused(bad, dtype):
    with pytest.raises(NotFinite):
        encode(FixedPoint(Ring(32), 20, 1.0), np.array([0, bad, 0], dtype))


@pytest.mark.parametrize("weight", [-0.1, 1.1, math.nan])
def test_weights_are_shares(weight):
    with pytest.raises(OutOfRange, match="0 to 1"):
        encode(FixedPoint(Ring(32), 20, 1.0), [0.0], weight=weight)


def test_shapes_must_fit():
    fixed = FixedPoint(Ring(32), 20, 1.0)
    for out, start in (
        (np.zeros(2, np.uint32), 0),
        (np.zeros(1, np.uint16), 0),
        (fixed.ring.zeros(1), -1),
    ):
        with pytest.raises(WrongShape):
            fixed.encode_into(np.zeros(1), out, start=start, key=KEY, weight=1.0)


@pytest.mark.parametrize(
    ("modulus", "bits", "clip"),
    [
        (16, 17, 1.0),
        (64, 37, 1.0),
        (32, 1, 1.0),
        (32, 20, 0.0),
        (32, 20, -1.0),
        (32, 20, math.inf),
        (32, 20, math.nan),
    ],
)
def test_grids_out_of_range_are_refused(modulus, bits, clip):
    with pytest.raises(ConfigError, match="expected"):
        FixedPoint(Ring(modulus), bits, clip)


@pytest.mark.parametrize(
    ("bits", "clients", "headroom", "needed"),
    [
        (20, 1, 0, 21),
        (20, 2, 0, 22),
        (20, 3, 0, 23),
        (20, 1000, 0, 31),
        (20, 1024, 0, 31),
        (20, 1025, 0, 32),
        (20, 1025, 2, 34),
    ],
)
def test_the_rule_of_no_overflow(bits, clients, headroom, needed):
    settings = {"bits": bits, "clients": clients, "noise_headroom": headroom}
    check_no_overflow(modulus_bits=needed, **settings)
    with pytest.raises(PlanError, match=f"needs {needed} bits, the modulus has {needed - 1}"):
        check_no_overflow(modulus_bits=needed - 1, **settings)


def test_the_hint_names_bits_that_fit():
    with pytest.raises(PlanError, match="at most 21 bits a coordinate"):
        check_no_overflow(bits=24, clients=1024, modulus_bits=32, noise_headroom=0)


@pytest.mark.parametrize("wrong", [{"bits": 1}, {"clients": 0}, {"noise_headroom": -1}])
def test_nonsense_is_a_configuration_error(wrong):
    settings = {"bits": 20, "clients": 4, "modulus_bits": 32, "noise_headroom": 0}
    with pytest.raises(ConfigError, match="expected at least"):
        check_no_overflow(**(settings | wrong))
