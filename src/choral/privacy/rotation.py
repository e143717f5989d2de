r"""A random rotation that everyone in a round shares: it spreads a vector over all coordinates.

In blocks of at most 2^14 coordinates, x becomes H D x: D random signs, H the Walsh-Hadamard matrix
over the root of its size. Norms and sums are kept; afterwards a block's coordinates are all about
its norm over the root of its size, so that a narrow ring holds them. Source: Kairouz, Liu, Steinke
2021 (arXiv 2102.06387); their rotation spans the whole vector, this one blocks of it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from choral.core.errors import WrongShape
from choral.core.keys import Key

Floats: TypeAlias = npt.NDArray[np.floating[Any]]

MOST_BITS: Final = 14
"""Logarithm of the largest block."""

_BLOCK: Final = 1 << 15
"""Coordinates whose signs are turned at once; a multiple of 64."""


def block_of(size: int) -> int:
    """Return the block that vectors of a size are rotated in.

    >>> block_of(5), block_of(1), block_of(10**6)
    (8, 1, 16384)
    """
    return int(2 ** min(MOST_BITS, (size - 1).bit_length())) if size else 1


def padded(size: int) -> int:
    """Return the length of a rotated vector: the next multiple of the block.

    >>> padded(5), padded(20_000)
    (8, 32768)
    """
    block = block_of(size)
    return -(-size // block) * block


@lru_cache(maxsize=16)
def _hadamard(size: int, width: int) -> Floats:
    """Return the Walsh-Hadamard matrix of a power of two, over the root of its size."""
    matrix = np.ones((1, 1))
    while matrix.shape[0] < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    scaled: Floats = (matrix / np.sqrt(size)).astype(np.float64 if width == 8 else np.float32)
    scaled.flags.writeable = False
    return scaled


def _transform(x: Floats, block: int) -> Floats:
    """Return every block times the Hadamard matrix, as two small matrix products."""
    bits = block.bit_length() - 1
    rows, columns = 2 ** (bits // 2), 2 ** (bits - bits // 2)
    width = x.dtype.itemsize
    across = np.matmul(x.reshape(-1, columns), _hadamard(columns, width))
    turned: Floats = np.matmul(_hadamard(rows, width), across.reshape(-1, rows, columns))
    return turned.reshape(-1)


def _turn_signs(x: Floats, key: Key) -> None:
    """Turn the signs of coordinates at random, in place: the first bit of a float is its sign."""
    words = key.bits().random_raw(-(-x.size // 64)).astype("<u8", copy=False)
    wide = x.dtype.itemsize == 8
    raw: npt.NDArray[Any] = x.view(np.uint64 if wide else np.uint32)
    place = 63 if wide else 31
    for at in range(0, x.size, _BLOCK):
        part = raw[at : at + _BLOCK]
        some = words[at // 64 : (at + _BLOCK) // 64].view(np.uint8)
        bits = np.unpackbits(some, count=part.size).astype(raw.dtype)
        bits <<= place
        part ^= bits


def rotate(x: Floats, key: Key) -> Floats:
    """Return a vector rotated.

    Args:
        x: float32 or float64, shape `[n]`.
        key: What everyone of the round shares. It protects nobody: it is there against overflow.

    Returns:
        Of the dtype of `x`, shape `[padded(n)]`, of the same norm.
    """
    out = np.zeros(padded(x.size), x.dtype)
    out[: x.size] = x
    _turn_signs(out, key)
    return _transform(out, block_of(x.size))


def unrotate(y: Floats, size: int, key: Key) -> Floats:
    """Return the vector of `size` coordinates that `rotate` made `y` of.

    Raises:
        WrongShape: `y` is not as long as a rotated vector of that size.
    """
    if y.shape != (padded(size),):
        raise WrongShape(f"a rotated vector of {list(y.shape)}, expected [{padded(size)}]")
    out = _transform(y, block_of(size))
    _turn_signs(out, key)
    return out[:size]
