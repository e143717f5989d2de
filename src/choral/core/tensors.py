"""The safetensors layout: how tensors rest on disk and travel.

Eight bytes with the length of a JSON header, the header, then the raw little-endian buffers without
gaps. Written here rather than taken from a library so that writing makes no copy and reading checks
every number before it trusts it. The `safetensors` package reads these files, and they its files.
Format: https://github.com/huggingface/safetensors (header of at most 1 MiB here).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from choral.core.errors import ConfigError, StoreError

DTYPES: dict[str, str] = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}
"""NumPy name to safetensors name of every dtype that may be stored or sent."""

_FROM_FILE = {code: name for name, code in DTYPES.items()}
MAX_HEADER_BYTES = 1 << 20
_MAX_NDIM = 32


def encode_tensors(arrays: Mapping[str, npt.NDArray[Any]]) -> Iterator[memoryview]:
    r"""Yield the blocks of a safetensors file: the header, then each buffer without copying it.

    >>> import numpy as np
    >>> b"".join(encode_tensors({"w": np.zeros(1, np.float32)}))[8:]
    b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}  \x00\x00\x00\x00'
    """
    header: dict[str, Any] = {}
    buffers = []
    at = 0
    for name, array in arrays.items():
        shape = list(array.shape)
        raw = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
        header[name] = {
            "dtype": DTYPES[array.dtype.name],
            "shape": shape,
            "data_offsets": [at, at + raw.nbytes],
        }
        at += raw.nbytes
        buffers.append(raw)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise StoreError(
            f"header of {len(text)} bytes for {len(header)} tensors, expected at most "
            f"{MAX_HEADER_BYTES}"
        )
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for raw in buffers:
        yield raw.reshape(-1).view(np.uint8).data


def decode_tensors(data: bytes | memoryview) -> dict[str, npt.NDArray[Any]]:
    """Read a safetensors file into read-only arrays over `data`, without copying.

    Raises:
        StoreError: Anything about the bytes is not as the format says: sizes, offsets with gaps or
            overlaps, an unknown dtype, trailing bytes.
    """
    view = memoryview(data).cast("B").toreadonly()
    if len(view) < 8:
        raise StoreError(f"tensor file of {len(view)} bytes: too short for a header")
    length = int.from_bytes(view[:8], "little")
    if length > MAX_HEADER_BYTES or 8 + length > len(view):
        raise StoreError(f"tensor file with a header of {length} bytes in {len(view)} bytes")
    try:
        header = json.loads(
            str(view[8 : 8 + length], "utf-8"),
            parse_constant=_no_constant,
            object_pairs_hook=_no_repeats,
        )
    except (ValueError, RecursionError) as error:
        raise StoreError(f"tensor file whose header is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise StoreError("tensor file whose header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(type(v) is str for v in metadata.values()):
        raise StoreError("tensor file whose metadata is not an object of strings")
    body = view[8 + length :]
    arrays: dict[str, npt.NDArray[Any]] = {}
    at = 0
    for name, entry in sorted(header.items(), key=lambda item: _offsets(item[0], item[1])):
        start, end = _offsets(name, entry)
        dtype, shape = _dtype_and_shape(name, entry)
        if start != at or end - start != dtype.itemsize * math.prod(shape) or end > len(body):
            raise StoreError(f"tensor `{name}`: offsets [{start}, {end}] do not fit its shape")
        try:
            arrays[name] = np.frombuffer(body[start:end], dtype).reshape(shape)
        except ValueError as error:  # no elements, and a dimension beyond NumPy's own limit
            raise StoreError(f"tensor `{name}`: {error}") from None
        at = end
    if at != len(body):
        raise StoreError(f"tensor file with {len(body) - at} bytes behind its last tensor")
    return {name: arrays[name] for name in header}


def check_name(name: str) -> None:
    """Raise `ConfigError` for a tensor name that no file can hold."""
    if name == "__metadata__":
        raise ConfigError("tensor `__metadata__`: the file format keeps this name for itself")
    if not name.isascii() and any("\ud800" <= letter <= "\udfff" for letter in name):
        raise ConfigError(f"tensor {name!r}: the name is not Unicode text")


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; refuse keys that come twice or that are not Unicode text."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    for key, value in pairs:
        for text in (key, value) if isinstance(value, str) else (key,):
            text.encode()
    return found


def _offsets(name: str, entry: Any) -> tuple[int, int]:
    """Return the checked offsets of a header entry."""
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(type(v) is int for v in offsets)
        or not 0 <= offsets[0] <= offsets[1]
    ):
        raise StoreError(f"tensor `{name}`: bad data_offsets {offsets!r}")
    return offsets[0], offsets[1]


def _dtype_and_shape(name: str, entry: Any) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Return the checked dtype and shape of a header entry."""
    code, shape = entry.get("dtype"), entry.get("shape")
    if not isinstance(code, str) or code not in _FROM_FILE:
        raise StoreError(f"tensor `{name}`: dtype {code!r} is not allowed")
    if (
        not isinstance(shape, list)
        or len(shape) > _MAX_NDIM
        or not all(type(v) is int and v >= 0 for v in shape)
    ):
        raise StoreError(f"tensor `{name}`: bad shape {shape!r}")
    return np.dtype(_FROM_FILE[code]).newbyteorder("<"), tuple(shape)
