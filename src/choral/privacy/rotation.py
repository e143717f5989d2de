r"""A random rotation that everyone in a round shares: it spreads a vector over all coordinates.

In blocks of at most 2^14 coordinates, x becomes H D x: D random signs, H the Walsh-Hadamard matrix
over the root of its size. Norms and sums are kept; afterwards a block's coordinates are all about
its norm over the root of its size, so that a narrow ring holds them. Source: Kairouz, Liu, Steinke
2021 (arXiv 2102.06387); their rotation spans the whole vector, this one blocks of it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from choral.core.errors import WrongShape
from choral.core.keys import Key

MOST_BITS: Final = 14
"""Logarithm of the largest block."""


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
def _hadamard(size: int) -> npt.NDArray[np.float64]:
    """Return the Walsh-Hadamard matrix of a power of two, over the root of its size."""
    matrix = np.ones((1, 1))
    while matrix.shape[0] < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    matrix /= np.sqrt(size)
    matrix.flags.writeable = False
    return matrix


def _transform(x: npt.NDArray[np.float64], block: int) -> npt.NDArray[np.float64]:
    """Return every block times the Hadamard matrix, as two small matrix products."""
    bits = block.bit_length() - 1
    rows, columns = 2 ** (bits // 2), 2 ** (bits - bits // 2)
    folded = x.reshape(-1, rows, columns)
    turned: npt.NDArray[np.float64] = np.matmul(
        _hadamard(rows), np.matmul(folded, _hadamard(columns))
    )
    return turned.reshape(-1)


def _signs(key: Key, size: int) -> npt.NDArray[np.float64]:
    words = key.bits().random_raw(-(-size // 64)).astype("<u8", copy=False)
    bits = np.unpackbits(words.view(np.uint8), count=size)
    signs: npt.NDArray[np.float64] = 1.0 - 2.0 * bits.astype(np.float64)
    return signs


def rotate(x: npt.NDArray[np.floating[Any]], key: Key) -> npt.NDArray[np.float64]:
    """Return a vector rotated.

    Args:
        x: Shape `[n]`.
        key: What everyone of the round shares. It protects nobody: it is there against overflow.

    Returns:
        float64, shape `[padded(n)]`, of the same norm.
    """
    out = np.zeros(padded(x.size))
    out[: x.size] = x
    out *= _signs(key, out.size)
    return _transform(out, block_of(x.size))


def unrotate(y: npt.NDArray[np.float64], size: int, key: Key) -> npt.NDArray[np.float64]:
    """Return the vector of `size` coordinates that `rotate` made `y` of.

    Raises:
        WrongShape: `y` is not as long as a rotated vector of that size.
    """
    if y.shape != (padded(size),):
        raise WrongShape(f"a rotated vector of {list(y.shape)}, expected [{padded(size)}]")
    out = _transform(y, block_of(size))
    out *= _signs(key, out.size)
    return out[:size]
