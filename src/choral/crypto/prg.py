"""Masks: streams of ring elements from a key, added in place, from any element on.

A stream cipher's key stream, read as little-endian elements of `Ring.width` bytes, is the mask.
Both generators are counter ciphers with a zero nonce: a key makes one mask and nothing else.
Sources: NIST SP 800-38A (CTR), RFC 8439 (ChaCha20, 32-bit counter: 256 GiB of stream).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, Literal

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from choral.core.errors import ConfigError
from choral.crypto.ring import OVERREAD, Bytes, Ring, RingVector
from choral.crypto.secret import Secret, Uncopied

BUFFER_SIZE: Final = 256 << 10
"""Bytes of key stream at a time: the buffer, the zeros and the vector's part stay in the cache."""

_SLACK: Final = 15 + OVERREAD
"""`update_into` of older versions wants a block less one to spare; `Ring.view` reads beyond."""

_ZEROS: Final = bytes(BUFFER_SIZE)


class Generator(IntEnum):
    """Which cipher makes a mask; the number stands in the signed context."""

    AES_256_CTR = 1
    CHACHA20 = 2


@dataclass(frozen=True, slots=True)
class _Cipher:
    """How a generator is opened.

    Attributes:
        block_size: Bytes of key stream for one step of the counter.
        counter_bits: The stream ends when the counter does.
        start: Block number to the 16 bytes of counter and nonce.
        open: Key and those 16 bytes to a cipher.
    """

    block_size: int
    counter_bits: int
    start: Callable[[int], bytes]
    open: Callable[[memoryview, bytes], Cipher[Any]]


_CIPHERS: Final = {
    Generator.AES_256_CTR: _Cipher(
        block_size=16,
        counter_bits=128,
        start=lambda block: block.to_bytes(16, "big"),
        open=lambda key, start: Cipher(algorithms.AES256(key), modes.CTR(start)),
    ),
    Generator.CHACHA20: _Cipher(
        block_size=64,
        counter_bits=32,
        start=lambda block: block.to_bytes(4, "little") + bytes(12),
        open=lambda key, start: Cipher(algorithms.ChaCha20(key, start), mode=None),
    ),
}


class Mask(Uncopied):
    """The mask of one key.

    Guarantees: element i is the same in whatever chunks and order the mask is added; adding and
    subtracting it leaves the vector as it was. Beyond the cipher's state it holds no memory
    between calls, and one buffer of 256 KiB during a call. Not for two threads at once.

    Args:
        generator: The cipher.
        key: The key, for this mask alone; `erase` erases it.
        ring: The ring of the vectors.
    """

    __slots__ = ("_cipher", "_context", "_key", "_position", "ring")

    def __init__(self, generator: Generator, key: Secret, *, ring: Ring) -> None:
        self.ring = ring
        self._cipher = _CIPHERS[generator]
        self._key = key
        self._context: CipherContext | None = None
        self._position: int | None = None

    def add_into(self, vector: RingVector, *, start: int, sign: Literal[1, -1]) -> None:
        """Add the mask to a chunk of a vector, or subtract it, in place.

        Args:
            vector: The chunk, of the ring; any length.
            start: Place of the chunk's first element in the whole vector.
            sign: 1 adds, -1 subtracts.

        Raises:
            WrongShape: The chunk is not a vector of the ring.
            ConfigError: `sign` is neither, or the chunk is outside the generator's stream.
            Refused: The mask was erased.
        """
        self.ring.check(vector)
        if sign not in (1, -1):
            raise ConfigError(f"sign {sign}: expected 1 or -1")
        apply = self.ring.add if sign == 1 else self.ring.subtract
        begin, size = start * self.ring.width, vector.size * self.ring.width
        context = self._at(begin, size)
        step = BUFFER_SIZE // vector.itemsize
        buffer: Bytes = np.empty(min(step * self.ring.width, size) + _SLACK, np.uint8)
        zeros = memoryview(_ZEROS)
        try:
            for first in range(0, vector.size, step):
                part = vector[first : first + step]
                context.update_into(zeros[: part.size * self.ring.width], buffer.data)
                apply(part, self.ring.view(buffer, part.size))
        finally:
            buffer.fill(0)
        self._position = begin + size

    def _at(self, begin: int, size: int) -> CipherContext:
        """Return the cipher with `begin` bytes of its stream behind it."""
        block, skip = divmod(begin, self._cipher.block_size)
        if begin < 0 or begin + size > self._cipher.block_size << self._cipher.counter_bits:
            raise ConfigError("a chunk is outside the generator's stream")
        if self._key.erased:
            self._context = None
        if self._context is not None and self._position == begin:
            self._position = None  # unknown should this call be cut short
            return self._context
        self._position = None
        counter = self._cipher.start(block)
        if self._context is None:
            self._context = self._cipher.open(self._key.expose(), counter).encryptor()
        else:
            self._context.reset_nonce(counter)
        self._context.update(_ZEROS[:skip])
        return self._context

    def erase(self) -> None:
        """Erase the key and let go of the cipher."""
        self._key.erase()
        self._context = None

    def __repr__(self) -> str:
        return f"Mask(…, ring={self.ring})"
