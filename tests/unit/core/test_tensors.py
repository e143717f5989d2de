"""Tensor files: the `safetensors` package reads ours, we read its, and nothing else gets in."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from choral.core.errors import ConfigError, StoreError
from choral.core.params import Params
from choral.core.tensors import DTYPES, MAX_HEADER_BYTES, decode_tensors, encode_tensors

NAMES = st.text(st.characters(codec="utf-8"), max_size=8).filter(lambda n: n != "__metadata__")
ARRAYS = hnp.arrays(
    st.sampled_from([np.dtype(name) for name in DTYPES]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)
MODELS = st.dictionaries(NAMES, ARRAYS, max_size=4)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 70) | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=6,
)


def encode(arrays: Mapping[str, np.ndarray]) -> bytes:
    return b"".join(encode_tensors(arrays))


def file(header: Any, body: bytes = b"") -> bytes:
    """A tensor file with any header: bytes as they are, else as JSON."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def same(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> bool:
    """Equal names, and arrays equal to the bit, NaN included."""
    return ours.keys() == theirs.keys() and all(
        ours[n].dtype == theirs[n].dtype
        and ours[n].shape == theirs[n].shape
        and ours[n].tobytes() == theirs[n].tobytes()
        for n in ours
    )


# --- The layout, and the other implementation of it -------------------------------------------


def test_golden_bytes() -> None:
    arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(7, np.int64)}
    assert encode(arrays) == (
        b"p\x00\x00\x00\x00\x00\x00\x00"
        b'{"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},'
        b'"n":{"dtype":"I64","shape":[],"data_offsets":[24,32]}} '
        b"\x00\x00\x00\x00\x00\x00\x80?\x00\x00\x00@\x00\x00@@\x00\x00\x80@\x00\x00\xa0@"
        b"\x07\x00\x00\x00\x00\x00\x00\x00"
    )


def test_a_file_without_tensors() -> None:
    assert encode({}) == b"\x08" + bytes(7) + b"{}      "
    assert decode_tensors(encode({})) == {}


@given(MODELS)
@settings(derandomize=True, deadline=None)
def test_the_safetensors_package_reads_our_files(arrays: dict[str, np.ndarray]) -> None:
    assert same(safetensors.numpy.load(encode(arrays)), arrays)


@given(MODELS)
@settings(derandomize=True, deadline=None)
def test_we_read_the_files_of_the_safetensors_package(arrays: dict[str, np.ndarray]) -> None:
    assert same(decode_tensors(safetensors.numpy.save(arrays)), arrays)


@given(MODELS)
@settings(derandomize=True, deadline=None)
def test_reading_gives_back_arrays_and_order(arrays: dict[str, np.ndarray]) -> None:
    back = decode_tensors(encode(arrays))
    assert list(back) == list(arrays)
    assert same(back, arrays)


def test_their_metadata_is_skipped() -> None:
    w = np.ones(2, np.float32)
    data = safetensors.numpy.save({"w": w}, metadata={"format": "pt"})
    assert same(decode_tensors(data), {"w": w})


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_allowed_dtype(dtype: str) -> None:
    arrays = {"a": np.array([0, 1, 1], dtype)}
    data = encode(arrays)
    assert f'"dtype":"{DTYPES[dtype]}"'.encode() in data
    assert same(decode_tensors(data), arrays)
    assert same(safetensors.numpy.load(data), arrays)


def test_any_memory_layout_is_written_in_row_order_and_little_endian() -> None:
    w = np.arange(12, dtype=np.float32).reshape(3, 4)
    expected = encode({"w": w})
    assert encode({"w": np.asfortranarray(w)}) == expected
    assert encode({"w": w.astype(">f4")}) == expected
    assert encode({"w": np.repeat(w, 2, axis=0)[::2]}) == expected


def test_the_header_is_padded_so_that_buffers_start_on_eight_bytes() -> None:
    for name in ("a", "ab", "abc", "é", "a" * 9):
        data = encode({name: np.zeros(1, np.float64)})
        assert int.from_bytes(data[:8], "little") % 8 == 0


def test_writing_copies_no_buffer_and_reading_none() -> None:
    w = np.arange(4, dtype=np.float32)
    _, buffer = encode_tensors({"w": w})
    assert np.shares_memory(np.frombuffer(buffer, np.float32), w)
    data = encode({"w": w})
    assert np.shares_memory(decode_tensors(data)["w"], np.frombuffer(data, np.uint8))


def test_what_is_read_cannot_be_written_to() -> None:
    back = decode_tensors(bytearray(encode({"w": np.zeros(2, np.float32)})))
    with pytest.raises(ValueError, match="read-only"):
        back["w"][0] = 1


def test_a_memoryview_is_read_as_bytes_are() -> None:
    data = encode({"w": np.ones(2, np.float32)})
    words = memoryview(np.frombuffer(data, np.uint64))
    assert same(decode_tensors(words), decode_tensors(data))


def test_tensors_may_lie_in_another_order_than_their_names() -> None:
    header = {"b": entry(offsets=[4, 8]), "a": entry(offsets=[0, 4])}
    back = decode_tensors(file(header, np.array([1, 2], np.float32).tobytes()))
    assert list(back) == ["b", "a"]
    assert (back["a"].item(), back["b"].item()) == (1.0, 2.0)


# --- Files that are not as the format says ----------------------------------------------------

FOUR = b"1234"
BAD = {
    "nothing": b"",
    "seven bytes": bytes(7),
    "header longer than the file": (9).to_bytes(8, "little") + b"{}",
    "header of 2^63 bytes": b"\xff" * 8,
    "header beyond the limit": (MAX_HEADER_BYTES + 1).to_bytes(8, "little")
    + bytes(MAX_HEADER_BYTES + 1),
    "header of no bytes": bytes(8),
    "header not UTF-8": file(b'{"\xff": 1}'),
    "header not JSON": file(b"{"),
    "header a list": file([]),
    "header a number": file(3),
    "entry a list": file({"a": []}),
    "entry null": file({"a": None}),
    "number of 5000 digits": file(b'{"a":' + b"9" * 5000 + b"}"),
    "no offsets": file({"a": {"dtype": "F32", "shape": [1]}}, FOUR),
    "one offset": file({"a": entry(offsets=[0])}, FOUR),
    "three offsets": file({"a": entry(offsets=[0, 4, 4])}, FOUR),
    "float offsets": file({"a": entry(offsets=[0.0, 4.0])}, FOUR),
    "true offsets": file({"a": entry("U8", [1], [False, True])}, b"1"),
    "text offsets": file({"a": entry(offsets="04")}, FOUR),
    "negative offset": file({"a": entry(offsets=[-4, 0])}, FOUR),
    "offsets swapped": file({"a": entry(offsets=[4, 0])}, FOUR),
    "offsets behind the end": file({"a": entry(shape=[2], offsets=[0, 8])}, FOUR),
    "huge offsets": file({"a": entry(shape=[2**62], offsets=[0, 2**64])}, FOUR),
    "gap before the first": file({"a": entry(offsets=[4, 8])}, FOUR * 2),
    "gap between": file({"a": entry(), "b": entry(offsets=[8, 12])}, FOUR * 3),
    "overlap": file({"a": entry(), "b": entry(offsets=[0, 4])}, FOUR),
    "half overlap": file({"a": entry(), "b": entry(offsets=[2, 6])}, FOUR * 2),
    "bytes behind the last": file({"a": entry()}, FOUR + b"5"),
    "bytes without tensors": file({}, b"1"),
    "size beside the shape": file({"a": entry(shape=[2])}, FOUR),
    "size of another dtype": file({"a": entry("F64")}, FOUR),
    "unknown dtype": file({"a": entry("BF16", [2])}, FOUR),
    "NumPy's name of a dtype": file({"a": entry("float32")}, FOUR),
    "no dtype": file({"a": {"shape": [1], "data_offsets": [0, 4]}}, FOUR),
    "no shape": file({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, FOUR),
    "negative shape": file({"a": entry(shape=[-1, -1])}, FOUR),
    "float shape": file({"a": entry(shape=[1.0])}, FOUR),
    "true shape": file({"a": entry(shape=[True])}, FOUR),
    "text shape": file({"a": entry(shape="1")}, FOUR),
}
HOSTILE = {
    "deep list": file(b"[" * 100_000),
    "deep object": file(b'{"a":' * 100_000),
    "dtype a list": file({"a": entry([])}, FOUR),
    "dtype an object": file({"a": entry({})}, FOUR),
    "65 dimensions": file({"a": entry(shape=[1] * 65)}, FOUR),
    "no elements, one dimension of 2^64": file({"a": entry(shape=[0, 2**64], offsets=[0, 0])}),
    "no elements, too large": file({"a": entry(shape=[0, 2**62, 2**62], offsets=[0, 0])}),
}
FORBIDDEN = {
    "header in UTF-16": file(json.dumps({"a": entry()}).encode("utf-16"), FOUR),
    "header with a byte-order mark": file(
        b"\xef\xbb\xbf" + json.dumps({"a": entry()}).encode(), FOUR
    ),
    "metadata that is NaN": file(b'{"__metadata__":NaN}'),
    "metadata with numbers": file({"__metadata__": {"a": 1}}),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_a_bad_file_is_a_store_error(data: bytes) -> None:
    with pytest.raises(StoreError, match=r"^tensor "):
        decode_tensors(data)


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_file_is_a_store_error(data: bytes) -> None:
    with pytest.raises(StoreError, match=r"^tensor "):
        decode_tensors(data)


@pytest.mark.parametrize("data", FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_what_the_safetensors_package_refuses_we_refuse(data: bytes) -> None:
    with pytest.raises(safetensors.SafetensorError):
        safetensors.numpy.load(data)
    with pytest.raises(StoreError):
        decode_tensors(data)


@pytest.mark.parametrize("cut", range(0, 72, 5))
def test_a_file_that_was_cut_off(cut: int) -> None:
    data = encode({"w": np.zeros(1, np.float32)})
    assert len(data) == 68
    if cut < len(data):
        with pytest.raises(StoreError):
            decode_tensors(data[:cut])


def only_store_error(data: bytes) -> None:
    """Read `data`; what is not a StoreError fails the test."""
    try:
        arrays = decode_tensors(data)
    except StoreError:
        return
    for array in arrays.values():
        array.copy()


@given(st.binary(max_size=200))
@settings(derandomize=True, deadline=None, max_examples=300)
def test_arbitrary_bytes_raise_nothing_but_store_error(data: bytes) -> None:
    only_store_error(data)
    only_store_error(file(data))


@given(MODELS, st.data())
@settings(derandomize=True, deadline=None, max_examples=300)
def test_changed_bytes_raise_nothing_but_store_error(
    arrays: dict[str, np.ndarray], data: Any
) -> None:
    content = bytearray(encode(arrays))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        cut = data.draw(st.integers(0, 3))
        content[at : at + cut] = data.draw(st.binary(max_size=3))
    only_store_error(bytes(content))


@given(
    arrays=MODELS.filter(bool),
    field=st.sampled_from(["dtype", "shape", "data_offsets", "other"]),
    value=JSON,
    pick=st.integers(0, 3),
)
@settings(derandomize=True, deadline=None, max_examples=500)
def test_changed_headers_raise_nothing_but_store_error(
    arrays: dict[str, np.ndarray], field: str, value: Any, pick: int
) -> None:
    content = encode(arrays)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header[list(header)[pick % len(header)]][field] = value
    only_store_error(file(header, content[8 + length :]))


# --- What is written can be read ---------------------------------------------------------------


def test_a_tensor_called_metadata_is_refused() -> None:
    """The format keeps this one name for itself."""
    with pytest.raises((ConfigError, StoreError)):
        encode(Params({"__metadata__": np.zeros(1, np.float32)}))


def test_a_model_of_many_tensors_is_refused_or_can_be_read_again() -> None:
    """12 000 tensors with names of 64 letters: a header of 1.4 MB, which the format allows."""
    arrays = {f"{i:064}": np.zeros(1, np.uint8) for i in range(12_000)}
    blocks = encode_tensors(arrays)
    try:
        head = next(blocks)
    except (ConfigError, StoreError):
        return
    assert len(decode_tensors(b"".join([head, *blocks]))) == 12_000


@pytest.mark.parametrize(
    "header",
    [
        (
            b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},'
            b'"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
        ),
        b'{"\\ud800":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}',
        b'{"__metadata__":{"a":"\\udc00"}}',
        b'{"__metadata__":{},"__metadata__":{}}',
        b'{"a":{"dtype":"F32","dtype":"F32","shape":[0],"data_offsets":[0,0]}}',
    ],
)
def test_repeated_keys_and_broken_text_are_refused(header):
    with pytest.raises(StoreError, match="not JSON"):
        decode_tensors(len(header).to_bytes(8, "little") + header)
