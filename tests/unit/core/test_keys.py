"""Random keys: a name gives a stream, and always the same one."""

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from choral.core.keys import Key

PARTS = st.lists(st.text(max_size=6) | st.integers(-(2**127), 2**127 - 1), max_size=5)


def test_golden_root_and_fold() -> None:
    root = Key.root(7)
    child = root.fold(3, "a", "train")
    assert root.state.hex() == "68b02b0d896fe00823f1c406b76d26c932b672d6fe36e6051f5b576853b78c80"
    assert child.state.hex() == "03b0e5648348ea11bdd7656e7ca077f3a5bed126837122c1ac84033c47a82568"
    assert (
        root.fold(-1).state.hex()
        == "b69637884bc5609a9e28056dcf6393dba65df21e45f35f66ee2ae35bae935605"
    )


def test_golden_draws() -> None:
    key = Key.root(7).fold(3, "a", "train")
    assert key.seed64() == 645461986182879233
    assert key.uniform() == float.fromhex("0x1.e6ef40f8dccbap-1")
    assert key.bits().random_raw(3).tolist() == [
        0xA18BFA9B3213D0B2,
        0x1E9FFE6C5B8DAF9F,
        0x893680A9F174B12C,
    ]


def test_derivation_by_hand() -> None:
    state = hashlib.sha256(b"choral key v1" + b"\x07" + bytes(7)).digest()
    state = hashlib.sha256(state + b"i" + b"\x03" + bytes(15)).digest()
    state = hashlib.sha256(state + b"s" + "é".encode()).digest()
    assert Key.root(7).fold(3, "é").state == state


@pytest.mark.parametrize("seed", [0, 2**64 - 1])
def test_smallest_and_largest_seed(seed: int) -> None:
    assert Key.root(seed).seed == seed


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_beyond_64_bits_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=f"seed {seed}: expected 0 to"):
        Key.root(seed)


@given(PARTS, PARTS)
@settings(derandomize=True, deadline=None)
def test_folding_in_steps_is_folding_at_once(first: list[str | int], then: list[str | int]) -> None:
    root = Key.root(1)
    assert root.fold(*first).fold(*then) == root.fold(*first, *then)


@given(PARTS, PARTS)
@settings(derandomize=True, deadline=None)
def test_two_names_are_two_keys(a: list[str | int], b: list[str | int]) -> None:
    same = [(type(p), p) for p in a] == [(type(p), p) for p in b]
    assert (Key.root(1).fold(*a) == Key.root(1).fold(*b)) == same


def test_words_numbers_and_splits_do_not_collide() -> None:
    root = Key.root(7)
    names = [(), ("1",), (1,), ("i1",), ("a", "b"), ("ab",), ("", "ab"), ("ab", ""), (0,), ("",)]
    assert len({root.fold(*name) for name in names}) == len(names)


def test_folding_leaves_the_key_as_it_was() -> None:
    root = Key.root(7)
    before = (root.state, root.bits().random_raw(2).tolist())
    root.fold("a").bits().random_raw(100)
    assert (root.state, root.bits().random_raw(2).tolist()) == before


def test_children_remember_the_seed_and_differ_by_it() -> None:
    assert Key.root(7).fold("a").seed == 7
    assert Key.root(7).fold("a").state != Key.root(8).fold("a").state


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint64])
def test_a_numpy_integer_names_the_same_child(dtype: Any) -> None:
    assert Key.root(7).fold(dtype(3)) == Key.root(7).fold(3)


@pytest.mark.parametrize(
    "part", [1.0, 1.5, float("nan"), np.float32(2), np.array([1, 2]), None, b"a", ("a",)]
)
def test_a_part_that_is_neither_word_nor_whole_number_is_refused(part: Any) -> None:
    """A float cut down to a whole number would name the stream of another client."""
    with pytest.raises(TypeError):
        Key.root(7).fold("a", part)


def test_each_call_starts_the_stream_afresh() -> None:
    key = Key.root(2)
    first, second = key.rng(), key.rng()
    assert first.random(3).tolist() == second.random(3).tolist()


def test_uniform_fills_the_unit_interval() -> None:
    """Kolmogorov–Smirnov distance of 4 096 keys' draws.

    The DKW inequality bounds the false-alarm rate by 2 exp(-2 n d^2): 1e-9 for d = 0.0512.
    """
    draws = np.sort([Key.root(5).fold(i).uniform() for i in range(4096)])
    steps = np.arange(4096) / 4096
    assert max(np.abs(draws - steps).max(), np.abs(draws - steps - 1 / 4096).max()) < 0.0512
    assert draws.min() >= 0
    assert draws.max() < 1


def test_seed64_fits_a_signed_integer() -> None:
    seeds = {Key.root(5).fold(i).seed64() for i in range(500)}
    assert len(seeds) == 500
    assert min(seeds) >= 0
    assert 2**62 < max(seeds) < 2**63
