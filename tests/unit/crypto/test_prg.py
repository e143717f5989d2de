"""Masks against published key streams and pycryptodome; any chunks; statistics that can fail."""

import hashlib
import tracemalloc

import numpy as np
import pytest
from Crypto.Cipher import AES, ChaCha20
from hypothesis import given, settings
from hypothesis import strategies as st

from choral.core.errors import ConfigError, Refused, WrongShape
from choral.crypto.prg import BUFFER_SIZE, Generator, Mask
from choral.crypto.ring import Ring
from choral.crypto.secret import Secret

KEY = hashlib.sha256(b"mask").digest()
RINGS = [Ring(16), Ring(24), Ring(32), Ring(64)]


def mask(generator=Generator.AES_256_CTR, *, key=KEY, ring=RINGS[2]):
    return Mask(generator, Secret(key), ring=ring)


def elements(made, size, *, start=0):
    out = made.ring.zeros(size)
    made.add_into(out, start=start, sign=1)
    return out


def stream_bytes(made, size, *, begin=0):
    """Return bytes of the key stream by way of a mask of bytes' worth of elements."""
    width = made.ring.width
    return bytes(made.ring.pack(elements(made, size // width, start=begin // width)))


def oracle(generator, key, begin, size):
    """Return the key stream as pycryptodome makes it."""
    if generator is Generator.CHACHA20:
        cipher = ChaCha20.new(key=key, nonce=bytes(8))
        cipher.seek(begin)
        return cipher.encrypt(bytes(size))
    block, skip = divmod(begin, 16)
    cipher = AES.new(key, AES.MODE_CTR, nonce=b"", initial_value=block)
    return cipher.encrypt(bytes(skip + size))[skip:]


def test_the_numbers_of_the_generators():
    assert {g.name: g.value for g in Generator} == {"AES_256_CTR": 1, "CHACHA20": 2}


@pytest.mark.parametrize("ring", RINGS[:1] + RINGS[2:])
def test_nist_ctr(vectors, ring):
    """The vector's counter is a block far down our stream."""
    for v in vectors("aes_ctr")["vectors"]:
        text = bytes.fromhex(v["plaintext"])
        made = mask(key=bytes.fromhex(v["key"]), ring=ring)
        stream = stream_bytes(made, len(text), begin=16 * int(v["counter"], 16))
        assert bytes(a ^ b for a, b in zip(text, stream, strict=True)).hex() == v["ciphertext"]


def test_rfc_8439(vectors):
    for v in vectors("chacha20")["vectors"]:
        made = mask(Generator.CHACHA20, key=bytes.fromhex(v["key"]))
        assert stream_bytes(made, 64, begin=64 * v["block"]).hex() == v["keystream"]


def test_frozen_masks_around_the_edges(vectors):
    for v in vectors("masks")["vectors"]:
        made = mask(Generator(v["generator"]), key=bytes.fromhex(v["key"]), ring=Ring(v["bits"]))
        assert elements(made, len(v["elements"]), start=v["start"]).tolist() == v["elements"]


@pytest.mark.parametrize("generator", Generator)
@pytest.mark.parametrize("ring", RINGS)
@given(st.binary(min_size=32, max_size=32), st.integers(0, 2**34), st.integers(0, 50))
def test_pycryptodome_makes_the_same_stream(generator, ring, key, start, size):
    made = mask(generator, key=key, ring=ring)
    width = ring.width
    raw = oracle(generator, key, start * width, size * width)
    expected = [int.from_bytes(raw[i : i + width], "little") for i in range(0, len(raw), width)]
    assert elements(made, size, start=start).tolist() == expected


def test_the_last_block_of_chacha20_and_none_after_it():
    begin = 64 * 2**32 - 128
    made = mask(Generator.CHACHA20)
    expected = oracle(Generator.CHACHA20, KEY, begin, 128)
    assert stream_bytes(made, 128, begin=begin) == expected
    with pytest.raises(ConfigError, match="outside"):
        elements(made, 1, start=16 * 2**32)
    with pytest.raises(ConfigError, match="outside"):
        elements(made, 2, start=16 * 2**32 - 1)


def edge(ring):
    """Elements that fill the buffer once."""
    return BUFFER_SIZE // ring.dtype.itemsize


@settings(max_examples=20)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 5, -1, -2, -3]), min_size=1, max_size=4),
    generator=st.sampled_from(Generator),
    ring=st.sampled_from(RINGS),
    backwards=st.booleans(),
)
def test_any_chunks_in_any_order_give_the_same_mask(sizes, generator, ring, backwards):
    """Negative sizes stand for buffer - 1, buffer, buffer + 1."""
    sizes = [edge(ring) + size + 2 if size < 0 else size for size in sizes]
    whole = elements(mask(generator, ring=ring), sum(sizes))
    made, out = mask(generator, ring=ring), ring.zeros(sum(sizes))
    stops = np.cumsum(sizes).tolist()
    chunks = [slice(stop - size, stop) for stop, size in zip(stops, sizes, strict=True)]
    for chunk in reversed(chunks) if backwards else chunks:
        made.add_into(out[chunk], start=chunk.start, sign=1)
    np.testing.assert_array_equal(out, whole)


@pytest.mark.parametrize("generator", Generator)
@pytest.mark.parametrize("ring", RINGS)
def test_adding_and_subtracting_cancel(generator, ring):
    size = edge(ring) + 3
    start = elements(mask(key=bytes(32), ring=ring), size)
    out = start.copy()
    made = mask(generator, ring=ring)
    made.add_into(out, start=7, sign=1)
    assert (out != start).mean() > 0.99
    if ring.bits == 24:
        assert out.max() < 2**24
    made.add_into(out, start=7, sign=-1)
    np.testing.assert_array_equal(out, start)


def test_it_adds_to_every_other_element_of_an_array():
    """A view with strides is a vector, too."""
    held = np.zeros(20, np.uint32)
    mask().add_into(held[::2], start=0, sign=1)
    assert held[::2].tolist() == elements(mask(), 10).tolist()
    assert not held[1::2].any()


def test_keys_and_generators_make_different_masks():
    first = elements(mask(), 8).tolist()
    assert first != elements(mask(key=bytes(32)), 8).tolist()
    assert first != elements(mask(Generator.CHACHA20), 8).tolist()


def test_memory_stays_at_one_buffer():
    """NumPy reports to tracemalloc, so a temporary of the vector's size would show."""
    ring = Ring(24)
    out, made = ring.zeros(1 << 20), mask(ring=ring)
    made.add_into(out[:1], start=0, sign=1)
    tracemalloc.start()
    made.add_into(out, start=0, sign=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < BUFFER_SIZE + 8192


def test_wrong_calls_are_refused():
    made, out = mask(), RINGS[2].zeros(2)
    with pytest.raises(ConfigError, match="sign 2"):
        made.add_into(out, start=0, sign=2)
    with pytest.raises(ConfigError, match="outside"):
        made.add_into(out, start=-1, sign=1)
    with pytest.raises(WrongShape):
        made.add_into(np.zeros(2, np.uint64), start=0, sign=1)


def test_a_call_cut_short_leaves_the_mask_right():
    """The key stream has moved on when the addition fails; the next call starts anew."""
    made, frozen = mask(), RINGS[2].zeros(2)
    frozen.flags.writeable = False
    whole = elements(mask(), 8).tolist()
    assert elements(made, 4).tolist() == whole[:4]
    with pytest.raises(ValueError, match="read-only"):
        made.add_into(frozen, start=4, sign=1)
    assert elements(made, 4, start=4).tolist() == whole[4:]


def test_an_erased_mask_makes_nothing():
    key = Secret(KEY)
    made = Mask(Generator.AES_256_CTR, key, ring=RINGS[2])
    elements(made, 2)
    made.erase()
    assert key.erased
    with pytest.raises(Refused, match="erased"):
        elements(made, 2)


# --- Statistics, each with a control that must fail ----------------------------------------------


def chi_square_of_bytes(data):
    counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
    expected = len(data) / 256
    return float(((counts - expected) ** 2 / expected).sum())


CHI_SQUARE_LIMIT = 400.0
"""255 degrees of freedom: 6.4 standard deviations above the mean, false alarm below 1e-7."""


@pytest.mark.parametrize("generator", Generator)
@pytest.mark.parametrize("ring", RINGS)
def test_every_byte_of_an_element_is_uniform(generator, ring):
    data = stream_bytes(mask(generator, ring=ring), ring.width << 16)
    for place in range(ring.width):
        assert chi_square_of_bytes(data[place :: ring.width]) < CHI_SQUARE_LIMIT


def test_a_mask_from_small_numbers_is_caught():
    """A generator that leaves out one value of 256, as `integers(0, 255)` does."""
    small = np.random.Generator(np.random.PCG64(1)).integers(0, 255, 1 << 16, dtype=np.uint8)
    assert chi_square_of_bytes(small.tobytes()) > CHI_SQUARE_LIMIT
    whole = np.random.Generator(np.random.PCG64(1)).integers(0, 256, 1 << 16, dtype=np.uint8)
    assert chi_square_of_bytes(whole.tobytes()) < CHI_SQUARE_LIMIT


def linear_complexity(bits):
    """Return the length of the shortest shift register that gives these bits (Massey 1969)."""
    now, before, length, last, seen = 1, 1, 0, -1, 0
    for place, bit in enumerate(bits):
        seen = seen << 1 | bit
        if (now & seen).bit_count() & 1:
            now, saved = now ^ before << place - last, now
            if 2 * length <= place:
                length, last, before = place + 1 - length, place, saved
    return length


COUNT = 41_000
"""More than twice the 19 937 bits of a Mersenne Twister's state."""


def test_linear_complexity_by_hand():
    assert linear_complexity([0, 0, 0, 1]) == 4
    assert linear_complexity([1, 0, 1, 0, 1, 0]) == 2
    assert linear_complexity([1, 1, 1, 1]) == 1


@pytest.mark.parametrize("generator", Generator)
def test_low_bits_follow_no_short_register(generator):
    """Random bits have complexity n/2 within c bits but for a chance of about 2^-2c."""
    low = (elements(mask(generator), COUNT) & 1).tolist()
    assert abs(linear_complexity(low) - COUNT / 2) < 20


def test_a_mersenne_twister_is_caught():
    low = (np.random.MT19937(1).random_raw(COUNT) & 1).tolist()
    assert linear_complexity(low) == 19_937
