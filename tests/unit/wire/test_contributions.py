"""Contributions as raw bytes, laid out by hand and read strictly."""

import contextlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from choral.core.aggregation import RingGrid
from choral.core.errors import ChoralError, OutOfRange, UpdateRejected, WrongShape
from choral.core.exact import Contribution, Encoding
from choral.core.params import Spec
from choral.crypto.ring import Ring
from choral.wire.contributions import (
    MAX_METRICS,
    contribution_blocks,
    contribution_from_bytes,
    contribution_limit,
    masked_blocks,
    masked_bytes,
    masked_from_bytes,
)

SPEC = Spec.of({"w": np.zeros(3, np.float32)})
ENCODING = Encoding(weight_unit=8.0, weight_cap=16.0)
CAP = 2 << 30
VECTOR = np.array([1, -2, 2**31 - 1], np.int32)


def raw_of(contribution):
    return b"".join(contribution_blocks(contribution))


def laid_out(weight=5, *metrics):
    """The bytes as the page of the format says, by hand."""
    out = b"\x01\0\0\0" + b"\xfe\xff\xff\xff" + b"\xff\xff\xff\x7f" + struct.pack("<q", weight)
    for name, value in metrics:
        out += struct.pack("<H", len(name)) + name + struct.pack("<q", value)
    return out


def read(raw):
    return contribution_from_bytes(raw, SPEC, ENCODING)


def test_the_layout():
    contribution = Contribution(VECTOR, 5, {"loss": -7, "accuracy": 2**62})
    raw = raw_of(contribution)
    assert raw == laid_out(5, (b"accuracy", 2**62), (b"loss", -7))
    assert len(raw) <= contribution_limit(SPEC)


def test_a_contribution_comes_back_and_its_vector_is_a_view():
    raw = laid_out(5, (b"accuracy", 1), (b"loss", -7))
    found = read(raw)
    assert found.vector.dtype == np.int32
    assert np.array_equal(found.vector, VECTOR)
    assert (found.weight, found.metrics) == (5, {"accuracy": 1, "loss": -7})
    assert not found.vector.flags.owndata
    assert np.shares_memory(found.vector, np.frombuffer(raw, np.uint8))


def test_the_vector_is_not_copied_when_written():
    vector = VECTOR.copy()
    block, _ = contribution_blocks(Contribution(vector, 0))
    assert np.shares_memory(np.frombuffer(block, np.uint8), vector)


@given(
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=3, max_size=3),
    st.integers(0, CAP),
    st.dictionaries(
        st.text(min_size=1, max_size=20).filter(str.isprintable),
        st.integers(-(2**63), 2**63 - 1),
        max_size=5,
    ),
)
def test_any_contribution_comes_back(vector, weight, metrics):
    there = Contribution(np.array(vector, np.int32), weight, metrics)
    raw = raw_of(there)
    back = read(raw)
    assert back.vector.tolist() == vector
    assert (back.weight, back.metrics) == (weight, metrics)
    assert raw_of(back) == raw


@pytest.mark.parametrize(
    ("raw", "kind", "message"),
    [
        (b"", WrongShape, "of 0 bytes, expected at least 20: 3 elements and the weight"),
        (laid_out()[:-1], WrongShape, "of 19 bytes"),
        (laid_out(-1), OutOfRange, "encoded weight -1, expected 0 to 2147483648"),
        (laid_out(CAP + 1), OutOfRange, "encoded weight 2147483649"),
        (laid_out(5) + b"\0", UpdateRejected, "a metric that ends before"),
        (laid_out(5) + b"\0\0", UpdateRejected, "a metric that ends before"),
        (laid_out(5, (b"", 1)), UpdateRejected, "a metric that ends before its 0 bytes"),
        (laid_out(5, (b"loss", 1))[:-1], UpdateRejected, "a metric that ends before its 4 bytes"),
        (laid_out(5) + b"\xff\xffloss", UpdateRejected, "a metric that ends before its 65535"),
        (laid_out(5, (b"b", 1), (b"a", 1)), UpdateRejected, "metrics out of order"),
        (laid_out(5, (b"a", 1), (b"a", 1)), UpdateRejected, "metrics out of order"),
        (laid_out(5, (b"\xff", 1)), UpdateRejected, "not UTF-8"),
        (laid_out(5, (b"a\x1b", 1)), UpdateRejected, "expected a word"),
        (laid_out(5, (b"n" * 257, 1)), UpdateRejected, "before its 257 bytes"),
        (laid_out(5, *((b"%03d" % i, 1) for i in range(257))), UpdateRejected, "more than 256"),
    ],
)
def test_what_is_refused(raw, kind, message):
    with pytest.raises(kind, match=message):
        read(raw)


def test_edges_that_pass():
    assert read(laid_out(CAP)).weight == CAP
    most = laid_out(0, *((b"%0256d" % i, 1) for i in range(MAX_METRICS)))
    assert len(most) == contribution_limit(SPEC)
    assert len(read(most).metrics) == MAX_METRICS


@pytest.mark.parametrize(
    ("contribution", "kind"),
    [
        (Contribution(VECTOR, 1 << 63), OutOfRange),
        (Contribution(VECTOR, 0, {"loss": 1 << 63}), OutOfRange),
        (Contribution(VECTOR, 0, {"": 1}), UpdateRejected),
        (Contribution(VECTOR, 0, {"é" * 129: 1}), UpdateRejected),
        (Contribution(VECTOR, 0, {str(i): 1 for i in range(257)}), UpdateRejected),
    ],
)
def test_what_is_not_written(contribution, kind):
    with pytest.raises(kind):
        contribution_blocks(contribution)


@given(st.binary(max_size=80))
def test_arbitrary_bytes_never_raise_anything_else(raw):
    with contextlib.suppress(ChoralError):
        assert raw_of(read(raw)) == raw


@pytest.mark.parametrize("bits", [16, 24, 32, 64])
def test_masked_vectors_are_ring_bytes(bits):
    grid = RingGrid(4.0, 100.0, 10, bits, (("loss", 1.0),))
    ring = Ring(bits)
    vector = ring.zeros(6)  # three of the model, the weight, two for the metric
    vector[:] = [1, 2, 3, 4, 5, 2**bits - 1]
    raw = b"".join(masked_blocks(vector, grid))
    assert raw == b"".join(int(v).to_bytes(bits // 8, "little") for v in vector)
    assert masked_bytes(SPEC, grid) == len(raw)
    assert np.array_equal(masked_from_bytes(raw, SPEC, grid), vector)
    for wrong in (raw[:-1], raw + b"\0", b""):
        with pytest.raises(WrongShape, match=f"expected {len(raw)}"):
            masked_from_bytes(wrong, SPEC, grid)
