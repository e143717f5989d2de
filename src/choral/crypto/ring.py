"""The ring Z_{2^m}: vectors of unsigned integers that wrap around.

| m | held as | on the wire |
|---|---|---|
| 16 | uint16 | 2 bytes |
| 24 | uint32, always below 2^24 | 3 bytes |
| 32 | uint32 | 4 bytes |
| 64 | uint64 | 8 bytes |

All little endian.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from choral.core.errors import ConfigError, OutOfRange, WrongShape

RingVector: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]
"""One-dimensional, of the ring's dtype, every element below 2^m."""

Bytes: TypeAlias = npt.NDArray[np.uint8]

_DTYPES: Final[dict[int, np.dtype[Any]]] = {
    16: np.dtype("<u2"),
    24: np.dtype("<u4"),
    32: np.dtype("<u4"),
    64: np.dtype("<u8"),
}
_PADDED: Final = 24
"""The one modulus whose elements are held wider than they travel."""
_MASK: Final = np.uint32(2**24 - 1)

OVERREAD: Final = 1
"""Bytes after the elements that `Ring.view` may read."""


@dataclass(frozen=True, slots=True)
class Ring:
    """Integers modulo 2^bits.

    Args:
        bits: m: 16, 24, 32 or 64.

    Raises:
        ConfigError: Another modulus.

    >>> ring = Ring(16)
    >>> total = ring.zeros(2)
    >>> ring.subtract(total, np.array([1, 2], np.uint16))
    >>> ring.centred(total)
    array([-1, -2])
    """

    bits: int

    def __post_init__(self) -> None:
        if self.bits not in _DTYPES:
            raise ConfigError(f"modulus of {self.bits} bits: expected 16, 24, 32 or 64")

    @property
    def width(self) -> int:
        """Bytes of an element on the wire."""
        return self.bits // 8

    @property
    def dtype(self) -> np.dtype[Any]:
        """How an element is held."""
        return _DTYPES[self.bits]

    @property
    def signed(self) -> np.dtype[Any]:
        """The signed dtype of the same size."""
        return np.dtype(f"<i{self.dtype.itemsize}")

    def zeros(self, size: int) -> RingVector:
        """Return a new vector of zeros."""
        return np.zeros(size, self.dtype)

    def check(self, vector: RingVector) -> None:
        """Refuse an array that cannot be a vector of this ring.

        Raises:
            WrongShape: Not one-dimensional, or of another dtype.
        """
        if vector.ndim != 1 or vector.dtype != self.dtype:
            raise WrongShape(
                f"ring vector {vector.dtype}{list(vector.shape)}, "
                f"expected {self.dtype} of one dimension for modulus 2^{self.bits}"
            )

    def add(self, into: RingVector, other: RingVector) -> None:
        """Add `other` to `into` in place, wrapping around."""
        np.add(into, other, out=into)
        self.reduce(into)

    def subtract(self, into: RingVector, other: RingVector) -> None:
        """Subtract `other` from `into` in place, wrapping around."""
        np.subtract(into, other, out=into)
        self.reduce(into)

    def reduce(self, vector: RingVector) -> None:
        """Bring elements below 2^m in place; nothing to do where the dtype wraps by itself."""
        if self.bits == _PADDED:
            np.bitwise_and(vector, _MASK, out=vector)

    def view(self, raw: Bytes, count: int) -> RingVector:
        """Return the first `count` elements of packed bytes without a copy, to be added.

        At m = 24 an element is read with the byte after it, which `add` and `subtract` drop: `raw`
        needs `OVERREAD` bytes more than the elements have.
        """
        if self.bits == _PADDED:
            return np.ndarray((count,), self.dtype, buffer=raw, strides=(self.width,))
        return raw[: count * self.width].view(self.dtype)

    def pack(self, vector: RingVector) -> memoryview:
        """Return a vector as `width` bytes an element; without a copy but at m = 24.

        Raises:
            WrongShape: `check` refuses it.
            OutOfRange: An element is not below 2^24.
        """
        self.check(vector)
        if self.bits != _PADDED:
            return np.ascontiguousarray(vector).view(np.uint8).data
        high = vector >> 16
        if high.max(initial=0) > 0xFF:
            raise OutOfRange("an element of the vector is not below 2^24")
        out = np.empty(vector.size * self.width, np.uint8)
        if vector.size:
            np.ndarray(vector.shape, "<u2", buffer=out, strides=(self.width,))[...] = vector
        out[2 :: self.width] = high
        return out.data

    def unpack(self, raw: bytes | bytearray | memoryview) -> RingVector:
        """Return the vector that `pack` packed; a view of `raw` but at m = 24.

        Raises:
            WrongShape: The length is not a multiple of `width`.
        """
        data = np.frombuffer(raw, np.uint8)
        if data.size % self.width:
            raise WrongShape(f"{data.size} bytes, expected a multiple of {self.width}")
        if self.bits != _PADDED:
            return data.view(self.dtype)
        out = data[2 :: self.width].astype(self.dtype)
        out <<= 16
        if out.size:
            out |= np.ndarray(out.shape, "<u2", buffer=data, strides=(self.width,))
        return out

    def centred(self, vector: RingVector) -> npt.NDArray[np.int64]:
        """Return the representatives in -2^(m-1) to 2^(m-1) - 1.

        Raises:
            WrongShape: `check` refuses it.
        """
        self.check(vector)
        if self.bits == _PADDED:
            return ((vector << 8).view(self.signed) >> 8).astype(np.int64)
        return vector.view(self.signed).astype(np.int64)
