"""IDX files: the images and labels of MNIST and its relatives, plain or compressed with gzip.

Layout (http://yann.lecun.com/exdb/mnist/): two zero bytes, a type code, the number of dimensions,
each dimension as a big-endian 32-bit integer, then the values, big-endian, last index fastest.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, Final, cast

import numpy as np

from choral.core.errors import DataError
from choral.core.params import Array

TYPES: Final = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
"""Type code to NumPy type."""

MAX_DIMENSIONS: Final = 8

_BLOCK: Final = 1 << 20
_DEFLATE_RATIO: Final = 1032
"""Bytes that one compressed byte can stand for at most (https://zlib.net/zlib_tech.html)."""


def read_idx(path: str | Path, *, dimensions: int | None = None) -> Array:
    """Return the array in an IDX file.

    Args:
        path: The file; compressed with gzip where its name ends in `.gz`.
        dimensions: How many the array must have; None for any.

    Returns:
        An array of the file's shape and type in the machine's byte order.

    Raises:
        DataError: No such file, not an IDX file, another number of dimensions, or more or fewer
            bytes than its header says. The header is held against the size of the file before
            anything is allocated, and memory grows only with bytes that are really there.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if path.name.endswith(".gz"):
            with gzip.open(path) as file:
                return _read(cast(BinaryIO, file), path, dimensions, size * _DEFLATE_RATIO)
        with path.open("rb") as file:
            return _read(file, path, dimensions, size)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def read_images(path: str | Path) -> Array:
    """Return the images in an IDX file: uint8, shape `[n, rows, columns]`, 0 to 255.

    Raises:
        DataError: As `read_idx`, or the values are not bytes.
    """
    return _bytes(read_idx(path, dimensions=3), path)


def read_labels(path: str | Path) -> Array:
    """Return the labels in an IDX file: uint8, shape `[n]`.

    Raises:
        DataError: As `read_idx`, or the values are not bytes.
    """
    return _bytes(read_idx(path, dimensions=1), path)


def _bytes(array: Array, path: str | Path) -> Array:
    """Return an array of bytes unchanged."""
    if array.dtype != np.uint8:
        raise DataError(f"{path}: values of type {array.dtype}, expected bytes")
    return array


def _read(file: BinaryIO, path: Path, dimensions: int | None, limit: int) -> Array:
    """Return the array; `limit` is the most bytes that the file can hold, header included."""
    dtype, shape, header = _header(file, path)
    if dimensions is not None and len(shape) != dimensions:
        raise DataError(f"{path}: {len(shape)} dimensions, expected {dimensions}")
    size = math.prod(shape) * dtype.itemsize
    if size + header > limit:
        raise DataError(
            f"{path}: its header says {_words(shape)}, {size} bytes, and the file has room for "
            f"{max(0, limit - header)}"
        )
    body = bytearray()
    while len(body) <= size:
        block = file.read(min(_BLOCK, size + 1 - len(body)))
        if not block:
            break
        body += block
    if len(body) != size:
        found = f"only {len(body)}" if len(body) < size else "more"
        raise DataError(f"{path}: its header says {_words(shape)}, {size} bytes; there are {found}")
    array = np.frombuffer(body, dtype).reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)


def _header(file: BinaryIO, path: Path) -> tuple[np.dtype[np.generic], tuple[int, ...], int]:
    """Return the type, the shape and the length of the header."""
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES:
        raise DataError(f"{path}: starts with {magic.hex() or 'nothing'}, not an IDX file")
    count = magic[3]
    if not 1 <= count <= MAX_DIMENSIONS:
        raise DataError(f"{path}: {count} dimensions, expected 1 to {MAX_DIMENSIONS}")
    raw = file.read(4 * count)
    if len(raw) < 4 * count:
        raise DataError(f"{path}: ends within its header")
    return np.dtype(TYPES[magic[2]]), struct.unpack(f">{count}I", raw), 4 + 4 * count


def _words(shape: tuple[int, ...]) -> str:
    """Return a shape as a message shows it."""
    return " x ".join(map(str, shape))
